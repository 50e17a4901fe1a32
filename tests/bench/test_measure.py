"""The comparison: what systems are asked, and what becomes of those that cannot be asked it."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from bench import measure
from bench.load import NothingAnsweredError, Result
from bench.measure import Run, Subject, compare
from bench.systems.base import NotSupported, S3Access, System
from bench.workloads import Names, Workload, in_s3

GET: Workload = Workload("GET 4 KiB (2)", "GET", 2, 4096, Names("read", 20, 4096))


class SmallStore(System):
    """A system in this process that speaks enough of S3: PUT, GET, and a listing's first page."""

    name = "small"
    version = "1"

    def start(self) -> None:
        """Answer on the port."""
        objects: dict[str, bytes] = {}

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_PUT(self) -> None:
                objects[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
                self._answer(b"")

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                if parts.query:
                    count = int(parse_qs(parts.query)["max-keys"][0])
                    names = sorted(path.rpartition("/")[2] for path in objects if path.startswith(parts.path + "/"))
                    self._answer("".join(f"<Key>{name}</Key>" for name in names[:count]).encode())
                else:
                    self._answer(objects[self.path])

            def _answer(self, body: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self.objects = objects
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.s3 = S3Access("key", "secret")

    def stop(self) -> None:
        """Answer no longer."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SmallStore]:
    """One that runs."""
    system = SmallStore(tmp_path)
    with system:
        yield system


def test_names_of_a_listing_are_put_one_by_one_where_there_is_no_other_way(store: SmallStore) -> None:
    """All of them, once, though the system has no way to make them in bulk."""
    Subject(store).prepare(Workload("page", "LIST", 1, listed=2_500, dialect="s3"))
    names = [path.rpartition("/")[2] for path in store.objects if path.startswith("/list-2500/")]
    assert sorted(names) == [f"n{number:08d}" for number in range(2_500)]


def test_names_that_would_take_too_long_are_not_put(store: SmallStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The workload is left out, with how long it would have taken, when the first of them are there."""
    monkeypatch.setattr(measure, "LISTED_BY_REQUESTS_S_MAX", 0.0)
    with pytest.raises(NotSupported, match="100,000 would take"):
        Subject(store).prepare(Workload("page", "LIST", 1, listed=100_000, dialect="s3"))
    assert len(store.objects) < 100_000


class SlowSubject(Subject):
    """Answers its first request after five seconds, on a clock of its own."""

    def run(self, workload: Workload, seconds: float) -> Run:
        """See Subject."""
        if seconds < 5:
            raise NothingAnsweredError("nothing yet")
        return Run(Result(1, seconds, 1, 0, 5e3, 5e3, 5e3, 5e3, 0.0), 1.0, None)


@pytest.mark.parametrize(("seconds", "problem"), [(10.0, ""), (3.0, "nothing yet")])
def test_a_warm_up_too_short_for_an_answer_leaves_nobody_out(store: SmallStore, seconds: float, problem: str) -> None:
    """What counts is whether the counted run sees one."""
    found = compare([SlowSubject(store)], [in_s3(GET)], seconds=seconds, rounds=1)
    series = found["S3 GET 4 KiB (2)"]["small"]
    assert series.problem == problem
    assert len(series.runs) == (not problem)


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed (Debian: wrk)")
def test_who_speaks_s3_alone_is_measured_in_s3(store: SmallStore) -> None:
    """And the row in Swift's dialect says where to look."""
    found = compare([Subject(store)], [GET], seconds=1.0, rounds=1)
    assert list(found) == ["GET 4 KiB (2)", "S3 GET 4 KiB (2)"]
    assert found["GET 4 KiB (2)"]["small"].problem == "it speaks S3 alone; see S3 GET 4 KiB (2)"
    figures = found["S3 GET 4 KiB (2)"]["small"].summary()
    assert figures["dialect"] == "s3"
    assert figures["rate_per_s"] > 0
    assert not figures["errors"]
