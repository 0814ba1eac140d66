"""Whether there is anything of NVIDIA's here at all: where not, no process is started to ask."""

from pathlib import Path

_NVIDIA = "0x10de"


def driver_present(root: Path = Path("/")) -> bool:
    """Whether a driver is loaded, or an NVIDIA GPU is on the PCI bus whose driver may be loaded yet. Some 1 ms."""
    if (root / "dev/nvidiactl").exists() or (root / "proc/driver/nvidia/version").exists():
        return True
    try:
        devices = list((root / "sys/bus/pci/devices").iterdir())
    except OSError:
        return False
    return any(_is_gpu(device) for device in devices)


def _is_gpu(device: Path) -> bool:
    """Display and 3D controllers are of class 0x03…"""
    try:
        return (device / "vendor").read_text().strip() == _NVIDIA and (device / "class").read_text().startswith("0x03")
    except OSError:
        return False
