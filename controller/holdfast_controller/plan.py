"""What the policy means for one node, as plain values for the decisions."""

from dataclasses import dataclass, field

from holdfast_common.evacuation import Limits

from holdfast_controller.providers.base import Pool, Quote


@dataclass(frozen=True, slots=True)
class Plan:
    """How the nodes of one partition's node group are bought and given up. Times in seconds."""

    partition: str
    group: str
    pools: tuple[Pool, ...]
    """In the policy's order."""
    order: str = "listed"
    """`listed`, or `price`: the cheapest known price first."""
    ondemand_after_s: float | None = None
    """Pools of the on-demand market are used once a request has waited this long; None: never."""
    limits: Limits = field(default_factory=Limits)
    registration_timeout_s: float = 300.0
    refusal_backoff_s: float = 30.0
    """A pool that refused is not asked again before this, doubling per refusal up to `refusal_memory_s`."""
    refusal_memory_s: float = 1800.0
    orphan_grace_s: float = 300.0
    signal: str = ""
    """Sent to jobs that opted in (`checkpoint=auto`) without naming one."""
    max_attempts: int = 100
    """Interrupted attempts after which a job is held."""
    never_launched_s: float = 300.0
    """After this long without any process a job that Slurm has RUNNING is requeued; 0: it is not."""
    keep_nodes_s: float = 300.0
    """For how long nodes are kept for a requeued job while others wait for some; 0: they are not."""
    crash_loop_s: float = 30.0
    crash_loop_count: int = 5
    """A job that ended by itself within `crash_loop_s`, so often in a row, is held."""


@dataclass(frozen=True, slots=True)
class Plans:
    """The plans of all managed nodes, and what samples say of the pools."""

    by_node: dict[str, Plan] = field(default_factory=dict)
    quotes: dict[str, Quote] = field(default_factory=dict)
    """Pool name → what its cloud said of it last (samples)."""

    def price_usd_h(self, pool: str) -> float | None:
        """Return the newest price of an instance-hour in the pool; None: unknown."""
        quote = self.quotes.get(pool)
        return quote.price_usd_h if quote is not None else None

    def pool(self, name: str) -> Pool | None:
        """Return the pool of that name, if any plan has it."""
        return next((pool for plan in self.by_node.values() for pool in plan.pools if pool.name == name), None)
