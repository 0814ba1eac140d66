"""Whether a loader can be resumed at all, and on these ranks: for loaders of any make."""

import gc
import weakref
from typing import Any

from holdfast.errors import HoldfastError
from holdfast.process import module

_INSTEAD = "holdfast.data.Loader(dataset, batch_size=<of all ranks together>, …) resumes with any number of ranks and workers"


def check_loader(loader: Any, name: str = "loader") -> None:
    """Raise TypeError for a loader without state: a resumed run would begin its data anew."""
    if hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict"):
        return
    torch_data = module("torch.utils.data")
    if torch_data is None or not isinstance(loader, torch_data.DataLoader):
        raise TypeError(f"{name}: {type(loader).__name__} has no state_dict and load_state_dict")
    if isinstance(loader.dataset, torch_data.IterableDataset):
        raise TypeError(
            f"{name}: a DataLoader does not know its position, so a resumed run would begin its data anew. For an iterable data set, use"
            " torchdata's StatefulDataLoader and give the data set a state_dict and load_state_dict"
        )
    raise TypeError(f"{name}: a DataLoader does not know its position, so a resumed run would begin its data anew. {_INSTEAD}")


def restore(loader: Any, state: Any, *, saved_world_size: int, world_size: int, name: str = "loader") -> None:
    """Have a loader become the state that one rank of a checkpoint saved: its own rank, or rank 0 for a rank that is new.

    A loader (or any object that differs between ranks) serves another number of ranks only if it says `world_size_free = True`:
    its state then is alike on all ranks. Raises HoldfastError where the loader would go on with wrong samples, or later fail
    with an error that does not say why; what its load_state_dict raises passes through.
    """
    if saved_world_size != world_size and not getattr(loader, "world_size_free", False):
        raise HoldfastError(
            f"{name}: the checkpoint has the positions of {saved_world_size} ranks, which a {type(loader).__name__} cannot share anew among"
            f" {world_size}: resume on {saved_world_size} ranks. {_INSTEAD}"
        )
    if not _of_torchdata(loader):
        loader.load_state_dict(state)
        return
    saved, workers = _workers(state), loader.num_workers
    if saved is not None and saved != workers:
        raise HoldfastError(
            f"{name}: the checkpoint's StatefulDataLoader had num_workers={saved}, this one has {workers}; it can resume with the"
            f" same number only. {_INSTEAD}"
        )
    before = None if loader._initial_iter_for_state_dict or loader._iterator is None else weakref.ref(loader._iterator)
    loader.load_state_dict(state)
    if before is not None and _alive(before):
        raise HoldfastError(
            f"{name}: a loop over the StatefulDataLoader had begun before the checkpoint was loaded, and would go on from the start of the"
            f" data: call iter() after Run's first step was asked for. The iterators of holdfast.data.Loader may be made before"
        )


def _of_torchdata(loader: Any) -> bool:
    stateful = module("torchdata.stateful_dataloader")
    return stateful is not None and isinstance(loader, stateful.StatefulDataLoader)


def _workers(state: Any) -> int | None:
    """num_workers of a StatefulDataLoader's state; None if it does not tell."""
    if not isinstance(state, dict) or not state:
        return None
    try:
        return int(state["_snapshot"]["_main_snapshot"]["_num_workers"]) if "_snapshot" in state else 0
    except (KeyError, TypeError, ValueError):
        return None


def _alive(iterator: "weakref.ref[Any]") -> bool:
    if iterator() is not None:
        gc.collect()
    return iterator() is not None
