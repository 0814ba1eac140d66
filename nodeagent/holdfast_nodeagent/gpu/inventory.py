"""The GPUs of this node, as NVML lists them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU."""

    index: int
    """As NVML and CUDA (with CUDA_DEVICE_ORDER=PCI_BUS_ID) count."""
    uuid: str
    pci: str
    """`0000:3b:00.0`: lower case, a domain of four digits."""
    model: str = ""
    serial: str = ""
    vbios: str = ""
    memory_bytes: int = 0
    mig: bool = False
    """It is split into MIG instances: utilization is then not told."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """What NVML said when it was begun."""

    driver: str = ""
    nvml: str = ""
    gpus: tuple[Gpu, ...] = ()

    def by_pci(self, pci: str) -> Gpu | None:
        """Return the GPU at a PCI address, however that is written: `PCI:0000:3b:00`, `00000000:3B:00.0`, `3b:00`."""
        wanted = pci_key(pci)
        return next((gpu for gpu in self.gpus if pci_key(gpu.pci) == wanted), None)


def pci_key(address: str) -> tuple[int, int, int]:
    """Return domain, bus and device of a PCI address; (-1, -1, -1) where it is none."""
    parts = address.strip().removeprefix("(").removesuffix(")").lower().removeprefix("pci:").split(":")
    try:
        numbers = [int(part.partition(".")[0], 16) for part in parts]
    except ValueError:
        return (-1, -1, -1)
    if len(numbers) == 2:
        numbers = [0, *numbers]
    return (numbers[0], numbers[1], numbers[2]) if len(numbers) == 3 else (-1, -1, -1)
