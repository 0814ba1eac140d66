"""The state that `bench/checkpoint` saves: a transformer's weights and AdamW's two moments, after one real step."""

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.stateful import Stateful
from torch.nn import functional

ALONE, DDP, FSDP2 = "one rank", "2 ranks, DDP", "2 ranks, FSDP2"
RANKS = {ALONE: 1, DDP: 2, FSDP2: 2}
MIB = 1024 * 1024
STATE_BYTES_PER_WEIGHT = 12
WORDS, TOKENS = 4096, 16


class Block(nn.Module):
    """Attention and a feed-forward part of the usual proportions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before_attention, self.before_feed = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention_in, self.attention_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed_in, self.feed_out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Both parts, each added to what came in."""
        query, key, value = self.attention_in(self.before_attention(x)).chunk(3, -1)
        x = x + self.attention_out(functional.scaled_dot_product_attention(query, key, value, is_causal=True))
        fed: torch.Tensor = self.feed_out(functional.gelu(self.feed_in(self.before_feed(x))))
        return x + fed


class Transformer(nn.Module):
    """Token embedding, blocks, norm and head."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.embedding, self.norm, self.head = nn.Embedding(WORDS, width), nn.LayerNorm(width), nn.Linear(width, WORDS)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Scores of the next token."""
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        scores: torch.Tensor = self.head(self.norm(x))
        return scores


def shape_for(state_mib: int) -> tuple[int, int]:
    """Width and depth of a model whose weights and moments take at least so much."""
    width = 1024 if state_mib >= 512 else 256
    weights = state_mib * MIB / STATE_BYTES_PER_WEIGHT - 2 * WORDS * width
    return width, max(1, -(-int(weights) // (12 * width * width)))


class Trained:
    """Model and optimizer of one rank."""

    def __init__(self, kind: str, state_mib: int, device: str = "cpu") -> None:
        torch.manual_seed(0)
        self.device = torch.device(device)
        self.model: nn.Module = Transformer(*shape_for(state_mib)).to(self.device)
        if kind == DDP:
            self.model = nn.parallel.DistributedDataParallel(self.model)
        if kind == FSDP2:
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard

            mesh = init_device_mesh(self.device.type, (dist.get_world_size(),))
            for block in self.model.blocks:  # type: ignore[union-attr]
                fully_shard(block, mesh=mesh)
            fully_shard(self.model, mesh=mesh)
        self.optimizer = self.new_optimizer()

    def new_optimizer(self) -> torch.optim.Optimizer:
        """As a training script makes it: without state until its first step."""
        return torch.optim.AdamW(self.model.parameters(), lr=1e-4)

    def step(self) -> None:
        """One step of training, gradients freed."""
        loss = self.model(torch.randint(0, WORDS, (1, TOKENS), device=self.device)).float().square().mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def share_tensors(self) -> list[torch.Tensor]:
        """What this rank holds of the state: all of it under DDP, its shards under FSDP2."""
        state = [value for values in self.optimizer.state.values() for value in values.values() if torch.is_tensor(value)]
        tensors = [*self.model.parameters(), *self.model.buffers(), *state]
        return [tensor.to_local() if hasattr(tensor, "to_local") else tensor.detach() for tensor in tensors]


class App(Stateful):
    """What PyTorch's own recipe gives to `torch.distributed.checkpoint` for a model and its optimizer."""

    def __init__(self, trained: Trained) -> None:
        self._trained = trained

    def state_dict(self) -> dict[str, Any]:
        """By name, as DCP wants it."""
        model, optimizer = get_state_dict(self._trained.model, self._trained.optimizer)
        return {"model": model, "optimizer": optimizer}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """After DCP has filled the state."""
        set_state_dict(self._trained.model, self._trained.optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])


def barrier() -> None:
    """All ranks begin together."""
    if dist.is_initialized():
        dist.barrier()


def synchronize(device: torch.device) -> None:
    """What a GPU has still to do is not counted with what comes next."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
