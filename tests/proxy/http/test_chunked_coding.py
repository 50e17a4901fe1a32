"""Chunked transfer coding: round trips in any pieces, and every malformation."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.http.chunked_coding import SIZE_LINE_BYTES_MAX, TRAILER_BYTES_MAX, ChunkedDecoder
from proxy.http.message import BodyTooLarge, MalformedBody

BODY_MAX = 10_000


def decode(body: bytes, cuts: list[int]) -> tuple[bytes, ChunkedDecoder]:
    """Feed a body cut at those places."""
    decoder = ChunkedDecoder(BODY_MAX)
    places = sorted({0, len(body), *(cut % (len(body) + 1) for cut in cuts)})
    payload = b"".join(decoder.feed(body[start:stop]) for start, stop in itertools.pairwise(places))
    return payload, decoder


@given(
    chunks=st.lists(st.binary(min_size=1, max_size=60), max_size=6),
    end=st.sampled_from([b"0\r\n\r\n", b"000\r\n\r\n", b"0;last\r\nX-T: a\r\nY:\r\n\r\n"]),
    extension=st.sampled_from([b"", b";a=b", b" ; a", b';q="x y"']),
    rest=st.binary(max_size=20),
    cuts=st.lists(st.integers(0, 1000), max_size=10),
)
def test_any_chunks_in_any_pieces(
    chunks: list[bytes], end: bytes, extension: bytes, rest: bytes, cuts: list[int]
) -> None:
    """The payload comes out whole, and what follows the body is left for the next request."""
    body = b"".join(b"%X%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks) + end
    payload, decoder = decode(body + rest, cuts)
    assert payload == b"".join(chunks)
    assert decoder.done
    assert decoder.rest == rest


def test_payload_can_be_taken_around_the_decoder() -> None:
    """In the midst of a chunk the caller may take payload itself and say how much."""
    decoder = ChunkedDecoder(BODY_MAX)
    assert decoder.feed(b"a\r\nabc") == b"abc"
    assert decoder.payload_left == 7
    decoder.skip(5)
    decoder.skip(2)
    assert decoder.payload_left == 0
    assert decoder.feed(b"\r\n0\r\n\r\n") == b""
    assert decoder.done


@pytest.mark.parametrize(
    "body",
    [
        b"\r\n",
        b"g\r\n",
        b"-1\r\n",
        b"+1\r\n",
        b"0x1\r\n",
        b" 1\r\na\r\n",
        b"1\na\n",
        b"1\r\nab",
        b"1\r\na\n",
        b"1\r\na\r\r",
        b"1;\x00\r\n",
        b"1 2\r\n",
        b"1,2\r\n",
        b"1234567890abcdef\r\n",
        b"1;" + b"a" * SIZE_LINE_BYTES_MAX + b"\r\n",
        b"1;" + b"a" * SIZE_LINE_BYTES_MAX,
        b"0\r\nno colon\r\n\r\n",
        b"0\r\n: no name\r\n\r\n",
        b"0\r\nX: \x00\r\n\r\n",
        b"0\r\nX: a\n\r\n",
        b"0\r\n folded\r\n\r\n",
        b"0\r\nX: " + b"a" * TRAILER_BYTES_MAX,
        b"0\r\n" + b"X: a\r\n" * TRAILER_BYTES_MAX,
    ],
    ids=lambda body: str(body)[:40],
)
def test_malformed_framing(body: bytes) -> None:
    """Found whether it comes at once or byte by byte."""
    for cuts in ([], list(range(min(len(body), 2000)))):
        with pytest.raises(MalformedBody):
            decode(body, cuts)


def test_bodies_that_are_too_large() -> None:
    """The sum of the chunks is bounded, and found out by sizes alone."""
    decoder = ChunkedDecoder(BODY_MAX)
    decoder.feed(b"%x\r\n" % BODY_MAX)
    decoder.skip(BODY_MAX)
    with pytest.raises(BodyTooLarge):
        decoder.feed(b"\r\n1\r\n")
    with pytest.raises(BodyTooLarge):
        ChunkedDecoder(BODY_MAX).feed(b"fffffffffffffff\r\n")


@given(st.binary(max_size=100), st.lists(st.integers(0, 100), max_size=5))
def test_noise(noise: bytes, cuts: list[int]) -> None:
    """Any bytes are payload, an error, or not done yet."""
    try:
        payload, decoder = decode(noise, cuts)
    except (MalformedBody, BodyTooLarge):
        return
    assert len(payload) <= len(noise)
    assert decoder.done or not decoder.rest or len(decoder.rest) <= len(noise)
