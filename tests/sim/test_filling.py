"""The story of seed 262, told on purpose: an emptied disk and a replica that missed a row are a majority that lacks it.

Three devices hold a container. Two took a row while the third was full; the disk of one of the two is replaced by an empty
one, and the other's machine loses power. Who answers now lacks what was acknowledged, and must say so.
"""

from __future__ import annotations

from dataclasses import replace

import trio

from proxy.model import ListedObject, ListQuery, ObjectListing, PutObjectRequest
from proxy.names import container_key
from proxy.streams import BytesStream, StreamBody
from tests.sim.cluster import Shape, SimCluster
from tests.sim.faults import Faults
from tests.sim.run import disagreement
from tests.sim.world import World

ACCOUNT = "a"
WAIT_S = 600.0
PROXY, EMPTIED, FULL, DARK = range(4)
"""Machines. The first and the last are in one zone, so that a name's devices are one of these two and the two others."""


def test_an_emptied_disk_and_one_that_missed_a_row_say_that_they_may_be_short() -> None:
    """The listing is degraded; once all is back and filled it is whole, and certain."""
    world = World(262, echo=False)
    with world.deterministic():
        drawn = Shape.draw(world.stream("shape"))
        shape = replace(
            drawn, machines=4, zones=3, part_power=4, direct=(False,), together=False, moves=False, skew_max_s=0.5
        )
        cluster = SimCluster(world, shape)
        try:
            trio.run(_tell, world, cluster, clock=world.clock)
        finally:
            cluster.remove()


async def _tell(world: World, cluster: SimCluster) -> None:
    async with trio.open_nursery() as nursery:
        world.nursery = nursery
        await nursery.start(cluster.net.run)
        await cluster.start()
        await _until(lambda: not disagreement(cluster))
        machines = cluster.machines
        proxy = cluster.proxies[PROXY]
        container = next(b"c%d" % i for i in range(100) if _homes(cluster, container_key(ACCOUNT, b"c%d" % i)))
        key = container_key(ACCOUNT, container) + b"/"
        name = next(b"n%d" % i for i in range(100) if _homes(cluster, key + b"n%d" % i))
        await proxy.call(lambda store: store.create_container(ACCOUNT, container, {}))

        async def listing() -> ObjectListing:
            return await proxy.call(lambda store: store.list_objects(ACCOUNT, container, ListQuery()))

        for keeper in cluster.keepers.values():
            keeper.replicator.throttle.pause()
        machines[FULL].disk.full = machines[PROXY].disk.full = True
        body = StreamBody(BytesStream(b"data"), 4)
        info = await proxy.call(lambda store: store.put_object(ACCOUNT, container, name, body, PutObjectRequest()))
        assert not info.consistency.degraded
        machines[FULL].disk.full = machines[PROXY].disk.full = False

        await cluster.power_off(machines[DARK], "all")
        faults = Faults(cluster, world.stream("faults"))
        faults.victim = machines[EMPTIED]
        await faults._wipe()
        clients = [replica.client for replica in proxy.cluster.replicas.values()]
        await _until(lambda: sum(client.connected for client in clients) == 3)
        found = await listing()
        assert found.container.consistency.degraded

        cluster.power_on(machines[DARK])
        for keeper in cluster.keepers.values():
            keeper.replicator.throttle.resume()
        await _until(lambda: not disagreement(cluster) and all(client.connected for client in clients))
        found = await listing()
        assert not found.container.consistency.degraded
        assert [item.name for item in found.items if isinstance(item, ListedObject)] == [name]
        nursery.cancel_scope.cancel()


def _homes(cluster: SimCluster, key: bytes) -> bool:
    """Whether the devices of a name are those of the three machines that the story is about."""
    ring = cluster.ring
    primaries = {device.id for device in ring.primaries(ring.partition(ring.hash_key(key)))}
    return primaries == {EMPTIED, FULL, DARK}


async def _until(condition: object) -> None:
    assert callable(condition)
    with trio.fail_after(WAIT_S):
        while not condition():
            await trio.sleep(0.5)
