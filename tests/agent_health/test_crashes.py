"""Death between any two of: told, written for the hook, kept. The end is the one that would have been reached.

`os._exit` becomes an exception that nothing catches, after which nothing is written any more.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from holdfast_common import faults
from holdfast_common.clock import VirtualClock, settle
from holdfast_nodeagent.gpu.inventory import Inventory
from holdfast_nodeagent.health.fake_node import XID_LINE, FakeNode
from holdfast_nodeagent.health.kept import Memory


class Died(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def die_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def die(_: int) -> None:
        monkeypatch.setattr(Memory, "save", lambda self: None)
        raise Died

    def arm(point: str) -> None:
        monkeypatch.setenv(faults.VARIABLE, point)
        faults._passes.clear()

    monkeypatch.setattr("holdfast_common.faults.os._exit", die)
    return arm


@pytest.mark.parametrize("point", ["agent.verdict", "agent.health", "agent.health:2"])
async def test_an_xid_is_neither_lost_nor_counted_twice(
    point: str, die_at: Callable[[str], None], tmp_path: Path, clock: VirtualClock, inventory: Inventory, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = FakeNode(tmp_path, clock, inventory)
    await node.start()
    node.read_all()
    await settle()
    node.lines.append("usb 1-1: new device")
    node.lines.append(XID_LINE.format(79))
    die_at(point)
    await clock.advance(6)  # the second time is when it is kept how often the XID came
    assert node.task is not None
    assert node.task.done()
    with pytest.raises((Died, BaseExceptionGroup)):
        await node.task
    told = node.rules()
    monkeypatch.undo()
    node.make()
    await node.start()
    node.read_all()
    await settle()
    assert node.rules() == told == {"xid-79": "replace"}
    assert node.watch.snapshot().xids["GPU-0", 79].count == 1
    assert node.said[-1].findings[0].strikes == 1
    assert node.word == "sick"
    await node.stop()


async def test_a_storm_is_written_seldom_and_counted_wholly(
    tmp_path: Path, clock: VirtualClock, inventory: Inventory, monkeypatch: pytest.MonkeyPatch
) -> None:
    saves: list[int] = []
    save = Memory.save
    monkeypatch.setattr(Memory, "save", lambda memory: saves.append(memory.kept.kernel_seq) or save(memory))
    node = FakeNode(tmp_path, clock, inventory)
    await node.start()
    node.read_all()
    for _ in range(300):
        node.lines.append(XID_LINE.format(43))
    while node.watch.snapshot().xids.get(("GPU-0", 43)) is None or node.watch.snapshot().xids["GPU-0", 43].count < 300:
        await settle()
    assert len([seq for seq in saves if seq >= 0]) < 10
    await node.again(crash=True)
    node.read_all()
    while node.watch.snapshot().xids["GPU-0", 43].count < 300:
        await settle()
    await clock.advance(6)
    assert saves[-1] == 299
    assert node.watch.snapshot().xids["GPU-0", 43].count == 300
    await node.again(crash=True)
    assert node.watch.snapshot().xids["GPU-0", 43].count == 300
    await node.stop()
