"""Images as objects of the store: in a container that no client can name, one object an image.

The scheduler knows images as streams of bytes (`scheduler.lifecycle.tools.ImageLibrary`); here they are read and
written with the store's own quorums, by the controller and by `ringstead image create` alike. An upload that breaks
off stores nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from proxy.model import Manifest, NoSuchContainer, NoSuchObject, PutObjectRequest, Segment, StoreError
from scheduler.hypervisor import ImageFormat, Refused, TryAgain
from scheduler.lifecycle.tools import ImageUnreadable
from scheduler.xen.images import disk_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from proxy.store import ObjectStore
    from scheduler.records.types import ImageRecord

ACCOUNT: Final = ".ringstead"
CONTAINER: Final = b"\x00images"
SEGMENTS: Final = b"\x00image-segments"
PIECE_BYTES: Final = 1 << 20
SEGMENT_BYTES: Final = 1 << 30
UNDO_S_MAX: Final = 30.0
VHD_COOKIE: Final = b"conectix"
VHD_FOOTER_BYTES: Final = 512


class StoreImages:
    """Images in one cluster's store."""

    def __init__(self, store: ObjectStore, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._store = store
        self._segment_bytes = segment_bytes

    def source(self, image: ImageRecord) -> StoredImage:
        """The bytes of an image."""
        image_format: ImageFormat = "vhd" if image.format == "vhd" else "raw"
        return StoredImage(self._store, image.object_name, image.size_bytes, image_format)

    async def save(self, object_name: str, pieces: AsyncIterator[bytes]) -> tuple[int, str]:
        """Store the pieces under that name; size and MD5 (hex). ImageUnreadable."""
        body, segments = _Pieces(pieces, self._segment_bytes), list[Segment]()
        try:
            await self._store.create_account(ACCOUNT, {})
            for container in (CONTAINER, SEGMENTS):
                await self._store.create_container(ACCOUNT, container, {})
            try:
                while await body.begin():
                    name = f"{object_name}/{len(segments):06d}".encode()
                    info = await self._store.put_object(ACCOUNT, SEGMENTS, name, body, PutObjectRequest())
                    segments.append(Segment(ACCOUNT, SEGMENTS, name, info.size_bytes, info.etag))
                manifest = Manifest(tuple(segments), owned=True)
                place = (ACCOUNT, CONTAINER, object_name.encode())
                etag = body.md5.hexdigest()
                await self._store.put_manifest(*place, manifest, etag, body.size_bytes, PutObjectRequest())
            except BaseException:
                await self._take_back(segments)
                raise
        except StoreError as error:
            raise ImageUnreadable(f"the image could not be stored: {error or type(error).__name__}") from error
        return body.size_bytes, body.md5.hexdigest()

    async def _take_back(self, segments: list[Segment]) -> None:
        """Remove what a broken upload left, as far as that can be done now."""
        with trio.CancelScope(shield=True), trio.move_on_after(UNDO_S_MAX):
            for segment in segments:
                with contextlib.suppress(StoreError):
                    await self._store.delete_object(ACCOUNT, SEGMENTS, segment.name)

    async def delete(self, object_name: str) -> None:
        """Remove it; content when it is gone. ImageUnreadable."""
        place = (ACCOUNT, CONTAINER, object_name.encode())
        try:
            info = await self._store.head_object(*place)
            await self._store.delete_object(*place)
        except (NoSuchObject, NoSuchContainer):
            return
        except StoreError as error:
            raise ImageUnreadable(f"the image's object could not be removed: {error}") from error
        # The store removes them, too, in its own time; a command that ends now would not see that through.
        await self._take_back(list(info.manifest.segments) if info.manifest is not None else [])


@dataclass(frozen=True)
class StoredImage:
    """One image's bytes, to be opened as often as needed."""

    store: ObjectStore
    object_name: str
    size_bytes: int
    format: ImageFormat

    @asynccontextmanager
    async def open(self) -> AsyncIterator[AsyncIterator[bytes]]:
        """The object's bytes. TryAgain where the store cannot give them now."""
        try:
            found = await self.store.open_object(ACCOUNT, CONTAINER, self.object_name.encode())
        except StoreError as error:
            raise TryAgain(f"the image's object cannot be read: {error or type(error).__name__}") from error
        stream = found.stream(0, self.size_bytes)

        async def pieces() -> AsyncIterator[bytes]:
            try:
                while piece := await stream.read():
                    yield bytes(piece)
            except StoreError as error:
                raise TryAgain(f"the image's object cannot be read: {error or type(error).__name__}") from error

        try:
            yield pieces()
        finally:
            await stream.aclose()
            await found.aclose()


class _Pieces:
    """An iterator of pieces as bodies of at most `segment_bytes` and a piece each."""

    def __init__(self, pieces: AsyncIterator[bytes], segment_bytes: int) -> None:
        self._pieces = pieces
        self._segment_bytes = segment_bytes
        self._next = b""
        self._sent = 0
        self._begun = False
        self.size_bytes = 0
        self.md5 = hashlib.md5(usedforsecurity=False)

    @property
    def length(self) -> int | None:
        """Not known beforehand."""
        return None

    async def begin(self) -> bool:
        """Begin a body; whether there is anything for it. An image of no byte is one empty body."""
        first, self._begun = not self._begun, True
        if not self._next:
            self._next = await anext(self._pieces, b"")
        self._sent = 0
        return bool(self._next) or first

    async def read(self) -> bytes:
        """The next piece of the body."""
        piece = self._next
        if not piece or self._sent >= self._segment_bytes:
            return b""
        self._next = await anext(self._pieces, b"")
        self._sent += len(piece)
        self.size_bytes += len(piece)
        self.md5.update(piece)
        return piece


def inspect_file(path: Path, image_format: str) -> tuple[ImageFormat, int, int]:
    """Format, size of the file, and size of the disk in it. `auto` looks for a VHD's footer. OSError, ValueError, also for
    a file whose head is another format's."""
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(VHD_FOOTER_BYTES)
        file.seek(max(0, size_bytes - VHD_FOOTER_BYTES))
        tail = file.read(VHD_FOOTER_BYTES)
    footer = tail if tail.startswith(VHD_COOKIE) else head if head.startswith(VHD_COOKIE) else None
    if image_format == "vhd" and footer is None:
        raise ValueError(f"{path} is no VHD: it has no footer that begins with {VHD_COOKIE.decode()}")
    if footer is None or image_format == "raw":
        if size_bytes and footer is None:
            try:
                disk_bytes(head, size_bytes, "raw")
            except Refused as error:
                raise ValueError(str(error)) from error
        return "raw", size_bytes, -(-size_bytes // 512) * 512
    try:
        return "vhd", size_bytes, disk_bytes(head, size_bytes, "vhd")
    except Refused as error:
        raise ValueError(str(error)) from error
