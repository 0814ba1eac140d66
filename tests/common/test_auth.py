"""Proof of a call and of its server, on a real munged."""

import asyncio
import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from holdfast_common.auth import CREDENTIAL_KEY, MAX_AGE_S, PROOF_KEY, MungeAuthenticator, NonceCache
from holdfast_common.clock import VirtualClock
from holdfast_common.errors import AuthError, Temporary
from holdfast_common.munge import ClockSkewError, Munge

pytestmark = pytest.mark.slurm
METHOD = "/holdfast.v1.AgentService/Connect"
Make = Callable[..., MungeAuthenticator]


@pytest.fixture
def make(munge_socket: str) -> Iterator[Make]:
    made: list[MungeAuthenticator] = []

    def one(*, socket: str = munge_socket, ahead_s: float = 0.0, uids: frozenset[int] | None = None, **more: Any) -> MungeAuthenticator:
        allowed = frozenset({os.getuid()}) if uids is None else uids
        made.append(MungeAuthenticator(Munge(socket), VirtualClock(time.time() + ahead_s), allowed, **more))
        return made[-1]

    yield one
    for authenticator in made:
        authenticator.close()


async def test_both_ends_prove_themselves_over_the_same_nonce(make: Make) -> None:
    agent, controller = make(), make()
    offer = await agent.offer(METHOD)
    accepted = await controller.accept(METHOD, dict(offer.metadata))
    await agent.confirm(offer, dict(accepted.metadata))
    assert accepted.caller.uid == os.getuid()
    assert [key for key, _ in accepted.metadata] == [PROOF_KEY]


async def test_a_call_without_a_credential_is_refused(make: Make) -> None:
    with pytest.raises(AuthError, match="no credential"):
        await make().accept(METHOD, {"other": "x"})


async def test_a_credential_for_another_method_is_refused(make: Make) -> None:
    offer = await make().offer("/holdfast.v1.AdminService/Nodes")
    with pytest.raises(AuthError, match=f"is for /holdfast.v1.AdminService/Nodes, not for {METHOD}"):
        await make().accept(METHOD, dict(offer.metadata))


async def test_a_credential_serves_one_call(make: Make) -> None:
    controller, offer = make(), await make().offer(METHOD)
    await controller.accept(METHOD, dict(offer.metadata))
    with pytest.raises(AuthError, match="replayed"):
        await controller.accept(METHOD, dict(offer.metadata))


async def test_a_munged_that_has_forgotten_does_not_make_a_credential_serve_twice(make: Make, same_key_socket: str) -> None:
    munge = Munge(same_key_socket)
    controller = make()
    offer = await make().offer(METHOD)
    await controller.accept(METHOD, dict(offer.metadata))
    controller._munge.socket_path = munge.socket_path  # munged restarted: it knows none of the credentials that it has decoded
    with pytest.raises(AuthError, match="nonce was used before"):
        await controller.accept(METHOD, dict(offer.metadata))


async def test_a_credential_of_another_cluster_is_refused(make: Make, other_key_socket: str) -> None:
    offer = await make(socket=other_key_socket).offer(METHOD)
    with pytest.raises(AuthError, match="another munge key"):
        await make().accept(METHOD, dict(offer.metadata))


async def test_another_user_is_refused_whatever_he_says(make: Make, nobodys_credential: Callable[[bytes], str]) -> None:
    payload = {"role": "call", "method": METHOD, "nonce": "0" * 32, "time": time.time()}
    with pytest.raises(AuthError, match="uid 65534"):
        await make().accept(METHOD, {CREDENTIAL_KEY: nobodys_credential(json.dumps(payload).encode())})


async def test_another_user_cannot_answer_for_the_server(make: Make, nobodys_credential: Callable[[bytes], str]) -> None:
    agent = make()
    offer = await agent.offer(METHOD)
    payload = {"role": "answer", "method": METHOD, "nonce": offer.nonce, "time": time.time()}
    with pytest.raises(AuthError, match="uid 65534"):
        await agent.confirm(offer, {PROOF_KEY: nobodys_credential(json.dumps(payload).encode())})


