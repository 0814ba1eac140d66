"""Authentication over real grpc.aio servers and a real munged: what gets through, and that nothing is answered otherwise."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import pytest
from holdfast_common.auth import CREDENTIAL_KEY, PROOF_KEY, MungeAuthenticator
from holdfast_common.channel import agent_channel, new_server
from holdfast_common.clock import SystemClock
from holdfast_common.errors import AuthError, Temporary
from holdfast_common.munge import Munge
from holdfast_common.rpc_auth import RENEW_DETAILS, ServerAuth, client_interceptors, current_caller

pytestmark = pytest.mark.slurm
ONE, MANY, BOTH = "/test.Service/One", "/test.Service/Many", "/test.Service/Both"


@dataclass
class Service:
    """Three kinds of call on bytes; remembers what reached it."""

    seen: list[bytes] = field(default_factory=list)
    callers: list[int] = field(default_factory=list)

    async def one(self, request: bytes, _context: Any) -> bytes:
        self.seen.append(request)
        self.callers.append(current_caller().uid)
        return b"one:" + request

    async def many(self, request: bytes, context: Any) -> None:
        self.seen.append(request)
        self.callers.append(current_caller().uid)
        for number in (b"1", b"2"):
            await context.write(request + number)

    async def both(self, requests: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            self.seen.append(request)
            if request == b"time out":
                raise TimeoutError("our own")
            yield b"both:" + request

    def handlers(self) -> Any:
        return grpc.method_handlers_generic_handler(
            "test.Service",
            {
                "One": grpc.unary_unary_rpc_method_handler(self.one),
                "Many": grpc.unary_stream_rpc_method_handler(self.many),
                "Both": grpc.stream_stream_rpc_method_handler(self.both),
            },
        )


@dataclass
class Running:
    service: Service
    address: str


Start = Callable[..., Awaitable[Running]]
MakeAuth = Callable[..., MungeAuthenticator]


@pytest.fixture
async def make_auth(munge_socket: str) -> AsyncIterator[MakeAuth]:
    made: list[MungeAuthenticator] = []

    def one(socket: str = munge_socket, uid: int | None = None) -> MungeAuthenticator:
        made.append(MungeAuthenticator(Munge(socket), SystemClock(), frozenset({os.getuid() if uid is None else uid})))
        return made[-1]

    yield one
    for authenticator in made:
        authenticator.close()


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    servers: list[Any] = []

    async def one(authenticator: MungeAuthenticator | None, stream_max_s: float = 60.0) -> Running:
        service = Service()
        server = new_server([ServerAuth(authenticator, stream_max_s=stream_max_s)] if authenticator else [])
        server.add_generic_rpc_handlers((service.handlers(),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        servers.append(server)
        return Running(service, f"127.0.0.1:{port}")

    yield one
    for server in servers:
        await server.stop(None)


async def refused(call: Any) -> Any:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def first(call: Any) -> Any:
    """Read one message; raise the call's error if there is none."""
    async for message in call:
        return message
    raise grpc.aio.AioRpcError(await call.code(), await call.initial_metadata(), await call.trailing_metadata(), await call.details())


async def test_every_kind_of_call_passes_with_proof_at_both_ends(start: Start, make_auth: MakeAuth) -> None:
    running = await start(make_auth())
    async with agent_channel(running.address, make_auth()) as channel:
        assert await channel.unary_unary(ONE)(b"a") == b"one:a"
        assert [message async for message in channel.unary_stream(MANY)(b"b")] == [b"b1", b"b2"]
        stream = channel.stream_stream(BOTH)()
        await stream.write(b"c")
        assert await stream.read() == b"both:c"
        await stream.done_writing()
        assert await stream.read() == grpc.aio.EOF
    assert running.service.callers == [os.getuid(), os.getuid()]


