"""The recorded spot markets that come along (traces/README.md says whose they are), by short names."""

from pathlib import Path

_FOLDER = Path(__file__).parent / "traces"
RECORDINGS = {
    "v100": _FOLDER / "v100_aws_9zones_195s.json",
    "h100": _FOLDER / "h100_gcp_13zones_600s.json",
}


def recording(text: str) -> Path:
    """Return the file that a name or a path means; whether it is there is for others to see."""
    return RECORDINGS.get(text, Path(text))
