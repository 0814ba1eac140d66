"""A node goes when nobody governs it any more: not earlier, and not while a job may still end well."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
from holdfast_common.clock import VirtualClock
from holdfast_common.errors import SlurmRefused, SlurmUnavailable
from holdfast_nodeagent.orphan import HARD_FACTOR, LONGEST_PAUSE_S, Orphan, due, run_command
from hypothesis import given
from hypothesis import strategies as st

LIMIT_S = 1800.0


@pytest.mark.parametrize(
    ("controller", "slurm", "jobs", "limit_s", "expected"),
    [
        (0.0, 0.0, False, LIMIT_S, True),
        (0.0, 1.0, False, LIMIT_S, False),
        (1.0, 0.0, False, LIMIT_S, False),
        (None, 0.0, False, LIMIT_S, False),
        (0.0, None, False, LIMIT_S, False),
        (None, None, False, LIMIT_S, False),
        (0.0, 0.0, True, LIMIT_S, False),
        (0.0, 0.0, False, 0.0, False),
        (-1e6, -1e6, False, 0.0, False),
        ((1 - HARD_FACTOR) * LIMIT_S, (1 - HARD_FACTOR) * LIMIT_S, True, LIMIT_S, True),
        ((1 - HARD_FACTOR) * LIMIT_S, (1 - HARD_FACTOR) * LIMIT_S + 1, True, LIMIT_S, False),
    ],
)
def test_when_it_is_due(controller: float | None, slurm: float | None, jobs: bool, limit_s: float, expected: bool) -> None:
    assert due(LIMIT_S, controller, slurm, jobs, limit_s) is expected


since = st.none() | st.floats(0, 1e6)


@given(now=st.floats(0, 1e6), controller=since, slurm=since, limit_s=st.floats(0.001, 1e5))
def test_it_is_never_due_with_jobs_and_not_without_and_stays_due(
    now: float, controller: float | None, slurm: float | None, limit_s: float
) -> None:
    if due(now, controller, slurm, True, limit_s):
        assert due(now, controller, slurm, False, limit_s)
    if due(now, controller, slurm, False, limit_s):
        assert due(now + 1, controller, slurm, False, limit_s)
        assert controller is not None
        assert slurm is not None
        assert min(now - controller, now - slurm) >= limit_s


class World:
    """Who answers, and which commands were given."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.controller_lost_at: float | None = None
        self.slurm: bool | Exception | None = True
        self.jobs = False
        self.pings = 0
        self.commands: list[tuple[float, tuple[str, ...]]] = []
        self.outcome: int | OSError = 0
        self.began = clock.monotonic()

    def silence_s(self) -> float:
        return 0.0 if self.controller_lost_at is None else self.clock.monotonic() - self.controller_lost_at

    async def ping(self) -> bool | None:
        self.pings += 1
        if isinstance(self.slurm, Exception):
            raise self.slurm
        return self.slurm

    async def run(self, command: Sequence[str]) -> int:
        self.commands.append((self.clock.monotonic() - self.began, tuple(command)))
        if isinstance(self.outcome, OSError):
            raise self.outcome
        return self.outcome

    def lose_both(self) -> None:
        self.controller_lost_at = self.clock.monotonic()
        self.slurm = False


@pytest.fixture
async def start(clock: VirtualClock) -> AsyncIterator[Callable[..., World]]:
    tasks: list[asyncio.Task[None]] = []

    def begin(limit_s: float = LIMIT_S) -> World:
        world = World(clock)
        orphan = Orphan(clock, world.silence_s, world.ping, lambda: world.jobs, limit_s, ("poweroff", "-f"), world.run)
        tasks.append(asyncio.ensure_future(orphan.run()))
        return world

    yield begin
    for task in tasks:
        task.cancel()


Start = Callable[..., World]


async def test_a_node_that_has_lost_both_goes_once(start: Start, clock: VirtualClock) -> None:
    world = start()
    await clock.advance(600)
    world.lose_both()
    await clock.advance(LIMIT_S)
    assert world.commands == []
    await clock.advance(2 * LONGEST_PAUSE_S)
    ((at, command),) = world.commands
    assert command == ("poweroff", "-f")
    assert 600 + LIMIT_S <= at <= 600 + LIMIT_S + 2 * LONGEST_PAUSE_S
    await clock.advance(10 * LIMIT_S)
    assert len(world.commands) == 1


@pytest.mark.parametrize("slurm", [False, SlurmUnavailable("no answer"), SlurmRefused("no")])
async def test_no_answer_of_any_kind_is_an_answer(start: Start, clock: VirtualClock, slurm: bool | Exception) -> None:
    world = start()
    world.lose_both()
    world.slurm = slurm
    await clock.advance(2 * LIMIT_S)
    assert len(world.commands) == 1


async def test_a_node_that_cannot_ask_slurm_waits_as_long_as_one_with_a_job(start: Start, clock: VirtualClock) -> None:
    world = start()
    world.lose_both()
    world.slurm = None  # configless, and without a name yet: it has no slurm.conf
    await clock.advance(HARD_FACTOR * LIMIT_S - LONGEST_PAUSE_S)
    assert world.commands == []
    await clock.advance(2 * LONGEST_PAUSE_S)
    assert len(world.commands) == 1


