"""Images in a real store, over its HTTP."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from proxy.http.listeners import open_listeners
from proxy.http.server import HttpServer
from proxy.identity import Identity
from proxy.swift.app import SwiftApp
from proxy.swift.settings import SwiftSettings
from scheduler.hypervisor import DiskSpec, ImageFormat, PowerAction, Refused, TryAgain
from scheduler.image_store import NoSuchImage, StoreAway, StoredImage, StoreRefused, StoreSettings, SwiftImageStore
from tests.scheduler.xen.simulated import Image, content_of, driving, server_spec, shared_sr, simulation
from tests.support.small_cluster import CLUSTER_KEY, small_cluster

MIB = 1 << 20


@dataclass
class Served:
    """A store that is served, and a client at it."""

    url: str
    images: SwiftImageStore

    async def objects(self) -> list[str]:
        """All there is in both containers."""
        found: list[str] = []
        for container in ("images", "images_segments"):
            found += (await self.images._call("GET", container)).data.decode().split()
        return found


@asynccontextmanager
async def served(password: str = "correct horse") -> AsyncIterator[Served]:
    """Three devices, a Swift endpoint, and a user for the images."""
    async with small_cluster(devices=3) as cluster:
        identity = Identity(cluster.store, CLUSTER_KEY, time.time)
        await identity.add_user("cloud", "images", password="correct horse")
        app = SwiftApp(cluster.store, identity, SwiftSettings(), time.time)
        listeners = open_listeners("127.0.0.1", 0)
        server = HttpServer(app.handle)
        url = f"http://127.0.0.1:{listeners[0].getsockname()[1]}/auth/v1.0"
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda task_status: server.serve(listeners, task_status=task_status))
            settings = StoreSettings(url, "cloud:images", password)
            yield Served(url, SwiftImageStore(settings, segment_bytes=2 * MIB))
            nursery.cancel_scope.cancel()


async def pieces_of(content: bytes, size: int = 300_000) -> AsyncIterator[bytes]:
    """Content in pieces of an odd size."""
    for at in range(0, len(content), size):
        await trio.lowlevel.checkpoint()
        yield content[at : at + size]


async def read(images: SwiftImageStore, name: str) -> bytes:
    """An image's bytes."""
    async with images.open(name) as pieces:
        return b"".join([piece async for piece in pieces])


@pytest.mark.parametrize("size", [1, 2 * MIB, 5 * MIB + 17])
async def test_there_and_back(size: int) -> None:
    """Of one segment or several, to the byte; deleted with all its segments, twice."""
    content = bytes(range(251)) * (size // 251 + 1)
    content = content[:size]
    async with served() as to:
        assert await to.images.save("a b/ü", pieces_of(content)) == (size, hashlib.md5(content).hexdigest())
        assert await to.images.size_bytes("a b/ü") == size
        assert await read(to.images, "a b/ü") == content
        async with StoredImage(to.images, "a b/ü", size, "raw").open() as pieces:
            assert (await anext(pieces))[:1] == content[:1]
        await to.images.delete("a b/ü")
        await to.images.delete("a b/ü")
        assert await to.objects() == []
        with pytest.raises(NoSuchImage):
            await read(to.images, "a b/ü")


async def test_an_upload_that_breaks_off_leaves_nothing() -> None:
    """By an error of whoever gives the bytes, by cancelling, or because there are none."""

    async def breaking() -> AsyncIterator[bytes]:
        async for piece in pieces_of(bytes(5 * MIB)):
            yield piece
        raise TryAgain("the pool went away")

    async def stuck() -> AsyncIterator[bytes]:
        async for piece in pieces_of(bytes(3 * MIB)):
            yield piece
        await trio.sleep_forever()

    async with served() as to:
        with pytest.raises(TryAgain, match="the pool went away"):
            await to.images.save("x", breaking())
        with trio.move_on_after(1.0) as scope:
            await to.images.save("x", stuck())
        assert scope.cancelled_caught
        with pytest.raises(Refused):
            await to.images.save("x", pieces_of(b""))
        assert await to.objects() == []


async def test_a_token_that_has_aged_is_renewed() -> None:
    """The login is repeated once, and nothing is lost."""
    async with served() as to:
        await to.images.save("x", pieces_of(b"one"))
        to.images._login = (to.images._login or ("", ""))[0], "AUTH_tk_of_yesterday"
        await to.images.save("y", pieces_of(b"two"))
        assert await read(to.images, "y") == b"two"


async def test_a_wrong_key_and_a_store_that_is_away() -> None:
    """Refused, with no key in the error; and the same call later."""
    async with served(password="hunter2") as to:
        with pytest.raises(StoreRefused) as caught:
            await read(to.images, "x")
        assert "hunter2" not in str(caught.value) + repr(to.images)
        gone = to.url
    away = SwiftImageStore(StoreSettings(gone, "cloud:images", "x"))
    with trio.fail_after(10), pytest.raises(StoreAway):
        await read(away, "x")


@pytest.mark.parametrize("image_format", ["raw", "vhd"])
async def test_an_image_of_a_server_makes_servers(tmp_path: Path, image_format: ImageFormat) -> None:
    """A running server's disk, by way of a snapshot, into the store; from there into a server of another pool."""
    async with (
        served() as to,
        simulation(tmp_path, pools=2, hosts=1) as sim,
        driving(sim.xen_pool(0)) as first,
        driving(sim.xen_pool(1)) as second,
    ):
        here, there = await first.inventory(), await second.inventory()
        content = bytes(range(256)) * 4096 * 5
        root = DiskSpec("r", "root", 8 * MIB, shared_sr(here).uuid, Image(content))
        await first.create_server(server_spec(here, root=root), here.hosts[0].uuid)
        await first.power("s1", PowerAction.START, here.hosts[0].uuid)
        await first.snapshot_disk("r", "frozen", "image")
        async with first.export_disk("frozen", image_format) as pieces:
            size, _ = await to.images.save("golden", pieces)
        image = StoredImage(to.images, "golden", size, image_format)
        root = DiskSpec("r2", "root", 16 * MIB, shared_sr(there).uuid, image)
        await second.create_server(server_spec(there, "s2", root=root), there.hosts[0].uuid)
        [vdi] = sim.disks(1)
        assert content_of(sim, vdi) == content.ljust(16 * MIB, b"\0")
