import json
import subprocess
import sys

FOREIGN = """
import json, sys
before = set(sys.modules)
import holdfast, holdfast.data, holdfast.cli, holdfast.cli.checkpoint, holdfast.cli.completion
roots = {name.partition(".")[0] for name in set(sys.modules) - before}
print(json.dumps(sorted(roots - set(sys.stdlib_module_names) - {"holdfast"})))
"""


def test_importing_the_library_brings_in_the_standard_library_only() -> None:
    done = subprocess.run([sys.executable, "-c", FOREIGN], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
