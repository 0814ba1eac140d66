"""File systems and the checkpoint store; hung ones are fakes here, and threads in test_calls."""

import asyncio
import os
from pathlib import Path

import pytest
from holdfast_common.clock import VirtualClock, settle
from holdfast_common.health.model import Sample
from holdfast_nodeagent.health.disks import Disk, disk_samples, look, mount_fault, store_samples
from holdfast_nodeagent.health.fakes import FakeCalls
from holdfast_nodeagent.health.mounts import is_mounted, turned_read_only

GIB = 1 << 30


def by_name(samples: list[Sample]) -> dict[str, Sample]:
    return {sample.name: sample for sample in samples}


@pytest.fixture
def calls(clock: VirtualClock) -> FakeCalls:
    return FakeCalls(clock)


async def test_the_fullest_the_smallest_and_the_read_only_are_named(calls: FakeCalls) -> None:
    calls.results = {
        "disk /": Disk(Path("/"), 0.5, 10 * GIB, read_only=False),
        "disk /scratch": Disk(Path("/scratch"), 0.02, 400 * GIB, read_only=False),
        "disk /data": Disk(Path("/data"), 0.9, 900 * GIB, read_only=True),
    }
    found = by_name(await disk_samples(calls, [Path("/"), Path("/scratch"), Path("/data")], 1.0))
    assert (found["disk_free_ratio"].value, found["disk_free_ratio"].detail) == (0.02, "/scratch")
    assert (found["disk_free_bytes"].value, found["disk_free_bytes"].detail) == (10 * GIB, "/")
    assert (found["read_only_filesystems"].value, found["read_only_filesystems"].detail) == (1.0, "/data")


def test_a_file_system_is_looked_at_as_users_see_it(tmp_path: Path) -> None:
    found, real = look(tmp_path), os.statvfs(tmp_path)
    assert found.free_bytes == pytest.approx(real.f_bavail * real.f_frsize, rel=0.05)
    assert 0 <= found.free_ratio <= 1
    assert not found.read_only
    assert look(Path("/proc")).free_ratio == 1.0  # it has no blocks: it cannot be full


async def test_one_that_hangs_costs_five_seconds_and_spoils_no_other(calls: FakeCalls, clock: VirtualClock, tmp_path: Path) -> None:
    calls.hanging = {"disk /nfs"}
    looking = asyncio.ensure_future(disk_samples(calls, [Path("/nfs"), tmp_path], 1.0))
    await clock.advance(4.9)
    assert not looking.done()
    await clock.advance(0.2)
    await settle()
    found = by_name(looking.result())
    assert found["disk_free_ratio"].detail == str(tmp_path)
    assert found["read_only_filesystems"].detail == "/nfs: does not answer"


async def test_where_none_can_be_read_that_is_a_failed_reading(calls: FakeCalls) -> None:
    samples = await disk_samples(calls, [Path("/no/such/path")], 1.0)
    assert {sample.name for sample in samples} == {"disk_free_ratio", "disk_free_bytes", "read_only_filesystems"}
    assert all(sample.state == "failed" and sample.value is None for sample in samples)
    assert samples[0].detail == "/no/such/path: No such file or directory"
    assert await disk_samples(calls, [], 1.0) == []


async def test_the_checkpoint_store(calls: FakeCalls, clock: VirtualClock, tmp_path: Path) -> None:
    assert await store_samples(calls, [], 1.0) == []
    assert mount_fault(Path("/proc")) == ""
    (there,) = await store_samples(calls, [Path("/proc")], 1.0)
    assert (there.value, there.detail) == (0.0, "")
    (missing,) = await store_samples(calls, [Path("/proc"), tmp_path, tmp_path / "gone"], 1.0)
    assert missing.value == 2.0
    assert missing.detail == f"{tmp_path}: nothing is mounted there; {tmp_path / 'gone'}: No such file or directory"
    calls.hanging = {"mount /proc"}
    looking = asyncio.ensure_future(store_samples(calls, [Path("/proc")], 1.0))
    await clock.advance(5.1)
    await settle()
    (hung,) = looking.result()
    assert (hung.value, hung.detail) == (1.0, "/proc: does not answer within 5 s")


MOUNTS = r"""22 1 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda {root}
30 27 254:1 / /scratch rw,relatime - xfs /dev/vdb rw
31 27 254:2 / /scratch/my\040data rw,relatime - ext4 /dev/vdc ro,errors=remount-ro
32 27 254:3 / /iso ro,relatime - iso9660 /dev/sr0 ro
33 27 254:0 /usr /usr ro,relatime - ext4 /dev/vda rw
34 27 254:4 / /twice rw - ext4 /dev/vdd ro
35 27 254:5 / /twice rw - ext4 /dev/vde rw
"""


@pytest.mark.parametrize(
    ("path", "turned"),
    [
        ("/", False),
        ("/scratch", False),
        ("/scratch/my data", True),
        ("/scratch/my data/below", True),
        ("/scratch/my data2", False),
        ("/iso", False),  # someone mounted it so
        ("/usr/lib", False),  # a service's sandbox did
        ("/twice", False),  # the upper one counts
    ],
)
def test_only_what_the_kernel_has_made_read_only_counts(tmp_path: Path, path: str, turned: bool) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "mountinfo").write_text(MOUNTS.replace("{root}", "rw"))
    assert turned_read_only(Path(path), tmp_path) is turned


def test_the_root_after_an_error_of_its_disk_and_where_nothing_can_be_read(tmp_path: Path) -> None:
    assert not turned_read_only(Path("/"), tmp_path)
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "mountinfo").write_text(MOUNTS.replace("{root}", "ro"))
    assert turned_read_only(Path("/opt"), tmp_path)
    assert not turned_read_only(Path("/scratch"), tmp_path)
    assert is_mounted(Path("/scratch/my data"), tmp_path)
    assert not is_mounted(Path("/scratch/my"), tmp_path)
