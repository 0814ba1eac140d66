"""Begins the NVML process, before anything that is large is imported."""

import sys
from types import ModuleType


def main() -> int:
    """Run the process; see child.main.

    NVML's binding imports a name of ctypes.util that it uses nowhere, and that module brings subprocess, tempfile and random with it:
    2 MiB of the 12 that this process takes. So an empty one stands for it.
    """
    unused = ModuleType("ctypes.util")
    unused.find_library = None  # type: ignore[attr-defined]
    sys.modules["ctypes.util"] = unused
    from holdfast_nodeagent.gpu import child

    return child.main(sys.argv[1:])
