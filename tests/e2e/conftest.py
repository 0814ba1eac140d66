"""A whole Holdfast on a real Slurm for each test file, and the check at the end of every test that nothing is out of joint."""

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from holdfast_sandbox.cluster import Sandbox
from holdfast_sandbox.cluster_config import SandboxConfig, Site
from holdfast_sandbox.defaults import default_controller, default_policy

sys.path.insert(0, str(Path(__file__).parent))  # importmode=importlib leaves it out
from e2e_bed import HERE, Bed, until
from e2e_invariants import SETTLE_S, violations


def quick_policy(site: Site) -> str:
    """The sandbox's policy with shorter patience: for pools that refuse, and for instances that stay silent."""
    launch = "registration_timeout_s = 6, refusal_backoff_s = 2, refusal_memory_s = 5, orphan_grace_s = 10"
    lines = default_policy(site).splitlines()
    return "\n".join(f"launch = {{ {launch} }}" if line.startswith("launch =") else line for line in lines) + "\n"


@pytest.fixture(scope="session")
def make_bed() -> Iterator[Callable[..., Bed]]:
    """Start sandboxes; each is stopped when the tests are over, or before with `bed.sandbox.stop()`."""
    made: list[tuple[Sandbox, Path]] = []

    def make(**settings: Any) -> Bed:
        root = Path(tempfile.mkdtemp(prefix="hf-e2e-", dir="/tmp"))
        root.chmod(0o755)
        work = root / "work"
        work.mkdir()
        shutil.copy(HERE / "counter_job.py", work)
        values = {"nodes": 6, "boot_delay_s": 0.3, "zones": 2, "controller": default_controller(policy=quick_policy)} | settings
        sandbox = Sandbox(root / "sb", SandboxConfig(**values))
        made.append((sandbox, root))
        sandbox.start()
        return Bed(sandbox, work)

    yield make
    for sandbox, root in made:
        sandbox.stop()
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="module")
def shared_bed(make_bed: Callable[..., Bed], request: pytest.FixtureRequest) -> Iterator[Bed]:
    """One sandbox for a file, made with the file's SETTINGS."""
    bed = make_bed(**getattr(request.module, "SETTINGS", {}))
    yield bed
    bed.sandbox.stop()


@pytest.fixture
def bed(shared_bed: Bed) -> Iterator[Bed]:
    """The file's sandbox; after the test everything in it must be in order again."""
    shared_bed.cloud.clear()
    shared_bed.hook_lines_allowed.clear()
    yield shared_bed
    if not shared_bed.controller_runs():  # a test that failed must not make the next ones fail
        shared_bed.restart_controller()
    try:
        assert settled(shared_bed) == []
    finally:
        shared_bed.hooks_checked()


def settled(bed: Bed) -> list[str]:
    """Wait for everything to come to rest, and return what is still wrong then."""
    deadline = time.monotonic() + SETTLE_S
    while (faults := violations(bed)) and time.monotonic() < deadline:
        time.sleep(0.3)
    return faults


def last_lines(path: Path, count: int) -> str:
    """The end of a log."""
    return "\n".join(path.read_text(errors="replace").splitlines()[-count:]) if path.exists() else "(none)"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Show the journal and the controller's log with a failure: the sandbox is gone when one reads of it."""
    report = yield
    found = getattr(item, "funcargs", {}).get("shared_bed")
    if report.failed and isinstance(found, Bed) and found.sandbox.running:
        journal = "\n".join(f"{entry.at:.2f} {entry.kind}: {entry.text}" for entry in found.journal()[-150:])
        report.sections.append(("journal", journal))
        report.sections.append(("squeue", found.sandbox.run(["squeue", "-a"], check=False).stdout))
        for name, lines in (("controller.log", 60), ("slurmctld.log", 150)):
            report.sections.append((name, last_lines(found.sandbox.layout.log / name, lines)))
        for path in sorted((found.sandbox.layout.cloud / "instances").glob("*/**/*.log")):
            report.sections.append((f"{path.parent} {path.name}", last_lines(path, 12)))
        report.sections.append(("hooks.log", "\n".join(found.hook_lines()[-20:])))
    return report


@pytest.fixture(name="until")
def until_fixture() -> Callable[..., Any]:
    return until
