"""AWS ParallelCluster's node package in a virtual environment of its own: no dependency of ours, and none of ours can trouble it."""

import subprocess
import sys
import venv
from importlib.metadata import version
from pathlib import Path

VERSION = "3.15.1"
"""The newest that sets no InstanceId on a node, which Slurm before 23.11 refuses (3.16.0 and later do)."""
FOLDER = Path("bench-out") / "peers" / f"parallelcluster-{VERSION}"


def python() -> Path:
    """Return the environment's interpreter. Raises FileNotFoundError where nothing has been installed."""
    found = (FOLDER / "bin" / "python").absolute()
    if not found.exists():
        raise FileNotFoundError(f"{found}: run bench/launch where pip reaches a package index, or with --no-peer")
    return found


def main() -> int:
    """Install it, if it is not there yet; return the exit code."""
    if (FOLDER / "bin" / "python").exists():
        return 0
    print(f"installing aws-parallelcluster-node {VERSION} into {FOLDER}", file=sys.stderr)
    partial = FOLDER.with_name(f"{FOLDER.name}.new")
    venv.create(partial, clear=True, with_pip=True)
    # The same boto3 as ours: what differs is not to be the library.
    wanted = [f"aws-parallelcluster-node=={VERSION}", f"boto3=={version('boto3')}", f"botocore=={version('botocore')}"]
    pip = [str(partial / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted]
    done = subprocess.run(pip, check=False).returncode
    if done == 0:
        partial.rename(FOLDER)
    return done


if __name__ == "__main__":
    sys.exit(main())