async def test_what_could_not_be_asked_was_not_silent(start: Start, clock: VirtualClock) -> None:
    world = start()
    world.lose_both()
    world.slurm = None
    await clock.advance(5 * LIMIT_S)
    world.slurm = False  # now it can be asked: its silence counts from here
    await clock.advance(LIMIT_S - 2 * LONGEST_PAUSE_S)
    world.slurm = None
    await clock.advance(LONGEST_PAUSE_S)
    world.slurm = False
    await clock.advance(LIMIT_S - 2 * LONGEST_PAUSE_S)
    assert world.commands == []
    await clock.advance(4 * LONGEST_PAUSE_S)
    assert len(world.commands) == 1


async def test_while_slurm_answers_it_stays(start: Start, clock: VirtualClock) -> None:
    world = start()
    world.controller_lost_at = clock.monotonic()
    await clock.advance(100 * LIMIT_S)
    assert world.commands == []
    world.slurm = False
    await clock.advance(LIMIT_S - 2 * LONGEST_PAUSE_S)
    world.slurm = True  # back in time: the wait begins anew
    await clock.advance(LONGEST_PAUSE_S)
    world.slurm = False
    await clock.advance(LIMIT_S - LONGEST_PAUSE_S)
    assert world.commands == []
    await clock.advance(3 * LONGEST_PAUSE_S)
    assert len(world.commands) == 1


async def test_while_the_controller_answers_it_stays_and_slurm_is_not_bothered(start: Start, clock: VirtualClock) -> None:
    world = start()
    world.slurm = False
    await clock.advance(100 * LIMIT_S)
    assert (world.commands, world.pings) == ([], 0)
    world.lose_both()
    await clock.advance(LIMIT_S - LONGEST_PAUSE_S)
    assert world.commands == []  # Slurm's silence counts from when it was first asked
    world.controller_lost_at = None
    await clock.advance(100 * LIMIT_S)
    assert world.commands == []


async def test_slurm_is_asked_at_most_once_a_minute(start: Start, clock: VirtualClock) -> None:
    world = start()
    world.controller_lost_at = clock.monotonic()
    await clock.advance(3600)
    assert 50 <= world.pings <= 3600 / LONGEST_PAUSE_S


async def test_a_job_is_waited_for_until_it_is_out(start: Start, clock: VirtualClock) -> None:
    world = start()
    world.jobs = True
    world.lose_both()
    await clock.advance(3 * LIMIT_S)
    assert world.commands == []
    world.jobs = False
    await clock.advance(2 * LONGEST_PAUSE_S)
    assert len(world.commands) == 1


async def test_a_job_that_never_ends_is_not_paid_for_for_ever(start: Start, clock: VirtualClock) -> None:
    world = start()
    world.jobs = True
    world.lose_both()
    await clock.advance(HARD_FACTOR * LIMIT_S)
    assert world.commands == []
    await clock.advance(2 * LONGEST_PAUSE_S)
    assert len(world.commands) == 1


async def test_a_job_outlives_an_outage_that_is_mended(start: Start, clock: VirtualClock) -> None:
    world = start()
    world.jobs = True
    world.lose_both()
    await clock.advance(HARD_FACTOR * LIMIT_S - 300)
    world.controller_lost_at, world.slurm = None, True
    await clock.advance(HARD_FACTOR * LIMIT_S)
    assert world.commands == []


@pytest.mark.parametrize("outcome", [1, OSError(2, "No such file or directory")])
async def test_a_command_that_fails_is_given_again(start: Start, clock: VirtualClock, outcome: int | OSError) -> None:
    world = start()
    world.outcome = outcome
    world.lose_both()
    await clock.advance(LIMIT_S + 4 * LONGEST_PAUSE_S)
    assert len(world.commands) >= 2
    world.outcome = 0
    await clock.advance(LONGEST_PAUSE_S)
    given_so_far = len(world.commands)
    await clock.advance(LIMIT_S)
    assert len(world.commands) == given_so_far


async def test_a_command_that_fails_is_not_given_again_to_a_node_that_is_governed_again(start: Start, clock: VirtualClock) -> None:
    world = start()
    world.outcome = 1
    world.lose_both()
    await clock.advance(LIMIT_S + 2 * LONGEST_PAUSE_S)
    given_so_far = len(world.commands)
    assert given_so_far
    world.slurm = True
    await clock.advance(LIMIT_S)
    assert len(world.commands) == given_so_far


async def test_a_limit_of_zero_means_never(start: Start, clock: VirtualClock) -> None:
    world = start(0.0)
    world.lose_both()
    await clock.advance(1e6)
    assert (world.commands, world.pings) == ([], 0)


async def test_the_command_is_run() -> None:
    assert await run_command(("sh", "-c", "exit 3")) == 3
    assert await run_command(("true",)) == 0
    with pytest.raises(FileNotFoundError):
        await run_command(("/no/such/command",))
