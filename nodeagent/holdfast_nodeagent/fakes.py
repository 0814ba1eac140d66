"""Fakes of what an agent meets, for tests: a metadata server that can misbehave, a job's processes, a controller on loopback."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
from holdfast_protos.v1 import agent_pb2 as pb
from holdfast_protos.v1 import agent_pb2_grpc as pb_grpc

META = "/latest/meta-data/"


def http_answer(status: int, body: bytes = b"", headers: str = "") -> bytes:
    """Return one HTTP answer."""
    return f"HTTP/1.1 {status} X\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body


class FakeMetadata:
    """An IMDS whose answers are raw bytes, or a coroutine that misbehaves."""

    def __init__(self) -> None:
        self.tokens = 0
        self.token_life: set[str] = set()
        self.requests: list[str] = []
        self.raw: dict[str, bytes | Callable[[asyncio.StreamWriter], Any]] = {}
        self.values: dict[str, bytes] = {
            META + "instance-id": b"i-0abc",
            META + "instance-type": b"g5.xlarge",
            META + "placement/availability-zone": b"us-east-1a",
            META + "local-ipv4": b"127.0.0.1",
            META + "instance-life-cycle": b"spot",
            "/latest/user-data": json.dumps(
                {"holdfast": {"v": 1, "cluster": "lab", "launch_id": "l-1", "launch_token": "secret"}}
            ).encode(),
        }
        self.url = ""
        self._server: asyncio.Server | None = None

    def notice(self, time: str | None) -> None:
        """Announce that the instance is taken back at a time such as 2026-01-31T12:00:00Z, or take that back."""
        path = META + "spot/instance-action"
        if time is None:
            self.values.pop(path, None)
        else:
            self.values[path] = json.dumps({"action": "terminate", "time": time}).encode()

    async def start(self) -> None:
        """Listen on loopback."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        """Stop listening."""
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            method, path, _ = head.split("\r\n")[0].split(" ")
            self.requests.append(f"{method} {path}")
            wanted = self.raw.get(path)
            if callable(wanted):
                await wanted(writer)
            else:
                writer.write(wanted if wanted is not None else self._reply(method, path, head))
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def _reply(self, method: str, path: str, head: str) -> bytes:
        if path == "/latest/api/token":
            assert method == "PUT"
            assert "x-aws-ec2-metadata-token-ttl-seconds:" in head.lower()
            self.tokens += 1
            self.token_life.add(f"t{self.tokens}")
            return http_answer(200, f"t{self.tokens}".encode())
        if not any(f"token: {token}\r\n" in head.lower() for token in self.token_life):
            return http_answer(401)
        return http_answer(200, self.values[path]) if path in self.values else http_answer(404)


@dataclass
class FakeJob:
    """A job's directory, and what the processes of a job would write into it."""

    path: Path

    @classmethod
    def create(cls, run_dir: Path, job_id: int = 12, attempt: int = 0) -> "FakeJob":
        """Make the directory as Prolog does: whole at once."""
        path = run_dir / "jobs" / f"{job_id}.{attempt}"
        staging = run_dir / f"staging.{job_id}.{attempt}"
        (staging / "node").mkdir(parents=True)
        (staging / "job").mkdir(mode=0o700)
        context = {"v": 1, "job_id": job_id, "attempt": attempt, "node": "spot-1", "nodes": ["spot-1", "spot-2"]}
        (staging / "node" / "context.json").write_text(json.dumps(context))
        staging.rename(path)
        return cls(path)

    def rank(self, number: int = 0, **keys: Any) -> None:
        """Write `rank.<number>.json`."""
        content = {"v": 1, "pid": 1, "started": 1.0, "rank": number, "world_size": 1, "wake_signal": None, "state": "running", "step": 1}
        self.write(f"rank.{number}.json", json.dumps({**content, **keys}))

    def status(self, **keys: Any) -> None:
        """Write `status.json`."""
        self.write("status.json", json.dumps({"v": 1, "state": "running", "step": 1, "attempt": 0, **keys}))

    def write(self, name: str, text: str) -> None:
        """Replace a file in `job/`."""
        temporary = self.path / "job" / f"{name}.tmp"
        temporary.write_text(text)
        temporary.replace(self.path / "job" / name)

    def node(self, name: str) -> dict[str, Any] | None:
        """Read a file in `node/`, None where there is none."""
        try:
            content: dict[str, Any] = json.loads((self.path / "node" / name).read_text())
        except FileNotFoundError:
            return None
        return content


@dataclass
class FakeController(pb_grpc.AgentServiceServicer):
    """The controller's end of the stream: remembers what comes, acknowledges unless told not to, says what a test puts in."""

    acks: bool = True
    welcome: bool = True
    received: list[pb.AgentMessage] = field(default_factory=list)
    streams: int = 0
    port: int = 0

    def __post_init__(self) -> None:
        self._out: asyncio.Queue[pb.ControllerMessage | None] = asyncio.Queue()
        self._news = asyncio.Event()
        self._server: Any = None

    async def Connect(self, requests: Any, context: Any) -> AsyncIterator[pb.ControllerMessage]:  # noqa: N802
        """Serve one stream."""
        self.streams += 1
        self._out = asyncio.Queue()
        reader = asyncio.ensure_future(self._read(requests))
        try:
            while (message := await self._out.get()) is not None:
                yield message
        finally:
            reader.cancel()

    async def _read(self, requests: Any) -> None:
        async for message in requests:
            self.received.append(message)
            self._news.set()
            kind = message.WhichOneof("body")
            if kind == "hello" and self.welcome:
                self.say("w", welcome=pb.Welcome(node="spot-1", cluster="lab", market="spot", heartbeat_s=0.3))
            elif kind != "ack" and self.acks:
                self._out.put_nowait(pb.ControllerMessage(ack=pb.Ack(id=message.id)))

    def say(self, message_id: str, **body: Any) -> None:
        """Send a message on the open stream."""
        self._out.put_nowait(pb.ControllerMessage(id=f"{message_id}-{self.streams}", **body))

    def end_stream(self) -> None:
        """Close the open stream."""
        self._out.put_nowait(None)

    async def until(self, kind: str, count: int = 1) -> pb.AgentMessage:
        """Wait for the count-th message of a kind."""
        while True:
            found = [message for message in self.received if message.WhichOneof("body") == kind]
            if len(found) >= count:
                return found[count - 1]
            self._news.clear()
            await self._news.wait()

    async def start(self) -> None:
        """Listen on loopback."""
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        pb_grpc.add_AgentServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    def channel(self) -> Any:
        """Return a channel to this controller, without proof."""
        return grpc.aio.insecure_channel(
            f"127.0.0.1:{self.port}", options=[("grpc.max_reconnect_backoff_ms", 100), ("grpc.use_local_subchannel_pool", 1)]
        )
