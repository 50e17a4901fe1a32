"""Whether a system answers right, before anything of it is timed.

A store that loses bytes is quick. Each is asked, over each dialect that is to be measured: what was put comes back, by every
size; its length and MD5 are right; an overwrite shows; a listing holds the name once; what was deleted is gone.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
from typing import BinaryIO, Final

from bench.dialects import Dialect
from bench.load import WrongAnswerError

CONTAINER: Final = "verify"
SIZES: Final = (0, 1, 4096, 65536, 1 << 20, 5 << 20)


class Answer:
    """A whole answer."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body


def verify(port: int, dialect: Dialect) -> None:
    """Raises WrongAnswerError."""
    _expect(ask(port, dialect.head("PUT", CONTAINER)), (200, 201, 202), "PUT of a container")
    for size_bytes in SIZES:
        for _ in range(2):
            _put_and_get(port, dialect, f"of-{size_bytes}", os.urandom(size_bytes))
    names = _listed(ask(port, dialect.head("GET", CONTAINER, query=dialect.page_query("", 1000))))
    expected = sorted(f"of-{size_bytes}" for size_bytes in SIZES)
    if names != expected:
        raise WrongAnswerError(f"{dialect.name}: the listing is {names}, not {expected}")
    for size_bytes in SIZES:
        _expect(ask(port, dialect.head("DELETE", CONTAINER, f"of-{size_bytes}")), (200, 204), "DELETE")
        _expect(ask(port, dialect.head("GET", CONTAINER, f"of-{size_bytes}")), (404,), "GET of what was deleted")


def _put_and_get(port: int, dialect: Dialect, name: str, data: bytes) -> None:
    head = dialect.head("PUT", CONTAINER, name, body_bytes=len(data))
    _expect(ask(port, head + data), (200, 201), "PUT")
    got = _expect(ask(port, dialect.head("GET", CONTAINER, name)), (200,), "GET")
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if got.body != data or got.headers.get("etag", "").strip('"') != md5:
        raise WrongAnswerError(
            f"{dialect.name}: {name} came back as other bytes or with ETag {got.headers.get('etag')}"
        )
    seen = _expect(ask(port, dialect.head("HEAD", CONTAINER, name), bodiless=True), (200,), "HEAD")
    if seen.headers.get("content-length") != str(len(data)):
        raise WrongAnswerError(f"{dialect.name}: HEAD of {name} says {seen.headers.get('content-length')} bytes")


def _listed(answer: Answer) -> list[str]:
    _expect(answer, (200,), "listing")
    if answer.body.lstrip().startswith(b"["):
        return [row["name"] for row in json.loads(answer.body)]
    return [name.decode() for name in re.findall(rb"<Key>([^<]*)</Key>", answer.body)]


def _expect(answer: Answer, statuses: tuple[int, ...], what: str) -> Answer:
    if answer.status not in statuses:
        raise WrongAnswerError(f"{what} was answered {answer.status}: {answer.body[:300]!r}")
    return answer


def ask(port: int, request: bytes, *, bodiless: bool = False) -> Answer:
    """One request on a connection of its own. Raises WrongAnswerError where there is no whole answer."""
    try:
        return _ask(port, request, bodiless=bodiless)
    except (OSError, IndexError, ValueError) as error:
        raise WrongAnswerError(f"{request[:80]!r} got no whole answer: {error!r}") from error


def _ask(port: int, request: bytes, *, bodiless: bool) -> Answer:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(request)
        with connection.makefile("rb") as file:
            status = int(file.readline().split()[1])
            headers: dict[str, str] = {}
            while line := file.readline().strip():
                name, _, value = line.decode("latin-1").partition(":")
                headers[name.lower()] = value.strip()
            if bodiless or status == 204:
                return Answer(status, headers, b"")
            if headers.get("transfer-encoding", "").lower() == "chunked":
                return Answer(status, headers, _chunks(file))
            return Answer(status, headers, file.read(int(headers.get("content-length", "0"))))


def _chunks(file: BinaryIO) -> bytes:
    pieces = []
    while length := int(file.readline().split(b";")[0], 16):
        pieces.append(file.read(length))
        file.readline()
    return b"".join(pieces)
