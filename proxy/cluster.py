"""The devices of the ring as one proxy reaches them.

Problem: the store asks "the primaries of this name" for things, and does not want to know which of them lie on its own
machine (read directly through LMDB and `pread`), which behind a Unix socket and which behind TCP.

Idea: a `Replica` is one device with the two ways to it: a `DeviceClient` for writes and far reads, and a `LocalReader`
where the device's directory is on this machine. `Replica.submit` takes any operation and gives the answer to a callback,
at once for a local read. A `Placement` is what the ring says of one name: its hash, its primaries, and handoffs after
them. Placements of a partition share one tuple of replicas, made once.

A local read is right even while the device's own process is dead: what that process published was durable before, and it
acknowledged nothing that it had not published.

Rejected: a task and a nursery for each replica of each request (20 to 30 us each; a callback costs one).

Invariants:
- `submit` never blocks and never raises for what the device does; every submit is answered exactly once.
- All timestamps of this process come from one `Clock`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import trio

from ring.ring import Ring
from ring.topology import Device
from storage_node.client import DeviceClient
from storage_node.hub import EpollHub, Hub
from storage_node.operations import (
    Answer,
    GetCatalog,
    GetObject,
    ListRows,
    Operation,
    Status,
)
from storage_node.reader import LocalReader
from storage_node.timestamp import Clock

CAUTIOUS_S = 600.0
"""How long after a device was away reads ask every primary that is at hand, not a bare majority: writes of that time may
lie on handoffs and on a minority of primaries until the replicator has brought them home."""


class Replica:
    """One device of the ring, and the ways to it from here."""

    __slots__ = ("client", "device", "reader")

    def __init__(self, device: Device, client: DeviceClient, reader: LocalReader | None) -> None:
        self.device = device
        self.client = client
        self.reader = reader

    def __repr__(self) -> str:
        return f"<Replica {self.device.name} of {self.device.node}:{self.device.port}>"

    def submit(self, operation: Operation, on_answer: Callable[[Answer], None], timeout_s: float) -> None:
        """Ask the device; `on_answer` is called once, perhaps before this returns."""
        reader = self.reader
        if reader is not None and isinstance(operation, (GetObject, GetCatalog, ListRows)):
            answer = reader.read(operation)
            if answer.status != Status.UNREACHABLE:
                on_answer(answer)
                return
        self.client.submit(operation, on_answer, timeout_s)

    @property
    def reachable(self) -> bool:
        """Whether a write sent now has a chance."""
        return self.client.connected


class Placement:
    """Where one name belongs."""

    __slots__ = ("_cluster", "hash", "need", "primaries")

    def __init__(self, cluster: Cluster, name_hash: bytes, primaries: tuple[Replica, ...]) -> None:
        self._cluster = cluster
        self.hash = name_hash
        self.primaries = primaries
        self.need = len(primaries) // 2 + 1
        """A majority of the primaries."""

    def handoffs(self) -> Iterator[Replica]:
        """The other devices, in the order in which they stand in for a primary."""
        cluster = self._cluster
        for device in cluster.ring.handoffs(cluster.ring.partition(self.hash)):
            yield cluster.replicas[device.id]


class Cluster:
    """Every device of a ring, connected.

    `local_devices` maps ids of devices whose directories are on this machine to those directories. `address_of` says how
    to reach a device ("unix:PATH" or "IP:PORT"). `clock` stamps this process's writes. `hub` serves the connections,
    `open_reader` reads a directory.
    """

    def __init__(
        self,
        ring: Ring,
        cluster_key: bytes,
        clock: Clock,
        address_of: Callable[[Device], str],
        local_devices: Mapping[int, Path] | None = None,
        monotonic: Callable[[], float] = trio.current_time,
        hub: Hub | None = None,
        open_reader: Callable[[Path], LocalReader] = LocalReader,
        **client_options: Any,
    ) -> None:
        self.ring = ring
        self.clock = clock
        self.monotonic = monotonic
        self.background: trio.Nursery | None = None
        self._placements: dict[int, tuple[Replica, ...]] = {}
        self._cautious_until_s = 0.0
        self._new_until_s: float | None = None
        self.replicas: dict[int, Replica] = {}
        self._hub = hub or EpollHub()
        local = local_devices or {}
        for device in ring.devices:
            if device is None or device.kind != "disk":
                continue
            client = DeviceClient(address_of(device), device.name, cluster_key, hub=self._hub, **client_options)
            reader = open_reader(local[device.id]) if device.id in local else None
            self.replicas[device.id] = Replica(device, client, reader)
        self.all_local = all(replica.reader is not None for replica in self.replicas.values())
        """Every device is on this machine."""

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the connections up until cancelled. Started once every device was tried for the first time."""
        try:
            async with trio.open_nursery() as nursery:
                self.background = nursery
                await nursery.start(self._hub.run)
                async with trio.open_nursery() as first_tries:
                    for replica in self.replicas.values():
                        first_tries.start_soon(nursery.start, replica.client.run)
                nursery.start_soon(self._watch)
                task_status.started()
        finally:
            self.background = None
            self._hub.close()
            for replica in self.replicas.values():
                if replica.reader is not None:
                    replica.reader.close()

    async def _watch(self) -> None:
        while True:
            if not all(replica.client.connected for replica in self.replicas.values()):
                self._cautious_until_s = self.monotonic() + CAUTIOUS_S
            await trio.sleep(0.5)

    @property
    def cautious(self) -> bool:
        """Whether a device was away lately, so that reads should ask more than a bare majority."""
        return self.monotonic() < self._cautious_until_s

    @property
    def thorough(self) -> bool:
        """Whether reads should ask every primary at hand: this process may have been started after a failure."""
        now_s = self.monotonic()
        if self._new_until_s is None:
            self._new_until_s = now_s + CAUTIOUS_S
        return now_s < self._new_until_s

    def note_failure(self) -> None:
        """A device did not answer or took no write: be cautious for a while."""
        self._cautious_until_s = self.monotonic() + CAUTIOUS_S

    def place(self, key: bytes) -> Placement:
        """Where the account, container or object with this key belongs."""
        ring = self.ring
        name_hash = ring.hash_key(key)
        partition = ring.partition(name_hash)
        primaries = self._placements.get(partition)
        if primaries is None:
            primaries = tuple(self.replicas[device.id] for device in ring.primaries(partition))
            self._placements[partition] = primaries
        return Placement(self, name_hash, primaries)

    def start_soon(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Run something beside the requests, for as long as the cluster is connected."""
        if self.background is not None:
            self.background.start_soon(partial(function, *arguments))
