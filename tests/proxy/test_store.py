"""The object store on real devices: what is written is read, listed, and survives devices that go and come."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from proxy.entry import row_payload
from proxy.model import (
    NO_CONDITIONS,
    BadDigest,
    Conditions,
    ContainerNotEmpty,
    ListedObject,
    ListedPrefix,
    ListQuery,
    Manifest,
    NoSuchContainer,
    NoSuchObject,
    ObjectStream,
    Overwritten,
    PreconditionFailed,
    PutObjectRequest,
    Segment,
    SegmentMissing,
    Unavailable,
)
from proxy.names import CONTAINER, ObjectName, container_key
from proxy.object_reads import OpenObject
from proxy.quorum import WriteResult, write, write_newest
from proxy.store import ObjectStore
from proxy.streams import looked_up_again
from storage_node.operations import DeleteCatalog, DeleteObject, ForgetRow, GetCatalog, ListRows, Row, Status
from tests.support.small_cluster import Node, SmallCluster, small_cluster

ACCOUNT = "AUTH_test"


class Body:
    """A body in pieces of a given size, that may break off."""

    def __init__(self, data: bytes, piece: int = 65536, length: bool = True, breaks: bool = False) -> None:
        self._pieces = [data[i : i + piece] for i in range(0, len(data), piece)]
        self._breaks = breaks
        self.length = len(data) if length else None

    async def read(self) -> bytes:
        await trio.lowlevel.checkpoint()
        if self._pieces:
            return self._pieces.pop(0)
        if self._breaks:
            raise ConnectionError("the client went away")
        return b""


@pytest.fixture(params=[True, False], ids=["local", "wire"])
async def cluster(request: pytest.FixtureRequest) -> AsyncIterator[SmallCluster]:
    """A cluster of six devices whose directories the store can see, and one where it cannot."""
    async with small_cluster(local=request.param) as running:
        await running.store.create_container(ACCOUNT, b"c", {})
        yield running


async def put(store: ObjectStore, name: bytes, data: bytes, **request: object) -> str:
    """Store some bytes; the etag."""
    info = await store.put_object(ACCOUNT, b"c", name, Body(data), PutObjectRequest(**request))  # type: ignore[arg-type]
    return info.etag


async def get(store: ObjectStore, name: bytes, start: int = 0, stop: int | None = None) -> bytes:
    """Read bytes of an object."""

    async def begin() -> tuple[OpenObject, ObjectStream]:
        opened = await store.open_object(ACCOUNT, b"c", name)
        return opened, await opened.begin(start, opened.info.size_bytes if stop is None else stop)

    opened, stream = await looked_up_again(begin)
    pieces = []
    while piece := await stream.read():
        pieces.append(bytes(piece))
    await stream.aclose()
    await opened.aclose()
    return b"".join(pieces)


async def put_everywhere(store: ObjectStore, name: bytes, data: bytes) -> None:
    """Write an object; returns when no device has the version before."""
    await put(store, name, data)
    while len((await store.find(ObjectName(ACCOUNT, b"c", name))).sources) < 3:
        await trio.sleep(0.005)


async def names(store: ObjectStore, **query: object) -> list[bytes]:
    """What the container lists."""
    listing = await store.list_objects(ACCOUNT, b"c", ListQuery(**query))  # type: ignore[arg-type]
    return [item.prefix if isinstance(item, ListedPrefix) else item.name for item in listing.items]


@pytest.mark.parametrize("size", [0, 1, 4096, 131072, 131073, 700_000, 3_000_000])
async def test_what_is_put_is_got_and_listed(cluster: SmallCluster, size: int) -> None:
    """Objects of every size class come back byte for byte, whole and in part, with their MD5, and stand in the listing."""
    store = cluster.store
    data = bytes(i * 7 % 251 for i in range(size))
    etag = await put(store, b"dir/x", data, metadata={"meta:a": "b"})
    assert etag == hashlib.md5(data, usedforsecurity=False).hexdigest()
    assert await get(store, b"dir/x") == data
    assert await get(store, b"dir/x", size // 3, size // 2) == data[size // 3 : size // 2]
    info = await store.head_object(ACCOUNT, b"c", b"dir/x")
    assert (info.size_bytes, info.etag, info.metadata) == (size, etag, {"meta:a": "b"})
    listing = await store.list_objects(ACCOUNT, b"c", ListQuery())
    (item,) = listing.items
    assert isinstance(item, ListedObject)
    assert (item.name, item.size_bytes, item.etag) == (b"dir/x", size, etag)
    assert (listing.container.object_count, listing.container.size_bytes) == (1, size)


async def test_overwriting_and_deleting(cluster: SmallCluster) -> None:
    """The last write is read and listed; a deleted object is gone from both; deleting again says so."""
    store = cluster.store
    for size in (10, 600_000, 20):
        await put(store, b"x", b"z" * size)
        assert len(await get(store, b"x")) == size
    info = await store.head_container(ACCOUNT, b"c")
    assert (info.object_count, info.size_bytes) == (1, 20)
    with pytest.raises(ContainerNotEmpty):
        await store.delete_container(ACCOUNT, b"c")
    await store.delete_object(ACCOUNT, b"c", b"x")
    with pytest.raises(NoSuchObject):
        await store.head_object(ACCOUNT, b"c", b"x")
    with pytest.raises(NoSuchObject):
        await store.delete_object(ACCOUNT, b"c", b"x")
    assert await names(store) == []
    await store.delete_container(ACCOUNT, b"c")
    with pytest.raises(NoSuchContainer):
        await store.list_objects(ACCOUNT, b"c", ListQuery())
    with pytest.raises(NoSuchContainer):
        await put(store, b"x", b"")
    with pytest.raises(NoSuchContainer):
        await store.head_object(ACCOUNT, b"c", b"x")


async def test_a_body_that_breaks_off_leaves_nothing(cluster: SmallCluster) -> None:
    """A client that goes away, or a wrong digest, small or large, leaves no object and no row, and no old one is touched."""
    store = cluster.store
    await put(store, b"old", b"old")
    for size in (100, 2_000_000):
        for name in (b"old", b"new"):
            with pytest.raises(ConnectionError):
                await store.put_object(ACCOUNT, b"c", name, Body(b"q" * size, breaks=True), PutObjectRequest())
            with pytest.raises(BadDigest):
                await put(store, name, b"q" * size, expected_md5=b"0" * 16)
    assert await names(store) == [b"old"]
    assert await get(store, b"old") == b"old"


async def test_of_racing_conditional_writes_one_succeeds(cluster: SmallCluster) -> None:
    """Ten writers of "only if absent" at once: one succeeds, and its bytes are what is read."""
    store = cluster.store
    won: list[int] = []

    async def write(number: int) -> None:
        try:
            await put(store, b"once", b"%d" % number, conditions=Conditions(if_none_match=("*",)))
        except PreconditionFailed:
            return
        won.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(write, number)
    assert len(won) == 1
    assert await get(store, b"once") == b"%d" % won[0]


async def test_if_match_compares_and_swaps(cluster: SmallCluster) -> None:
    """Counting up by read, If-Match and retry loses no increment, for small and for large bodies."""
    store = cluster.store
    for size in (0, 300_000):
        await put(store, b"count", b"0" + b" " * size)

        async def increment(size: int = size) -> None:
            while True:
                opened = await store.open_object(ACCOUNT, b"c", b"count")
                value = int(await get(store, b"count"))
                now = await store.head_object(ACCOUNT, b"c", b"count")
                if now.etag != opened.info.etag:
                    continue
                try:
                    body = b"%d" % (value + 1) + b" " * size
                    await put(store, b"count", body, conditions=Conditions(if_match=(now.etag,)))
                except PreconditionFailed:
                    continue
                return

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(increment)
        assert int(await get(store, b"count")) == 4


async def test_what_is_overwritten_before_its_first_byte_is_looked_up_again(
    cluster: SmallCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader gets the new version when the one that it looked up is gone; one that has begun keeps its own."""
    store = cluster.store
    old, new = b"o" * 700_000, b"n" * 900_000
    await put(store, b"x", old)
    begun = await (await store.open_object(ACCOUNT, b"c", b"x")).begin(0, len(old))
    open_object = store.open_object
    overwrites = 0

    async def open_and_be_late(*arguments: Any) -> OpenObject:
        nonlocal overwrites
        opened = await open_object(*arguments)
        if overwrites < 2:
            overwrites += 1
            await put_everywhere(store, b"x", new + b"%d" % overwrites)
        return opened

    monkeypatch.setattr(store, "open_object", open_and_be_late)
    assert await get(store, b"x") == new + b"2"
    overwrites = 0
    await store.copy_object(ObjectName(ACCOUNT, b"c", b"x"), NO_CONDITIONS, ObjectName(ACCOUNT, b"c", b"copy"))
    assert await get(store, b"copy") == new + b"2"
    first = bytes(await begun.read())
    assert first == old[: len(first)]
    assert first
    await begun.aclose()


