"""Heads: what is read from good ones, and the status of every bad one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.http.head import HeadParser, HttpError, RequestHead, check_partial
from proxy.http.limits import HttpLimits

LIMITS = HttpLimits()


def head_of(*lines: bytes) -> bytes:
    """A head of these lines."""
    return b"\r\n".join((*lines, b"", b""))


def parse(head: bytes, limits: HttpLimits = LIMITS) -> RequestHead:
    """By a parser of its own."""
    return HeadParser(limits).parse(head)


def test_a_plain_head() -> None:
    """Method, target, headers (lower-case names, trimmed values), framing."""
    head = parse(
        head_of(b"PUT /a%20b?c=%2f HTTP/1.1", b"Host: h", b"X-Empty:", b"X-Spaces: \t a  b \t ", b"Content-Length: 07")
    )
    assert head.method == "PUT"
    assert head.target == b"/a%20b?c=%2f"
    assert head.headers == {b"host": b"h", b"x-empty": b"", b"x-spaces": b"a  b", b"content-length": b"07"}
    assert (head.keep_alive, head.is_http11, head.content_length, head.chunked) == (True, True, 7, False)
    assert not head.expects_continue


def test_repeated_headers_are_joined() -> None:
    """In their order, with a comma."""
    head = parse(head_of(b"GET / HTTP/1.1", b"Host: h", b"X-A: 1", b"x-a: 2", b"X-A: 3"))
    assert head.headers[b"x-a"] == b"1, 2, 3"


@pytest.mark.parametrize(
    "method", ["GET", "HEAD", "PUT", "POST", "DELETE", "COPY", "OPTIONS", "PATCH", "PROPFIND", "M-SEARCH"]
)
def test_methods(method: str) -> None:
    """All that llhttp knows pass; the dialects decide."""
    assert parse(head_of(method.encode() + b" / HTTP/1.1", b"Host: h")).method == method


BAD: list[tuple[int, bytes]] = [
    # Request lines.
    (400, head_of(b"")),
    (400, head_of(b"GET")),
    (400, head_of(b"GET /a b HTTP/1.1", b"Host: h")),
    (400, head_of(b"GET / HTTP/1.1 ", b"Host: h")),
    (400, head_of(b"GET /\x00 HTTP/1.1", b"Host: h")),
    (400, head_of(b"GET /\x7f HTTP/1.1", b"Host: h")),
    (400, head_of(b"GET a HTTP/1.1", b"Host: h")),
    (400, head_of(b"GET * HTTP/1.1", b"Host: h")),
    (400, head_of(b"GET ftp://x/ HTTP/1.1", b"Host: h")),
    (400, head_of(b"GET http:///x HTTP/1.1", b"Host: h")),
    (400, head_of(b"G\x00T / HTTP/1.1", b"Host: h")),
    (400, head_of(b"{} / HTTP/1.1", b"Host: h")),
    (400, head_of(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc")),
    (400, head_of(b"GET / RTSP/1.0", b"Host: h")),
    (400, head_of(b"DESCRIBE rtsp://x RTSP/1.0", b"Host: h")),
    (501, head_of(b"FOO / HTTP/1.1", b"Host: h")),
    (501, head_of(b"get / HTTP/1.1", b"Host: h")),
    (501, head_of(b"CONNECT h:80 HTTP/1.1", b"Host: h")),
    # Versions.
    (400, head_of(b"GET /")),
    (505, head_of(b"GET / HTTP/0.9", b"Host: h")),
    (505, head_of(b"GET / HTTP/1.2", b"Host: h")),
    (505, head_of(b"GET / HTTP/2.0", b"Host: h")),
    (505, head_of(b"GET / HTTP/9.9", b"Host: h")),
    (505, head_of(b"PRI * HTTP/2.0")),
    # Header syntax.
    (400, head_of(b"GET / HTTP/1.1", b"Host: h", b"no colon")),
    (400, head_of(b"GET / HTTP/1.1", b"Host: h", b": no name")),
    (400, head_of(b"GET / HTTP/1.1", b"Host: h", b"X-A : space before the colon")),
    (400, head_of(b"GET / HTTP/1.1", b"Host: h", b"X A: space in the name")),
    (400, head_of(b"GET / HTTP/1.1", b"Host: h", b"X\xc3\xa9: not ASCII")),
    (400, head_of(b"GET / HTTP/1.1", b"Host: h", b"X\x00: NUL")),
    (400, head_of(b"GET / HTTP/1.1", b"Host: h", b"X: NUL \x00")),
    (400, head_of(b"GET / HTTP/1.1", b"Host: h", b"X: control \x01")),
    (400, head_of(b"GET / HTTP/1.1", b"Host: h", b"X: DEL \x7f")),
    (400, head_of(b"GET / HTTP/1.1", b"Host: h", b"X: bare \r return")),
    (400, head_of(b"GET / HTTP/1.1", b"Host: h", b"X: bare \n feed")),
    (400, head_of(b"GET / HTTP/1.1", b"Host: h", b"X: folded", b" line")),
    (400, head_of(b"GET / HTTP/1.1", b" Host: h")),
    # Headers that must be there, or be there once.
    (400, head_of(b"GET / HTTP/1.1")),
    (400, head_of(b"GET / HTTP/1.1", b"Host: a", b"Host: b")),
    (400, head_of(b"GET / HTTP/1.1", b"Host: a", b"Authorization: x", b"authorization: y")),
    (400, head_of(b"GET / HTTP/1.1", b"Host: a", b"Range: bytes=0-1", b"Range: bytes=2-3")),
    (400, head_of(b"GET / HTTP/1.1", b"Host: a", b"Content-MD5: x", b"Content-MD5: x")),
    # Framing.
    (400, head_of(b"PUT / HTTP/1.1", b"Host: h", b"Content-Length: 3", b"Content-Length: 4")),
    (400, head_of(b"PUT / HTTP/1.1", b"Host: h", b"Content-Length: 3", b"Content-Length: 3")),
    (400, head_of(b"PUT / HTTP/1.1", b"Host: h", b"Content-Length: 3, 3")),
    (400, head_of(b"PUT / HTTP/1.1", b"Host: h", b"Content-Length: -3")),
    (400, head_of(b"PUT / HTTP/1.1", b"Host: h", b"Content-Length: +3")),
    (400, head_of(b"PUT / HTTP/1.1", b"Host: h", b"Content-Length: 0x3")),
    (400, head_of(b"PUT / HTTP/1.1", b"Host: h", b"Content-Length: 3.0")),
    (400, head_of(b"PUT / HTTP/1.1", b"Host: h", b"Content-Length: three")),
    (400, head_of(b"PUT / HTTP/1.1", b"Host: h", b"Content-Length:")),
    (400, head_of(b"PUT / HTTP/1.1", b"Host: h", b"Content-Length: 99999999999999999999")),
    (413, head_of(b"PUT / HTTP/1.1", b"Host: h", b"Content-Length: 9999999999999999999")),
    (413, head_of(b"PUT / HTTP/1.1", b"Host: h", b"Content-Length: %d" % (LIMITS.body_bytes_max + 1))),
    (400, head_of(b"PUT / HTTP/1.1", b"Host: h", b"Content-Length: 3", b"Transfer-Encoding: chunked")),
    (400, head_of(b"PUT / HTTP/1.1", b"Host: h", b"Transfer-Encoding: chunked", b"Content-Length: 3")),
    (400, head_of(b"PUT / HTTP/1.1", b"Host: h", b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked")),
    (400, head_of(b"PUT / HTTP/1.1", b"Host: h", b"Transfer-Encoding: chunked, identity")),
    (400, head_of(b"PUT / HTTP/1.0", b"Host: h", b"Transfer-Encoding: chunked")),
    (501, head_of(b"PUT / HTTP/1.1", b"Host: h", b"Transfer-Encoding: gzip, chunked")),
    (501, head_of(b"PUT / HTTP/1.1", b"Host: h", b"Transfer-Encoding: gzip")),
    (501, head_of(b"PUT / HTTP/1.1", b"Host: h", b"Transfer-Encoding: xchunked")),
    (417, head_of(b"PUT / HTTP/1.1", b"Host: h", b"Expect: 200-ok", b"Content-Length: 3")),
    # Limits.
    (414, head_of(b"GET /" + b"a" * LIMITS.request_line_bytes_max + b" HTTP/1.1", b"Host: h")),
    (431, head_of(b"GET / HTTP/1.1", b"Host: h", b"X: " + b"a" * LIMITS.header_bytes_max)),
    (431, head_of(b"GET / HTTP/1.1", b"Host: h", *[b"X-%d: a" % number for number in range(LIMITS.header_count_max)])),
    (431, head_of(b"GET / HTTP/1.1", b"Host: h", *[b"X: a" for _ in range(LIMITS.header_count_max)])),
    (431, head_of(b"GET / HTTP/1.1", b"Host: h", *[b"X-%d: " % n + b"a" * 10_000 for n in range(7)])),
]


@pytest.mark.parametrize(("status", "head"), BAD, ids=lambda value: str(value)[:60])
def test_bad_heads(status: int, head: bytes) -> None:
    """Each has its status and a short message in one line; the parser then takes the next head as if nothing had been."""
    parser = HeadParser(LIMITS)
    with pytest.raises(HttpError) as caught:
        parser.parse(head)
    assert caught.value.status == status
    assert 10 < len(caught.value.message) < 200
    assert caught.value.message.isprintable()
    assert parser.parse(head_of(b"GET /next HTTP/1.1", b"Host: h")).target == b"/next"


def test_heads_at_the_limits() -> None:
    """What is as long or as many as allowed passes."""
    line = b"GET /" + b"a" * (LIMITS.request_line_bytes_max - 14) + b" HTTP/1.1"
    assert len(line) == LIMITS.request_line_bytes_max
    value = b"X: " + b"a" * (LIMITS.header_bytes_max - 3)
    assert len(parse(head_of(line, b"Host: h", value)).headers) == 2
    names = [b"X-%d: a" % number for number in range(LIMITS.header_count_max - 1)]
    assert len(parse(head_of(b"GET / HTTP/1.1", b"Host: h", *names)).headers) == LIMITS.header_count_max
    body = b"Content-Length: %d" % LIMITS.body_bytes_max
    assert parse(head_of(b"PUT / HTTP/1.1", b"Host: h", body)).content_length == LIMITS.body_bytes_max


@pytest.mark.parametrize(
    ("status", "partial"),
    [
        (400, b"\x16\x03\x01\x02\x00"),
        (400, b"GET / HTTP/1.1\nHost: h\n\n"),
        (400, b"GET / HTTP/1.1\r\nHost: h\n"),
        (400, b"\x00\x00\x00"),
        (400, b"nonsense without end" * 3),
        (400, b"a" * 40),
        (400, b"GET /\x00"),
        (414, b"GET /" + b"a" * LIMITS.request_line_bytes_max),
        (431, b"GET / HTTP/1.1\r\nX: " + b"a" * LIMITS.header_bytes_max),
        (431, b"GET / HTTP/1.1\r\n" + b"X: aaaaaaaaaa\r\n" * 6000),
    ],
    ids=lambda value: str(value)[:40],
)
def test_hopeless_beginnings_are_not_waited_for(status: int, partial: bytes) -> None:
    """What can't become a good head is refused before it ends."""
    if partial == b"nonsense without end" * 3:
        partial = partial.replace(b" ", b"\x01")
    with pytest.raises(HttpError) as caught:
        check_partial(partial, LIMITS)
    assert caught.value.status == status


