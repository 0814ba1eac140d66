"""Launch tokens: what an instance's user data holds, so that its agent can show which launch it comes from.

A token is `<launch id>.<HMAC-SHA256>` under a secret that never leaves the controller's state directory, so none has to be stored, and a
repeated launch call carries the same user data. Munge proves that root speaks; the token proves of which launch. The first agent that shows
it for an instance binds the instance to its boot id.
"""

import hashlib
import hmac
import json
import os
import secrets
from pathlib import Path

from holdfast_common.errors import AuthError, ConfigError

SECRET_BYTES = 32


def load_secret(path: Path) -> bytes:
    """Return the secret, made on first use with mode 0600. Raises ConfigError where others can read it."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        pass
    else:
        with os.fdopen(fd, "wb") as file:
            file.write(secrets.token_bytes(SECRET_BYTES))
            file.flush()
            os.fsync(file.fileno())
    if path.stat().st_mode & 0o077:
        raise ConfigError(str(path), ["others can read the secret: chmod 600, or delete it and restart"])
    secret = path.read_bytes()
    if len(secret) != SECRET_BYTES:
        raise ConfigError(str(path), [f"holds {len(secret)} bytes instead of {SECRET_BYTES}: delete it and restart"])
    return secret


def make_token(secret: bytes, launch_id: str) -> str:
    """Return the token of a launch."""
    return f"{launch_id}.{hmac.new(secret, launch_id.encode(), hashlib.sha256).hexdigest()}"


def launch_of(secret: bytes, token: str) -> str:
    """Return the launch id that the token proves. Raises AuthError."""
    launch_id, dot, _ = token.rpartition(".")
    if not dot or len(token) > 200 or not hmac.compare_digest(make_token(secret, launch_id).encode(), token.encode()):
        raise AuthError("the launch token is not one of ours")
    return launch_id


def user_data(cluster: str, secret: bytes, launch_id: str) -> str:
    """Return what the instance's agent reads from its metadata service."""
    return json.dumps({"holdfast": {"v": 1, "cluster": cluster, "launch_id": launch_id, "launch_token": make_token(secret, launch_id)}})
