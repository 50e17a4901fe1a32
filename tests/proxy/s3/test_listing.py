"""Listings: parameters, tokens, documents."""

from __future__ import annotations

from urllib.parse import unquote
from xml.etree.ElementTree import Element, fromstring

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.model import ContainerInfo, ListedObject, ListedPrefix, ObjectListing
from proxy.s3.errors import S3Error
from proxy.s3.listing import (
    decode_token,
    encode_token,
    parse_list_v1,
    parse_list_v2,
    parse_list_versions,
    render_list_v1,
    render_list_v2,
    render_list_versions,
)
from storage_node.timestamp import from_microseconds

NS = "{http://s3.amazonaws.com/doc/2006-03-01/}"
OWNER = "<Owner><ID>id</ID><DisplayName>name</DisplayName></Owner>"
BUCKET = ContainerInfo(0, 0, 0, {})


def listing(*names: str, prefixes: tuple[str, ...] = (), truncated: bool = False, marker: str = "") -> ObjectListing:
    """A page with these names and prefixes."""
    objects = tuple(
        ListedObject(name.encode(), from_microseconds(784_111_777_123_456), 3, "0" * 32, "text/plain", "CRC32")
        for name in names
    )
    rolled = tuple(ListedPrefix(prefix.encode()) for prefix in prefixes)
    return ObjectListing(BUCKET, (*rolled, *objects), truncated, marker.encode())


def texts(root: Element, path: str) -> list[str]:
    """The texts at a path."""
    return [node.text or "" for node in root.findall("/".join(NS + step for step in path.split("/")))]


def test_v1_says_what_was_asked_and_what_there_is() -> None:
    """Every element that clients read is in the document, escaped."""
    request = parse_list_v1({"prefix": "a&", "delimiter": "/", "marker": "<", "max-keys": "2"})
    page = listing("a&<b>", prefixes=("a&/",), truncated=True, marker="a&<b>")
    root = fromstring(render_list_v1(b"bucket", request, page, OWNER))
    assert root.tag == NS + "ListBucketResult"
    for path, expected in (
        ("Name", "bucket"),
        ("Prefix", "a&"),
        ("Delimiter", "/"),
        ("Marker", "<"),
        ("MaxKeys", "2"),
        ("IsTruncated", "true"),
        ("NextMarker", "a&<b>"),
        ("Contents/Key", "a&<b>"),
        ("Contents/LastModified", "1994-11-06T08:49:37.000Z"),
        ("Contents/ETag", f'"{"0" * 32}"'),
        ("Contents/Size", "3"),
        ("Contents/StorageClass", "STANDARD"),
        ("Contents/ChecksumAlgorithm", "CRC32"),
        ("Contents/Owner/ID", "id"),
        ("CommonPrefixes/Prefix", "a&/"),
    ):
        assert texts(root, path) == [expected], path


def test_v1_gives_a_next_marker_only_with_a_delimiter() -> None:
    """Without one the last key is the marker, and AWS says nothing."""
    root = fromstring(render_list_v1(b"b", parse_list_v1({}), listing("a", truncated=True, marker="a"), OWNER))
    assert texts(root, "NextMarker") == []
    assert texts(root, "Marker") == [""]
    assert texts(root, "Delimiter") == []


def test_v2_goes_on_by_token() -> None:
    """A truncated page has a token that leads behind it; the token wins over start-after; both are echoed."""
    first = fromstring(render_list_v2(b"b", parse_list_v2({}), listing("a", truncated=True, marker="a"), OWNER))
    (token,) = texts(first, "NextContinuationToken")
    request = parse_list_v2({"continuation-token": token, "start-after": "zzz"})
    assert request.query.marker == b"a"
    root = fromstring(render_list_v2(b"b", request, listing("b", prefixes=("p/",)), OWNER))
    assert texts(root, "ContinuationToken") == [token]
    assert texts(root, "StartAfter") == ["zzz"]
    assert texts(root, "KeyCount") == ["2"]
    assert texts(root, "NextContinuationToken") == []
    assert texts(root, "Contents/Owner") == []


