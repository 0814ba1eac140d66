"""`holdfast sandbox …`: a throw-away cluster with a simulated cloud, for trying things out.

Exit codes: 0 done, 1 failed, 2 usage; `run` passes on the code of its command.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer
from holdfast_common.errors import ConfigError

from holdfast_sandbox.cloud_config import Cloud
from holdfast_sandbox.cloud_control import CloudControlError
from holdfast_sandbox.cluster import Sandbox, SandboxError
from holdfast_sandbox.cluster_config import CLOUDS, SandboxConfig
from holdfast_sandbox.components import SLURMCTLD
from holdfast_sandbox.defaults import default_controller
from holdfast_sandbox.machine_gpus import Fault
from holdfast_sandbox.nvml.profiles import PROFILES
from holdfast_sandbox.recordings import RECORDINGS, recording
from holdfast_sandbox.registry import registered
from holdfast_sandbox.state import StateError
from holdfast_sandbox.supervisor_client import SupervisorError

DEFAULT_DIRECTORY = Path(".sandbox")
_WATCH_S = 0.5

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="A throw-away Slurm cluster with a simulated cloud, under one directory. Needs root, Slurm and munge (scripts/setup).",
)

Directory = Annotated[Path, typer.Option("--dir", help="The sandbox's directory.")]
CloudName = Annotated[
    Literal["aws", "gcp", "azure", "all"],
    typer.Option("--cloud", help="Whose interfaces and metadata the zones have; all: they are dealt out to the three in turn."),
]
Trace = Annotated[
    Path | None,
    typer.Option(
        "--trace", parser=recording, metavar="FILE|NAME", help=f"A recorded spot market: a file, or one of {', '.join(RECORDINGS)}."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command()
def up(  # noqa: PLR0913, PLR0917 - each is an option of the command line
    directory: Directory = DEFAULT_DIRECTORY,
    nodes: Annotated[int, typer.Option(help="CLOUD nodes spot-1 to spot-N.")] = 8,
    boot_delay: Annotated[float, typer.Option(help="Seconds from launch until an instance runs.")] = 1.0,
    cloud: CloudName = "aws",
    zones: Annotated[int, typer.Option(help="Zones of the cloud, each with a spot instance for every node.")] = 3,
    trace: Trace = None,
    speed: Annotated[float, typer.Option(help="Recorded seconds that pass in one second.")] = 60.0,
    gpus: Annotated[str, typer.Option(metavar="PROFILE", help=f"GPUs of each machine for its NVML: {', '.join(PROFILES)}.")] = "",
    foreground: Annotated[bool, typer.Option("--foreground", help="Stay, and end the sandbox at Ctrl-C or kill.")] = False,
    controller: Annotated[bool, typer.Option(help="Start Holdfast's controller; without it Slurm and the cloud only.")] = True,
    as_json: Json = False,
) -> None:
    """Start a sandbox. It stays until `down`, unless started with --foreground."""
    try:
        config = SandboxConfig(
            nodes=nodes,
            boot_delay_s=boot_delay,
            clouds=clouds_of(cloud),
            zones=zones,
            trace=trace,
            trace_speed=speed,
            gpu_profile=gpus,
            controller=default_controller() if controller else None,
        )
    except ConfigError as fault:
        _fail("; ".join(fault.faults), as_json, code=2)
    sandbox = Sandbox(directory, config)
    if foreground:
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.default_int_handler)  # as Ctrl-C
    try:
        _start(sandbox, foreground, as_json)
        if foreground:
            _stay(sandbox)
    except KeyboardInterrupt:
        sandbox.stop()
        if not foreground:
            raise


def clouds_of(name: Literal["aws", "gcp", "azure", "all"]) -> tuple[Cloud, ...]:
    """Return the clouds that --cloud means."""
    return CLOUDS if name == "all" else (name,)


def _start(sandbox: Sandbox, foreground: bool, as_json: bool) -> None:
    started = time.monotonic()
    try:
        sandbox.start(die_with_parent=foreground)
    except SandboxError as fault:
        _fail(str(fault), as_json)
    told = {
        "directory": str(sandbox.root),
        "seconds": round(time.monotonic() - started, 2),
        "slurm_conf": str(sandbox.layout.slurm_conf),
        "controller_socket": str(sandbox.layout.controller_socket),
        "cloud_url": sandbox.site.cloud_url,
    }
    where = "" if sandbox.root == DEFAULT_DIRECTORY.resolve() else f" --dir {sandbox.root}"
    _tell(
        told,
        as_json,
        f"The sandbox in {sandbox.root} is up after {told['seconds']} s: {sandbox.config.nodes} nodes, partitions spot and local.\n"
        f"  holdfast sandbox run{where} -- sbatch --partition=spot train.sh\n"
        f"  holdfast sandbox run{where} -- squeue\n"
        f"  holdfast sandbox interrupt{where} spot-1 --notice 30\n"
        f"  holdfast sandbox down{where}",
    )


@app.command()
def down(
    directory: Directory = DEFAULT_DIRECTORY,
    every: Annotated[bool, typer.Option("--all", help="Every sandbox that you have started on this machine.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the directory, for its logs.")] = False,
    as_json: Json = False,
) -> None:
    """End a sandbox: every process of it, then its directory."""
    ended = []
    for each in registered() if every else [directory]:
        try:
            sandbox = Sandbox.open(each)
            sandbox.stop(keep=keep)
        except (StateError, SandboxError) as fault:
            _fail(str(fault), as_json)
        ended.append(str(sandbox.root))
    _tell({"ended": ended}, as_json, "\n".join(f"The sandbox in {root} is gone." for root in ended) or "There is no sandbox.")


@app.command()
def status(directory: Directory = DEFAULT_DIRECTORY, as_json: Json = False) -> None:
    """Show a sandbox's daemons, nodes and instances. Fails (1) where it does not run or a daemon has ended unasked."""
    sandbox = _opened(directory, as_json)
    try:
        components = sandbox.supervisor.status()
    except SupervisorError as fault:
        _fail(str(fault), as_json)
    found: dict[str, Any] = {"directory": str(sandbox.root), "components": components, "nodes": [], "instances": []}
    if components[SLURMCTLD]["state"] == "running":
        found["nodes"] = _nodes(sandbox)
    try:
        found["instances"] = [each for each in sandbox.cloud.instances() if each["state"] != "terminated"]
    except (CloudControlError, OSError) as fault:
        found["cloud_error"] = str(fault)
    _tell(found, as_json, _status_text(found))
    if any(entry["state"] != "running" and not entry["asked"] for entry in components.values()):
        raise typer.Exit(1)


