"""Listings: which page a query asks for, and the page as text, JSON or XML.

The form is chosen by `format=` or, without it, by Accept. JSON and XML pages are one document each, text is a name a line,
and 204 where there is none. Names in JSON and XML are text: all that Swift stores is UTF-8.

Invariant: pure. What a format can't say (control characters in XML 1.0) is replaced there and exact in the other two.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import orjson

from proxy.model import ListedContainer, ListedObject, ListedPrefix, ListQuery
from proxy.object_page import ObjectPage
from proxy.swift.call import Call
from proxy.swift.errors import SwiftError
from proxy.swift.object_rows import json_objects, json_page
from proxy.swift.settings import SwiftSettings
from proxy.swift.times import iso_time
from storage_node.timestamp import microseconds

TEXT = "text/plain"
JSON = "application/json"
XML = "application/xml"
TEXT_XML = "text/xml"
FORMATS: Mapping[str, str] = {"plain": TEXT, "json": JSON, "xml": XML}
_OFFERED = (TEXT, JSON, XML, TEXT_XML)
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ACCEPT_BYTES_MAX = 4096

Item = ListedContainer | ListedObject | ListedPrefix


def chosen_format(call: Call) -> str:
    """The media type of the answer. Raises SwiftError 406 where Accept excludes all that there is."""
    wanted = call.parameters.get("format")
    if wanted is not None:
        return FORMATS.get(wanted.lower(), TEXT)
    accept = call.headers.get(b"accept")
    if not accept or accept == b"*/*":
        return TEXT
    best, best_quality = "", 0.0
    ranges = _media_ranges(accept[:_ACCEPT_BYTES_MAX].decode("latin-1"))
    for offered in _OFFERED:
        quality = _quality(offered, ranges)
        if quality > best_quality:
            best, best_quality = offered, quality
    if not best:
        raise SwiftError(406)
    return best


def _media_ranges(accept: str) -> list[tuple[str, float]]:
    ranges = []
    for part in accept.split(","):
        media, *parameters = (piece.strip() for piece in part.split(";"))
        quality = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip().lower() == "q":
                try:
                    quality = float(value)
                except ValueError:
                    quality = 0.0
        if media:
            ranges.append((media.lower(), quality))
    return ranges


def _quality(offered: str, ranges: Sequence[tuple[str, float]]) -> float:
    """The quality of the most specific range that covers a media type."""
    kind = offered.partition("/")[0]
    for pattern in (offered, f"{kind}/*", "*/*", "*"):
        for media, quality in ranges:
            if media == pattern:
                return quality
    return 0.0


def list_query(call: Call, settings: SwiftSettings) -> ListQuery:
    """The page that a request asks for. Raises SwiftError 412 for a limit beyond the announced one."""
    limit = settings.listing_limit
    given = call.parameters.get("limit", "")
    if given.isascii() and given.isdigit():
        limit = int(given[:20])
        if limit > settings.listing_limit:
            raise SwiftError(412, f"Maximum limit is {settings.listing_limit}")
    return ListQuery(
        prefix=call.parameter("prefix"),
        delimiter=call.parameter("delimiter"),
        marker=call.parameter("marker"),
        end_marker=call.parameter("end_marker"),
        limit=limit,
        reverse=call.parameters.get("reverse", "").lower() in ("true", "1", "yes", "on", "t", "y"),
    )


def rendered(items: Sequence[Item], media_type: str, root: str, name: str) -> bytes:
    """A page in the chosen form. `root` is what XML calls the whole ("account"), `name` the whole's name."""
    if media_type == TEXT:
        names = items.stored.names() if isinstance(items, ObjectPage) else [_name(item) for item in items]
        return b"\n".join([*names, b""])
    if media_type == JSON:
        if isinstance(items, ObjectPage):
            return json_page(items)
        objects = iter(json_objects([item for item in items if isinstance(item, ListedObject)]))
        return orjson.dumps([next(objects) if isinstance(item, ListedObject) else _json_row(item) for item in items])
    rows = "".join([_xml_row(item) for item in items])
    return (f'<?xml version="1.0" encoding="UTF-8"?>\n<{root} name={_xml_attribute(name)}>{rows}</{root}>').encode()


def _name(item: Item) -> bytes:
    return item.prefix if isinstance(item, ListedPrefix) else item.name


def _json_row(item: Item) -> dict[str, Any]:
    match item:
        case ListedObject():
            return json_objects([item])[0]
        case ListedContainer():
            return {
                "name": _text(item.name),
                "count": item.object_count,
                "bytes": item.size_bytes,
                "last_modified": iso_time(microseconds(item.timestamp)),
            }
        case ListedPrefix():
            return {"subdir": _text(item.prefix)}


def _xml_row(item: Item) -> str:
    if isinstance(item, ListedPrefix):
        prefix = _text(item.prefix)
        return f"<subdir name={_xml_attribute(prefix)}><name>{_xml(prefix)}</name></subdir>"
    kind = "object" if isinstance(item, ListedObject) else "container"
    fields = "".join(f"<{key}>{_xml(str(value))}</{key}>" for key, value in _json_row(item).items())
    return f"<{kind}>{fields}</{kind}>"


def _text(name: bytes) -> str:
    return name.decode("utf-8", "replace")


def _xml(text: str) -> str:
    return escape(_NOT_XML.sub("\ufffd", text))


def _xml_attribute(text: str) -> str:
    return quoteattr(_NOT_XML.sub("\ufffd", text))
