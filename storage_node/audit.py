"""Auditing a page of a device: each value of the index held against the record that it was made of.

Problem: what is never read rots unseen. A scrub has to read everything now and then, beside a device that lives, from
another process, and say exactly which object, catalog or row is in question.

Idea: go through the index in its order, a page at a time. Each value names its record: read it, compare its checksum, and
compare what it says with what the index says. Small objects are verified whole by that; of a blob the table is read here,
and its bytes are for the caller to stream. What is in the log and not in the index any more is dead, and of no interest.

A finding is a question, not a verdict: compaction moves records under a reader. Who acts on one looks a second time.

Reads only, and no more at once than `bytes_max`, or one record.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

from storage_node import rows
from storage_node.catalog import unpack_items
from storage_node.errors import CorruptData
from storage_node.index import (
    PLACE,
    IndexedCatalog,
    IndexedEntry,
    IndexedRow,
    decode_catalog,
    decode_entry,
    decode_row,
    public_catalog,
)
from storage_node.log import PlaceGone
from storage_node.operations import Catalog, Entry, ListedEntry, Space
from storage_node.record import BLOB, CATALOG, ROW, SPACE_SHIFT, Record, decode

if TYPE_CHECKING:
    from storage_node.view import View


KIND_OFFSET = PLACE.size
"""Where an object's value says what kind of record it was made of."""


class AuditEntries(NamedTuple):
    """Audit objects or catalogs from `start` on, in the order of their hashes."""

    space: int
    start: bytes
    limit: int
    bytes_max: int


class AuditRows(NamedTuple):
    """Audit rows of a catalog from the name `start` on."""

    space: int
    hash: bytes
    start: bytes
    limit: int


class Finding(NamedTuple):
    """Something whose record is not what the index says."""

    space: int
    hash: bytes
    key: bytes
    """The object's or catalog's."""
    name: bytes
    """The row's; empty for an object or catalog."""
    what: str


class Audited(NamedTuple):
    """A page of an audit."""

    value_count: int
    """That were looked at."""
    read_bytes: int
    """Of records."""
    findings: tuple[Finding, ...]
    entries: tuple[ListedEntry, ...]
    """What was looked at, if objects or catalogs were."""
    files: tuple[ListedEntry, ...]
    """Those of them whose bytes lie in files, and were not read."""
    next_start: bytes | None
    """Where to go on; None at the end."""


def audit_entries(view: View, operation: AuditEntries) -> Audited:
    """See AuditEntries."""
    space, start, limit, bytes_max = operation
    findings: list[Finding] = []
    entries: list[ListedEntry] = []
    files: list[ListedEntry] = []
    read_bytes = 0
    for hash_, value in view.entries(space, start, None):
        if len(entries) >= limit or read_bytes >= bytes_max:
            return Audited(len(entries), read_bytes, tuple(findings), tuple(entries), tuple(files), hash_)
        key, entry, what = _audit_object(view, hash_, value) if space == Space.OBJECT else _audit_catalog(view, value)
        read_bytes += PLACE.unpack_from(value)[2]
        entries.append(ListedEntry(hash_, key, entry))
        if what:
            findings.append(Finding(space, hash_, key, b"", what))
        elif space == Space.OBJECT and value[KIND_OFFSET] == BLOB:
            files.append(entries[-1])
    return Audited(len(entries), read_bytes, tuple(findings), tuple(entries), tuple(files), None)


def audit_rows(view: View, operation: AuditRows) -> Audited:
    """See AuditRows."""
    space, hash_, start, limit = operation
    value = view.value(bytes((space,)) + hash_)
    if value is None:
        return Audited(0, 0, (), (), (), None)
    key = decode_catalog(value).key
    findings: list[Finding] = []
    count = read_bytes = 0
    base = rows.row_base(space, hash_)
    for name, row_value in rows.merged(
        rows.forward(view.recent, base, start), rows.forward(view.index, base, start), False
    ):
        if count >= limit:
            return Audited(count, read_bytes, tuple(findings), (), (), name)
        count += 1
        read_bytes += PLACE.unpack_from(row_value)[2]
        what = _audit_row(view, space, hash_, name, row_value)
        if what:
            findings.append(Finding(space, hash_, key, name, what))
    return Audited(count, read_bytes, tuple(findings), (), (), None)


def _audit_object(view: View, hash_: bytes, value: bytes) -> tuple[bytes, Entry, str]:
    item = decode_entry(value)
    try:
        record = _record_of(view, value)
        if not same_entry(item, hash_, record):
            return item.key, item.entry(), "its record says something else"
        if item.blob_id:
            with closing(view.open_blob(hash_, item)):
                pass
    except (CorruptData, PlaceGone, OSError) as error:
        return item.key, item.entry(), str(error) or "a file is missing"
    return item.key, item.entry(), ""


def _audit_catalog(view: View, value: bytes) -> tuple[bytes, Catalog, str]:
    found = decode_catalog(value)
    try:
        items = unpack_items(found.meta)
    except CorruptData as error:
        return found.key, public_catalog(found, {}), str(error)
    catalog = public_catalog(found, items)
    if not found.length:
        return found.key, catalog, "it has rows, and no record of its own"
    try:
        record = _record_of(view, value)
    except (CorruptData, PlaceGone, OSError) as error:
        return found.key, catalog, str(error) or "a file is missing"
    return found.key, catalog, "" if same_catalog(found, record) else "its record says something else"


def _audit_row(view: View, space: int, hash_: bytes, name: bytes, value: bytes) -> str:
    try:
        record = _record_of(view, value)
    except (CorruptData, PlaceGone, OSError) as error:
        return str(error) or "a file is missing"
    return "" if same_row(decode_row(value), space, hash_, name, record) else "its record says something else"


def _record_of(view: View, value: bytes) -> Record:
    """The record that a value was made of. Raises CorruptData, PlaceGone, OSError."""
    segment, offset, length = PLACE.unpack_from(value)
    record = decode(view.record(segment, offset, length))
    if record is None:
        raise CorruptData(f"segment {segment}: the record at {offset} makes no sense")
    return record


def same_entry(item: IndexedEntry, hash_: bytes, record: Record) -> bool:
    """Whether a record says of an object what the index says."""
    return (
        (record.kind, record.flags, record.hash, record.timestamp, record.timestamp_2)
        == (item.kind, item.flags, hash_, item.timestamp, item.meta_timestamp)
        and (record.size, record.key, record.meta) == (item.size, item.key, item.meta)
        and (not item.blob_id or (record.data, record.extra) == (item.blob_id, item.blob_checksum))
    )


def same_catalog(found: IndexedCatalog, record: Record) -> bool:
    """Whether a record says of a catalog what the index says."""
    says = (record.kind, record.key, record.timestamp, record.timestamp_2, record.size, record.meta)
    return says == (CATALOG, found.key, found.created, found.deleted, found.touched, found.meta)


def same_row(row: IndexedRow, space: int, hash_: bytes, name: bytes, record: Record) -> bool:
    """Whether a record says of a row what the index says."""
    says = (record.kind, record.flags, record.hash, record.key, record.timestamp, record.timestamp_2)
    flags = row.deleted | space << SPACE_SHIFT
    return says == (ROW, flags, hash_, name, row.timestamp, row.sub_timestamp) and (
        record.extra,
        record.size,
        record.meta,
    ) == (row.object_count, row.size_bytes, row.payload)
