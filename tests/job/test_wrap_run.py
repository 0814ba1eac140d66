"""`holdfast run` around small programs: signals, notices, ends. Each trap of the facts has its test."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CLI = """
import sys
from holdfast.cli import main
from holdfast.wrap import rescue, supervisor
rescue.LOOK_EVERY_S, rescue.QUIET_S, rescue.QUIET_UNHOOKED_S, supervisor.BUSY_S = 0.05, 0.2, 0.2, 0.05
sys.exit(main())
"""
FAKES = Path(__file__).parent / "wrap_fakes"
PRELUDE = """
import os, signal, sys, time
def ready(): open("ready", "a").write(f"{os.getpid()}\\n")
def catch(name, act): signal.signal(getattr(signal, "SIG" + name), lambda number, frame: act())
def save(name, step=1):
    import torch
    torch.save({"step": step}, name)
"""
WAIT = "\nready()\nwhile True: time.sleep(0.02)\n"


class Wrapped:
    """One wrapper, and what it said."""

    def __init__(self, process: "subprocess.Popen[str]", here: Path, until: Callable[..., Any]) -> None:
        self.process, self.here, self.until = process, here, until

    def ready(self, count: int = 1) -> list[int]:
        """The pids that have called `ready`."""
        file = self.here / "ready"
        self.until(lambda: file.exists() and len(file.read_text().split()) >= count)
        return [int(pid) for pid in file.read_text().split()]

    def end(self, number: int | None = None) -> tuple[int, str, str]:
        if number is not None:
            self.process.send_signal(number)
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, out, err


@pytest.fixture
def wrap(tmp_path: Path, until: Callable[..., Any]) -> Iterator[Callable[..., Wrapped]]:
    here = tmp_path / "here"
    here.mkdir()
    started: list[Wrapped] = []

    def start(code: str, *options: str, command: tuple[str, ...] = (), **env: str) -> Wrapped:
        (here / "train.py").write_text(PRELUDE + code)
        words = command or (sys.executable, "train.py")
        environ = {**os.environ, "PYTHONPATH": str(FAKES), **env}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        argv = [sys.executable, "-c", CLI, "run", *options, "--", *words]
        started.append(Wrapped(subprocess.Popen(argv, cwd=here, env=environ, **pipes), here, until))
        return started[-1]

    yield start
    for wrapped in started:
        wrapped.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            wrapped.process.wait(1)
        wrapped.process.kill()
        wrapped.process.wait()
        for stream in (wrapped.process.stdin, wrapped.process.stdout, wrapped.process.stderr):
            assert stream is not None
            stream.close()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("code", "expected"),
    [("sys.exit(7)", 7), ("pass", 0), ("os.kill(os.getpid(), 9)", 137), ("os.kill(os.getpid(), 15)", 143), ("1/0", 1)],
)
def test_exit_codes_pass_through(wrap: Any, code: str, expected: int) -> None:
    assert wrap(code).end()[0] == expected


def test_commands_that_cannot_be_started(wrap: Any, tmp_path: Path) -> None:
    assert wrap("", command=("no-such-command",)).end()[::2][0] == 127
    plain = tmp_path / "plain.txt"
    plain.write_text("x")
    code, _, told = wrap("", command=(str(plain),)).end()
    assert (code, "Permission denied" in told) == (126, True)
    (tmp_path / "lost").write_text("#!/no/such/interpreter\n")
    (tmp_path / "lost").chmod(0o755)
    assert wrap("", command=(str(tmp_path / "lost"),)).end()[0] == 127


def test_usage(wrap: Any) -> None:
    process = subprocess.run([sys.executable, "-c", CLI, "run", "python"], capture_output=True, text=True, check=False)
    assert (process.returncode, "unrecognized arguments" in process.stderr) == (2, True), "a word without -- is no command"
    process = subprocess.run([sys.executable, "-c", CLI, "run"], capture_output=True, text=True, check=False)
    assert (process.returncode, "what is to be run?" in process.stderr) == (2, True)
    code, _, told = wrap("", "--signal", "KILL").end()
    assert (code, "no signal that a program can catch" in told) == (2, True)


def test_streams_and_descriptors_are_the_commands(wrap: Any) -> None:
    wrapped = wrap("print(sys.stdin.read().upper()); print('told', file=sys.stderr)")
    out, err = wrapped.process.communicate("input")
    assert (out, "told\n" in err) == ("INPUT\n", True)


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "QUIT", "USR1", "USR2", "ALRM"])
def test_signals_are_passed_on(wrap: Any, name: str) -> None:
    wrapped = wrap(f"catch({name!r}, lambda: sys.exit(40))" + WAIT)
    wrapped.ready()
    assert wrapped.end(signal.Signals[f"SIG{name}"])[0] == 40


def test_usr1_does_not_kill_a_command_without_a_handler(wrap: Any, until: Callable[..., Any]) -> None:
    wrapped = wrap(WAIT)
    wrapped.ready()
    wrapped.process.send_signal(signal.SIGUSR1)
    wrapped.process.send_signal(signal.SIGUSR2)
    code, _, told = wrapped.end(signal.SIGTERM)
    assert (code, told.count("has a handler: it would kill it")) == (143, 2)


def test_the_command_has_no_signal_blocked(wrap: Any) -> None:
    wrapped = wrap("print(signal.pthread_sigmask(signal.SIG_BLOCK, []), os.getpgid(0) == os.getpgid(os.getppid()))")
    assert wrapped.end()[1] == "set() True\n", "and it is in our process group: a terminal's signals reach it, and it may read"


def test_killed_by_sigkill_it_takes_the_command_along(wrap: Any, until: Callable[..., Any]) -> None:
    wrapped = wrap("catch('TERM', lambda: None)" + WAIT)
    (pid,) = wrapped.ready()
    wrapped.process.kill()
    until(lambda: not alive(pid), 5)


def test_nothing_that_the_command_left_outlives_it(wrap: Any) -> None:
    code = "import subprocess; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True)\n"
    wrapped = wrap("if os.fork() == 0:\n    os.setsid()\n    ready()\n    time.sleep(60)\n" + code + "time.sleep(0.3)\nsys.exit(3)")
    (pid,) = wrapped.ready()
    code, _, told = wrapped.end()
    assert (code, "left 2 processes behind" in told, alive(pid)) == (3, True, False)


def test_registers_and_is_done(wrap: Any, node: Any, until: Callable[..., Any]) -> None:
    wrapped = wrap(WAIT, RANK="1", WORLD_SIZE="3")
    wrapped.ready()
    until(lambda: node.report("rank.1").get("state") == "running")
    report = node.report("rank.1")
    assert (report["pid"], report["world_size"], report["wake_signal"]) == (wrapped.process.pid, 3, int(signal.SIGURG))
    assert node.report() == {}, "rank 0 speaks for the run"
    wrapped.end(signal.SIGTERM)
    assert node.report("rank.1")["state"] == "done"


def wake(wrapped: Wrapped, node: Any, **changes: Any) -> None:
    """As the agent does: the file, and then the signal that the process asked for."""
    node.notify(**changes)
    wrapped.process.send_signal(signal.SIGURG)


SAVES_ON_USR1 = "catch('USR1', lambda: save('ck/step_5.pt'))\nos.makedirs('ck', exist_ok=True)"


def test_a_notice_becomes_the_signal_and_a_save_is_parked(wrap: Any, node: Any, until: Callable[..., Any]) -> None:
    wrapped = wrap(SAVES_ON_USR1 + WAIT, "--signal", "USR1")
    (pid,) = wrapped.ready()
    until(lambda: node.report("rank.0").get("state") == "running")
    wake(wrapped, node)
    until(lambda: node.report("rank.0")["state"] == "saving")
    until(lambda: node.report("rank.0")["state"] == "parked")
    status = node.report()
    assert (status["state"], status["notice_id"], status["saved_step"], status["stopped_on_notice"]) == ("parked", "n1", 5, False)
    assert status["checkpoint"] == str(wrapped.here / "ck" / "step_5.pt")
    assert node.report("rank.0")["notice_id"] == "n1"
    assert alive(pid), "it goes on until the requeue comes"
    code, _, told = wrapped.end(signal.SIGTERM)
    assert (code, alive(pid)) == (143, False)
    assert f"as --signal says: SIGUSR1 sent to process {pid}" in told
    assert node.report("rank.0")["state"] == "parked"


def test_parked_a_command_that_ignores_sigterm_ends_at_once(wrap: Any, node: Any, until: Callable[..., Any]) -> None:
    """As Lightning does, which would have the job wait for KillWait."""
    wrapped = wrap("catch('TERM', lambda: None)\n" + SAVES_ON_USR1 + WAIT, "--signal", "USR1")
    wrapped.ready()
    wake(wrapped, node)
    until(lambda: node.report("rank.0").get("state") == "parked")
    assert wrapped.end(signal.SIGTERM)[0] == 143


def test_without_a_handler_no_signal_is_sent_and_that_is_said(wrap: Any, node: Any, until: Callable[..., Any]) -> None:
    wrapped = wrap(WAIT, "--signal", "USR1")
    (pid,) = wrapped.ready()
    wake(wrapped, node)
    until(lambda: "no process of the command has a handler for SIGUSR1" in (node.report().get("message") or ""))
    assert alive(pid)
    assert node.report("rank.0")["state"] == "saving", "the agent goes on waiting, until the deadline"


def test_a_handler_that_comes_late_is_found(wrap: Any, node: Any, until: Callable[..., Any]) -> None:
    wrapped = wrap("ready()\nwhile not os.path.exists('go'): time.sleep(0.02)\n" + SAVES_ON_USR1 + WAIT, "--signal", "USR1")
    wrapped.ready()
    wake(wrapped, node)
    until(lambda: "no process" in (node.report().get("message") or ""))
    (wrapped.here / "go").touch()
    until(lambda: node.report("rank.0")["state"] == "parked")


def test_copies_made_by_fork_and_launchers_get_no_signal(wrap: Any, node: Any, until: Callable[..., Any]) -> None:
    """A loader worker has inherited the handler; torchrun is a launcher, whose workers are sessions of their own."""
    code = """
