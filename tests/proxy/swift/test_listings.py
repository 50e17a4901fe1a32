"""Listings: their form and their query."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from proxy.http.message import Request
from proxy.model import ListedContainer, ListedObject, ListedPrefix
from proxy.swift.call import Call
from proxy.swift.errors import SwiftError
from proxy.swift.listings import JSON, TEXT, TEXT_XML, XML, Item, chosen_format, list_query, rendered
from proxy.swift.paths import Target
from proxy.swift.settings import SwiftSettings
from proxy.user_store import BytesBody
from storage_node.timestamp import from_microseconds

SETTINGS = SwiftSettings()
MOMENT = from_microseconds(1_560_435_715_123_456)
ITEMS: list[Item] = [
    ListedObject("a&<ü>".encode(), MOMENT, 7, "d41d8", "text/plain; charset=utf-8"),
    ListedPrefix(b'p"/'),
    ListedObject(b"z", MOMENT, 0, "x", "y"),
]


def call(query: bytes = b"", accept: bytes | None = None) -> Call:
    """A GET of a container."""
    headers = {} if accept is None else {b"accept": accept}
    request = Request("GET", b"/v1/AUTH_a/c?" + query, headers, BytesBody(b""), "1.2.3.4:5", "tx1")
    return Call(request, Target("AUTH_a", b"c", b""), None, True)


@pytest.mark.parametrize(
    ("query", "accept", "chosen"),
    [
        (b"", None, TEXT),
        (b"", b"*/*", TEXT),
        (b"format=json", b"text/plain", JSON),
        (b"format=XML", None, XML),
        (b"format=bogus", None, TEXT),
        (b"", b"application/json", JSON),
        (b"", b"text/xml", TEXT_XML),
        (b"", b"application/xml;q=0.5, application/json;q=0.9", JSON),
        (b"", b"text/html, application/*;q=0.3", JSON),
        (b"", b"text/*;q=0.1, application/xml", XML),
        (b"", b"application/json;q=bogus, text/plain;q=0.1", TEXT),
    ],
)
def test_the_form_is_what_was_asked_for(query: bytes, accept: bytes | None, chosen: str) -> None:
    """format= wins over Accept, and Accept's most specific range counts."""
    assert chosen_format(call(query, accept)) == chosen


def test_a_form_that_there_is_not() -> None:
    """406, rather than something that the client can't read."""
    for accept in (b"image/png", b"text/plain;q=0, application/json;q=0, application/xml;q=0, text/xml;q=0"):
        with pytest.raises(SwiftError) as caught:
            chosen_format(call(accept=accept))
        assert caught.value.status == 406


def test_the_query() -> None:
    """Each parameter is bytes of a name; reverse says yes in several ways."""
    query = list_query(call(b"prefix=%C3%BC&delimiter=%2F&marker=a+b&end_marker=z&limit=7&reverse=yes"), SETTINGS)
    assert (query.prefix, query.delimiter, query.marker, query.end_marker) == ("ü".encode(), b"/", b"a b", b"z")
    assert (query.limit, query.reverse) == (7, True)


def test_limits_of_the_query() -> None:
    """No limit is the announced one, more is refused, rubbish is ignored, 0 is nothing."""
    assert list_query(call(), SETTINGS).limit == 10_000
    assert list_query(call(b"limit=0"), SETTINGS).limit == 0
    for rubbish in (b"limit=x", b"limit=-1", b"limit=", b"limit=%C2%B2"):
        assert list_query(call(rubbish), SETTINGS).limit == 10_000
    for query, status in ((b"limit=10001", 412), (b"limit=" + b"9" * 50, 412), (b"marker=%FF", 400)):
        with pytest.raises(SwiftError) as caught:
            list_query(call(query), SETTINGS)
        assert caught.value.status == status


def test_a_page_of_text() -> None:
    """A name a line, prefixes among them."""
    assert rendered(ITEMS, TEXT, "container", "c") == 'a&<ü>\np"/\nz\n'.encode()


def test_a_page_of_json() -> None:
    """Objects have five fields, prefixes one."""
    assert json.loads(rendered(ITEMS, JSON, "container", "c")) == [
        {
            "name": "a&<ü>",
            "hash": "d41d8",
            "bytes": 7,
            "content_type": "text/plain; charset=utf-8",
            "last_modified": "2019-06-13T14:21:55.123456",
        },
        {"subdir": 'p"/'},
        {"name": "z", "hash": "x", "bytes": 0, "content_type": "y", "last_modified": "2019-06-13T14:21:55.123456"},
    ]
    assert json.loads(rendered([], JSON, "container", "c")) == []


def test_a_page_of_xml() -> None:
    """An XML parser finds the same in it."""
    root = ElementTree.fromstring(rendered(ITEMS, XML, "container", 'c"<'))
    assert (root.tag, root.get("name")) == ("container", 'c"<')
    assert [element.tag for element in root] == ["object", "subdir", "object"]
    assert root[0].findtext("name") == "a&<ü>"
    assert root[0].findtext("bytes") == "7"
    assert (root[1].get("name"), root[1].findtext("name")) == ('p"/', 'p"/')


def test_names_that_xml_cannot_say() -> None:
    """A control character does not make a document that no parser reads."""
    odd = ListedObject(b"a\x01b\x0bc", MOMENT, 0, "", "")
    root = ElementTree.fromstring(rendered([odd], XML, "container", "\x02"))
    assert root[0].findtext("name") == "a\ufffdb\ufffdc"
    assert json.loads(rendered([odd], JSON, "container", "c"))[0]["name"] == "a\x01b\x0bc"


def test_a_page_of_containers() -> None:
    """Containers have counts, and are listed as such in XML."""
    items: list[Item] = [ListedContainer(b"c", MOMENT, 3, 100)]
    assert json.loads(rendered(items, JSON, "account", "AUTH_a")) == [
        {"name": "c", "count": 3, "bytes": 100, "last_modified": "2019-06-13T14:21:55.123456"}
    ]
    root = ElementTree.fromstring(rendered(items, XML, "account", "AUTH_a"))
    assert (root.tag, root[0].tag, root[0].findtext("count")) == ("account", "container", "3")


def test_content_types_that_are_no_text() -> None:
    """Bytes that were no UTF-8 do not keep a listing from being made."""
    odd = ListedObject(b"a", MOMENT, 0, "", "x/\udcff")
    assert json.loads(rendered([odd], JSON, "container", "c"))[0]["content_type"] == "x/\ufffd"
