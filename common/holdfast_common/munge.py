"""Munge credentials: libmunge 2 through ctypes, with a selectable socket.

A credential proves the uid and gid of the process that made it to whoever shares the cluster's key; it carries a small payload, and
munged lets it be decoded once per daemon. Numbers of options and errors are those of libmunge 2's `munge.h` (0.5.13 to 0.5.18), whose
ABI is stable.

The calls block for about a millisecond (one connection to a unix socket), up to some seconds where munged hangs: keep them off an
event loop.
"""

import ctypes
import functools
from dataclasses import dataclass
from enum import IntEnum

from holdfast_common.errors import AuthError, ConfigError, Temporary

DEFAULT_SOCKET = "/run/munge/munge.socket.2"
MAX_PAYLOAD_BYTES = 4096
MAX_CREDENTIAL_CHARS = 8192
"""A payload of 4 KiB makes some 5.6 thousand characters of base64; gRPC refuses metadata above 8 KiB by default."""
MAX_TTL_S = 3600
"""munged's own default bound (--max-ttl); it shortens a longer one silently."""


class MungeStatus(IntEnum):
    """`munge_err_t` of libmunge 2."""

    SUCCESS = 0
    INTERNAL = 1
    BAD_ARGUMENT = 2
    BAD_LENGTH = 3
    OVERFLOW = 4
    NO_MEMORY = 5
    SOCKET = 6
    TIMEOUT = 7
    BAD_CREDENTIAL = 8
    BAD_VERSION = 9
    BAD_CIPHER = 10
    BAD_MAC = 11
    BAD_ZIP = 12
    BAD_REALM = 13
    INVALID = 14
    EXPIRED = 15
    REWOUND = 16
    REPLAYED = 17
    UNAUTHORIZED = 18


class ClockSkewError(AuthError):
    """The clocks of the two hosts differ by more than a credential's life: mend the clocks, the key is right."""


_OPT_TTL, _OPT_ENCODE_TIME, _OPT_DECODE_TIME, _OPT_SOCKET = 4, 6, 7, 8
_UNAVAILABLE = {MungeStatus.SOCKET, MungeStatus.TIMEOUT, MungeStatus.NO_MEMORY, MungeStatus.INTERNAL}
_REFUSED = {
    MungeStatus.INVALID: "the credential does not decrypt: it was made with another munge key, or altered",
    MungeStatus.REPLAYED: "the credential is replayed: this munged has decoded it before",
    MungeStatus.UNAUTHORIZED: "the credential is restricted to another user",
}


@dataclass(frozen=True, slots=True)
class Decoded:
    """What munged says of a credential that it accepted."""

    payload: bytes
    uid: int
    gid: int
    encoded_at: int
    """Unix seconds, by the clock of the host that made it."""
    decoded_at: int
    """Unix seconds, by the clock of this host."""
    ttl_s: int


class Munge:
    """A munged, reached through its socket. Safe to use from several threads: every call has a context of its own."""

    def __init__(self, socket_path: str = DEFAULT_SOCKET) -> None:
        self.socket_path = socket_path

    def encode(self, payload: bytes, ttl_s: int = 60) -> str:
        """Return a credential for this process's uid, valid for `ttl_s` seconds (1 to 3600).

        Raises Temporary while munged is not reachable, AuthError on anything else, ConfigError where libmunge is not installed.
        """
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise AuthError(f"a payload of {len(payload)} bytes is too long for a credential (at most {MAX_PAYLOAD_BYTES})")
        if not 1 <= ttl_s <= MAX_TTL_S:
            raise AuthError(f"a credential's life of {ttl_s} s is not between 1 and {MAX_TTL_S} s")
        lib = _libmunge()
        credential = ctypes.c_char_p()
        with _Context(self.socket_path, ttl_s) as context:
            status = lib.munge_encode(ctypes.byref(credential), context.handle, payload, len(payload))
            try:
                if status != MungeStatus.SUCCESS or credential.value is None:
                    raise context.failure(status)
                return credential.value.decode("ascii")
            finally:
                _libc().free(credential)

    def decode(self, credential: str) -> Decoded:
        """Return who made the credential, and its payload; a second time it is refused as replayed.

        Raises Temporary while munged is not reachable, ClockSkewError for a credential from the future, AuthError for one that is
        expired, replayed, made with another key, or no credential.
        """
        text = _bounded(credential)
        lib = _libmunge()
        buffer, length, uid, gid = ctypes.c_void_p(), ctypes.c_int(), ctypes.c_uint32(), ctypes.c_uint32()
        with _Context(self.socket_path) as context:
            status = lib.munge_decode(text, context.handle, *(ctypes.byref(out) for out in (buffer, length, uid, gid)))
            try:
                if status != MungeStatus.SUCCESS:
                    raise context.failure(status)
                payload = ctypes.string_at(buffer, length.value) if buffer.value and length.value > 0 else b""
                if len(payload) > MAX_PAYLOAD_BYTES:
                    raise AuthError(f"the credential's payload of {len(payload)} bytes is too long")
                encoded_at, decoded_at, ttl_s = context.times()
                return Decoded(payload, uid.value, gid.value, encoded_at, decoded_at, ttl_s)
            finally:
                _libc().free(buffer)  # libmunge hands out the payload of expired and replayed credentials as well