async def test_without_a_credential_nothing_is_answered(start: Start, make_auth: MakeAuth) -> None:
    running = await start(make_auth())
    async with grpc.aio.insecure_channel(running.address) as channel:
        calls = [
            channel.unary_unary(ONE)(b"a"),
            first(channel.unary_stream(MANY)(b"b")),
            first(channel.stream_stream(BOTH)(iter([b"c"]))),
            channel.unary_unary("/test.Service/NoSuchMethod")(b"d"),
        ]
        for error in [await refused(call) for call in calls]:
            assert (error.code(), error.details()) == (grpc.StatusCode.UNAUTHENTICATED, "")
            assert len(error.initial_metadata() or ()) == len(error.trailing_metadata() or ()) == 0
    assert running.service.seen == []


async def with_credential(address: str, method: str, credential: str | bytes) -> Any:
    async with grpc.aio.insecure_channel(address) as channel:
        return await refused(channel.unary_unary(method)(b"x", metadata=((CREDENTIAL_KEY, credential),)))


async def test_a_stolen_credential_serves_no_other_method_and_no_second_call(
    start: Start, make_auth: MakeAuth, caplog: pytest.LogCaptureFixture
) -> None:
    running = await start(make_auth())
    offer = await make_auth().offer(ONE)
    credential = dict(offer.metadata)[CREDENTIAL_KEY]
    other = dict((await make_auth().offer(MANY)).metadata)[CREDENTIAL_KEY]
    async with grpc.aio.insecure_channel(running.address) as channel:
        assert await channel.unary_unary(ONE)(b"a", metadata=offer.metadata) == b"one:a"
    for wrong in (credential, other):
        error = await with_credential(running.address, ONE, wrong)
        assert (error.code(), error.details()) == (grpc.StatusCode.UNAUTHENTICATED, "")
    assert running.service.seen == [b"a"]
    assert "replayed" in caplog.text
    assert f"is for {MANY}, not for {ONE}" in caplog.text
    assert credential not in caplog.text


@pytest.mark.parametrize("credential", ["", "x", "MUNGE:AwQFAAA=:", "y" * 5000])
async def test_a_malformed_credential_is_refused(start: Start, make_auth: MakeAuth, credential: str) -> None:
    running = await start(make_auth())
    error = await with_credential(running.address, ONE, credential)
    assert (error.code(), error.details(), running.service.seen) == (grpc.StatusCode.UNAUTHENTICATED, "", [])


async def test_another_user_and_another_cluster_get_no_answer(
    start: Start, make_auth: MakeAuth, other_key_socket: str, nobodys_credential: Callable[[bytes], str]
) -> None:
    running = await start(make_auth())
    other_cluster = dict((await make_auth(other_key_socket).offer(ONE)).metadata)[CREDENTIAL_KEY]
    for credential in (other_cluster, nobodys_credential(b"{}")):
        error = await with_credential(running.address, ONE, credential)
        assert (error.code(), error.details()) == (grpc.StatusCode.UNAUTHENTICATED, "")
    assert running.service.seen == []


async def test_while_the_servers_munged_is_away_calls_may_be_tried_again(start: Start, make_auth: MakeAuth) -> None:
    running = await start(make_auth("/nonexistent"))
    async with agent_channel(running.address, make_auth()) as channel:
        error = await refused(channel.unary_unary(ONE)(b"a"))
    assert (error.code(), error.details(), running.service.seen) == (grpc.StatusCode.UNAVAILABLE, "", [])


async def test_while_the_clients_munged_is_away_nothing_is_sent(start: Start, make_auth: MakeAuth) -> None:
    running = await start(make_auth())
    async with agent_channel(running.address, make_auth("/nonexistent")) as channel:
        with pytest.raises(Temporary, match="/nonexistent"):
            await channel.unary_unary(ONE)(b"a")
        with pytest.raises(Temporary, match="/nonexistent"):
            await channel.stream_stream(BOTH)().write(b"a")
    assert running.service.seen == []


