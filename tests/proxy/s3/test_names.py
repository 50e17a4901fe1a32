"""Whom a request addresses."""

from __future__ import annotations

from urllib.parse import quote_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.s3.errors import S3Error
from proxy.s3.names import check_new_bucket, split_target

SUFFIXES = ("s3.example.org", "example.org", "localhost")

KEYS = [
    "plain",
    "a/b/c",
    "//double//slashes//",
    "/leading",
    "trailing/",
    ".",
    "..",
    "../up",
    "a/./b/../c",
    " ",
    "+plus and space",
    "%25 is a percent sign",
    "?query#fragment",
    "käse/ñandú/日本語/🎈",
    "\n\t\x01control",
    "k" * 1024,
]


@pytest.mark.parametrize("key", KEYS)
def test_a_key_comes_out_as_it_was_sent(key: str) -> None:
    """Whatever the client percent-encodes or not, the key is the same bytes, by path and by host."""
    raw = key.encode()
    encoded = quote_from_bytes(raw, safe="/").encode()
    assert split_target(b"localhost:8080", b"/bucket/" + encoded, SUFFIXES) == (b"bucket", raw)
    assert split_target(b"bucket.localhost:8080", b"/" + encoded, SUFFIXES) == (b"bucket", raw)
    assert split_target(b"localhost", b"/bucket/" + quote_from_bytes(raw, safe="").encode(), SUFFIXES) == (
        b"bucket",
        raw,
    )


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=256))
def test_every_valid_key_survives(key: str) -> None:
    """No key of up to 1,024 bytes of UTF-8 without NUL is changed or refused."""
    raw = key.encode()
    assert split_target(b"localhost", b"/b/" + quote_from_bytes(raw).encode(), SUFFIXES) == (b"b", raw)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        (b"/bucket/" + b"k" * 1025, "KeyTooLongError"),
        (b"/bucket/" + "é".encode() * 513, "KeyTooLongError"),
        (b"/bucket/%ff", "InvalidURI"),
        (b"/bucket/\xae\x8a-", "InvalidURI"),
        (b"/bucket/%ed%a0%80", "InvalidURI"),
        (b"/bucket/a%00b", "InvalidURI"),
        (b"//key", "InvalidBucketName"),
        (b"/%00uploads%00bucket/key", "InvalidBucketName"),
        (b"/%00buckets", "InvalidBucketName"),
        (b"/a%2fb/key", "InvalidBucketName"),
        (b"/" + b"b" * 257 + b"/key", "InvalidBucketName"),
        (b"/%ff/key", "InvalidBucketName"),
    ],
)
def test_impossible_names_are_refused(path: bytes, code: str) -> None:
    """Names that no key or bucket can have get the error that says so."""
    with pytest.raises(S3Error) as caught:
        split_target(b"localhost", path, SUFFIXES)
    assert caught.value.code == code
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("host", "path", "expected"),
    [
        (b"localhost", b"/", (b"", b"")),
        (b"localhost:8080", b"/bucket", (b"bucket", b"")),
        (b"localhost", b"/bucket/", (b"bucket", b"")),
        (b"127.0.0.1:8080", b"/bucket/key", (b"bucket", b"key")),
        (b"[::1]:8080", b"/bucket/key", (b"bucket", b"key")),
        (b"[::1]", b"/bucket/key", (b"bucket", b"key")),
        (b"unknown.host", b"/bucket/key", (b"bucket", b"key")),
        (b"bucket.localhost:8080", b"/", (b"bucket", b"")),
        (b"my.dotted.bucket.localhost", b"/key", (b"my.dotted.bucket", b"key")),
        (b"Bucket.LOCALHOST", b"/key", (b"bucket", b"key")),
        (b"b.s3.example.org", b"/key", (b"b", b"key")),
        (b"b.example.org", b"/key", (b"b", b"key")),
        (b"s3.example.org", b"/bucket/key", (b"bucket", b"key")),
        (b".localhost", b"/bucket/key", (b"bucket", b"key")),
        (None, b"/bucket/key", (b"bucket", b"key")),
    ],
)
def test_buckets_are_addressed_by_host_or_by_path(host: bytes, path: bytes, expected: tuple[bytes, bytes]) -> None:
    """A host below a suffix names the bucket; every other host leaves it to the path."""
    assert split_target(host, path, SUFFIXES) == expected


@pytest.mark.parametrize("name", ["abc", "a-b", "a.b", "1st-bucket", "a" * 63, "aaa.111", "0.0.0.a"])
def test_good_bucket_names_are_accepted(name: str) -> None:
    """Names within AWS's rules may be created."""
    check_new_bucket(name.encode())


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a",
        "aa",
        "a" * 64,
        "Upper",
        "under_score",
        "-dash",
        "dash-",
        ".dot",
        "dot.",
        "a..b",
        "a.-b",
        "a-.b",
        "192.168.5.123",
        "xn--bucket",
        "name-s3alias",
        "name--ol-s3",
        "bücket",
        "a b",
        "a/b",
    ],
)
def test_bad_bucket_names_are_refused(name: str) -> None:
    """Names outside AWS's rules may not be created."""
    with pytest.raises(S3Error, match="InvalidBucketName"):
        check_new_bucket(name.encode())
