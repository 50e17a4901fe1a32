"""The load generator tells what it saw, whatever the run."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Iterator

import pytest

from bench.load import run_plan
from bench.plan import Plan

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
