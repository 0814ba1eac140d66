"""Jobs of other kinds than training ones: shell scripts, that say of each attempt when and where it began."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from e2e_bed import Bed, TrainingJob

WHOLE_NODE = "-c4"
USR1 = "signal=B:USR1"
ENDED = frozenset({"COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL"})
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


Story = Iterator[tuple[str, Callable[[], object]]]
"""Something that happens in a bed: yields what it waits for, in words and as a condition."""


def side_by_side(*stories: Story, timeout_s: float = 60.0) -> None:
    """Run stories at the same time, each on nodes of its own. None may wait longer than `timeout_s` for one thing."""
    waits = {story: (*next(story), time.monotonic() + timeout_s) for story in stories}
    while waits:
        for story, (what, condition, end) in list(waits.items()):
            if condition():
                try:
                    waits[story] = (*next(story), time.monotonic() + timeout_s)
                except StopIteration:
                    del waits[story]
            else:
                assert time.monotonic() < end, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.05)


def once(what: str, condition: Callable[[], object]) -> Story:
    """A story of one wait."""
    yield what, condition


def passed(duration_s: float) -> Callable[[], bool]:
    """A condition that holds once so much time is over: for what must not happen meanwhile."""
    end = time.monotonic() + duration_s
    return lambda: time.monotonic() >= end


def ended(bed: Bed, *jobs: int | str) -> Callable[[], bool]:
    """A condition: each job has come to an end."""
    return lambda: all(bed.slurm.job(job).get("JobState") in ENDED for job in jobs)
