"""Dynamic large objects: one whose metadata `dlo` names a container and a prefix, and that is the concatenation of all
objects there whose names begin with it, in the order of their names.

Problem: Swift's clients make them, and the S3 dialect should read what they made.

Idea: when such an object is asked for its segments are listed, and it becomes a manifest like any other: ranges, lengths
and streams need nothing new. Its size and etag are as true as that listing; a segment that is overwritten while the object
streams ends the stream (the client sees it cut) rather than mixing two versions.

Rejected: streaming without knowing the size (no Content-Length, no ranges), which is what an unbounded number of segments
would need: `SEGMENTS_MAX` bounds it instead.

Invariant: an object is never its own segment.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Final
from urllib.parse import unquote_to_bytes

from proxy.containers import ContainerStore
from proxy.model import (
    ListedObject,
    ListQuery,
    Manifest,
    NoSuchAccount,
    NoSuchContainer,
    ObjectInfo,
    Segment,
    SegmentMissing,
)
from proxy.names import container_key, internal

DLO: Final = "dlo"
SEGMENTS_MAX: Final = 20_000
"""Of one object. More are refused, since all are listed to know its size."""


def parse_dlo(value: str) -> tuple[bytes, bytes] | None:
    """Container and prefix of an object's segments, which are percent-encoded; None for what names none."""
    container, _, prefix = unquote_to_bytes(value).strip(b"/").partition(b"/")
    if not container or not prefix or internal(container) or "?" in value or "&" in value:
        return None
    return container, prefix


async def assembled(store: ContainerStore, account: str, key: bytes, info: ObjectInfo) -> ObjectInfo:
    """What the segments of the object at `key` make of it: a manifest, with an etag as multipart uploads have it.

    Raises SegmentMissing where there are too many segments, Unavailable.
    """
    place = parse_dlo(info.metadata[DLO])
    if place is None:
        return info
    container, prefix = place
    beginning = container_key(account, container) + b"/"
    segments: list[Segment] = []
    timestamp = max(info.timestamp, info.meta_timestamp)
    etags = hashlib.md5(usedforsecurity=False)
    marker = b""
    while True:
        try:
            page = await store.list_objects(account, container, ListQuery(prefix=prefix, marker=marker))
        except (NoSuchContainer, NoSuchAccount):
            break
        for item in page.items:
            if isinstance(item, ListedObject) and beginning + item.name != key:
                segments.append(Segment(account, container, item.name, item.size_bytes, item.etag))
                etags.update(item.etag.partition("-")[0].encode())
                timestamp = max(timestamp, item.timestamp)
        if len(segments) > SEGMENTS_MAX:
            raise SegmentMissing(f"the object has more than {SEGMENTS_MAX} segments")
        if not page.truncated:
            break
        marker = page.next_marker
    return replace(
        info,
        meta_timestamp=timestamp,
        size_bytes=sum(segment.size_bytes for segment in segments),
        etag=f"{etags.hexdigest()}-{len(segments)}",
        manifest=Manifest(tuple(segments), owned=False),
    )
