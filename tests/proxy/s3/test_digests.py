"""Checksums in requests and of uploads."""

from __future__ import annotations

import base64
import hashlib
import zlib

import pytest

from proxy.checksums import S3_ALGORITHMS
from proxy.s3.bodies import BytesBody
from proxy.s3.digests import (
    DigestingBody,
    combined_checksum,
    default_type,
    given_checksums,
    possible_types,
    request_algorithm,
)


def crc32(data: bytes) -> str:
    """In base64."""
    return base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()


def test_the_checksum_of_a_body_is_found() -> None:
    """In a header or announced as a trailer."""
    assert request_algorithm({b"x-amz-checksum-crc32": b"AAAAAA=="}) == "crc32"
    assert request_algorithm({b"x-amz-trailer": b"x-amz-checksum-SHA256 "}) == "sha256"
    assert request_algorithm({b"x-amz-checksum-mode": b"ENABLED"}) == ""
    assert given_checksums({b"x-amz-checksum-crc64nvme": b"x", b"x-amz-checksum-type": b"y"}) == {"crc64nvme": "x"}


def test_types_are_those_of_aws() -> None:
    """CRCs go both ways but for crc64nvme, SHAs only as checksums of checksums."""
    both = {"COMPOSITE", "FULL_OBJECT"}
    assert {name: possible_types(name) for name in S3_ALGORITHMS} == {
        "crc32": both,
        "crc32c": both,
        "crc64nvme": {"FULL_OBJECT"},
        "sha1": {"COMPOSITE"},
        "sha256": {"COMPOSITE"},
    }
    assert [default_type(name) for name in ("crc32", "crc64nvme", "sha256")] == [
        "COMPOSITE",
        "FULL_OBJECT",
        "COMPOSITE",
    ]


def test_parts_make_the_whole() -> None:
    """FULL_OBJECT is the checksum of the bytes; COMPOSITE that of the parts' checksums, with their number."""
    parts = [b"one", b"", b"three"]
    given = [(crc32(part), len(part)) for part in parts]
    assert combined_checksum("crc32", "FULL_OBJECT", given) == crc32(b"onethree")
    digests = b"".join(zlib.crc32(part).to_bytes(4, "big") for part in parts)
    assert combined_checksum("crc32", "COMPOSITE", given) == crc32(digests) + "-3"
    with pytest.raises(ValueError, match="base64"):
        combined_checksum("crc32", "FULL_OBJECT", [("?", 1)])


@pytest.mark.parametrize("size_bytes", [0, 5, 200_000])
async def test_a_body_is_given_a_checksum_while_it_is_read(size_bytes: int) -> None:
    """The bytes pass unchanged."""
    data = bytes(size_bytes)
    body = DigestingBody(BytesBody(data), "sha256")
    assert body.length == size_bytes
    got = b""
    while piece := await body.read():
        got += piece
    assert got == data
    expected = base64.b64encode(hashlib.sha256(data).digest()).decode()
    assert body.checksum_metadata() == {"checksum:sha256": expected, "checksum:type": "FULL_OBJECT"}
