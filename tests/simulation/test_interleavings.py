"""Everything at once, in every order: Hypothesis interleaves jobs, reclaims, clouds and Slurm that fail, and deaths of the controller.

`HOLDFAST_SIM_EXAMPLES=N` looks at N stories instead of the few of the default run (`scripts/test-full`).
"""

import logging
import os
import tempfile
from collections import Counter
from pathlib import Path

import pytest
import structlog
from holdfast_common.notice import NoticeKind
from holdfast_controller.planning import Bounds
from holdfast_controller.providers.base import FaultKind
from holdfast_controller.providers.fake_faults import duplicate, hang, lost_answer, partial, refusal
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sim_invariants import always, settle
from sim_kinds import KINDS
from sim_promises import CALM_S
from sim_slurm import DEEDS, Trouble
from sim_world import POLICY, POOL_A, POOL_B, World

JUDGED: Counter[str] = Counter()
"""In all stories: a promise that is never held against anything cannot be broken."""
EXAMPLES = int(os.environ.get("HOLDFAST_SIM_EXAMPLES", "40"))
NODES = 5

TROUBLES = {
    "lost": lost_answer(1.0).on("launch"),
    "lost thrice": lost_answer(1.0).on("launch", times=3),
    "hang": hang(25.0).on("launch"),
    "hang and act": hang(25.0, acts=True).on("launch"),
    "partial": partial(1).on("launch"),
    "twice": duplicate().on("launch"),
    "throttle": refusal(FaultKind.THROTTLE, 3.0).on("launch", times=2),
    "quota": refusal(FaultKind.QUOTA, 20.0).on("launch"),
    "no list": refusal(FaultKind.TRANSIENT, 1.0).on("instances", times=4),
    "list hangs": hang(40.0).on("instances"),
    "no find": refusal(FaultKind.TRANSIENT, 1.0).on("find", times=2),
    "no end": refusal(FaultKind.TRANSIENT, 1.0).on("terminate", times=3),
    "end lost": lost_answer(2.0).on("terminate", times=2),
}


