"""The keys of a page in a listing's document, written from the rows as they are stored (see proxy.object_page).

Problem and idea are Swift's (proxy.swift.object_rows): a format for a row, in which a key may stand as it is if nothing in
all of the page's keys needs to be escaped. Contents (ListObjects) and Version (ListObjectVersions) are two formats.

Invariant: what `element_of` makes of each object, one behind the other.
"""

from __future__ import annotations

import string
import struct
from collections.abc import Callable, Sequence
from typing import Final

from proxy.model import ListedObject, ListedPrefix
from proxy.object_page import PLAIN, PLAIN_MARK, ObjectPage, object_of, spelled_tails, without
from proxy.s3.dates import ISO_SECONDS, iso_date
from storage_node.timestamp import WRITER_BITS, microseconds

CONTENTS: Final = (
    "<Contents><Key>%s</Key><LastModified>%s</LastModified><ETag>&quot;%s&quot;</ETag>%s<Size>%d</Size>"
    "{owner}<StorageClass>STANDARD</StorageClass></Contents>"
)
VERSION: Final = (
    "<Version><Key>%s</Key><VersionId>null</VersionId><IsLatest>true</IsLatest><LastModified>%s</LastModified>"
    "<ETag>&quot;%s&quot;</ETag>%s<Size>%d</Size>{owner}<StorageClass>STANDARD</StorageClass></Version>"
)
_ESCAPED_XML: Final = bytes(code for code in range(0x20) if code not in (9, 10)) + b'&<>"'
_ESCAPED_URL: Final = bytes(set(range(256)) - set((string.ascii_letters + string.digits + "_.-~/").encode()))


def elements(
    items: Sequence[ListedObject | ListedPrefix], form: str, owner: str, name: Callable[[bytes], str], *, url: bool
) -> list[bytes]:
    """The objects of a page. `form` is CONTENTS or VERSION, `owner` an element or nothing, `name` spells a key."""
    form = form.replace("{owner}", owner.replace("%", "%%"))
    if isinstance(items, ObjectPage):
        try:
            return _rows(items, form, name, url)
        except struct.error:  # a value that is too short for PLAIN
            pass
    return [element_of(item, form, name).encode() for item in items if isinstance(item, ListedObject)]


def element_of(item: ListedObject, form: str, name: Callable[[bytes], str]) -> str:
    """One object."""
    date = iso_date(microseconds(item.timestamp))
    return form % (name(item.name), date, item.etag, _checksum(item.checksum_algorithm), item.size_bytes)


def _rows(page: ObjectPage, form: str, name: Callable[[bytes], str], url: bool) -> list[bytes]:
    keys = page.stored.names()
    if not (without(keys, _ESCAPED_URL) if url else without(keys, _ESCAPED_XML) and b"".join(keys).isascii()):
        keys = [name(key).encode() for key in keys]
    # Local names: a thousand times each.
    unpack, tail_at, bits, second_us, seconds = PLAIN.unpack_from, PLAIN.size, WRITER_BITS, 1_000_000, ISO_SECONDS
    row, plain = form.encode(), PLAIN_MARK
    checksums = spelled_tails(lambda _, algorithm: _checksum(algorithm).encode())
    return [
        row % (key, seconds[us // second_us], etag, checksums[value[tail_at:]], size_bytes)
        if mark == plain and etag.isalnum()
        else element_of(object_of((stored, value)), form, name).encode()
        for key, (stored, value) in zip(keys, page.stored.pairs, strict=True)
        for timestamp, sub_timestamp, size_bytes, mark, etag in (unpack(value),)
        for us in ((timestamp if timestamp > sub_timestamp else sub_timestamp) >> bits,)
    ]


def _checksum(algorithm: str) -> str:
    return f"<ChecksumAlgorithm>{algorithm}</ChecksumAlgorithm>" if algorithm else ""
