"""`python -m holdfast_sandbox.demo`, which is what ./demo runs."""

import sys

from holdfast_sandbox.demo.app import main

if __name__ == "__main__":
    sys.exit(main())
