"""Listings and totals come out exact: whatever devices were away when rows were written, and wherever those rows went.

Objects, rows and totals are each written to a majority, and to handoffs where that is what there is. Here devices go and
come while clients write and delete; afterwards replicator and updater run, and every replica of every container and account
must say exactly what the clients have been told.
"""

from __future__ import annotations

from contextlib import suppress
from random import Random

import pytest
import trio

from proxy.model import ListedObject, ListQuery, NoSuchObject, PutObjectRequest, Unavailable
from proxy.names import account_key, container_key
from proxy.store import ObjectStore
from replicator.peers import Peers
from replicator.replicator import Replicator, ReplicatorSettings
from replicator.updater import Updater, UpdaterSettings
from storage_node.operations import FoundCatalog, GetCatalog, Space
from storage_node.timestamp import Clock
from tests.proxy.test_store import Body
from tests.support.small_cluster import CLUSTER_KEY, SmallCluster, small_cluster

ACCOUNT = "AUTH_exact"
CONTAINERS = (b"one", b"two", b"three")
PATIENCE_S = 60.0


class Clients:
    """Writes and deletes, and what must be there because it was acknowledged; what had no answer is written again."""

    def __init__(self, store: ObjectStore, random: Random) -> None:
        self._store = store
        self._random = random
        self.sizes: dict[tuple[bytes, bytes], int] = {}
        self.degraded = 0

    async def act(self) -> None:
        """One write or deletion, tried until it is acknowledged."""
        name = self._random.choice(CONTAINERS), b"%d" % self._random.randrange(12)
        size = self._random.choice((0, 10, 5_000, 200_000))
        delete = self._random.random() < 0.35
        with trio.fail_after(PATIENCE_S):
            while True:
                try:
                    if delete:
                        with suppress(NoSuchObject):
                            await self._store.delete_object(ACCOUNT, *name)
                        self.sizes.pop(name, None)
                    else:
                        info = await self._store.put_object(ACCOUNT, *name, Body(b"x" * size), PutObjectRequest())
                        self.degraded += info.consistency.degraded
                        self.sizes[name] = size
                    return
                except Unavailable:
                    await trio.sleep(0.05)


async def catalogs(cluster: SmallCluster, space: Space, key: bytes) -> list[tuple[int, int, int]]:
    """Rows, objects and bytes as each replica has them."""
    placement = cluster.cluster.place(key)
    found = []
    for replica in placement.primaries:
        answer = await replica.client.call(GetCatalog(space, placement.hash, key))
        assert isinstance(answer, FoundCatalog)
        assert answer.catalog is not None
        catalog = answer.catalog
        found.append((catalog.row_count, catalog.object_count, catalog.size_bytes))
    return found


async def is_exact(cluster: SmallCluster, clients: Clients) -> bool:
    """Whether all replicas of all containers and of the account say what the clients were told."""
    for container in CONTAINERS:
        sizes = [size for (where, _), size in clients.sizes.items() if where == container]
        expected = len(sizes), len(sizes), sum(sizes)
        if set(await catalogs(cluster, Space.CONTAINER, container_key(ACCOUNT, container))) != {expected}:
            return False
    total = len(CONTAINERS), len(clients.sizes), sum(clients.sizes.values())
    return set(await catalogs(cluster, Space.ACCOUNT, account_key(ACCOUNT))) == {total}


@pytest.mark.parametrize("seed", [1, 2])
async def test_totals_are_exact_after_devices_went_and_came(seed: int) -> None:
    """A random walk of clients and devices, up to three of six away at a time, rows on handoffs among what they leave."""
    random = Random(seed)
    async with small_cluster() as cluster, trio.open_nursery() as nursery:
        store = cluster.store
        for container in CONTAINERS:
            await store.create_container(ACCOUNT, container, {})
        clients = Clients(store, random)
        away: list[int] = []
        for _ in range(8):
            wanted = random.sample(sorted(cluster.nodes), random.randrange(4))
            for number in set(away) - set(wanted):
                await cluster.nodes[number].start()
            for number in set(wanted) - set(away):
                await cluster.nodes[number].stop()
            away = wanted
            for number, node in cluster.nodes.items():
                await cluster.until_connected(connected=number not in away, nodes=[node])
            for _ in range(12):
                await clients.act()
        for number in away:
            await cluster.nodes[number].start()
        await cluster.until_connected(connected=True, nodes=list(cluster.nodes.values()))
        assert clients.degraded, "no write had to go to handoffs: the walk is too tame"

        addresses = {number: node.address for number, node in cluster.nodes.items()}
        peers = Peers(
            cluster.cluster.ring,
            CLUSTER_KEY,
            address_of=lambda device: addresses[device.id],
            local_devices={number: node.path for number, node in cluster.nodes.items()},
        )
        replicator = Replicator(peers, Clock(2), ReplicatorSettings(settle_s=0.0, interval_s=0.2, move_s_min=0.0))
        updater = Updater(peers, Clock(3), UpdaterSettings(interval_s=0.1, again_s=5.0))
        await nursery.start(peers.run)
        nursery.start_soon(replicator.run)
        nursery.start_soon(updater.run)
        with trio.fail_after(PATIENCE_S):
            while not await is_exact(cluster, clients):
                await trio.sleep(0.1)
            while updater.statistics().backlog:
                await trio.sleep(0.1)
        for container in CONTAINERS:
            listing = await store.list_objects(ACCOUNT, container, ListQuery())
            listed = {item.name: item.size_bytes for item in listing.items if isinstance(item, ListedObject)}
            assert listed == {name: size for (where, name), size in clients.sizes.items() if where == container}
        info = await store.head_account(ACCOUNT)
        assert (info.object_count, info.size_bytes) == (len(clients.sizes), sum(clients.sizes.values()))
        nursery.cancel_scope.cancel()
