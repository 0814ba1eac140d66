"""`holdfast slurm-conf` and `holdfast doctor`."""

import asyncio
import dataclasses
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from holdfast_common.errors import ConfigError, HoldfastError, SlurmUnavailable

from holdfast_slurm import doctor as checks
from holdfast_slurm import options, probe
from holdfast_slurm.conf import render_gres_conf, render_slurm_conf
from holdfast_slurm.conf_settings import NodeGroup, SlurmSettings
from holdfast_slurm.hooks.install import write_wrappers
from holdfast_slurm.scontrol import ScontrolClient
from holdfast_slurm.site import Site, load_site

conf_app = typer.Typer(add_completion=False)
doctor_app = typer.Typer(add_completion=False)

FAILED, USAGE, UNREACHABLE = 1, 2, 3
HOOKS_DIR = Path("/etc/holdfast/hooks")
SOCKET = Path("/run/holdfast/controller.sock")
RUN_DIR = Path("/run/holdfast")

_GROUP_HELP = "As prefix=spot,count=8,cpus=96,memory_mb=1000000,gres=gpu:h100:8 (also weight, gres_files); repeat it for each shape."
_SlurmConf = Annotated[Path, typer.Option("--slurm-conf", help="The cluster's slurm.conf.", envvar="SLURM_CONF")]
_BinDir = Annotated[Path | None, typer.Option("--bin-dir", help="Where scontrol and squeue are; by default, where PATH finds them.")]
_Socket = Annotated[Path, typer.Option("--socket", help="The controller's unix socket.")]


@conf_app.command()
def slurm_conf(  # noqa: PLR0913, PLR0917  # one option each
    node_group: Annotated[list[str], typer.Option("--node-group", "-g", help=_GROUP_HELP)],
    partition: Annotated[str, typer.Option(help="The partition that Holdfast serves.")] = "spot",
    slurm_version: Annotated[str, typer.Option(help="Such as 22.05.8; by default that of the installed scontrol.")] = "",
    hooks_dir: Annotated[Path, typer.Option(help="Where the hooks are.")] = HOOKS_DIR,
    install_hooks: Annotated[bool, typer.Option("--install-hooks", help="Also write the hooks there.")] = False,
    gres: Annotated[bool, typer.Option("--gres", help="Print the fragment for gres.conf instead.")] = False,
    setting: Annotated[list[str] | None, typer.Option("--set", help="A time in seconds, as resume_timeout_s=900; repeat.")] = None,
    munge_socket: Annotated[Path | None, typer.Option(help="Where munged listens, if not at its default.")] = None,
    cloud_dns: Annotated[bool, typer.Option("--cloud-dns", help="Node names are in DNS.")] = False,
    configless: Annotated[bool, typer.Option("--configless", help="Nodes fetch slurm.conf from slurmctld.")] = False,
    chain: Annotated[list[str] | None, typer.Option(help="A site's own script to run first: prolog=/etc/slurm/prolog.sh; repeat.")] = None,
    socket: _Socket = SOCKET,
    run_dir: Annotated[Path, typer.Option(help="Holdfast's directory on the nodes.")] = RUN_DIR,
    slurm_conf: _SlurmConf = Path("/etc/slurm/slurm.conf"),
    bin_dir: _BinDir = None,
    python: Annotated[Path, typer.Option(help="The interpreter of the hooks.")] = Path(sys.executable),
) -> None:
    """Print the slurm.conf fragment that Holdfast needs, each line with its reason. Nothing is changed but by --install-hooks."""
    try:
        where = options.bin_dir(bin_dir)
        settings = SlurmSettings(
            version=options.version(slurm_version, where),
            hooks_dir=hooks_dir,
            node_groups=tuple(options.node_group(text) for text in node_group),
            partition=partition,
            munge_socket=munge_socket,
            cloud_dns=cloud_dns,
            configless=configless,
            **options.times(setting or []),
        )
        if install_hooks:
            site = Site(settings=settings, controller_socket=socket, run_dir=run_dir, bin_dir=where, slurm_conf=slurm_conf)
            _install(site, python, options.pairs(chain or []))
        text = render_gres_conf(settings) if gres else render_slurm_conf(settings)
    except ConfigError as error:
        raise _fail(f"{error.where}:", *error.faults, code=USAGE) from None
    except OSError as error:
        raise _fail(str(error), code=FAILED) from None
    sys.stdout.write(text)


