"""What `holdfast doctor` finds, and what `holdfast slurm-conf` writes."""

import asyncio
import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from holdfast_slurm import cli, options, probe
from holdfast_slurm.conf import required_settings
from holdfast_slurm.conf_settings import HOOKS, NodeGroup, SlurmSettings
from holdfast_slurm.doctor import Observed, examine, hook_paths, munge_socket
from holdfast_slurm.site import load_site
from typer.testing import CliRunner

SETTINGS = SlurmSettings((22, 5, 8), Path("/hooks"), (NodeGroup("spot", 4, 2, 1000),))
GROUP = "prefix=spot,count=4,cpus=2,memory_mb=1000,gres=gpu:2"
SECONDS = {"KillWait", "MinJobAge", "ResumeTimeout", "SuspendTimeout", "MessageTimeout", "SlurmdTimeout"}


def running(**changes: str) -> dict[str, str]:
    """A configuration that has all that is asked for, as scontrol prints it, but for the changes."""
    config = {each.key: each.want + (" sec" if each.key in SECONDS else "") for each in required_settings(SETTINGS)}
    return config | {"PrologEpilogTimeout": "65534", "SLURM_VERSION": "22.05.8", "SuspendTime": "INFINITE"} | changes


def observe(**changes) -> Observed:
    partition = {"PartitionName": "spot", "State": "UP"}
    seen = Observed(running(), partition, (), {"/hooks/resume": None}, None, None)
    return replace(seen, **changes)


def subjects(**changes) -> list[str]:
    return [each.subject for each in examine(observe(**changes), SETTINGS, "/c.sock")]


def test_a_cluster_as_it_must_be():
    assert examine(observe(), SETTINGS, "/c.sock") == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("JobRequeue", "0"),
        ("KillWait", "30 sec"),
        ("PrologFlags", "(null)"),
        ("PrivateData", "(null)"),
        ("ResumeRate", "300 nodes/min"),
        ("ResumeProgram", "/other/resume"),
        ("Prolog", "(null)"),
        ("SchedulerParameters", "(null)"),
        ("ResumeTimeout", "60 sec"),
        ("PrologEpilogTimeout", "30"),
        ("SuspendTime", "600 sec"),
    ],
)
def test_each_setting_that_is_wrong_is_named_with_a_cure(key, value):
    findings = examine(observe(config=running(**{key: value})), SETTINGS, "/c.sock")
    assert key in {each.subject for each in findings}
    for each in findings:
        assert all((each.found, each.wanted, each.why, each.mend))
        assert each.found == "not set" or value.split()[0].strip("()") in each.found


def test_suspend_timeout_is_judged_by_the_running_values():
    found = examine(observe(config=running(KillWait="30 sec")), SETTINGS, "/c.sock")
    assert [each.subject for each in found] == ["KillWait", "SuspendTimeout"]
    assert "45" in found[1].wanted


def test_suspend_time_of_the_cluster_is_fine_where_others_are_excepted():
    assert subjects(config=running(SuspendTime="600 sec", SuspendExcParts="cpu")) == []


def test_several_prologs_of_which_one_is_ours():
    assert subjects(config=running(Prolog="/etc/slurm/p.sh,/hooks/prolog")) == []
    assert probe.parse_config("Prolog[0]   = /a\nProlog[1]   = /b\nX = \n") == {"Prolog": "/a,/b", "X": ""}


@pytest.mark.parametrize(
    ("key", "value", "mend"),
    [
        ("HealthCheckProgram", "/usr/sbin/nhc", "--chain health-check=/usr/sbin/nhc"),
        ("HealthCheckProgram", "(null)", "set HealthCheckProgram=/hooks/health-check"),
        ("HealthCheckInterval", "0 sec", "set HealthCheckInterval=60"),
        ("HealthCheckNodeState", "IDLE,CYCLE", "set HealthCheckNodeState=ANY"),
    ],
)
def test_the_health_check_is_advised(key, value, mend):
    (found,) = examine(observe(config=running(**{key: value})), SETTINGS, "/c.sock")
    assert (found.subject, found.advised) == (key, True)
    assert mend in found.mend


def test_a_health_check_of_the_sites_own_may_have_its_interval_and_be_on_the_nodes_only():
    assert subjects(config=running(HealthCheckInterval="300 sec", HealthCheckNodeState="CYCLE,ANY")) == []
    assert hook_paths({"HealthCheckProgram": "/usr/sbin/nhc", "Prolog": "/b"}) == ["/b"]


def test_partition():
    assert subjects(partition=None) == ["partition spot"]
    assert subjects(partition={"State": "DOWN"}) == ["partition spot"]
    assert subjects(not_cloud=("n1", "n2")) == ["nodes of spot"]


def test_hooks_and_sockets():
    assert subjects(hooks={"/hooks/prolog": "not an executable file"}) == ["/hooks/prolog"]
    assert subjects(controller_fault="Connection refused", munge_fault="No such file") == ["/run/munge/munge.socket.2", "/c.sock"]
    assert munge_socket({"AuthInfo": "cred_expire=30,socket=/m.sock"}) == "/m.sock"
    assert hook_paths({"Prolog": "/b,/a", "TaskProlog": "(null)"}) == ["/a", "/b"]


