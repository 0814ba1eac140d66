"""The jobs' directories on disk, as hostile as a job can make them."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from holdfast_nodeagent.fakes import FakeJob
from holdfast_nodeagent.jobdirs import JobDirs, JobKey

KEY = JobKey(12, 0)


@pytest.fixture
def dirs(run_dir: Path) -> JobDirs:
    return JobDirs(run_dir / "jobs")


@pytest.fixture
def job(make_job: Callable[..., FakeJob]) -> FakeJob:
    return make_job()


def faults(dirs: JobDirs) -> dict[str, str]:
    claims = dirs.claims(KEY)
    assert claims is not None
    return claims.faults


def test_only_whole_directories_of_ours_are_jobs(dirs: JobDirs, job: FakeJob, make_job: Callable[..., FakeJob]) -> None:
    make_job(13, 4)
    for name in ("12", "x.1", "012.0", "12.01", "12.0.1", "99999999999.0"):
        (dirs.root / name / "node").mkdir(parents=True)
        (dirs.root / name / "job").mkdir()
        (dirs.root / name / "node" / "context.json").write_text("{}")
    (dirs.root / "14.0" / "node").mkdir(parents=True)
    (dirs.root / "15.0").symlink_to(dirs.root / "12.0")
    (dirs.root / "16.0").write_text("")
    (dirs.root / "17.0" / "node").mkdir(parents=True)
    (dirs.root / "17.0" / "job").mkdir()
    make_job(18).path.rename(dirs.root / ".gone-18.0")
    assert dirs.keys() == {KEY, JobKey(13, 4)}
    assert dirs.keys(aside=True) == {JobKey(18, 0)}


def test_a_directory_that_others_may_write_to_is_not_ours(dirs: JobDirs, job: FakeJob) -> None:
    job.path.chmod(0o777)
    assert dirs.keys() == frozenset()
    job.path.chmod(0o755)
    (job.path / "node").chmod(0o775)
    assert dirs.keys() == frozenset()


def test_a_claim_is_read_with_its_user(dirs: JobDirs, job: FakeJob) -> None:
    job.rank(0)
    job.rank(3)
    job.status()
    (job.path / "job" / "rank.x.json").write_text("{}")
    (job.path / "job" / "rank.01.json").write_text("{}")
    claims = dirs.claims(KEY)
    assert claims is not None
    assert claims.uid == os.getuid()
    assert claims.texts.keys() == {"rank.0.json", "rank.3.json", "status.json"}
    assert claims.faults == {}


def test_a_link_is_not_followed(dirs: JobDirs, job: FakeJob, tmp_path: Path) -> None:
    secret = tmp_path / "shadow"
    secret.write_text('{"v": 1}')
    (job.path / "job" / "rank.0.json").symlink_to(secret)
    assert faults(dirs) == {"rank.0.json": "Too many levels of symbolic links"}


def test_the_jobs_folder_as_a_link_is_not_followed(dirs: JobDirs, job: FakeJob, tmp_path: Path) -> None:
    (job.path / "job").rmdir()
    (job.path / "job").symlink_to(tmp_path)
    assert dirs.claims(KEY) is None
    assert dirs.stamp(KEY, "job") is None


def test_a_pipe_does_not_block(dirs: JobDirs, job: FakeJob) -> None:
    os.mkfifo(job.path / "job" / "status.json")
    assert faults(dirs) == {"status.json": "is no regular file"}


def test_a_directory_in_the_place_of_a_file(dirs: JobDirs, job: FakeJob) -> None:
    (job.path / "job" / "status.json").mkdir()
    assert faults(dirs) == {"status.json": "is no regular file"}


def test_a_huge_file_is_not_read(dirs: JobDirs, job: FakeJob) -> None:
    with (job.path / "job" / "status.json").open("wb") as file:
        file.truncate(1 << 40)
    assert faults(dirs) == {"status.json": "larger than 65536 bytes"}


def test_another_users_file_by_a_hard_link_is_not_read(dirs: JobDirs, job: FakeJob) -> None:
    job.status()
    os.chown(job.path / "job", 4242, 4242)
    assert faults(dirs) == {"status.json": "belongs to another user than the job"}


def test_ranks_and_entries_are_bounded(dirs: JobDirs, job: FakeJob) -> None:
    for number in range(1100):
        (job.path / "job" / f"rank.{number}.json").touch()
    claims = dirs.claims(KEY)
    assert claims is not None
    assert len(claims.texts) == 1024


def test_the_stamp_changes_with_every_rename(dirs: JobDirs, job: FakeJob) -> None:
    before = dirs.stamp(KEY, "job")
    job.status()
    assert dirs.stamp(KEY, "job") != before


def test_our_own_files(dirs: JobDirs, job: FakeJob) -> None:
    assert dirs.write_node(KEY, "notice.json", b"{}")
    path = job.path / "node" / "notice.json"
    assert path.stat().st_mode & 0o777 == 0o644
    assert dirs.read_node(KEY, "notice.json") == b"{}"
    dirs.remove_node(KEY, "notice.json")
    dirs.remove_node(KEY, "notice.json")
    assert dirs.read_node(KEY, "notice.json") is None
    assert not dirs.write_node(JobKey(99, 0), "notice.json", b"{}")
