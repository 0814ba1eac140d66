"""Holdfast's own hooks and agent, as the sandbox starts them unless it is told otherwise."""

from pathlib import Path

from holdfast_sandbox.cluster_config import AgentSpec


def default_hooks(
    directory: Path,
    *,
    python: Path,
    controller_socket: Path,
    run_dir: Path,
    bin_dir: Path,
    slurm_conf: Path,
) -> None:
    """Write Holdfast's hooks. Raises OSError."""
    from holdfast_slurm.hooks.install import write_wrappers

    write_wrappers(
        directory,
        python=python,
        controller_socket=controller_socket,
        run_dir=run_dir,
        bin_dir=bin_dir,
        slurm_conf=slurm_conf,
    )


def default_agent() -> AgentSpec:
    """Return how the node agent is started."""
    return AgentSpec(("{python}", "-m", "holdfast_nodeagent", "--config", "agent.toml"))
