"""The updater on a cluster inside one process: totals follow what containers hold."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import trio

from proxy.model import AccountInfo, ListQuery, NoSuchAccount, PutObjectRequest
from proxy.names import account_key, container_key
from replicator.peers import Peers
from replicator.updater import Updater, UpdaterSettings
from storage_node.operations import PutCatalog, PutRow, Space, Status
from storage_node.timestamp import Clock
from tests.support.small_cluster import CLUSTER_KEY, SmallCluster, small_cluster

QUICK = UpdaterSettings(interval_s=0.02)
PATIENCE_S = 20.0


class Bytes:
    """A body that is at hand."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.length = len(data)

    async def read(self) -> bytes:
        """All of it, then nothing."""
        data, self._data = self._data, b""
        return data


@asynccontextmanager
async def updater_of(small: SmallCluster, settings: UpdaterSettings = QUICK) -> AsyncIterator[Updater]:
    """A running updater that has every device of the cluster on its machine."""
    peers = Peers(
        small.cluster.ring,
        CLUSTER_KEY,
        address_of=lambda device: small.nodes[device.id].address,
        local_devices={id_: node.path for id_, node in small.nodes.items()},
    )
    updater = Updater(peers, Clock(1000), settings)
    async with trio.open_nursery() as nursery:
        await nursery.start(peers.run)
        await nursery.start(updater.run)
        yield updater
        nursery.cancel_scope.cancel()


async def until(small: SmallCluster, good: Callable[[AccountInfo], bool]) -> AccountInfo:
    """Until the account looks as it should."""
    with trio.fail_after(PATIENCE_S):
        while True:
            with suppress(NoSuchAccount):
                info = await small.store.head_account("AUTH_a")
                if good(info):
                    return info
            await trio.sleep(0.02)


async def put(small: SmallCluster, container: bytes, name: bytes, data: bytes) -> None:
    """Store a small object."""
    await small.store.put_object("AUTH_a", container, name, Bytes(data), PutObjectRequest())


async def test_totals_follow() -> None:
    """An account shows the objects and bytes of all its containers, up and down."""
    async with small_cluster() as small, updater_of(small):
        for container in (b"one", b"two"):
            await small.store.create_container("AUTH_a", container, {})
        await put(small, b"one", b"x", b"12345")
        await put(small, b"one", b"y", b"1")
        await put(small, b"two", b"z", b"123")
        info = await until(small, lambda info: (info.object_count, info.size_bytes) == (3, 9))
        assert info.container_count == 2
        listing = await small.store.list_containers("AUTH_a", ListQuery())
        assert [(item.name, item.object_count, item.size_bytes) for item in listing.items] == [  # type: ignore[union-attr]
            (b"one", 2, 6),
            (b"two", 1, 3),
        ]
        await small.store.delete_object("AUTH_a", b"one", b"x")
        await until(small, lambda info: (info.object_count, info.size_bytes) == (2, 4))


async def test_what_was_missed_is_found_at_the_start() -> None:
    """Writes while no updater ran are in the totals soon after one starts; then it writes nothing more."""
    async with small_cluster() as small:
        await small.store.create_container("AUTH_a", b"box", {})
        await put(small, b"box", b"x", b"12345")
        async with updater_of(small):
            await until(small, lambda info: info.object_count == 1)
        async with updater_of(small) as second:
            with trio.fail_after(PATIENCE_S):
                while second.statistics().looks < 3 * len(small.nodes) or second.statistics().backlog:
                    await trio.sleep(0.02)
            figures = second.statistics()
            assert (figures.updated, figures.failed) == (0, 0)
            assert figures.compared >= 3


async def test_a_row_that_came_late_is_put_right_though_the_container_stays_as_it_is() -> None:
    """A newer row with no totals, as replication brings it home from a handoff, is given them when its turn comes."""
    settings = UpdaterSettings(interval_s=0.02, again_s=0.5)
    async with small_cluster() as small, updater_of(small, settings) as updater:
        await small.store.create_container("AUTH_a", b"box", {})
        await put(small, b"box", b"x", b"12345")
        await until(small, lambda info: info.object_count == 1)
        with trio.fail_after(PATIENCE_S):
            while updater.statistics().backlog:
                await trio.sleep(0.02)
        placement = small.cluster.place(account_key("AUTH_a"))
        stamp = small.cluster.clock.stamp()
        late = PutRow(Space.ACCOUNT, placement.hash, b"box", stamp, 0, False, 0, 0, b"", replica=True)
        for replica in placement.primaries:
            assert (await replica.client.call(late)).status == Status.APPLIED
        info = await until(small, lambda info: info.object_count == 1)
        assert (info.container_count, info.size_bytes) == (1, 5)


async def test_it_works_with_a_device_away() -> None:
    """A majority of the replicas is enough, of the container's and of the account's."""
    async with small_cluster() as small, updater_of(small):
        await small.store.create_container("AUTH_a", b"box", {})
        away = small.primaries(container_key("AUTH_a", b"box"))[0]
        await away.stop()
        await small.until_connected(connected=False, nodes=[away])
        await put(small, b"box", b"x", b"12345")
        await until(small, lambda info: info.object_count == 1)


async def test_a_container_that_no_account_lists_is_listed() -> None:
    """A proxy that died between a container and its account leaves work for the updater, which does it."""
    async with small_cluster() as small, updater_of(small):
        key = container_key("AUTH_a", b"orphan")
        placement = small.cluster.place(key)
        made = PutCatalog(Space.CONTAINER, placement.hash, key, small.cluster.clock.stamp(), {}, True)
        for replica in placement.primaries:
            assert (await replica.client.call(made)).status == Status.APPLIED
        await until(small, lambda info: info.container_count == 1)
        listing = await small.store.list_containers("AUTH_a", ListQuery())
        assert [item.name for item in listing.items] == [b"orphan"]  # type: ignore[union-attr]


async def test_a_backlog_is_counted_and_worked_off() -> None:
    """What cannot be done now is shown, with its age, and done once it can be."""
    async with small_cluster(devices=3) as small:
        await small.store.create_container("AUTH_a", b"box", {})
        await put(small, b"box", b"x", b"12345")
        nodes = list(small.nodes.values())
        async with updater_of(small) as updater:
            await until(small, lambda info: info.object_count == 1)
            await put(small, b"box", b"y", b"1")
            for node in nodes[:2]:
                await node.stop()
            await small.until_connected(connected=False, nodes=nodes[:2])
            with trio.fail_after(PATIENCE_S):
                while not updater.statistics().failed and updater.statistics().updated < 2:
                    await trio.sleep(0.02)
            if updater.statistics().failed:
                assert updater.statistics().backlog == 1
                assert updater.statistics().oldest_s > 0
            for node in nodes[:2]:
                await node.start()
            await small.until_connected(connected=True, nodes=nodes[:2])
            await until(small, lambda info: info.object_count == 2)


async def test_internal_containers_are_nobodys_business() -> None:
    """Upload parts are in no account's listing and no account's totals."""
    async with small_cluster() as small, updater_of(small) as updater:
        await small.store.create_account("AUTH_a", {})
        await small.store.create_container("AUTH_a", b"\x00parts", {})
        await put(small, b"\x00parts", b"x", b"12345")
        await small.store.create_container("AUTH_a", b"box", {})
        await put(small, b"box", b"x", b"1")
        info = await until(small, lambda info: info.object_count == 1)
        assert info.container_count == 1
        assert updater.statistics().failed == 0
