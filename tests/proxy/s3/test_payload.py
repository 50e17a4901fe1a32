"""Payloads: what a client announces of its body is verified, whole and in any pieces, before the last piece is out."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterator

import pytest
from botocore.httpchecksum import AwsChunkedWrapper, Crc32Checksum

from proxy import checksums
from proxy.checksums import S3_ALGORITHMS, HashPool
from proxy.http.message import ClientDisconnected
from proxy.s3.errors import S3Error
from proxy.s3.payload import Payload, open_payload
from proxy.s3.sigv4 import (
    STREAMING_SIGNED,
    STREAMING_SIGNED_TRAILER,
    STREAMING_UNSIGNED_TRAILER,
    UNSIGNED,
)
from tests.proxy.s3.test_chunked import SIGNING, sign_chunks

DATA = bytes(range(256)) * 1024
"""256 KiB: large enough for the threads."""


class Body:
    """A body that arrives in given pieces (a `BodyReader`)."""

    def __init__(self, data: bytes, piece_bytes: int, length: int | None) -> None:
        self._pieces = [data[start : start + piece_bytes] for start in range(0, len(data), piece_bytes)]
        self.length = length

    async def read(self) -> bytes:
        """The next piece."""
        return self._pieces.pop(0) if self._pieces else b""


@pytest.fixture(scope="module")
def pool() -> Iterator[HashPool]:
    """Threads for all tests of the module."""
    pool = HashPool()
    yield pool
    pool.close()


def payload_of(
    pool: HashPool, data: bytes, kind: str, headers: dict[bytes, bytes], piece_bytes: int = 100_000, compute: str = ""
) -> Payload:
    """A payload with a Content-Length."""
    body = Body(data, piece_bytes, len(data))
    return open_payload(body, headers, kind, SIGNING, "AK", pool, compute=compute)


async def read_all(payload: Payload) -> bytes:
    """To its end, and a little further."""
    pieces = []
    while piece := await payload.read():
        pieces.append(piece)
    assert await payload.read() == b""
    return b"".join(pieces)


async def error_of(payload: Payload) -> tuple[S3Error, int]:
    """What reading raises, and raises again; and how much came before."""
    received = 0

    async def read() -> None:
        nonlocal received
        while piece := await payload.read():
            received += len(piece)

    with pytest.raises(S3Error) as caught:
        await read()
    with pytest.raises(S3Error) as again:
        await payload.read()
    assert again.value is caught.value
    return caught.value, received


def b64(algorithm: str, data: bytes) -> bytes:
    """The header form of a checksum."""
    return base64.b64encode(checksums.digest(algorithm, data))


@pytest.mark.parametrize("piece_bytes", [1000, 65536, 10**6])
@pytest.mark.parametrize("algorithm", S3_ALGORITHMS)
async def test_checksum_in_a_header(pool: HashPool, algorithm: str, piece_bytes: int) -> None:
    """A right checksum passes and is remembered; a wrong one is a BadDigest before the last piece is out."""
    name = b"x-amz-checksum-" + algorithm.encode()
    headers = {name: b64(algorithm, DATA), b"x-amz-sdk-checksum-algorithm": algorithm.upper().encode()}
    payload = payload_of(pool, DATA, UNSIGNED, headers, piece_bytes)
    assert payload.late_metadata() == {}
    assert await read_all(payload) == DATA
    expected = {f"checksum:{algorithm}": b64(algorithm, DATA).decode(), "checksum:type": "FULL_OBJECT"}
    assert payload.late_metadata() == expected
    error, received = await error_of(payload_of(pool, DATA + b"!", UNSIGNED, headers, piece_bytes))
    assert error.code == "BadDigest"
    assert received < len(DATA) + 1


@pytest.mark.parametrize("piece_bytes", [1000, 10**6])
async def test_signed_sha256(pool: HashPool, piece_bytes: int) -> None:
    """The payload's own SHA-256, as signed."""
    kind = hashlib.sha256(DATA).hexdigest()
    assert await read_all(payload_of(pool, DATA, kind, {}, piece_bytes)) == DATA
    error, received = await error_of(payload_of(pool, DATA[:-1] + b"!", kind, {}, piece_bytes))
    assert error.code == "XAmzContentSHA256Mismatch"
    assert dict(error.fields)["ClientComputedContentSHA256"] == kind
    assert received < len(DATA)


async def test_one_sha256_serves_twice(pool: HashPool) -> None:
    """Where the checksum is SHA-256 as well, it is computed once and compared with both."""
    headers = {b"x-amz-checksum-sha256": b64("sha256", DATA)}
    payload = payload_of(pool, DATA, hashlib.sha256(DATA).hexdigest(), headers)
    assert await read_all(payload) == DATA
    assert payload.late_metadata()["checksum:sha256"] == b64("sha256", DATA).decode()
    headers[b"x-amz-checksum-sha256"] = b64("sha256", b"")
    error, _ = await error_of(payload_of(pool, DATA, hashlib.sha256(DATA).hexdigest(), headers))
    assert error.code == "BadDigest"


