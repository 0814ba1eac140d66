"""docs/node-images.md shows what the code makes."""

import re
import tomllib
from pathlib import Path

from holdfast_controller.bootstrap import LIMIT_BYTES, MERGE, bootstrap, prepare
from holdfast_controller.bootstrap_config import NodeSettings

PAGE = (Path(__file__).parents[2] / "docs" / "node-images.md").read_text()


def block(mark: str) -> str:
    found = re.search(rf"<!-- {re.escape(mark)} -->\n```\w+\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert found, mark
    return found[1]


def test_the_user_data_shown_is_that_of_the_settings_shown() -> None:
    settings = NodeSettings.model_validate(tomllib.loads(block("check: controller"))["nodes"])
    assert block("check: user data") == bootstrap(settings, "aws", "physics", "l-0042", "l-0042.5f0c")


def test_the_cloud_config_shown_is_accepted(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(block("check: own cloud-config"))
    settings = NodeSettings(controller="10.0.0.5:7420", cloud_config=str(own))
    assert own.read_text() in prepare(settings, LIMIT_BYTES, "physics", "slurm").user_data("azure", "l-1", "l-1.0")


def test_the_limits_and_the_way_of_merging_are_those_of_the_code() -> None:
    said = {f"{limit // 1024} KiB" for limit in LIMIT_BYTES.values()}
    line = next(line for line in PAGE.splitlines() if line.startswith("- **Limits:**"))
    assert set(re.findall(r"\d+ KiB", line)) == said
    assert f"`{MERGE}`" in PAGE
