"""CIFAR-10 in its own binary format: records of 1 label byte and 3072 bytes (32x32, planes red, green, blue)."""

import os
import random
from pathlib import Path

import holdfast.data
import torch

RECORD_BYTES = 1 + 3 * 32 * 32
CLASSES = 10
FILES = [f"data_batch_{number}.bin" for number in range(1, 6)]


def generate(folder: Path, images: int = 2000, seed: int = 0) -> None:
    """Write a synthetic set that can be learnt: each class is a pattern of its own, shifted, under noise.

    The bytes follow from `images` and `seed` alone. Files appear whole or not at all, so several processes may do it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand(CLASSES, 3, 8, 8, generator=rng)
    patterns = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="nearest") * 160 + 48
    for index, name in enumerate(FILES):
        count = images // len(FILES) + (index < images % len(FILES))
        labels = torch.randint(0, CLASSES, (count,), generator=rng)
        shifts = torch.randint(-3, 4, (count, 2), generator=rng)
        noise = torch.randn(count, 3, 32, 32, generator=rng) * 40
        pictures = [patterns[label].roll(tuple(shift), dims=(1, 2)) for label, shift in zip(labels, shifts.tolist(), strict=True)]
        pixels = (torch.stack(pictures) + noise).clamp(0, 255).to(torch.uint8).reshape(count, -1)
        records = torch.cat([labels.to(torch.uint8)[:, None], pixels], dim=1)
        temporary = folder / f".{name}.{os.getpid()}.{random.randrange(1 << 30)}.tmp"
        temporary.write_bytes(records.numpy().tobytes())
        temporary.rename(folder / name)


def read(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """All training images as uint8 (N, 3, 32, 32), and their labels. Raises FileNotFoundError, ValueError."""
    data = b"".join((folder / name).read_bytes() for name in FILES)
    if not data or len(data) % RECORD_BYTES:
        raise ValueError(f"{folder}: {len(data)} bytes are not a whole number of {RECORD_BYTES}-byte records")
    records = torch.frombuffer(bytearray(data), dtype=torch.uint8).reshape(-1, RECORD_BYTES)
    labels = records[:, 0].long()
    if int(labels.max()) >= CLASSES:
        raise ValueError(f"{folder}: a label is above {CLASSES - 1}")
    return records[:, 1:].reshape(-1, 3, 32, 32), labels


class Loader(holdfast.data.GlobalSampler):
    """Batches of normalised images with a random horizontal flip, from a position that a checkpoint holds."""

    def __init__(self, folder: Path, batch_size: int, *, rank: int, world_size: int, seed: int) -> None:
        self._images, self._labels = read(folder)
        super().__init__(len(self._labels), batch_size, rank=rank, world_size=world_size, seed=seed)

    def batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """This rank's share of the next global batch. The flips come from PyTorch's generator, which checkpoints keep."""
        chosen = torch.tensor(next(self))
        images = (self._images[chosen].float() - 125.0) / 63.0
        flip = torch.rand(len(chosen)) < 0.5
        images[flip] = images[flip].flip(3)
        return images, self._labels[chosen]