async def test_an_unsigned_sha256_header_counts(pool: HashPool) -> None:
    """Of a presigned request an x-amz-content-sha256 header is still verified."""
    headers = {b"x-amz-content-sha256": hashlib.sha256(b"other").hexdigest().encode()}
    error, _ = await error_of(payload_of(pool, DATA, UNSIGNED, headers))
    assert error.code == "XAmzContentSHA256Mismatch"
    with pytest.raises(S3Error) as caught:
        payload_of(pool, DATA, UNSIGNED, {b"x-amz-content-sha256": b"nonsense"})
    assert caught.value.code == "InvalidArgument"


async def test_content_md5(pool: HashPool) -> None:
    """A right MD5 passes, a wrong one is a BadDigest, and a consumer that computes it may ask us not to."""
    right = {b"content-md5": b64("md5", DATA)}
    wrong = {b"content-md5": b64("md5", b"other")}
    assert await read_all(payload_of(pool, DATA, UNSIGNED, right)) == DATA
    error, _ = await error_of(payload_of(pool, DATA, UNSIGNED, wrong))
    assert error.code == "BadDigest"
    payload = open_payload(Body(DATA, 1000, len(DATA)), wrong, UNSIGNED, None, "AK", pool, check_md5=False)
    assert await read_all(payload) == DATA
    assert payload.content_md5 == checksums.digest("md5", b"other")


async def test_a_checksum_can_be_asked_for(pool: HashPool) -> None:
    """What the client did not give is computed where it is wanted."""
    payload = payload_of(pool, DATA, UNSIGNED, {}, compute="crc64nvme")
    assert await read_all(payload) == DATA
    assert payload.late_metadata()["checksum:crc64nvme"] == b64("crc64nvme", DATA).decode()


@pytest.mark.parametrize("piece_bytes", [777, 65536, 10**6])
async def test_botocore_trailing_checksum(pool: HashPool, piece_bytes: int) -> None:
    """An unsigned aws-chunked body with a trailing checksum, as boto3 sends it by default."""
    encoded = AwsChunkedWrapper(io.BytesIO(DATA), Crc32Checksum, "x-amz-checksum-crc32").read()
    headers = {
        b"x-amz-decoded-content-length": b"%d" % len(DATA),
        b"x-amz-trailer": b"x-amz-checksum-crc32",
        b"x-amz-sdk-checksum-algorithm": b"CRC32",
    }
    payload = payload_of(pool, encoded, STREAMING_UNSIGNED_TRAILER, headers, piece_bytes)
    assert payload.length == len(DATA)
    assert await read_all(payload) == DATA
    assert payload.late_metadata()["checksum:crc32"] == b64("crc32", DATA).decode()

    error, received = await error_of(
        payload_of(pool, encoded.replace(b"\xff\x00", b"\xff\x01", 1), STREAMING_UNSIGNED_TRAILER, headers, piece_bytes)
    )
    assert error.code == "BadDigest"
    assert received < len(DATA)


@pytest.mark.parametrize("trailer", [b"", b"x-amz-checksum-sha1:" + b64("sha1", DATA[:200_000])])
@pytest.mark.parametrize("piece_bytes", [5000, 10**6])
async def test_signed_chunks(pool: HashPool, trailer: bytes, piece_bytes: int) -> None:
    """Signed chunks with and without a trailer; one changed byte anywhere is found before the last piece is out."""
    data = DATA[:200_000]
    encoded = sign_chunks([data[start : start + 65536] for start in range(0, len(data), 65536)], trailer)
    headers = {b"x-amz-decoded-content-length": b"%d" % len(data)}
    kind = STREAMING_SIGNED
    if trailer:
        headers[b"x-amz-trailer"] = b"x-amz-checksum-sha1"
        kind = STREAMING_SIGNED_TRAILER
    assert await read_all(payload_of(pool, encoded, kind, headers, piece_bytes)) == data
    for place in (100, 100_000, len(encoded) - 120 if not trailer else len(encoded) - 300):
        changed = encoded[:place] + bytes((encoded[place] ^ 1,)) + encoded[place + 1 :]
        error, received = await error_of(payload_of(pool, changed, kind, headers, piece_bytes))
        assert error.code in ("SignatureDoesNotMatch", "InvalidRequest")
        assert received < len(data)


async def test_signed_chunks_need_a_signed_head(pool: HashPool) -> None:
    """There is no chain without its first link."""
    headers = {b"x-amz-decoded-content-length": b"3", b"x-amz-content-sha256": STREAMING_SIGNED.encode()}
    with pytest.raises(S3Error) as caught:
        open_payload(Body(b"", 10, 90), headers, UNSIGNED, None, "AK", pool)
    assert caught.value.code == "InvalidRequest"


