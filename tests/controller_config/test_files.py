"""Settings files that are not what they must be: a sentence with the path, and nothing hangs."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from holdfast_common.errors import ConfigError
from holdfast_common.health.rules import parse_rules
from holdfast_controller.config import load_config
from holdfast_controller.health_rules import HealthRulesStore
from holdfast_controller.policies import PolicyStore
from holdfast_nodeagent.config import load as load_agent
from hypothesis import given, settings
from hypothesis import strategies as st

Load = Callable[[Path], object]
LOADERS: dict[str, Load] = {"controller.toml": load_config, "policy.toml": PolicyStore, "agent.toml": load_agent}


def refused(load: Load, path: Path, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        load(path)
    assert caught.value.where == str(path)


@pytest.mark.parametrize("name", LOADERS)
def test_a_file_that_is_none(name: str, tmp_path: Path) -> None:
    load, path = LOADERS[name], tmp_path / name
    refused(load, path, "cannot be read")
    path.mkdir()
    refused(load, path, "regular file|cannot be read")
    path.rmdir()
    os.mkfifo(path)
    refused(load, path, "no regular file")
    path.unlink()
    path.symlink_to("/dev/zero")
    refused(load, path, "no regular file")
    path.unlink()
    path.write_bytes(b"\xff\xfe\x00")
    refused(load, path, "UTF-8")
    path.write_text("x = 1\n" * 100_000)
    refused(load, path, "longer than")
    path.write_text("x = " + "[" * 5000)
    refused(load, path, "nested|TOML")
    path.write_text("x = " + "9" * 5000)
    refused(load, path, "TOML")


def test_what_is_put_in_force_is_read_again_at_the_next_start(tmp_path: Path) -> None:
    """A file's length counts in bytes, so a text's does too: a comment in another language has more of them than characters."""
    text = f"version = 1\n# {'é' * 200_000}\n"
    path = tmp_path / "rules.toml"
    path.write_text(text)
    refused(lambda path: HealthRulesStore(str(path)), path, "longer than")
    with pytest.raises(ConfigError, match="longer than"):
        parse_rules(text)


@pytest.mark.parametrize("name", LOADERS)
def test_what_every_user_could_have_written_is_not_believed(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text("")
    path.chmod(0o666)
    refused(LOADERS[name], path, "every user can write to it")


NUMBERS = ["nan", "inf", "-inf", "1e308", "-1", "0", "9" * 30]
VALUES = st.sampled_from([*NUMBERS, "true", '"x"', "[]", "{}", '["a", 1]', '""', '"\\u0000"', "2026-01-01"])
TABLES = "slurm listen timing providers pools node_groups partitions listen.tcp timing.watch_busy_s slurm.timeout_s providers.aws "
NESTED = "providers.aws.regions pools.a pools.a.market partitions.p.pools node_groups.g.nodes "
PLAIN = "cluster state_dir policy controller poll_s patience_s margin_s run_dir slurmd_command log_level version colour"
KEYS = st.sampled_from((TABLES + NESTED + PLAIN).split())


@pytest.mark.parametrize("name", LOADERS)
def test_any_value_anywhere_is_a_sentence_and_never_a_traceback(name: str, tmp_path: Path) -> None:
    path = tmp_path / name

    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(st.dictionaries(KEYS, VALUES, max_size=8))
    def check(lines: dict[str, str]) -> None:
        path.write_text("".join(f"{key} = {value}\n" for key, value in lines.items()))
        with pytest.raises(ConfigError) as caught:
            LOADERS[name](path)
        assert caught.value.faults
        assert all(len(fault) < 1000 for fault in caught.value.faults)

    check()
