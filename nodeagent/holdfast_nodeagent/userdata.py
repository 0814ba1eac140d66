"""What a launch tells its instance: `{"holdfast": {"v": 1, "cluster": …, "launch_id": …, "launch_token": …}}`.

The user data is either that JSON alone, or anything (a cloud-init document, a script) with one line `#holdfast {…}` that holds it. The same
text serves EC2 (user data), Google (the metadata item `user-data`) and Azure (`userData`, which its metadata service tells in base64).
"""

import base64
import binascii
import json
import re
from dataclasses import dataclass

MAX_USER_DATA_BYTES = 524_288
"""Google allows 256 KiB for an item, Azure 64 KiB and EC2 16 KiB."""
_LINE = re.compile(rb"^#holdfast[ \t]+(\{.*\})[ \t]*\r?$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class UserData:
    """The launch that this instance came from; empty words where it does not say."""

    cluster: str = ""
    launch_id: str = ""
    launch_token: str = ""


def parse_user_data(body: bytes) -> UserData:
    """Return the launch's words. An instance without them (started by hand) gets empty ones: the controller then decides by instance id."""
    text = body.strip()
    match = _LINE.search(text)
    try:
        content = json.loads(match[1] if match else text)
    except (ValueError, RecursionError):
        return UserData()
    part = content.get("holdfast") if isinstance(content, dict) else None
    if not isinstance(part, dict) or part.get("v") != 1:
        return UserData()
    return UserData(_word(part.get("cluster")), _word(part.get("launch_id")), _word(part.get("launch_token")))


def parse_base64_user_data(text: str) -> UserData:
    """Return the launch's words from user data in base64; text that is no base64 has none."""
    try:
        return parse_user_data(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        return UserData()


def _word(value: object) -> str:
    return value if isinstance(value, str) and len(value) <= 256 else ""
