"""A page of objects as JSON, written from the rows as they are stored (see proxy.object_page).

Problem: of a thousand rows a dictionary each, for an encoder that takes them apart again, cost more than all else.

Idea: one format for a row, into which go the name's bytes, the ETag's bytes, two numbers and two texts that other
rows share: the content type, and the second of the last change. A name may stand as it is if there is nothing in all of
the page's names that JSON escapes, which one look at them together tells; else each is escaped by the encoder.

Invariant: byte for byte what orjson makes of the dictionaries of `json_objects`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

import orjson

from proxy.model import ListedObject
from proxy.object_page import PLAIN, PLAIN_MARK, ObjectPage, all_utf8, object_of, spelled_tails, without
from proxy.swift.times import ISO_SECONDS, iso_second
from storage_node.timestamp import WRITER_BITS

_SECOND_US: Final = 1_000_000
_ESCAPED: Final = bytes(range(0x20)) + b'"\\'
"""What JSON does not take in a string; every byte beyond is as it is."""
_ROW: Final = b'{"name":"%b","hash":"%b","bytes":%d,"content_type":"%b","last_modified":"%b%d"}'
_ROW_EARLY: Final = _ROW.replace(b"%b%d", b"%b%06d")
"""For the first tenth of a second, whose fraction begins with zeros. Else padding would cost a quarter of the format."""
_PADDED_US: Final = 100_000


def json_page(page: ObjectPage) -> bytes:
    """The document. Raises CorruptEntry."""
    names = page.stored.names()
    if not (without(names, _ESCAPED) and all_utf8(names)):
        names = [_inside(name.decode("utf-8", "replace")) for name in names]
    try:
        rows = _rows(page, names)
    except struct.error:  # a value that is too short for PLAIN
        return orjson.dumps(json_objects(page))
    if not rows:
        return b"[]"
    # The brackets go to the outer rows: around the whole they would cost another copy of it.
    rows[0] = b"[" + rows[0]
    rows[-1] += b"]"
    return b",".join(rows)


def _rows(page: ObjectPage, names: list[bytes]) -> list[bytes]:
    # Local names: a thousand times each.
    unpack, tail_at, bits, second_us, seconds = PLAIN.unpack_from, PLAIN.size, WRITER_BITS, _SECOND_US, ISO_SECONDS
    row, row_early, padded_us, plain = _ROW, _ROW_EARLY, _PADDED_US, PLAIN_MARK
    types = spelled_tails(_content_type)
    return [
        (row if (fraction_us := us % second_us) >= padded_us else row_early)
        % (name, etag, size_bytes, types[value[tail_at:]], seconds[us // second_us], fraction_us)
        if mark == plain and etag.isalnum()
        else orjson.dumps(json_objects([object_of((key, value))])[0])
        for name, (key, value) in zip(names, page.stored.pairs, strict=True)
        for timestamp, sub_timestamp, size_bytes, mark, etag in (unpack(value),)
        for us in ((timestamp if timestamp > sub_timestamp else sub_timestamp) >> bits,)
    ]


def json_objects(items: Iterable[ListedObject]) -> list[dict[str, str | int]]:
    """The rows for an encoder.

    Objects whose names stand together were often written in the same second, so its text is kept from one to the next.
    """
    rows: list[dict[str, str | int]] = []
    second, beginning = -1, ""
    for name, timestamp, size_bytes, etag, content_type, _ in items:
        us = timestamp >> WRITER_BITS
        if us // _SECOND_US != second:
            second = us // _SECOND_US
            beginning = iso_second(second)
        rows.append(
            {
                "name": name.decode("utf-8", "replace"),
                "hash": etag if len(etag) == 32 else etag.partition("-")[0],
                "bytes": size_bytes,
                "content_type": content_type if content_type.isascii() else _plain(content_type),
                "last_modified": beginning + str(us + _SECOND_US)[-6:],
            }
        )
    return rows


def _content_type(content_type: str, _: str) -> bytes:
    return _inside(_plain(content_type))


def _inside(text: str) -> bytes:
    """A JSON string without its quotes."""
    return orjson.dumps(text)[1:-1]


def _plain(text: str) -> str:
    """Text that JSON can say: lone surrogates stand for bytes that were no UTF-8."""
    return text if text.isascii() else text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
