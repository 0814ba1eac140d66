"""The word that Slurm's HealthCheckProgram passes on: `<run_dir>/health`, two lines.

`ok UNTIL` or `sick UNTIL` (Unix seconds, after which it says nothing any more), then the reason, printable and at most 200 characters.
"""

import logging
from pathlib import Path

from holdfast_common.files import replace_file
from holdfast_common.health.model import Action, Finding, worst

VALID_S = 60
RENEW_S = 15.0
MAX_REASON = 200

log = logging.getLogger(__name__)


def verdict(findings: tuple[Finding, ...], now: float) -> bytes:
    """Return the file's content: sick where a rule asks for more than a note, and is no dry run."""
    gravest = worst(findings)
    sick = gravest is not None and gravest.action is not Action.NOTE
    reason = f"{gravest.rule}: {gravest.text}" if gravest is not None and sick else ""
    return f"{'sick' if sick else 'ok'} {int(now) + VALID_S}\n{printable(reason)}\n".encode()


def printable(text: str) -> str:
    """Return a text as one line that no terminal and no scontrol stumbles over."""
    return "".join(character if " " <= character <= "~" else "?" for character in text)[:MAX_REASON]


class VerdictFile:
    """Written when the verdict changes, and renewed before it is stale."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / "health"
        self._fault = ""

    def write(self, findings: tuple[Finding, ...], now: float) -> None:
        """Replace it; a disk that takes nothing is logged once: the old word goes stale by itself."""
        fault = ""
        try:
            replace_file(self._path, verdict(findings, now), 0o644, "agent.verdict", durable=False)
        except OSError as error:
            fault = error.strerror or str(error)
        if fault and fault != self._fault:
            log.error("%s cannot be written: %s", self._path, fault)
        self._fault = fault
