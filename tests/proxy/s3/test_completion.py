"""The pure decisions of CompleteMultipartUpload."""

from __future__ import annotations

import hashlib

import pytest

from proxy.s3.completion import NamedPart, check_size, choose_parts, etag_of_parts, parse_parts
from proxy.s3.errors import S3Error
from proxy.s3.settings import PART_BYTES_MIN
from proxy.s3.upload_store import Part
from proxy.s3.xml import parse

A, B, C = "a" * 32, "b" * 32, "c" * 32


def part(number: int, etag: str, timestamp: int = 1, size_bytes: int = PART_BYTES_MIN) -> Part:
    """A stored attempt."""
    return Part(number, b"%d-%d" % (number, timestamp), etag, size_bytes, timestamp, "")


def named(document: bytes) -> list[NamedPart]:
    """The parts that a document names."""
    return parse_parts(parse(document, "CompleteMultipartUpload"))


def test_a_document_names_parts() -> None:
    """Numbers, etags in any dress, checksums by algorithm."""
    assert named(
        b"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>&quot;ABC&quot;</ETag>"
        b"<ChecksumCRC32C>AAAA</ChecksumCRC32C></Part><Part><ETag>def</ETag><PartNumber> 7 </PartNumber></Part>"
        b"</CompleteMultipartUpload>"
    ) == [NamedPart(1, "abc", {"crc32c": "AAAA"}), NamedPart(7, "def")]


def test_of_a_part_named_twice_in_a_row_the_last_counts() -> None:
    """A client that sent it again lists both."""
    rows = b"".join(b"<Part><PartNumber>2</PartNumber><ETag>%s</ETag></Part>" % etag for etag in (b"a", b"b"))
    assert named(b"<CompleteMultipartUpload>" + rows + b"</CompleteMultipartUpload>") == [NamedPart(2, "b")]


@pytest.mark.parametrize(
    ("parts", "code"),
    [
        (b"", "MalformedXML"),
        (b"<Part><PartNumber>1</PartNumber></Part>", "MalformedXML"),
        (b"<Part><ETag>a</ETag></Part>", "MalformedXML"),
        (b"<Part><PartNumber>x</PartNumber><ETag>a</ETag></Part>", "MalformedXML"),
        (b"<Part><PartNumber>0</PartNumber><ETag>a</ETag></Part>", "InvalidArgument"),
        (b"<Part><PartNumber>10001</PartNumber><ETag>a</ETag></Part>", "InvalidArgument"),
        (
            b"<Part><PartNumber>2</PartNumber><ETag>a</ETag></Part><Part><PartNumber>1</PartNumber><ETag>a</ETag></Part>",
            "InvalidPartOrder",
        ),
    ],
)
def test_documents_that_cannot_be_meant_are_refused(parts: bytes, code: str) -> None:
    """No parts, parts without number or etag, numbers out of bounds or out of order."""
    with pytest.raises(S3Error, match=code):
        named(b"<CompleteMultipartUpload>" + parts + b"</CompleteMultipartUpload>")


def test_the_newest_attempt_with_the_named_etag_is_chosen() -> None:
    """A part that was sent again is the one that the client names, whichever ended last."""
    attempts = [part(1, A, 1), part(1, B, 2), part(1, A, 3), part(2, C, 1)]
    assert choose_parts([NamedPart(1, A), NamedPart(2, C)], attempts) == [attempts[2], attempts[3]]
    assert choose_parts([NamedPart(1, B)], attempts) == [attempts[1]]


def test_parts_may_be_left_out_and_numbers_skipped() -> None:
    """Only the named parts count, with any ascending numbers."""
    attempts = [part(3, A), part(5, B), part(9999, C)]
    assert choose_parts([NamedPart(3, A), NamedPart(9999, C)], attempts) == [attempts[0], attempts[2]]


@pytest.mark.parametrize("wanted", [NamedPart(2, A), NamedPart(1, B)])
def test_parts_that_were_not_uploaded_are_refused(wanted: NamedPart) -> None:
    """A number nobody uploaded, or another etag than was stored."""
    with pytest.raises(S3Error, match="InvalidPart"):
        choose_parts([wanted], [part(1, A)])


def test_only_the_last_part_may_be_small() -> None:
    """5 MiB, except for the last."""
    small = part(1, A, size_bytes=PART_BYTES_MIN - 1)
    assert choose_parts([NamedPart(1, A)], [small]) == [small]
    with pytest.raises(S3Error, match="EntityTooSmall"):
        choose_parts([NamedPart(1, A), NamedPart(2, B)], [small, part(2, B)])


def test_the_etag_of_parts_is_that_of_aws() -> None:
    """MD5 of the concatenated MD5s, a dash, their number."""
    digests = [hashlib.md5(data).hexdigest() for data in (b"one", b"two")]
    whole = hashlib.md5(b"".join(bytes.fromhex(digest) for digest in digests)).hexdigest()
    assert etag_of_parts(digests) == f"{whole}-2"
    assert etag_of_parts(["no md5"]) == ""


def test_the_announced_size_must_be_right() -> None:
    """x-amz-mp-object-size is checked where it is given."""
    check_size(None, 5)
    check_size(b"5", 5)
    with pytest.raises(S3Error, match="InvalidRequest"):
        check_size(b"6", 5)
    with pytest.raises(S3Error, match="InvalidArgument"):
        check_size(b"five", 5)
    with pytest.raises(S3Error, match="EntityTooLarge"):
        check_size(None, 5 * 1024**4 + 1)