@app.command(context_settings={"allow_interspersed_args": False})
def run(  # noqa: PLR0913, PLR0917 - each is an option of the command line
    command: Annotated[list[str] | None, typer.Argument(metavar="-- COMMAND", help="The command and its arguments.")] = None,
    directory: Annotated[Path | None, typer.Option("--dir", help="For a command: the sandbox's directory (.sandbox).")] = None,
    cloud: Annotated[
        Literal["aws", "gcp", "azure", "all"] | None, typer.Option("--cloud", help="Walk: whose interfaces the zones have (aws).")
    ] = None,
    zones: Annotated[int | None, typer.Option(help="Walk: zones of the recording, those where most is going on (3).")] = None,
    trace: Trace = None,
    speed: Annotated[float | None, typer.Option(help="Walk: recorded seconds in one second (a recorded step: 4 s).")] = None,
    start: Annotated[int | None, typer.Option(metavar="STEP", help="Walk: the recorded step to begin with (the liveliest).")] = None,
    nodes: Annotated[int | None, typer.Option(help="Walk: CLOUD nodes spot-1 to spot-N (8).")] = None,
    job_nodes: Annotated[int | None, typer.Option(metavar="K", help="Walk: nodes of the job (1).")] = None,
    steps: Annotated[int | None, typer.Option(help="Walk: steps of the job, ten a second (600).")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Walk: leave logs and the job's files, also where all went well.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Walk: print one JSON object at its end, and nothing else.")] = False,
) -> None:
    """Run a command in a sandbox; or, with a walk's options instead of one, the whole walk.

    \b
    A command runs in the environment of the sandbox that `up` has started:
    sbatch, squeue and `holdfast nodes` just work.
      holdfast sandbox run -- sbatch --partition=spot train.sh

    \b
    The walk starts a throw-away sandbox whose zones follow a recorded spot
    market, submits a job, shows each refusal, purchase, notice, save and move
    as it comes, and ends with what each attempt did and cost. It takes about
    a minute and a half. Exit code 0: the job is done, and no reclaim with
    notice cost it a step.
      holdfast sandbox run --zones 3 --trace v100
      holdfast sandbox run --cloud all --trace h100 --job-nodes 2
    """
    given = {
        "clouds": None if cloud is None else clouds_of(cloud),
        "zones": zones,
        "trace": trace,
        "speed": speed,
        "start": start,
        "nodes": nodes,
        "job_nodes": job_nodes,
        "steps": steps,
    }
    options = {key: value for key, value in given.items() if value is not None}
    if command:
        if options or keep or as_json:
            _fail("a walk's options and a command exclude each other; a command's own options stand behind it", as_json, code=2)
        _run_command(command, directory or DEFAULT_DIRECTORY)
    if not options:
        _fail("give a command behind --, or one of the walk's options, such as --zones 3", as_json, code=2)
    if directory is not None:
        _fail("--dir is for a command: a walk starts a sandbox of its own", as_json, code=2)
    _walk(options, as_json, keep)


def _run_command(command: list[str], directory: Path) -> NoReturn:
    sandbox = _opened(directory, as_json=False)
    try:
        os.execvpe(command[0], command, sandbox.env)  # noqa: S606 - the user's own command, without a shell
    except OSError as fault:
        _fail(f"{command[0]}: {fault.strerror}", as_json=False)


def _walk(options: dict[str, Any], as_json: bool, keep: bool) -> NoReturn:
    from holdfast_sandbox.walk import run_walk
    from holdfast_sandbox.walk_plan import WalkOptions

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # as Ctrl-C: the sandbox is ended
    try:
        raise typer.Exit(run_walk(WalkOptions(**options), as_json=as_json, keep=keep))
    except ConfigError as fault:
        _fail("; ".join(fault.faults), as_json, code=2)


@app.command()
def interrupt(
    node: Annotated[str, typer.Argument(help="The node whose instance the cloud takes back, such as spot-1.")],
    directory: Directory = DEFAULT_DIRECTORY,
    notice: Annotated[float | None, typer.Option(help="Seconds between notice and end (default: the cloud's, 120).")] = None,
    no_notice: Annotated[bool, typer.Option("--no-notice", help="Take it away at once, without a word.")] = False,
    as_json: Json = False,
) -> None:
    """Let the simulated cloud take a node's instance back."""
    if no_notice and notice is not None:
        _fail("--notice and --no-notice exclude each other", as_json, code=2)
    sandbox = _opened(directory, as_json)
    try:
        instance = sandbox.instances.instance_of(node)
        cloud = sandbox.cloud
        reply = cloud.kill(instance) if no_notice else cloud.reclaim(instance, notice_s=notice)
    except (LookupError, CloudControlError, OSError) as fault:
        _fail(str(fault), as_json)
    what = "is gone" if no_notice else "has its notice"
    _tell({"node": node, **reply}, as_json, f"{node} ({instance}) {what}.")


@app.command()
def gpu(
    node: Annotated[str, typer.Argument(help="The node whose machine gets the fault, such as spot-1.")],
    fault: Annotated[Fault, typer.Argument(help="`clear` heals the machine's GPUs.")],
    number: Annotated[int | None, typer.Argument(help="Which XID.", min=1, max=999)] = None,
    index: Annotated[int, typer.Option("--gpu", help="Which GPU, as NVML counts.", min=0)] = 0,
    directory: Directory = DEFAULT_DIRECTORY,
    as_json: Json = False,
) -> None:
    """Let a machine's GPU fail: its kernel log and its NVML tell of it as real ones would (needs `up --gpus`).

    \b
      holdfast sandbox gpu spot-1 xid 79        fallen off the bus
      holdfast sandbox gpu spot-1 lose --gpu 3  gone, without an XID
      holdfast sandbox gpu spot-1 hang          NVML answers no more
      holdfast sandbox gpu spot-1 ecc           a memory error (XID 48)
      holdfast sandbox gpu spot-1 remap         a row waits for a reset (63)
      holdfast sandbox gpu spot-1 throttle      hot, clocks held down
    """
    if (fault == "xid") != (number is not None):
        _fail("`xid` needs its number, and nothing else has one", as_json, code=2)
    sandbox = _opened(directory, as_json)
    try:
        gpus = sandbox.gpus(node)
        if index >= gpus.nvml.count:
            _fail(f"{node} has {gpus.nvml.count} GPUs", as_json, code=2)
        gpus.inject(fault, index, number or 0)
    except LookupError as error:
        _fail(str(error.args[0]), as_json)
    what = f"XID {number}" if fault == "xid" else fault
    _tell({"node": node, "fault": fault, "xid": number, "gpu": index}, as_json, f"{node}: {what}, GPU {index}.")


@app.command("s3", add_help_option=False, context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def object_store(context: typer.Context) -> None:
    """Be an object store on loopback (S3, Cloud Storage) until Ctrl-C, for trying s3:// checkpoints. Needs neither root nor Slurm."""
    from holdfast_sandbox.objects.__main__ import main

    raise typer.Exit(main(context.args))


def _opened(directory: Path, as_json: bool) -> Sandbox:
    try:
        sandbox = Sandbox.open(directory)
    except StateError as fault:
        _fail(f"{fault}; start one with: holdfast sandbox up", as_json)
    if not sandbox.running:
        _fail(f"the sandbox in {sandbox.root} does not run any more; `holdfast sandbox up` replaces it", as_json)
    return sandbox


def _nodes(sandbox: Sandbox) -> list[dict[str, str]]:
    """Return name, state and partition of each node; none where slurmctld does not answer."""
    try:
        listed = sandbox.run(["sinfo", "--noheader", "--Node", "--format=%N %T %P"], timeout_s=10).stdout
    except (subprocess.SubprocessError, OSError):
        return []
    rows = [line.split() for line in sorted(set(listed.splitlines()))]
    return [{"name": name, "state": state, "partition": partition.rstrip("*")} for name, state, partition in rows]


def _stay(sandbox: Sandbox) -> None:
    """Return (or fail) when the sandbox has ended by itself."""
    while sandbox.running:
        time.sleep(_WATCH_S)
    sandbox.stop(keep=True)
    _fail(f"the sandbox ended by itself; its logs are in {sandbox.root}/log", as_json=False)


def _status_text(found: dict[str, Any]) -> str:
    lines = [f"{found['directory']}"]
    for name, entry in found["components"].items():
        ended = f" (exit {entry['exit']})" if entry["state"] == "exited" else ""
        lines.append(f"  {name:<14} {entry['state']}{ended}")
    lines += [f"  {node['name']:<14} {node['state']} ({node['partition']})" for node in found["nodes"]]
    lines += [f"  {each['instance_id']} {each['state']} {each['zone']} {each['lifecycle']}" for each in found["instances"]]
    if "cloud_error" in found:
        lines.append(f"  cloud: {found['cloud_error']}")
    return "\n".join(lines)


def _tell(data: dict[str, Any], as_json: bool, text: str) -> None:
    typer.echo(json.dumps(data) if as_json else text)
    sys.stdout.flush()


def _fail(message: str, as_json: bool, code: int = 1) -> NoReturn:
    if as_json:
        typer.echo(json.dumps({"error": message}))
    typer.echo(f"holdfast sandbox: {message}", err=True)
    raise typer.Exit(code)
