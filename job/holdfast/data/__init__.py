"""Data whose position is part of the checkpoint, by global sample: exact whatever the ranks and the loader workers.

    loader = holdfast.data.Loader(dataset, batch_size=256, num_workers=4)     # 256 samples in a step, all ranks together
    run = holdfast.Run(model=model, optimizer=optimizer, loader=loader)
    for step, batch in zip(run.steps(total), loader.endless()):
        loss = train(batch)

`Loader` wraps PyTorch's DataLoader; `GlobalSampler` gives bare indices and needs the standard library only. Other loaders
are served as they are, if they hold state: `check_loader` and `restore` say what is possible with each.
"""

from holdfast.data.loader import Loader
from holdfast.data.restore import check_loader, restore
from holdfast.data.sampler import GlobalSampler

__all__ = ["GlobalSampler", "Loader", "check_loader", "restore"]
