"""What has expired is deleted, and exactly that: with overwrites, new times, dead devices and deaths on the way."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

import pytest
import trio

from proxy.expiry import SETTLE_US, Expiry
from proxy.expiry_queue import ACCOUNT as ACCOUNT_OF_QUEUE
from proxy.expiry_queue import SHARD_COUNT, QueuedExpiry, parse_row, row_name, shard_container
from proxy.leavings import Leaving
from proxy.locking import hold_object
from proxy.model import (
    ListedObject,
    ListQuery,
    Manifest,
    NoSuchObject,
    PreconditionFailed,
    PutObjectRequest,
    Segment,
    StoreError,
    Unavailable,
)
from proxy.names import ObjectName, container_key
from proxy.store import ObjectStore
from storage_node.operations import DeleteObject, GetObject, Row
from storage_node.timestamp import wall_clock_us
from tests.proxy.test_store import Body
from tests.support.mortal import Killed, dying_at
from tests.support.small_cluster import SmallCluster, small_cluster

ACCOUNT = "AUTH_test"
DUE_S = 2_000_000_000
PARTS = b"\x00parts\x00c"


class Time:
    """Microseconds since 1970, moved by the test."""

    def __init__(self) -> None:
        self.now_us = wall_clock_us()

    def __call__(self) -> int:
        return self.now_us

    def at(self, second: float) -> None:
        """Let it be then."""
        self.now_us = int(second * 1_000_000)


@pytest.fixture(params=[3], ids=[""])
async def cluster(request: pytest.FixtureRequest) -> AsyncIterator[SmallCluster]:
    """Devices and a container; three devices are enough for most."""
    async with small_cluster(request.param) as running:
        await running.store.create_container(ACCOUNT, b"c", {})
        yield running


async def take() -> None:
    """As fast as it goes."""
    await trio.lowlevel.checkpoint()


def ending(second: int) -> PutObjectRequest:
    """A PUT with X-Delete-At."""
    return PutObjectRequest(metadata={"delete-at": str(second), "meta:a": "b"})


async def put(store: ObjectStore, name: bytes, request: PutObjectRequest, data: bytes = b"data") -> None:
    """Store an object in c."""
    await store.put_object(ACCOUNT, b"c", name, Body(data), request)


async def queued(store: ObjectStore) -> list[QueuedExpiry]:
    """All that is in the queue."""
    found: list[QueuedExpiry] = []
    for shard in range(SHARD_COUNT):
        found += await store.expiry_queue.due(shard, 0, 99_999_999_998, b"", 1000)
    return found


async def names(store: ObjectStore, container: bytes = b"c") -> Sequence[bytes]:
    """What a container lists."""
    page = await store.list_objects(ACCOUNT, container, ListQuery())
    return [item.name for item in page.items if isinstance(item, ListedObject)]


async def test_what_is_due_goes_with_its_rows(cluster: SmallCluster) -> None:
    """An object of each size is left before its time, and deleted with its listing's and its queue's row after it."""
    store, time = cluster.store, Time()
    expiry = Expiry(store, time)
    for size in (0, 5_000, 1_500_000):
        await put(store, b"x", ending(DUE_S), b"q" * size)
        (row,) = await queued(store)
        assert (row.due_s, row.key) == (DUE_S, b"/AUTH_test/c/x")
        time.at(DUE_S - 0.1)
        assert await expiry.settle(row, take) == "early"
        assert (await store.head_object(ACCOUNT, b"c", b"x")).size_bytes == size
        time.at(DUE_S)
        assert await expiry.settle(row, take) == "deleted"
        with pytest.raises(NoSuchObject):
            await store.head_object(ACCOUNT, b"c", b"x")
        assert await names(store) == []
        assert await queued(store) == []
    assert (await store.head_container(ACCOUNT, b"c")).object_count == 0


async def test_what_was_overwritten_stays(cluster: SmallCluster) -> None:
    """A later write without a time is never deleted; the old row means nothing, and goes once it is old."""
    store, time = cluster.store, Time()
    expiry = Expiry(store, time)
    await put(store, b"x", ending(DUE_S))
    await put(store, b"x", PutObjectRequest(), b"kept")
    (row,) = await queued(store)
    time.now_us = row.queued_us + SETTLE_US - 1
    assert await expiry.settle(row, take) == "early"
    time.at(DUE_S + 1)
    assert await expiry.settle(row, take) == "dropped"
    assert await queued(store) == []
    assert (await store.head_object(ACCOUNT, b"c", b"x")).size_bytes == 4
    assert await names(store) == [b"x"]


async def test_a_new_time_counts_and_none_keeps(cluster: SmallCluster) -> None:
    """POST with a later time moves the end there; POST without one takes it away."""
    store, time = cluster.store, Time()
    expiry = Expiry(store, time)
    await put(store, b"x", ending(DUE_S))
    await put(store, b"y", ending(DUE_S))
    await store.update_object(ACCOUNT, b"c", b"x", {"delete-at": str(DUE_S + 100)}, None)
    await store.update_object(ACCOUNT, b"c", b"y", {"meta:kept": "yes"}, None)
    time.at(DUE_S + 50)
    rows = {(row.due_s, row.key[-1:]): row for row in await queued(store)}
    assert sorted(rows) == [(DUE_S, b"x"), (DUE_S, b"y"), (DUE_S + 100, b"x")]
    assert await expiry.settle(rows[DUE_S, b"x"], take) == "dropped"
    assert await expiry.settle(rows[DUE_S, b"y"], take) == "dropped"
    assert await names(store) == [b"x", b"y"]
    time.at(DUE_S + 100)
    assert await expiry.settle(rows[DUE_S + 100, b"x"], take) == "deleted"
    assert await names(store) == [b"y"]


async def test_new_metadata_waits_for_who_holds_the_object(cluster: SmallCluster) -> None:
    """While a conditional deletion holds an object its time can't be changed; what comes after finds no object."""
    store = cluster.store
    await put(store, b"x", ending(DUE_S))
    key = ObjectName(ACCOUNT, b"c", b"x").key
    entered = trio.Event()
    outcome: list[str] = []

    async def update() -> None:
        entered.set()
        try:
            await store.update_object(ACCOUNT, b"c", b"x", {}, None)
            outcome.append("updated")
        except NoSuchObject:
            outcome.append("missing")

    hold = await hold_object(cluster.cluster, key, lambda entry: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(update)
        await entered.wait()
        await trio.sleep(0.05)
        assert outcome == []
        await hold.release()
    assert outcome == ["updated"]
    hold = await hold_object(cluster.cluster, key, lambda entry: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(update)
        await trio.sleep(0.05)
        deletion = DeleteObject(hold.placement.hash, key, hold.timestamp, hold.timestamp)
        await hold.commit(deletion)
    assert outcome == ["updated", "missing"]


async def test_the_lock_decides_on_the_newest_metadata(cluster: SmallCluster) -> None:
    """A version that a majority has newer metadata for is not deleted, though a look before saw the old one."""
    store, time = cluster.store, Time()
    expiry = Expiry(store, time)
    await put(store, b"x", ending(DUE_S))
    (row,) = await queued(store)
    time.at(DUE_S)
    version = await store.find(ObjectName(ACCOUNT, b"c", b"x"))
    assert version.entry is not None
    await store.update_object(ACCOUNT, b"c", b"x", {}, None)
    with pytest.raises(PreconditionFailed):
        await expiry._delete(version, version.entry, take)
    assert await names(store) == [b"x"]
    assert row.due_s == DUE_S


@pytest.mark.parametrize("cluster", [6], indirect=True)
async def test_an_overwrite_that_lies_elsewhere_wins(cluster: SmallCluster) -> None:
    """A write that only handoffs and devices that are away have is later than the deletion of what expired here."""
    store, time = cluster.store, Time()
    await put(store, b"x", ending(DUE_S), b"old")
    (row,) = await queued(store)
    primaries = cluster.primaries(row.key)
    others = [node for node in cluster.nodes.values() if node not in primaries]
    for node in primaries[:2]:
        await node.stop()
    await cluster.until_connected(connected=False, nodes=primaries[:2])
    await put(store, b"x", PutObjectRequest(), b"new!")
    for node in [primaries[2], *others]:
        await node.stop()
    for node in primaries[:2]:
        await node.start()
    await cluster.until_connected(connected=False, nodes=[primaries[2], *others])
    await cluster.until_connected(connected=True, nodes=primaries[:2])
    time.at(DUE_S)
    hidden = [store.cluster.replicas[node.ring_device.id] for node in [primaries[2], *others]]
    readers = [replica.reader for replica in hidden]
    for replica in hidden:
        replica.reader = None  # as from another machine
    version = await store.find(ObjectName(ACCOUNT, b"c", b"x"))
    assert version.entry is not None
    assert version.entry.size_bytes == 3
    deletion = Expiry(store, time)
    with suppress(StoreError):  # where too few of the listing's devices are left
        await deletion._delete(version, version.entry, take)
    for replica, reader in zip(hidden, readers, strict=True):
        replica.reader = reader
    for node in [primaries[2], *others]:
        await node.start()
    await cluster.until_connected(connected=True, nodes=list(cluster.nodes.values()))
    info = await store.head_object(ACCOUNT, b"c", b"x", newest=True)
    assert info.size_bytes == 4
    assert await deletion.settle(row, take) == "dropped"
    assert await names(store) == [b"x"]


@pytest.mark.parametrize("cluster", [6], indirect=True)
async def test_a_minority_of_devices_may_be_away(cluster: SmallCluster) -> None:
    """With one of the object's devices dead it is deleted; with two it is not, and nothing is lost; later it is."""
    store, time = cluster.store, Time()
    expiry = Expiry(store, time)
    await put(store, b"x", ending(DUE_S))
    await put(store, b"y", ending(DUE_S))
    rows = {row.key[-1:]: row for row in await queued(store)}
    time.at(DUE_S)
    (first, second, _) = cluster.primaries(rows[b"x"].key)
    await first.stop()
    await second.stop()
    await cluster.until_connected(connected=False, nodes=[first, second])
    with pytest.raises(Unavailable):
        await expiry.settle(rows[b"x"], take)
    await second.start()
    await cluster.until_connected(connected=True, nodes=[second])
    assert await expiry.settle(rows[b"x"], take) == "deleted"
    await first.start()
    await cluster.until_connected(connected=True, nodes=[first])
    with pytest.raises(NoSuchObject):
        await store.head_object(ACCOUNT, b"c", b"x", newest=True)
    assert await names(store) == [b"y"]


async def test_an_old_version_that_has_ended_says_nothing_of_a_newer_one() -> None:
    """Only a device that has missed an overwrite is at hand: that its version is over does not mean that none is there."""
    async with small_cluster(local=False) as cluster:
        store = ObjectStore(cluster.cluster, time := Time())
        await store.create_container(ACCOUNT, b"c", {})
        key = ObjectName(ACCOUNT, b"c", b"x").key
        behind, *others = cluster.primaries(key)
        await put(store, b"x", ending(DUE_S))
        held = cluster.cluster.replicas[behind.ring_device.id].client
        with trio.fail_after(30):  # the third replica may be some moments behind the answer
            while (await held.call(GetObject(cluster.cluster.place(key).hash, key, False))).entry is None:
                await trio.sleep(0.01)
        await behind.stop()
        await cluster.until_connected(connected=False, nodes=[behind])
        await put(store, b"x", PutObjectRequest(), b"newer")
        for node in cluster.nodes.values():
            if node is not behind:
                await node.stop()
        await behind.start()
        await cluster.until_connected(connected=True, nodes=[behind])
        await cluster.until_connected(connected=False, nodes=others)
        assert (await store.head_object(ACCOUNT, b"c", b"x")).consistency.degraded
        time.at(DUE_S + 100)
        with pytest.raises(Unavailable):
            await store.head_object(ACCOUNT, b"c", b"x")


@pytest.mark.parametrize("cluster", [6], indirect=True)
async def test_what_no_device_at_hand_has_is_not_taken_for_gone(cluster: SmallCluster) -> None:
    """With the object's devices away neither its row leaves the queue nor do its parts go by an old note; later both may."""
    store, time = cluster.store, Time()
    expiry = Expiry(store, time)
    await make_multipart(store, b"big", 2, {"delete-at": str(DUE_S)})
    (row,) = await queued(store)
    version = await store.find(ObjectName(ACCOUNT, b"c", b"big"))
    assert version.entry is not None
    leaving = Leaving(version.key, version.entry.timestamp)
    await store.leavings.note(leaving, await store.read_version(version))
    time.at(DUE_S + 100)
    home = cluster.primaries(row.key)
    for node in home:
        cluster.cluster.replicas[node.ring_device.id].reader = None  # as on another machine
        await node.stop()
    await cluster.until_connected(connected=False, nodes=home)
    with pytest.raises(Unavailable):
        await expiry.settle(row, take)
    with pytest.raises(Unavailable):
        await store.leavings.clear(leaving, take, time())
    for node in home:
        await node.start()
    await cluster.until_connected(connected=True, nodes=home)
    assert len(await names(store, PARTS)) == 2
    assert await queued(store) == [row]
    assert await expiry.settle(row, take) == "deleted"
    assert await names(store, PARTS) == []


async def make_multipart(store: ObjectStore, name: bytes, parts: int, metadata: dict[str, str]) -> Manifest:
    """An object made of parts that it owns."""
    if not await exists(store, PARTS):
        await store.create_container(ACCOUNT, PARTS, {})
    segments = []
    for number in range(parts):
        part = name + b"\x00up\x00%05d\x00a" % number
        info = await store.put_object(ACCOUNT, PARTS, part, Body(b"p" * 10), PutObjectRequest())
        segments.append(Segment(ACCOUNT, PARTS, part, 10, info.etag))
    manifest = Manifest(tuple(segments), True)
    await store.put_manifest(
        ACCOUNT, b"c", name, manifest, f"e-{parts}", parts * 10, PutObjectRequest(metadata=metadata)
    )
    return manifest


async def exists(store: ObjectStore, container: bytes) -> bool:
    """Whether there is such a container."""
    try:
        await store.head_container(ACCOUNT, container)
    except StoreError:
        return False
    return True


async def test_parts_go_with_what_owns_them(cluster: SmallCluster) -> None:
    """A multipart object's parts are deleted with it, and the note that was made of them."""
    store, time = cluster.store, Time()
    await make_multipart(store, b"big", 5, {"delete-at": str(DUE_S)})
    await make_multipart(store, b"kept", 2, {})
    (row,) = await queued(store)
    time.at(DUE_S)
    assert await Expiry(store, time).settle(row, take) == "deleted"
    assert await names(store) == [b"kept"]
    assert len(await names(store, PARTS)) == 2
    assert await store.leavings.listed(10) == []


async def test_parts_that_are_not_owned_stay(cluster: SmallCluster) -> None:
    """A static large object's segments are the client's: they stay."""
    store, time = cluster.store, Time()
    await put(store, b"segment", PutObjectRequest())
    info = await store.head_object(ACCOUNT, b"c", b"segment")
    manifest = Manifest((Segment(ACCOUNT, b"c", b"segment", 4, info.etag),), False)
    await store.put_manifest(ACCOUNT, b"c", b"slo", manifest, "e", 4, ending(DUE_S))
    (row,) = await queued(store)
    time.at(DUE_S)
    assert await Expiry(store, time).settle(row, take) == "deleted"
    assert await names(store) == [b"segment"]


@pytest.mark.parametrize("deaths", range(1, 7))
async def test_a_death_on_the_way_leaves_nothing_behind(cluster: SmallCluster, deaths: int) -> None:
    """Whoever dies after any part, or before the first, is followed by one who deletes what is left of object and parts."""
    store, time = cluster.store, Time()
    manifest = await make_multipart(store, b"big", 5, {"delete-at": str(DUE_S)})
    (row,) = await queued(store)
    time.at(DUE_S)
    take_and_die = dying_at(deaths)
    expiry = Expiry(store, time)
    if deaths <= len(manifest.segments):
        with pytest.raises(Killed):
            await expiry.settle(row, take_and_die)
        (leaving,) = await store.leavings.listed(10)
        assert await expiry.settle(row, take) == "dropped"
        assert await store.leavings.clear(leaving, take, time())
    else:
        assert await expiry.settle(row, take_and_die) == "deleted"
    assert await names(store, PARTS) == []
    assert await store.leavings.listed(10) == []
    assert await queued(store) == []


async def test_a_note_of_parts_waits_for_the_deletion(cluster: SmallCluster) -> None:
    """Who dies between the note and the deletion has deleted nothing; the note goes when it is old."""
    store = cluster.store
    await make_multipart(store, b"big", 3, {"delete-at": str(DUE_S)})
    version = await store.find(ObjectName(ACCOUNT, b"c", b"big"))
    assert version.entry is not None
    leaving = Leaving(version.key, version.entry.timestamp)
    await store.leavings.note(leaving, await store.read_version(version))
    assert not await store.leavings.clear(leaving, take, wall_clock_us())
    assert await store.leavings.listed(10) == [leaving]
    assert not await store.leavings.clear(leaving, take, wall_clock_us() + 4_000_000_000)
    assert await store.leavings.listed(10) == []
    assert len(await names(store, PARTS)) == 3


async def test_parts_of_the_present_manifest_stay(cluster: SmallCluster) -> None:
    """An upload that was completed again names the same parts: a note of the first one takes only what the second lacks."""
    store = cluster.store
    manifest = await make_multipart(store, b"big", 3, {})
    version = await store.find(ObjectName(ACCOUNT, b"c", b"big"))
    assert version.entry is not None
    leaving = Leaving(version.key, version.entry.timestamp)
    await store.leavings.note(leaving, await store.read_version(version))
    again = Manifest(manifest.segments[:2], True)
    await store.put_manifest(ACCOUNT, b"c", b"big", again, "e-2", 20, PutObjectRequest())
    assert await store.leavings.clear(leaving, take, wall_clock_us())
    assert await names(store, PARTS) == [segment.name for segment in again.segments]


async def test_a_row_that_comes_back_goes_again(cluster: SmallCluster) -> None:
    """A device that was away when a row was taken out has it still: it is taken out again, and means nothing."""
    store, time = cluster.store, Time()
    expiry = Expiry(store, time)
    await put(store, b"x", ending(DUE_S))
    (row,) = await queued(store)
    time.at(DUE_S)
    away = cluster.primaries(container_key(ACCOUNT_OF_QUEUE, shard_container(row.shard)))[0]
    await away.stop()
    await cluster.until_connected(connected=False, nodes=[away])
    assert await expiry.settle(row, take) == "deleted"
    await away.start()
    await cluster.until_connected(connected=True, nodes=[away])
    (again,) = await queued(store)
    assert again == row
    assert await expiry.settle(row, take) == "dropped"
    assert await queued(store) == []


async def test_a_row_written_again_is_not_removed(cluster: SmallCluster) -> None:
    """A row is taken out only as it was read; the same object with the same time, written since, keeps its row."""
    store = cluster.store
    await put(store, b"x", ending(DUE_S))
    (row,) = await queued(store)
    await put(store, b"x", ending(DUE_S))
    await store.expiry_queue.remove(row)
    (again,) = await queued(store)
    assert again.timestamp > row.timestamp
    await store.expiry_queue.remove(again)
    assert await queued(store) == []


def test_rows_are_in_the_order_of_time() -> None:
    """Names of rows sort by time, hold any key, and what is none is not taken for one."""
    names = [
        row_name(second, key) for second in (5, 60, 1_999_999_999, 20_000_000_000) for key in (b"/a/b/c", b"/z/\xff/0")
    ]
    assert names == sorted(names)
    row = Row(names[3], 7 << 12, 1, False, 1, 0, b"")
    assert parse_row(3, row) == QueuedExpiry(3, 60, b"/z/\xff/0", names[3], 7 << 12, 1)
    for name in (b"", b"12", b"abcdefghijk/a/b/c", b"00000000060no key"):
        assert parse_row(0, row._replace(name=name)) is None
