"""The aws-chunked coding: botocore's encoder, the published example, our own signed encoder, and every malformation."""

from __future__ import annotations

import hashlib
import hmac
import io
import itertools

import pytest
from botocore.httpchecksum import AwsChunkedWrapper, Crc32Checksum
from hypothesis import given
from hypothesis import strategies as st

from proxy.s3.chunked import AwsChunkedDecoder, ChunkEnd, ChunkSignatures, Event, Trailers
from proxy.s3.errors import S3Error
from proxy.s3.sigv4 import ChunkSigning, signing_key

SIGNING = ChunkSigning(signing_key("secret", "20130524", "us-east-1"), b"a" * 64, "20130524T000000Z", "scope")


def decode(body: bytes, length: int, signed: bool, cuts: list[int]) -> tuple[bytes, list[Event], Trailers]:
    """Feed a body in pieces cut at those places: payload, the other events, trailers."""
    decoder = AwsChunkedDecoder(length, signed)
    places = sorted({0, len(body), *(cut % (len(body) + 1) for cut in cuts)})
    events: list[Event] = []
    for start, stop in itertools.pairwise(places):
        events += decoder.feed(body[start:stop])
    payload = b"".join(event for event in events if isinstance(event, bytes))
    assert decoder.received == len(payload)
    return payload, [event for event in events if not isinstance(event, bytes)], decoder.end()


def sign_chunks(chunks: list[bytes], trailer: bytes, signing: ChunkSigning = SIGNING) -> bytes:
    """A body of signed chunks, encoded by the book; with a trailer line "name:value" its trailers are signed too."""
    previous = signing.seed_signature
    body = b""

    def sign(kind: bytes, rest: bytes) -> bytes:
        lines = (kind, signing.amz_date.encode(), signing.scope.encode(), previous, rest)
        return hmac.new(signing.signing_key, b"\n".join(lines), hashlib.sha256).hexdigest().encode()

    for chunk in (*chunks, b""):
        hashes = f"{hashlib.sha256(b'').hexdigest()}\n{hashlib.sha256(chunk).hexdigest()}"
        previous = sign(b"AWS4-HMAC-SHA256-PAYLOAD", hashes.encode())
        body += b"%x;chunk-signature=%b\r\n" % (len(chunk), previous) + (chunk + b"\r\n" if chunk else b"")
    if trailer:
        signature = sign(b"AWS4-HMAC-SHA256-TRAILER", hashlib.sha256(trailer + b"\n").hexdigest().encode())
        body += trailer + b"\r\nx-amz-trailer-signature:" + signature + b"\r\n"
    return body + b"\r\n"


def verify(events: list[Event], trailers: Trailers | None) -> None:
    """Run the chain of signatures over a body's events."""
    signatures = ChunkSignatures(SIGNING, "AK")
    for event in events:
        if isinstance(event, bytes):
            signatures.update(event)
        elif isinstance(event, ChunkEnd):
            signatures.end_chunk(event.signature)
    if trailers is not None:
        signatures.end(trailers)


@given(data=st.binary(max_size=300), chunk_size=st.integers(1, 100), cuts=st.lists(st.integers(0, 10_000), max_size=8))
def test_what_botocore_encodes_is_decoded(data: bytes, chunk_size: int, cuts: list[int]) -> None:
    """Any data, in any chunks, arriving in any pieces, with the checksum that botocore puts behind it."""
    wrapper = AwsChunkedWrapper(io.BytesIO(data), Crc32Checksum, "x-amz-checksum-crc32", chunk_size)
    payload, events, trailers = decode(wrapper.read(), len(data), False, cuts)
    checksum = Crc32Checksum()
    checksum.update(data)
    assert payload == data
    assert all(event == ChunkEnd(b"") for event in events)
    assert trailers == Trailers({b"x-amz-checksum-crc32": checksum.b64digest().encode()}, b"")


@given(
    sizes=st.lists(st.integers(8192, 9000), max_size=3),
    last=st.integers(0, 100),
    trailer=st.sampled_from([b"", b"x-amz-checksum-crc32:AAAAAA=="]),
    cuts=st.lists(st.integers(0, 40_000), max_size=8),
)
def test_signed_chunks_are_verified(sizes: list[int], last: int, trailer: bytes, cuts: list[int]) -> None:
    """Signed bodies with and without trailers, arriving in any pieces, have a whole chain of signatures."""
    chunks = [bytes([size % 251]) * size for size in (*sizes, last) if size]
    body = sign_chunks(chunks, trailer)
    decoder = AwsChunkedDecoder(sum(map(len, chunks)), True)
    places = sorted({0, len(body), *(cut % (len(body) + 1) for cut in cuts)})
    events: list[Event] = []
    for start, stop in itertools.pairwise(places):
        events += decoder.feed(body[start:stop])
    trailers = decoder.end()
    assert b"".join(event for event in events if isinstance(event, bytes)) == b"".join(chunks)
    verify(events, trailers if trailer else None)


