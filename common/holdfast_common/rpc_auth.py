"""Authentication on grpc.aio: interceptors for both ends. They need no channel security, so they work on loopback without TLS."""

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any

import grpc
import grpc.aio

from holdfast_common.auth import PROOF_KEY, Accepted, Authenticator, Caller, Offer
from holdfast_common.errors import AuthError, Temporary

STREAM_MAX_S = 3600.0
PROOF_TIMEOUT_S = 10.0
RENEW_DETAILS = "renew"
"""Details of the ABORTED with which a server ends a stream that is older than its limit: connect again at once."""
_LOG_PER_MINUTE = 60
_caller: ContextVar[Caller] = ContextVar("holdfast_caller")
_log = logging.getLogger(__name__)


def current_caller() -> Caller:
    """Return who makes the RPC that is being handled. Raises LookupError outside a handler behind `ServerAuth`."""
    return _caller.get()


class ServerAuth(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Lets through only calls that the authenticator accepts.

    Any other call, to a known method or not, gets UNAUTHENTICATED (UNAVAILABLE while munged is away: trying again helps) with empty
    details, before its request is read. The reason goes to our log, at most 60 lines a minute. A stream ends after `stream_max_s`
    seconds with ABORTED and the details `renew`.
    """

    def __init__(self, authenticator: Authenticator, *, stream_max_s: float = STREAM_MAX_S) -> None:
        self._authenticator = authenticator
        self._stream_max_s = stream_max_s
        self._logged = 0
        self._logged_since_s = 0.0

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """Check the call, then hand over to its handler."""
        method = _text(handler_call_details.method)
        try:
            accepted = await self._authenticator.accept(method, _mapping(handler_call_details.invocation_metadata))
        except Temporary as error:
            self._report(method, str(error))
            return _refusal(grpc.StatusCode.UNAVAILABLE)
        except AuthError as error:
            self._report(method, str(error))
            return _refusal(grpc.StatusCode.UNAUTHENTICATED)
        except Exception:  # grpc would tell the caller its text
            _log.exception("authentication failed by a fault of ours, method=%s", method)
            return _refusal(grpc.StatusCode.UNAUTHENTICATED)
        handler = await continuation(handler_call_details)
        return None if handler is None else _guarded(handler, accepted, self._stream_max_s)

    def _report(self, method: str, reason: str) -> None:
        now_s = asyncio.get_running_loop().time()
        if now_s - self._logged_since_s >= 60.0:
            self._logged, self._logged_since_s = 0, now_s
        self._logged += 1
        if self._logged <= _LOG_PER_MINUTE:
            _log.warning("call refused, method=%.200r reason=%.500s", method, reason)


def _refusal(code: grpc.StatusCode) -> Any:
    async def refuse(_requests: object, context: Any) -> None:
        await context.abort(code, "")

    return grpc.stream_stream_rpc_method_handler(refuse)  # this kind reads no request by itself, and fits every kind of call


def _guarded(handler: Any, accepted: Accepted, stream_max_s: float) -> Any:
    kind = ("stream" if handler.request_streaming else "unary") + "_" + ("stream" if handler.response_streaming else "unary")
    inner = getattr(handler, kind)

    async def begin(context: Any) -> None:
        _caller.set(accepted.caller)
        await context.send_initial_metadata(accepted.metadata)

    async def answer_once(request: Any, context: Any) -> Any:
        await begin(context)
        return await inner(request, context)

    async def answer_many(request: Any, context: Any) -> None:
        await begin(context)
        limit = asyncio.timeout(stream_max_s)
        try:
            async with limit:
                await _drive(inner, request, context)
        except TimeoutError:
            if not limit.expired():
                raise
            await context.abort(grpc.StatusCode.ABORTED, RENEW_DETAILS)

    make = getattr(grpc, f"{kind}_rpc_method_handler")
    behaviour = answer_many if handler.response_streaming else answer_once
    return make(behaviour, handler.request_deserializer, handler.response_serializer)


async def _drive(inner: Any, request: Any, context: Any) -> None:
    """Run a streaming handler of either style: an async generator, or a coroutine that writes by itself."""
    if not inspect.isasyncgenfunction(inner):
        await inner(request, context)
        return
    async with aclosing(inner(request, context)) as messages:
        async for message in messages:
            await context.write(message)


def client_interceptors(authenticator: Authenticator, *, proof_timeout_s: float = PROOF_TIMEOUT_S) -> list[Any]:
    """Return the interceptors that prove each call and check the server's proof (grpc.aio wants one object per kind of call).

    A call whose server proves nothing raises AuthError. A local munged that is away raises Temporary before anything is sent, and so does
    a server that sends nothing for `proof_timeout_s` (it sends its proof before it works on the call).
    """
    return [kind(authenticator, proof_timeout_s) for kind in (_UnaryUnary, _UnaryStream, _StreamStream)]


class _Client:
    def __init__(self, authenticator: Authenticator, proof_timeout_s: float) -> None:
        self._authenticator = authenticator
        self._proof_timeout_s = proof_timeout_s

    async def prove(self, details: Any) -> tuple[Offer, Any]:
        offer = await self._authenticator.offer(_text(details.method))
        metadata = grpc.aio.Metadata(*(details.metadata or ()), *offer.metadata)
        return offer, grpc.aio.ClientCallDetails(details.method, details.timeout, metadata, details.credentials, details.wait_for_ready)

    async def confirm(self, offer: Offer, call: Any) -> None:
        """Check the server's proof, and cancel the call without one; a call that has failed by itself keeps its own error."""
        limit = asyncio.timeout(self._proof_timeout_s)
        try:
            async with limit:
                metadata = _mapping(await call.initial_metadata())
                if PROOF_KEY not in metadata and await _failed(call):
                    return
                await self._authenticator.confirm(offer, metadata)
        except TimeoutError as error:
            call.cancel()
            if not limit.expired():
                raise
            raise Temporary(f"{offer.method}: the server sent nothing for {self._proof_timeout_s:.0f} s") from error
        except BaseException:
            call.cancel()
            raise


class _UnaryUnary(_Client, grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        offer, details = await self.prove(client_call_details)
        call = await continuation(details, request)
        await self.confirm(offer, call)
        return call


class _UnaryStream(_Client, grpc.aio.UnaryStreamClientInterceptor):  # type: ignore[misc]
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        offer, details = await self.prove(client_call_details)
        call = await continuation(details, request)
        await self.confirm(offer, call)
        return call


class _StreamStream(_Client, grpc.aio.StreamStreamClientInterceptor):  # type: ignore[misc]
    async def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        confirmed = asyncio.Event()

        async def held_back() -> AsyncIterator[Any]:
            await confirmed.wait()
            async for request in request_iterator:
                yield request

        offer, details = await self.prove(client_call_details)
        call = await continuation(details, held_back())
        await self.confirm(offer, call)
        confirmed.set()
        return call


async def _failed(call: Any) -> bool:
    """Tell whether a call without the server's metadata has ended in an error; its status follows at once, if ever."""
    try:
        async with asyncio.timeout(1.0):
            return bool(await call.code() != grpc.StatusCode.OK)
    except TimeoutError:
        return False


def _text(method: str | bytes) -> str:
    return method.decode("utf-8", "replace") if isinstance(method, bytes) else method


def _mapping(metadata: Iterable[tuple[str, str | bytes]] | None) -> dict[str, str]:
    return {key: value for key, value in metadata or () if isinstance(value, str)}
