"""The load generator tells what it saw, whatever the run."""

from __future__ import annotations

import re
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from bench.bodies import BLOCK_BYTES
from bench.load import WrongAnswerError, run_plan, send_each
from bench.plan import Plan
from bench.systems.base import free_port

STAMP = re.compile(rb"[0-9a-f]{16}")
pytestmark = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed (Debian: wrk)")
ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"


@pytest.fixture
def address() -> Iterator[str]:
    """A server that answers every request the same, one connection after the other."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    while True:
                        try:
                            heads = connection.recv(65536).count(b"\r\n\r\n")
                            if not heads:
                                break
                            connection.sendall(ANSWER * heads)
                        except OSError:
                            break

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_a_run_whose_names_end_early_is_timed_to_their_end(address: str) -> None:
    """Fifty names take milliseconds, so that a run of a second must not count as one."""
    heads = [b"DELETE /v1/a/c/o%d HTTP/1.1\r\nHost: bench\r\n\r\n" % number for number in range(50)]
    seen = run_plan(address, Plan(heads, [False] * 50, 0, once=True), connections=1, seconds=1.0)
    assert 45 <= seen.requests <= 50
    assert 0 < seen.seconds < 1.0
    assert not seen.errors


def test_a_run_without_end_takes_its_time(address: str) -> None:
    """Names that may be used again are used until the time is over."""
    head = b"GET /v1/a/c/o HTTP/1.1\r\nHost: bench\r\n\r\n"
    seen = run_plan(address, Plan([head], [False], 0, once=False), connections=1, seconds=1.0)
    assert seen.seconds >= 1.0
    assert seen.requests > 50


@pytest.mark.parametrize("size_bytes", [0, 7, 4096, 65536, BLOCK_BYTES, 2 * BLOCK_BYTES + 7])
def test_each_put_carries_a_body_of_its_own(size_bytes: int) -> None:
    """Bodies have the announced length; each block of each begins with a stamp that no other has."""
    head = b"PUT /c/o HTTP/1.1\r\nHost: bench\r\nContent-Length: %d\r\n\r\n" % size_bytes
    seen: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=keep_bodies, args=(listener, size_bytes, seen))
        server.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        run_plan(url, Plan([head] * 5, [True] * 5, size_bytes, once=True), connections=1, seconds=1.0)
        listener.shutdown(socket.SHUT_RDWR)
    server.join()
    # The last of a run that uses each name once may come twice.
    blocks = [body[start : start + BLOCK_BYTES] for body in seen[:3] for start in range(0, size_bytes, BLOCK_BYTES)]
    assert len(seen) >= 3
    whole = [block[:16] for block in blocks if len(block) >= 16]
    assert all(STAMP.fullmatch(stamp) for stamp in whole)
    assert len(set(whole)) == len(whole)


def keep_bodies(listener: socket.socket, size_bytes: int, seen: list[bytes]) -> None:
    """Answer PUTs of one size, one connection after the other, and keep what they carried."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection, connection.makefile("rb") as file, suppress(OSError):
            while file.readline():
                while file.readline().strip():
                    pass
                body = file.read(size_bytes)
                if len(body) < size_bytes:
                    break
                seen.append(body)
                connection.sendall(ANSWER)


def test_a_refused_filling_is_a_wrong_answer() -> None:
    """One error, not a group of them: it is that system's problem and not the end of the run."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        refusal = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"

        def refuse() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(65536)
                        connection.sendall(refusal)

        server = threading.Thread(target=refuse)
        server.start()
        with pytest.raises(WrongAnswerError, match="503"):
            send_each(listener.getsockname()[1], [b"PUT /a HTTP/1.1\r\n\r\n"] * 3, connections=2)
        listener.shutdown(socket.SHUT_RDWR)
    server.join()


def test_filling_what_is_not_there_is_a_wrong_answer() -> None:
    """A system that died is that system's problem."""
    with pytest.raises(WrongAnswerError, match="connection broke"):
        send_each(free_port(), [b"PUT /a HTTP/1.1\r\n\r\n"])