async def test_a_server_that_proves_nothing_is_not_believed_and_learns_no_message(start: Start, make_auth: MakeAuth) -> None:
    seen: list[bytes] = []

    async def greedy(requests: AsyncIterator[bytes], context: Any) -> None:
        await context.send_initial_metadata(((PROOF_KEY, "MUNGE:AwQFAAA=:"),))
        await context.write(b"an order")
        async for request in requests:
            seen.append(request)

    async def answers(_request: bytes, _context: Any) -> bytes:
        return b"anything"

    handlers = {"Both": grpc.stream_stream_rpc_method_handler(greedy), "One": grpc.unary_unary_rpc_method_handler(answers)}
    server = new_server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Service", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with agent_channel(f"127.0.0.1:{port}", make_auth()) as channel:
        with pytest.raises(AuthError):
            await channel.unary_unary(ONE)(b"a")
        stream = channel.stream_stream(BOTH)()
        with pytest.raises(AuthError):
            await stream.write(b"hello")
        with pytest.raises(AuthError):
            await stream.read()
    await server.stop(None)
    assert seen == []


async def test_a_server_of_another_user_is_not_believed(start: Start, make_auth: MakeAuth) -> None:
    running = await start(make_auth())
    async with agent_channel(running.address, make_auth(uid=os.getuid() + 1)) as channel:
        with pytest.raises(AuthError, match=f"uid {os.getuid()} is not one"):
            await channel.unary_unary(ONE)(b"a")


async def test_a_server_that_never_answers_is_given_up(start: Start, make_auth: MakeAuth) -> None:
    running = await start(None)  # its stream sends nothing before it has read a message, and we send none before its proof
    interceptors = client_interceptors(make_auth(), proof_timeout_s=0.05)
    async with grpc.aio.insecure_channel(running.address, interceptors=interceptors) as channel:
        with pytest.raises(Temporary, match="sent nothing"):
            await channel.stream_stream(BOTH)().write(b"hello")
    assert running.service.seen == []


async def test_a_call_that_fails_by_itself_keeps_its_error(start: Start, make_auth: MakeAuth) -> None:
    running = await start(make_auth())
    async with agent_channel(running.address, make_auth()) as channel:
        error = await refused(channel.unary_unary("/test.Service/NoSuchMethod")(b"a"))
        assert error.code() == grpc.StatusCode.UNIMPLEMENTED
    async with agent_channel("127.0.0.1:1", make_auth()) as channel:
        assert (await refused(channel.unary_unary(ONE)(b"a"))).code() == grpc.StatusCode.UNAVAILABLE
        assert (await refused(first(channel.stream_stream(BOTH)(iter([b"c"]))))).code() == grpc.StatusCode.UNAVAILABLE


async def test_a_stream_is_ended_to_be_proved_again(start: Start, make_auth: MakeAuth) -> None:
    running = await start(make_auth(), stream_max_s=0.05)
    async with agent_channel(running.address, make_auth()) as channel:
        stream = channel.stream_stream(BOTH)()
        await stream.write(b"a")
        assert await stream.read() == b"both:a"
        error = await refused(stream.read())
        assert (error.code(), error.details()) == (grpc.StatusCode.ABORTED, RENEW_DETAILS)


async def test_a_handlers_own_time_out_is_not_taken_for_a_renewal(start: Start, make_auth: MakeAuth) -> None:
    running = await start(make_auth())
    async with agent_channel(running.address, make_auth()) as channel:
        stream = channel.stream_stream(BOTH)()
        await stream.write(b"time out")
        assert (await refused(stream.read())).code() == grpc.StatusCode.UNKNOWN


async def test_refusals_flood_no_log(start: Start, make_auth: MakeAuth, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    running = await start(make_auth())
    async with grpc.aio.insecure_channel(running.address) as channel:
        await asyncio.gather(*(refused(channel.unary_unary(ONE)(b"a")) for _ in range(100)))
    assert caplog.text.count("call refused") == 60
