"""The job's directory: made and set aside by root where users must not be able to lead root astray."""

import json
import os
import stat
import time
from pathlib import Path

import pytest
from holdfast_slurm.hooks import epilog, jobdir, prolog
from holdfast_slurm.hooks.slurm_query import has_steps, hostnames, restart_count

UID, GID = 65534, 65534
BIN = Path("/usr/bin")
NOW = time.time()
ENV = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_UID": str(UID),
    "SLURM_JOB_GID": str(GID),
    "SLURM_JOB_RESTART_COUNT": "0",
    "SLURM_NODELIST": "spot-1,spot-2",
    "SLURMD_NODENAME": "spot-1",
}


@pytest.fixture
def run_dir(tmp_path) -> Path:
    (tmp_path / "jobs").mkdir(mode=0o755)
    return tmp_path


def begin(run_dir, **changes):
    prolog.prepare(run_dir, BIN, ENV | changes, NOW)


def end(run_dir, *, now=NOW, busy=False, **changes):
    epilog.clear(run_dir, ENV | changes, now, lambda _: busy)


def names(run_dir):
    return sorted(os.listdir(run_dir / "jobs"))


def test_directories_belong_to_whom_they_must(run_dir):
    old = os.umask(0o077)
    try:
        begin(run_dir)
    finally:
        os.umask(old)
    top = run_dir / "jobs" / "7.0"
    found = {part: os.lstat(top / part) for part in ("", "node", "job", "node/context.json")}
    assert {part: stat.S_IMODE(status.st_mode) for part, status in found.items()} == {
        "": 0o755,
        "node": 0o755,
        "job": 0o700,
        "node/context.json": 0o644,
    }
    assert {part: status.st_uid for part, status in found.items()} == {"": 0, "node": 0, "job": UID, "node/context.json": 0}
    assert found["job"].st_gid == GID
    assert json.loads((top / "node" / "context.json").read_text()) == {
        "v": 1,
        "job_id": 7,
        "attempt": 0,
        "node": "spot-1",
        "nodes": ["spot-1", "spot-2"],
    }
    assert os.listdir(top / "node") == ["context.json"]


def test_twice_keeps_what_was_written_meanwhile(run_dir):
    begin(run_dir)
    top = run_dir / "jobs" / "7.0"
    context = json.loads((top / "node" / "context.json").read_text()) | {"zone": "b"}
    (top / "node" / "context.json").write_text(json.dumps(context))
    (top / "job" / "rank.0.json").write_text("{}")
    begin(run_dir)
    assert json.loads((top / "node" / "context.json").read_text()) == context
    assert (top / "job" / "rank.0.json").exists()


def test_half_made_directory_is_completed(run_dir):
    (run_dir / "jobs" / "7.0" / "job").mkdir(parents=True)
    begin(run_dir)
    top = run_dir / "jobs" / "7.0"
    assert (top / "job").stat().st_uid == UID
    assert (top / "node" / "context.json").exists()


def test_node_without_an_agent_is_left_alone(tmp_path):
    begin(tmp_path)
    end(tmp_path)
    assert os.listdir(tmp_path) == []


def test_directory_of_another_users_job_of_the_same_id_is_made_anew(run_dir):
    begin(run_dir)
    (run_dir / "jobs" / "7.0" / "job" / "status.json").write_text('{"v": 1}')
    begin(run_dir, SLURM_JOB_UID="65533")
    job = run_dir / "jobs" / "7.0" / "job"
    assert (job.stat().st_uid, os.listdir(job)) == (65533, [])


def test_earlier_attempts_are_set_aside_when_the_next_begins(run_dir):
    begin(run_dir)
    begin(run_dir, SLURM_JOB_RESTART_COUNT="2")
    assert names(run_dir) == [".gone-7.0", "7.2"]


@pytest.mark.parametrize("planted", ["link", "file", "dangling"])
@pytest.mark.parametrize("at", ["7.0", "7.0/job", "7.0/node"])
def test_nothing_is_done_through_what_lies_in_the_way(run_dir, tmp_path, planted, at):
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o700)
    place = run_dir / "jobs" / at
    place.parent.mkdir(exist_ok=True)
    if planted == "file":
        place.write_text("")
    else:
        place.symlink_to(victim if planted == "link" else tmp_path / "nowhere")
    with pytest.raises((jobdir.UnsafeDirectoryError, OSError)):
        begin(run_dir)
    assert os.listdir(victim) == []
    assert (victim.stat().st_uid, stat.S_IMODE(victim.stat().st_mode)) == (0, 0o700)
    assert not (tmp_path / "nowhere").exists()


