"""The user data of a launch: what is in it is what the machine's own programs read, whatever an admin or a cloud puts in."""

import base64
import email
import email.policy
import importlib
import itertools
import json
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from holdfast_common.errors import ConfigError
from holdfast_controller.bootstrap import (
    AGENT_TOML,
    CONFIGLESS_CONF,
    LIMIT_BYTES,
    LOGIND,
    MERGE,
    MUNGE_KEY,
    OUR_PATHS,
    SLURMD_DEFAULTS,
    bootstrap,
    prepare,
)
from holdfast_controller.bootstrap_config import AgentSettings, Cloud, NodeSettings
from holdfast_controller.tokens import make_token, user_data
from holdfast_nodeagent.config import AgentConfig, load
from holdfast_nodeagent.userdata import UserData, parse_user_data
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

CLOUDS: tuple[Cloud, ...] = get_args(Cloud)
LAUNCH = "physics-0042/a:b=c+d@e"
TOKEN = make_token(b"x" * 32, LAUNCH)
KEYS = {
    "aws": "arn:aws:secretsmanager:us-east-1:123456789012:secret:munge-AbCdEf",
    "gcp": "projects/my-project/secrets/munge/versions/latest",
    "azure": "https://my-vault.vault.azure.net/secrets/munge",
}
FULL: dict[str, Any] = {"controller": "10.0.0.5:7420", "conf_server": "10.0.0.5:6817,ctl2", "munge_key": KEYS}


def settings(**changes: Any) -> NodeSettings:
    return NodeSettings.model_validate({**FULL, **changes})


def made(cloud: Cloud = "aws", own: str = "", **changes: Any) -> str:
    return bootstrap(settings(**changes), cloud, "physics", LAUNCH, TOKEN, own=own)


def files(text: str) -> dict[str, str]:
    """path → content of what cloud-init is to write."""
    document = yaml.safe_load(text)
    assert document.keys() == {"write_files"}
    for file in document["write_files"]:
        assert file.keys() == {"path", "owner", "permissions", "content"}
        assert (file["owner"], file["permissions"]) == ("root:root", "0644")
    return {file["path"]: file["content"] for file in document["write_files"]}


def agent(text: str, directory: Path) -> AgentConfig:
    path = directory / "agent.toml"
    path.write_text(files(text)[AGENT_TOML])
    return load(path)


@pytest.mark.parametrize("cloud", CLOUDS)
def test_the_agent_finds_the_launch_in_it_and_takes_its_settings(cloud: Cloud, tmp_path: Path) -> None:
    text = made(cloud)
    expected = UserData("physics", LAUNCH, TOKEN)
    assert parse_user_data(text.encode()) == expected
    assert parse_user_data(base64.b64decode(base64.b64encode(text.encode()))) == expected, "as Azure tells it"
    found = agent(text, tmp_path)
    assert (found.controller, found.cluster, found.controller_user, found.cloud) == ("10.0.0.5:7420", "physics", "slurm", cloud)
    assert found.slurmd_command == ("systemctl", "start", "holdfast-slurmd@{node}.service")
    assert found.slurm_conf == Path(CONFIGLESS_CONF)
    assert text.startswith("#cloud-config\n")
    assert text.isascii()


@pytest.mark.parametrize("cloud", CLOUDS)
def test_each_cloud_gets_its_own_reference_and_never_a_key(cloud: Cloud) -> None:
    found = files(made(cloud))
    assert found.keys() == OUR_PATHS
    assert found[MUNGE_KEY] == f"{KEYS[cloud]}\n"
    assert found[SLURMD_DEFAULTS] == 'SLURMD_OPTIONS="--conf-server 10.0.0.5:6817,ctl2"\n'
    assert "HandlePowerKey=ignore\n" in found[LOGIND]
    # nothing but its name and the reference tells the clouds apart
    other = files(made("aws"))
    assert {path for path in OUR_PATHS if found[path] != other[path]} == (set() if cloud == "aws" else {AGENT_TOML, MUNGE_KEY})
    assert found[AGENT_TOML].replace(f'"{cloud}"', '"aws"') == other[AGENT_TOML]