async def test_what_is_overwritten_all_the_time_is_unavailable(
    cluster: SmallCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader who never gets to a first byte is told to come again."""
    store = cluster.store
    await put(store, b"x", b"o" * 700_000)
    open_object = store.open_object

    async def open_and_be_late(*arguments: Any) -> OpenObject:
        opened = await open_object(*arguments)
        await put_everywhere(store, b"x", b"n" * 700_000)
        return opened

    monkeypatch.setattr(store, "open_object", open_and_be_late)
    with pytest.raises(Overwritten):
        await get(store, b"x")


async def test_metadata_is_replaced_and_data_stays(cluster: SmallCluster) -> None:
    """An update gives new metadata and content type, keeps bytes and etag, and shows in the listing."""
    store = cluster.store
    etag = await put(store, b"x", b"data", metadata={"meta:old": "1"}, content_type="text/plain")
    await store.update_object(ACCOUNT, b"c", b"x", {"meta:new": "2"}, "text/html")
    info = await store.head_object(ACCOUNT, b"c", b"x")
    assert (info.metadata, info.content_type, info.etag) == ({"meta:new": "2"}, "text/html", etag)
    assert info.meta_timestamp > info.timestamp
    assert await get(store, b"x") == b"data"
    listing = await store.list_objects(ACCOUNT, b"c", ListQuery())
    assert [item.content_type for item in listing.items if isinstance(item, ListedObject)] == ["text/html"]


async def test_a_manifest_reads_as_one_object_and_owns_its_segments(cluster: SmallCluster) -> None:
    """Segments are read as one, whole and across their borders; deleting or replacing the manifest deletes them."""
    store = cluster.store
    await store.create_container(ACCOUNT, b"\x00parts", {})
    for replaced in (False, True):
        segments = []
        for number in range(3):
            data = bytes([65 + number]) * (200_000 * number + 10)
            name = b"part/%d" % number
            info = await store.put_object(ACCOUNT, b"\x00parts", name, Body(data), PutObjectRequest())
            segments.append(Segment(ACCOUNT, b"\x00parts", name, len(data), info.etag))
        total = sum(segment.size_bytes for segment in segments)
        await store.put_manifest(
            ACCOUNT, b"c", b"big", Manifest(tuple(segments), owned=True), "etag-3", total, PutObjectRequest()
        )
        whole = await get(store, b"big")
        assert whole == b"A" * 10 + b"B" * 200_010 + b"C" * 400_010
        assert await get(store, b"big", 5, 200_025) == whole[5:200_025]
        info = await store.head_object(ACCOUNT, b"c", b"big")
        assert (info.size_bytes, info.etag) == (total, "etag-3")
        if replaced:
            await put(store, b"big", b"small now")
        else:
            await store.delete_object(ACCOUNT, b"c", b"big")
        with trio.fail_after(10):
            while (await store.list_objects(ACCOUNT, b"\x00parts", ListQuery())).items:
                await trio.sleep(0.01)


async def test_a_changed_segment_is_not_served(cluster: SmallCluster) -> None:
    """A segment that was overwritten since makes the read fail rather than give other bytes."""
    store = cluster.store
    info = await store.put_object(ACCOUNT, b"c", b"s", Body(b"one"), PutObjectRequest())
    manifest = Manifest((Segment(ACCOUNT, b"c", b"s", 3, info.etag),), owned=False)
    await store.put_manifest(ACCOUNT, b"c", b"m", manifest, "e", 3, PutObjectRequest())
    assert await get(store, b"m") == b"one"
    await put(store, b"s", b"two")
    with pytest.raises(SegmentMissing):
        await get(store, b"m")


async def test_listings_roll_up_and_page(cluster: SmallCluster) -> None:
    """Prefix, delimiter, marker, end marker, limit and reverse, as clients combine them."""
    store = cluster.store
    for name in (b"a", b"b/1", b"b/2", b"b/c/3", b"d", b"e/1"):
        await put(store, name, b"")
    assert await names(store, delimiter=b"/") == [b"a", b"b/", b"d", b"e/"]
    assert await names(store, delimiter=b"/", limit=2) == [b"a", b"b/"]
    assert await names(store, delimiter=b"/", marker=b"b/") == [b"d", b"e/"]
    assert await names(store, prefix=b"b/", delimiter=b"/") == [b"b/1", b"b/2", b"b/c/"]
    assert await names(store, reverse=True, limit=2) == [b"e/1", b"d"]
    assert await names(store, marker=b"b/1", end_marker=b"d") == [b"b/2", b"b/c/3"]


async def test_a_copy_is_an_object_of_its_own(cluster: SmallCluster) -> None:
    """A copy has the source's bytes and metadata and outlives it."""
    store = cluster.store
    await put(store, b"x", b"y" * 200_000, metadata={"meta:a": "b"}, content_type="text/x")
    await store.copy_object(ObjectName(ACCOUNT, b"c", b"x"), Conditions(), ObjectName(ACCOUNT, b"c", b"z"))
    await store.delete_object(ACCOUNT, b"c", b"x")
    info = await store.head_object(ACCOUNT, b"c", b"z")
    assert (info.metadata, info.content_type) == ({"meta:a": "b"}, "text/x")
    assert await get(store, b"z") == b"y" * 200_000


@pytest.mark.parametrize("size", [100, 400_000])
async def test_with_one_primary_away_nothing_is_lost_or_stale(cluster: SmallCluster, size: int) -> None:
    """Writes made while a device is away are read after it is back, whichever devices are asked; none is degraded."""
    store = cluster.store
    await put(store, b"x", b"1" * size)
    for away in cluster.primaries(b"/AUTH_test/c/x"):
        await away.stop()
        await cluster.until_connected(connected=False, nodes=[away])
        for _ in range(2):
            etag = await put(store, b"x", b"%d" % away.ring_device.id + b"2" * size)
            assert (await store.head_object(ACCOUNT, b"c", b"x")).etag == etag
        await away.start()
        await cluster.until_connected(connected=True, nodes=[away])
        info = await store.head_object(ACCOUNT, b"c", b"x")
        assert info.etag == etag
        assert not info.consistency.degraded
        listing = await store.list_objects(ACCOUNT, b"c", ListQuery())
        assert [item.etag for item in listing.items if isinstance(item, ListedObject)] == [etag]


@pytest.mark.parametrize("size", [100, 400_000])
async def test_with_two_primaries_gone_handoffs_take_the_write(cluster: SmallCluster, size: int) -> None:
    """A write with a minority of primaries lands on handoffs, says so, and is read back, also after they return."""
    store = cluster.store
    await put(store, b"x", b"old" * size)
    gone = cluster.primaries(b"/AUTH_test/c/x")[:2]
    for node in gone:
        await node.stop()
    await cluster.until_connected(connected=False, nodes=gone)
    info = await store.put_object(ACCOUNT, b"c", b"x", Body(b"new" * size), PutObjectRequest())
    assert info.consistency.degraded
    assert await get(store, b"x") == b"new" * size
    for node in gone:
        await node.start()
    await cluster.until_connected(connected=True, nodes=gone)
    assert await get(store, b"x") == b"new" * size


async def test_deleting_again_mends_the_listing(cluster: SmallCluster) -> None:
    """A delete that died between tombstone and row leaves a ghost in the listing; the client's retry removes it."""
    store = cluster.store
    await put(store, b"ghost", b"boo")
    placement = cluster.cluster.place(b"/AUTH_test/c/ghost")
    stamp = cluster.cluster.clock.stamp()
    for replica in placement.primaries:
        await replica.client.call(DeleteObject(placement.hash, b"/AUTH_test/c/ghost", stamp))
    assert await names(store) == [b"ghost"]
    with pytest.raises(NoSuchObject):
        await store.delete_object(ACCOUNT, b"c", b"ghost")
    assert await names(store) == []
    await store.delete_container(ACCOUNT, b"c")


async def test_a_container_is_deleted_once_its_last_replica_has_caught_up(cluster: SmallCluster) -> None:
    """A replica that is behind by a deletion does not make an empty container undeletable."""
    store = cluster.store
    await put(store, b"x", b"y")
    late = cluster.primaries(b"/AUTH_test/c")[0]
    await late.stop()
    await cluster.until_connected(connected=False, nodes=[late])
    await store.delete_object(ACCOUNT, b"c", b"x")
    await store.delete_container(ACCOUNT, b"c")
    with pytest.raises(NoSuchContainer):
        await store.head_container(ACCOUNT, b"c")


async def test_a_container_is_not_deleted_on_the_word_of_a_minority() -> None:
    """A replica that has missed a row says that the container is empty; with the others away that is not believed."""
    async with small_cluster(local=False) as cluster:
        store = cluster.store
        await store.create_container(ACCOUNT, b"c", {})
        behind, *others = cluster.primaries(container_key(ACCOUNT, b"c"))
        await behind.stop()
        await cluster.until_connected(connected=False, nodes=[behind])
        await put(store, b"x", b"y")
        await behind.start()
        await cluster.until_connected(connected=True, nodes=[behind])
        for node in others:
            await node.stop()
        await cluster.until_connected(connected=False, nodes=others)
        with pytest.raises(Unavailable):
            await store.delete_container(ACCOUNT, b"c")
        for node in others:
            await node.start()
        await cluster.until_connected(connected=True, nodes=others)
        assert await names(store) == [b"x"]


async def test_an_object_whose_container_is_gone_is_deleted_all_the_same(cluster: SmallCluster) -> None:
    """What is deleted is answered as deleted, as what a listing may still show; the next deletion is an error."""
    store = cluster.store
    await put(store, b"x", b"data")
    key = container_key(ACCOUNT, b"c")
    placement = cluster.cluster.place(key)
    found, _ = await store.find_catalog(CONTAINER, key)
    assert found is not None
    for replica in placement.primaries:
        row = (await replica.client.call(ListRows(CONTAINER, placement.hash, key, b"", None))).items[0]  # type: ignore[attr-defined]
        await replica.client.call(ForgetRow(CONTAINER, placement.hash, b"x", row.timestamp, row.sub_timestamp))
        gone = DeleteCatalog(CONTAINER, placement.hash, key, cluster.cluster.clock.stamp())
        assert (await replica.client.call(gone)).status == Status.APPLIED
    info = await store.delete_object(ACCOUNT, b"c", b"x")
    assert (info.size_bytes, info.consistency.degraded) == (4, True)
    with pytest.raises(NoSuchContainer):
        await store.delete_object(ACCOUNT, b"c", b"x")
    with pytest.raises(NoSuchContainer):
        await get(store, b"x")


async def test_handoffs_that_do_not_know_a_container_do_not_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its devices go while it is being made known to the handoffs: a row that these refuse is no "no such container"."""
    async with small_cluster(local=False) as cluster:
        store = cluster.store
        await store.create_container(ACCOUNT, b"c", {})
        there, *away = cluster.primaries(container_key(ACCOUNT, b"c"))
        handoffs = [node for node in cluster.nodes.values() if node not in (there, *away)]

        async def go(*nodes: Node) -> None:
            for node in nodes:
                await node.stop()
            await cluster.until_connected(connected=False, nodes=nodes)

        async def come(*nodes: Node) -> None:
            for node in nodes:
                await node.start()
            await cluster.until_connected(connected=True, nodes=nodes)

        steps = iter((lambda: go(*away), lambda: go(*away, *handoffs), lambda: come(*handoffs)))
        find_catalog = store.find_catalog

        async def scripted_write(*arguments: Any) -> WriteResult:
            await next(steps)()
            return await write(*arguments)

        async def scripted_find(*arguments: Any) -> Any:
            await come(*away)
            return await find_catalog(*arguments)

        monkeypatch.setattr("proxy.containers.write", scripted_write)
        monkeypatch.setattr(store, "find_catalog", scripted_find)
        with pytest.raises(Unavailable):
            await store.put_row(ACCOUNT, b"c", b"x", 1, 0, 0, b"")
        assert next(steps, None) is None


async def test_a_copy_of_what_may_be_old_says_so() -> None:
    """Where most devices of the source are away, the copy's answer is degraded, though all of the copy's take it."""
    async with small_cluster(local=False) as cluster:
        store = cluster.store
        await store.create_container(ACCOUNT, b"c", {})
        row_nodes = cluster.primaries(container_key(ACCOUNT, b"c"))

        def away(name: bytes) -> list[Node]:
            return cluster.primaries(b"/AUTH_test/c/" + name)[:2]

        def suffices(key: bytes, gone: list[Node]) -> bool:
            return sum(node in gone for node in cluster.primaries(key)) <= 1

        numbers = [b"%d" % number for number in range(200)]
        source = next(name for name in numbers if sum(node in row_nodes for node in away(name)) <= 1)
        gone = away(source)
        target = next(name for name in numbers if suffices(b"/AUTH_test/c/" + name, gone))
        await put(store, source, b"data")
        for node in gone:
            await node.stop()
        await cluster.until_connected(connected=False, nodes=gone)
        copied = await store.copy_object(
            ObjectName(ACCOUNT, b"c", source), NO_CONDITIONS, ObjectName(ACCOUNT, b"c", target)
        )
        assert copied.consistency.degraded
        assert not (await store.head_object(ACCOUNT, b"c", target)).consistency.degraded


async def test_what_no_listing_shows_is_listed_again(cluster: SmallCluster) -> None:
    """As its own proxy would have listed it, metadata changes included; what is gone stays unlisted."""
    store = cluster.store
    await put(store, b"x", b"data")
    await store.update_object(ACCOUNT, b"c", b"x", {"meta:colour": "red"}, "text/plain")
    await put(store, b"gone", b"data")
    await store.delete_object(ACCOUNT, b"c", b"gone")
    before = await store.list_objects(ACCOUNT, b"c", ListQuery())
    container = b"/AUTH_test/c"
    placement = cluster.cluster.place(container)
    clients = [replica.client for replica in placement.primaries]
    describe = GetCatalog(CONTAINER, placement.hash, container)
    with trio.fail_after(30):  # the third replica of a row may be some moments behind its answer
        while len({(await client.call(describe)).catalog.digest for client in clients}) > 1:
            await trio.sleep(0.01)
    for client in clients:
        rows = await client.call(ListRows(CONTAINER, placement.hash, container, deleted=True))
        for row in rows.items:
            assert isinstance(row, Row)
            forget = ForgetRow(CONTAINER, placement.hash, row.name, row.timestamp, row.sub_timestamp)
            assert (await client.call(forget)).status == Status.APPLIED
    assert (await store.list_objects(ACCOUNT, b"c", ListQuery())).items == ()
    assert await store.list_again(container + b"/x")
    assert await store.list_again(container + b"/gone")
    assert not await store.list_again(container + b"/never")
    assert not await store.list_again(b"/AUTH_test/other/x")
    assert (await store.list_objects(ACCOUNT, b"c", ListQuery())).items == before.items


async def test_what_is_still_shown_is_taken_out(cluster: SmallCluster) -> None:
    """A deleted object whose row its proxy did not come to delete; one that was never there is left as it is."""
    store = cluster.store
    await put(store, b"x", b"data")
    version = await store.find(ObjectName(ACCOUNT, b"c", b"x"))
    stamp = cluster.cluster.clock.stamp()
    await write_newest(
        cluster.cluster, version.placement, lambda _: DeleteObject(version.placement.hash, version.key, stamp)
    )
    await store.put_row(ACCOUNT, b"c", b"ghost", stamp, 0, 1, row_payload("e", "t", ""))
    assert await names(store) == [b"ghost", b"x"]
    assert await store.list_again(b"/AUTH_test/c/x")
    assert not await store.list_again(b"/AUTH_test/c/ghost")
    assert await names(store) == [b"ghost"]


async def test_a_row_that_could_not_be_written_comes_later(cluster: SmallCluster) -> None:
    """An object whose container's devices take no row is an error to its client, and listed once they do."""
    store = cluster.store

    async def refuse(*_: object, **__: object) -> bool:
        raise Unavailable("no device of the container takes a row")

    put_row, store.put_row = store.put_row, refuse  # type: ignore[method-assign, assignment]
    with pytest.raises(Unavailable):
        await put(store, b"x", b"data")
    assert store.late_rows.statistics().backlog == 1
    assert await names(store) == []
    store.put_row = put_row  # type: ignore[method-assign]
    with trio.fail_after(20):
        while await names(store) != [b"x"]:
            await trio.sleep(0.05)
    statistics = store.late_rows.statistics()
    assert (statistics.backlog, statistics.written, statistics.left) == (0, 1, 0)


async def test_a_request_that_is_cancelled_lists_what_it_has_written(cluster: SmallCluster) -> None:
    """Cancelled between the object and its row, between the tombstone and the row's: the listing says what is so."""
    store = cluster.store
    put_row = store.put_row
    with trio.CancelScope() as scope:

        async def cancel_and_write(*arguments: object, **options: object) -> bool:
            scope.cancel()
            return await put_row(*arguments, **options)  # type: ignore[arg-type]

        store.put_row = cancel_and_write  # type: ignore[method-assign, assignment]
        await put(store, b"x", b"data")
        await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert await names(store) == [b"x"]
    with trio.CancelScope() as scope:
        await store.delete_object(ACCOUNT, b"c", b"x")
        await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert await names(store) == []


async def test_what_has_expired_is_gone_for_readers(cluster: SmallCluster) -> None:
    """Before the expirer has been there: GET, HEAD and copies find nothing from the very second on."""
    second = 2_000_000_000
    await put(cluster.store, b"x", b"data", metadata={"delete-at": str(second)})
    now_us = second * 1_000_000 - 1
    store = ObjectStore(cluster.cluster, lambda: now_us)
    assert await get(store, b"x") == b"data"
    assert (await store.head_object(ACCOUNT, b"c", b"x")).size_bytes == 4
    now_us += 1
    for attempt in (store.head_object, store.open_object):
        with pytest.raises(NoSuchObject):
            await attempt(ACCOUNT, b"c", b"x")
    with pytest.raises(NoSuchObject):
        await store.copy_object(ObjectName(ACCOUNT, b"c", b"x"), Conditions(), ObjectName(ACCOUNT, b"c", b"y"))
    await put(store, b"x", b"again")
    assert await get(store, b"x") == b"again"


async def test_a_container_that_nobody_can_be_asked_about_is_no_missing_one(cluster: SmallCluster) -> None:
    """With all devices of a container away a PUT is refused as unavailable, not because there is no container, and what it
    would have replaced is still there."""
    store = cluster.store
    key = container_key(ACCOUNT, b"c")
    home = cluster.primaries(key)
    await put(store, b"x", b"old")
    for node in home:
        cluster.cluster.replicas[node.ring_device.id].reader = None  # as on another machine
        await node.stop()
    await cluster.until_connected(connected=False, nodes=home)
    for _ in range(2):
        with pytest.raises(Unavailable):
            await put(store, b"x", b"newer")
        store.forget_container(ACCOUNT, b"c")
    for ask in (store.head_container, store.ensure_container):
        with pytest.raises(Unavailable):
            await ask(ACCOUNT, b"c")
    with pytest.raises(Unavailable):
        await store.list_objects(ACCOUNT, b"c", ListQuery())
    for node in home:
        await node.start()
    await cluster.until_connected(connected=True, nodes=home)
    assert await get(store, b"x") in (b"old", b"newer")
