"""Hooks as slurmctld runs them: their wrappers, with an empty environment, in a process of their own."""

import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from holdfast_slurm.hooks.fake import FakeHookService, serve
from holdfast_slurm.hooks.install import write_wrappers


@dataclass(frozen=True)
class Outcome:
    status: int
    stdout: str
    elapsed_s: float


@dataclass(frozen=True)
class Hooks:
    root: Path

    @property
    def socket(self) -> Path:
        return self.root / "c.sock"

    @property
    def log(self) -> str:
        path = self.root / "hooks.log"
        return path.read_text() if path.exists() else ""

    @property
    def jobs(self) -> Path:
        return self.root / "run" / "jobs"

    def install(self, *, directory: str = "hooks", **options) -> Path:
        arguments = {
            "python": Path(sys.executable),
            "controller_socket": self.socket,
            "run_dir": self.root / "run",
            "bin_dir": Path("/usr/bin"),
            "slurm_conf": self.root / "slurm.conf",
        }
        write_wrappers(self.root / directory, **(arguments | options))
        return self.root / directory

    async def start(self, name: str, *arguments: str, **environ: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            str(self.root / "hooks" / name),
            *arguments,
            env=environ,
            cwd="/",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )

    async def run(self, name: str, *arguments: str, **environ: str) -> Outcome:
        started = time.monotonic()
        process = await self.start(name, *arguments, **environ)
        try:
            stdout, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
        return Outcome(process.returncode or 0, stdout.decode(), time.monotonic() - started)


@pytest.fixture
def hooks() -> Iterator[Hooks]:
    with tempfile.TemporaryDirectory(prefix="hf-hk-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        found = Hooks(Path(name))
        found.install()
        yield found


@pytest.fixture
async def controller(hooks: Hooks) -> AsyncIterator[FakeHookService]:
    service = FakeHookService()
    await serve(service, str(hooks.socket))
    try:
        yield service
    finally:
        await service.server.stop(0)
