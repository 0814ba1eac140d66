"""JAX: a pytree of arrays, saved by Orbax.

state = OrbaxState({"params": params, "optimizer": optimizer_state, "key": key})
run = holdfast.Run(state=state)
for step in run.steps(1000):
    state.tree = train_step(state.tree, batch(step))
"""

from pathlib import Path
from typing import Any

from holdfast.adapters import missing

try:
    import jax
    import orbax.checkpoint as ocp
except ModuleNotFoundError as fault:
    raise missing("holdfast.adapters.orbax", "orbax-checkpoint") from fault

NAME = "tree"


class OrbaxState:
    """A pytree as an object of a Run. `tree` is the present one: read it and put the new one there at each step.

    On resuming, `tree` is replaced by one of the same structure, shapes and shardings, also where the number of processes or devices was
    another when it was saved. JAX has no global random generator: put your keys into the tree.
    """

    def __init__(self, tree: Any) -> None:
        self.tree = tree

    def save_files(self, folder: Path) -> None:
        """Collective: each process writes its shards."""
        with ocp.StandardCheckpointer() as checkpointer:  # it waits for its own threads when closed
            checkpointer.save(folder.absolute() / NAME, self.tree)

    def load_files(self, folder: Path) -> None:
        """Collective. Raises ValueError for a tree of another structure."""
        like = jax.tree.map(ocp.utils.to_shape_dtype_struct, self.tree)
        with ocp.StandardCheckpointer() as checkpointer:
            self.tree = checkpointer.restore(folder.absolute() / NAME, like)
