"""Holdfast for frameworks that own their loop or their files: one module each, which alone imports its framework.

| Module | Gives |
|---|---|
| `holdfast.adapters.lightning` | `HoldfastCallback` for a Lightning `Trainer` |
| `holdfast.adapters.transformers` | `HoldfastCallback` for a Hugging Face `Trainer` |
| `holdfast.adapters.accelerate` | `AccelerateState`: what an `Accelerator` prepared, as an object of a `Run` |
| `holdfast.adapters.orbax` | `OrbaxState`: a pytree of JAX arrays, as an object of a `Run` |
| `holdfast.adapters.jax` | `JaxPeers`: how the processes of `jax.distributed` agree |
| `holdfast.adapters.tensorflow` | `TensorFlowState` for a loop of one's own, `HoldfastCallback` for Keras |

In each the framework writes and reads its own files; Holdfast decides when, verifies them, falls back to older ones, fences, and
answers notices.
"""

from holdfast.errors import HoldfastError


class MissingFrameworkError(HoldfastError, ImportError):
    """The framework that an adapter is for is not installed."""


def missing(adapter: str, package: str) -> MissingFrameworkError:
    """The error for `adapter`, whose framework is not there: it says which `package` to install."""
    return MissingFrameworkError(f"{adapter} needs {package}, which is not installed here: pip install {package}")
