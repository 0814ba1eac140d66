import subprocess
import sys
from pathlib import Path

import pytest

CRASH = """
import os, pickle, sys
import holdfast
from holdfast import faults

class Counter:
    value = 0
    def state_dict(self): return {"value": self.value, "ballast": b"x" * 3_000_000}
    def load_state_dict(self, state): self.value = state["value"]

directory, point = sys.argv[1:]
counter = Counter()
run = holdfast.Run(counter, directory=directory, every_steps=2, keep=1, asynchronous=False)
for step in run.steps(100):
    assert counter.value == step, (counter.value, step)
    counter.value += 1
    if step == 3:
        def hook(name):
            if name == point:
                os._exit(9)
        faults.hook = hook
    if step == 4:
        run._coordinator._saver.rest()  # the deletions after the save of step 4 are done, too
    if step == 6:
        os._exit(0)
"""
POINTS = {
    "folder-made": 2,
    "file-opened": 2,
    "file-partial": 2,
    "file-written": 2,
    "file-synced": 2,
    "folder-synced": 2,
    "manifest-written": 2,
    "manifest-synced": 2,
    "manifest-renamed": 4,
    "published": 4,
    "removal-unpublished": 4,
    "removal-done": 4,
}
RESUME = """
import holdfast, sys
exec(sys.argv[2])
counter = Counter()
steps = holdfast.Run(counter, directory=sys.argv[1]).steps(100)
print(next(steps), counter.value)
"""


@pytest.mark.parametrize("point", POINTS)
def test_a_crash_at_any_write_boundary_leaves_a_checkpoint(point: str, tmp_path: Path) -> None:
    died = subprocess.run([sys.executable, "-c", CRASH, str(tmp_path), point], capture_output=True, text=True, check=False)
    assert died.returncode == 9, died.stderr
    counter = CRASH[CRASH.index("class") : CRASH.index("directory,")]
    resumed = subprocess.run([sys.executable, "-c", RESUME, str(tmp_path), counter], capture_output=True, text=True, check=True)
    assert resumed.stdout == f"{POINTS[point]} {POINTS[point]}\n"
    assert all((folder / "manifest.json").exists() for folder in tmp_path.glob("step-*"))
    assert not list(tmp_path.glob("bad-*"))
