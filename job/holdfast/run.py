"""`holdfast.Run`: the training loop's side of everything."""

import os
from collections.abc import Callable, Iterator
from typing import Any

from holdfast import process
from holdfast.bandwidth import Limiter, rate_from
from holdfast.board import Board, say
from holdfast.clock import Clock
from holdfast.coordinator import Coordinator
from holdfast.errors import HoldfastError
from holdfast.estimate import Estimate
from holdfast.history import History
from holdfast.history import read as read_history
from holdfast.interval import Every
from holdfast.jobdir import SAVE_AND_PARK, ContextFile, JobDirectory, Notice, NoticeFile
from holdfast.peers import Peers, connect, together
from holdfast.retention import Keep
from holdfast.saver import Saved, Saver
from holdfast.schedule import Schedule
from holdfast.state import Training
from holdfast.tiers import tiers
from holdfast.timeline import NAME as TIMELINE
from holdfast.watch import Watch

ENDLESS = 2**53
"""The total of a loop whose length is not known."""


class Run:
    """A training run that resumes where it was, saves when due and when told to, and parks when its node goes away.

    `model`, `optimizer`, `scheduler`, `loader` and further keyword arguments are anything with `state_dict` and
    `load_state_dict` (or `save_files` and `load_files`). PyTorch modules and optimizers are saved in shards, each rank its
    share, and can be loaded by another number of ranks; what differs between ranks otherwise belongs to the loader; all else
    is rank 0's. `directory` defaults to
    $HOLDFAST_CHECKPOINT_DIR, else ./checkpoints. A checkpoint is due every `every` seconds (`every_s` is the same) and/or at every
    `every_steps`-th step. With `every="auto"`, the default, the interval follows from what a save costs and how likely the
    node is lost without notice (Young, Daly); 600 s where nobody knows. The newest `keep` are kept. Training stands still only
    while the state is copied, and for the whole save where `asynchronous` is False. `save_bandwidth_mib_s` (or
    $HOLDFAST_SAVE_BANDWIDTH_MIB_S) paces the writing of each rank. With several ranks, torch.distributed (or
    jax.distributed) is initialised before, and all ranks do the same calls.

    Raises TypeError and ValueError for arguments that cannot work.
    """

    def __init__(  # noqa: PLR0913  (the public interface: few are ever given)
        self,
        model: Any = None,
        optimizer: Any = None,
        scheduler: Any = None,
        loader: Any = None,
        *,
        directory: str | os.PathLike[str] | None = None,
        local: str | os.PathLike[str] | None = None,
        every: str | float | None = None,
        every_s: float | None = None,
        every_steps: int | None = None,
        keep: int = 3,
        keep_every: int | None = None,
        asynchronous: bool = True,
        save_bandwidth_mib_s: float | None = None,
        clock: Clock | None = None,
        **stateful: Any,
    ) -> None:
        if keep < 1 or (keep_every is not None and keep_every < 1):
            raise ValueError(f"keep={keep}, keep_every={keep_every}: they are at least 1")
        self._every = Every.parse(every, every_s=every_s, every_steps=every_steps)
        self._clock = clock or Clock()
        self._limiter = Limiter(rate_from(save_bandwidth_mib_s), self._clock)
        self._loader = loader
        self._training = Training({"model": model, "optimizer": optimizer, "scheduler": scheduler, **stateful}, {"loader": loader})
        self._tiers = tiers(directory, local, os.environ)
        self._path = self._tiers.timeline_root
        self._keep, self._asynchronous = Keep(keep, keep_every), asynchronous
        self._step, self._attempt, self._total = 0, 0, 0
        self._step_s, self._step_began = 0.0, 0.0
        self._metrics: dict[str, Any] = {}
        self._callbacks: list[Callable[[Notice], None]] = []
        self._stopping = self._stepped = False
        self._estimate, self._history = Estimate(self._limiter.bytes_per_s, self._tiers.names), History()
        self._coordinator: Coordinator | None = None
        self._asked_early = self._over = False
        self._left_with: HoldfastError | None = None
        self._rest_bytes = 0
        self._register()

    def _register(self) -> None:
        self._place, job = process.place(os.environ), process.job(os.environ)
        jobdir = JobDirectory.find(os.environ, say)
        contexts = None if jobdir is None else ContextFile(jobdir.context_file, say)
        context = None if contexts is None else contexts.poll()
        self._schedule = Schedule(self._every, lambda: None if contexts is None else contexts.poll())
        if context is not None and not job.job_id:  # a container may hide Slurm's variables
            job = process.Job(context.job_id, context.attempt, context.node)
        self._job, self._attempt = job, job.attempt or 0
        self._board = Board(jobdir, self._place, job, self._clock)
        if process.module("torch") is not None and not self._board.timeline.waits("torch_loaded"):
            self._board.timeline.event("torch_loaded")
        notices = None if jobdir is None else NoticeFile(jobdir.notice, self._board.warn)
        self._watch = Watch(notices, self._clock, self._seen)
        self._watch.start()
        self._board.register(self._watch.wake.signal)
        self._watch.poll()  # a notice may be older than this process

    def _seen(self, notice: Notice, t: float) -> None:
        self._stopping = self._stopping or notice.action == SAVE_AND_PARK
        self._board.seen(notice, t)

    def _unparked(self) -> None:
        self._stopping = False

    @property
    def step(self) -> int:
        """Steps done; inside the loop's body, the number of the step in hand."""
        return self._step

    @property
    def attempt(self) -> int:
        """Which run of the job this is: SLURM_RESTART_COUNT, or counted up in the directory outside Slurm (on entry)."""
        return self._attempt

    @property
    def should_stop(self) -> bool:
        """Whether a notice that ends this node stands *for this process*: the time to leave an optional long
        computation within a step. Do not leave the loop for it: the save comes at the end of the step, and other ranks may not have
        seen the notice yet.
        """
        return self._stopping and self._watch.standing is not None

    def log(self, **metrics: Any) -> None:
        """Remember the latest metrics for status.json. Tensors are read about once a second, not at each call."""
        self._metrics |= metrics

    def save(self) -> None:
        """Save at the end of the step in hand (with several ranks: at the next step at which they meet, within about 0.2 s and a step).

        A loop that is left by break before that has not saved. One rank's call is enough. Training goes on while the checkpoint is
        written; if that fails, `steps` raises SaveError on all ranks.
        """
        if self._coordinator is None:
            self._asked_early = True
        else:
            self._coordinator.ask()

    def on_notice(self, callback: Callable[[Notice], None]) -> None:
        """Have `callback(notice)` called, in the main thread of every rank, before the save that a notice leads to."""
        self._callbacks.append(callback)

    def close(self) -> None:
        """Stop watching for notices. Not needed at a program's end."""
        self._watch.close()

    def steps(self, total: int) -> Iterator[int]:
        """Yield the steps that are still to be done, from the one that an earlier attempt had reached, up to `total` - 1.

        Raises Fenced when a newer attempt has taken over, HoldfastError where resuming is impossible, SaveError for a
        failed save that was asked for; a periodic save that fails is told and tried again.
        """
        self.start(total)
        try:
            while self._step < total:
                yield self._step
                self.step_done()
        except GeneratorExit:  # the loop was left by break, or by an exception
            self._leave()
            raise
        self.finish()

    def epochs(self, total: int) -> Iterator[int]:
        """Yield the epochs that are still to be done, the one in hand first; within each, `batches` are its steps.

        `loader` has a length, its batches of one epoch. An epoch is done once the loop asks for the next: one that was lost after its
        last batch, say while it was being validated, comes again without batches. Raises as `steps` does; TypeError without such a loader.
        """
        per_epoch = self._batches_per_epoch()
        self.start(total * per_epoch)
        try:
            while self._training.epochs_done < total:
                epoch = self._training.epochs_done
                yield epoch
                if self._step < (epoch + 1) * per_epoch:
                    raise HoldfastError(
                        f"epoch {epoch} ended after {self._step % per_epoch} of {per_epoch} batches: go through run.batches()"
                    )
                self._training.epochs_done = epoch + 1
        except GeneratorExit:
            self._leave()
            raise
        self.finish()

    def batches(self) -> Iterator[Any]:
        """Yield the batches of the epoch in hand that are still to be trained on, each one step."""
        end = (self._training.epochs_done + 1) * self._batches_per_epoch()
        if self._step >= end:
            return
        for batch in self._loader:
            yield batch
            self.step_done()
            if self._step >= end:
                return

    def _batches_per_epoch(self) -> int:
        try:
            count = len(self._loader)
        except TypeError as fault:
            raise TypeError("epochs need a loader with a length: Run(..., loader=holdfast.data.Loader(...))") from fault
        if count < 1:
            raise ValueError("the loader has no batches")
        return count

    def start(self, total: int | None = None) -> int:
        """Begin a loop of `total` steps (None: not known): find the ranks, resume; returns the first step to do.

        For a framework that owns the loop: call `step_done` after each step and `finish` at the end. `steps` does all three.
        Raises as `steps` does.
        """
        self._total, self._over, self._left_with = ENDLESS if total is None else total, False, None
        saved = self._enter(self._total)
        assert self._coordinator is not None
        state: dict[str, Any] = {"rank": {"save_expected_s": self._estimate.expected_s}, "step": self._step, "total_steps": total}
        self._board.state("running", **state)
        self._schedule.begin(self._clock.monotonic(), self._history.losses)
        self._coordinator.begin(self._step, self._total, saved)
        self._step_began = self._clock.monotonic()
        self._first("first_step")
        return self._step

    def expect(self, total: int) -> None:
        """Say how many steps there will be, once a framework that owns the loop knows; then the last one is saved as well.

        Between `start` and the next `step_done`. All ranks say the same after the same step.
        """
        assert self._coordinator is not None, "call start first"
        self._total = total
        self._coordinator.expect(total)
        self._board.state("running", total_steps=total)

    def step_done(self) -> None:
        """A step is done: save, follow a notice or park where that is due. Raises as `steps` does."""
        assert self._coordinator is not None, "call start first"
        self._first("first_step_done")
        self._stepped = True
        self._step += 1
        now = self._clock.monotonic()
        took_s = now - self._step_began
        self._step_s = took_s if not self._step_s else 0.8 * self._step_s + 0.2 * took_s
        if self._board.due(now):
            self._board.progress(self._step, self._step_s, self._metrics)
        self._coordinator.pass_step(self._step, self._step_s)
        self._step_began = self._clock.monotonic()

    def finish(self) -> None:
        """The loop was left, at its end or before. Waits for a save that still goes on. Raises Fenced, SaveError as `steps` does.

        `steps` and `epochs` call it; after leaving them by break call it once more to learn of a save that failed (Python
        drops what is raised then).
        """
        fault, self._left_with = self._left_with, None
        if fault is not None:
            raise fault
        if self._over:
            return
        self._over = True
        early = self._step < self._total < ENDLESS
        if self._coordinator is not None:
            self._coordinator.end()
        keys: dict[str, Any] = {"step": self._step}
        notice = self._watch.poll()
        if early and self._coordinator is not None and notice is not None and notice.action == SAVE_AND_PARK:
            lost = self._coordinator.lost_steps
            keys |= {"stopped_on_notice": True, "steps_lost": lost}
            self._board.tell(
                f"the loop was left on notice {notice.id}, not at a step's end: {lost} steps since the last checkpoint are lost"
            )
        self._board.state("done", **keys)
        self._board.timeline.event("left" if early else "done", step=self._step)

    def _leave(self) -> None:
        try:
            self.finish()
        except HoldfastError as fault:
            self._left_with = fault
            say(f"after the loop was left: {type(fault).__name__}: {fault}")

    def _first(self, event: str) -> None:
        if not self._stepped and self._step < self._total:
            self._board.timeline.event(event, step=self._step)

    def _enter(self, total: int) -> Saved | None:
        """Find the ranks, own the directory, resume. The second time (another loop) only check."""
        saved = None
        if self._coordinator is None:
            place = process.place(os.environ)
            self._board.enter(place, self._watch.wake.signal)
            self._place, self._peers = place, connect(place)
            saver = Saver(self._tiers, self._peers, self._limiter, self._clock, self._board.warn, self._board.unusable)
            saved = self._resume(saver)
            self._coordinator = self._coordinate(self._peers, saver)
        plans = self._peers.gather((total, self._step, self._every, self._asynchronous))
        if len(set(plans)) > 1:
            raise HoldfastError(f"the ranks differ in total steps, step reached, every or asynchronous: {plans}")
        return saved

    def _coordinate(self, peers: Peers, saver: Saver) -> Coordinator:
        coordinator = Coordinator(
            peers,
            saver,
            self._training,
            schedule=self._schedule,
            watch=self._watch,
            board=self._board,
            estimate=self._estimate,
            clock=self._clock,
            node=self._job.node,
            callbacks=self._callbacks,
            unparked=self._unparked,
            keep=self._keep,
            asynchronous=self._asynchronous,
            rest_bytes=self._rest_bytes,
        )
        coordinator.asked = self._asked_early
        return coordinator

    def _resume(self, saver: Saver) -> Saved | None:
        began = self._clock.monotonic()
        self._attempt = saver.enter(self._job)
        self._board.open(self._path, self._attempt)
        together(self._peers, "reading the state's size", self._learn, HoldfastError)
        saved = saver.resume(self._training)
        took_s = round(self._clock.monotonic() - began, 6)
        if saved is not None:
            self._step = saved.step
            self._estimate.learn(saved.size_bytes)
            self._board.tell(f"attempt {self._attempt} resumes at step {self._step} from {saved.name} ({took_s:.2f} s)")
            self._board.resumed(saved)
        name = None if saved is None else saved.name
        self._board.timeline.event("resumed", step=self._step, checkpoint=name, seconds=took_s)
        return saved

    def _learn(self) -> None:
        """From earlier attempts: how long saves take here, and how often a node was lost without one."""
        self._history = read_history(self._path / TIMELINE, self._job.job_id, self._attempt)
        self._estimate.learn(self._training.size_hint_bytes())
        self._rest_bytes = self._training.rest_bytes()
        if self._tiers.one:
            for save in self._history.saves:
                self._estimate.learn(save.size_bytes, save.seconds, self._tiers.durable.tier)
