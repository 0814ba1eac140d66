"""Every parser of what others write: whatever it is given, it answers, or raises our own error; quickly, and with a bounded message."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from holdfast.errors import HoldfastError as JobError
from holdfast.jobdir import parse_notice
from holdfast_common import jobfiles, munge
from holdfast_common.auth import _parse as parse_credential
from holdfast_common.errors import HoldfastError
from holdfast_common.nodeset import expand
from holdfast_common.policy import parse_policy
from holdfast_common.settings import parse_toml
from holdfast_controller.journal import decode, load_fleet
from holdfast_controller.providers.aws_wire import instance_of, newest_prices
from holdfast_controller.tokens import launch_of
from holdfast_nodeagent.notices import aws
from holdfast_nodeagent.userdata import parse_user_data
from holdfast_slurm import parse
from holdfast_slurm.directives import parse_directives
from holdfast_slurm.hooks.prolog import read_attempt
from holdfast_slurm.hooks.prolog_slurmctld import prefixes, read_job
from holdfast_slurm.hooks.request import parse_resume_file
from holdfast_slurm.hooks.slurm_query import hostnames
from hypothesis import example, given, settings
from hypothesis import strategies as st

SLOW_S = 2.0
"""For the largest input that a surface lets through; a quadratic step in a parser takes minutes."""
QUICK = settings(max_examples=60, deadline=None, derandomize=True)

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just(10**400)
trees = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4), max_leaves=12
)


@dataclass(frozen=True)
class Parser:
    """One parser; `keys` are those that it looks for, so that the documents come near to right ones."""

    parse: Callable[[Any], object]
    keys: tuple[str, ...] = ()
    raises: type[Exception] | tuple[()] = HoldfastError

    def survives(self, text: Any) -> None:
        """Parse, and let nothing but our own error through."""
        said = ""
        try:
            self.parse(text)
        except self.raises as error:
            said = str(error)
        assert len(said) < 20_000


JSON: dict[str, Parser] = {
    "resume file": Parser(parse_resume_file, ("jobs", "job_id", "nodes", "nodes_alloc", "all_nodes")),
    "spot notice": Parser(aws.parse_instance_action, ("action", "time")),
    "rebalance": Parser(aws.parse_rebalance, ("noticeTime",)),
    "maintenance": Parser(aws.parse_maintenance, ("Code", "State", "NotBefore")),
    "user data": Parser(parse_user_data, ("holdfast", "v", "cluster", "launch_id"), ()),
    "credential": Parser(parse_credential, ("role", "method", "nonce", "time")),
    "notice for a job": Parser(parse_notice, ("v", "id", "kind", "deadline", "action"), JobError),
    **{
        f"{name} file": Parser(lambda text, model=model: jobfiles.parse(model, text), tuple(model.model_fields))
        for name, model in jobfiles.FILES.items()
    },
    **{
        f"journal's {kind}": Parser(
            lambda text, kind=kind: decode(kind, text.decode("utf-8", "replace")), ("at", "command_id", "command"), ()
        )
        for kind in ("Launch", "NodeChanged", "JobChanged", "NoticeReceived", "Nonsense")
    },
    "snapshot": Parser(lambda text: load_fleet(text.decode("utf-8", "replace")), ("fleet", "commands", "nodes"), ()),
}
PROLOG = ("SLURM_JOB_ID", "SLURM_JOB_RESTART_COUNT", "SLURM_JOB_UID", "SLURM_JOB_GID")
TEXT: dict[str, Parser] = {
    "node list": Parser(expand),
    "comment": Parser(lambda text: parse_directives("holdfast: " + text)),
    "policy": Parser(lambda text: parse_policy(text, "policy.toml")),
    "settings": Parser(lambda text: parse_toml(text, "controller.toml")),
    "job key": Parser(parse.check_key),
    "gate's environment": Parser(lambda text: read_job({"SLURM_JOB_ID": text, "SLURM_JOB_NODELIST": text})),
    "gate's prefixes": Parser(prefixes, raises=()),
    "prolog's environment": Parser(lambda text: read_attempt(Path("/nowhere"), dict.fromkeys(PROLOG, text)), raises=ValueError),
    "prolog's node list": Parser(lambda text: hostnames(Path("/nowhere"), text, {}), raises=()),
    "squeue": Parser(lambda text: parse.parse_jobs(text.encode(), 64)),
    "scontrol's nodes": Parser(lambda text: parse.parse_nodes("NodeName=n1 " + text)),
    "launch token": Parser(lambda text: launch_of(b"s" * 32, text)),
    "munge credential": Parser(munge._bounded),
}


def near(parser: Parser) -> st.SearchStrategy[bytes]:
    """Documents with the right keys and wrong values, and mere noise."""
    keys = st.sampled_from(parser.keys)
    fields = st.dictionaries(keys, trees | st.lists(st.dictionaries(keys, trees, max_size=3), max_size=3), max_size=len(parser.keys))
    documents = (fields | st.lists(fields, max_size=3) | trees).map(lambda tree: json.dumps(tree, default=str).encode())
    return documents | st.binary(max_size=60) | st.integers(1, 3000).map(lambda depth: b"[" * depth + b"]" * depth)


@pytest.mark.parametrize("name", JSON)
def test_no_document_gets_through_that_is_not_what_it_must_be(name: str) -> None:
    parser = JSON[name]

    @QUICK
    @given(near(parser))
    @example(b"")
    @example(b"null")
    @example(b"\xff\xfe{")
    @example(b'{"' + (parser.keys or ("x",))[0].encode() + b'": ' + b"[" * 900 + b"]" * 900 + b"}")
    @example(b'{"v": 1, "at": [], "command": [[]], "time": "99999999999999999999", "NotBefore": "1 Jan 99999999999999999999 00:00:00 GMT"}')
    @example(b'{"Code": "x", "NotBefore": "1 Jan 99999999999999999999 00:00:00 GMT"}')
    @example(b'{"noticeTime": "9999-12-31T23:59:59Z", "action": "terminate", "time": "0001-01-01T00:00:00Z"}')
    def check(text: bytes) -> None:
        parser.survives(text)

    check()
    for depth in range(800, 1020, 7):  # where the interpreter's own limit lies, for whoever prints what it has read
        parser.survives(b'{"' + (parser.keys or ("x",))[0].encode() + b'": ' + b"[" * depth + b"]" * depth + b"}")


@pytest.mark.parametrize("name", TEXT)
def test_no_text_gets_through_that_is_not_what_it_must_be(name: str) -> None:
    @QUICK
    @given(st.text(max_size=80) | st.text("[]-,0123456789nab=: \n\t٣²", max_size=60))
    @example("")
    @example("spot-[1-999999999]")
    @example("n[1-9][1-9][1-9999]")
    @example("[[1]]")
    @example("n[\u0663-\u0665]")
    @example("7" * 5000)
    @example("deadline=" + "9" * 300)
    @example("deadline=9999-12-31T23:59:59-23:59 deadline=\x1b]0;owned\x07 budget=٣")
    @example("State=IDLE ThreadsPerCore=1 BootTime=² SlurmdStartTime=1")
    @example("a = " + "9" * 5000)
    @example("a" + ".a" * 900 + " = 1")
    @example("12\n")
    def check(text: str) -> None:
        TEXT[name].survives(text)

    check()


LARGEST: dict[str, tuple[Parser, Any]] = {
    "a range of millions": (TEXT["node list"], "spot-[1-999999999]"),
    "brackets upon brackets": (TEXT["node list"], "n" + "[1-9]" * 100_000),
    "a list of millions": (TEXT["node list"], "n[" + "1," * 500_000 + "1]"),
    "names of millions": (TEXT["node list"], "n," * 1_500_000 + "n"),
    "unclosed brackets": (TEXT["gate's prefixes"], "[" * 131_000),
    "half a million jobs, each with many nodes": (
        JSON["resume file"],
        b'{"jobs": [' + b",".join([b'{"job_id": 1, "nodes": "n[1-60000]"}'] * 300_000) + b"]}",
    ),
    "a comment of faults": (TEXT["comment"], "x=1 " * 250),
    "a line of braces": (JSON["user data"], b"#holdfast {" + b"} " * 30_000),
    "a file of wrong values": (JSON["context file"], b'{"nodes": [' + b"1," * 30_000 + b"1]}"),
}


@pytest.mark.parametrize("name", LARGEST)
def test_the_largest_input_takes_no_longer(name: str) -> None:
    parser, text = LARGEST[name]
    began = time.process_time()
    parser.survives(text)
    assert time.process_time() - began < SLOW_S


def test_what_a_cloud_answers_may_lack_anything_but_an_id() -> None:
    @QUICK
    @given(st.dictionaries(st.sampled_from(["State", "StateReason", "Placement", "Tags", "LaunchTime", "InstanceType"]), trees, max_size=6))
    @example({"State": None, "StateReason": None, "Placement": None, "Tags": None})
    @example({"State": {"Name": "hovering"}})
    def check(said: dict[str, Any]) -> None:
        instance = instance_of({**said, "InstanceId": "i-1"}, "aws", "r1")
        assert instance.instance_id == "i-1"
        if not isinstance(said.get("State"), dict) or said["State"].get("Name") not in {"terminated"}:
            assert instance.state != "gone", "what is not said to be gone is not gone"

    check()

    @QUICK
    @given(
        st.lists(
            st.dictionaries(st.sampled_from(["AvailabilityZone", "InstanceType", "Timestamp", "SpotPrice"]), trees, max_size=4), max_size=4
        )
    )
    def check_prices(history: list[dict[str, Any]]) -> None:
        assert all(0 < price < 1e6 for price in newest_prices(history).values())

    check_prices()
