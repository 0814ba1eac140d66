"""Who calls, and who answers: both ends of an RPC prove their uid, with nothing but munge.

The caller sends a credential in the call's metadata; its payload names the method and carries a nonce. The server checks the uid
against the few that may call, the method, the age and the nonce, and answers with a credential of its own over the same nonce before
anything else, since a server that has taken the controller's port must be able neither to read an agent's Hello nor to give orders.
One credential serves one call: a stream is proved at its start and ended by the server after `stream_max_s` (`rpc_auth.ServerAuth`),
so that it is proved again.

What this does not do: it does not protect the bytes of a connection. Off loopback that needs TLS (`channel.check_bind`).
"""

import asyncio
import json
import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

from holdfast_common.clock import Clock
from holdfast_common.errors import AuthError, Temporary
from holdfast_common.munge import ClockSkewError, Munge

CREDENTIAL_KEY = "holdfast-credential"
PROOF_KEY = "holdfast-proof"
MAX_AGE_S = 60.0
"""Of a credential, either way: munge's own default of 300 s leaves more time than a call needs."""
MUNGE_TIMEOUT_S = 5.0
_CALL, _ANSWER = "call", "answer"
_NONCE_CHARS = 32
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, as proved."""

    uid: int
    mechanism: str


@dataclass(frozen=True, slots=True)
class Offer:
    """What a client sends with one call, and must see again in the server's proof."""

    method: str
    nonce: str
    metadata: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Accepted:
    """A call that the server may answer, with the metadata that proves the server."""

    caller: Caller
    metadata: tuple[tuple[str, str], ...]


class Authenticator(Protocol):
    """One way of proving who is at each end of a call. `method` is the RPC's full name, `/package.Service/Method`.

    All raise AuthError (its message is for our log only) and Temporary where the means of proof do not answer.
    """

    async def offer(self, method: str) -> Offer:
        """Client: make the metadata for one call. Never used for a second one."""

    async def accept(self, method: str, metadata: Mapping[str, str]) -> Accepted:
        """Server: check a call before anything of its content is looked at."""

    async def confirm(self, offer: Offer, metadata: Mapping[str, str]) -> None:
        """Client: check the server's proof before anything that it says is believed."""

    def close(self) -> None:
        """Release threads."""


class MungeAuthenticator:
    """Proof by munge; both ends must run as one of `allowed_uids` (root and SlurmUser). Its thread pool is shared with nothing."""

    def __init__(self, munge: Munge, clock: Clock, allowed_uids: frozenset[int], *, threads: int = 4, max_waiting: int = 256) -> None:
        self._munge = munge
        self._clock = clock
        self._allowed_uids = allowed_uids
        self._nonces = NonceCache()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="munge")
        self._waiting = 0
        self._max_waiting = max_waiting

    async def offer(self, method: str) -> Offer:
        """Make a credential for one call of `method`."""
        nonce = secrets.token_hex(_NONCE_CHARS // 2)
        return Offer(method, nonce, ((CREDENTIAL_KEY, await self._encode(_CALL, method, nonce)),))

    async def accept(self, method: str, metadata: Mapping[str, str]) -> Accepted:
        """Check the credential of a call of `method`; the metadata returned proves this server to that caller."""
        uid, nonce = await self._check(_CALL, method, metadata.get(CREDENTIAL_KEY))
        if not self._nonces.add(nonce, self._clock.now()):
            raise AuthError(f"the credential's nonce was used before (uid {uid})")
        return Accepted(Caller(uid, "munge"), ((PROOF_KEY, await self._encode(_ANSWER, method, nonce)),))

    async def confirm(self, offer: Offer, metadata: Mapping[str, str]) -> None:
        """Check that the server is one of the allowed uids and has seen this very offer."""
        _, nonce = await self._check(_ANSWER, offer.method, metadata.get(PROOF_KEY))
        if nonce != offer.nonce:
            raise AuthError("the server's proof is for another call")

    def close(self) -> None:
        """Let the threads end; calls under way finish."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _encode(self, role: str, method: str, nonce: str) -> str:
        message = {"role": role, "method": method, "nonce": nonce, "time": self._clock.now()}
        payload = json.dumps(message).encode()
        return await self._run(lambda: self._munge.encode(payload, ttl_s=int(MAX_AGE_S)))

    async def _check(self, role: str, method: str, credential: str | None) -> tuple[int, str]:
        if credential is None:
            raise AuthError("no credential came with the " + role)
        decoded = await self._run(lambda: self._munge.decode(credential))
        if decoded.uid not in self._allowed_uids:
            raise AuthError(f"uid {decoded.uid} is not one that may take part")
        message = _parse(decoded.payload)
        if message.role != role:
            raise AuthError(f"the credential is for a {message.role!r}, not for a {role!r}")
        if message.method != method:
            raise AuthError(f"the credential is for {message.method}, not for {method}")
        for made in (message.time, float(decoded.encoded_at)):
            self._check_age(self._clock.now() - made)
        return decoded.uid, message.nonce

    def _check_age(self, age_s: float) -> None:
        if age_s < -MAX_AGE_S:
            raise ClockSkewError(f"clock skew: the credential was made {-age_s:.0f} s in the future by this host's clock")
        if age_s > MAX_AGE_S:
            raise AuthError(f"the credential is {age_s:.0f} s old (at most {MAX_AGE_S:.0f}), or the other host's clock is behind")

    async def _run(self, call: Callable[[], _T]) -> _T:
        if self._waiting >= self._max_waiting:
            raise Temporary(f"{self._waiting} calls wait for munged already")
        self._waiting += 1
        try:
            async with asyncio.timeout(MUNGE_TIMEOUT_S):
                return await asyncio.get_running_loop().run_in_executor(self._pool, call)
        except TimeoutError as error:
            raise Temporary(f"munged at {self._munge.socket_path} gave no answer within {MUNGE_TIMEOUT_S:.0f} s") from error
        finally:
            self._waiting -= 1


class NonceCache:
    """The nonces of the calls that could still be repeated: bounded, and never forgets one early.

    munged refuses a second decode as well; this holds where munged was restarted meanwhile.
    """

    def __init__(self, limit: int = 65_536) -> None:
        self._limit = limit
        self._until: OrderedDict[str, float] = OrderedDict()

    def add(self, nonce: str, now: float) -> bool:
        """Remember a nonce at Unix time `now`; False if it is there already. Raises Temporary when full of nonces that still count."""
        while self._until and next(iter(self._until.values())) <= now:
            self._until.popitem(last=False)
        if nonce in self._until:
            return False
        if len(self._until) >= self._limit:
            raise Temporary(f"{self._limit} calls within {2 * MAX_AGE_S:.0f} s: too many to tell a repeated one")
        self._until[nonce] = now + 2 * MAX_AGE_S  # made at most MAX_AGE_S ahead of `now`, accepted until MAX_AGE_S after that
        return True


@dataclass(frozen=True, slots=True)
class _Message:
    role: str
    method: str
    nonce: str
    time: float


def _parse(payload: bytes) -> _Message:
    try:
        found = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise AuthError("the credential's payload is not ours") from error
    if not isinstance(found, dict) or found.keys() != {"role", "method", "nonce", "time"}:
        raise AuthError("the credential's payload is not ours")
    role, method, nonce, time = found["role"], found["method"], found["nonce"], found["time"]
    strings = all(isinstance(value, str) for value in (role, method, nonce))
    if not strings or len(nonce) != _NONCE_CHARS or not isinstance(time, int | float) or not abs(time) < 1e12:
        raise AuthError("the credential's payload is malformed")
    return _Message(role, method, nonce, float(time))
