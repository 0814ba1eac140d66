"""The hooks' shell programs: whole paths, quoted, and status 0 unless a site's own script says otherwise."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from holdfast_common.errors import ConfigError
from holdfast_slurm.hooks.install import write_wrappers

NAMES = ["epilog", "health-check", "prolog", "prolog-slurmctld", "resume", "resume-fail", "suspend", "task-prolog"]
JOB = {"SLURM_JOB_ID": "7", "SLURM_JOB_UID": "65534", "SLURM_JOB_GID": "65534", "SLURM_JOB_RESTART_COUNT": "0"}


def run(path, *arguments, **environ):
    return subprocess.run([path, *arguments], env=environ, cwd="/", capture_output=True, text=True, check=False)


def script(path, body):
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def jobs(hooks):
    hooks.jobs.mkdir(parents=True)
    return hooks.jobs


def test_files_and_modes(hooks):
    directory = hooks.root / "hooks"
    assert sorted(os.listdir(directory)) == NAMES
    assert {stat.S_IMODE((directory / name).stat().st_mode) for name in NAMES} == {0o755}


def test_twice_replaces_each_file_whole(hooks):
    before = (hooks.root / "hooks" / "resume").stat().st_ino
    hooks.install(controller_socket=Path("/elsewhere"))
    after = hooks.root / "hooks" / "resume"
    assert after.stat().st_ino != before
    assert "/elsewhere" in after.read_text()
    assert sorted(os.listdir(hooks.root / "hooks")) == NAMES


def test_relative_paths_and_unknown_chains_are_all_named(tmp_path):
    with pytest.raises(ConfigError) as caught:
        write_wrappers(
            tmp_path,
            python=Path("python3"),
            controller_socket=Path("/a\nreboot"),
            run_dir=Path("/r"),
            bin_dir=Path("/b"),
            slurm_conf=Path("/s"),
            chain={"resume": Path("/x")},
        )
    assert len(caught.value.faults) == 3


def test_paths_with_characters_of_the_shell(hooks, jobs):
    odd = hooks.root / "a 'b\" $(touch x) ;c"
    (odd / "jobs").mkdir(parents=True)
    site = script(odd / "site's own.sh", "exit 0")
    directory = hooks.install(directory=odd.name + "/hooks", run_dir=odd, chain={"prolog": site, "task-prolog": site})
    run(directory / "prolog", **JOB)
    assert sorted(os.listdir(odd / "jobs")) == ["7.0"]
    assert run(directory / "task-prolog", **JOB).stdout == f"export HOLDFAST_JOB_DIR={odd}/jobs/7.0\n"
    assert not Path("/x").exists()


def test_prolog_and_epilog_with_only_their_environment(hooks, jobs):
    assert run(hooks.root / "hooks" / "prolog", **JOB).returncode == 0
    assert os.listdir(jobs) == ["7.0"]
    assert run(hooks.root / "hooks" / "epilog", **JOB).returncode == 0
    assert os.listdir(jobs) == [".gone-7.0"]


@pytest.mark.parametrize("name", ["prolog", "epilog"])
def test_failure_is_logged_and_is_no_status(hooks, jobs, name):
    done = run(hooks.root / "hooks" / name, SLURM_JOB_ID="7;")
    assert (done.returncode, os.listdir(jobs)) == (0, [])
    assert "SLURM_JOB_ID" in (hooks.root / "run" / "hooks.log").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_python_that_is_gone_is_no_status(hooks, name):
    hooks.install(python=Path("/nowhere/python"))
    assert run(hooks.root / "hooks" / name, **JOB).returncode == 0


@pytest.mark.parametrize("name", ["prolog", "epilog", "prolog-slurmctld", "task-prolog", "health-check"])
def test_sites_own_script_runs_first_and_its_status_counts(hooks, jobs, name):
    site = script(hooks.root / "site", f'echo "$SLURM_JOB_ID $#" > {hooks.root}/seen; exit 3')
    hooks.install(chain={name: site})
    assert run(hooks.root / "hooks" / name, **JOB).returncode == 3
    assert (hooks.root / "seen").read_text() == "7 0\n"
    assert os.listdir(jobs) == []


def test_sites_task_prolog_still_speaks_to_slurm(hooks, jobs):
    hooks.install(chain={"task-prolog": script(hooks.root / "site", "echo export SITE=1")})
    assert run(hooks.root / "hooks" / "task-prolog", **JOB).stdout == "export SITE=1\nunset HOLDFAST_JOB_DIR\n"


@pytest.mark.parametrize(
    ("environ", "attempt"),
    [
        ({}, 0),
        ({"SLURM_RESTART_COUNT": "0"}, 0),
        ({"SLURM_RESTART_COUNT": "2"}, 2),
    ],
)
def test_task_prolog_finds_the_attempt(hooks, jobs, environ, attempt):
    run(hooks.root / "hooks" / "prolog", **(JOB | {"SLURM_JOB_RESTART_COUNT": str(attempt)}))
    done = run(hooks.root / "hooks" / "task-prolog", SLURM_JOB_ID="7", **environ)
    assert done.stdout == f"export HOLDFAST_JOB_DIR={jobs}/7.{attempt}\n"


@pytest.mark.parametrize(
    "environ",
    [{}, {"SLURM_JOB_ID": "7"}, {"SLURM_JOB_ID": "../7"}, {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "0\nexport PATH=/"}],
)
def test_task_prolog_takes_an_inherited_directory_away(hooks, jobs, environ):
    assert run(hooks.root / "hooks" / "task-prolog", **environ).stdout == "unset HOLDFAST_JOB_DIR\n"


def test_task_prolog_as_the_user(hooks, jobs):
    run(hooks.root / "hooks" / "prolog", **JOB)
    nobody = {"user": 65534, "group": 65534, "extra_groups": []}
    done = subprocess.run([hooks.root / "hooks" / "task-prolog"], env={"SLURM_JOB_ID": "7"}, capture_output=True, check=True, **nobody)
    assert done.stdout.decode() == f"export HOLDFAST_JOB_DIR={jobs}/7.0\n"


def test_prolog_imports_nothing_but_the_standard_library(hooks):
    root = Path(sys.modules["holdfast_slurm"].__file__).parents[1]
    code = (
        "import sys; sys.path.append(sys.argv[1]); import holdfast_slurm.hooks.prolog, holdfast_slurm.hooks.epilog;"
        "print(sorted(name for name in sys.modules if name.split('.')[0] not in sys.stdlib_module_names and name != '__main__'))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code, root], env={}, capture_output=True, text=True, check=True)
    ours = [f"holdfast_slurm.hooks.{name}" for name in ("epilog", "jobdir", "log", "prolog", "slurm_query")]
    assert done.stdout.strip() == str(["holdfast_slurm", "holdfast_slurm.hooks", *ours])
