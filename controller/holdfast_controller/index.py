"""Which jobs are on which node: node name → job ids. The fleet keeps it with each event; a snapshot leaves it out, and it is built anew."""

from collections.abc import Iterable, Mapping

from holdfast_common.views import JobView

from holdfast_controller.records import JobRecord

JobIds = dict[str, set[int]]
NO_JOBS: frozenset[int] = frozenset()


def add(index: JobIds, nodes: Iterable[str], job_id: int) -> None:
    """Note the job on the nodes."""
    for name in nodes:
        index.setdefault(name, set()).add(job_id)


def remove(index: JobIds, nodes: Iterable[str], job_id: int) -> None:
    """Forget the job on the nodes, where it was noted. A node without jobs has no entry."""
    for name in nodes:
        ids = index.get(name)
        if ids is not None:
            ids.discard(job_id)
            if not ids:
                del index[name]


def held_by(view: JobView) -> tuple[str, ...]:
    """Return the nodes that Slurm has the job on."""
    return view.nodes if view.active else ()


def build(jobs: Mapping[int, JobRecord]) -> tuple[JobIds, JobIds]:
    """Return both indexes of the jobs: where Slurm has them, and where agents see their processes."""
    held: JobIds = {}
    seen: JobIds = {}
    for job_id, job in jobs.items():
        add(held, held_by(job.view), job_id)
        add(seen, job.present, job_id)
    return held, seen
