"""Pages made into text straight from the index, against the same pages made from listed objects one by one."""

from __future__ import annotations

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.entry import CorruptEntry, listed_objects, row_payload
from proxy.model import ContainerInfo, ObjectListing
from proxy.object_page import ObjectPage
from proxy.s3.listing import (
    parse_list_v1,
    parse_list_v2,
    parse_list_versions,
    render_list_v1,
    render_list_v2,
    render_list_versions,
)
from proxy.swift.listings import JSON, TEXT, XML, rendered
from proxy.swift.object_rows import json_objects
from storage_node.index import pack_row
from storage_node.rows import row_base
from storage_node.stored_rows import StoredRows
from storage_node.timestamp import TIMESTAMP_MAX, from_microseconds

BASE = row_base(1, b"h" * 16)
BUCKET = ContainerInfo(0, 0, 0, {})
SECOND = 1_560_435_715_000_000
MOMENTS = st.sampled_from(
    [0, *(from_microseconds(SECOND + us, 7) for us in (0, 1, 99_999, 100_000, 999_999, 1_000_000)), TIMESTAMP_MAX]
) | st.integers(0, TIMESTAMP_MAX)
PLAIN_TEXTS = st.text("abc019/.-_~ ", min_size=1, max_size=6)
TEXTS = PLAIN_TEXTS | st.text(
    st.characters(exclude_categories=("Cs",)) | st.sampled_from('"\\&<>%\x00\t\n\r\x1f\x7fü'), max_size=6
)
ETAGS = st.text("0123456789abcdef", min_size=32, max_size=32) | st.sampled_from(
    ["", "d41d8", "0" * 32 + "-12", '"' * 32, "\\" * 32, "ü" * 16, "ü" * 32, "\x1f" * 32, "a" * 31, "a" * 33]
)
TYPES = st.sampled_from(["text/plain", "image/jpeg; a=b", 'a/"\\b', "ü/ü", ""]) | TEXTS
ALGORITHMS = st.sampled_from(["", "CRC32"])
ROWS = st.tuples(MOMENTS, MOMENTS, st.integers(0, 2**64 - 1), st.builds(row_payload, ETAGS, TYPES, ALGORITHMS))
OWNERS = st.sampled_from(["", "<Owner><ID>1%s</ID><DisplayName>50 %</DisplayName></Owner>"])


def pages(names: st.SearchStrategy[bytes]) -> st.SearchStrategy[ObjectPage]:
    """Pages as a device gives them."""
    return st.dictionaries(names, ROWS, max_size=8).map(page_of)


def page_of(rows: dict[bytes, tuple[int, int, int, bytes]]) -> ObjectPage:
    """A page with these rows."""
    return ObjectPage(
        StoredRows(
            [
                (BASE + name, pack_row(1, 2, 3, 0, timestamp, sub_timestamp, 1, size_bytes) + payload)
                for name, (timestamp, sub_timestamp, size_bytes, payload) in sorted(rows.items())
            ]
        )
    )


@given(pages(TEXTS.map(str.encode) | st.binary(min_size=1, max_size=6)))
def test_swift_writes_the_same(page: ObjectPage) -> None:
    """Text, JSON (byte for byte what an encoder makes of dictionaries) and XML, whatever is in names, types and ETags."""
    one_by_one = listed_objects(page.stored.rows())
    for form in (TEXT, JSON, XML):
        assert rendered(page, form, "container", "c") == rendered(one_by_one, form, "container", "c")
    document = rendered(page, JSON, "container", "c")
    assert document == orjson.dumps(json_objects(one_by_one))
    assert len(json.loads(document)) == len(page)


@given(pages(TEXTS.map(str.encode)), st.booleans(), OWNERS)
def test_s3_writes_the_same(page: ObjectPage, url: bool, owner: str) -> None:
    """All three documents, with names as they are and percent-encoded."""
    parameters = {"encoding-type": "url"} if url else {}
    one_by_one = listed_objects(page.stored.rows())
    for parse, render in (
        (parse_list_v1, render_list_v1),
        (parse_list_v2, render_list_v2),
        (parse_list_versions, render_list_versions),
    ):
        request = parse(parameters)
        truncated = len(page) > 1
        documents = [
            render(b"bucket", request, ObjectListing(BUCKET, items, truncated, b"z"), owner)
            for items in (page, one_by_one)
        ]
        assert documents[0] == documents[1]


@given(pages(st.binary(min_size=1, max_size=6)))
def test_it_is_a_sequence_of_listed_objects(page: ObjectPage) -> None:
    """Length, order, places, slices and equality are those of the tuple."""
    objects = listed_objects(page.stored.rows())
    assert (len(page), tuple(page)) == (len(objects), objects)
    assert page == objects
    assert objects == page
    assert page != (*objects, None)
    assert [page[place] for place in range(-len(page), len(page))] == [*objects, *objects]
    assert page[1:-1] == objects[1:-1]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"x",
        b"\x93",
        b"\x93\xd9\x20" + b"a" * 32,
        b"\x93\xd9\x20" + b"a" * 32 + b"\xa1x",
    ],
)
def test_a_payload_that_does_not_unpack(payload: bytes) -> None:
    """Said to be corrupt, in every form, rather than half a document."""
    page = page_of({b"a": (1, 1, 1, row_payload("0" * 32, "text/plain", "")), b"b": (1, 1, 1, payload)})
    with pytest.raises(CorruptEntry):
        rendered(page, JSON, "container", "c")
    with pytest.raises(CorruptEntry):
        render_list_v2(b"bucket", parse_list_v2({}), ObjectListing(BUCKET, page, False, b""), "")
