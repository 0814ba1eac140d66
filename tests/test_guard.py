"""The guard that keeps tests away from real clouds."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

OFFLINE = Path(__file__).parents[1] / "scripts" / "offline"


def test_the_metadata_address_is_refused_in_process() -> None:
    with socket.socket() as sock, pytest.raises(PermissionError, match=r"169\.254\.169\.254"):
        sock.connect(("169.254.169.254", 80))


def test_the_kernel_refuses_it_to_programs_that_tests_start() -> None:
    code = "import socket; socket.create_connection(('169.254.169.254', 80), 2)"
    result = subprocess.run([OFFLINE, sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "Network is unreachable" in result.stderr
