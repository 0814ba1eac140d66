"""Named points at which a test may stop the process, to show that what is left behind can be used."""

from collections.abc import Callable

hook: Callable[[str], None] | None = None
"""Called with the point's name where a test has set it; None in production."""


def point(name: str) -> None:
    """Pass the fault point `name`: nothing happens unless a test has set `hook`."""
    if hook is not None:
        hook(name)
