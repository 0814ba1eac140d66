"""A guard in every test process: only loopback and unix sockets may be connected to.

`scripts/test` runs the tests in a network namespace that has nothing but loopback, which holds for the programs they start, too; this hook
names the culprit when a test is run by hand.
"""

import ipaddress
import os
import sys

from hypothesis import HealthCheck, settings

# These machines are shared: how long one example takes says nothing.
settings.register_profile("holdfast", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("holdfast")

os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
os.environ.setdefault("NO_GCE_CHECK", "true")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def _is_loopback(host: str) -> bool:
    if host in {"localhost", ""}:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _guard(event: str, args: tuple[object, ...]) -> None:
    if event != "socket.connect":
        return
    address = args[1]
    if isinstance(address, tuple) and address and not _is_loopback(str(address[0])):
        raise PermissionError(f"a test connects to {address[0]}: only loopback is allowed")


sys.addaudithook(_guard)
