"""HealthCheckProgram: the agent's word, while it is fresh, and nothing else, makes a status."""

import re
import subprocess
import time

import pytest


@pytest.fixture
def check(hooks):
    """Run it as slurmd does: no PATH, both outputs in one pipe; `lines` is what the agent has written, None: nothing."""
    hooks.jobs.mkdir(parents=True)

    def run(lines: str | None) -> tuple[int, str]:
        if lines is not None:
            (hooks.root / "run" / "health").write_text(lines)
        program = hooks.root / "hooks" / "health-check"
        environ = {"SLURMD_NODENAME": "spot-1"}
        done = subprocess.run([program], env=environ, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        return done.returncode, done.stdout

    return run


def fresh() -> int:
    return int(time.time()) + 60


def test_ok(check):
    assert check(f"ok {fresh()}\n\n") == (0, "")
    assert check(f"ok {fresh()}\n") == (0, ""), "a second line is not needed"


def test_sick_says_why(check):
    reason = 'health: xid_79 on GPU-1: "it\'s gone" $(reboot) \\n %s'
    assert check(f"sick {fresh()}\n{reason}\n") == (1, f"holdfast: {reason}\n")


def test_a_stale_word_is_no_status(check):
    for word in ("sick", "ok"):
        status, told = check(f"{word} {int(time.time()) - 3}\nxid_79\n")
        assert status == 0
        assert re.search(rf"\({word}\) is out of date", told)


def test_nothing_yet_is_no_status(check):
    status, told = check(None)
    assert (status, "has said nothing" in told) == (0, True)
    assert check("")[0] == 0


@pytest.mark.parametrize(
    "lines",
    [
        "sick\nxid_79\n",
        "sick soon\nx\n",
        "sick 99999999999999999999\nx\n",
        "sick -1\nx\n",
        "well 9999999999\n",
        "sick 9999999999 9\nx\n",
        "\1\n",
    ],
)
def test_what_is_not_understood_is_no_status(check, lines):
    status, told = check(lines)
    assert (status, "not understood" in told) == (0, True)


def test_a_node_that_is_not_holdfasts_is_left_in_peace(hooks):
    done = subprocess.run([hooks.root / "hooks" / "health-check"], env={}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_sites_own_program_that_is_content_leaves_the_word_to_us(hooks, check):
    site = hooks.root / "nhc"
    site.write_text("#!/bin/sh\necho nhc\n")
    site.chmod(0o755)
    hooks.install(chain={"health-check": site})
    assert check(f"sick {fresh()}\nxid_79\n") == (1, "nhc\nholdfast: xid_79\n")


def test_it_starts_neither_python_nor_a_program_of_slurms(hooks, check):
    """slurmd runs it before it registers, when scontrol hangs; Python alone would take longer than the whole may."""
    seen = hooks.root / "seen"
    for path in (hooks.root / "python", *(hooks.root / name for name in ("scontrol", "squeue", "sinfo"))):
        path.write_text(f'#!/bin/sh\necho "$0" >> {seen}\n')
        path.chmod(0o755)
    hooks.install(python=hooks.root / "python", bin_dir=hooks.root)
    assert check(f"ok {fresh()}\n\n") == (0, "")
    assert check(f"sick {fresh()}\nxid_79\n") == (1, "holdfast: xid_79\n")
    assert not seen.exists()
    environ = {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "0", "SLURM_JOB_UID": "0"}
    subprocess.run([hooks.root / "hooks" / "prolog"], env=environ, cwd="/", check=False)
    assert "/python" in seen.read_text(), "what would be seen"
