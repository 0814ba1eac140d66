"""What agents say of a node's health to the fleet of `world`, and what is decided by it."""

from typing import Any

from holdfast_common.health.model import Action, Finding
from holdfast_controller import events as e

GPU = "GPU-0000"


def found(world: Any, action: str, node: str = "n1", *, instance: str = "", dry_run: bool = False, rule: str = "xid-79") -> Finding:
    """Have the agent of a node's machine say that a rule holds."""
    finding = Finding(rule, Action(action), world.now, GPU, "it fell off the bus", "NVIDIA", dry_run)
    reported(world, node, finding, instance=instance)
    return finding


def reported(world: Any, node: str, *findings: Finding, instance: str = "") -> None:
    """Have it say which rules hold, all of them."""
    world.apply(e.HealthReported(world.now, node, instance or f"i-{node}", findings))


def by(commands: list[Any], kind: type) -> list[Any]:
    """Return the commands of a kind."""
    return [command for command in commands if isinstance(command, kind)]
