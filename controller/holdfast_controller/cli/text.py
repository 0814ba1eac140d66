"""Words and figures for people. Pure, but for the time zone."""

import re
from datetime import datetime

_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def age(seconds: float) -> str:
    """Return a duration with its two largest units: `5s`, `2m 5s`, `3h 4m`, `2d 3h`."""
    left = max(0, int(seconds))
    if left < 60:
        return f"{left}s"
    if left < 3600:
        return f"{left // 60}m {left % 60}s"
    if left < 86400:
        return f"{left // 3600}h {left % 3600 // 60}m"
    return f"{left // 86400}d {left % 86400 // 3600}h"


def clock_time(at: float, now: float) -> str:
    """Return the local time of day; with the date where that is not today's."""
    then, today = datetime.fromtimestamp(at), datetime.fromtimestamp(now)
    return then.strftime("%H:%M:%S" if then.date() == today.date() else "%Y-%m-%d %H:%M:%S")


def moment(at: float, now: float) -> str:
    """Return local time and age: `14:03:22 (2m 5s)`; for what is to come `14:03:22 (in 2m 5s)`; nothing for 0, which is unknown."""
    if not at:
        return ""
    return f"{clock_time(at, now)} ({'in ' if at > now else ''}{age(abs(now - at))})"


def clean(text: str) -> str:
    """Return the text without what a terminal would obey: a job or a cloud may have written part of it."""
    return "".join(char if char.isprintable() else "?" for char in text)


def words(kind: str) -> str:
    """Return an event's or a command's name in words: `RequeueJob` → `requeue job`."""
    return _WORDS.sub(" ", kind).lower()
