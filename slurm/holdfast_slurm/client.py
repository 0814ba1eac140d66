"""What Holdfast needs of Slurm, as a protocol. Implementations: `scontrol.ScontrolClient` (text commands, every version),
`fake.FakeSlurm` (in memory, ships for tests and the simulator). One contract suite runs over both.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from holdfast_common.views import JobView, NodeView

__all__ = ["JobView", "NodeView", "Slurm"]


class Slurm(Protocol):
    """A slurmctld. Every method raises `SlurmUnavailable` when there was no answer and `SlurmRefused` when the answer was no.

    Listings are whole or raise: a partial answer is never returned. Node lists are given as plain names and folded into ranges for
    the call.
    """

    def together(self) -> AbstractAsyncContextManager[None]:
        """Let what one task runs within it follow without waiting in between, however many others wait for their turn.

        For a look and the deed that is judged by it: in a mass reclaim a requeue would otherwise stand in line behind everybody's looks,
        and hit the attempt after, which is well. The commands of one `together` run one after another.
        """

    async def ping(self) -> bool:
        """Return whether slurmctld answers."""

    async def version(self) -> tuple[int, int]:
        """Return the running slurmctld's release, such as (22, 5)."""

    async def reconfigure(self) -> None:
        """Have every daemon read slurm.conf again.

        From 23.02 on slurmctld kills a PrologSlurmctld that waits; 26.05 takes that for success and never launches the job (measured).
        """

    async def nodes(self, names: Sequence[str] | None = None) -> tuple[NodeView, ...]:
        """Return all nodes, or those named; a node that Slurm hides (22.05 without PrivateData=cloud) is simply not there."""

    async def jobs(self, node: str = "") -> tuple[JobView, ...]:
        """Return every job that slurmctld still remembers (MinJobAge, 300 s, after its end), or those that have the node."""

    async def job(self, key: str) -> JobView | None:
        """Return one job, or None where slurmctld says that there is no such job."""

    async def drain(self, names: Sequence[str], reason: str) -> None:
        """Let no new job start on the nodes. `reason` must start with `holdfast:`."""

    async def resume(self, names: Sequence[str]) -> None:
        """Undo a drain or a DOWN. The caller makes sure that the reason is ours, and that the node is not POWERING_DOWN."""

    async def down(self, names: Sequence[str], reason: str) -> None:
        """Set DOWN: jobs on the nodes are requeued or ended."""

    async def power_down(self, names: Sequence[str], reason: str) -> None:
        """POWER_DOWN_FORCE: give the nodes up now. Slurm forgets processes that still run there."""

    async def power_up(self, names: Sequence[str]) -> None:
        """POWER_UP: ask Slurm to resume the nodes without a job."""

    async def set_addresses(self, addresses: Mapping[str, str]) -> None:
        """Tell slurmctld where each node is reached (name → IP address or host name)."""

    async def requeue(self, key: str, *, ended: bool = False) -> None:
        """`scontrol requeue incomplete`: requeue, unless the job has completed. With `ended` a plain requeue, which reruns it even then."""

    async def start_after(self, key: str, delay_s: int) -> None:
        """`StartTime=now+N` (0: `now`). Only sensible while the job is `pending`: Slurm overwrites it before."""

    async def update_job(self, key: str, *, admin_comment: str | None = None, nice: int | None = None, priority: int | None = None) -> None:
        """Set what is not None. A numeric priority stays until `release`."""

    async def hold(self, key: str) -> None:
        """Hold a pending job."""

    async def release(self, key: str) -> None:
        """Release a held job and give its priority back to Slurm."""

    async def reserve(self, name: str, nodes: Sequence[str], user: str) -> None:
        """Keep the nodes, whoever runs on them now, for the user's jobs that use the reservation; one of that name gets these nodes.

        Such a job goes to the head of the queue, and may use other nodes as well (FLEX). Refused where another reservation has a node.
        A reservation that no job uses any more ends by itself after five minutes.
        """

    async def use_reservation(self, key: str, name: str) -> None:
        """Let a job that waits or runs use the reservation; empty: none. A requeue leaves it as it is."""

    async def unreserve(self, name: str) -> None:
        """End the reservation, if there is one. Refused while a job that waits or runs uses it."""

    async def signal(self, key: str, signal: str, *, batch: bool = False) -> None:
        """`scancel --signal`: to the job's steps, or with `batch` to the batch shell only (never --full: an untrapped shell dies)."""
