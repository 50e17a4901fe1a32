"""Segments that are to go with an object that is about to be deleted: written down first, so that a crash forgets none.

Problem: the parts of a multipart upload are known from its manifest alone. Who deletes the manifest and dies leaves parts
that nothing names; who deletes the parts first and dies leaves an object with holes, which is worse where the object turns
out to have been overwritten or kept after all.

Idea: before the manifest is deleted its bytes are copied into an object of an internal container, under the key and version
that they belong to. Whoever deletes goes on to delete the segments and then that note; whoever finds the note later (it is
the only thing in that container) does the same. A note whose manifest is still there says that the deletion never came
about, and is thrown away when it is old.

Invariants:
- No segment is deleted while the version of the object that the note was made for is there, or may be there: a majority
  of the object's own devices has to say that it is not.
- A segment that the object's present manifest names as well (an upload completed twice) stays.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

from proxy.entry import unpack_manifest
from proxy.expiry_queue import ACCOUNT, rank_of
from proxy.model import ListedObject, ListQuery, NoSuchContainer, NoSuchObject, PutObjectRequest, Segment
from proxy.names import container_key
from proxy.object_puts import ObjectPuts
from proxy.streams import BytesStream, StreamBody
from proxy.versions import find_certainly
from storage_node.timestamp import microseconds

CONTAINER_NAME: Final = b"\x00leavings"
STALE_US: Final = 3_600_000_000
"""A note of this age whose object is still there was made by someone who did not go on."""
_DIGITS: Final = 20

Take = Callable[[], Awaitable[None]]
"""Waited for before each deletion: the pace."""


class Leaving(NamedTuple):
    """A note: the segments of what stood at `key` as written at `timestamp`."""

    key: bytes
    timestamp: int

    @property
    def name(self) -> bytes:
        """What the note is called."""
        return b"%020d" % self.timestamp + self.key


def parse_leaving(name: bytes) -> Leaving | None:
    """A note's name taken apart; None for what is none."""
    digits, key = name[:_DIGITS], name[_DIGITS:]
    return Leaving(key, int(digits)) if digits.isdigit() and key.startswith(b"/") else None


class Leavings:
    """The notes of one cluster."""

    def __init__(self, store: ObjectPuts) -> None:
        self._store = store

    def rank(self) -> int | None:
        """How near the notes are to this machine (see `rank_of`)."""
        return rank_of(self._store, container_key(ACCOUNT, CONTAINER_NAME))

    async def note(self, leaving: Leaving, manifest: bytes) -> None:
        """Write down a manifest. Raises as `put_object`."""
        body = StreamBody(BytesStream(manifest), len(manifest))
        try:
            await self._store.put_object(ACCOUNT, CONTAINER_NAME, leaving.name, body, PutObjectRequest())
        except NoSuchContainer:
            await self._store.create_container(ACCOUNT, CONTAINER_NAME, {})
            body = StreamBody(BytesStream(manifest), len(manifest))
            await self._store.put_object(ACCOUNT, CONTAINER_NAME, leaving.name, body, PutObjectRequest())

    async def listed(self, limit: int) -> Sequence[Leaving]:
        """The oldest notes. Raises Unavailable."""
        try:
            page = await self._store.list_objects(ACCOUNT, CONTAINER_NAME, ListQuery(limit=limit))
        except NoSuchContainer:
            return []
        found = (parse_leaving(item.name) for item in page.items if isinstance(item, ListedObject))
        return [leaving for leaving in found if leaving is not None]

    async def clear(self, leaving: Leaving, take: Take, now_us: int) -> bool:
        """Delete what a note names, then the note; False while its object is there. Raises StoreError."""
        store = self._store
        version = await find_certainly(store.cluster, leaving.key)
        entry = version.entry
        if entry is not None and not entry.deleted and entry.timestamp <= leaving.timestamp:
            if now_us - microseconds(await self._noted(leaving)) > STALE_US:
                await self._forget(leaving)
            return False
        kept: set[Segment] = set()
        if entry is not None and entry.manifest and not entry.deleted:
            kept.update(unpack_manifest(await store.read_version(version)).segments)
        for segment in await self._segments(leaving):
            if segment in kept:
                continue
            await take()
            try:
                await store.delete_object(segment.account, segment.container, segment.name)
            except (NoSuchObject, NoSuchContainer):
                continue
        await self._forget(leaving)
        return True

    async def _noted(self, leaving: Leaving) -> int:
        try:
            return (await self._store.head_object(ACCOUNT, CONTAINER_NAME, leaving.name)).timestamp
        except (NoSuchObject, NoSuchContainer):
            return 0

    async def _segments(self, leaving: Leaving) -> Sequence[Segment]:
        try:
            opened = await self._store.open_object(ACCOUNT, CONTAINER_NAME, leaving.name)
        except (NoSuchObject, NoSuchContainer):
            return ()
        stream = opened.stream(0, opened.info.size_bytes)
        try:
            pieces = []
            while piece := await stream.read():
                pieces.append(bytes(piece))
        finally:
            await stream.aclose()
        return unpack_manifest(b"".join(pieces)).segments

    async def _forget(self, leaving: Leaving) -> None:
        try:
            await self._store.delete_object(ACCOUNT, CONTAINER_NAME, leaving.name)
        except (NoSuchObject, NoSuchContainer):
            return
