"""The gate's first look passes a job only where every one of its nodes is shown, and is up."""

import os

import pytest

NODES = "spot-[1-2]"


@pytest.fixture
def gate(hooks):
    """Install the gate over a scontrol that prints what the test says; the gate proper is a Python that says it was called."""
    bin_dir = hooks.root / "it's bin"
    bin_dir.mkdir()
    python = hooks.root / "python"
    python.write_text(f"#!/bin/sh\necho gate >> {hooks.root}/called\n")
    python.chmod(0o755)
    (hooks.root / "slurm conf").touch()
    hooks.install(bin_dir=bin_dir, python=python, slurm_conf=hooks.root / "slurm conf")

    def write(*lines: str, status: int = 0) -> None:
        (hooks.root / "nodes").write_text("".join(f"{line}\n" for line in lines))
        scontrol = bin_dir / "scontrol"
        scontrol.write_text(
            "#!/bin/sh\n"
            f'[ "$SLURM_CONF" = "{hooks.root}/slurm conf" ] || exit 9\n'
            'case "$2" in\n  hostnames) printf "spot-1\\nspot-2\\n" ;;\n'
            f'  nodes) while read -r l; do echo "$l"; done <{hooks.root}/nodes; exit {status} ;;\nesac\n'
        )
        scontrol.chmod(0o755)

    return write


def line(number: int, state: str) -> str:
    return (
        f"NodeName=spot-{number} Arch=x86_64 CPUAlloc=4 OS=Linux 6.1 #1 State={state} ThreadsPerCore=1 Reason=holdfast: State=DOWN [root]"
    )


async def called(hooks, **environ: str) -> bool:
    outcome = await hooks.run("prolog-slurmctld", SLURM_JOB_ID="7", **environ)
    assert (outcome.status, outcome.stdout) == (0, "")
    return "called" in os.listdir(hooks.root)


async def test_nodes_that_are_up_need_no_gate(hooks, gate):
    gate(line(1, "ALLOCATED+CLOUD"), line(2, "MIXED+CLOUD+DRAIN"))
    assert not await called(hooks, SLURM_JOB_NODELIST=NODES)


@pytest.mark.parametrize(
    "state",
    [
        "ALLOCATED+CLOUD+NOT_RESPONDING+POWERING_UP",
        "ALLOCATED+CLOUD+POWERED_DOWN",
        "IDLE+CLOUD+POWER_DOWN",
        "ALLOCATED+NOT_RESPONDING",
        "DOWN+CLOUD",
        "DOWN*+CLOUD",
        "UNKNOWN",
        "",
    ],
)
async def test_one_that_is_not_asks_the_controller(hooks, gate, state):
    gate(line(1, "ALLOCATED+CLOUD"), line(2, state))
    assert await called(hooks, SLURM_JOB_NODELIST=NODES)


@pytest.mark.parametrize(
    "lines",
    [[line(1, "ALLOCATED+CLOUD")], [line(1, "ALLOCATED+CLOUD"), "Node spot-2 not found"], ["No nodes in the system"], []],
)
async def test_a_node_that_is_not_listed_asks_the_controller(hooks, gate, lines):
    gate(*lines)
    assert await called(hooks, SLURM_JOB_NODELIST=NODES)


async def test_slurm_that_fails_asks_the_controller(hooks, gate):
    gate(line(1, "ALLOCATED+CLOUD"), line(2, "ALLOCATED+CLOUD"), status=1)
    assert await called(hooks, SLURM_JOB_NODELIST=NODES)


async def test_without_a_node_list_the_gate_itself_says_what_is_wrong(hooks, gate):
    gate(line(1, "ALLOCATED+CLOUD"), line(2, "ALLOCATED+CLOUD"))
    assert await called(hooks)


async def test_a_list_is_never_a_command(hooks, gate):
    gate(line(1, "ALLOCATED+CLOUD"), line(2, "ALLOCATED+CLOUD"))
    assert not await called(hooks, SLURM_JOB_NODELIST=f"$(touch {hooks.root}/made)")
    assert "made" not in os.listdir(hooks.root)
