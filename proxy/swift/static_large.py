"""Static large objects: an object whose content is a list of other objects, or ranges of them.

The client uploads segments, then PUTs a JSON list of them with `?multipart-manifest=put`. Every segment is looked up, its
size and etag compared with what the list says, and all that is wrong is told at once. The object's etag is the MD5 of the
segments' etags (with `:RANGE;` behind one that is a range of its object).

The object model keeps that etag with the number of segments behind it, `…-3`, as S3 has the etags of multipart uploads:
S3's clients take an etag without it for the MD5 of the content, and call a good download corrupted. Swift's see it without.

This file is the format: the list parsed and checked, the etag, the list as GET gives it back. What asks the store is in
segments.py.

Invariant: a parsed entry names a container and an object that a client could name, and at most one range.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from proxy.model import ObjectInfo, Segment
from proxy.swift.errors import SwiftError
from proxy.swift.ranges import parse_ranges
from proxy.swift.settings import SwiftSettings
from proxy.swift.times import iso_time

_FIELDS = frozenset(("path", "etag", "size_bytes", "range"))


@dataclass(frozen=True, slots=True)
class ManifestEntry:
    """One segment as the client lists it."""

    path: str
    """As given, for messages."""
    container: bytes
    name: bytes
    etag: str | None
    size_bytes: int | None
    byte_range: str | None


def parse_manifest(data: bytes, settings: SwiftSettings) -> list[ManifestEntry]:
    """The entries of a manifest. Raises SwiftError: 400 with a line for each that is wrong, 413 for too many."""
    try:
        listed: Any = json.loads(data)
    except (ValueError, RecursionError):
        raise SwiftError(400, "Manifest must be valid JSON.") from None
    if not isinstance(listed, list):
        raise SwiftError(400, "Manifest must be a list.")
    if not listed:
        raise SwiftError(400, "Manifest must have at least one segment.")
    if len(listed) > settings.slo_segment_count_max:
        raise SwiftError(413, f"Number of segments must be <= {settings.slo_segment_count_max}")
    entries: list[ManifestEntry] = []
    problems: list[str] = []
    for index, row in enumerate(listed):
        try:
            entries.append(_parse_entry(row, settings))
        except ValueError as error:
            problems.append(f"Index {index}: {error}")
    if problems:
        raise SwiftError(400, "\n".join(problems))
    return entries


def _parse_entry(row: Any, settings: SwiftSettings) -> ManifestEntry:
    """Raises ValueError with what is wrong."""
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    unknown = sorted(set(row) - _FIELDS)
    if "data" in unknown:
        raise ValueError("inline data is not supported; upload it as a segment")
    if unknown:
        raise ValueError(f"extraneous keys {', '.join(map(json.dumps, unknown))}")
    path, etag, size_bytes, byte_range = (row.get(field) for field in ("path", "etag", "size_bytes", "range"))
    if not isinstance(path, str):
        raise ValueError("path must be a string")
    try:
        container, _, name = path.removeprefix("/").encode().partition(b"/")
    except UnicodeEncodeError:
        raise ValueError("path is not Unicode") from None
    if not container or not name or b"\x00" in container + name:
        raise ValueError("path does not refer to an object. Path must be of the form /container/object.")
    if len(container) > settings.container_name_bytes_max or len(name) > settings.object_name_bytes_max:
        raise ValueError("path is longer than a name may be")
    if etag is not None and not isinstance(etag, str):
        raise ValueError("etag must be a string or null")
    if isinstance(size_bytes, str) and size_bytes.isdecimal() and len(size_bytes) < 20:
        size_bytes = int(size_bytes)
    if size_bytes is not None and (not isinstance(size_bytes, int) or isinstance(size_bytes, bool) or size_bytes < 0):
        raise ValueError("invalid size_bytes")
    if byte_range is not None and (not isinstance(byte_range, str) or not byte_range.isascii() or "," in byte_range):
        raise ValueError("invalid range; give one, such as 0-99")
    return ManifestEntry(path, container, name, etag.strip('"') if etag else None, size_bytes, byte_range or None)


def checked_segment(entry: ManifestEntry, account: str, info: ObjectInfo) -> Segment | str:
    """The segment that an entry means, given the object that it names; or what is wrong with it."""
    if entry.size_bytes is not None and entry.size_bytes != info.size_bytes:
        return "Size Mismatch"
    if entry.etag is not None and entry.etag not in (info.etag, shown_etag(info)):
        return "Etag Mismatch"
    if not info.size_bytes:
        return "Too Small; each segment must be at least 1 byte."
    whole = Segment(account, entry.container, entry.name, info.size_bytes, info.etag)
    if entry.byte_range is None:
        return whole
    ranges = parse_ranges(b"bytes=" + entry.byte_range.encode(), info.size_bytes)
    if not ranges:
        return "Unsatisfiable Range"
    start, stop = ranges[0]
    if stop - start == info.size_bytes:
        return whole
    return Segment(account, entry.container, entry.name, stop - start, info.etag, start, whole=False)


def manifest_etag(segments: Sequence[Segment]) -> str:
    """The etag of the object that the segments make."""
    etags = hashlib.md5(usedforsecurity=False)
    for segment in segments:
        etag = _plain(segment.etag)
        etags.update((etag if segment.whole else f"{etag}:{_range(segment)};").encode())
    return etags.hexdigest()


def stored_etag(etag: str, segments: Sequence[Segment]) -> str:
    """The etag as the object model has it, which for S3's clients must tell that it is no MD5 of the content."""
    return f"{etag}-{len(segments)}"


def shown_etag(info: ObjectInfo) -> str:
    """An object's etag as Swift has it: without the number of parts."""
    return info.etag if info.manifest is None else _plain(info.etag)


def shown(info: ObjectInfo) -> ObjectInfo:
    """The object as conditions are to see it."""
    return info if info.manifest is None else replace(info, etag=_plain(info.etag))


def _plain(etag: str) -> str:
    return etag.partition("-")[0]


def manifest_document(info: ObjectInfo, *, raw: bool) -> tuple[bytes, bytes]:
    """The list of an object's segments as JSON, and that document's etag; `raw` gives the form that PUT takes.

    The parts of an S3 multipart upload have no names that a client could use: the list of such an object is empty.
    """
    assert info.manifest is not None
    rows: list[dict[str, Any]] = []
    for segment in info.manifest.segments if not info.manifest.owned else ():
        path = f"/{segment.container.decode('utf-8', 'replace')}/{segment.name.decode('utf-8', 'replace')}"
        row: dict[str, Any]
        if raw:
            row = {"path": path, "etag": _plain(segment.etag)}
            if segment.whole:
                row["size_bytes"] = segment.size_bytes
        else:
            row = {
                "name": path,
                "hash": _plain(segment.etag),
                "bytes": segment.size_bytes,
                "content_type": "application/octet-stream",
                "last_modified": iso_time(info.modified_us),
            }
        if not segment.whole:
            row["range"] = _range(segment)
        rows.append(row)
    document = orjson.dumps(rows)
    return document, hashlib.md5(document, usedforsecurity=False).hexdigest().encode()


def _range(segment: Segment) -> str:
    return f"{segment.start}-{segment.start + segment.size_bytes - 1}"
