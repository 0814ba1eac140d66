"""An agent that watches eight GPUs, beside one that watches none, and beside a plain exporter, over the same minute; then their scrapes."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from holdfast_sandbox.cluster import Sandbox
from holdfast_sandbox.cluster_config import AgentSpec, SandboxConfig, Site
from holdfast_sandbox.defaults import default_agent, default_controller
from holdfast_sandbox.layout import PARTITION
from holdfast_sandbox.machine_gpus import STATE
from holdfast_sandbox.nvml.library import build, environment

from bench.health_memory import GroupMemory, family, group_cpu_s, group_memory

PROFILE = "h100x8"
SETTLES_S = 15.0
LONGEST_S = 60.0
SCRAPE_EVERY_S = 15.0
NODE = f"{PARTITION}-1"
WATCHING, BARE, PLAIN = "agent, 8 GPUs", "agent, gpu_health off", "plain exporter"


@dataclass(frozen=True, slots=True)
class Cost:
    """What one of them took while it was watched."""

    over_s: float
    cpu_percent: float
    """Of one core."""
    memory: GroupMemory
    scrapes_ms: tuple[float, ...]
    """Empty: it serves nothing."""
    series: int


def measure(folder: Path, over_s: float, scrapes: int, say: Callable[[str], None]) -> dict[str, Cost]:
    """Return the costs by name. Raises as Sandbox does, TimeoutError, OSError, CalledProcessError."""
    with ExitStack() as stack:
        watching = stack.enter_context(_one_node(folder / "a", AgentSpec(default_agent().command, _as_on_a_node), PROFILE))
        bare = stack.enter_context(_one_node(folder / "b", AgentSpec(default_agent().command, _without_gpus), ""))
        process, plain_url = stack.enter_context(_plain(watching, folder / "plain-port"))
        pids = {WATCHING: watching.instances.agent_pids(NODE)[0], BARE: bare.instances.agent_pids(NODE)[0], PLAIN: process.pid}
        urls = {WATCHING: agent_url(watching, NODE), PLAIN: plain_url}
        time.sleep(SETTLES_S)
        say(f"an agent with 8 GPUs, one without, and a plain exporter are watched for {over_s:g} s")
        groups = {name: family(pid) for name, pid in pids.items()}
        began, before = time.monotonic(), {name: group_cpu_s(group) for name, group in groups.items()}
        while (left_s := over_s - (time.monotonic() - began)) > 0:
            for url in urls.values():
                scrape(url)
            time.sleep(min(SCRAPE_EVERY_S, left_s))
        passed_s = time.monotonic() - began
        spent = {name: 100.0 * (group_cpu_s(group) - before[name]) / passed_s for name, group in groups.items()}
        memory = {name: group_memory(group) for name, group in groups.items()}
        say(f"{scrapes} scrapes of each")
        texts = {name: scrape(url) for name, url in urls.items()}
        taken: dict[str, list[float]] = {name: [] for name in pids}
        for _ in range(scrapes):
            for name, url in urls.items():
                at = time.perf_counter()
                scrape(url)
                taken[name].append(1000 * (time.perf_counter() - at))
        return {name: Cost(passed_s, spent[name], memory[name], tuple(taken[name]), series(texts.get(name, ""))) for name in pids}


def series(text: str) -> int:
    """Return how many samples an exposition has."""
    return sum(1 for line in text.splitlines() if line and not line.startswith("#"))


def agent_url(sandbox: Sandbox, node: str) -> str:
    """Return where a node's agent serves its metrics, by the controller's service discovery. Raises TimeoutError, OSError."""
    ends = time.monotonic() + LONGEST_S
    while time.monotonic() < ends:
        for group in json.loads(scrape(f"http://127.0.0.1:{sandbox.site.ports.metrics}/sd")):
            if group["labels"].get("node") == node:
                return f"http://{group['targets'][0]}/metrics"
        time.sleep(0.2)
    raise TimeoutError(f"the controller's service discovery does not name {node}'s agent")


def until(holds: Callable[[], bool], what: str, longest_s: float = LONGEST_S) -> None:
    """Wait for something. Raises TimeoutError."""
    ends = time.monotonic() + longest_s
    while not holds():
        if time.monotonic() > ends:
            raise TimeoutError(f"waited {longest_s:g} s in vain for {what}")
        time.sleep(0.02)


@contextmanager
def _one_node(directory: Path, agent: AgentSpec, profile: str) -> Iterator[Sandbox]:
    config = SandboxConfig(nodes=1, zones=1, suspend_time_s=3600, controller=default_controller(), agent=agent, gpu_profile=profile)
    with Sandbox(directory, config) as sandbox:
        sandbox.run(["scontrol", "update", f"nodename={NODE}", "state=POWER_UP"])
        until(lambda: sandbox.run(["sinfo", "-h", "-N", "-p", PARTITION, "-o", "%t"]).stdout.split() == ["idle"], "the agent's node")
        yield sandbox


def _as_on_a_node(site: Site) -> str:
    """The agent's own pace, and the kernel's log itself: the file that stands for it is looked at ten times a second."""
    render = default_agent().render_template
    assert render is not None
    kept = [line for line in render(site).splitlines() if not line.startswith(("poll_s", "kernel_log"))]
    return "\n".join(kept) + "\n"


def _without_gpus(site: Site) -> str:
    return _as_on_a_node(site) + "gpu_health = false\n"


@contextmanager
def _plain(sandbox: Sandbox, port_file: Path) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    """Start the plain exporter on the same GPUs; yield it and its address."""
    library = build(sandbox.layout.nvml)
    env = os.environ | dict(environment(library, sandbox.instances.directory(NODE) / STATE))
    with subprocess.Popen([sys.executable, "-m", "bench.health_plain", str(port_file)], env=env) as process:
        try:
            until(lambda: process.poll() is not None or (port_file.exists() and port_file.read_text() != ""), "the plain exporter")
            yield process, f"http://127.0.0.1:{port_file.read_text()}/metrics"
        finally:
            process.kill()


def scrape(url: str) -> str:
    """Return what is served there. Raises OSError."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        text: str = answer.read().decode()
    return text
