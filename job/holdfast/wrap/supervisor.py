"""`holdfast run`: one command from its start to its end, with signals, notices and reports."""

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

from holdfast.board import say
from holdfast.clock import Clock
from holdfast.jobdir import JobDirectory, NoticeFile
from holdfast.wrap import child as children
from holdfast.wrap import layout, resume
from holdfast.wrap.child import Child
from holdfast.wrap.events import Events
from holdfast.wrap.guard import VARIABLE as EVENTS_VARIABLE
from holdfast.wrap.options import AUTO, NONE, Options, name_of
from holdfast.wrap.processes import Process, Table
from holdfast.wrap.rescue import Rescue
from holdfast.wrap.voice import WAKE, Voice

HOOK = Path(__file__).parent / "hook"
IDLE_S, BUSY_S = 1.0, 0.2
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_LISTENED = {*PASSED_ON, signal.SIGCHLD, WAKE}
_FROM_KERNEL = 0x80
"""si_code of a signal that the terminal has sent: to the whole process group, the command included."""


class Supervisor:
    """Runs the command; again, should a machine that the command left be given back."""

    def __init__(self, options: Options, environ: Mapping[str, str], clock: Clock) -> None:
        self._options, self._environ, self._clock = options, environ, clock
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # were it ignored, the kernel would throw the command's exit code away
        self._unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, _LISTENED)
        jobdir = JobDirectory.find(environ, say)
        self._voice = Voice(jobdir, environ, clock, os.getpid())
        self._file = None if jobdir is None else NoticeFile(jobdir.notice, say)
        self._places = layout.places(options.checkpoints, options.command, Path.cwd())
        self._events = Events()
        self._terms = 0
        self._silent = False
        self._key: tuple[str, str] | None = None

    def run(self) -> int:
        """The command's exit code, 128+n for signal n. Raises CannotStart."""
        try:
            while True:
                code = self._once()
                if code is not None:
                    return code
                self._key = None
        finally:
            self._events.close()
            signal.pthread_sigmask(signal.SIG_SETMASK, self._unblocked)

    def _once(self) -> int | None:
        """Start the command and see it through; None where it is to be started once more."""
        command, environ = self._prepared()
        child = children.start(command, environ, self._unblocked)
        try:
            self._voice.register()
            self._voice.state("running", stopped_on_notice=False)
            rescue = Rescue(self._places, self._options.signal, self._voice, self._clock, self._candidates(child))
            return self._loop(child, rescue)
        finally:
            child.kill()

    def _prepared(self) -> tuple[list[str], dict[str, str]]:
        found = resume.Found(None)
        try:
            resume.clean(self._places, self._voice.job)
            found = resume.find(self._places, say, check=self._options.verify)
        except OSError as fault:  # the command may well manage without
            say(f"run: checkpoints cannot be looked at: {fault}")
        environ = dict(self._environ)
        environ.pop(resume.VARIABLE, None)
        if found.newest is not None:
            environ[resume.VARIABLE] = str(found.newest)
        environ[EVENTS_VARIABLE] = str(self._events.folder)
        if self._options.hook:
            environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HOOK), environ.get("PYTHONPATH", "")]))
        command = resume.command_with(self._options.command, self._options.resume_args, found.newest)
        self._announce(found, pointed=command != list(self._options.command))
        return command, environ

    def _announce(self, found: resume.Found, *, pointed: bool) -> None:
        """What this command can be rescued from, in two lines."""
        where = ", ".join(str(place.path) for place in self._places)
        if found.newest is None:
            say(f"run: no checkpoint in {where}: the command starts from scratch, unless it knows of another place (--checkpoints)")
        else:
            how = "not verified" if not self._options.verify else "verified"
            if found.unchecked:
                how = f"of {len(found.unchecked)} of its files nothing tells whether they are whole"
            told = "the command is pointed at it" if pointed else "the command has to find it itself"
            say(f"run: newest checkpoint: {found.newest} ({how}); {told}")
        if not self._voice.heard:
            say("run: there is no node agent here (HOLDFAST_JOB_DIR is not set): no notices; checkpoints are guarded all the same")
        elif os.path.basename(self._options.command[0]) == "srun" and self._nodes() > 1:
            say("run: on a notice no signal can reach srun's tasks on other nodes from here: use `srun … holdfast run -- python …` instead")
        else:
            say(f"run: on a notice {_plan(self._options.signal)} and parks when a new checkpoint is whole; what was never saved is lost")

    def _nodes(self) -> int:
        text = self._environ.get("SLURM_JOB_NUM_NODES") or self._environ.get("SLURM_NNODES") or "1"
        return int(text) if text.isdecimal() else 1

    def _candidates(self, child: Child) -> Callable[[Table], list[Process]]:
        job_id = self._environ.get("SLURM_JOB_ID", "")

        def below(table: Table) -> list[Process]:
            found = table.below(os.getpid())
            if child.is_srun and job_id and self._nodes() == 1:
                known = {process.pid for process in found} | {os.getpid()}
                found += [process for process in table.in_job(job_id) if process.pid not in known and process.ticks >= _ticks(table)]
            return found

        return below

    def _loop(self, child: Child, rescue: Rescue) -> int | None:
        while child.code is None:
            info = signal.sigtimedwait(_LISTENED, BUSY_S if rescue.answer is not None else IDLE_S)
            if info is not None and info.si_signo in PASSED_ON:
                code = self._signalled(info, child, rescue)
                if code is not None:
                    return code
            child.reap()
            self._notice(child, rescue)
        if self._is_silent() or not rescue.ended(child.code, self._events.read()):
            return self._over(child)
        child.end_left(self._clock, say)
        return self._hold(rescue)

    def _hold(self, rescue: Rescue) -> int | None:
        """The command has stopped on the notice: wait to be ended, so that the rest of the batch script does not run meanwhile."""
        while True:
            info = signal.sigtimedwait(_LISTENED, BUSY_S)
            if info is not None and info.si_signo in _ENDING:
                return 128 + info.si_signo
            notice = None if self._file is None else self._file.poll()
            if notice is None or rescue.overdue:
                say("run: the node stays after all: the command is started again")
                return None
            rescue.prolong(notice)

    def _over(self, child: Child) -> int:
        """The command is done, or has failed; nothing of it stays."""
        assert child.code is not None
        seen = self._events.read()
        if self._options.hook and self._voice.heard and not self._silent and not seen.saves:
            what = "was not seen to save anything" if seen.pythons else "ran no Python that the hook could enter"
            say(f"run: this command {what}: had the node gone away, its work would have been lost, but for what it saves in other ways")
        child.end_left(self._clock, say)
        self._voice.state("done")
        return children.exit_code(child.code)

    def _notice(self, child: Child, rescue: Rescue) -> None:
        if self._file is None or self._is_silent():
            return
        notice = self._file.poll()
        seen = self._events.read()
        if notice is not None and notice.key != self._key:
            self._key = notice.key
            if child.code is None:
                rescue.begin(notice, seen)
        elif notice is not None:
            rescue.prolong(notice)
        if child.code is None:
            if rescue.answer is not None and (notice is None or rescue.overdue):
                rescue.withdrawn()
            rescue.tick(seen)

    def _is_silent(self) -> bool:
        if not self._silent and self._voice.silent:
            self._silent = True
            say("run: another process answers notices as this rank (the command itself, by the library?): the wrapper only guards files")
        return self._silent

    def _signalled(self, info: signal.struct_siginfo, child: Child, rescue: Rescue) -> int | None:
        """Pass a signal on; the exit code, where it ends us: all is saved, so that nothing is gained by waiting."""
        number = info.si_signo
        if number == signal.SIGTERM and rescue.safe:
            child.kill()
            return 128 + number
        if info.si_code == _FROM_KERNEL:
            return None
        if number in (signal.SIGUSR1, signal.SIGUSR2):
            self._pass_on(number, child)
        elif child.is_srun and number in (signal.SIGTERM, signal.SIGHUP) and self._terms == 0:
            self._terms += 1
            say(f"run: {name_of(number)}: srun would kill its tasks at once; Slurm signals them itself. A second one is passed on")
        else:
            child.signal(number)
        return None

    def _pass_on(self, number: int, child: Child) -> None:
        table = Table()
        sent = [process.pid for process in table.targets(self._candidates(child)(table), number) if table.send(process, number)]
        if not sent:
            say(f"run: {name_of(number)} came, for which no process of the command has a handler: it would kill it, and is not passed on")


def _ticks(table: Table) -> int:
    """When this process began: what the job ran before is not the command's."""
    own = table.all.get(os.getpid())
    return 0 if own is None else own.ticks


def _plan(wanted: str | int) -> str:
    if wanted == AUTO:
        return "it sends the signal that Lightning, submitit or Transformers waits for, if one does,"
    return "it sends no signal," if wanted == NONE else f"it sends {name_of(int(wanted))} to processes that have a handler,"


def run(options: Options, environ: Mapping[str, str] | None = None, clock: Clock = Clock()) -> int:  # noqa: B008 - it is frozen
    """Run a command under guard; its exit code. Raises CannotStart, HoldfastError, OSError."""
    return Supervisor(options, os.environ if environ is None else environ, clock).run()
