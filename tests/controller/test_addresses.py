"""Nodes' addresses, told many at a time: who waits goes along, and one that is refused takes nobody down with it."""

import asyncio

import pytest
from holdfast_common.clock import VirtualClock
from holdfast_common.errors import HoldfastError, SlurmUnavailable
from holdfast_controller.addresses import Addresses
from holdfast_slurm.fake import FakeSlurm
from hypothesis import given
from hypothesis import strategies as st

NAMES = [f"n{number}" for number in range(1, 41)]


def address_of(name: str) -> str:
    return f"10.0.0.{name.removeprefix('n').removeprefix('x')}"


def commands(slurm: FakeSlurm) -> list[tuple[str, int]]:
    """Each command, and of how many nodes it was."""
    return [(method, len(arguments[0] or ())) for _, method, arguments in slurm.calls]


async def tell_all(clock: VirtualClock, slurm: FakeSlurm, addresses: Addresses, names: list[str]) -> dict[str, str]:
    """Tell all at once, to a Slurm that takes its time; return whom it failed for, and why."""
    slurm.slow_s = 0.01
    tellers = [asyncio.create_task(addresses.tell(name, address_of(name))) for name in names]
    while not all(teller.done() for teller in tellers):
        await clock.advance(0.01)
    slurm.slow_s = 0.0
    outcomes = await asyncio.gather(*tellers, return_exceptions=True)
    assert all(outcome is None or isinstance(outcome, HoldfastError) for outcome in outcomes)
    return {name: str(outcome) for name, outcome in zip(names, outcomes, strict=True) if outcome is not None}


async def test_those_that_wait_are_told_together() -> None:
    clock = VirtualClock(1000.0)
    async with FakeSlurm(clock, NAMES) as slurm:
        addresses = Addresses(slurm, clock)
        assert await tell_all(clock, slurm, addresses, NAMES) == {}
        assert {view.name: view.address for view in await slurm.nodes()} == {name: address_of(name) for name in NAMES}
        assert commands(slurm)[:-1] == [("nodes", 1), ("set_addresses", 1), ("nodes", 39), ("set_addresses", 39)]


async def test_what_slurm_knows_already_is_not_said_again_and_no_address_is_no_news() -> None:
    clock = VirtualClock(1000.0)
    async with FakeSlurm(clock, NAMES[:2]) as slurm:
        addresses = Addresses(slurm, clock)
        await addresses.tell("n1", "10.0.0.1")
        await addresses.tell("n1", "10.0.0.1")
        await addresses.tell("n2", "")
        assert [method for method, _ in commands(slurm)].count("set_addresses") == 1


async def test_one_that_is_refused_harms_no_other() -> None:
    clock = VirtualClock(1000.0)
    async with FakeSlurm(clock, NAMES) as slurm:
        refused = await tell_all(clock, slurm, Addresses(slurm, clock), [*NAMES[:20], "x41", *NAMES[20:]])
        assert list(refused) == ["x41"]
        assert {view.address for view in await slurm.nodes()} == {address_of(name) for name in NAMES}
        assert len(commands(slurm)) < 4 * 7 + 4, "halves are tried, and not each by itself"


async def test_no_answer_fails_all_of_the_batch_and_the_next_try_is_a_new_one() -> None:
    clock = VirtualClock(1000.0)
    async with FakeSlurm(clock, NAMES) as slurm:
        addresses = Addresses(slurm, clock)
        slurm.fail_next("set_addresses", SlurmUnavailable("no answer"))
        assert list(await tell_all(clock, slurm, addresses, NAMES)) == NAMES[:1], "the one that the command was for"
        slurm.fail_next("nodes", SlurmUnavailable("no answer"), 2)
        assert set(await tell_all(clock, slurm, addresses, NAMES)) == set(NAMES)
        assert await tell_all(clock, slurm, addresses, NAMES) == {}


async def test_who_is_cancelled_while_it_tells_for_others_does_not_leave_them_behind() -> None:
    clock = VirtualClock(1000.0)
    async with FakeSlurm(clock, NAMES[:3]) as slurm:
        addresses = Addresses(slurm, clock)
        began = asyncio.Event()
        look = slurm.nodes

        async def hangs(names: list[str] | None = None) -> object:
            if not began.is_set():
                began.set()
                await asyncio.Event().wait()
            return await look(names)

        slurm.nodes = hangs  # type: ignore[assignment,method-assign]
        tellers = [asyncio.create_task(addresses.tell(name, address_of(name))) for name in NAMES[:3]]
        await began.wait()
        tellers[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tellers[0]
        await asyncio.gather(*tellers[1:])
        assert {view.name: view.address for view in await look(["n2", "n3"])} == {"n2": "10.0.0.2", "n3": "10.0.0.3"}


async def test_the_last_word_on_a_node_counts() -> None:
    clock = VirtualClock(1000.0)
    async with FakeSlurm(clock, ["n1"]) as slurm:
        addresses = Addresses(slurm, clock)
        await asyncio.gather(addresses.tell("n1", "10.0.0.8"), addresses.tell("n1", "10.0.0.9"))
        (view,) = await slurm.nodes()
        assert view.address == "10.0.0.9"


@given(
    known=st.lists(st.sampled_from(NAMES), max_size=12, unique=True),
    unknown=st.lists(st.integers(1, 30).map(lambda number: f"x{number}"), max_size=4, unique=True),
)
async def test_each_is_told_or_refused(known: list[str], unknown: list[str]) -> None:
    clock = VirtualClock(1000.0)
    async with FakeSlurm(clock, NAMES) as slurm:
        assert set(await tell_all(clock, slurm, Addresses(slurm, clock), [*unknown, *known])) == set(unknown)
        told = {view.name for view in await slurm.nodes() if view.address == address_of(view.name)}
        assert set(known) <= told
