"""Python imports this at its start, because `holdfast run` has put its folder first in PYTHONPATH.

It loads the guard by its path, gives way to the sitecustomize that would have been imported without it, and never breaks the program.
"""

from types import ModuleType


def _load(folder: str, name: str) -> ModuleType:
    import importlib.util
    import os
    import sys

    full = "_holdfast_" + name
    spec = importlib.util.spec_from_file_location(full, os.path.join(folder, name + ".py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[full] = module
    spec.loader.exec_module(module)
    return module


def _guard(here: str) -> None:
    import os
    import sys

    try:
        if sys.version_info < (3, 9):  # noqa: UP036 - it is the user's Python
            raise RuntimeError("it needs Python 3.9 or later")
        folder = os.path.dirname(here)
        _load(folder, "seal")
        _load(folder, "guard").install()
    except Exception as trouble:
        sys.stderr.write(f"holdfast run: the hook steps aside in process {os.getpid()}: {type(trouble).__name__}: {trouble}\n")


def _give_way(here: str) -> None:
    """Import the sitecustomize that comes next on the path. Its faults are its own: site reports them as it would have."""
    import importlib.machinery
    import importlib.util
    import os
    import sys

    sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry or ".") != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", sys.path)
    if spec is None or spec.loader is None:
        return
    module = importlib.util.module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


_here = __import__("os").path.dirname(__import__("os").path.realpath(__file__))
_guard(_here)
_give_way(_here)