class Interleavings(RuleBasedStateMachine):
    """One story."""

    def __init__(self) -> None:
        super().__init__()
        self._before = structlog.get_config()
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL), cache_logger_on_first_use=False)
        self._set_back_s = 0.0
        self._folder = tempfile.TemporaryDirectory(prefix="hf-sim-")

    def _node(self, number: int) -> str | None:
        """A node with a machine, if there is one."""
        held = [machine.registered for machine in self.world.room.living() if machine.registered]
        return held[number % len(held)] if held else None

    @initialize(
        nodes=st.integers(1, 3),
        bounds=st.sampled_from([Bounds(8, 1), Bounds(8, 100), Bounds(1, 1), Bounds(1, 100)]),
        order=st.sampled_from(["listed", "price", "scored"]),
        gang=st.sampled_from(["zone", "any"]),
    )
    def begin(self, nodes: int, bounds: Bounds, order: str, gang: str) -> None:
        policy = POLICY.replace('pools = ["a", "b"]', f'pools = ["a", "b"]\norder = "{order}"').replace(
            "launch = {", f'launch = {{ gang = "{gang}",'
        )
        self.world = World(Path(self._folder.name), nodes=NODES, policy=policy, bounds=bounds)
        self.world.start()
        self.world.submit(nodes, work=40.0)
        self.world.wait(9.0)

    @rule(
        nodes=st.integers(1, 3),
        work=st.sampled_from([3.0, 20.0, 60.0]),
        kind=st.sampled_from(["library", "library", *KINDS]),
        save_s=st.sampled_from([0.5, 8.0]),
        shared=st.booleans(),
    )
    def submit(self, nodes: int, work: float, kind: str, save_s: float, shared: bool) -> None:
        if sum(not job.finished for job in self.world.training.jobs.values()) < 4:
            self.world.submit(nodes, work=work, kind=kind, save_s=save_s, shared=shared)

    @rule(tasks=st.integers(2, 4), kind=st.sampled_from(["library", "plain", "signal"]))
    def submit_array(self, tasks: int, kind: str) -> None:
        if sum(not job.finished for job in self.world.training.jobs.values()) < 4:
            self.world.submit_array(range(1, tasks + 1), work=10.0, kind=kind)

    @rule(number=st.integers(0, 4), left=st.sampled_from([0.5, 1.0, 1.5, 2.5]), window_s=st.sampled_from([30.0, 120.0]))
    def notice_as_a_job_ends(self, number: int, left: float, window_s: float) -> None:
        """The job finishes in the moment of the notice, or of the requeue."""
        live = [job for job in self.world.training.jobs.values() if job.running is not None and not job.finished]
        if live:
            job = live[number % len(live)]
            assert job.running is not None
            job.work = min(job.work, job.running.step + left)
            if self.world.room.holder(job.running.nodes[0]) is not None:
                self.world.reclaim(job.running.nodes[0], window_s)

    @rule(count=st.integers(2, 5), limit_s=st.sampled_from([None, 30.0, 600.0]))
    def others_queue_up(self, count: int, limit_s: float | None) -> None:
        """Jobs of one node that wait for theirs; some of them short enough for the backfill scheduler."""
        if sum(not job.finished for job in self.world.training.jobs.values()) < 6:
            for _ in range(count):
                self.world.submit(work=8.0, kind="plain", time_limit_s=limit_s)

    @rule(number=st.integers(0, 4))
    def user_cancels(self, number: int) -> None:
        live = [job for job in self.world.training.jobs.values() if not job.finished]
        if live:
            self.world.cancel(live[number % len(live)])

    @rule(number=st.integers(0, 4), duration_s=st.sampled_from([3.0, 25.0]))
    def agent_is_away(self, number: int, duration_s: float) -> None:
        living = self.world.room.living()
        if living:
            self.world.slurm_call(lambda: living[number % len(living)].away(duration_s))

    @rule(duration_s=st.sampled_from([0.1, 0.5, 1.0, 3.0, 8.0, 30.0]))
    def wait(self, duration_s: float) -> None:
        self.world.wait(duration_s)

    @rule(number=st.integers(0, 4), window_s=st.sampled_from([5.0, 30.0, 120.0]))
    def reclaim(self, number: int, window_s: float) -> None:
        node = self._node(number)
        if node is not None:
            self.world.reclaim(node, window_s)

    @rule(window_s=st.sampled_from([60.0, 120.0]), save_s=st.sampled_from([0.5, 8.0]))
    def reclaim_in_calm(self, window_s: float, save_s: float) -> None:
        self._reclaim_in_calm(1, window_s, 0, save_s)

    @rule(window_s=st.sampled_from([60.0, 120.0]), number=st.integers(0, 1), save_s=st.sampled_from([0.5, 8.0]))
    def reclaim_one_of_two_in_calm(self, window_s: float, number: int, save_s: float) -> None:
        self._reclaim_in_calm(2, window_s, number, save_s)

    def _reclaim_in_calm(self, nodes: int, window_s: float, number: int, save_s: float) -> None:
        """What was wrong ends, and nothing has been for a while: then the promises hold to the letter.

        Not where the controller's clock is not the cloud's: by a clock that is minutes ahead a deadline has passed when it is told.
        """
        if self.world.host_clock.set_by:
            return
        self._mend()
        job = self.world.submit(nodes, work=90.0, save_s=save_s)
        self.world.wait(20.0)
        if job.running is None:
            return  # the queue is full
        self.world.wait(CALM_S + 3.0)
        if job.running is not None and self.world.room.holder(job.running.nodes[number % nodes]) is not None:
            self.world.reclaim(job.running.nodes[number % nodes], window_s)
            self.world.wait(save_s + 4.0)

    @rule(number=st.integers(0, 4))
    def kill(self, number: int) -> None:
        living = self.world.room.living()
        if living:
            machine = living[number % len(living)]
            self.world.slurm_call(lambda: self.world.provider.reclaim([machine.iid]))

    @rule(number=st.integers(0, 4))
    def hang(self, number: int) -> None:
        living = self.world.room.living()
        if living:
            self.world.disturbed()
            self.world.slurm_call(living[number % len(living)].hang)

    @rule(number=st.integers(0, 4))
    def reboot(self, number: int) -> None:
        living = self.world.room.living()
        if living:
            self.world.disturbed()
            self.world.slurm_call(living[number % len(living)].reboot)

    @rule()
    def next_launch_is_swallowed(self) -> None:
        self.world.slurm.engine.swallow = 1

    @rule(number=st.integers(0, 4))
    def user_hurries(self, number: int) -> None:
        """A pending job's StartTime is set to now: if it has just left a node, it may be launched there in the same second."""
        live = [fake for fake in self.world.slurm.engine.queue.values() if fake.state == "PENDING" and not fake.completing]
        if live:
            self.world.slurm_call(lambda: self.world.slurm.engine.put_off(live[number % len(live)], 0))

    @rule(number=st.integers(0, 4))
    def spare(self, number: int) -> None:
        node = self._node(number)
        machine = self.world.room.holder(node) if node is not None else None
        if machine is not None and machine.own:
            self.world.slurm_call(machine.spare)

    @rule(pool=st.sampled_from([POOL_A, POOL_B]), capacity=st.sampled_from([0, 1, 100]))
    def capacity(self, pool: str, capacity: int) -> None:
        self.world.provider.pools[pool].capacity = capacity

    @rule(trouble=st.sampled_from(sorted(TROUBLES)))
    def cloud_trouble(self, trouble: str) -> None:
        self.world.provider.inject(TROUBLES[trouble])

    @rule(lag_s=st.sampled_from([0.0, 4.0, 15.0]))
    def listings_lag(self, lag_s: float) -> None:
        self.world.provider.timing.listing_lag_s = lag_s

    @rule(away=st.booleans())
    def slurm_away(self, away: bool) -> None:
        self.world.slurm.unavailable = away
        self.world.disturbed()

    @rule(method=st.sampled_from(["every", *DEEDS]), times=st.integers(1, 4), acts=st.booleans(), delay_s=st.sampled_from([0.1, 3.0, 10.0]))
    def slurm_trouble(self, method: str, times: int, acts: bool, delay_s: float) -> None:
        """Commands hang and do nothing, or do it and lose their answer."""
        methods = DEEDS if method == "every" else (method,)
        self.world.slurm.troubles.append(Trouble(methods, times, acts, delay_s))
        self.world.disturbed()

    @rule(away_s=st.sampled_from([0.3, 3.0, 20.0]), kill=st.booleans())
    def slurmctld_restarts(self, away_s: float, kill: bool) -> None:
        if not self.world.slurm.engine.away:
            self.world.disturbed()
            self.world.slurm_call(lambda: self.world.slurm.restart(away_s, kill=kill))

    @rule(before_s=st.sampled_from([0.0, 0.0, 1.5, 4.0]), after_s=st.sampled_from([0.0, 0.0, 1.5, 4.0]))
    def slurm_is_slow(self, before_s: float, after_s: float) -> None:
        """What a look says is old when it arrives."""
        self.world.slurm.before_s, self.world.slurm.after_s = before_s, after_s
        self.world.disturbed()

    @rule(duration_s=st.sampled_from([0.7, 3.0, 10.0, 40.0]))
    def controller_is_frozen(self, duration_s: float) -> None:
        if self.world.controller is not None:
            self.world.freeze(duration_s)

    @rule(ahead_s=st.sampled_from([-600.0, -20.0, 0.0, 20.0, 600.0]))
    def clock_is_set(self, ahead_s: float) -> None:
        """That of the host of controller and slurmctld."""
        self._set_back_s = max(self._set_back_s, self.world.host_clock.set_by - ahead_s)
        self.world.host_clock.set_by = ahead_s
        self.world.disturbed()

    @rule(away_s=st.sampled_from([0.0, 2.0, 30.0]))
    def controller_dies(self, away_s: float) -> None:
        self.world.restart(away_s=away_s)

    @rule(away_s=st.sampled_from([0.0, 5.0]))
    def journal_is_lost(self, away_s: float) -> None:
        self.world.restart(away_s=away_s, lose_journal=True)

    @rule(point=st.integers(1, 30))
    def controller_will_die(self, point: int) -> None:
        self.world.die_at = len(self.world.passed) + point

    @rule(lost=st.integers(0, 3), double=st.integers(0, 3), late_s=st.sampled_from([0.0, 3.0, 25.0]))
    def hooks_go_wrong(self, lost: int, double: int, late_s: float) -> None:
        hooks = self.world.hooks
        hooks.lose, hooks.double, hooks.late_s = lost, double, late_s

    @rule(number=st.integers(1, NODES), hook=st.sampled_from(["resume", "suspend", "resume_fail"]))
    def a_hook_of_long_ago(self, number: int, hook: str) -> None:
        """Stale, or once more."""
        self.world.spawn(getattr(self.world.hooks, hook)((f"n{number}",)))

    @rule(shutdown_s=st.sampled_from([2.0, 45.0]))
    def machines_end_slowly(self, shutdown_s: float) -> None:
        """A name is asked for again while its old instance is still there."""
        self.world.provider.timing.shutdown_s = shutdown_s

    @rule(
        number=st.integers(0, 4),
        kind=st.sampled_from([NoticeKind.ADVISE, NoticeKind.MAINTENANCE, NoticeKind.HEALTH, NoticeKind.DRAIN]),
        window_s=st.sampled_from([60.0, 320.0, 4000.0]),
    )
    def another_notice(self, number: int, kind: NoticeKind, window_s: float) -> None:
        """Advice, maintenance far ahead or near, an admin's word: beside whatever else stands."""
        node = self._node(number)
        machine = self.world.room.holder(node) if node is not None else None
        if machine is not None:
            self.world.slurm_call(lambda: machine.notice(window_s, kind))

    @rule(
        number=st.integers(0, 4),
        action=st.sampled_from(["note", "drain", "evacuate", "replace"]),
        dry_run=st.sampled_from([False, False, True]),
    )
    def falls_sick(self, number: int, action: str, dry_run: bool) -> None:
        living = [machine for machine in self.world.room.living() if machine.well]
        if living:
            machine = living[number % len(living)]
            self.world.slurm_call(lambda: machine.health.find(action, dry_run=dry_run))

    @rule(number=st.integers(0, 4))
    def is_well_again(self, number: int) -> None:
        living = [machine for machine in self.world.room.living() if machine.well]
        if living:
            self.world.slurm_call(living[number % len(living)].health.resolve)

    @rule()
    def next_machine_is_sick(self) -> None:
        self.world.room.sick_next += 1

    @rule()
    def next_machine_is_mute(self) -> None:
        self.world.room.mute_next += 1

    @rule(number=st.integers(0, 4))
    def slurm_suspends(self, number: int) -> None:
        """SuspendTime is over for an idle node."""
        node = self._node(number)
        if node is not None and self.world.slurm.fake_node(node).power == "on" and not self.world.slurm.fake_node(node).jobs:
            fake = self.world.slurm.fake_node(node)
            self.world.slurm_call(lambda: self.world.slurm.engine.power_down(fake))

    @precondition(lambda self: self.world.slurm.troubled)
    @invariant()
    def nothing_is_promised_without_slurm(self) -> None:
        self.world.disturbed()

    @invariant()
    def nothing_that_may_never_be(self) -> None:
        always(self.world)
        assert not self.world.faults, self.world.story()

    def teardown(self) -> None:
        """Faults stop; then everything comes to rest, and every job is done."""
        world = self.world
        try:
            if not world.faults:
                self._mend()
                # A job that was eligible before the clock was set back is so again when the clock has come there: Slurm's own doing.
                settle(world, 800.0 + self._set_back_s, quiet_s=60.0)
        finally:
            JUDGED.update(world.judged)
            JUDGED["condemned"] += sum(machine.health.was_condemned for machine in world.room.machines.values())
            world.close()
            self._folder.cleanup()
            structlog.configure(**self._before)

    def _mend(self) -> None:
        world = self.world
        if world.slurm.troubled:
            world.disturbed()
        world.die_at = None
        world.provider.clear()
        world.provider.timing.listing_lag_s, world.provider.timing.shutdown_s = 0.0, 2.0
        for pool in world.provider.pools.values():
            pool.capacity = 100
        world.slurm.mend()
        world.loop.thaw()
        world.hooks.lose = world.hooks.double = world.room.mute_next = world.room.sick_next = 0
        world.hooks.late_s = 0.0
        world.wait(2.0)


@pytest.mark.timeout(3600)
def test_no_interleaving_breaks_a_promise() -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        Interleavings,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=30,
            deadline=None,
            derandomize="HOLDFAST_SIM_EXAMPLES" not in os.environ,
            database=None,
            phases=(Phase.generate, Phase.shrink) if "HOLDFAST_SIM_SHRINK" in os.environ else (Phase.generate,),  # shrinking takes minutes
            suppress_health_check=list(HealthCheck),
            print_blob=False,
        ),
    )
    assert min(JUDGED["steps lost"], JUDGED["requeued in time"]) >= EXAMPLES // 10, JUDGED
    assert JUDGED["condemned"], JUDGED
