import ctypes
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from holdfast_common.errors import AuthError, Temporary
from holdfast_common.munge import MAX_PAYLOAD_BYTES, ClockSkewError, Munge, MungeStatus, fault
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.slurm


def test_a_credential_tells_who_made_it_and_what_it_carries(munge_socket: str) -> None:
    munge = Munge(munge_socket)
    found = munge.decode(munge.encode(b'{"method": "/x"}', ttl_s=17))
    assert (found.payload, found.uid, found.gid, found.ttl_s) == (b'{"method": "/x"}', os.getuid(), os.getgid(), 17)
    assert abs(found.encoded_at - time.time()) < 5
    assert abs(found.decoded_at - time.time()) < 5


def test_a_credential_of_another_user_carries_his_uid(munge_socket: str, nobodys_credential: Callable[[bytes], str]) -> None:
    assert Munge(munge_socket).decode(nobodys_credential(b"mine")).uid == 65534


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(payload=st.binary(max_size=MAX_PAYLOAD_BYTES))
def test_any_payload_comes_back(munge_socket: str, payload: bytes) -> None:
    munge = Munge(munge_socket)
    assert munge.decode(munge.encode(payload)).payload == payload


def test_a_second_decode_is_refused_as_replayed(munge_socket: str) -> None:
    munge = Munge(munge_socket)
    credential = munge.encode(b"once")
    munge.decode(credential)
    with pytest.raises(AuthError, match="replayed"):
        munge.decode(credential)


def test_another_clusters_key_is_named(munge_socket: str, other_key_socket: str) -> None:
    with pytest.raises(AuthError, match="another munge key"):
        Munge(other_key_socket).decode(Munge(munge_socket).encode(b"x"))


def test_an_expired_credential_is_refused_with_its_age(munge_socket: str) -> None:
    munge = Munge(munge_socket)
    credential = munge.encode(b"x", ttl_s=1)
    made = time.time()
    while time.time() < int(made) + 2.1:  # munge counts whole seconds, by a clock that may lag a few milliseconds
        time.sleep(0.02)
    with pytest.raises(AuthError, match=r"expired: made 2 s ago by this host's clock, valid for 1 s"):
        munge.decode(credential)


@pytest.mark.parametrize("socket", ["/nonexistent/socket", "/etc/passwd"])
def test_a_missing_munged_is_temporary_and_names_the_socket(socket: str) -> None:
    for call in (lambda: Munge(socket).encode(b""), lambda: Munge(socket).decode("MUNGE:AwQF:")):
        with pytest.raises(Temporary, match=socket):
            call()


@pytest.mark.parametrize("text", ["", "MUNGE:", "MUNGE:!!!!:", "MUNGE:AwQFAAA=:", "x" * 9000, "MUNGE:\x00AwQF:", "MUNGE:é:", "a\nb"])
def test_what_is_no_credential_is_refused(munge_socket: str, text: str) -> None:
    with pytest.raises(AuthError):
        Munge(munge_socket).decode(text)


def test_what_is_too_long_or_lives_too_long_is_not_encoded(munge_socket: str) -> None:
    with pytest.raises(AuthError, match="too long"):
        Munge(munge_socket).encode(b"x" * (MAX_PAYLOAD_BYTES + 1))
    for ttl_s in (0, -1, 3601):
        with pytest.raises(AuthError, match="life"):
            Munge(munge_socket).encode(b"x", ttl_s)


def test_a_foreign_payload_beyond_the_bound_is_refused(munge_socket: str, nobodys_credential: Callable[[bytes], str]) -> None:
    with pytest.raises(AuthError, match="payload of 5000 bytes"):
        Munge(munge_socket).decode(nobodys_credential(b"x" * 5000))


def test_error_numbers_are_those_of_the_installed_library() -> None:
    lib = ctypes.CDLL("libmunge.so.2")
    lib.munge_strerror.restype = ctypes.c_char_p
    words = {
        MungeStatus.SOCKET: "Socket communication error",
        MungeStatus.TIMEOUT: "Socket timeout",
        MungeStatus.INVALID: "Invalid credential",
        MungeStatus.EXPIRED: "Expired credential",
        MungeStatus.REWOUND: "Rewound credential",
        MungeStatus.REPLAYED: "Replayed credential",
        MungeStatus.UNAUTHORIZED: "Unauthorized credential",
    }
    assert {status: lib.munge_strerror(int(status)).decode() for status in words} == words


def test_every_status_has_its_error_and_skew_is_told_apart() -> None:
    rewound = fault(MungeStatus.REWOUND, "", "/s", (1100, 1000, 60))
    assert isinstance(rewound, ClockSkewError)
    assert "clock skew: the credential was made 100 s in the future" in str(rewound)
    errors = [fault(status, "said", "/s", (0, 0, 0)) for status in range(1, 20)]
    temporary = {status for status, error in enumerate(errors, start=1) if isinstance(error, Temporary)}
    assert temporary == {MungeStatus.INTERNAL, MungeStatus.NO_MEMORY, MungeStatus.SOCKET, MungeStatus.TIMEOUT}


def resident_kib() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


def test_threads_share_one_munge_and_no_memory_is_lost(munge_socket: str) -> None:
    munge = Munge(munge_socket)

    def both_ways(number: int) -> bool:
        payload = str(number).encode() * 400
        credential = munge.encode(payload)
        same = munge.decode(credential).payload == payload
        with pytest.raises(AuthError):  # the payload of a replayed credential is handed out as well, and must be freed
            munge.decode(credential)
        return same

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(both_ways, range(200)))
        before = resident_kib()
        assert all(pool.map(both_ways, range(1000)))
    assert resident_kib() - before < 2000  # 1000 lost payloads or credentials are more
