"""Ring changes under a proxy: what was written stays readable, writes count in all rings in force, requests go on."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

from proxy.cluster import MovingPlacement, Placement
from proxy.model import Conditions, ListQuery, NoSuchObject, PreconditionFailed, PutObjectRequest, Unavailable
from proxy.names import ObjectName
from ring.builder import build_ring
from ring.ring import Ring
from storage_node.operations import GetObject, Status
from tests.proxy.test_store import Body
from tests.support.small_cluster import SmallCluster, ring_devices, small_cluster

ACCOUNT = "AUTH_test"
NAMES = [b"name%d" % number for number in range(24)]


@pytest.fixture(params=[True, False], ids=["local", "wire"])
async def cluster(request: pytest.FixtureRequest) -> AsyncIterator[SmallCluster]:
    """Nine devices, of which the ring has the first six."""
    async with small_cluster(devices=9, in_ring=6, local=request.param) as running:
        await running.store.create_container(ACCOUNT, b"c", {})
        for name in NAMES:
            await put(running, name, b"old " + name)
        yield running


async def put(cluster: SmallCluster, name: bytes, data: bytes, conditions: Conditions | None = None) -> bool:
    """Store an object; whether it says that it is degraded."""
    request = PutObjectRequest("text/plain", {})
    if conditions is not None:
        request = PutObjectRequest("text/plain", {}, conditions)
    info = await cluster.store.put_object(ACCOUNT, b"c", name, Body(data), request)
    return info.consistency.degraded


async def get(cluster: SmallCluster, name: bytes) -> bytes:
    """All bytes of an object."""
    opened = await cluster.store.open_object(ACCOUNT, b"c", name)
    stream = opened.stream(0, opened.info.size_bytes)
    pieces = []
    while piece := await stream.read():
        pieces.append(bytes(piece))
    await stream.aclose()
    return b"".join(pieces)


async def listed(cluster: SmallCluster) -> list[bytes]:
    """The names in the container."""
    page = await cluster.store.list_objects(ACCOUNT, b"c", ListQuery(limit=1000))
    return [item.name for item in page.items]


def other_ring(*ids: int, epoch: int = 2) -> Ring:
    """A ring of these devices."""
    return build_ring([device for device in ring_devices(9) if device.id in ids], 6, 3, seed=5, epoch=epoch)


def key_of(name: bytes) -> bytes:
    """What places an object."""
    return ObjectName(ACCOUNT, b"c", name).key


async def holders(cluster: SmallCluster, name: bytes) -> set[int]:
    """Ids of the devices that have the object, a tombstone perhaps."""
    placement = cluster.cluster.place(key_of(name))
    found = set()
    for number, replica in cluster.cluster.replicas.items():
        answer = await replica.client.call(GetObject(placement.hash, key_of(name), False))
        if answer.status == Status.FOUND:
            found.add(number)
    return found


async def test_all_is_readable_and_writable_while_all_primaries_change(cluster: SmallCluster) -> None:
    """The new primaries hold nothing yet: reads find, lists list, deletions delete, writes reach both."""
    old, new = cluster.cluster.ring, other_ring(6, 7, 8)
    cluster.adopt(new, old)
    await cluster.until_connected(connected=True, nodes=list(cluster.nodes.values()))
    for name in NAMES:
        assert await get(cluster, name) == b"old " + name
    assert await listed(cluster) == sorted(NAMES)
    for name in NAMES[:8]:
        assert not await put(cluster, name, b"new " + name)
    for name in NAMES[8:12]:
        await cluster.store.delete_object(ACCOUNT, b"c", name)
    for name in NAMES[:8]:
        assert await get(cluster, name) == b"new " + name
        hash_ = new.hash_key(key_of(name))
        there = await holders(cluster, name)
        for ring in (old, new):
            primaries = {device.id for device in ring.primaries(ring.partition(hash_))}
            assert len(there & primaries) >= 2
    for name in NAMES[8:12]:
        with pytest.raises(NoSuchObject):
            await get(cluster, name)
    assert await listed(cluster) == sorted(set(NAMES) - set(NAMES[8:12]))


async def test_a_proxy_that_has_let_go_of_the_old_ring_reads_what_was_written_under_both(cluster: SmallCluster) -> None:
    """Writes of the move are on a majority of the new primaries, rows included, so the old ring is not needed for them."""
    old, new = cluster.cluster.ring, other_ring(6, 7, 8)
    cluster.adopt(new, old)
    await cluster.until_connected(connected=True, nodes=list(cluster.nodes.values()))
    for name in NAMES:
        await put(cluster, name, b"new " + name)
    cluster.adopt(new)
    for name in NAMES:
        assert await get(cluster, name) == b"new " + name
    assert set(cluster.cluster.replicas) == {6, 7, 8}
    assert await listed(cluster) == sorted(NAMES)


async def test_one_device_of_each_ring_may_be_away(cluster: SmallCluster) -> None:
    """A majority in each ring is left: nothing is degraded, conditional writes included."""
    old, new = cluster.cluster.ring, other_ring(3, 4, 5, 6, 7, 8)
    cluster.adopt(new, old)
    await cluster.until_connected(connected=True, nodes=list(cluster.nodes.values()))
    away = [cluster.nodes[0], cluster.nodes[6]]  # of one zone
    for node in away:
        await node.stop()
    await cluster.until_connected(connected=False, nodes=away)
    for name in NAMES:
        assert await get(cluster, name) == b"old " + name
        with pytest.raises(PreconditionFailed):
            await put(cluster, name, b"never", Conditions(if_none_match=("*",)))
        assert not await put(cluster, name, b"new " + name)
        assert await get(cluster, name) == b"new " + name


async def test_handoffs_stand_in_for_primaries_of_both_rings(cluster: SmallCluster) -> None:
    """With a majority of the new primaries away a write lands on handoffs, says so, and is read back."""
    old, new = cluster.cluster.ring, other_ring(0, 1, 2, 6, 7, 8)
    cluster.adopt(new, old)
    await cluster.until_connected(connected=True, nodes=list(cluster.nodes.values()))
    away = [cluster.nodes[number] for number in (6, 7, 8)]
    for node in away:
        await node.stop()
    await cluster.until_connected(connected=False, nodes=away)
    degraded = 0
    for name in NAMES:
        degraded += await put(cluster, name, b"new " + name)
        assert await get(cluster, name) == b"new " + name
    assert degraded


async def test_partitions_that_do_not_move_are_placed_as_ever(cluster: SmallCluster) -> None:
    """Only where rings disagree is there anything to count twice; after the move nowhere."""
    old, new = cluster.cluster.ring, other_ring(0, 1, 2, 3, 4, 8)
    cluster.adopt(new, old)
    kinds = {type(cluster.cluster.place(key_of(name))) for name in NAMES}
    assert kinds == {Placement, MovingPlacement}
    for name in NAMES:
        placement = cluster.cluster.place(key_of(name))
        members = [{device.id for device in ring.primaries(ring.partition(placement.hash))} for ring in (new, old)]
        assert {replica.device.id for replica in placement.primaries} == members[0] | members[1]
        assert placement.moving == (members[0] != members[1])
        assert not {replica.device.id for replica in placement.handoffs()} & (members[0] | members[1])
    cluster.adopt(new)
    assert {type(cluster.cluster.place(key_of(name))) for name in NAMES} == {Placement}


async def test_the_part_power_may_differ(cluster: SmallCluster) -> None:
    """A ring of finer partitions: names are found under both."""
    old = cluster.cluster.ring
    new = build_ring(ring_devices(9), 8, 3, seed=5, epoch=2)
    cluster.adopt(new, old)
    await cluster.until_connected(connected=True, nodes=list(cluster.nodes.values()))
    for name in NAMES:
        assert await get(cluster, name) == b"old " + name
        assert not await put(cluster, name, b"new " + name)
        assert await get(cluster, name) == b"new " + name


async def test_an_upload_goes_on_while_the_rings_change(cluster: SmallCluster) -> None:
    """Begun under one ring, committed under another: it succeeds, and says so where its holders are not primaries now."""
    new = other_ring(6, 7, 8)
    gate = trio.Event()
    body = GatedBody(b"x" * 3_000_000, gate)
    results = []

    async def upload() -> None:
        info = await cluster.store.put_object(ACCOUNT, b"c", b"large", body, PutObjectRequest("text/plain", {}))
        results.append(info.consistency.degraded)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(upload)
        await body.half_way.wait()
        cluster.adopt(new, cluster.cluster.ring)
        await cluster.until_connected(connected=True, nodes=list(cluster.nodes.values()))
        gate.set()
    assert results == [True]
    assert await get(cluster, b"large") == b"x" * 3_000_000


class GatedBody(Body):
    """A body that waits in the middle."""

    def __init__(self, data: bytes, gate: trio.Event) -> None:
        super().__init__(data)
        self._gate = gate
        self._count = 0
        self.half_way = trio.Event()

    async def read(self) -> bytes:
        self._count += 1
        if self._count == 20:
            self.half_way.set()
            await self._gate.wait()
        return await super().read()


async def test_nothing_at_all_is_an_answer_too() -> None:
    """With every device of both rings away a read is refused, and does not say that there is nothing."""
    async with small_cluster(devices=9, in_ring=6, local=False) as cluster:
        cluster.adopt(other_ring(6, 7, 8), cluster.cluster.ring)
        for node in cluster.nodes.values():
            await node.stop()
        await cluster.until_connected(connected=False, nodes=list(cluster.nodes.values()))
        with pytest.raises(Unavailable):
            await get(cluster, b"name")
