"""Jobs of other kinds than training ones: shell scripts, that say of each attempt when and where it began."""

from collections.abc import Iterator
from contextlib import contextmanager

from e2e_bed import Bed, TrainingJob

WHOLE_NODE = "-c4"
USR1 = "signal=B:USR1"
SCRIPT = """\
#!/bin/bash
#SBATCH --requeue --comment="holdfast: {comment}"
here={directory}
attempt=${{SLURM_RESTART_COUNT:-0}}
trap '{on_signal}' USR1
echo "$(date +%s.%N) $attempt $SLURMD_NODENAME" >>$here/ck/starts.txt
[ $attempt -eq 0 ] || exit 0
{body}
"""
FOR_EVER = "while :; do sleep 0.2; done"


def submit(bed: Bed, *options: str, comment: str = "", on_signal: str = ":", body: str = FOR_EVER) -> TrainingJob:
    """Submit a job whose first attempt runs `body`, and whose later ones end well at once. `comment` holds its directives."""
    directory = bed.directory()
    (directory / "ck").mkdir()
    (directory / "ck").chmod(0o777)
    script = directory / "job.sh"
    script.write_text(SCRIPT.format(directory=directory, on_signal=on_signal, body=body, comment=comment))
    return bed.submit(directory, script, *(options or (WHOLE_NODE,)))


def began(job: TrainingJob) -> bool:
    """Whether its first attempt has begun."""
    return (job.directory / "ck" / "starts.txt").exists()


def attempts(job: TrainingJob) -> list[int]:
    """The attempts that have begun."""
    return [attempt for attempt, _ in job.starts()]


@contextmanager
def hook_first(bed: Bed, hook: str, line: str) -> Iterator[None]:
    """Have a hook run this line of shell before it begins."""
    path = bed.sandbox.layout.hooks / hook
    text = path.read_text()
    own = path.with_name(f"{hook}.own")
    own.write_text(text)
    own.chmod(0o755)
    try:
        path.write_text(f'#!/bin/sh\n{line}\nexec {own} "$@"\n')
        yield
    finally:
        path.write_text(text)
