"""A cluster inside one trio run: real devices, real servers on Unix sockets, a real store; no processes.

Each storage server can be stopped and started again, so that a test decides which devices are away.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from proxy.cluster import Cluster
from proxy.store import ObjectStore
from ring.builder import build_ring
from ring.ring import Ring
from ring.topology import Device as RingDevice
from storage_node.device import Device
from storage_node.server import StorageServer
from storage_node.sockets import listen
from storage_node.timestamp import Clock
from tests.support.memory import memory_folder
from tests.support.small_device import SMALL_DEVICE

CLUSTER_KEY = b"k" * 32


class Node:
    """One device and its server."""

    def __init__(self, ring_device: RingDevice, folder: Path, nursery: trio.Nursery, *, filling: bool = False) -> None:
        self.ring_device = ring_device
        self.path = folder / ring_device.name
        self.address = f"unix:{folder / ring_device.name}.sock"
        self._nursery = nursery
        self._scope: trio.CancelScope | None = None
        self._stopped = trio.Event()
        if not self.path.exists():
            Device.create(self.path, ring_device.name, filling=filling)

    async def start(self) -> None:
        """Open the device and serve it."""
        self._stopped = trio.Event()
        await self._nursery.start(self._run)

    async def _run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        device = Device.open(self.path, settings=SMALL_DEVICE)
        try:
            with trio.CancelScope() as self._scope:
                server = StorageServer({self.ring_device.name: device}, CLUSTER_KEY)
                Path(self.address.removeprefix("unix:")).unlink(missing_ok=True)
                listener = listen(self.address)
                task_status.started()
                await server.serve([listener])
        finally:
            device.close()
            self._stopped.set()

    async def stop(self) -> None:
        """Cut its connections and close the device."""
        if self._scope is not None:
            self._scope.cancel()
            self._scope = None
            await self._stopped.wait()


class SmallCluster:
    """Devices in three zones, and stores that see them."""

    def __init__(self, nodes: Sequence[Node], cluster: Cluster, store: ObjectStore, *, local: bool) -> None:
        self.nodes = {node.ring_device.id: node for node in nodes}
        self.cluster = cluster
        self.store = store
        self._paths = {number: node.path for number, node in self.nodes.items()} if local else {}

    def adopt(self, *rings: Ring) -> None:
        """Let these rings be in force for the store, newest first."""
        self.cluster.adopt(rings, self._paths)

    def primaries(self, key: bytes) -> list[Node]:
        """The nodes of a name's primaries."""
        return [self.nodes[replica.device.id] for replica in self.cluster.place(key).primaries]

    async def until_connected(self, *, connected: bool, nodes: Sequence[Node]) -> None:
        """Until the clients have noticed that nodes went or came."""
        ids = {node.ring_device.id for node in nodes}
        while any(self.cluster.replicas[id_].client.connected is not connected for id_ in ids):
            await trio.sleep(0.01)


def ring_devices(count: int) -> list[RingDevice]:
    """Devices in three zones, a node each."""
    return [
        RingDevice(id=i, region=1, zone=i % 3 + 1, node=f"127.0.0.{i + 1}", port=6200, name=f"d{i}", weight=100.0)
        for i in range(count)
    ]


@asynccontextmanager
async def small_cluster(
    devices: int = 6, *, in_ring: int | None = None, local: bool = True, filling: bool = False
) -> AsyncIterator[SmallCluster]:
    """A running cluster in a folder in memory, with the first `in_ring` devices (all, unless told otherwise) in its ring.

    `local` False hides the directories from the store, so that all goes over the wire. `filling`: the devices are new, and
    not known to be filled.
    """
    ring = build_ring(ring_devices(in_ring or devices), part_power=6, replicas=min(3, devices), seed=5)
    with memory_folder() as folder:
        async with trio.open_nursery() as nursery:
            nodes = [Node(ring_device, folder, nursery, filling=filling) for ring_device in ring_devices(devices)]
            for node in nodes:
                await node.start()
            paths = {node.ring_device.id: node.path for node in nodes} if local else {}
            addresses = {node.ring_device.id: node.address for node in nodes}
            cluster = Cluster(ring, CLUSTER_KEY, Clock(1), lambda device: addresses[device.id], paths)
            await nursery.start(cluster.run)
            try:
                yield SmallCluster(nodes, cluster, ObjectStore(cluster), local=local)
            finally:
                nursery.cancel_scope.cancel()
