"""JAX in the bed: a plain loop, a pytree with its own random key; one process, or two joined by jax.distributed."""

import os
import sys
from pathlib import Path

import holdfast
import jax
import jax.numpy as jnp
import numpy as np
from adapter_bed import AtStep, Bed, digest, main
from holdfast.adapters.orbax import OrbaxState

STEPS = 20


def step_of(tree: dict[str, jax.Array]) -> dict[str, jax.Array]:
    key, now = jax.random.split(tree["key"])
    gradient = jnp.sin(tree["weights"]) + jax.random.normal(now, tree["weights"].shape)
    momentum = 0.9 * tree["momentum"] + gradient
    return {"key": key, "weights": tree["weights"] - 0.01 * momentum, "momentum": momentum}


def train(directory: Path, at_step: AtStep) -> str:
    """Three lines of a user's: the state, the Run, the loop."""
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if world > 1:
        jax.distributed.initialize(f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}", world, rank)
    mesh = jax.make_mesh((world,), ("data",))
    split, alike = (jax.NamedSharding(mesh, jax.P(*axes)) for axes in (("data",), ()))
    weights = jax.make_array_from_callback((64, 3), split, lambda index: np.ones((64, 3), np.float32)[index])
    key = jax.make_array_from_callback((2,), alike, lambda index: np.array([0, 7], np.uint32)[index])
    step = jax.jit(step_of, out_shardings={"key": alike, "weights": split, "momentum": split})

    state = OrbaxState({"key": key, "weights": weights, "momentum": jax.tree.map(jnp.zeros_like, weights)})
    run = holdfast.Run(state=state, directory=directory, every_steps=3)
    for number in run.steps(STEPS):
        at_step(number)
        state.tree = step(state.tree)
    assert "torch" not in sys.modules
    return digest(np.asarray(shard.data).tobytes() for leaf in jax.tree.leaves(state.tree) for shard in leaf.addressable_shards)


if __name__ == "__main__":
    main({"alone": (train, Bed.alone), "ranks": (train, Bed.ranks)})