import subprocess
if "worker" in sys.argv:
    catch("USR1", lambda: open(f"got-{os.getpid()}", "w"))
    ready()
    if os.fork() == 0:
        ready()
    while True: time.sleep(0.02)
catch("USR1", lambda: open("launcher-got", "w"))
for rank in "01":
    subprocess.Popen([sys.executable, "train.py", "worker"], start_new_session=True, env={**os.environ, "LOCAL_RANK": rank})
while True: time.sleep(0.02)
"""
    launcher = "-m", "torch.distributed.run", "train.py"
    fake = Path(os.environ["HOLDFAST_JOB_DIR"]).parent / "torch" / "distributed"
    fake.mkdir(parents=True)
    for name in ("__init__.py", "distributed/__init__.py"):
        (fake.parent / name).touch()
    (fake / "run.py").write_text("import sys, runpy\nsys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')\n")
    wrapped = wrap(code, "--signal", "USR1", command=(sys.executable, *launcher), PYTHONPATH=str(fake.parents[1]))
    wrapped.ready(4)
    wake(wrapped, node)
    until(lambda: len(list(wrapped.here.glob("got-*"))) == 2)
    with pytest.raises(AssertionError, match="in vain"):
        until(lambda: (wrapped.here / "launcher-got").exists() or len(list(wrapped.here.glob("got-*"))) > 2, 0.4)  # some more looks


def test_stopped_on_the_notice_it_holds_until_sigterm(wrap: Any, node: Any, until: Callable[..., Any]) -> None:
    """As Transformers and submitit end; the lines after it in the batch script must not run."""
    wrapped = wrap("def stop():\n    save('step_9.pt')\n    sys.exit(0)\ncatch('USR2', stop)" + WAIT, "--signal", "USR2")
    (pid,) = wrapped.ready()
    wake(wrapped, node)
    until(lambda: node.report("rank.0").get("state") == "parked")
    until(lambda: not alive(pid))
    until(lambda: node.report()["stopped_on_notice"])
    assert wrapped.process.poll() is None
    assert wrapped.end(signal.SIGTERM)[0] == 143
    assert node.report()["stopped_on_notice"]


def test_a_failure_after_the_signal_is_a_stop_too(wrap: Any, node: Any, until: Callable[..., Any]) -> None:
    wrapped = wrap("catch('USR2', lambda: sys.exit(-1))" + WAIT, "--signal", "USR2")
    wrapped.ready()
    wake(wrapped, node)
    until(lambda: node.report("rank.0").get("state") == "parked")
    assert node.report()["stopped_on_notice"]


@pytest.mark.parametrize(("code", "expected"), [("sys.exit(0)", 0), ("save('late.pt'); sys.exit(0)", 0), ("sys.exit(5)", 5)])
def test_an_end_of_its_own_accord_is_no_stop(wrap: Any, node: Any, until: Callable[..., Any], code: str, expected: int) -> None:
    wrapped = wrap("ready()\nwhile not os.path.exists('go'): time.sleep(0.02)\n" + code)
    wrapped.ready()
    wake(wrapped, node)
    until(lambda: "no framework that is known" in (node.report().get("message") or ""))
    (wrapped.here / "go").touch()
    assert wrapped.end()[0] == expected
    assert (node.report()["stopped_on_notice"], node.report("rank.0")["state"]) == (False, "done")


def test_told_to_stop_it_ends_well_without_a_save(wrap: Any, node: Any) -> None:
    wrapped = wrap("catch('USR1', lambda: sys.exit(0))" + WAIT, "--signal", "USR1")
    wrapped.ready()
    wake(wrapped, node)
    code, _, told = wrapped.end()
    assert (code, "it is taken to be done" in told, node.report()["stopped_on_notice"]) == (0, True, False)


def test_a_plain_script_is_parked_after_its_next_save(wrap: Any, node: Any, until: Callable[..., Any]) -> None:
    loop = "while True:\n    if os.path.exists('go'): save('last.pt', os.getpid()); os.remove('go')\n    time.sleep(0.02)\n"
    wrapped = wrap("ready()\n" + loop)
    wrapped.ready()
    (wrapped.here / "go").touch()
    until((wrapped.here / "last.pt").exists)
    wake(wrapped, node)
    until(lambda: "no framework that is known" in (node.report().get("message") or ""))
    with pytest.raises(AssertionError, match="in vain"):  # the save before the notice does not count
        until(lambda: node.report("rank.0")["state"] != "saving", 0.6)
    (wrapped.here / "go").touch()
    until(lambda: node.report("rank.0")["state"] == "parked")
    assert node.report()["checkpoint"] == str(wrapped.here / "last.pt")


def test_a_torn_file_does_not_count_as_a_save(wrap: Any, node: Any, until: Callable[..., Any]) -> None:
    code = "catch('USR1', lambda: open('torn_1.pt', 'wb').write(b'PK\\x03\\x04half'))" + WAIT
    wrapped = wrap(code, "--signal", "USR1", "--no-hook", "--checkpoints", ".")
    wrapped.ready()
    wake(wrapped, node)
    until(lambda: "does not count as a save" in (node.report().get("message") or ""))
    assert node.report("rank.0")["state"] == "saving"


def test_an_early_warning_stops_nothing(wrap: Any, node: Any, until: Callable[..., Any]) -> None:
    wrapped = wrap("catch('USR1', lambda: sys.exit(9))" + WAIT, "--signal", "USR1")
    wrapped.ready()
    wake(wrapped, node, kind="advise", action="save", deadline=None)
    until(lambda: "asked to save early" in (node.report().get("message") or ""))
    assert node.report("rank.0")["state"] == "running"
    wake(wrapped, node, id="n2")
    until(lambda: node.report("rank.0")["state"] == "parked")


def test_withdrawn_while_it_lives_it_goes_on(wrap: Any, node: Any, until: Callable[..., Any]) -> None:
    wrapped = wrap(SAVES_ON_USR1 + WAIT, "--signal", "USR1")
    (pid,) = wrapped.ready()
    wake(wrapped, node)
    until(lambda: node.report("rank.0").get("state") == "parked")
    (node.path / "node" / "notice.json").unlink()
    until(lambda: node.report("rank.0")["state"] == "running")
    wake(wrapped, node, id="n2")
    until(lambda: node.report("rank.0")["state"] == "parked")
    assert (alive(pid), node.report("rank.0")["notice_id"]) == (True, "n2")


@pytest.mark.parametrize("how", ["withdrawn", "overdue"])
def test_stopped_and_the_machine_stays_it_is_started_again_from_its_checkpoint(
    wrap: Any, node: Any, until: Callable[..., Any], how: str
) -> None:
    code = "def stop():\n    save('step_9.pt')\n    sys.exit(0)\ncatch('USR1', stop)\nprint(sys.argv[1:], flush=True)" + WAIT
    wrapped = wrap(code, "--signal", "USR1", "--resume-arg", "--from {checkpoint}")
    wrapped.ready()
    wake(wrapped, node)
    until(lambda: node.report().get("stopped_on_notice"))
    if how == "withdrawn":
        (node.path / "node" / "notice.json").unlink()
    else:
        node.notify(deadline=1.0, received=1.0)
    wrapped.ready(2)
    until(lambda: not node.report()["stopped_on_notice"])
    if how == "overdue":
        (node.path / "node" / "notice.json").unlink()
    code, out, _ = wrapped.end(signal.SIGTERM)
    assert (code, out) == (143, f"[]\n['--from', '{wrapped.here}/step_9.pt']\n")


def test_a_command_that_uses_the_library_speaks_for_itself(wrap: Any, node: Any, until: Callable[..., Any]) -> None:
    report = Path(os.environ["HOLDFAST_JOB_DIR"]) / "job" / "rank.0.json"
    code = f"""