class _Context:
    """A `munge_ctx_t`, destroyed when left."""

    def __init__(self, socket_path: str, ttl_s: int | None = None) -> None:
        self._lib = _libmunge()
        self._socket_path = socket_path
        self.handle = ctypes.c_void_p(self._lib.munge_ctx_create())
        if not self.handle:
            raise Temporary("munge: out of memory")
        try:
            self._set(_OPT_SOCKET, ctypes.c_char_p(socket_path.encode()))
            if ttl_s is not None:
                self._set(_OPT_TTL, ctypes.c_int(ttl_s))
        except BaseException:
            self._lib.munge_ctx_destroy(self.handle)
            raise

    def __enter__(self) -> "_Context":
        return self

    def __exit__(self, *_: object) -> None:
        self._lib.munge_ctx_destroy(self.handle)

    def _set(self, option: int, value: ctypes.c_char_p | ctypes.c_int) -> None:
        status = self._lib.munge_ctx_set(self.handle, ctypes.c_int(option), value)
        if status != MungeStatus.SUCCESS:
            raise self.failure(status)

    def times(self) -> tuple[int, int, int]:
        """Return when it was encoded and decoded (Unix seconds), and its life in seconds."""
        encoded_at, decoded_at, ttl_s = ctypes.c_long(), ctypes.c_long(), ctypes.c_int()  # time_t is a long on Linux
        for option, out in ((_OPT_ENCODE_TIME, encoded_at), (_OPT_DECODE_TIME, decoded_at), (_OPT_TTL, ttl_s)):
            self._lib.munge_ctx_get(self.handle, ctypes.c_int(option), ctypes.byref(out))
        return encoded_at.value, decoded_at.value, ttl_s.value

    def failure(self, status: int) -> AuthError | Temporary:
        """Return the error for a status, with libmunge's own words about this call."""
        said = self._lib.munge_ctx_strerror(self.handle) or self._lib.munge_strerror(status) or b""
        return fault(status, said.decode(errors="replace"), self._socket_path, self.times())


def fault(status: int, said: str, socket_path: str, times: tuple[int, int, int]) -> AuthError | Temporary:
    """Return the error that stands for a status other than SUCCESS; `times` are encoded, decoded (Unix seconds) and life (seconds)."""
    encoded_at, decoded_at, ttl_s = times
    if status in _UNAVAILABLE:
        return Temporary(f"munged at {socket_path} gave no answer: {said}")
    if status == MungeStatus.EXPIRED:
        return AuthError(
            f"the credential has expired: made {decoded_at - encoded_at} s ago by this host's clock, valid for {ttl_s} s"
            " (too old, or the other host's clock is behind)"
        )
    if status == MungeStatus.REWOUND:
        return ClockSkewError(
            f"clock skew: the credential was made {encoded_at - decoded_at} s in the future by this host's clock; mend the clocks"
        )
    return AuthError(_REFUSED.get(MungeStatus(status)) if status in _REFUSED else f"not a munge credential: {said}")


def _bounded(credential: str) -> bytes:
    if len(credential) > MAX_CREDENTIAL_CHARS:
        raise AuthError(f"not a munge credential: {len(credential)} characters (at most {MAX_CREDENTIAL_CHARS})")
    if not credential.isascii() or not credential.isprintable():
        raise AuthError("not a munge credential: not printable ASCII")
    return credential.encode("ascii")


@functools.cache
def _libmunge() -> ctypes.CDLL:
    try:
        lib = ctypes.CDLL("libmunge.so.2")
    except OSError as error:
        raise ConfigError("munge", [f"libmunge 2 cannot be loaded ({error}): install the package libmunge2"]) from error
    lib.munge_ctx_create.restype = ctypes.c_void_p
    lib.munge_ctx_destroy.argtypes = [ctypes.c_void_p]
    lib.munge_ctx_destroy.restype = None
    lib.munge_ctx_strerror.argtypes = [ctypes.c_void_p]
    lib.munge_ctx_strerror.restype = ctypes.c_char_p
    lib.munge_strerror.argtypes = [ctypes.c_int]
    lib.munge_strerror.restype = ctypes.c_char_p
    return lib


@functools.cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None)
    libc.free.argtypes = [ctypes.c_void_p]
    libc.free.restype = None
    return libc
