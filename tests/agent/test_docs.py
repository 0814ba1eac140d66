"""The page for other languages says what the code does: examples are valid, tables name every key, schemas are the models'."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from holdfast_common.jobfiles import FILES, MAX_FILE_BYTES, MAX_RANKS_PER_NODE, NoticeKind, RankState, parse

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "job-protocol.md").read_text()
EXAMPLES = dict(re.findall(r"<!-- example: (\w+) -->\n```json\n(.*?)```", PAGE, re.DOTALL))


def schema(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((ROOT / "docs" / "schemas" / f"{name}.json").read_text())
    return content


def test_every_file_has_an_example() -> None:
    assert EXAMPLES.keys() == FILES.keys()


@pytest.mark.parametrize("name", FILES)
def test_an_example_is_valid_and_shows_every_key(name: str) -> None:
    content = json.loads(EXAMPLES[name])
    jsonschema.Draft202012Validator(schema(name)).validate(content)
    parse(FILES[name], EXAMPLES[name].encode())
    assert content.keys() == FILES[name].model_fields.keys()


@pytest.mark.parametrize("name", FILES)
def test_a_table_explains_every_key(name: str) -> None:
    section = PAGE.split(f"<!-- example: {name} -->")[1].split("\n## ")[0]
    explained = set(re.findall(r"`(\w+)`", "".join(line.split("|")[1] for line in section.splitlines() if line.startswith("| `"))))
    assert explained == FILES[name].model_fields.keys() - {"v"}


def test_every_kind_state_and_limit_is_named() -> None:
    for word in (*NoticeKind.__args__, *RankState.__args__):
        assert f"`{word}`" in PAGE
    assert f"{MAX_FILE_BYTES:,}".replace(",", " ") in PAGE
    assert f"{MAX_RANKS_PER_NODE} ranks" in PAGE


@pytest.mark.parametrize("name", FILES)
def test_a_schema_refuses_what_the_model_refuses(name: str) -> None:
    validator = jsonschema.Draft202012Validator(schema(name))
    good = json.loads(EXAMPLES[name])
    for key in FILES[name].model_fields:
        assert not validator.is_valid({**good, key: {"an": "object"}}), key
    assert validator.is_valid({**good, "unknown": 1})


def test_the_schemas_are_those_of_the_models() -> None:
    done = subprocess.run([ROOT / "scripts" / "schemas", "--check"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
