"""Writes the generated files below `monitoring/`, or says which differ.   Usage: python -m holdfast_monitoring [--check]"""

import sys
from pathlib import Path

from holdfast_common.errors import ConfigError

from holdfast_monitoring.files import generated

FOLDER = Path(__file__).parent.parent


def main(arguments: list[str]) -> int:
    """Write or compare. Returns 1 where a file differs, 2 where the source is faulty or an argument unknown."""
    if arguments not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    try:
        files = generated(FOLDER)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    if not arguments:
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return 0
    wrong = [str(path.relative_to(FOLDER.parent)) for path, text in files.items() if not path.is_file() or path.read_text() != text]
    if wrong:
        print(f"monitoring: not what monitoring/source generates: {', '.join(wrong)}; run scripts/monitoring and commit", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
