"""The agent's server of metrics: what it serves, and that nobody can hang it, nor it the agent."""

import asyncio
import contextlib
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from holdfast_common.clock import SystemClock
from holdfast_common.metrics_server import MOST_AT_ONCE, MetricsServer
from holdfast_nodeagent import app
from holdfast_nodeagent.config import AgentConfig
from holdfast_nodeagent.exporter import Exporter, serve
from holdfast_nodeagent.health.snapshot import Snapshot
from snapshots import AT, h100s

GOLDEN = Path(__file__).parent / "golden"


@contextlib.contextmanager
def served(snapshot: Callable[[], Snapshot] = h100s, answer_s: float = 5.0, listen: str = "127.0.0.1:0") -> Iterator[Exporter]:
    with contextlib.closing(serve(listen, snapshot, lambda: True, False, lambda: AT, answer_s)) as exporter:
        yield exporter


def fetch(port: int, path: str = "/metrics", method: str = "GET", host: str = "127.0.0.1") -> tuple[int, str]:
    request = urllib.request.Request(f"http://{host}:{port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""


async def fetched(*arguments: object, **more: str) -> tuple[int, str]:
    return await asyncio.to_thread(fetch, *arguments, **more)  # type: ignore[arg-type]


async def test_it_is_served_and_only_that() -> None:
    with served() as exporter:
        assert await fetched(exporter.port) == (200, (GOLDEN / "agent.txt").read_text())
        assert await fetched(exporter.port, "/metrics?name[]=x") == (200, (GOLDEN / "agent.txt").read_text())
        assert (await fetched(exporter.port, "/etc/passwd"))[0] == 404
        assert (await fetched(exporter.port, "/metrics", "POST"))[0] == 405
        assert await fetched(exporter.port, "/-/healthy") == (200, "ok\n")
        assert (await fetched(exporter.port, f"/{'x' * 70_000}"))[0] == 414


async def test_it_listens_where_it_is_told_to_also_in_version_6() -> None:
    with served(listen="[::1]:0") as exporter:
        assert (await fetched(exporter.port, host="[::1]"))[0] == 200


async def test_a_taken_port_is_said_and_the_agent_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, served(listen=f"127.0.0.1:{taken.getsockname()[1]}") as exporter:
        assert exporter.port == 0
    assert "cannot listen" in caplog.text


async def test_an_agent_that_is_told_nothing_serves_nothing() -> None:
    with served(listen="") as exporter:
        assert exporter.port == 0


class Watched:
    """Stands for what watches the node's health."""

    snapshot = staticmethod(h100s)


@pytest.mark.parametrize(("settings", "told"), [({}, False), ({"metrics_dcgm_names": False}, False), ({"metrics_dcgm_names": True}, True)])
async def test_dcgms_names_are_served_only_where_they_are_asked_for(settings: dict[str, bool], told: bool) -> None:
    config = AgentConfig(controller="127.0.0.1:1", cluster="lab", metrics_listen="127.0.0.1:0", **settings)
    with app.served(config, SystemClock(), Watched(), lambda: True) as port:
        status, text = await fetched(port)
    assert (status, "holdfast_agent_build_info" in text, "DCGM_FI_" in text) == (200, True, told)


async def test_an_agent_serves_nothing_by_its_defaults() -> None:
    config = AgentConfig(controller="127.0.0.1:1", cluster="lab")
    with app.served(config, SystemClock(), Watched(), lambda: True) as port:
        assert port == 0


async def test_a_fault_in_one_scrape_is_that_scrapes() -> None:
    broken = True

    def snapshot() -> Snapshot:
        if broken:
            raise RuntimeError("no")
        return h100s()

    with served(snapshot) as exporter:
        assert (await fetched(exporter.port))[0] == 503
        broken = False
        assert (await fetched(exporter.port))[0] == 200


async def test_an_agent_that_hangs_is_said_to_and_not_to_be_well() -> None:
    with served(answer_s=0.1) as exporter:
        asked = [asyncio.create_task(fetched(exporter.port, path)) for path in ("/metrics", "/-/healthy")]
        await asyncio.sleep(0)
        time.sleep(0.8)  # noqa: ASYNC251 - that is what hangs
        assert [status for status, _ in await asyncio.gather(*asked)] == [503, 503]
        assert (await fetched(exporter.port))[0] == 200, "it goes on"


async def test_several_scrapes_at_once_are_all_answered() -> None:
    with served() as exporter:
        answers = await asyncio.gather(*(fetched(exporter.port) for _ in range(MOST_AT_ONCE)))
        assert {status for status, _ in answers} == {200}
        assert len({told for _, told in answers}) == 1


async def test_callers_that_ask_nothing_do_not_keep_others_from_asking() -> None:
    with served() as exporter, contextlib.ExitStack() as idle:
        for _ in range(3):
            idle.enter_context(socket.create_connection(("127.0.0.1", exporter.port)))
        assert (await fetched(exporter.port))[0] == 200
        before = threading.active_count()
        for _ in range(40):
            idle.enter_context(socket.create_connection(("127.0.0.1", exporter.port)))
        for _ in range(100):
            await asyncio.sleep(0.01)
            if threading.active_count() > before:
                break
        assert threading.active_count() <= before + MOST_AT_ONCE, "so many are answered at a time, and no more"


async def test_callers_that_never_finish_are_left() -> None:
    """One byte now and then: each read comes in time, and the request never does."""
    server = MetricsServer("127.0.0.1:0", {"/metrics": lambda: ("text/plain", b"here\n")}, request_s=0.3)
    with contextlib.closing(server), contextlib.ExitStack() as slow:
        callers = [slow.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(MOST_AT_ONCE)]
        for _ in range(60):
            for caller in callers:
                with contextlib.suppress(OSError):
                    caller.send(b"G")
            await asyncio.sleep(0.05)
            with contextlib.suppress(OSError):
                assert await fetched(server.port) == (200, "here\n")
                break
        else:
            raise AssertionError("nobody else was ever answered")