@doctor_app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
    partition: Annotated[str, typer.Option(help="The partition that Holdfast serves; by default what slurm-conf was told.")] = "",
    hooks_dir: Annotated[Path | None, typer.Option(help="Where the hooks must be; by default where ResumeProgram is.")] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", help="A time in seconds, as kill_wait_s=10; repeat.")] = None,
    socket: Annotated[Path | None, typer.Option(help="The controller's unix socket.")] = None,
    slurm_conf: _SlurmConf = Path("/etc/slurm/slurm.conf"),
    bin_dir: _BinDir = None,
) -> None:
    """Compare the running cluster with what Holdfast needs. Exit status 0: all well; 1: something to mend; 3: slurmctld does not answer."""
    try:
        where = options.bin_dir(bin_dir)
        slurm = probe.SlurmProbe(where, slurm_conf)
        config = slurm.config()
        site = load_site(_hooks_dir(hooks_dir, config))
        settings = _settings(config, site, partition, _hooks_dir(hooks_dir, config), options.times(setting or []))
        path = socket or (site.controller_socket if site else SOCKET)
        findings = checks.examine(_observe(slurm, config, settings.partition, path, ScontrolClient(where, slurm_conf)), settings, str(path))
    except ConfigError as error:
        raise _fail(f"{error.where}:", *error.faults, code=USAGE) from None
    except SlurmUnavailable as error:
        raise _fail(f"slurmctld does not answer: {error}", code=UNREACHABLE) from None
    except (HoldfastError, OSError, ValueError) as error:
        raise _fail(str(error), code=FAILED) from None
    _report(findings, as_json, site is not None)
    raise typer.Exit(FAILED if _faults(findings) else 0)


def _observe(slurm: probe.SlurmProbe, config: Mapping[str, str], partition: str, socket: Path, client: ScontrolClient) -> checks.Observed:
    trusted = {0, _uid(config.get("SlurmUser", ""))}
    found = slurm.partition(partition)
    nodes = asyncio.run(client.nodes()) if found else ()
    return checks.Observed(
        config=config,
        partition=found,
        not_cloud=tuple(node.name for node in nodes if partition in node.partitions and "CLOUD" not in node.flags),
        hooks={path: probe.unsafe_path(Path(path), trusted) for path in checks.hook_paths(config)},
        munge_fault=probe.silent_socket(Path(checks.munge_socket(config))) if config.get("AuthType") == "auth/munge" else None,
        controller_fault=probe.silent_controller(socket),
    )


def _settings(config: Mapping[str, str], site: Site | None, partition: str, hooks_dir: Path, times: Mapping[str, int]) -> SlurmSettings:
    """Return what must hold: what slurm-conf was told, or the defaults for a site that nothing is known of."""
    version = checks.running_version(config)
    change: dict[str, Any] = {"version": version, "hooks_dir": hooks_dir, **times} | ({"partition": partition} if partition else {})
    if site is not None:
        return dataclasses.replace(site.settings, **change)
    group = NodeGroup(prefix="any", count=1, cpus=1, memory_mb=1)  # no demand depends on the groups
    return SlurmSettings(**({"node_groups": (group,)} | change))


def _report(findings: list[checks.Finding], as_json: bool, known: bool) -> None:
    if as_json:
        told = {"ok": not _faults(findings), "site_known": known, "findings": [dataclasses.asdict(each) for each in findings]}
        print(json.dumps(told, indent=2))
        return
    for each in findings:
        subject = f"{each.subject} (advised)" if each.advised else each.subject
        print(f"{subject}\n  is:     {each.found}\n  should: {each.wanted}\n  why:    {each.why}\n  mend:   {each.mend}\n")
    faults = _faults(findings)
    print(f"{faults} to mend" if faults else "all well")
    if not known:
        print("(no site.json beside the hooks: compared with Holdfast's defaults; `holdfast slurm-conf --install-hooks` keeps yours)")


def _faults(findings: list[checks.Finding]) -> int:
    return sum(not each.advised for each in findings)


def _install(site: Site, python: Path, chain: dict[str, Path]) -> None:
    write_wrappers(
        site.settings.hooks_dir,
        python=Path(os.path.abspath(python)),  # not resolved: a virtual environment is known by its link
        controller_socket=site.controller_socket,
        run_dir=site.run_dir,
        bin_dir=site.bin_dir,
        slurm_conf=site.slurm_conf,
        nodes=",".join(group.nodes for group in site.settings.node_groups),
        chain=chain,
    )
    site.save(site.settings.hooks_dir)


def _hooks_dir(given: Path | None, config: Mapping[str, str]) -> Path:
    if given is not None:
        return given
    program = config.get("ResumeProgram", "")
    return Path(program).parent if program.startswith("/") else HOOKS_DIR


def _uid(text: str) -> int:
    """Return the uid in `slurm(64030)`, as scontrol prints a user; 0 where there is none."""
    found = re.search(r"\((\d+)\)", text)
    return int(found[1]) if found else 0


def _fail(*lines: str, code: int) -> typer.Exit:
    for line in lines:
        print(line, file=sys.stderr)
    return typer.Exit(code)
