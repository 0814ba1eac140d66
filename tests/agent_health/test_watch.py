"""What is read and heard becomes findings, and these are told: in virtual time, against fakes."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from holdfast_common.clock import VirtualClock, settle
from holdfast_common.health.model import GpuEvent, Sample
from holdfast_common.health.rules import default_rules
from holdfast_nodeagent.gpu.inventory import Inventory
from holdfast_nodeagent.health.fake_node import XID_LINE, FakeNode
from holdfast_nodeagent.health.kept import Memory
from holdfast_nodeagent.processes import Process
from holdfast_protos.v1 import agent_pb2 as pb

WELCOME = pb.Welcome(node="spot-1", gpus=2, gpu_model="H100")


@pytest.fixture
async def bed(tmp_path: Path, clock: VirtualClock, inventory: Inventory) -> AsyncIterator[FakeNode]:
    made = FakeNode(tmp_path, clock, inventory)
    yield made
    await made.stop()


@pytest.fixture
async def sound(bed: FakeNode) -> FakeNode:
    """A machine on which all is well, and has been read."""
    await bed.start()
    bed.read_all()
    bed.watch.on_welcome(WELCOME)
    assert not bed.watch.ready  # what the kernel has said so far was not heard yet
    await settle()
    assert bed.watch.ready
    assert bed.rules() == {}
    return bed


async def test_an_xid_in_the_kernels_log_is_told_without_time_passing(sound: FakeNode) -> None:
    now, said = sound.clock.now(), len(sound.said)
    sound.lines.append(XID_LINE.format(79))
    await settle()
    assert sound.clock.now() == now
    (health,) = sound.said[said:]
    (finding,) = [each for each in health.findings if each.action in ("evacuate", "replace")]
    assert finding.gpu == "GPU-0"
    assert "79" in finding.text
    assert sound.word == "sick"
    assert sound.watch.snapshot().xids["GPU-0", 79].count == 1


async def test_both_sources_make_one_event(sound: FakeNode) -> None:
    sound.lines.append(XID_LINE.format(79))
    await settle()
    said = len(sound.said)
    sound.watch.on_event(GpuEvent(sound.clock.now() + 0.4, "xid", 79, "GPU-0", source="nvml"))
    sound.watch.on_event(GpuEvent(sound.clock.now(), "xid", 79, "GPU-1", source="nvml"))  # another GPU's is another
    assert len(sound.said) == said + 1
    counts = {gpu: count.count for (gpu, xid), count in sound.watch.snapshot().xids.items() if xid == 79}
    assert counts == {"GPU-0": 1, "GPU-1": 1}


async def test_the_job_is_named(sound: FakeNode) -> None:
    sound.processes.table[7] = Process(7, 1, 1000, 1.0, "python")
    sound.processes.owners[7] = 12
    sound.processes.jobs = frozenset({12})
    sound.watch.on_processes({"GPU-0": {7: 1}, "GPU-1": {}})
    del sound.processes.table[7], sound.processes.owners[7]  # the driver kills it at once
    sound.lines.append(XID_LINE.format(79))
    await settle()
    (kept,) = Memory(sound.run_dir / "health.json", "boot-1").kept.heard()
    assert (kept.job_id, kept.pid, kept.process) == (12, 7, "python")


async def test_a_restart_forgets_nothing_and_counts_nothing_twice(sound: FakeNode) -> None:
    sound.lines.append("usb 1-1: new device")
    sound.lines.append(XID_LINE.format(79))
    await settle()
    findings = sound.rules()
    await sound.again()
    assert sound.lines.opened_after == [-1, 1]
    sound.watch.on_event(GpuEvent(sound.clock.now() + 1, "xid", 79, "GPU-0", source="nvml"))  # NVML's word comes after the restart
    await settle()
    assert sound.rules() == findings
    assert sound.watch.snapshot().xids["GPU-0", 79].count == 1
    sound.boot_id = "boot-2"
    await sound.again()
    assert sound.watch.findings == ()
    assert sound.watch.snapshot().xids == {}


async def test_an_event_that_was_told_and_not_kept_is_told_again(sound: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Memory, "save", lambda self: None)  # killed between telling and keeping
    sound.lines.append(XID_LINE.format(79))
    await settle()
    first = sound.rules()
    assert first
    monkeypatch.undo()
    await sound.again(crash=True)
    assert sound.lines.opened_after[-1] == -1
    assert sound.rules() == first
    assert sound.watch.snapshot().xids["GPU-0", 79].count == 1
    await sound.again(crash=True)
    assert sound.lines.opened_after[-1] == 0
    assert sound.watch.snapshot().xids["GPU-0", 79].count == 1
    assert {finding.rule: finding.action for finding in sound.watch.findings} == first


async def test_the_kernels_messages_wait_for_the_first_list_of_gpus_but_not_for_ever(bed: FakeNode) -> None:
    bed.lines.append(XID_LINE.format(79))
    await bed.start()
    assert bed.rules() == {}
    bed.read_all()
    await settle()
    assert [finding.gpu for finding in bed.said[-1].findings] == ["GPU-0"]
    bed.boot_id = "boot-2"
    await bed.again()
    await bed.clock.advance(5.1)  # NVML hangs
    assert [finding.gpu for finding in bed.said[-1].findings] == ["PCI:0000:18:00"]
    assert bed.said[-1].gpus_visible == 0


async def test_a_gpu_that_nvml_does_not_list_any_more_is_still_known_to_the_kernel(sound: FakeNode) -> None:
    sound.watch.on_inventory(Inventory(sound.inventory.driver, sound.inventory.nvml, sound.inventory.gpus[1:]))
    sound.lines.append(XID_LINE.format(79))
    await settle()
    assert "GPU-0" in [finding.gpu for finding in sound.said[-1].findings]
    assert not [key for key in sound.watch.snapshot().samples if key[1] == "GPU-0"]


async def test_a_hung_driver_is_a_finding_at_its_third_missed_heartbeat(sound: FakeNode) -> None:
    for missed in (1, 2):
        sound.watch.on_missed(missed)
        assert sound.rules() == {}
    sound.watch.on_missed(3)
    assert sound.rules() == {"nvml-stalled": "evacuate"}
    assert sound.word == "sick"
    sound.watch.on_missed(0)
    for _ in range(8):
        await sound.clock.advance(5)
        sound.tier("fast")
    assert sound.rules() == {}
    assert sound.word == "ok"


async def test_a_lost_gpu_is_a_finding(sound: FakeNode) -> None:
    for _ in range(3):  # a rule may want to see it more than once
        await sound.clock.advance(5)
        sound.tier("fast", Sample(sound.clock.now(), "gpus_visible", 1.0), Sample(sound.clock.now(), "up", 0.0, "GPU-0"))
    assert set(sound.rules().values()) & {"evacuate", "replace"}
    assert sound.watch.snapshot().samples["gpus_missing", ""].value == 1.0


async def test_nvml_that_is_not_there_is_a_fault_only_where_gpus_should_be(bed: FakeNode) -> None:
    await bed.start()
    bed.watch.on_unavailable("NVML_ERROR_DRIVER_NOT_LOADED")
    await settle()
    assert bed.watch.ready
    assert bed.rules() == {}
    bed.watch.on_welcome(WELCOME)
    await bed.clock.advance(20)
    assert bed.rules() == {"nvml-unavailable": "drain"}
    assert bed.watch.snapshot().samples["gpus_visible", ""].value == 0
    bed.read_all()  # the driver was loaded late
    for _ in range(8):
        await bed.clock.advance(5)
        bed.tier("fast")
    assert bed.rules() == {}


async def test_what_a_node_should_have_outlives_the_agent(sound: FakeNode) -> None:
    await sound.again()
    assert sound.watch.snapshot().gpus_expected == 2
    sound.watch.on_welcome(pb.Welcome(node="spot-1"))
    assert sound.watch.snapshot().gpus_expected is None


async def test_all_is_said_again_when_the_controller_is_back(sound: FakeNode) -> None:
    sound.lines.append(XID_LINE.format(79))
    await settle()
    said = len(sound.said)
    sound.watch.on_welcome(WELCOME)
    (again,) = sound.said[said:]
    assert again == sound.said[said - 1]


async def test_other_rules_are_judged_by_at_once_and_kept(sound: FakeNode, caplog: pytest.LogCaptureFixture) -> None:
    before = sound.said[-1].rules_revision
    assert before == default_rules().revision
    toml = OTHER_RULES
    sound.watch.on_rules(pb.HealthRules(toml=toml, revision="r2"))
    other = sound.said[-1].rules_revision
    assert other != before
    said = len(sound.said)
    sound.watch.on_rules(pb.HealthRules(toml="bad = ["))
    sound.watch.on_rules(pb.HealthRules(toml=toml))
    assert len(sound.said) == said  # refused, and known already
    assert "refused" in caplog.text
    await sound.again()
    sound.watch.on_welcome(WELCOME)
    assert sound.said[-1].rules_revision == other
    sound.watch.on_rules(pb.HealthRules())
    assert sound.said[-1].rules_revision == before


OTHER_RULES = "version = 1\n"


async def test_kept_rules_that_are_not_valid_any_more_do_not_stop_the_watch(sound: FakeNode, caplog: pytest.LogCaptureFixture) -> None:
    await sound.stop()
    file = sound.run_dir / "health.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "rules": "bad = ["}))
    sound.make()
    await sound.start()
    assert "default ones hold" in caplog.text


async def test_a_resolved_finding_is_over(sound: FakeNode) -> None:
    sound.lines.append(XID_LINE.format(79))
    await settle()
    (rule,) = sound.rules()
    sound.watch.on_order(pb.HealthOrder(resolve_rule=rule, resolve_gpu="GPU-1"))
    assert rule in sound.rules()
    sound.watch.on_order(pb.HealthOrder(resolve_rule=rule, resolve_gpu="GPU-0"))
    assert sound.rules() == {}
    assert sound.word == "ok"
    await sound.again()
    assert sound.watch.findings == ()


async def test_a_check_reads_everything_and_is_answered_changed_or_not(sound: FakeNode) -> None:
    said, asked = len(sound.said), sound.reader.asked
    sound.watch.on_order(pb.HealthOrder(check_now=True))
    await settle()
    assert sound.reader.asked == asked + 1
    assert len(sound.said) == said
    sound.read_all()
    await settle()
    assert len(sound.said) == said + 1
    sound.watch.on_order(pb.HealthOrder(check_now=True))
    await sound.clock.advance(20.1)  # NVML hangs: what is known is said all the same
    assert len(sound.said) == said + 2


async def test_the_word_for_slurms_hook_is_renewed_before_it_is_stale(sound: FakeNode) -> None:
    for _ in range(6):
        word, until = (sound.run_dir / "health").read_text().split()
        assert word == "ok"
        assert int(until) > sound.clock.now() + 40
        await sound.clock.advance(15)


async def test_before_all_has_been_read_nothing_is_called_ok(bed: FakeNode) -> None:
    await bed.start()
    await bed.clock.advance(60)
    assert not (bed.run_dir / "health").exists()
    bed.read_all()
    await bed.clock.advance(5)
    assert bed.word == "ok"


async def test_figures_that_move_are_not_told_each_time(sound: FakeNode) -> None:
    said = len(sound.said)
    for value in range(20):
        await sound.clock.advance(15)
        sound.tier("medium", Sample(sound.clock.now(), "power_watts", 300.0 + value, "GPU-0"))
    assert len(sound.said) == said
    sound.watch.on_welcome(WELCOME)
    readings = {(reading.name, reading.gpu): reading.value for reading in sound.said[-1].readings}
    assert readings["power_watts", "GPU-0"] == 319.0


async def test_a_hung_mount_is_a_finding_and_holds_up_nothing(bed: FakeNode) -> None:
    bed.mounts, bed.calls.hanging = [Path("/ckpt")], {"mount /ckpt"}
    bed.make()
    await bed.start()
    bed.read_all()
    for _ in range(40):
        await bed.clock.advance(5)
        bed.tier("fast")
    assert bed.watch.snapshot().samples["checkpoint_store_missing", ""].value == 1.0
    assert bed.watch.ready
    assert bed.calls.made.count("mount /ckpt") <= 4  # one look a minute
    assert bed.word in ("ok", "sick")


async def test_a_machine_without_gpus(tmp_path: Path, clock: VirtualClock) -> None:
    bed = FakeNode(tmp_path, clock, Inventory(), gpus=False)
    await bed.start()
    assert bed.watch.ready  # at once
    assert await bed.watch.quick_check() == "passed"
    await clock.advance(600)
    assert (bed.reader.runs, bed.lines.opened_after) == (0, [])
    assert {name for name, _ in bed.watch.snapshot().samples} >= {"disk_free_ratio", "memory_available_ratio"}
    assert bed.word == "ok"
    bed.watch.on_welcome(WELCOME)  # but it should have some
    await settle()
    assert bed.reader.runs == 1
    await bed.stop()


async def test_a_fault_of_ours_ends_nothing(sound: FakeNode, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(sound.watch._judging._judge, "findings", fail)
    sound.lines.append(XID_LINE.format(79))
    sound.tier("fast")
    sound.watch.on_welcome(WELCOME)
    await sound.clock.advance(30)
    assert "a bug" in caplog.text
    monkeypatch.undo()
    await sound.clock.advance(70)
    assert sound.task is not None
    assert not sound.task.done()
    assert sound.rules()  # the XID was not forgotten


async def test_a_snapshot_has_all_of_it(sound: FakeNode) -> None:
    sound.tier("fast", Sample(sound.clock.now(), "up", 1.0, "GPU-0"))
    found = sound.watch.snapshot()
    assert (found.node, found.ready, found.inventory, found.gpus_expected) == ("spot-1", True, sound.inventory, 2)
    assert found.polled_at == sound.clock.now()
    assert found.tiers["fast"].count == 2
    assert found.tiers["fast"].buckets == (0, 0, 2, 2, 2, 2, 2)
    assert found.tiers["fast"].sum_s == pytest.approx(0.002)
    assert (found.stalls, found.restarts) == (0, 0)


async def test_users_of_gpus_get_their_names(sound: FakeNode) -> None:
    sound.processes.table[7] = Process(7, 1, 0, 1.0, "python")
    sound.processes.owners[7], sound.processes.jobs = 12, frozenset({12})
    sound.watch.on_processes({"GPU-0": {7: 1}, "GPU-1": {}})
    await sound.clock.advance(16)
    (job,) = sound.watch.snapshot().gpu_jobs
    assert (job.uuid, job.job_id, job.user) == ("GPU-0", 12, "root")
    assert (sound.watch.gpus_of(12), sound.watch.gpus_of(13)) == (1, 0)


async def test_a_process_that_hangs_in_the_driver_holds_nothing_up(sound: FakeNode) -> None:
    environ = sound.run_dir / "proc" / "7" / "environ"
    environ.parent.mkdir(parents=True)
    environ.write_bytes(b"SLURM_JOB_ACCOUNT=physics\0SLURM_JOB_PARTITION=spot\0")
    sound.processes.table[7] = Process(7, 1, 0, 1.0, "python")
    sound.processes.owners[7], sound.processes.jobs = 12, frozenset({12})
    sound.calls.hanging = {"process 7"}
    sound.watch.on_processes({"GPU-0": {7: 1}, "GPU-1": {}})
    await sound.clock.advance(60)
    (job,) = sound.watch.snapshot().gpu_jobs
    assert (job.job_id, job.account) == (12, "")
    assert sound.clock.now() - sound.watch.snapshot().samples["memory_available_ratio", ""].at <= 15
    sound.calls.hanging = set()
    await sound.clock.advance(30)
    (job,) = sound.watch.snapshot().gpu_jobs
    assert (job.account, job.partition) == ("physics", "spot")


async def test_the_clocks_are_compared(sound: FakeNode) -> None:
    for _ in range(3):
        sound.watch.on_sent(sound.clock.now() - 9.0)
    await sound.clock.advance(75)
    assert sound.watch.snapshot().samples["clock_skew_seconds", ""].value == pytest.approx(9.0)
