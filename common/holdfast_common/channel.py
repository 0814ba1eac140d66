"""How a gRPC connection is made: bounded messages, dead peers noticed within seconds, no proxy, quick reconnects.

The controller runs two servers: one on a unix socket, open to those whom its mode lets in (`serve_unix`), and one on TCP behind
`rpc_auth.ServerAuth`. They must stay two, since a server's interceptors hold for all its ports.
"""

import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc.aio

from holdfast_common.auth import Authenticator
from holdfast_common.errors import ConfigError
from holdfast_common.unix_socket import UnixSocket, serve_unix

__all__ = ["UnixSocket", "agent_channel", "check_bind", "controller_channel", "new_server", "serve_unix"]

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
KEEPALIVE_S = 10.0
"""A ping after so long a silence, and so long for its answer: a peer that has vanished is noticed after 20 s."""

_LIMITS = [("grpc.max_receive_message_length", MAX_MESSAGE_BYTES), ("grpc.max_send_message_length", MAX_MESSAGE_BYTES)]
_KEEPALIVE = [
    ("grpc.keepalive_time_ms", int(KEEPALIVE_S * 1000)),
    ("grpc.keepalive_timeout_ms", int(KEEPALIVE_S * 1000)),
    ("grpc.http2.max_pings_without_data", 0),
]
_CLIENT = [
    ("grpc.enable_http_proxy", 0),  # http_proxy in the environment would carry our calls elsewhere
    ("grpc.enable_retries", 0),  # a credential serves once: whoever makes the call repeats it with a new one
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 2000),  # the default of 120 s would outlast a restarted controller's patience
]
_SERVER = [
    ("grpc.so_reuseport", 0),  # the default lets a second controller share the port
    ("grpc.http2.min_recv_ping_interval_without_data_ms", int(KEEPALIVE_S * 500)),  # else our own keepalive is taken for abuse
    ("grpc.max_concurrent_streams", 1000),
]


def agent_channel(address: str, authenticator: Authenticator) -> Any:
    """Return a `grpc.aio.Channel` to the controller's TCP port (`host:port`), on which both ends prove who they are."""
    from holdfast_common.rpc_auth import client_interceptors

    return grpc.aio.insecure_channel(address, options=_LIMITS + _KEEPALIVE + _CLIENT, interceptors=client_interceptors(authenticator))


def controller_channel(unix_path: str | Path) -> Any:
    """Return a `grpc.aio.Channel` to the controller's unix socket, for hooks and the CLI. Its file mode says who may."""
    return grpc.aio.insecure_channel(f"unix:{Path(unix_path).absolute()}", options=_LIMITS + _CLIENT)


def new_server(interceptors: Sequence[Any] = ()) -> Any:
    """Return a `grpc.aio.Server` with the limits that fit both kinds of channel."""
    return grpc.aio.server(interceptors=list(interceptors), options=_LIMITS + _KEEPALIVE + _SERVER)


def check_bind(address: str, allow_remote_without_tls: bool) -> None:
    """Refuse to listen without TLS where other hosts can reach it, unless the admin has said so. Raises ConfigError."""
    host, colon, port = address.rpartition(":")
    where = f"address {address!r}"
    if not colon or not port.isdecimal() or not 0 <= int(port) <= 65535:
        raise ConfigError(where, ["write host:port, such as 127.0.0.1:7420 or [::1]:7420"])
    if host.startswith("[") != host.endswith("]") or (":" in host and not host.startswith("[")) or not host.strip("[]"):
        raise ConfigError(where, ["write the host as a name, an IPv4 address, or an IPv6 address in brackets"])
    if not allow_remote_without_tls and not _is_loopback(host.strip("[]")):
        raise ConfigError(
            where,
            [
                "other hosts can reach it, and without TLS the calls can be read and altered on the way:"
                " listen on 127.0.0.1, or set allow_remote_without_tls = true for a network that you trust"
            ],
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name may resolve to anything
