"""Makes `health_sequences` importable for the tests of this folder (importmode=importlib leaves it out)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