def test_link_in_place_of_the_context_is_not_followed(run_dir, tmp_path):
    (run_dir / "jobs" / "7.0" / "node").mkdir(parents=True)
    secret = tmp_path / "secret"
    secret.write_text("as it was")
    (run_dir / "jobs" / "7.0" / "node" / "context.json").symlink_to(secret)
    begin(run_dir)
    assert secret.read_text() == "as it was"


@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_jobs_directory_that_others_can_write_is_refused(run_dir, mode):
    (run_dir / "jobs").chmod(mode)
    with pytest.raises(jobdir.UnsafeDirectoryError):
        begin(run_dir)
    assert names(run_dir) == []


def test_jobs_directory_that_is_a_link_is_refused(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "jobs").symlink_to("real")
    with pytest.raises(jobdir.UnsafeDirectoryError):
        begin(tmp_path)


@pytest.mark.parametrize("value", ["", "x", "-1", "1 2", "٣", "99999999999"])
@pytest.mark.parametrize("name", ["SLURM_JOB_ID", "SLURM_JOB_UID", "SLURM_JOB_GID"])
def test_malformed_environment(run_dir, name, value):
    with pytest.raises(ValueError, match=name):
        begin(run_dir, **{name: value})
    assert names(run_dir) == []


def test_last_words_are_kept_a_minute(run_dir):
    begin(run_dir)
    (run_dir / "jobs" / "7.0" / "job" / "status.json").write_text('{"v": 1}')
    end(run_dir)
    assert names(run_dir) == [".gone-7.0"]
    assert (run_dir / "jobs" / ".gone-7.0" / "job" / "status.json").exists()
    end(run_dir, now=NOW + jobdir.GONE_KEPT_S - 1)
    assert names(run_dir) == [".gone-7.0"]
    end(run_dir, now=NOW + jobdir.GONE_KEPT_S + 1)
    assert names(run_dir) == []


def test_epilog_of_a_requeued_job_already_has_the_next_number(run_dir):
    begin(run_dir)
    begin(run_dir, SLURM_JOB_ID="77")
    end(run_dir, SLURM_JOB_RESTART_COUNT="1")
    assert names(run_dir) == [".gone-7.0", "7.1", "77.0"]


def test_directory_made_ahead_serves_when_slurm_skips_prolog(run_dir):
    begin(run_dir)
    end(run_dir, SLURM_JOB_RESTART_COUNT="1")
    top = run_dir / "jobs" / "7.1"
    assert ((top / "job").stat().st_uid, stat.S_IMODE((top / "job").stat().st_mode)) == (UID, 0o700)
    assert stat.S_IMODE(top.stat().st_mode) == stat.S_IMODE((top / "node").stat().st_mode) == 0o755
    assert json.loads((top / "node" / "context.json").read_text()) == {"v": 1, "job_id": 7, "attempt": 1, "node": "spot-1"}
    (top / "job" / "rank.0.json").write_text("{}")
    end(run_dir, SLURM_JOB_RESTART_COUNT="1")  # this attempt ends without another
    assert names(run_dir) == [".gone-7.0", ".gone-7.1"]


def test_prolog_that_runs_after_all_completes_it(run_dir):
    begin(run_dir)
    end(run_dir, SLURM_JOB_RESTART_COUNT="1")
    node = run_dir / "jobs" / "7.1" / "node"
    (node / "context.json").write_text(json.dumps({"v": 1, "job_id": 7, "attempt": 1, "node": "spot-1", "zone": "b"}))
    begin(run_dir, SLURM_JOB_RESTART_COUNT="1")
    context = json.loads((node / "context.json").read_text())
    assert (context["nodes"], context["zone"]) == (["spot-1", "spot-2"], "b")
    assert os.listdir(node) == ["context.json"]