@pytest.mark.parametrize(
    ("trailers", "code"),
    [
        (b"", "MalformedTrailerError"),
        (b"x-amz-checksum-sha1:AAAA\r\n", "MalformedTrailerError"),
        (b"x-amz-checksum-crc32:AAAA\r\n", "InvalidRequest"),
        (b"x-amz-checksum-crc32:AAAAAA==\r\nx-amz-meta-a:b\r\n", "MalformedTrailerError"),
        (b"x-amz-checksum-crc32:AAAAAA==\r\n", "BadDigest"),
    ],
)
async def test_bad_trailers(pool: HashPool, trailers: bytes, code: str) -> None:
    """The trailer that was announced must come, alone, well-formed and right."""
    headers = {b"x-amz-decoded-content-length": b"3", b"x-amz-trailer": b"x-amz-checksum-crc32"}
    encoded = b"3\r\nabc\r\n0\r\n" + trailers + b"\r\n"
    error, received = await error_of(payload_of(pool, encoded, STREAMING_UNSIGNED_TRAILER, headers))
    assert error.code == code
    assert received == 0


@pytest.mark.parametrize(
    ("kind", "headers", "code"),
    [
        (UNSIGNED, {b"content-md5": b"nonsense"}, "InvalidDigest"),
        (UNSIGNED, {b"content-md5": b"AAAA"}, "InvalidDigest"),
        (UNSIGNED, {b"x-amz-checksum-crc32": b"AAAA"}, "InvalidRequest"),
        (UNSIGNED, {b"x-amz-checksum-crc33": b"AAAAAA=="}, "InvalidRequest"),
        (UNSIGNED, {b"x-amz-checksum-crc32": b"AAAAAA==", b"x-amz-checksum-crc32c": b"AAAAAA=="}, "InvalidRequest"),
        (UNSIGNED, {b"x-amz-sdk-checksum-algorithm": b"CRC32"}, "InvalidRequest"),
        (UNSIGNED, {b"x-amz-sdk-checksum-algorithm": b"CRC33"}, "InvalidRequest"),
        (
            UNSIGNED,
            {b"x-amz-checksum-crc32": b"AAAAAA==", b"x-amz-sdk-checksum-algorithm": b"CRC32C"},
            "InvalidRequest",
        ),
        (UNSIGNED, {b"x-amz-trailer": b"x-amz-checksum-crc32"}, "InvalidRequest"),
        (STREAMING_UNSIGNED_TRAILER, {}, "MissingContentLength"),
        (STREAMING_UNSIGNED_TRAILER, {b"x-amz-decoded-content-length": b"-1"}, "InvalidArgument"),
        (
            STREAMING_UNSIGNED_TRAILER,
            {b"x-amz-decoded-content-length": b"3", b"x-amz-trailer": b"x-amz-meta-a"},
            "InvalidRequest",
        ),
        (
            STREAMING_UNSIGNED_TRAILER,
            {
                b"x-amz-decoded-content-length": b"3",
                b"x-amz-trailer": b"x-amz-checksum-crc32",
                b"x-amz-checksum-crc32": b"AAAAAA==",
            },
            "InvalidRequest",
        ),
    ],
)
async def test_headers_that_make_no_sense(pool: HashPool, kind: str, headers: dict[bytes, bytes], code: str) -> None:
    """They are refused before anything is read."""
    with pytest.raises(S3Error) as caught:
        payload_of(pool, b"abc", kind, headers)
    assert caught.value.code == code


async def test_a_body_without_length(pool: HashPool) -> None:
    """A body in chunked transfer coding ends where it ends; its checks come then."""
    headers = {b"x-amz-checksum-crc32": b64("crc32", DATA)}
    payload = open_payload(Body(DATA, 50_000, None), headers, UNSIGNED, None, "AK", pool)
    assert payload.length is None
    assert await read_all(payload) == DATA


async def test_empty_bodies(pool: HashPool) -> None:
    """Nothing is verified like anything else."""
    assert await read_all(payload_of(pool, b"", hashlib.sha256(b"").hexdigest(), {})) == b""
    error, _ = await error_of(payload_of(pool, b"", hashlib.sha256(b"x").hexdigest(), {}))
    assert error.code == "XAmzContentSHA256Mismatch"
    headers = {b"x-amz-decoded-content-length": b"0", b"x-amz-trailer": b"x-amz-checksum-crc32"}
    encoded = b"0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n"
    assert await read_all(payload_of(pool, encoded, STREAMING_UNSIGNED_TRAILER, headers)) == b""


async def test_a_client_that_goes_away(pool: HashPool) -> None:
    """A body that breaks off is no S3 error: there is nobody to tell."""

    class Broken:
        length: int | None = 5

        async def read(self) -> bytes:
            raise ClientDisconnected("gone")

    payload = open_payload(Broken(), {}, UNSIGNED, None, "AK", pool)
    for _ in range(2):
        with pytest.raises(ClientDisconnected):
            await payload.read()
