"""`holdfast-controller --check` says before the start what would keep the controller from starting."""

import sys
from pathlib import Path

import pytest
from holdfast_common.health.rules import default_toml
from holdfast_controller.__main__ import main

POLICY = """version = 1
[pools.a]
provider = "aws"
region = "us-east-1"
zone = "us-east-1a"
instance_type = "p5.48xlarge"
market = "spot"
[node_groups.g]
nodes = "spot-[1-2]"
[partitions.spot]
node_groups = ["g"]
pools = ["a"]
"""


@pytest.mark.parametrize(
    ("rules", "code", "said"), [(None, 2, "cannot be read"), ("version = 2\n", 2, "version"), (default_toml(), 0, "fine; policy")]
)
def test_the_health_rules_are_checked_too(
    rules: str | None, code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "policy.toml").write_text(POLICY)
    if rules is not None:
        (tmp_path / "rules.toml").write_text(rules)
    names = {"state_dir": tmp_path, "policy": tmp_path / "policy.toml", "health_rules": tmp_path / "rules.toml"}
    lines = ['cluster = "lab"', *(f'{key} = "{path}"' for key, path in names.items()), "[providers.aws]", 'regions = ["us-east-1"]']
    (tmp_path / "controller.toml").write_text("\n".join([*lines, 'template = "node"', ""]))
    monkeypatch.setattr(sys, "argv", ["holdfast-controller", "--check", "--config", str(tmp_path / "controller.toml")])
    assert main() == code
    told = capsys.readouterr()
    assert said in (told.err if code else told.out)
    assert ("rules.toml" in told.err) is bool(code)