@given(st.integers(1, 60))
def test_good_beginnings_are_waited_for(size_bytes: int) -> None:
    """No beginning of a good head is refused."""
    head = head_of(b"PROPFIND /a?b=c HTTP/1.1", b"Host: h", b"X-Long: " + b"a" * 30)
    check_partial(head[: min(size_bytes, len(head) - 4)], LIMITS)


@given(st.binary(max_size=200))
def test_no_bytes_are_too_much_for_the_parser(noise: bytes) -> None:
    """Whatever comes is a head or an HttpError, and the parser is none the worse."""
    parser = HeadParser(LIMITS)
    for head in (
        noise + b"\r\n\r\n",
        b"GET " + noise + b" HTTP/1.1\r\nHost: h\r\n\r\n",
        head_of(b"GET / HTTP/1.1", noise),
    ):
        whole = head[: head.find(b"\r\n\r\n") + 4]
        status = 0
        try:
            parsed = parser.parse(whole)
        except HttpError as error:
            status = error.status
        if status:
            assert status in (400, 413, 414, 417, 431, 501, 505)
        else:
            assert parsed.target.startswith(b"/")
            assert not (parsed.chunked and parsed.content_length is not None)
    assert parser.parse(head_of(b"GET /next HTTP/1.1", b"Host: h")).target == b"/next"


def test_limits_are_checked_at_construction() -> None:
    """Limits that no request could meet are refused."""
    with pytest.raises(ValueError, match="head_s"):
        HttpLimits(head_s=0)
    with pytest.raises(ValueError, match="head_bytes_max"):
        HttpLimits(head_bytes_max=1000)
