"""The whole demo on real Slurm, with a training script whose result depends on being interrupted: that is named, and nothing else."""

import shutil
import tempfile
from pathlib import Path

import pytest
from holdfast_sandbox.demo.app import judge, run
from holdfast_sandbox.demo.checks import failures
from holdfast_sandbox.demo.director import example_folder

pytestmark = [pytest.mark.slurm, pytest.mark.torch, pytest.mark.long, pytest.mark.timeout(330)]

HONEST = "        digest = write_outcome("
FORGED = "        model.head.bias.data[0] += 1e-6 * (run.attempt > 0)\n"


def test_a_result_that_an_interruption_changed_is_named(tmp_path: Path) -> None:
    example = tmp_path / "example"
    shutil.copytree(example_folder(), example, ignore=shutil.ignore_patterns("checkpoints", "__pycache__"))
    script = (example / "train.py").read_text()
    assert script.count(HONEST) == 1
    (example / "train.py").write_text(script.replace(HONEST, FORGED + HONEST))

    work = Path(tempfile.mkdtemp(prefix="hf-demo-", dir="/tmp"))  # short, for the sandbox's sockets
    try:
        evidence, trouble = run(work, example)
        assert trouble == []
        assert not judge(evidence, trouble, tmp_path, as_json=True)
        found = {(failure.promise, failure.what.partition(" differ ")[0]) for failure in failures(evidence)}
    finally:
        shutil.rmtree(work, ignore_errors=True)
    promise = "the result equals the undisturbed one's, bit for bit"
    changed = {(promise, f"1 of {job}'s final parameters") for job in ("single", "pair")}
    assert {what for what in found if "sha256" not in what[1]} == changed
    assert {what[0] for what in found} == {promise}
