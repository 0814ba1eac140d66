"""Each adapter with its real framework: a run that is interrupted ends bit for bit like one that was not."""

import functools
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest

HERE = Path(__file__).parent
SCHEMAS = HERE.parents[1] / "docs" / "schemas"
NEEDS = {"lightning": "lightning", "transformers": "transformers", "orbax": "orbax", "tensorflow": "tensorflow"}
QUICK = {"lightning": ("srun", "misuse"), "orbax": ("alone",)}
LONG = {
    "lightning": ("alone", "ranks", "other_name"),
    "transformers": ("alone", "misuse", "ranks", "accelerate"),
    "orbax": ("ranks",),
    "tensorflow": ("alone", "keras"),
}
QUIET = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": ""}

pytestmark = pytest.mark.timeout(300)


def cases(*parts: str) -> list[Any]:
    """The frameworks that play one of these parts."""
    found = []
    for plays, marks in ((QUICK, []), (LONG, [pytest.mark.long])):
        for framework, played in plays.items():
            torch = [pytest.mark.torch] if framework in ("lightning", "transformers") else []
            found += [pytest.param(framework, part, id=f"{framework}-{part}", marks=marks + torch) for part in played if part in parts]
    return found


@functools.cache
def program(framework: str, parts: tuple[str, ...]) -> dict[str, Any]:
    """What a framework's program tells of its parts, which it plays once for all tests."""
    if importlib.util.find_spec(NEEDS[framework]) is None:
        pytest.skip(f"{framework} is not installed")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "HOLDFAST_"))}
    with tempfile.TemporaryDirectory() as root:
        command = [sys.executable, str(HERE / f"adapter_{framework}.py"), root, *parts]
        done = subprocess.run(command, env=environ | QUIET, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def told(framework: str, part: str) -> dict[str, Any]:
    quick = QUICK.get(framework, ())
    parts = quick if part in quick else LONG[framework]
    found: dict[str, Any] = program(framework, parts)[part]
    assert not any(found.get("reference", {"codes": []})["codes"]), found["logs"]
    return found


@pytest.mark.parametrize(("framework", "part"), cases("alone", "other_name", "accelerate", "keras"))
def test_killed_it_goes_on_from_the_last_checkpoint(framework: str, part: str) -> None:
    found = told(framework, part)
    assert found["killed"]["codes"] == [-9]
    assert found["after_kill"]["first"][0] in (3, 6), found["logs"]["after_kill.0.log"]
    assert found["after_kill"]["digests"] == found["reference"]["digests"]


@pytest.mark.parametrize(("framework", "part"), cases("alone", "other_name", "accelerate", "keras", "ranks"))
def test_on_a_notice_it_parks_and_goes_on_from_that_step(framework: str, part: str) -> None:
    found = told(framework, part)
    parked, ranks = found["parked"], found["parked"]["ranks"]
    for number, report in enumerate(ranks):
        jsonschema.validate(report, json.loads((SCHEMAS / "rank.json").read_text()))
        assert (report["rank"], report["state"], report["notice_id"], report["world_size"]) == (number, "parked", "n1", len(ranks))
    jsonschema.validate(parked["status"], json.loads((SCHEMAS / "status.json").read_text()))
    assert (parked["status"]["state"], parked["status"]["stopped_on_notice"]) == ("parked", True)
    assert parked["codes"] == [-15] * len(ranks), "SIGTERM ends a parked process at once"
    steps = [report["saved_step"] for report in ranks]
    assert steps == [steps[0]] * len(ranks)
    assert found["after_park"]["first"] == steps, found["logs"]
    assert found["after_park"]["digests"] == found["reference"]["digests"]


@pytest.mark.parametrize(("framework", "part"), cases("alone", "other_name", "accelerate", "keras"))
def test_a_damaged_checkpoint_is_set_aside_and_the_older_one_used(framework: str, part: str) -> None:
    found = told(framework, part)
    parked_at = found["parked"]["status"]["saved_step"]
    assert 0 < found["after_damage"]["first"][0] < parked_at, found["logs"]["after_damage.0.log"]
    assert found["after_damage"]["digests"] == found["reference"]["digests"]
    assert f"bad-step-{parked_at:08d}.a0" in found["names"]
    assert found["damaged"] in found["logs"]["after_damage.0.log"], "the faulty file is named"


@pytest.mark.parametrize(("framework", "part"), cases("alone", "other_name", "accelerate", "keras"))
def test_the_last_step_is_saved(framework: str, part: str) -> None:
    assert "step-00000020.a1" in told(framework, part)["names"]


@pytest.mark.parametrize(("framework", "part"), cases("ranks"))
def test_what_two_ranks_saved_one_can_load(framework: str, part: str) -> None:
    found = told(framework, part)
    assert (found["one"]["codes"], found["one"]["first"]) == ([0], found["after_park"]["first"][:1]), found["logs"]["one.0.log"]
    if framework == "orbax":  # whose batches do not depend on the number of ranks
        assert found["one"]["digests"] == told(framework, "alone")["reference"]["digests"]


@pytest.mark.torch
def test_lightning_does_not_requeue_as_well() -> None:
    found = told("lightning", "srun")
    assert found["parked"]["codes"] == [-15]
    assert "Lightning's own requeue is switched off" in found["logs"]["srun.0.log"]
    assert "auto-requeue" not in found["logs"]["srun.0.log"]


@pytest.mark.torch
def test_a_way_to_resume_beside_ours_is_refused() -> None:
    found = told("lightning", "misuse")
    assert "HoldfastCallback resumes by itself. Give fit no ckpt_path" in str(found["told"]["digests"][0]), found["logs"]


@pytest.mark.torch
@pytest.mark.long
def test_the_trainer_without_our_way_to_resume_is_told() -> None:
    found = told("transformers", "misuse")
    first, second = str(found["told"]["digests"][0]).split("\n")
    assert first.startswith("call trainer.train(resume_from_checkpoint=callback.resume_path(trainer))"), found["logs"]
    assert "the trainer begins at step 0, the checkpoint is of step 20" in second


FOREIGN = """
import json, sys
before = set(sys.modules)
import holdfast.adapters, holdfast.adapters.lightning, holdfast.adapters.accelerate, holdfast.adapters.jax
roots = {name.partition(".")[0] for name in set(sys.modules) - before}
print(json.dumps(sorted(roots - set(sys.stdlib_module_names) - {"holdfast"})))
"""


def test_the_adapters_bring_in_no_framework_by_themselves() -> None:
    done = subprocess.run([sys.executable, "-c", FOREIGN], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


@pytest.mark.parametrize(
    ("adapter", "framework", "package"),
    [
        ("lightning", "lightning", "lightning"),
        ("transformers", "transformers", "transformers"),
        ("orbax", "orbax", "orbax-checkpoint"),
        ("orbax", "jax", "orbax-checkpoint"),
        ("tensorflow", "tensorflow", "tensorflow"),
    ],
)
def test_an_absent_framework_is_named(adapter: str, framework: str, package: str) -> None:
    use = f"import sys; sys.modules[{framework!r}] = None; from holdfast.adapters import {adapter} as found; found.HoldfastCallback()"
    done = subprocess.run([sys.executable, "-c", use], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.search(
        rf"MissingFrameworkError: holdfast.adapters.{adapter} needs {package}.*: pip install {package}$", done.stderr, re.MULTILINE
    )
