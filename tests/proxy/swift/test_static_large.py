"""The format of static large objects."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.model import Manifest, ObjectInfo, Segment
from proxy.swift.errors import SwiftError
from proxy.swift.settings import SwiftSettings
from proxy.swift.static_large import ManifestEntry, checked_segment, manifest_document, manifest_etag, parse_manifest

SETTINGS = SwiftSettings(slo_segment_count_max=5)


def parse(*rows: Any) -> list[ManifestEntry]:
    """The entries of a manifest with these rows."""
    return parse_manifest(json.dumps(rows).encode(), SETTINGS)


def refusal(data: bytes) -> SwiftError:
    """How a manifest is refused."""
    with pytest.raises(SwiftError) as caught:
        parse_manifest(data, SETTINGS)
    return caught.value


def info(size_bytes: int = 10, etag: str = "aa") -> ObjectInfo:
    """An object that a segment may be."""
    return ObjectInfo(1, 1, size_bytes, etag, "x/y", {})


def test_a_manifest() -> None:
    """Path with or without a slash, everything else may be left out or null."""
    assert parse(
        {"path": "/c/o/p", "etag": '"aa"', "size_bytes": 10}, {"path": "c/ü", "etag": None, "range": "5-"}
    ) == [
        ManifestEntry("/c/o/p", b"c", b"o/p", "aa", 10, None),
        ManifestEntry("c/ü", b"c", "ü".encode(), None, None, "5-"),
    ]


@pytest.mark.parametrize(
    "row",
    [
        5,
        {},
        {"path": 5},
        {"path": "/c"},
        {"path": "/c/"},
        {"path": "c//"[:2]},
        {"path": "/c/\x00"},
        {"path": "/\x00x/o"},
        {"path": "/c/" + "o" * 1025},
        {"path": "/c/\ud800"},
        {"path": "/c/o", "etag": 5},
        {"path": "/c/o", "size_bytes": -1},
        {"path": "/c/o", "size_bytes": "x"},
        {"path": "/c/o", "size_bytes": True},
        {"path": "/c/o", "range": 5},
        {"path": "/c/o", "range": "0-1,3-4"},
        {"path": "/c/o", "bogus": 1},
        {"data": "aGVsbG8="},
    ],
)
def test_rows_that_make_no_sense(row: Any) -> None:
    """The answer tells the index of the row and what is wrong with it."""
    error = refusal(json.dumps([{"path": "/c/o"}, row]).encode())
    assert error.status == 400
    assert error.message.startswith("Index 1: ")


def test_manifests_that_make_no_sense() -> None:
    """No JSON, no list, no segment, too many segments."""
    for data in (b"", b"{", b"5", b"{}", b"[]", b"\xff", b"[" * 100_000):
        assert refusal(data).status == 400
    assert refusal(json.dumps([{"path": "/c/o"}] * 6).encode()).status == 413


@settings(max_examples=40)
@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists))
def test_any_json_is_parsed_or_refused(document: Any) -> None:
    """Nothing but SwiftError comes out of rubbish."""
    assert refusal(json.dumps(document).encode()).status in (400, 413)


def test_segments_are_checked() -> None:
    """Sizes, etags, emptiness and ranges."""

    def check(size_bytes: int = 10, **row: Any) -> Segment | str:
        return checked_segment(parse({"path": "/c/o", **row})[0], "A", info(size_bytes))

    assert check(etag="aa", size_bytes=10) == Segment("A", b"c", b"o", 10, "aa")
    assert check(etag="bb") == "Etag Mismatch"
    assert checked_segment(parse({"path": "/c/o", "size_bytes": 11})[0], "A", info()) == "Size Mismatch"
    assert str(check(size_bytes=0)).startswith("Too Small")
    assert check(range="2-4") == Segment("A", b"c", b"o", 3, "aa", 2, whole=False)
    assert check(range="-4") == Segment("A", b"c", b"o", 4, "aa", 6, whole=False)
    assert check(range="0-") == Segment("A", b"c", b"o", 10, "aa")
    assert check(range="10-") == "Unsatisfiable Range"
    assert check(range="x") == "Unsatisfiable Range"


def test_the_etag_is_of_the_etags() -> None:
    """MD5 over the segments' etags, with the range of those that are one."""
    whole, part = Segment("A", b"c", b"o", 10, "aa"), Segment("A", b"c", b"p", 3, "bb", 2, whole=False)
    assert manifest_etag([whole, part]) == hashlib.md5(b"aabb:2-4;").hexdigest()


def test_the_list_comes_back() -> None:
    """As clients read it, and in the form in which it can be PUT again."""
    segments = (Segment("A", b"c", "ü".encode(), 10, "aa"), Segment("A", b"c", b"p", 3, "bb", 2, whole=False))
    large = ObjectInfo(4096 * 10**6, 0, 13, "e", "x/y", {}, Manifest(segments, owned=False))
    document, etag = manifest_document(large, raw=False)
    assert etag.decode() == hashlib.md5(document).hexdigest()
    rows = json.loads(document)
    assert [(row["name"], row["bytes"], row["hash"], row.get("range")) for row in rows] == [
        ("/c/ü", 10, "aa", None),
        ("/c/p", 3, "bb", "2-4"),
    ]
    raw, _ = manifest_document(large, raw=True)
    assert [entry.byte_range for entry in parse_manifest(raw, SETTINGS)] == [None, "2-4"]


def test_parts_of_an_upload_are_not_shown() -> None:
    """What belongs to a multipart upload has no names for clients."""
    owned = ObjectInfo(1, 1, 10, "e-1", "x/y", {}, Manifest((Segment("A", b"\x00u", b"p", 10, "aa"),), owned=True))
    assert manifest_document(owned, raw=False)[0] == b"[]"
