"""Who uses the GPUs, and what is left over."""

from pathlib import Path

import pytest
from holdfast_common.health.model import Sample
from holdfast_nodeagent.gpu.blame import Blame
from holdfast_nodeagent.gpu.inventory import Gpu, Inventory
from holdfast_nodeagent.health.fakes import FakeProcesses
from holdfast_nodeagent.health.snapshot import GpuJob
from holdfast_nodeagent.health.tenants import Tenants
from holdfast_nodeagent.processes import Process

MIB = 1 << 20


class Bed:
    def __init__(self, proc: Path, inventory: Inventory) -> None:
        self.processes = FakeProcesses()
        self.tenants = Tenants(self.processes, Blame(self.processes).job_of, proc)
        self.proc = proc
        self.inventory = inventory
        self.gpus: dict[str, dict[int, int]] = {"GPU-0": {}, "GPU-1": {}}
        self.used: dict[str, float | None] = {"GPU-0": 0.0, "GPU-1": 0.0}

    def run(self, pid: int, uid: int, job_id: int = 0, *, gpu: str = "GPU-0", name: str = "python", environ: bytes = b"") -> None:
        self.processes.table[pid] = Process(pid, 1, uid, 1.0, name, ticks=pid * 10)
        if job_id:
            self.processes.owners[pid] = job_id
        self.gpus[gpu][pid] = 100 * MIB
        (self.proc / str(pid)).mkdir(exist_ok=True)
        (self.proc / str(pid) / "environ").write_bytes(environ)

    def look(self) -> dict[tuple[str, str], Sample]:
        samples = self.tenants.look(self.gpus, self.used, self.inventory, 1.0)
        return {(sample.name, sample.gpu): sample for sample in samples}

    def left(self, gpu: str = "GPU-0") -> float | None:
        return self.look()["leftover_processes", gpu].value


@pytest.fixture
def bed(tmp_path: Path, inventory: Inventory) -> Bed:
    return Bed(tmp_path, inventory)


def test_a_job_that_is_here_owns_its_processes(bed: Bed) -> None:
    bed.processes.jobs = frozenset({12, 13})
    bed.run(100, 1000, 12, environ=b"A=b\0SLURM_JOB_ACCOUNT=physics\0SLURM_JOB_PARTITION=spot\0")
    bed.run(101, 1000, 12)
    bed.run(102, 1001, 13, gpu="GPU-1", environ=b"SLURM_JOB_ACCOUNT=a\nb\0SLURM_JOB_PARTITION=" + b"x" * 65 + b"\0")
    assert bed.left() == bed.left() == bed.left("GPU-1") == 0
    assert bed.tenants.nameless == {1000, 1001}
    bed.tenants.users[1000] = "ada"
    assert bed.tenants.unlabelled == {12: 101, 13: 102}
    for job_id, pid in {12: 100, 13: 102}.items():
        bed.tenants.labels[job_id] = bed.tenants.label_of(pid)
    assert bed.tenants.unlabelled == {}
    assert bed.tenants.jobs == (GpuJob("GPU-0", 12, "ada", "physics", "spot"), GpuJob("GPU-1", 13, "1001", "", ""))


def test_a_process_of_a_job_that_is_over_is_left_over_at_the_second_look(bed: Bed) -> None:
    bed.processes.jobs = frozenset({13})
    bed.run(100, 1000, 12)
    assert bed.left() == 0
    found = bed.look()["leftover_processes", "GPU-0"]
    assert (found.value, found.detail) == (1.0, "python (100) of job 12")
    assert bed.tenants.jobs == ()


def test_a_user_without_a_job_is_left_over_and_a_service_is_not(bed: Bed) -> None:
    bed.run(100, 1000)
    for pid, (uid, name) in enumerate([(0, "Xorg"), (999, "nvidia-persistenced"), (0, "nvidia-cuda-mps-server"), (65534, "dcgm")], 200):
        bed.run(pid, uid, name=name)
    assert bed.left() == 0
    assert bed.left() == 1


def test_another_process_under_the_same_number_is_another(bed: Bed) -> None:
    bed.run(100, 1000)
    bed.left()
    bed.processes.table[100] = Process(100, 1, 1000, 9.0, "python", ticks=9999)
    assert bed.left() == 0
    assert bed.left() == 1


def test_where_it_is_not_clear_which_jobs_are_here_nothing_is_left_over(bed: Bed) -> None:
    bed.processes.jobs = None
    bed.run(100, 1000, 12)
    bed.run(101, 1000)
    assert [bed.left() for _ in range(3)] == [0, 0, 0]


def test_a_process_that_is_gone_or_a_zombie_says_nothing(bed: Bed) -> None:
    bed.gpus["GPU-0"][77] = MIB
    bed.run(100, 1000, 12)
    bed.processes.table[100] = Process(100, 1, 1000, 1.0, "python", zombie=True)
    assert [bed.left() for _ in range(3)] == [0, 0, 0]


def test_memory_that_nobody_uses(bed: Bed) -> None:
    bed.used["GPU-0"] = 300.0 * MIB
    assert [bed.look()["leftover_memory_bytes", "GPU-0"].value for _ in range(2)] == [0.0, 300.0 * MIB]
    bed.run(100, 0, name="nvidia-cuda-mps-server")  # whatever it is: it has a process
    assert bed.look()["leftover_memory_bytes", "GPU-0"].value == 0
    del bed.gpus["GPU-0"][100]
    bed.processes.jobs = frozenset({12})  # its processes may be where we cannot see them
    assert [bed.look()["leftover_memory_bytes", "GPU-0"].value for _ in range(3)] == [0.0] * 3


def test_memory_that_is_not_told_or_is_a_mig_gpus_says_nothing(bed: Bed) -> None:
    bed.inventory = Inventory("1", "1", (Gpu(0, "GPU-0", "0000:18:00.0", mig=True), Gpu(1, "GPU-1", "0000:29:00.0")))
    bed.used = {"GPU-0": 300.0 * MIB, "GPU-1": None}
    assert not [key for _ in range(2) for key in bed.look() if key[0] == "leftover_memory_bytes"]


def test_whom_an_event_is_blamed_on(bed: Bed) -> None:
    bed.processes.jobs = frozenset({12, 13})
    bed.run(100, 1000, 12)
    bed.look()
    assert bed.tenants.blamed("GPU-0", 100) == 12
    assert bed.tenants.blamed("GPU-1", 100) == 12  # the process itself says more than where it runs
    assert bed.tenants.blamed("GPU-0", 0) == 12  # NVML names no process, but one job alone is there
    assert bed.tenants.blamed("GPU-1", 0) == 0
    bed.run(101, 1000, 13)
    bed.look()
    assert bed.tenants.blamed("GPU-0", 0) == 0
    del bed.processes.table[100], bed.processes.owners[100]
    assert bed.tenants.blamed("GPU-0", 100) == 12  # the driver has killed it since