def test_what_is_baked_into_the_image_is_not_said(tmp_path: Path) -> None:
    text = made(conf_server="", munge_key={})
    assert files(text).keys() == {AGENT_TOML, LOGIND}
    assert agent(text, tmp_path).slurm_conf == Path("/etc/slurm/slurm.conf")


def test_the_words_are_those_of_a_launch_without_these_settings() -> None:
    assert parse_user_data(made().encode()) == parse_user_data(user_data("physics", b"x" * 32, LAUNCH).encode())


def test_the_same_launch_gets_the_same_bytes_and_another_one_other_bytes() -> None:
    own = "#cloud-config\nmounts: [[a, /b]]\n"
    assert made(own=own) == made(own=own)
    assert made() == made()
    assert made() != bootstrap(settings(), "aws", "physics", "other", TOKEN)


def test_the_agents_further_keys_are_its_own_and_reach_it(tmp_path: Path) -> None:
    further: dict[str, Any] = {"poll_s": 1.5, "patience_s": 3.0, "margin_s": 0.0, "kill_wait_s": 30.0, "orphan_shutdown_s": 0.0}
    further |= {"log_level": "debug", "gpu_health": False, "nvml_library": "/opt/lib/libnvidia-ml.so.1", "quick_check_s": 30.0}
    further |= {"metrics_listen": "0.0.0.0:9817", "metrics_dcgm_names": True}
    further |= {"watched_paths": ("/", "/scratch"), "checkpoint_mounts": ("/checkpoints",)}
    assert further.keys() == AgentSettings.model_fields.keys()
    found = agent(made(agent=further), tmp_path)
    paths = {key: tuple(map(str, getattr(found, key))) for key in ("watched_paths", "checkpoint_mounts")}
    assert {key: getattr(found, key) for key in further} | paths == further


SECONDS = [key for key in AgentSettings.model_fields if key.endswith("_s")]
LISTENS = ["", "0.0.0.0:9465", "[::]:0", "node:65535", "node:65536", ":9465", "::1:9465", "a b:1", "node:٩"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *itertools.product(SECONDS, [-1.0, 0.0, 0.05, 60.0, 60.01, 600.0, 601.0, 604_800.0, 604_801.0]),
        *(("metrics_listen", each) for each in LISTENS),
    ],
)
def test_what_we_take_for_the_agent_it_takes_too(key: str, value: float | str) -> None:
    def accepts(model: type[AgentSettings] | type[AgentConfig], **more: Any) -> bool:
        try:
            model.model_validate({key: value, **more})
        except ValidationError:
            return False
        return True

    assert accepts(AgentSettings) == accepts(AgentConfig, controller="a:1", cluster="c")


OWN = """\
#cloud-config
#holdfast {"holdfast": {"v": 1, "cluster": "other", "launch_id": "theirs", "launch_token": "theirs"}}
mounts: [["fs.example:/home", /home, nfs]]
write_files:
- path: /etc/motd
  content: "Grüße aus dem Rechenzentrum\\n"
"""


@pytest.mark.parametrize("own", [OWN, OWN.replace("ü", "ue").replace("ß", "ss")], ids=["utf-8", "ascii"])
def test_the_sites_own_document_is_a_second_part_that_cannot_speak_for_us(own: str) -> None:
    text = made(own=own)
    whole = email.message_from_string(text, policy=email.policy.default)
    assert whole.get_content_type() == "multipart/mixed"
    assert not whole.defects
    ours, theirs = whole.iter_parts()
    assert files(ours.get_content()).keys() == OUR_PATHS
    assert {part.get_content_type() for part in (ours, theirs)} == {"text/cloud-config"}
    assert theirs.get_content() == own
    assert (ours["X-Merge-Type"], theirs["X-Merge-Type"]) == (None, MERGE)
    assert parse_user_data(text.encode()) == UserData("physics", LAUNCH, TOKEN)


