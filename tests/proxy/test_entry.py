"""Metadata and manifests survive packing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.entry import CorruptEntry, object_info, pack_manifest, pack_meta, unpack_manifest
from proxy.model import Manifest, Segment
from storage_node.operations import Entry

TEXT = st.text(max_size=20)
SEGMENTS = st.builds(
    Segment,
    account=st.sampled_from(["AUTH_a", "AUTH_b"]),
    container=st.binary(min_size=1, max_size=8),
    name=st.binary(min_size=1, max_size=30),
    size_bytes=st.integers(0, 2**40),
    etag=st.one_of(st.text(alphabet="0123456789abcdef", min_size=32, max_size=32), TEXT),
    start=st.integers(0, 2**40),
    whole=st.just(False),
) | st.builds(
    Segment,
    account=st.just("AUTH_a"),
    container=st.just(b"c"),
    name=st.integers(0, 99).map(lambda number: b"name/%05d" % number),
    size_bytes=st.integers(0, 2**40),
    etag=st.text(alphabet="0123456789abcdef", min_size=32, max_size=32),
)


@given(st.lists(SEGMENTS, max_size=6), st.booleans())
def test_a_manifest_comes_back_as_it_was(segments: list[Segment], owned: bool) -> None:
    """Packing keeps every segment's place, name, size, etag and range."""
    manifest = Manifest(tuple(segments), owned)
    assert unpack_manifest(pack_manifest(manifest)) == manifest


@given(TEXT, TEXT, st.integers(0, 2**63), st.dictionaries(TEXT, TEXT, max_size=4))
def test_metadata_comes_back_as_it_was(etag: str, kind: str, size: int, metadata: dict[str, str]) -> None:
    """Packing keeps etag, content type, size and every item."""
    info = object_info(Entry(5, 7, False, 1, pack_meta(etag, kind, size, metadata)))
    assert (info.etag, info.content_type, info.size_bytes, info.metadata) == (etag, kind, size, metadata)


def test_bytes_that_are_no_utf8_survive() -> None:
    """A header value in another encoding goes back to the client as it came."""
    value = b"\xe4\xff".decode("utf-8", "surrogateescape")
    info = object_info(Entry(5, 7, False, 1, pack_meta("e", "t", 1, {"meta:x": value})))
    assert info.metadata["meta:x"] == value


@given(st.binary(max_size=40))
def test_garbage_is_told_as_such(data: bytes) -> None:
    """Bytes that the proxy did not write never become half an object or an unrelated error."""
    with pytest.raises(CorruptEntry):
        unpack_manifest(data)
    with pytest.raises(CorruptEntry):
        object_info(Entry(5, 7, False, 1, data))


def test_a_later_version_is_refused() -> None:
    """Metadata of a version that this proxy does not know is not guessed at."""
    with pytest.raises(CorruptEntry, match="version 9"):
        object_info(Entry(5, 7, False, 1, b"\x95\x09\xa1e\xa1t\x01\x80"))
