"""What the NVML process writes is decoded strictly, whatever it writes."""

import json
from contextlib import suppress
from typing import Any

import pytest
from holdfast_common.health.catalogue import READINGS
from holdfast_common.health.model import GpuEvent, Sample
from holdfast_nodeagent.gpu.inventory import Gpu, Inventory
from holdfast_nodeagent.gpu.protocol import (
    MAX_LINE_BYTES,
    Beat,
    GpuProcesses,
    ProtocolError,
    Samples,
    Unavailable,
    decode,
)
from hypothesis import given
from hypothesis import strategies as st

AT = 1_700_000_000.0
SAMPLES: dict[str, Any] = {"kind": "samples", "tier": "fast", "took_s": 0.5, "samples": [["up", "GPU-1", 1, "ok", ""]]}
INVENTORY: dict[str, Any] = {
    "kind": "inventory",
    "driver": "570",
    "nvml": "12",
    "gpus": [{"index": 0, "uuid": "GPU-1", "pci": "0000:18:00.0"}],
}
EVENT: dict[str, Any] = {"kind": "event", "code": 79, "gpu": "GPU-1"}
PROCESSES: dict[str, Any] = {"kind": "processes", "gpus": {"GPU-1": {"12": 1 << 40}}}
GOOD = [SAMPLES, INVENTORY, EVENT, PROCESSES, {"kind": "beat"}, {"kind": "unavailable", "reason": "no library"}]


def line(said: object) -> bytes:
    return json.dumps(said).encode()


def test_every_kind() -> None:
    assert [decode(line(said | {"later": [1]}), AT) for said in GOOD] == [
        Samples("fast", (Sample(AT, "up", 1.0, "GPU-1"),), 0.5),
        Inventory("570", "12", (Gpu(0, "GPU-1", "0000:18:00.0"),)),
        GpuEvent(AT, "xid", 79, "GPU-1", source="nvml"),
        GpuProcesses({"GPU-1": {12: 1 << 40}}),
        Beat(),
        Unavailable("no library"),
    ]
    assert decode(line({"kind": "later"}), AT) is None


def test_states() -> None:
    entries = [["power_watts", "GPU-1", None, "failed", "UNKNOWN"], ["power_watts", "GPU-2", None, "unsupported", "NOT_SUPPORTED"]]
    said = decode(line(SAMPLES | {"samples": entries}), AT)
    assert isinstance(said, Samples)
    assert [(sample.state, sample.value, sample.detail) for sample in said.samples] == [
        ("failed", None, "UNKNOWN"),
        ("unsupported", None, "NOT_SUPPORTED"),
    ]


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"\xff\xfe",
        b"[1]",
        b"null",
        b'{"kind": "samples", "tier": "fast", "took_s": NaN, "samples": []}',
        b'{"kind": "samples", "tier": "fast", "took_s": 1e999, "samples": []}',
        b'{"kind": "samples", "tier": "fast", "took_s": ' + b"9" * 400 + b', "samples": []}',
        b"[" * 100_000,
        b" " * (MAX_LINE_BYTES + 1),
        line(SAMPLES | {"tier": "slowest"}),
        line(SAMPLES | {"tier": ["fast"]}),
        line(SAMPLES | {"samples": {}}),
        line(SAMPLES | {"samples": [["up", "GPU-1", 1, "ok", ""]] * (64 * len(READINGS) + 1)}),
        *(
            line(SAMPLES | {"samples": [entry]})
            for entry in (
                ["up", "GPU-1", 1, "ok"],
                ["down", "GPU-1", 1, "ok", ""],
                [["up"], "GPU-1", 1, "ok", ""],
                ["up", 1, 1, "ok", ""],
                ["up", "GPU-1", True, "ok", ""],
                ["up", "GPU-1", "1", "ok", ""],
                ["up", "GPU-1", None, "ok", ""],
                ["up", "GPU-1", 1, "failed", ""],
                ["up", "GPU-1", 1, ["ok"], ""],
                ["up", "GPU-1", 1, "ok", "x" * 257],
                ["up", "GPU-1", 1, "ok", "a\nb"],
            )
        ),
        line(INVENTORY | {"driver": 570}),
        line(INVENTORY | {"gpus": [1]}),
        line(INVENTORY | {"gpus": [{"index": -1}]}),
        line(INVENTORY | {"gpus": [{"index": 0, "mig": 1}]}),
        line(INVENTORY | {"gpus": [{"index": 0}] * 65}),
        line(EVENT | {"code": 79.5}),
        line(EVENT | {"code": -1}),
        line(PROCESSES | {"gpus": {"GPU-1": {"-1": 0}}}),
        line(PROCESSES | {"gpus": {"GPU-1": {"12": -1}}}),
        line(PROCESSES | {"gpus": {"GPU-1": {"²": 1}}}),
        line({"kind": "unavailable", "reason": None}),
    ],
)
def test_what_is_refused(bad: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(bad, AT)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


@given(st.binary() | JSON.map(line))
def test_any_bytes_are_decoded_or_refused(said: bytes) -> None:
    with suppress(ProtocolError):
        decode(said, AT)


@given(st.sampled_from(GOOD), st.data())
def test_any_value_in_the_place_of_a_right_one_is_decoded_or_refused(said: dict[str, Any], data: st.DataObject) -> None:
    changed = dict(said)
    changed[data.draw(st.sampled_from(sorted(said)))] = data.draw(JSON)
    with suppress(ProtocolError):
        decode(line(changed), AT)
