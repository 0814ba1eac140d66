import os
import subprocess
from pathlib import Path

import pytest
from holdfast_common.errors import InputError
from holdfast_common.nodeset import MAX_NODES, expand, fold
from hypothesis import given
from hypothesis import strategies as st

names = st.from_regex(r"[a-z][a-z0-9_.\-]{0,6}(-?0{0,2}[0-9]{1,4})?", fullmatch=True)


@given(st.lists(names, max_size=40))
def test_a_folded_list_expands_to_the_same_names(given_names: list[str]) -> None:
    assert sorted(expand(fold(given_names))) == sorted(set(given_names))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("(null)", ()),
        ("spot-[1-3]", ("spot-1", "spot-2", "spot-3")),
        ("n[08-10],login", ("n08", "n09", "n10", "login")),
        ("n[1-2,005]", ("n1", "n2", "n005")),
        ("r[1-2]n[1-2]", ("r1n1", "r1n2", "r2n1", "r2n2")),
        ("n1,n1", ("n1",)),
    ],
)
def test_expands_what_slurm_prints(text: str, expected: tuple[str, ...]) -> None:
    assert expand(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "@all",
        "n[1-2]!n1",
        "n[0-8/2]",
        "n[1-2",
        "n1]",
        "n[3-1]",
        "n[]",
        "a,,b",
        ",a",
        "a,",
        "a b",
        "-a",
        "../a",
        "a\nb",
        "n\u00e4",
        "x" * 65,
        "a;b",
    ],
)
def test_refuses_what_slurm_does_not_print(text: str) -> None:
    with pytest.raises(InputError):
        expand(text)


@pytest.mark.parametrize("text", ["n[1-999999999]", "n[1-60000],m[1-60000]", "r[1-1000]n[1-1000]", "," * 65_000, "a," * 1_000_000 + "!"])
def test_a_list_beyond_the_bounds_is_refused_within_the_test_timeout(text: str) -> None:
    with pytest.raises(InputError):
        expand(text)


@given(st.text(alphabet="n019[]-,.@!/ ", max_size=30))
def test_any_text_is_expanded_or_refused(text: str) -> None:
    try:
        found = expand(text)
    except InputError:
        return
    assert len(set(found)) == len(found) <= MAX_NODES


def test_folds_the_last_number_only_and_nothing_before_a_suffix() -> None:
    assert fold(["r1n1", "r1n2", "r2n1"]) == "r1n[1-2],r2n1"
    assert fold(["a-1-b", "a-2-b"]) == "a-1-b,a-2-b"
    assert fold(["n0", "n1", "n01", "n02"]) == "n[0-1],n[01-02]"
    with pytest.raises(InputError):
        fold(["a;rm -rf /"])


@pytest.mark.slurm
@pytest.mark.parametrize("text", ["n[1-3,005]", "n[1-010]", "n[01-3]", "n[1-2][3-4]", "n1[3-4]", "n[1-2]-x[3-4]", "r[1-2]n[08-10],login"])
def test_agrees_with_scontrol(text: str, tmp_path: Path) -> None:
    conf = tmp_path / "slurm.conf"
    conf.write_text("ClusterName=x\nSlurmctldHost=localhost\nNodeName=n1\nPartitionName=p Nodes=ALL\n")
    environ = {**os.environ, "SLURM_CONF": str(conf)}

    def scontrol(*arguments: str) -> list[str]:
        return subprocess.run(["scontrol", "show", *arguments], env=environ, check=True, capture_output=True, text=True).stdout.split()

    assert list(expand(text)) == scontrol("hostnames", text)
    assert sorted(scontrol("hostnames", fold(expand(text)))) == sorted(expand(text))