def test_a_boundary_is_no_line_of_the_sites_document() -> None:
    text = made(own=OWN)
    boundary = email.message_from_string(text).get_boundary()
    again = made(own=f"{OWN}#\n--{boundary}--\n")
    assert len(list(email.message_from_string(again, policy=email.policy.default).iter_parts())) == 2


@pytest.mark.parametrize(("cloud", "limit"), [("aws", 16_384), ("gcp", 262_144), ("azure", 49_152)])
def test_it_is_never_longer_than_the_cloud_takes(cloud: Cloud, limit: int) -> None:
    assert LIMIT_BYTES[cloud] == limit
    base = len(made(cloud, own="#cloud-config\n# ").encode())
    longest = made(cloud, own="#cloud-config\n# " + "x" * (limit - base))
    assert len(longest.encode()) == limit
    if cloud == "azure":
        assert len(base64.b64encode(longest.encode())) <= 65_536
    assert limit <= importlib.import_module(f"holdfast_controller.providers.{cloud}_wire").USER_DATA_MAX_BYTES
    assert parse_user_data(longest.encode()).launch_id == LAUNCH
    with pytest.raises(ValueError, match=f"{limit + 1} bytes; {cloud} takes {limit}"):
        made(cloud, own="#cloud-config\n# " + "x" * (limit - base + 1))


@pytest.mark.parametrize(
    ("launch_id", "token"), [("a\nb", "t"), ("a b", "t"), ("", "t"), ("a", "t\n#holdfast {}"), ("a", "é"), ("a", "t" * 201)]
)
def test_words_that_no_launch_has_are_refused(launch_id: str, token: str) -> None:
    with pytest.raises(ValueError, match="none of ours"):
        bootstrap(settings(), "aws", "physics", launch_id, token)


HOSTILE = st.text(max_size=40) | st.sampled_from(
    [
        '10.0.0.5:7420"\nslurmd_command = ["sh"]',
        "10.0.0.5:7420\n",
        "a:1\r",
        "a:1 ",
        "${x}:1",
        "a':1",
        'a":1',
        "a:\u0661",
        "a:99999",
        "a:0",
        "0.0.0.0:7420",
        "[::]:7420",
        "[fe80::1]:7420",
        "host.example:7420",
        "x" * 250 + ":1",
    ]
)


@given(controller=HOSTILE, server=HOSTILE, secret=HOSTILE)
def test_what_is_accepted_arrives_as_it_was_and_nothing_else_with_it(controller: str, server: str, secret: str) -> None:
    for changes in ({"controller": controller}, {"conf_server": server}, {"munge_key": {"aws": secret}}):
        try:
            accepted = settings(**changes)
        except ValidationError:
            continue
        found = files(bootstrap(accepted, "aws", "physics", LAUNCH, TOKEN))
        toml = tomllib.loads(found[AGENT_TOML])
        assert toml["controller"] == accepted.controller
        assert toml.keys() <= AgentConfig.model_fields.keys()
        AgentConfig.model_validate(toml)
        if accepted.conf_server:
            assert found[SLURMD_DEFAULTS].split() == ['SLURMD_OPTIONS="--conf-server', f'{accepted.conf_server}"']
        for content in found.values():
            assert all(character == "\n" or " " <= character <= "~" for character in content)


@pytest.mark.parametrize("good", ["10.0.0.5:7420", "[fe80::1]:7420", "ctl.example:1", "ctl:65535"])
def test_an_address_that_is_good_for_the_agent_is_accepted(good: str, tmp_path: Path) -> None:
    assert agent(made(controller=good), tmp_path).controller == good