def test_directory_made_ahead_for_nothing_is_removed(run_dir):
    begin(run_dir)
    begin(run_dir, SLURM_JOB_ID="8")
    end(run_dir, SLURM_JOB_RESTART_COUNT="1")
    end(run_dir, SLURM_JOB_ID="8", SLURM_JOB_RESTART_COUNT="1")
    (run_dir / "jobs" / "8.1" / "job" / "status.json").write_text("{}")
    begin(run_dir, SLURM_JOB_ID="9")
    for name in ("7.1", "8.1", "9.0"):
        os.utime(run_dir / "jobs" / name, (NOW, NOW))
    with jobdir.opened_jobs(run_dir) as jobs:
        jobdir.sweep(jobs, NOW + jobdir.NEXT_KEPT_S - 1)
        assert names(run_dir) == ["7.1", "8.1", "9.0"]
        jobdir.sweep(jobs, NOW + jobdir.NEXT_KEPT_S + 1)
    assert names(run_dir) == ["8.1", "9.0"], "what is in use stays"


def test_attempt_that_is_in_use_stays(run_dir):
    begin(run_dir)
    begin(run_dir, SLURM_JOB_RESTART_COUNT="1")
    end(run_dir, SLURM_JOB_RESTART_COUNT="1", busy=True)
    assert names(run_dir) == [".gone-7.0", "7.1"]


def test_epilog_without_a_number_ends_every_attempt(run_dir):
    begin(run_dir, SLURM_JOB_RESTART_COUNT="3")
    epilog.clear(run_dir, {"SLURM_JOB_ID": "7"}, NOW, lambda _: False)
    assert names(run_dir) == [".gone-7.3"]


def test_same_name_set_aside_twice(run_dir):
    for _ in range(2):
        begin(run_dir)
        end(run_dir)
    assert names(run_dir) == [".gone-7.0"]


def test_links_of_a_job_are_removed_and_not_followed(run_dir, tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("")
    begin(run_dir)
    job = run_dir / "jobs" / "7.0" / "job"
    (job / "out").symlink_to(victim)
    (job / "deep" / "er").mkdir(parents=True)
    (job / "deep" / "er" / "up").symlink_to("/")
    end(run_dir)
    end(run_dir, now=NOW * 2)
    assert names(run_dir) == []
    assert os.listdir(victim) == ["file"]


def test_tree_without_end_holds_nobody_up_and_goes(run_dir):
    begin(run_dir)
    here = os.getcwd()
    os.chdir(run_dir / "jobs" / "7.0" / "job")
    try:
        for _ in range(300):
            os.mkdir("d")
            os.chdir("d")
    finally:
        os.chdir(here)
    end(run_dir)
    end(run_dir, now=NOW * 2)
    assert names(run_dir) == [], "nothing of it stays in memory for good"


def test_context_names_no_nodes_where_they_are_too_many(run_dir):
    begin(run_dir, SLURM_NODELIST=",".join(f"n{number}" for number in range(5000)))
    assert "nodes" not in json.loads((run_dir / "jobs" / "7.0" / "node" / "context.json").read_text())


def test_commands_that_fail(tmp_path):
    assert hostnames(tmp_path, "n[1-2]", {}) == []
    with pytest.raises(ValueError, match="squeue"):
        restart_count(tmp_path, 7, {})


def test_restart_count_is_asked_for_where_slurm_does_not_tell(run_dir, tmp_path):
    squeue = tmp_path / "squeue"
    squeue.write_text(
        '#!/bin/sh\n[ "$SLURM_CONF:$*" = "/etc/s.conf:--noheader --jobs 7 -O RestartCnt:20" ] && echo "4                   "\n'
    )
    squeue.chmod(0o755)
    environ = {key: value for key, value in ENV.items() if key != "SLURM_JOB_RESTART_COUNT"}
    prolog.prepare(run_dir, tmp_path, environ | {"SLURM_CONF": "/etc/s.conf"}, NOW)
    assert names(run_dir) == ["7.4"]


def test_steps_are_known_by_their_title(tmp_path):
    for pid, title in {"12": b"slurmstepd: [7.batch]\0", "13": b"slurmstepd: [88+1.0]\0", "x": b"slurmstepd: [9.0]\0"}.items():
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "cmdline").write_bytes(title)
    assert [has_steps(job, tmp_path) for job in (7, 88, 9, 8)] == [True, True, False, False]
    os.chown(tmp_path / "12", UID, GID)
    assert not has_steps(7, tmp_path), "a user's own process passes for none"