def test_v2_gives_owners_when_asked() -> None:
    """fetch-owner=true."""
    root = fromstring(render_list_v2(b"b", parse_list_v2({"fetch-owner": "true"}), listing("b"), OWNER))
    assert texts(root, "Contents/Owner/DisplayName") == ["name"]


def test_an_empty_token_begins_at_the_beginning() -> None:
    """As AWS has it: echoed, and no bound."""
    request = parse_list_v2({"continuation-token": ""})
    assert request.query.marker == b""
    assert texts(fromstring(render_list_v2(b"b", request, listing(), OWNER)), "ContinuationToken") == [""]


def test_versions_are_all_null() -> None:
    """Every object has one version, and it is the latest."""
    request = parse_list_versions({"key-marker": "a", "version-id-marker": "null"})
    root = fromstring(render_list_versions(b"b", request, listing("k", truncated=True, marker="k"), OWNER))
    assert texts(root, "Version/Key") == ["k"]
    assert texts(root, "Version/VersionId") == ["null"]
    assert texts(root, "Version/IsLatest") == ["true"]
    assert texts(root, "NextKeyMarker") == ["k"]
    assert texts(root, "NextVersionIdMarker") == ["null"]
    with pytest.raises(S3Error, match="InvalidArgument"):
        parse_list_versions({"version-id-marker": "null"})


@pytest.mark.parametrize(
    ("value", "expected"), [("", 1000), ("0", 0), ("1", 1), ("1000", 1000), ("1001", 1000), ("2147483647", 1000)]
)
def test_page_lengths_are_clamped(value: str, expected: int) -> None:
    """More than 1,000 is 1,000; nothing said is 1,000."""
    assert parse_list_v1({"max-keys": value}).max_keys == expected
    assert parse_list_v1({"max-keys": value}).query.limit == expected


@pytest.mark.parametrize("value", ["blah", "-1", "1.5", " 1", "2147483648", "9" * 5000, "²", "\udcff"])
def test_page_lengths_that_are_none_are_refused(value: str) -> None:
    """InvalidArgument for what is no number, negative, or too large."""
    with pytest.raises(S3Error, match="InvalidArgument"):
        parse_list_v1({"max-keys": value})


@pytest.mark.parametrize(
    "parameters",
    [
        {"encoding-type": "base64"},
        {"prefix": "\udcff"},
        {"delimiter": "\x00"},
        {"continuation-token": "nonsense"},
        {"continuation-token": "1!!!!"},
        {"continuation-token": "1_w"},
        {"continuation-token": "\udcff"},
    ],
)
def test_parameters_that_make_no_sense_are_refused(parameters: dict[str, str]) -> None:
    """Encodings, names and tokens that cannot be meant."""
    with pytest.raises(S3Error, match="InvalidArgument"):
        parse_list_v2(parameters)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=200))
def test_tokens_keep_their_marker(name: str) -> None:
    """Whatever the marker is, the token says it."""
    assert decode_token(encode_token(name.encode())) == name.encode()


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=60))
def test_url_encoding_carries_every_key(name: str) -> None:
    """With encoding-type=url even control characters arrive."""
    request = parse_list_v2({"encoding-type": "url", "prefix": name})
    root = fromstring(render_list_v2(b"b", request, listing(name), OWNER))
    assert unquote(texts(root, "Contents/Key")[0]) == name
    assert unquote(texts(root, "Prefix")[0]) == name
    assert texts(root, "EncodingType") == ["url"]


def test_the_prefix_of_version_1_is_not_encoded() -> None:
    """botocore decodes every name in that document but the prefix."""
    request = parse_list_v1({"encoding-type": "url", "prefix": "\n&", "marker": "\n"})
    root = fromstring(render_list_v1(b"b", request, listing("\n&"), OWNER))
    assert texts(root, "Prefix") == ["\n&"]
    assert texts(root, "Marker") == ["%0A"]
    assert texts(root, "Contents/Key") == ["%0A%26"]


def test_url_encoding_is_the_one_that_clients_decode() -> None:
    """Slashes stay, a plus and a space are percent-encoded."""
    request = parse_list_v1({"encoding-type": "url"})
    assert request.name(b"foo+1/bar baz") == "foo%2B1/bar%20baz"
