"""What the proxy keeps in metadata, manifests and rows, as bytes.

The devices take them for opaque. Each is a msgpack array that begins with its version, so that a later form can be told
from this one; what does not unpack to the expected shape is `CorruptEntry`, never half an object.

A manifest's segments mostly lie in one container and differ in the end of their names and in their sizes, and there may be
10,000 of them: the account, container and the names' common beginning are kept once, an MD5 as 16 bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgpack

from proxy.model import CERTAIN, Consistency, ListedObject, Manifest, Metadata, ObjectInfo, Segment
from storage_node.operations import Entry, Row

_unpack = msgpack.unpackb
_META_VERSION = 1
_MANIFEST_VERSION = 1


class CorruptEntry(Exception):
    """Stored metadata that is not what the proxy writes: a defect of ours or of a disk that lies with good checksums."""


def pack_meta(etag: str, content_type: str, size_bytes: int, metadata: Metadata) -> bytes:
    """An object's metadata as the devices keep it. `size_bytes` is what GET gives."""
    items = {encode_text(name): encode_text(value) for name, value in metadata.items()}
    packed: bytes = msgpack.packb((_META_VERSION, etag, encode_text(content_type), size_bytes, items))
    return packed


def object_info(entry: Entry, consistency: Consistency = CERTAIN, manifest: Manifest | None = None) -> ObjectInfo:
    """What HEAD says, from a device's entry."""
    try:
        version, etag, content_type, size_bytes, items = msgpack.unpackb(entry.meta)
        if version != _META_VERSION:
            raise CorruptEntry(f"object metadata of version {version}; this proxy knows {_META_VERSION}")
        metadata: Mapping[str, str] = (
            {decode_text(name): decode_text(value) for name, value in items.items()} if items else {}
        )
        return ObjectInfo(
            entry.timestamp,
            entry.meta_timestamp,
            size_bytes,
            etag,
            decode_text(content_type),
            metadata,
            manifest,
            consistency,
        )
    except (ValueError, TypeError, AttributeError, msgpack.UnpackException) as error:
        raise CorruptEntry(f"object metadata does not unpack: {error}") from error


def pack_manifest(manifest: Manifest) -> bytes:
    """A manifest as the devices keep it (the object's data)."""
    places: dict[tuple[str, bytes], int] = {}
    names = [segment.name for segment in manifest.segments]
    beginning = _common_beginning(names)
    rows: list[tuple[Any, ...]] = []
    for segment in manifest.segments:
        place = places.setdefault((segment.account, segment.container), len(places))
        etag: str | bytes = segment.etag
        if len(segment.etag) == 32 and segment.etag == segment.etag.lower():
            try:
                etag = bytes.fromhex(segment.etag)
            except ValueError:
                etag = segment.etag
        row = (place, segment.name[len(beginning) :], segment.size_bytes, etag)
        rows.append(row if segment.whole else (*row, segment.start))
    packed: bytes = msgpack.packb((_MANIFEST_VERSION, manifest.owned, list(places), beginning, rows))
    return packed


def unpack_manifest(data: bytes) -> Manifest:
    """The reverse of `pack_manifest`. Raises CorruptEntry."""
    try:
        version, owned, places, beginning, rows = msgpack.unpackb(data)
        if version != _MANIFEST_VERSION:
            raise CorruptEntry(f"manifest of version {version}; this proxy knows {_MANIFEST_VERSION}")
        segments = []
        for place, ending, size_bytes, etag, *start in rows:
            account, container = places[place]
            segments.append(
                Segment(
                    account,
                    container,
                    beginning + ending,
                    size_bytes,
                    etag.hex() if isinstance(etag, bytes) else etag,
                    start[0] if start else 0,
                    not start,
                )
            )
        return Manifest(tuple(segments), owned)
    except (ValueError, TypeError, IndexError, msgpack.UnpackException) as error:
        raise CorruptEntry(f"manifest does not unpack: {error}") from error


def listed_objects(rows: Iterable[Row]) -> tuple[ListedObject, ...]:
    """A container's rows as a listing shows them: a thousand a page, so without a call for each but the unpacking."""
    new = tuple.__new__
    try:
        return tuple(
            [
                new(
                    ListedObject,
                    (
                        name,
                        timestamp if timestamp > sub_timestamp else sub_timestamp,
                        size_bytes,
                        etag,
                        content_type,
                        algorithm,
                    ),
                )
                for name, timestamp, sub_timestamp, _, _, size_bytes, payload in rows
                for etag, content_type, algorithm in (_unpack(payload),)
            ]
        )
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise CorruptEntry(f"a listing's row does not unpack: {error}") from error


def row_payload(etag: str, content_type: str, checksum_algorithm: str) -> bytes:
    """What a container's row says beside name, times and size."""
    packed: bytes = msgpack.packb((etag, content_type, checksum_algorithm))
    return packed


def encode_text(text: str) -> bytes:
    """Metadata as bytes; what was not UTF-8 when it came goes back as it was."""
    return text.encode("utf-8", "surrogateescape")


def decode_text(value: bytes) -> str:
    """The reverse of `encode_text`."""
    return value.decode("utf-8", "surrogateescape")


def _common_beginning(names: list[bytes]) -> bytes:
    """What all names begin with: that of the first and the last in order, since the others lie between."""
    if not names:
        return b""
    first, last = min(names), max(names)
    length = 0
    for one, other in zip(first, last, strict=False):
        if one != other:
            break
        length += 1
    return first[:length]
