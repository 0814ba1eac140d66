"""A GPU's NVLinks: how many are up, which should be, and the errors of all of them. Part of the NVML process."""

from collections.abc import Sequence

import pynvml

from holdfast_nodeagent.gpu.nvml import UNSUPPORTED, Device, UnsupportedError, Value, field, fields

_ALL_LINKS = 0xFFFFFFFF
"""The scope that asks for the sum over all links, where a field knows it (NVLink 5's counters; DCGM asks so as well)."""
_PER_LINK = {
    "crc": pynvml.NVML_FI_DEV_NVLINK_ERROR_DL_CRC,
    "replay": pynvml.NVML_FI_DEV_NVLINK_ERROR_DL_REPLAY,
    "recovery": pynvml.NVML_FI_DEV_NVLINK_ERROR_DL_RECOVERY,
}
"""Asked link by link. Drivers before 520 do not have them; Blackwell no longer has (NVML's change log for 570)."""
_TOTALS = {
    "crc": pynvml.NVML_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL,
    "replay": pynvml.NVML_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL,
    "recovery": pynvml.NVML_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL,
}
"""Of all links, from older drivers."""


def count(device: Device) -> int:
    """Return how many NVLinks the GPU has. Raises UnsupportedError where it has none, NVMLError."""
    if device.links is None:
        device.links = _count(device)
    if device.links == 0:
        raise UnsupportedError("no NVLink")
    return device.links


def _count(device: Device) -> int:
    try:
        return int(field(device, pynvml.NVML_FI_DEV_NVLINK_LINK_COUNT))
    except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound):
        pass
    for link in range(pynvml.NVML_NVLINK_MAX_LINKS):
        try:
            pynvml.nvmlDeviceGetNvLinkState(device.handle, link)
        except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_InvalidArgument):
            return link
    return int(pynvml.NVML_NVLINK_MAX_LINKS)


def active(device: Device) -> Value:
    """Return how many links are up, and remember which. Raises UnsupportedError, NVMLError."""
    up = frozenset(link for link in range(count(device)) if _is_up(device, link))
    device.links_up = up
    device.links_seen_up |= up
    return len(up)


def _is_up(device: Device, link: int) -> bool:
    try:
        return bool(pynvml.nvmlDeviceGetNvLinkState(device.handle, link))
    except pynvml.NVMLError_NotSupported:  # says so of a link that this board does not wire
        return False


def down(device: Device, siblings: Sequence[Device]) -> tuple[int, str]:
    """Return how many links are down that should be up, and which. What `active` has found of all of them is compared.

    Those that were up before; and, since a link may have been down from the start, those that all siblings of the same model have up
    that use NVLink at all. A GPU none of whose links was ever up is one that no bridge connects.
    """
    used = [other.links_up for other in siblings if other is not device and other.model == device.model and other.links_up]
    common = frozenset.intersection(*used) if used and device.links_up else frozenset()
    missing = (device.links_seen_up | common) - device.links_up
    return len(missing), ",".join(map(str, sorted(missing)))


def errors(device: Device) -> tuple[Value | Exception, ...]:
    """Return CRC errors, replays and recoveries of all links. Raises UnsupportedError where there is no NVLink, NVMLError."""
    links = count(device)
    return tuple(_total(device, kind, links) for kind in _PER_LINK)


def _total(device: Device, kind: str, links: int) -> Value | Exception:
    """Return the errors of one kind by the first way that this driver knows."""
    ways: list[list[tuple[int, int]]] = [[(_PER_LINK[kind], link) for link in range(links)], [(_TOTALS[kind], 0)]]
    if kind == "recovery":
        ways.append([(pynvml.NVML_FI_DEV_NVLINK_COUNT_LINK_RECOVERY_EVENTS, _ALL_LINKS)])
    refused: Exception = UnsupportedError("no counter")
    for way in ways:
        try:
            return sum(fields(device, way))
        except pynvml.NVMLError as error:
            refused = error
            if error.value not in UNSUPPORTED:
                break
    return refused