def test_paths_that_privileged_programs_must_not_have(tmp_path):
    tmp_path.chmod(0o755)
    program = tmp_path / "hook"
    assert probe.unsafe_path(program, {0}) == "No such file or directory"
    program.write_text("")
    program.chmod(0o644)
    assert probe.unsafe_path(program, {0}) == "not an executable file"
    program.chmod(0o755)
    assert probe.unsafe_path(program, {0}) is None
    assert "belongs to uid 0" in (probe.unsafe_path(program, {64030}) or "")
    tmp_path.chmod(0o777)
    assert f"{tmp_path} can be written by others" in (probe.unsafe_path(program, {0}) or "")
    tmp_path.chmod(0o1777)
    assert probe.unsafe_path(program, {0}) is None


async def test_controller_that_answers(hooks, controller):
    assert await asyncio.to_thread(probe.silent_controller, hooks.socket, 8.0) is None


def test_controller_that_does_not(hooks):
    assert probe.silent_controller(hooks.socket) == "No such file or directory"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(hooks.socket))
        listener.listen()
        assert "no answer" in (probe.silent_controller(hooks.socket, 0.05) or "")


def run_conf(*arguments: str):
    return CliRunner().invoke(cli.conf_app, ["-g", GROUP, "--slurm-version", "22.05.8", "--bin-dir", "/usr/bin", *arguments])


def test_slurm_conf_prints_and_changes_nothing(tmp_path):
    done = run_conf("--hooks-dir", str(tmp_path / "hooks"), "--set", "resume_timeout_s=900")
    assert done.exit_code == 0
    assert f"ResumeProgram={tmp_path}/hooks/resume\n" in done.stdout
    assert "ResumeTimeout=900\n" in done.stdout
    assert "NodeName=spot-[1-4]" in done.stdout
    assert not (tmp_path / "hooks").exists()
    assert "Name=gpu" in run_conf("--gres").stdout


def test_install_writes_hooks_and_remembers_the_site(tmp_path):
    directory = tmp_path / "hooks"
    chosen = ["--hooks-dir", str(directory), "--install-hooks", "--set", "kill_wait_s=7", "--chain", "prolog=/site/prolog"]
    assert run_conf(*chosen).exit_code == 0
    assert set(HOOKS.values()) < {path.name for path in directory.iterdir()}
    assert "/site/prolog" in (directory / "prolog").read_text()
    assert "--nodes 'spot-[1-4]'" in (directory / "prolog-slurmctld").read_text()
    site = load_site(directory)
    assert site is not None
    assert (site.settings.kill_wait_s, site.settings.version, site.settings.node_groups[0].gres) == (7, (22, 5, 8), "gpu:2")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--set", "x=1"],
        ["--set", "kill_wait_s=a"],
        ["-g", "prefix=x"],
        ["-g", "colour=red"],
        ["--hooks-dir", "rel"],
        ["--set", "kill_wait_s=90"],
        ["--chain", "prolog", "--install-hooks"],
    ],
)
def test_faults_on_the_command_line_are_usage_errors(arguments):
    done = run_conf(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr


def test_version_of_the_installed_slurm(tmp_path, monkeypatch):
    daemon = tmp_path / "slurmctld"
    daemon.write_text("#!/bin/sh\necho slurm-wlm 24.11.5\n")
    daemon.chmod(0o755)
    assert options.version("", tmp_path) == (24, 11, 5)


def test_damaged_site_file_is_named(tmp_path):
    (tmp_path / "site.json").write_text('{"settings": 3}')
    with pytest.raises(Exception, match=r"site\.json"):
        load_site(tmp_path)


def scontrol(directory: Path, body: str) -> str:
    (directory / "scontrol").write_text(f"#!/bin/sh\n{body}\n")
    (directory / "scontrol").chmod(0o755)
    return str(directory)


def test_doctor_without_slurmctld(tmp_path):
    place = scontrol(tmp_path, "echo 'Unable to contact slurm controller' >&2; exit 1")
    done = CliRunner().invoke(cli.doctor_app, ["--bin-dir", place])
    assert done.exit_code == 3
    assert "Unable to contact" in done.stderr


def test_doctor_speaks_json(tmp_path):
    text = "\n".join(f"{key} = {value}" for key, value in running(AuthType="auth/none").items())
    (tmp_path / "config").write_text(text)
    place = scontrol(tmp_path, f'case "$*" in "show config") cat {tmp_path}/config ;; *) echo "Partition spot not found"; exit 1 ;; esac')
    done = CliRunner().invoke(cli.doctor_app, ["--bin-dir", place, "--json", "--socket", str(tmp_path / "c.sock")])
    assert done.exit_code == 1
    answer = json.loads(done.stdout)
    assert (answer["ok"], answer["site_known"]) == (False, False)
    assert {"partition spot", str(tmp_path / "c.sock"), "/hooks/resume"} <= {each["subject"] for each in answer["findings"]}


async def test_advice_alone_is_no_failure(hooks, controller):
    ours = {key: f"{hooks.root}/hooks/{name}" for key, name in HOOKS.items()}
    config = running(**ours, AuthType="auth/none", SlurmUser="root(0)") | {"HealthCheckProgram": "/usr/sbin/nhc"}
    (hooks.root / "config").write_text("".join(f"{key} = {value}\n" for key, value in config.items()))
    shown = f'*config*) cat {hooks.root}/config ;; *partition*) echo "PartitionName=spot State=UP" ;; *) echo "No nodes in the system" ;;'
    place = scontrol(hooks.root, f'case "$*" in {shown} esac')
    arguments = ["--bin-dir", place, "--socket", str(hooks.socket)]
    done = await asyncio.to_thread(CliRunner().invoke, cli.doctor_app, arguments)
    assert done.exit_code == 0, done.stdout + done.stderr
    assert "HealthCheckProgram (advised)\n  is:     /usr/sbin/nhc\n" in done.stdout
    assert "all well\n" in done.stdout
