"""Dynamic large objects: an object whose X-Object-Manifest names a container and a prefix, and that is the concatenation of
all objects there whose names begin with it, in the order of their names.

The segments are listed when the object is asked for, so its size and etag are as true as that listing; a segment that is
overwritten while the object streams ends the stream (the client sees it cut) rather than mixing two versions. Its etag is
the MD5 of the segments' etags, as for static ones.

Rejected: streaming without knowing the size (no Content-Length, no ranges), which is what an unbounded number of segments
would need: `dlo_segment_count_max` bounds it instead.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from proxy.model import (
    ListedObject,
    ListQuery,
    Manifest,
    NoSuchAccount,
    NoSuchContainer,
    ObjectInfo,
    ObjectStream,
    Segment,
)
from proxy.store import ObjectName, ObjectStore
from proxy.streams import ManifestStream
from proxy.swift.call import Call, Service, check_read
from proxy.swift.errors import SwiftError
from proxy.swift.metadata import DLO, split_dlo


async def resolved(service: Service, call: Call, name: ObjectName, info: ObjectInfo) -> ObjectInfo:
    """What a dynamic large object's segments make of it. Raises SwiftError 401 or 403 where they may not be listed."""
    container, prefix = split_dlo(info.metadata[DLO])
    account = name.account
    await check_read(service, call, account, container)
    segments: list[Segment] = []
    timestamp = max(info.timestamp, info.meta_timestamp)
    etags = hashlib.md5(usedforsecurity=False)
    marker = b""
    while True:
        try:
            page = await service.store.list_objects(account, container, ListQuery(prefix=prefix, marker=marker))
        except (NoSuchContainer, NoSuchAccount):
            break
        for item in page.items:
            if isinstance(item, ListedObject) and name != (account, container, item.name):
                segments.append(Segment(account, container, item.name, item.size_bytes, item.etag))
                etags.update(item.etag.encode())
                timestamp = max(timestamp, item.timestamp)
        if len(segments) > service.settings.dlo_segment_count_max:
            raise SwiftError(409, f"the object has more than {service.settings.dlo_segment_count_max} segments")
        if not page.truncated:
            break
        marker = page.next_marker
    return replace(
        info,
        meta_timestamp=timestamp,
        size_bytes=sum(segment.size_bytes for segment in segments),
        etag=etags.hexdigest(),
        manifest=Manifest(tuple(segments), owned=False),
    )


class DynamicObject:
    """A dynamic large object, open for reading."""

    __slots__ = ("_store", "info", "small")

    def __init__(self, store: ObjectStore, info: ObjectInfo) -> None:
        self._store = store
        self.info = info
        self.small: bytes | None = None

    def stream(self, start: int, stop: int) -> ObjectStream:
        """Bytes start up to, not including, stop."""
        assert self.info.manifest is not None
        return ManifestStream(self.info.manifest.segments, start, stop, self._store.open_segment)

    async def aclose(self) -> None:
        """There is nothing to let go of: segments are opened one by one by the stream."""
