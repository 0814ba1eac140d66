"""The README's steps by hand, as they stand there, in a copy of the example on a real Slurm."""

import shutil
import subprocess
from pathlib import Path

import pytest
from doc_pages import ROOT, blocks


@pytest.mark.slurm
@pytest.mark.torch
@pytest.mark.timeout(200)
def test_the_steps_of_the_readme_work(tmp_path_factory: pytest.TempPathFactory) -> None:
    (block,) = blocks_marked("run: tour")
    place = Path("/tmp") / tmp_path_factory.mktemp("hf-tour-").name  # short: a socket's path is
    shutil.rmtree(place, ignore_errors=True)
    example = place / "examples" / "resnet_cifar10"
    ignore = shutil.ignore_patterns("checkpoints", "*.out", "__pycache__", ".sandbox")
    shutil.copytree(ROOT / "examples" / "resnet_cifar10", example, ignore=ignore)
    (place / ".venv").symlink_to(ROOT / ".venv")
    place.chmod(0o755)
    script = "set -euo pipefail\n" + block
    try:
        done = subprocess.run(["bash", "-c", script], cwd=place, capture_output=True, text=True, timeout=150, check=False)
        told = f"{done.stdout}\n{done.stderr}"
        print(told)
        assert done.returncode == 0, told
        assert "job 1 is RUNNING again on spot-" in told
        assert "interrupted 1 time(s)" in told
        assert not (example / ".sandbox").exists()
        assert list((example / "checkpoints" / "1").glob("step-*"))
    finally:
        if (example / ".sandbox").exists():
            down = ["holdfast", "sandbox", "down", "--dir", str(example / ".sandbox")]
            subprocess.run([ROOT / ".venv" / "bin" / down[0], *down[1:]], capture_output=True, timeout=30, check=False)
        shutil.rmtree(place, ignore_errors=True)


def blocks_marked(mark: str) -> list[str]:
    return [block.text for block in blocks("bash") if block.mark == mark]
