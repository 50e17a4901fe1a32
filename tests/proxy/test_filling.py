"""A device that was made anew does not make a majority until it is filled: what it lacks may be there all the same.

The story of each test: of a name's three devices two took a write while the third was away; one of the two is replaced by an
empty one; the other goes away, and the third is back. The two that answer are a majority, and neither has it.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from proxy.model import (
    NO_CONDITIONS,
    Conditions,
    ListedObject,
    ListQuery,
    NoSuchObject,
    PreconditionFailed,
    PutObjectRequest,
    Unavailable,
)
from proxy.streams import BytesStream, StreamBody
from storage_node.device import Device
from storage_node.operations import GetStatistics, MarkFilled, Status
from tests.support.small_cluster import Node, SmallCluster, small_cluster

ACCOUNT, CONTAINER, NAME = "a", b"c", b"n"
LOOK_S = 10.0


@asynccontextmanager
async def emptied(*, local: bool) -> AsyncIterator[tuple[SmallCluster, Node, Node]]:
    """The story; with the device that is being filled, and the one that is away."""
    async with small_cluster(3, local=local) as cluster:
        whole, replaced, missed = cluster.nodes.values()
        await cluster.store.create_container(ACCOUNT, CONTAINER, {})
        await missed.stop()
        await cluster.until_connected(connected=False, nodes=[missed])
        await put(cluster)
        await replaced.stop()
        shutil.rmtree(replaced.path)
        Device.create(replaced.path, replaced.ring_device.name, filling=True)
        await whole.stop()
        await cluster.until_connected(connected=False, nodes=[whole, replaced])
        await replaced.start()
        await missed.start()
        await cluster.until_connected(connected=True, nodes=[replaced, missed])
        if local:
            # What was read is held open for a second: until then the old files answer.
            hide(whole)
            gone, anew = (cluster.cluster.replicas[node.ring_device.id].reader for node in (whole, replaced))
            assert gone is not None
            assert anew is not None
            with trio.fail_after(LOOK_S):
                while gone.opened or not anew.filling:
                    gone.read(GetStatistics())
                    anew.read(GetStatistics())
                    await trio.sleep(0.02)
        yield cluster, replaced, whole


def hide(node: Node) -> None:
    """Let the disk of a device be away as well."""
    node.path.rename(node.path.with_suffix(".away"))


async def put(cluster: SmallCluster, conditions: Conditions = NO_CONDITIONS) -> bool:
    """Store the object; whether that is degraded."""
    request = PutObjectRequest("text/plain", {}, conditions=conditions)
    body = StreamBody(BytesStream(b"data"), 4)
    return (await cluster.store.put_object(ACCOUNT, CONTAINER, NAME, body, request)).consistency.degraded


async def names(cluster: SmallCluster) -> tuple[list[bytes], bool]:
    """The listing, and whether it is degraded."""
    page = await cluster.store.list_objects(ACCOUNT, CONTAINER, ListQuery())
    listed = [item.name for item in page.items if isinstance(item, ListedObject)]
    return listed, page.container.consistency.degraded


@pytest.mark.parametrize("local", [True, False], ids=["local", "wire"])
async def test_what_it_lacks_is_not_said_to_be_missing(local: bool) -> None:
    """Neither by a GET nor by a listing, nor to a conditional write; and what was stored is there when all are back."""
    async with emptied(local=local) as (cluster, replaced, whole):
        with pytest.raises(Unavailable):
            await cluster.store.head_object(ACCOUNT, CONTAINER, NAME)
        listed, degraded = await names(cluster)
        assert degraded or listed == [NAME]
        with pytest.raises(Unavailable):
            await put(cluster, Conditions(if_none_match=("*",)))
        with pytest.raises(Unavailable):
            await cluster.store.delete_container(ACCOUNT, CONTAINER)
        if local:
            whole.path.with_suffix(".away").rename(whole.path)
        await whole.start()
        await cluster.until_connected(connected=True, nodes=[whole])
        assert (await cluster.store.head_object(ACCOUNT, CONTAINER, NAME)).size_bytes == 4
        assert await names(cluster) == ([NAME], False)
        with pytest.raises(PreconditionFailed):
            await put(cluster, Conditions(if_none_match=("*",)))
        assert replaced.path.exists()


@pytest.mark.parametrize("local", [True, False], ids=["local", "wire"])
async def test_it_takes_writes_and_counts_once_it_is_filled(local: bool) -> None:
    """A write that it takes is on a majority; told that it is filled, it makes a majority of readers too."""
    async with emptied(local=local) as (cluster, replaced, _):
        await put(cluster)
        replica = cluster.cluster.replicas[replaced.ring_device.id]
        found = (await replica.client.call(GetStatistics())).statistics
        assert found is not None
        assert (await replica.client.call(MarkFilled("another"))).status == Status.NEWER
        assert (await replica.client.call(MarkFilled(found.filling))).status == Status.APPLIED
        with trio.fail_after(LOOK_S):
            while not (replica.filled and replica.client.filled):
                await cluster.store.head_object(ACCOUNT, CONTAINER, NAME)
                await trio.sleep(0.02)
        assert not (await cluster.store.head_object(ACCOUNT, CONTAINER, NAME)).consistency.degraded
        with pytest.raises(NoSuchObject):
            await cluster.store.head_object(ACCOUNT, CONTAINER, b"never written")
        with pytest.raises(PreconditionFailed):
            await put(cluster, Conditions(if_none_match=("*",)))


async def test_a_new_cluster_is_certain_from_the_first_second() -> None:
    """All its devices are being filled; with all of them answering there is nobody who could know more."""
    async with small_cluster(3, local=False, filling=True) as cluster:
        assert await cluster.store.create_container(ACCOUNT, CONTAINER, {})
        with pytest.raises(NoSuchObject):
            await cluster.store.head_object(ACCOUNT, CONTAINER, NAME)
        assert not await put(cluster, Conditions(if_none_match=("*",)))
        assert await names(cluster) == ([NAME], False)
