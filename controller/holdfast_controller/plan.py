"""What the policy means for one node, as plain values for the decisions."""

import re
from dataclasses import dataclass, field

from holdfast_common.evacuation import Limits

from holdfast_controller.providers.base import Offer, Pool, Quote


@dataclass(frozen=True, slots=True)
class Shape:
    """What Slurm is told that a node of a group has; 0 and empty: not said."""

    gpus: int = 0
    gpu_model: str = ""
    cpus: int = 0
    memory_mb: int = 0

    def misfit(self, offer: Offer | None) -> str:
        """Return why an instance type is no such node; empty if it is one, or nothing is known of it.

        A node may have more CPUs and memory than Slurm is told; of GPUs it has as many (Slurm would hide the rest, and the bill would not).
        """
        if offer is None:
            return ""
        if self.gpus and offer.gpus != self.gpus:
            return f"{offer.instance_type} has {offer.gpus} GPUs and not {self.gpus}"
        if self.gpu_model and not same_model(self.gpu_model, offer.gpu_model):
            return f"{offer.instance_type} has {offer.gpu_model} and not {self.gpu_model}"
        if offer.cpus < self.cpus:
            return f"{offer.instance_type} has {offer.cpus} CPUs and not {self.cpus}"
        if offer.memory_mb < self.memory_mb:
            return f"{offer.instance_type} has {offer.memory_mb} MiB of memory and not {self.memory_mb}"
        return ""


def same_model(wanted: str, said: str) -> bool:
    """Whether a cloud's name of a GPU means the model that an admin wrote: `h100` and `NVIDIA H100 80GB`, but not `A100` and `A10`."""
    words = re.split(r"[^a-z0-9]+", said.lower())
    return all(word in words for word in re.split(r"[^a-z0-9]+", wanted.lower()) if word not in ("", "nvidia", "tesla"))


@dataclass(frozen=True, slots=True)
class Health:
    """What is done about sick machines. Times in seconds."""

    act: bool = True
    """False: findings are recorded, and nothing is done."""
    evacuate_s: float = 600.0
    """How long jobs may take to save and leave: no cloud takes the machine."""
    keep_sick_s: float = 0.0
    """How long a machine that was drained or evacuated is kept."""
    avoid_pool_s: float = 600.0
    """For how long the pool of a sick machine comes after others: the next one may be the same host."""
    brake_share: float = 0.25
    """A node's finding is acted on for no larger share of a partition's machines within an hour (but for three); 1: no bound."""
    deep_check_level: int = 0
    """Of `dcgmi diag -r`, before a new machine takes jobs; 0: none."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How the nodes of one partition's node group are bought and given up. Times in seconds."""

    partition: str
    group: str
    pools: tuple[Pool, ...]
    """In the policy's order."""
    order: str = "listed"
    """`listed`; `price`: the cheapest known price first; `scored`: the cheapest hour that is of use, by price, reclaims and scarcity."""
    shape: Shape = field(default_factory=Shape)
    """What an instance type must have to be one of these nodes."""
    one_domain: bool = True
    """All nodes of a job stand in one zone."""
    combine: bool = False
    """A launch names all pools that will do, where the cloud's call takes several."""
    setback_s: float = 300.0
    """What a reclaim costs a job: save, boot and start."""
    ondemand_after_s: float | None = None
    """Pools of the on-demand market are used once a request has waited this long; None: never."""
    limits: Limits = field(default_factory=Limits)
    registration_timeout_s: float = 300.0
    refusal_backoff_s: float = 30.0
    """A pool that refused is not asked again before this, doubling per refusal up to `refusal_memory_s`."""
    refusal_memory_s: float = 1800.0
    probe_s: float = 120.0
    """Where no pool may be asked, each is after this at the latest."""
    orphan_grace_s: float = 300.0
    signal: str = ""
    """Sent to jobs that opted in (`checkpoint=auto`) without naming one."""
    max_attempts: int = 100
    """Interrupted attempts after which a job is held."""
    never_launched_s: float = 300.0
    """After this long without any process a job that Slurm has RUNNING is requeued; 0: it is not."""
    keep_nodes_s: float = 300.0
    """For how long nodes are kept for a requeued job while others wait for some; 0: they are not."""
    health: Health = field(default_factory=Health)
    crash_loop_s: float = 30.0
    crash_loop_count: int = 5
    """A job that ended by itself within `crash_loop_s`, so often in a row, is held."""


@dataclass(frozen=True, slots=True)
class Plans:
    """The plans of all managed nodes, and what samples say of the pools."""

    by_node: dict[str, Plan] = field(default_factory=dict)
    quotes: dict[str, Quote] = field(default_factory=dict)
    """Pool name → what its cloud said of it last (samples)."""

    offers: dict[tuple[str, str], Offer] = field(default_factory=dict)
    """(Provider, instance type) → its shape, by the cloud's own data (samples)."""
    in_flight: dict[str, int] = field(default_factory=dict)
    """Provider → how many launches may be under way at a time."""
    batch: dict[str, int] = field(default_factory=dict)
    """Provider → how many instances one launch may ask for where it serves several jobs; what is not named: 1."""

    def offer(self, pool: Pool) -> Offer | None:
        """Return the shape of a pool's instances; None: unknown."""
        return self.offers.get((pool.provider, pool.instance_type))

    def price_usd_h(self, pool: str) -> float | None:
        """Return the newest price of an instance-hour in the pool; None: unknown."""
        quote = self.quotes.get(pool)
        return quote.price_usd_h if quote is not None else None

    def pool(self, name: str) -> Pool | None:
        """Return the pool of that name, if any plan has it."""
        return next((pool for plan in self.by_node.values() for pool in plan.pools if pool.name == name), None)