@pytest.mark.parametrize(
    "bad", ["", "a", "a:", ":1", "a:0", "a:65536", "0.0.0.0:7420", "[::]:1", "a b:1", "a:1\n", 'a":1', "a/b:1", "-a:1", "a-:1", "a:¹"]
)
def test_an_address_that_no_node_could_reach_is_refused(bad: str) -> None:
    with pytest.raises(ValidationError):
        settings(controller=bad)


def test_at_the_start_every_fault_is_told_at_once(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("#cloud-config\n# " + "x" * 20_000 + "\nmounts: []\n")
    node_settings = settings(cloud_config=str(own))
    with pytest.raises(ConfigError) as caught:
        prepare(node_settings, ["aws", "gcp"], "-physics", "slurm")
    assert len(caught.value.faults) == 2
    assert "letter or a digit" in caught.value.faults[0]
    assert "aws takes 16384" in caught.value.faults[1]
    assert str(own) in caught.value.faults[1]


def test_what_was_read_at_the_start_counts_until_the_end(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(OWN)
    ready = prepare(settings(cloud_config=str(own)), ["aws", "another"], "physics", "slurm")
    own.write_text("changed")
    assert ready.user_data("aws", LAUNCH, TOKEN) == made(own=OWN)


def test_slurm_user_is_whom_the_agent_believes(tmp_path: Path) -> None:
    ready = prepare(settings(), ["gcp"], "physics", "slurmuser")
    assert agent(ready.user_data("gcp", LAUNCH, TOKEN), tmp_path).controller_user == "slurmuser"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("mounts: []\n", "the first line must be #cloud-config"),
        ("#cloud-config-jsonp\n[]\n", "the first line must be #cloud-config"),
        ("#cloud-config\na: [\n", "is not YAML: while parsing"),
        ("#cloud-config\n\tb: 1\n", "is not YAML"),
        ("#cloud-config\na: !!python/object:os.system x\n", "is not YAML"),
        ("#cloud-config\n" + "[" * 1500, "is not YAML"),
        ("#cloud-config\n", "must be a mapping of keys"),
        ("#cloud-config\n- runcmd\n", "must be a mapping of keys"),
        ("#cloud-config\n1: a\n", "1: a key must be a text"),
        ("#cloud-config\nmerge_how: dict(replace)\n", "merge_how: says how parts are merged"),
        ("#cloud-config\npower_state: {mode: reboot}\n", "power_state: ends or reboots"),
        ("#cloud-config\nwrite_files: {path: /a}\n", "write_files: must be a list"),
        ("#cloud-config\nwrite_files: [{path: a}]\n", "write_files[0]: needs a path"),
        ("#cloud-config\nwrite_files: [x]\n", "write_files[0]: needs a path"),
        (f"#cloud-config\nwrite_files: [{{path: /a}}, {{path: {AGENT_TOML}}}]\n", f"write_files[1]: {AGENT_TOML} is written by Holdfast"),
        ("#cloud-config\n# " + "x" * 262_144, "is longer than 262144 bytes"),
    ],
)
def test_a_fault_of_the_sites_document_is_found_at_the_start(text: str, fault: str, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(text)
    with pytest.raises(ConfigError) as caught:
        prepare(settings(cloud_config=str(own)), ["aws"], "physics", "slurm")
    assert [found for found in caught.value.faults if found.startswith(fault)], caught.value.faults


def test_two_faults_of_the_sites_document_are_told_together(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("#cloud-config\nmerge_type: list\npower_state: {}\n")
    with pytest.raises(ConfigError) as caught:
        prepare(settings(cloud_config=str(own)), ["aws"], "physics", "slurm")
    assert len(caught.value.faults) == 2


def test_without_a_yaml_reader_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    own = tmp_path / "own.yaml"
    own.write_text(OWN)
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ConfigError, match="pip install pyyaml"):
        prepare(settings(cloud_config=str(own)), ["aws"], "physics", "slurm")


def test_the_document_is_json_too() -> None:
    """So that no two readers of YAML can disagree about it."""
    body = made().split("\n", 2)[2]
    assert json.loads(body) == yaml.safe_load(made())