@pytest.mark.parametrize("ahead_s", [MAX_AGE_S - 5, 5 - MAX_AGE_S])
async def test_clocks_may_differ_a_little(make: Make, ahead_s: float) -> None:
    offer = await make().offer(METHOD)
    await make(ahead_s=ahead_s).accept(METHOD, dict(offer.metadata))


async def test_an_old_credential_is_refused(make: Make) -> None:
    offer = await make().offer(METHOD)
    with pytest.raises(AuthError, match="s old"):
        await make(ahead_s=MAX_AGE_S + 5).accept(METHOD, dict(offer.metadata))


async def test_a_credential_from_the_future_is_reported_as_clock_skew(make: Make) -> None:
    offer = await make().offer(METHOD)
    with pytest.raises(ClockSkewError, match="clock skew"):
        await make(ahead_s=-MAX_AGE_S - 5).accept(METHOD, dict(offer.metadata))


async def test_a_caller_that_lies_about_the_time_is_refused_by_munges_own(make: Make) -> None:
    late = MAX_AGE_S + 30
    offer = await make(ahead_s=late).offer(METHOD)
    with pytest.raises(AuthError, match="s old"):
        await make(ahead_s=late).accept(METHOD, dict(offer.metadata))


async def test_a_call_cannot_be_sent_back_as_an_answer(make: Make) -> None:
    agent = make()
    offer = await agent.offer(METHOD)
    with pytest.raises(AuthError, match="is for a 'call', not for a 'answer'"):
        await agent.confirm(offer, {PROOF_KEY: dict(offer.metadata)[CREDENTIAL_KEY]})


async def test_the_answer_to_another_call_is_refused(make: Make) -> None:
    agent, controller = make(), make()
    first, second = await agent.offer(METHOD), await agent.offer(METHOD)
    accepted = await controller.accept(METHOD, dict(first.metadata))
    with pytest.raises(AuthError, match="another call"):
        await agent.confirm(second, dict(accepted.metadata))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"\xff",
        b"[" * 4000,
        b'{"role": "call"}',
        json.dumps({"role": "call", "method": METHOD, "nonce": "short", "time": 1}).encode(),
        json.dumps({"role": "call", "method": METHOD, "nonce": "0" * 32, "time": "now"}).encode(),
        json.dumps({"role": "call", "method": METHOD, "nonce": "0" * 32, "time": float("nan")}).encode(),
        json.dumps({"role": "call", "method": [METHOD], "nonce": "0" * 32, "time": 1}).encode(),
        json.dumps({"role": "call", "method": METHOD, "nonce": "0" * 32, "time": 1, "more": 1}).encode(),
    ],
)
async def test_a_payload_that_is_not_ours_is_refused(make: Make, munge_socket: str, payload: bytes) -> None:
    with pytest.raises(AuthError, match=r"not ours|malformed"):
        await make().accept(METHOD, {CREDENTIAL_KEY: Munge(munge_socket).encode(payload)})


async def test_a_munged_that_is_away_is_temporary_at_both_ends(make: Make) -> None:
    away, offer = make(socket="/nonexistent"), await make().offer(METHOD)
    for call in (away.offer(METHOD), away.accept(METHOD, dict(offer.metadata))):
        with pytest.raises(Temporary, match="/nonexistent"):
            await call


async def test_calls_beyond_what_may_wait_are_turned_away(make: Make) -> None:
    busy = make(threads=1, max_waiting=2)
    results = await asyncio.gather(*(busy.offer(METHOD) for _ in range(5)), return_exceptions=True)
    assert [type(result).__name__ for result in results] == ["Offer", "Offer", "Temporary", "Temporary", "Temporary"]
    assert (await busy.offer(METHOD)).method == METHOD


def test_nonces_are_kept_as_long_as_they_count_and_never_pushed_out() -> None:
    cache = NonceCache(limit=2)
    assert cache.add("a", 0.0)
    assert cache.add("b", 1.0)
    assert not cache.add("a", 2 * MAX_AGE_S - 1)
    with pytest.raises(Temporary):
        cache.add("c", 2 * MAX_AGE_S - 1)
    assert cache.add("c", 2 * MAX_AGE_S)
    assert not cache.add("b", 2 * MAX_AGE_S)
