"""Devices with their servers, and a replicator over them, in one trio run: what the tests of replication stand on.

Tests write to devices directly, so that they decide which replica has what; the replicator reaches them over Unix sockets
(and, unless told not to, reads them directly as those of its own machine).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from replicator.peers import Peers
from replicator.replicator import Replicator, ReplicatorSettings
from ring.builder import build_ring
from ring.ring import Ring
from ring.topology import Device as RingDevice
from storage_node.device import Device, DeviceWrite, PutBlob
from storage_node.operations import (
    Catalog,
    Entry,
    Found,
    FoundCatalog,
    FoundDigests,
    FoundRows,
    GetCatalog,
    GetDigests,
    GetObject,
    ListRows,
    Locked,
    Row,
    Status,
    Written,
)
from storage_node.server import StorageServer
from storage_node.settings import KIB, MIB, DeviceSettings
from storage_node.sockets import listen
from storage_node.timestamp import Clock, from_microseconds
from tests.support.memory import memory_folder

CLUSTER_KEY = b"k" * 32
SMALL = DeviceSettings(
    segment_bytes=256 * KIB,
    inline_bytes_max=200 * KIB,
    fallocate_bytes=256 * KIB,
    free_bytes_min=0,
    free_bytes_min_delete=0,
    index_map_bytes=256 * MIB,
    recent_map_bytes=2 * MIB,
)
NOW_US = 1_700_000_000_000_000
"""The wall clock of these tests: all that they write is older, unless they say so."""
AT_ONCE = ReplicatorSettings(settle_s=0.0, interval_s=0.05, move_s_min=0.0)
CONTAINER = 1


def at(second: int) -> int:
    """A timestamp in the past of these tests."""
    return from_microseconds(NOW_US - 1_000_000_000 + second * 1_000_000)


def ring_of(count: int, seed: int = 5, part_power: int = 4, epoch: int = 1, zones: int = 3) -> Ring:
    """A ring of equal devices, three replicas, `zones` zones; one node a device."""
    devices = [RingDevice(i, 1, i % zones + 1, f"127.0.0.{i + 1}", 6200, f"d{i}", 100.0) for i in range(count)]
    return build_ring(devices, part_power, min(3, count), seed, epoch=epoch)


class Served:
    """A device and its server."""

    def __init__(self, name: str, folder: Path, *, filling: bool = False) -> None:
        self.name = name
        self.path = folder / name
        self.socket = folder / f"{name}.sock"
        self.device: Device | None = None
        self._stop = trio.Event()
        self._stopped = trio.Event()
        if not self.path.exists():
            Device.create(self.path, name, filling=filling)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until stopped."""
        self._stop, self._stopped = trio.Event(), trio.Event()
        device = self.device = Device.open(self.path, settings=SMALL)
        try:
            self.socket.unlink(missing_ok=True)
            listener = listen(f"unix:{self.socket}")
            server = StorageServer({self.name: device}, CLUSTER_KEY, housekeeping=False)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.serve, [listener])
                task_status.started()
                await self._stop.wait()
                nursery.cancel_scope.cancel()
        finally:
            self.device = None
            device.close()
            self._stopped.set()

    async def stop(self) -> None:
        """Cut the connections and close the device."""
        self._stop.set()
        await self._stopped.wait()