import json
while not os.path.exists({str(report)!r}): time.sleep(0.01)
time.sleep(0.3)
open('own', 'w').write(json.dumps({{"v": 1, "pid": os.getpid(), "state": "running"}}))
os.rename('own', {str(report)!r})
catch("USR1", lambda: open("got", "w"))"""
    wrapped = wrap(code + WAIT, "--signal", "USR1")
    (pid,) = wrapped.ready()
    wake(wrapped, node)
    code, _, told = wrapped.end(signal.SIGTERM)
    assert ("another process answers notices" in told, node.report("rank.0")["pid"]) == (True, pid)
    assert not (wrapped.here / "got").exists()


def test_srun_gets_no_sigterm_at_first(wrap: Any, tmp_path: Path) -> None:
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text(f"#!{sys.executable}\n" + PRELUDE + "catch('TERM', lambda: sys.exit(44))" + WAIT)
    srun.chmod(0o755)
    wrapped = wrap("", command=("srun", "x"), PATH=f"{srun.parent}:{os.environ['PATH']}")
    (pid,) = wrapped.ready()
    wrapped.process.send_signal(signal.SIGTERM)
    # Only then is a second one a second one: two that wait are one.
    assert next(line for line in wrapped.process.stderr if "srun would kill its tasks at once" in line)
    assert alive(pid)
    assert wrapped.end(signal.SIGTERM)[0] == 44


def test_what_can_be_rescued_is_said_at_the_start(wrap: Any, node: Any) -> None:
    told = wrap("pass").end()[2]
    assert "the command starts from scratch" in told
    assert "what was never saved is lost" in told
    assert "was not seen to save anything" in told
    told = wrap("save('step_3.pt')").end()[2]
    assert "was not seen to save" not in told
    told = wrap("pass", "--resume-arg", "{checkpoint}").end()[2]
    assert "step_3.pt (verified); the command is pointed at it" in told


def test_outside_holdfast(wrap: Any) -> None:
    code, out, told = wrap("print(os.environ.get('HOLDFAST_RESUME_FROM'))").end()
    assert (code, out, "there is no node agent here" in told) == (0, "None\n", True)


def test_the_hook_can_be_left_out(wrap: Any) -> None:
    code = "save('m.pt'); print(os.listdir('.'), '_holdfast_guard' in sys.modules)"
    out = wrap(code, "--no-hook").end()[1]
    assert (".holdfast" in out, "False" in out) == (False, True)


def test_the_protocol_files_are_as_the_agent_reads_them(wrap: Any, node: Any, until: Callable[..., Any]) -> None:
    from holdfast_common.jobfiles import RankFile, StatusFile, parse

    wrapped = wrap(SAVES_ON_USR1 + WAIT, "--signal", "USR1")
    wrapped.ready()
    for state in ("running", "parked"):
        until(lambda: node.report("rank.0").get("state") == state)  # noqa: B023
        assert parse(RankFile, json.dumps(node.report("rank.0")).encode()).state == state
        assert parse(StatusFile, json.dumps(node.report()).encode()).attempt == 0
        wake(wrapped, node)


def test_another_deadline_of_the_same_notice_is_followed(wrap: Any, node: Any, until: Callable[..., Any]) -> None:
    wrapped = wrap(WAIT, "--signal", "USR1")
    wrapped.ready()
    wake(wrapped, node)
    until(lambda: node.report("rank.0")["state"] == "saving")
    wake(wrapped, node, deadline=1.0, received=1.0)
    until(lambda: node.report("rank.0")["state"] == "running")


def test_exit_codes_where_sigchld_was_ignored(wrap: Any, tmp_path: Path) -> None:
    code = f"import signal, subprocess, sys; signal.signal(17, signal.SIG_IGN); exec({CLI!r})"
    process = subprocess.run([sys.executable, "-c", code, "run", "--", "false"], cwd=tmp_path, capture_output=True, check=False)
    assert process.returncode == 1


def test_places_that_cannot_be_read_do_not_stop_the_command(wrap: Any) -> None:
    code, _, told = wrap("sys.exit(3)", "--checkpoints", "x" * 300).end()
    assert (code, "cannot be looked at" in told) == (3, True)
