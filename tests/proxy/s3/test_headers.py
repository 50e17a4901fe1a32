"""Headers of objects, in and out."""

from __future__ import annotations

import pytest

from proxy.model import ObjectInfo
from proxy.s3.errors import S3Error
from proxy.s3.headers import check_acl, object_headers, object_metadata, override_headers
from storage_node.timestamp import from_microseconds


def info(metadata: dict[str, str], content_type: str = "text/plain") -> ObjectInfo:
    """An object with this metadata."""
    timestamp = from_microseconds(784_111_777_000_000)
    return ObjectInfo(timestamp, timestamp, 3, "37b51d194a7513e45b56f6524f2d51f2", content_type, metadata)


def test_headers_come_back_as_they_were_sent() -> None:
    """Content type, the standard headers and user metadata survive a PUT and a GET."""
    sent = {
        b"host": b"localhost",
        b"content-type": b"text/plain; charset=utf-8",
        b"content-length": b"3",
        b"cache-control": b"no-cache",
        b"content-disposition": b'attachment; filename="a b.txt"',
        b"content-encoding": b"gzip",
        b"content-language": b"de",
        b"expires": b"Thu, 01 Dec 1994 16:00:00 GMT",
        b"x-amz-meta-one": b"1",
        b"x-amz-meta-two": b"",
        b"x-amz-meta-utf8": "größe".encode(),
        b"x-amz-meta-latin1": "größe".encode("latin-1"),
        b"x-amz-meta-anything": bytes(range(0x80, 0x100)),
        b"x-amz-date": b"20130524T000000Z",
        b"x-amz-storage-class": b"STANDARD",
        b"x-amz-acl": b"private",
    }
    content_type, metadata = object_metadata(sent)
    got = dict(object_headers(info(metadata, content_type), False))
    for name, value in sent.items():
        if name.startswith((b"x-amz-meta-", b"cache", b"content-d", b"content-e", b"content-la", b"content-t", b"exp")):
            assert got[name] == value
    assert got[b"etag"] == b'"37b51d194a7513e45b56f6524f2d51f2"'
    assert got[b"last-modified"] == b"Sun, 06 Nov 1994 08:49:37 GMT"
    assert not {b"host", b"x-amz-date", b"content-length", b"x-amz-acl"} & set(got)


def test_no_content_type_is_the_one_that_s3_gives() -> None:
    """An object without a content type is binary/octet-stream."""
    assert object_metadata({})[0] == "binary/octet-stream"
    assert object_metadata({b"content-type": b""})[0] == "binary/octet-stream"


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (b"aws-chunked", None),
        (b"gzip, aws-chunked", "gzip"),
        (b"aws-chunked,gzip", "gzip"),
        (b"aws-chunked, deflate, gzip", "deflate, gzip"),
        (b"gzip", "gzip"),
        (b"", None),
    ],
)
def test_the_framing_of_the_upload_is_no_encoding_of_the_object(sent: bytes, kept: str | None) -> None:
    """aws-chunked never becomes part of an object's Content-Encoding."""
    assert object_metadata({b"content-encoding": sent})[1].get("content-encoding") == kept


def test_user_metadata_has_a_limit() -> None:
    """2 KiB of names and values are accepted, a byte more is not."""
    object_metadata({b"x-amz-meta-a": b"x" * 2047})
    with pytest.raises(S3Error, match="MetadataTooLarge"):
        object_metadata({b"x-amz-meta-a": b"x" * 2048})


@pytest.mark.parametrize(
    ("header", "value", "code"),
    [
        (b"x-amz-server-side-encryption", b"AES256", "NotImplemented"),
        (b"x-amz-server-side-encryption-customer-algorithm", b"AES256", "NotImplemented"),
        (b"x-amz-object-lock-mode", b"COMPLIANCE", "NotImplemented"),
        (b"x-amz-grant-read", b"id=x", "NotImplemented"),
        (b"x-amz-acl", b"public-read", "NotImplemented"),
        (b"x-amz-acl", b"public-ready", "InvalidArgument"),
        (b"x-amz-storage-class", b"GLACIER", "InvalidStorageClass"),
        (b"x-amz-tagging", b"a=1&a=2", "InvalidTag"),
        (b"x-amz-website-redirect-location", b"nowhere", "InvalidArgument"),
    ],
)
def test_what_is_not_done_is_refused(header: bytes, value: bytes, code: str) -> None:
    """A header that promises encryption, locks or grants never passes in silence."""
    with pytest.raises(S3Error, match=code):
        object_metadata({header: value})


def test_private_acls_are_accepted() -> None:
    """The canned ACLs that give nobody but the owner anything are what this store does."""
    for name in (b"private", b"bucket-owner-full-control", b"bucket-owner-read"):
        check_acl(name)


def test_checksums_and_tags_are_shown_as_asked() -> None:
    """Checksums only in checksum mode; of tags only how many there are."""
    stored = info(
        {"checksum:crc32": "AAAAAA==", "checksum:type": "FULL_OBJECT", "sys:tagging": "a=1&b=2", "sys:x": "y"}
    )
    plain = dict(object_headers(stored, False))
    assert plain[b"x-amz-tagging-count"] == b"2"
    assert not any(name.startswith((b"x-amz-checksum", b"sys", b"x-amz-meta")) for name in plain)
    shown = dict(object_headers(stored, True))
    assert shown[b"x-amz-checksum-crc32"] == b"AAAAAA=="
    assert shown[b"x-amz-checksum-type"] == b"FULL_OBJECT"


def test_responses_can_be_overridden() -> None:
    """response-… parameters replace or add headers, and cannot break out of theirs."""
    headers = object_headers(info({"cache-control": "no-store"}), False)
    got = override_headers(
        headers, {"response-cache-control": "no-cache", "response-content-type": "foo/bar", "response-expires": "123"}
    )
    assert dict(got)[b"cache-control"] == b"no-cache"
    assert dict(got)[b"content-type"] == b"foo/bar"
    assert dict(got)[b"expires"] == b"123"
    assert len({name for name, _ in got}) == len(got)
    with pytest.raises(S3Error, match="InvalidArgument"):
        override_headers(headers, {"response-content-type": "a\r\nSet-Cookie: b"})