def test_the_published_example() -> None:
    """The chunk signatures that the S3 API Reference works out are verified."""
    seed = b"4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"
    key = signing_key("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "20130524", "us-east-1")
    signing = ChunkSigning(key, seed, "20130524T000000Z", "20130524/us-east-1/s3/aws4_request")
    signatures = ChunkSignatures(signing, "AKIAIOSFODNN7EXAMPLE")
    signatures.update(b"a" * 65536)
    signatures.end_chunk(b"ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648")
    signatures.update(b"a" * 1024)
    signatures.end_chunk(b"0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497")
    signatures.end_chunk(b"b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9")


@pytest.mark.parametrize("place", ["payload", "signature", "order", "trailer", "trailer signature"])
def test_a_broken_chain_is_found(place: str) -> None:
    """A changed byte of payload, signature or trailer, or chunks in another order: SignatureDoesNotMatch."""
    first, second = b"1" * 8192, b"2" * 8192
    body = sign_chunks([first, second], b"x-amz-checksum-crc32:AAAAAA==")
    if place == "payload":
        body = body.replace(b"1" * 8192, b"1" * 8191 + b"3")
    elif place == "signature":
        index = body.index(b"signature=") + 10
        body = body[:index] + (b"0" if body[index] != 48 else b"1") + body[index + 1 :]
    elif place == "order":
        size = len(b"2000;chunk-signature=" + b"0" * 64 + b"\r\n") + 8192 + 2
        body = body[size : 2 * size] + body[:size] + body[2 * size :]
    elif place == "trailer":
        body = body.replace(b"AAAAAA==", b"BAAAAA==")
    else:
        body = body.replace(b"x-amz-trailer-signature:", b"x-amz-trailer-signature:0")
    _, _, trailers = decode(body, 16384, True, [])
    decoder = AwsChunkedDecoder(16384, True)
    events = decoder.feed(body)
    with pytest.raises(S3Error) as caught:
        verify(events, trailers)
    assert caught.value.code == "SignatureDoesNotMatch"
    assert caught.value.close


@pytest.mark.parametrize(
    "end",
    [
        b"\r\n",
        b"",
        b"x-amz-checksum-crc32:AAAAAA==\r\n\r\n",
        b"x-amz-checksum-crc32:AAAAAA==\n\r\n\r\n",
        b"X-Amz-Checksum-Crc32: AAAAAA== \r\n\r\n",
        b"x-amz-checksum-crc32:AAAAAA==\n\r\nx-amz-trailer-signature:" + b"0" * 64 + b"\r\n\r\n",
    ],
)
def test_every_client_ends_its_body_in_another_way(end: bytes) -> None:
    """Blank lines around trailers, bare line feeds, capitals, spaces: all that real clients send is understood."""
    _, _, trailers = decode(b"3\r\nabc\r\n0\r\n" + end, 3, False, [])
    assert trailers.headers == ({b"x-amz-checksum-crc32": b"AAAAAA=="} if len(end) > 2 else {})
    assert trailers.signature == (b"0" * 64 if b"signature" in end else b"")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "IncompleteBody"),
        (b"3\r\nab", "IncompleteBody"),
        (b"3\r\nabc", "IncompleteBody"),
        (b"3\r\nabc\r\n", "IncompleteBody"),
        (b"2\r\nab\r\n0\r\n\r\n", "IncompleteBody"),
        (b"4\r\nabcd\r\n0\r\n\r\n", "IncompleteBody"),
        (b"ffffffffffffff\r\nabc", "IncompleteBody"),
        (b"ffffffffffffffffffffff\r\nabc", "InvalidRequest"),
        (b"-3\r\nabc\r\n0\r\n\r\n", "InvalidRequest"),
        (b"0x3\r\nabc\r\n0\r\n\r\n", "InvalidRequest"),
        (b"3 \r\nabc\r\n0\r\n\r\n", "InvalidRequest"),
        (b"\r\nabc\r\n0\r\n\r\n", "InvalidRequest"),
        (b"3\nabc\r\n0\r\n\r\n", "InvalidRequest"),
        (b"3\r\nabcd\r\n0\r\n\r\n", "InvalidRequest"),
        (b"3;chunk-signature=00\r\nabc\r\n0\r\n\r\n", "InvalidRequest"),
        (b"3;" + b"x" * 2000, "InvalidRequest"),
        (b"3\r\nabc\r\n0\r\nnonsense\r\n\r\n", "MalformedTrailerError"),
        (b"3\r\nabc\r\n0\r\na:1\r\nA:2\r\n\r\n", "MalformedTrailerError"),
        (b"3\r\nabc\r\n0\r\na:\x00\r\n\r\n", "MalformedTrailerError"),
        (b"3\r\nabc\r\n0\r\n" + b"a:1\r\n" * 4000, "MalformedTrailerError"),
        (b"3\r\nabc\r\n0\r\n\r\n3\r\nabc\r\n", "MalformedTrailerError"),
        (b"raw bytes that were never framed", "IncompleteBody"),
    ],
)
def test_malformed_bodies(body: bytes, code: str) -> None:
    """Each malformation of a three-byte payload has its error, whether it comes at once or byte by byte."""
    for cuts in ([], list(range(len(body)))):
        with pytest.raises(S3Error) as caught:
            decode(body, 3, False, cuts)
        assert caught.value.code == code
        assert caught.value.close


def test_unsigned_chunks_where_signed_ones_are_due() -> None:
    """A chunk without a signature does not pass for a signed one."""
    with pytest.raises(S3Error, match="InvalidRequest"):
        AwsChunkedDecoder(3, True).feed(b"3\r\nabc\r\n")


def test_small_signed_chunks_are_refused() -> None:
    """Of signed chunks only the last may have less than 8 KiB."""
    body = sign_chunks([b"a" * 8191, b"b"], b"")
    with pytest.raises(S3Error) as caught:
        AwsChunkedDecoder(8192, True).feed(body)
    assert caught.value.code == "InvalidChunkSizeError"
