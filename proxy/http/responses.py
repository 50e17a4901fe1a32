"""The head of a response, as bytes; transaction ids; the Date header.

Problem: every response needs a date, a transaction id and framing headers, and none of them may cost microseconds. And a
dialect that puts a client's text into a header must not let it write headers of its own.

Idea: what changes once a second is made once a second. A finished head is checked as a whole: it must hold as many line
ends as it has lines, so that a CR or LF in any value is found by two scans, whoever put it there.

Invariants: framing is decided here alone (Content-Length, chunked, or the connection's end); a 1xx, 204 or 304 carries no
body and a 204 no Content-Length; HEAD is framed as the GET that it stands for, without a body.
"""

from __future__ import annotations

from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

from proxy.http.message import HeaderList, Response

STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}".encode() for status in HTTPStatus}
BODILESS: Final = frozenset((*range(100, 200), 204, 304))
"""Statuses whose responses have no body (RFC 9110, section 6.4.1)."""

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

COUNT_MIN: Final = 0x1000_0000
COUNT_MAX: Final = 0xFFFF_FFFF
"""Between these a number has eight hexadecimal digits without any formatting."""

COLON_JOIN: Final = b": ".join
CHUNKED_END: Final = b"0\r\n\r\n"


class HeaderInjection(ValueError):
    """A header's name or value holds a line end: our own bug, that a client tried to use."""


class Stamps:
    """The Date header's value and transaction ids: one of these per process.

    `clock` gives seconds since 1970; `random_bytes` so many random bytes. A transaction id is spelled as Swift spells it,
    `tx` + 21 hexadecimal digits - 10 hexadecimal digits of seconds since 1970; the first 13 of the 21 are drawn at random,
    the others count, so that no two of a process are alike and a reader can tell a process's requests by eye.
    """

    __slots__ = ("_clock", "_count", "_next_second", "_prefix", "_random_bytes", "_suffix", "lines")

    def __init__(self, clock: Callable[[], float], random_bytes: Callable[[int], bytes]) -> None:
        self._clock = clock
        self._random_bytes = random_bytes
        self._next_second = 0.0
        self._suffix = ""
        self._count = 0
        self._prefix = ""
        self.lines = b""
        """The Date header, and X-Trans-Id up to its value, as of the last transaction id."""
        self._draw_prefix()

    def _draw_prefix(self) -> None:
        self._prefix = "tx" + self._random_bytes(7).hex()[:13]
        self._count = COUNT_MIN + int.from_bytes(self._random_bytes(3), "big")

    def transaction_id(self) -> str:
        """A new id; also moves the date on."""
        now = self._clock()
        if not self._next_second - 1 <= now < self._next_second:
            second = int(now)
            self._next_second = float(second + 1)
            self._suffix = f"-{second & 0xFF_FFFF_FFFF:010x}"
            self.lines = f"Date: {formatdate(second, usegmt=True)}\r\nX-Trans-Id: ".encode()
        self._count += 1
        if self._count > COUNT_MAX:
            self._draw_prefix()
        return self._prefix + hex(self._count)[2:] + self._suffix


def has_header(headers: HeaderList, name: bytes) -> bool:
    """True: a header of that (lower-case) name is in the list."""
    return any(len(key) == len(name) and key.lower() == name for key, _ in headers)


def sends_body(method: str, status: int) -> bool:
    """False: the response has no body whatever it says of one (RFC 9110, section 6.4.1)."""
    return method != "HEAD" and status not in BODILESS


def framing(response: Response, method: str, is_http11: bool) -> bytes:
    """The header line that says how long the body is; b"" where there is none to send."""
    status = response.status
    length = response.length
    if status < 200 or status == 204:
        return b""
    if method == "HEAD" or status == 304:
        if length is None or (status == 304 and not length) or has_header(response.headers, b"content-length"):
            return b""
        return b"Content-Length: %d\r\n" % length
    if length is not None:
        return b"Content-Length: %d\r\n" % length
    return b"Transfer-Encoding: chunked\r\n" if is_http11 else b""


def render_head(
    response: Response, framing_line: bytes, connection_line: bytes, stamps: Stamps, transaction_id: str
) -> bytes:
    """A response's head, blank line included. Raises `HeaderInjection`."""
    headers = response.headers
    head = b"\r\n".join(
        [
            STATUS_LINES.get(response.status) or b"HTTP/1.1 %d Status" % response.status,
            *map(COLON_JOIN, headers),
            b"%b%b\r\n%b%b\r\n" % (stamps.lines, transaction_id.encode(), framing_line, connection_line),
        ]
    )
    line_count = len(headers) + 4 + (framing_line != b"") + (connection_line != b"")
    if head.count(b"\n") != line_count or head.count(b"\r") != line_count:
        raise HeaderInjection("a line end in a response header")
    return head


def render_last(response: Response, stamps: Stamps, transaction_id: str) -> bytes:
    """A whole response that is the last of its connection. Its body must be bytes; a stream is left out."""
    body = response.body if isinstance(response.body, (bytes, memoryview)) else b""
    length_line = b"Content-Length: %d\r\n" % len(body)
    return render_head(response, length_line, b"Connection: close\r\n", stamps, transaction_id) + body
