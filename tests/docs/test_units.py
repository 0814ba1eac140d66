"""The systemd units: systemd accepts them, they start programs that exist with options that exist, and keep what must outlive them."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from doc_pages import ROOT
from test_blocks import check_command

UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))


def keys(path: Path) -> dict[str, list[str]]:
    """Key → values, of all sections; a line that systemd would not read fails."""
    found: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        if not line or line.startswith("#") or re.fullmatch(r"\[(Unit|Service|Install)\]", line):
            continue
        match = re.fullmatch(r"([A-Z]\w+)=(.*)", line)
        assert match, f"{path.name}: {line!r}"
        found.setdefault(match[1], []).append(match[2])
    return found


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_accepts_it(unit: Path, tmp_path: Path) -> None:
    text = unit.read_text()
    program = keys(unit)["ExecStart"][0].split()[0]
    # systemd asks whether the program is there; ours is installed elsewhere
    (tmp_path / unit.name).write_text(text.replace(f"ExecStart={program}", "ExecStart=/bin/true"))
    if shutil.which("systemd-analyze"):
        done = subprocess.run(["systemd-analyze", "verify", tmp_path / unit.name], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    assert program.startswith("/")


@pytest.mark.parametrize("name", ["controller", "agent"])
def test_it_starts_our_program_and_never_gives_up(name: str) -> None:
    found = keys(ROOT / "deploy" / "systemd" / f"holdfast-{name}.service")
    program, *arguments = found["ExecStart"][0].split()
    check_command([Path(program).name, *arguments])
    assert found["Restart"] == ["always"]
    assert found["StartLimitIntervalSec"] == ["0"]
    assert found["NoNewPrivileges"] == ["yes"]
    assert found["WantedBy"] == ["multi-user.target"]


def test_the_controller_can_write_where_the_settings_say() -> None:
    found = keys(ROOT / "deploy" / "systemd" / "holdfast-controller.service")
    assert found["ProtectSystem"] == ["strict"]
    assert (found["StateDirectory"], found["RuntimeDirectory"]) == (["holdfast"], ["holdfast"])
    page = (ROOT / "docs" / "installation.md").read_text()
    for key in ("state_dir", "policy"):
        assert re.search(rf'^{key} = "/var/lib/holdfast', page, re.MULTILINE)
    from holdfast_controller.config import Listen

    assert Listen.model_fields["socket"].default.startswith("/run/holdfast/")


def test_the_agent_sees_gpus_kernel_messages_and_mounts() -> None:
    found = keys(ROOT / "deploy" / "systemd" / "holdfast-agent.service")
    hiding = {"ProtectClock", "PrivateDevices", "DevicePolicy", "DeviceAllow", "ProtectKernelLogs"}
    assert hiding.isdisjoint(found), "/dev/nvidia* and /dev/kmsg are then not there, with some systemd or with each"
    assert found["ProtectHome"] == ["read-only"], "a checkpoint store may be mounted there"


def test_jobs_and_their_directories_outlive_the_agent() -> None:
    found = keys(ROOT / "deploy" / "systemd" / "holdfast-agent.service")
    assert found["RuntimeDirectoryPreserve"] == ["yes"]
    assert found["KillMode"] == ["process"]
    assert found["RestartPreventExitStatus"] == ["2"]
    slurmd = keys(ROOT / "deploy" / "systemd" / "holdfast-slurmd@.service")
    assert slurmd["KillMode"] == ["process"]
    assert "NoNewPrivileges" not in slurmd, "jobs would inherit it"
    assert "-N %i" in slurmd["ExecStart"][0]
