"""Images in the store: whatever their size they come back as they went, and leave nothing when they go or break."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.model import ListQuery, NoSuchContainer
from ringstead.services.controller.images import ACCOUNT, CONTAINER, SEGMENTS, StoreImages, inspect_file
from scheduler.hypervisor import TryAgain
from scheduler.records.types import ImageRecord, ImageState
from tests.support.small_cluster import SmallCluster, small_cluster

SEGMENT_BYTES = 300_000


async def pieces(content: bytes, piece_bytes: int = 100_000, *, break_at: int | None = None) -> AsyncIterator[bytes]:
    """The content, piece by piece; breaking off where that is asked for."""
    for start in range(0, len(content), piece_bytes):
        if break_at is not None and start >= break_at:
            raise OSError("the file went away")
        yield content[start : start + piece_bytes]


async def names(cluster: SmallCluster, container: bytes) -> list[bytes]:
    """What a container lists."""
    try:
        page = await cluster.store.list_objects(ACCOUNT, container, ListQuery())
    except NoSuchContainer:
        return []
    return [item.name for item in page.items]


def record(size_bytes: int) -> ImageRecord:
    """An image's record."""
    return ImageRecord("i", "i", ImageState.READY, "raw", size_bytes, size_bytes, "image-1", "", 0.0)


@pytest.mark.parametrize("size", [0, 1, 100_000, 299_999, 300_000, 300_001, 1_000_000])
async def test_an_image_comes_back_as_it_went(size: int) -> None:
    """Of any size, in one segment or several; deleted, neither it nor a segment is left."""
    content = os.urandom(size)
    async with small_cluster() as cluster:
        images = StoreImages(cluster.store, segment_bytes=SEGMENT_BYTES)
        saved = await images.save("image-1", pieces(content))
        assert saved == (size, hashlib.md5(content).hexdigest())
        for _ in range(2):
            async with images.source(record(size)).open() as stream:
                assert b"".join([piece async for piece in stream]) == content
        assert len(await names(cluster, SEGMENTS)) == max(1, -(-size // SEGMENT_BYTES))
        for _ in range(2):
            await images.delete("image-1")
        assert await names(cluster, CONTAINER) == await names(cluster, SEGMENTS) == []
        with pytest.raises(TryAgain):
            async with images.source(record(size)).open():
                raise AssertionError("it is gone")


async def test_an_upload_that_breaks_off_leaves_nothing() -> None:
    """Wherever the file breaks off, there is no image and no segment."""
    content = os.urandom(1_000_000)
    async with small_cluster() as cluster:
        images = StoreImages(cluster.store, segment_bytes=SEGMENT_BYTES)
        for break_at in (0, 100_000, 500_000, 900_000):
            with pytest.raises(OSError, match="went away"):
                await images.save("image-1", pieces(content, break_at=break_at))
            assert await names(cluster, CONTAINER) == await names(cluster, SEGMENTS) == []


def test_files_are_what_they_look_like(tmp_path: Path) -> None:
    """A VHD is known by its footer and gives the size of its disk; one that pools do not import is refused before it is
    stored; everything else is raw."""
    footer = b"conectix" + bytes(40) + (5 << 30).to_bytes(8, "big") + bytes(456)
    path = tmp_path / "disk"
    for content, wanted, found in (
        (b"x" * 1000, "auto", ("raw", 1000, 1024)),
        (b"x" * 1000 + footer, "raw", ("raw", 1512, 1536)),
        (footer + b"x" * 1000, "auto", ("vhd", 1512, 5 << 30)),
        (footer + b"x" * 1000, "raw", ("raw", 1512, 1536)),
    ):
        path.write_bytes(content)
        assert inspect_file(path, wanted) == found
    path.write_bytes(b"x" * 1000)
    with pytest.raises(ValueError, match="no VHD"):
        inspect_file(path, "vhd")
    path.write_bytes(b"x" * 1000 + footer)
    for wanted in ("auto", "vhd"):
        with pytest.raises(ValueError, match="no dynamic VHD; convert it"):
            inspect_file(path, wanted)
    path.write_bytes(b"QFI\xfb" + bytes(1000))
    with pytest.raises(ValueError, match="a qcow2 image"):
        inspect_file(path, "auto")
