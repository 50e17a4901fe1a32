"""Response heads, dates and transaction ids."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.http.message import Response
from proxy.http.responses import HeaderInjection, Stamps, framing, render_head, render_last
from tests.proxy.http.serving import Pieces


class Clock:
    """A clock that stands where it is put."""

    def __init__(self, now_s: float) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


def stamps(clock: Clock) -> Stamps:
    """Stamps without chance."""
    return Stamps(clock, lambda size_bytes: b"\xab" * size_bytes)


def test_transaction_ids_are_spelled_as_swift_spells_them() -> None:
    """tx, 21 hexadecimal digits, a dash, ten digits of the time; all different."""
    clock = Clock(1_700_000_000.7)
    made = stamps(clock)
    ids = {made.transaction_id() for _ in range(1000)}
    assert len(ids) == 1000
    for transaction_id in ids:
        assert re.fullmatch(r"tx[0-9a-f]{21}-[0-9a-f]{10}", transaction_id)
        assert int(transaction_id[-10:], 16) == 1_700_000_000


def test_the_date_moves_with_the_clock() -> None:
    """Once a second forward, and backward when the clock is set back."""
    clock = Clock(1_700_000_000.9)
    made = stamps(clock)
    for now_s, text in (
        (1_700_000_000.9, b"Tue, 14 Nov 2023 22:13:20 GMT"),
        (1_700_000_001.0, b"Tue, 14 Nov 2023 22:13:21 GMT"),
        (1_700_000_001.9, b"Tue, 14 Nov 2023 22:13:21 GMT"),
        (1_600_000_000.0, b"Sun, 13 Sep 2020 12:26:40 GMT"),
    ):
        clock.now_s = now_s
        made.transaction_id()
        assert b"Date: " + text + b"\r\n" in made.lines


@pytest.mark.parametrize("bad", [b"a\r\nb", b"a\nb", b"a\rb", b"\r\n", b"\n", b"a\r"])
def test_line_ends_in_headers_are_found(bad: bytes) -> None:
    """In values and in names."""
    made = stamps(Clock(0.0))
    for header in ((b"x-a", bad), (bad, b"x")):
        with pytest.raises(HeaderInjection):
            render_head(Response(200, [header, (b"x-b", b"c")]), b"", b"", made, made.transaction_id())


@given(
    headers=st.lists(st.tuples(st.binary(min_size=1, max_size=8), st.binary(max_size=8)), max_size=4),
    framing_line=st.sampled_from([b"", b"Content-Length: 3\r\n"]),
)
def test_a_head_has_the_lines_it_was_given(headers: list[tuple[bytes, bytes]], framing_line: bytes) -> None:
    """It is split into just those lines by any reader, or refused."""
    made = stamps(Clock(0.0))
    try:
        head = render_head(Response(299, headers), framing_line, b"", made, made.transaction_id())
    except HeaderInjection:
        assert any(end in part for header in headers for part in header for end in (b"\r", b"\n"))
        return
    lines = head.split(b"\r\n")
    assert lines[0].startswith(b"HTTP/1.1 299 ")
    assert lines[1 : 1 + len(headers)] == [name + b": " + value for name, value in headers]
    assert len(lines) == 1 + len(headers) + 2 + (framing_line != b"") + 2
    assert lines[-2:] == [b"", b""]


@pytest.mark.parametrize(
    ("response", "method", "is_http11", "line"),
    [
        (Response(200, [], b"abc"), "GET", True, b"Content-Length: 3\r\n"),
        (Response(200, [], b"abc"), "HEAD", True, b"Content-Length: 3\r\n"),
        (Response(200, [(b"CONTENT-LENGTH", b"9")]), "HEAD", True, b""),
        (Response(200, [], Pieces([]), 7), "GET", True, b"Content-Length: 7\r\n"),
        (Response(200, [], Pieces([])), "GET", True, b"Transfer-Encoding: chunked\r\n"),
        (Response(200, [], Pieces([])), "GET", False, b""),
        (Response(200, [], Pieces([])), "HEAD", True, b""),
        (Response(204, []), "GET", True, b""),
        (Response(304, []), "GET", True, b""),
        (Response(404, []), "GET", True, b"Content-Length: 0\r\n"),
    ],
)
def test_framing(response: Response, method: str, is_http11: bool, line: bytes) -> None:
    """Length where it is known, chunks where it is not, nothing where there is no body."""
    assert framing(response, method, is_http11) == line


def test_a_last_response() -> None:
    """A whole response that says that it is the last."""
    made = stamps(Clock(0.0))
    text = render_last(Response(400, [], b"bad"), made, made.transaction_id())
    assert text.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert text.endswith(b"Content-Length: 3\r\nConnection: close\r\n\r\nbad")
