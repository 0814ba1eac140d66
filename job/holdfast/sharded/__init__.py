"""Tensors of modules and optimizers in the file format of `torch.distributed.checkpoint`, staged into warm buffers.

A folder that this package writes is a plain DCP checkpoint: `torch.distributed.checkpoint.load` and `dcp_to_torch_save` read
it. Import it late: it imports PyTorch.
"""

from holdfast.sharded.shards import Shards
from holdfast.sharded.staged import Staged, Written

__all__ = ["Shards", "Staged", "Written"]
