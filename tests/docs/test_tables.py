"""The reference tables name every key with its default, and no key that is not there; what they call not acted on is not."""

import importlib
import json
import re
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
from doc_pages import PAGES, ROOT, code, rows
from holdfast.cli import _OWN, _added
from holdfast_controller.config_clouds import Providers
from holdfast_slurm.directives import _READERS
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

FROM_ABOVE = {"GcpConfig": {"cluster", "name"}, "AzureConfig": {"cluster", "name"}}
"""What a cloud's table does not say: the cluster stands at the top, and the pools' first word is the table's own name."""
MARKS = [(page, mark) for page in PAGES for mark in re.findall(r"<!-- (keys: .+?) -->", page.read_text())]
CONTROLLER = ROOT / "controller" / "holdfast_controller"
NOT_YET = "†"


def expected(mark: str) -> dict[str, str]:
    """Key → default as the tables write it, for a model of settings; sections have tables of their own."""
    path, *kind = mark.removeprefix("keys: ").split()
    module, _, name = path.rpartition(".")
    model = getattr(importlib.import_module(module), name)
    if is_dataclass(model):
        assert kind == ["times"]
        return {each.name: shown(each.default) for each in fields(model) if each.name.endswith("_s")}
    return {key: shown(model.model_fields[key].default) for key in keys_of(model)}


def keys_of(model: type[BaseModel]) -> list[str]:
    """The keys that a table of this model has; sections have tables of their own."""
    above = FROM_ABOVE.get(model.__name__, set())
    return [key for key, field in model.model_fields.items() if not has_section(field.annotation) and key not in above]


def has_section(annotation: Any) -> bool:
    if isinstance(annotation, type):
        return issubclass(annotation, BaseModel)
    return any(has_section(part) for part in get_args(annotation))


def shown(default: Any) -> str:
    if default is PydanticUndefined or default is MISSING:
        return "required"
    if default is None:
        return "none"
    if isinstance(default, float):
        return f"`{default:g}`"
    return f"`{json.dumps(default, default=str)}`"


@pytest.mark.parametrize(("page", "mark"), MARKS, ids=[mark.split(".")[-1] for _, mark in MARKS])
def test_a_table_has_every_key_with_its_default(page: Path, mark: str) -> None:
    table = {code(row[0]): row[2] for row in rows(page, mark)}
    assert table == expected(mark)


def test_every_model_of_settings_has_a_table() -> None:
    named = {mark.removeprefix("keys: ").split()[0] for _, mark in MARKS}
    providers = [f"holdfast_controller.providers.{name}_config" for name in ("gcp", "azure")]
    controller = [f"holdfast_controller.{name}" for name in ("config", "config_clouds", "bootstrap_config")]
    for module in ("holdfast_common.policy", *controller, *providers, "holdfast_nodeagent.config"):
        for name, found in vars(importlib.import_module(module)).items():
            if isinstance(found, type) and issubclass(found, BaseModel) and found.__module__ == module and found is not Providers:
                assert f"{module}.{name}" in named or not keys_of(found), f"{module}.{name} has no table"


def test_every_cloud_has_a_table() -> None:
    models = {"aws": "config_clouds.AwsSettings", "gcp": "providers.gcp_config.GcpConfig", "azure": "providers.azure_config.AzureConfig"}
    assert models.keys() == Providers.model_fields.keys()
    page = ROOT / "docs" / "installation.md"
    for cloud, model in models.items():
        before = page.read_text().partition(f"<!-- keys: holdfast_controller.{model} -->")[0].rstrip().splitlines()[-1]
        assert before.startswith(f"`[providers.{cloud}]`")


def test_each_key_of_the_policy_is_acted_on_or_marked() -> None:
    """A key that nothing reads must have a mark in its table, and one that is read none."""
    files = [path for path in CONTROLLER.rglob("*.py") if path.name != "config.py"]
    source = "\n".join(path.read_text() for path in files)
    marks = [(page, mark) for page, mark in MARKS if "common.policy." in mark or mark.endswith("config.Timing")]
    keys = [(code(row[0]), NOT_YET in row[0]) for page, mark in marks for row in rows(page, mark)]
    assert len(keys) > 30
    for key, marked in keys:
        read = re.search(rf"\.{key}(_\w+)?\b", source) is not None
        assert read is not marked or key == "version", key


def test_the_directives_table_has_every_key_and_says_which_act() -> None:
    table = {code(row[0]): row[3] for row in rows_of_section(ROOT / "docs" / "researchers.md", "| Key | Value | Meaning | Acted on |")}
    assert table.keys() == _READERS.keys()
    used = set(re.findall(r"\bsaid\.(\w+)", (CONTROLLER / "records.py").read_text()))
    acting = {key for key in _READERS if any(name == key or name.startswith(f"{key}_") for name in used)}
    assert {key for key, said in table.items() if said == "yes"} == acting


def rows_of_section(page: Path, heading: str) -> list[list[str]]:
    after = page.read_text().partition(heading + "\n")[2]
    assert after
    lines = re.match(r"(?:\|.*\|\n)+", after)
    assert lines
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[0].splitlines()[1:]]


def test_the_list_of_commands_is_that_of_the_program() -> None:
    listed = [code(row[0]) for row in rows(ROOT / "docs" / "administration.md", "commands")]
    assert len(set(listed)) == len(listed)
    assert set(listed) == {f"holdfast {name}" for name in (*_OWN, *_added())}


def test_the_exit_codes_are_those_of_the_program() -> None:
    from holdfast_controller.cli.app import EXIT_CODES

    said = EXIT_CODES.removeprefix("Exit codes: ").rstrip(".")
    assert said in " ".join((ROOT / "docs" / "administration.md").read_text().split())