class Fleet:
    """Several devices, a ring over them, and a replicator."""

    def __init__(
        self, folder: Path, ring: Ring, nursery: trio.Nursery, local: Iterable[int] | None, *, filling: bool = False
    ) -> None:
        self._nursery = nursery
        self._folder = folder
        self.ring = ring
        self.served = {device.id: Served(device.name, folder, filling=filling) for device in ring.devices if device}
        self._local = set(self.served if local is None else local)
        self.peers = Peers(
            ring,
            CLUSTER_KEY,
            address_of=lambda device: f"unix:{folder / device.name}.sock",
            local_devices=self.local_devices(),
        )
        self.replicator = Replicator(self.peers, Clock(7, lambda: NOW_US), AT_ONCE, now_us=lambda: NOW_US)

    def local_devices(self) -> dict[int, Path]:
        """What the replicator has on its machine."""
        return {number: served.path for number, served in self.served.items() if number in self._local}

    def add(self, ring: Ring) -> None:
        """Make the devices that a newer ring brings."""
        for device in ring.devices:
            if device and device.id not in self.served:
                self.served[device.id] = Served(device.name, self._folder)
                self._local.add(device.id)

    async def start(self, *numbers: int) -> None:
        """Serve these devices, and wait until the replicator has them."""
        for number in numbers:
            await self._nursery.start(self.served[number].run)
        await self.until_connected(numbers)

    async def until_connected(self, numbers: Iterable[int]) -> None:
        """Until the replicator is connected with them."""
        if self.peers.by_id and self.running:
            with trio.fail_after(10):
                while not all(self.peers.by_id[n].client.connected for n in numbers if n in self.peers.by_id):
                    await trio.sleep(0.005)

    async def stop(self, *numbers: int) -> None:
        """Stop serving these, and wait until the replicator has noticed."""
        for number in numbers:
            await self.served[number].stop()
        with trio.fail_after(10):
            while any(self.peers.by_id[number].client.connected for number in numbers):
                await trio.sleep(0.005)

    running = False

    # ----------------------------------------------------------------------------------------------- what devices hold

    def device(self, number: int) -> Device:
        """A device that is being served."""
        device = self.served[number].device
        assert device is not None
        return device

    def apply(self, number: int, *operations: DeviceWrite) -> list[Written | Locked]:
        """Write to one device, behind everybody's back."""
        return self.device(number).apply(operations)

    def put_large(self, number: int, key: bytes, timestamp: int, data: bytes) -> None:
        """An object that does not fit a frame, on one device."""
        writer = self.device(number).open_write()
        writer.write(data)
        writer.finish()
        (answer,) = self.apply(number, PutBlob(self.hash(key), key, timestamp, b"large", writer))
        assert answer.status == Status.APPLIED

    def hash(self, key: bytes) -> bytes:
        """A key's hash."""
        return self.ring.hash_key(key)

    def primaries(self, key: bytes, ring: Ring | None = None) -> list[int]:
        """Ids of a key's primaries."""
        ring = ring or self.ring
        return [device.id for device in ring.primaries(ring.partition(self.hash(key)))]

    def others(self, key: bytes) -> list[int]:
        """Ids of the devices that are none."""
        return [number for number in self.served if number not in self.primaries(key)]

    def entry(self, number: int, key: bytes) -> Entry | None:
        """What a device holds of an object."""
        found = self.device(number).read(GetObject(self.hash(key), key, False))
        assert isinstance(found, Found)
        return found.entry

    def data(self, number: int, key: bytes) -> bytes | None:
        """An object's bytes on a device."""
        opened = self.device(number).open_read(self.hash(key), key)
        if isinstance(opened, Status):
            return None
        size = opened.entry.size_bytes
        data = b"".join(bytes(opened.read(start, min(start + MIB, size))) for start in range(0, size, MIB))
        opened.close()
        return data

    def catalog(self, number: int, key: bytes, space: int = CONTAINER) -> Catalog | None:
        """What a device holds of a container or account."""
        found = self.device(number).read(GetCatalog(space, self.hash(key), key))
        assert isinstance(found, FoundCatalog)
        return found.catalog

    def rows(self, number: int, key: bytes, space: int = CONTAINER) -> list[Row]:
        """All rows of a catalog on a device, tombstones too."""
        found = self.device(number).read(ListRows(space, self.hash(key), key, deleted=True))
        assert isinstance(found, FoundRows)
        return [item for item in found.items if isinstance(item, Row)]

    def digests(self, number: int) -> list[tuple[bytes, ...]]:
        """All that a device holds, in a few bytes."""
        found = []
        for space in (0, 1, 2):
            answer = self.device(number).read(GetDigests(space, 0, 0, self.ring.part_power))
            assert isinstance(answer, FoundDigests)
            found.append(answer.digests)
        return found

    # -------------------------------------------------------------------------------------------------------- outcome

    async def settle(self, rounds_max: int = 4) -> None:
        """Rounds until one finds nothing to do. Fails if that takes too many."""
        for _ in range(rounds_max):
            found = await self.replicator.run_round()
            if not found.results:
                return
        raise AssertionError(f"after {rounds_max} rounds there is still something to do: {found}")

    def check(self, *, rotten_log: bool = False) -> None:
        """All primaries agree, nobody else holds anything, and every device is in order.

        With `rotten_log` dead bytes of the log may be rotten: they are there until their segment is compacted.
        """
        digests = {number: self.digests(number) for number, served in self.served.items() if served.device}
        for partition in range(self.ring.part_count):
            primaries = [device.id for device in self.ring.primaries(partition)]
            for space in (0, 1, 2):
                held = {number: found[space][partition] for number, found in digests.items()}
                assert len({held[number] for number in primaries if number in held}) <= 1, (space, partition, held)
                astray = {number for number in held if number not in primaries and held[number] != bytes(16)}
                assert not astray, (space, partition, astray)
        for served in self.served.values():
            if served.device:
                findings = served.device.check(deep=True)
                assert [what for what in findings if not (rotten_log and what.startswith("log:"))] == []


@asynccontextmanager
async def fleet_of(
    count: int = 6, *, ring: Ring | None = None, local: Iterable[int] | None = None, filling: bool = False
) -> AsyncIterator[Fleet]:
    """A running fleet, with a replicator that is connected and does nothing by itself.

    `local`: the devices that count as being on the replicator's machine; all, if not given. `filling`: they are new, and not
    known to be filled.
    """
    with memory_folder() as folder:
        async with trio.open_nursery() as nursery:
            fleet = Fleet(folder, ring or ring_of(count), nursery, local, filling=filling)
            await fleet.start(*fleet.served)
            await nursery.start(fleet.peers.run)
            fleet.running = True
            await fleet.until_connected(fleet.served)
            try:
                yield fleet
            finally:
                nursery.cancel_scope.cancel()
