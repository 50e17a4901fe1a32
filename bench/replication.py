"""Replication's promises in figures: how long agreement takes to be seen, and what mending one difference costs.

    python -m bench.replication [--objects 1000000] [--folder DIR] [--fill 20000]

Makes three devices that hold the same objects (one is filled, the others are copies of it), serves them over Unix sockets
from this process, and lets a replicator that has one of them on its machine compare all three:

- a round in which everything agrees: seconds, bytes on the wire;
- one object that one replica has in another version: seconds and bytes until all agree again, beside its own size;
- an empty device in the place of one: objects a second until it is full (of `--fill` objects, on devices of their own);
- a pass of the auditor, unthrottled, over the device on its machine: entries and bytes a second.

One process does everything, the servers' work included, so times are upper bounds. Bytes are those of requests and answers
as they are packed.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog
import trio

from replicator.auditor import Auditor, AuditorSettings
from replicator.peers import Peers
from replicator.replicator import Replicator, ReplicatorSettings
from ring.builder import build_ring
from ring.ring import Ring
from ring.topology import Device as RingDevice
from storage_node.client import DeviceClient
from storage_node.codec import pack
from storage_node.device import Device
from storage_node.operations import PutObject
from storage_node.server import StorageServer
from storage_node.sockets import listen
from storage_node.timestamp import Clock

KEY = b"k" * 32
BATCH = 2_000
PART_POWER = 12
OBJECT_BYTES = 100


class Wire:
    """Counts what requests and answers take, packed."""

    def __init__(self) -> None:
        self.bytes = 0
        self.requests = 0
        submit = DeviceClient.submit

        def counting(client: DeviceClient, operation: Any, on_answer: Any, *arguments: Any) -> None:
            self.bytes += len(pack((1, 1, operation)))
            self.requests += 1

            def answered(answer: Any) -> None:
                self.bytes += len(pack((1, answer)))
                on_answer(answer)

            submit(client, operation, answered, *arguments)

        DeviceClient.submit = counting  # type: ignore[method-assign]

    def take(self) -> tuple[int, int]:
        """Bytes and requests since the last time."""
        taken = self.bytes, self.requests
        self.bytes = self.requests = 0
        return taken


def ring_of(count: int) -> Ring:
    """Three devices, three replicas."""
    devices = [RingDevice(i, 1, i + 1, f"127.0.0.{i + 1}", 6200, f"d{i}", 100.0) for i in range(count)]
    return build_ring(devices, PART_POWER, 3, seed=11)


def key_of(number: int) -> bytes:
    """The name of an object."""
    return b"/AUTH_bench/container/object-%08d" % number


def fill(ring: Ring, device: Device, count: int, timestamp: int) -> None:
    """Put objects on a device."""
    data = bytes(OBJECT_BYTES)
    for start in range(0, count, BATCH):
        keys = [key_of(number) for number in range(start, min(start + BATCH, count))]
        device.apply([PutObject(ring.hash_key(key), key, timestamp, b"metadata", data) for key in keys])
        while (work := device.next_work()) is not None:
            while (progress := work.step()).value != "done":
                if progress.value == "block":
                    work.block()


async def with_replicator(folder: Path, ring: Ring, local: Sequence[int], measure: Any) -> None:
    """Serve the devices of a folder and call `measure(replicator, devices)`; `local` are on the replicator's machine."""
    devices = {f"d{i}": Device.open(folder / f"d{i}") for i in range(3)}
    peers = Peers(
        ring,
        KEY,
        address_of=lambda device: f"unix:{folder / device.name}.sock",
        local_devices={number: folder / f"d{number}" for number in local},
    )
    settings = ReplicatorSettings(settle_s=0.0, bytes_per_s=1e12, device_bytes_per_s=1e12)
    replicator = Replicator(peers, Clock(1000), settings)
    async with trio.open_nursery() as nursery:
        for name, device in devices.items():
            nursery.start_soon(StorageServer({name: device}, KEY).serve, [listen(f"unix:{folder / name}.sock")])
        await nursery.start(peers.run)
        await measure(replicator, devices)
        nursery.cancel_scope.cancel()
    for device in devices.values():
        device.close()


def make(folder: Path, ring: Ring, count: int, copies: Sequence[int]) -> None:
    """A filled device d0, and copies of it; the rest are empty."""
    clock = Clock(1, lambda: time.time_ns() // 1000 - 60_000_000)
    Device.create(folder / "d0", "d0")
    device = Device.open(folder / "d0")
    fill(ring, device, count, clock.stamp())
    device.close()
    for number in (1, 2):
        if number in copies:
            shutil.copytree(folder / "d0", folder / f"d{number}")
        else:
            Device.create(folder / f"d{number}", f"d{number}")


async def agreement(folder: Path, ring: Ring, count: int, wire: Wire) -> None:
    """The first two figures."""

    async def measure(replicator: Replicator, devices: dict[str, Device]) -> None:
        await replicator.run_round()
        for _ in range(3):
            wire.take()
            began_s = time.perf_counter()
            found = await replicator.run_round()
            took_s = time.perf_counter() - began_s
            sent, requests = wire.take()
            assert found.differing == 0
            print(f"{count:,} objects, 3 devices agree: {took_s * 1000:.1f} ms, {sent:,} bytes in {requests} requests")
        key = key_of(count // 2)
        data = bytes(range(256)) * 16
        put = PutObject(ring.hash_key(key), key, Clock(2).stamp(), b"metadata", data)
        devices["d0"].apply([put])
        wire.take()
        began_s = time.perf_counter()
        found = await replicator.run_round()
        took_s = time.perf_counter() - began_s
        sent, requests = wire.take()
        assert found.results[0].outcome.settled == 1
        moved = replicator.moved.bytes
        print(
            f"one of {len(data):,} bytes differs: mended on 2 devices in {took_s * 1000:.1f} ms, {sent:,} bytes in "
            f"{requests} requests, of which {moved:,} were the object, twice"
        )
        assert (await replicator.run_round()).differing == 0

    await with_replicator(folder, ring, (0,), measure)


async def filling(folder: Path, ring: Ring, count: int, wire: Wire) -> None:
    """The third figure."""

    async def measure(replicator: Replicator, devices: dict[str, Device]) -> None:
        wire.take()
        began_s = time.perf_counter()
        await replicator.run_round()
        took_s = time.perf_counter() - began_s
        sent, _ = wire.take()
        print(
            f"an empty device is given {count:,} objects: {count / took_s:,.0f} objects/s, {sent / count:,.0f} bytes each"
        )
        assert devices["d2"].statistics().object_count == count

    await with_replicator(folder, ring, (0, 1, 2), measure)


async def auditing(folder: Path, ring: Ring, count: int, wire: Wire) -> None:
    """The fourth figure."""

    async def measure(replicator: Replicator, devices: dict[str, Device]) -> None:
        auditor = Auditor(replicator.peers, AuditorSettings(entries_per_s=1e9, bytes_per_s=1e12))
        began_s, cpu_s = time.perf_counter(), time.process_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(auditor.run)
            while not auditor.statistics().passes:  # noqa: ASYNC110 - it has no event for the end of a pass
                await trio.sleep(0.05)
            nursery.cancel_scope.cancel()
        took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
        found = auditor.statistics()
        assert found.entries >= count
        assert not found.rotten
        print(
            f"the auditor's pass over {found.entries:,} entries, {found.bytes:,} bytes: {found.entries / took_s:,.0f} "
            f"entries/s, {cpu_s / found.entries * 1e6:.1f} us of CPU each"
        )

    await with_replicator(folder, ring, (0,), measure)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=1_000_000)
    parser.add_argument("--fill", type=int, default=20_000)
    parser.add_argument(
        "--folder", type=Path, default=None, help="where to make the devices (default: a temporary one)"
    )
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    wire = Wire()
    ring = ring_of(3)
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="replication-") as name:
        for part, count, copies in (("same", arguments.objects, (1, 2)), ("fill", arguments.fill, (1,))):
            if count:
                folder = Path(name) / part
                folder.mkdir()
                began_s = time.perf_counter()
                make(folder, ring, count, copies)
                print(f"(made in {time.perf_counter() - began_s:.1f} s)")
                if part == "fill":
                    trio.run(filling, folder, ring, count, wire)
                    continue
                trio.run(agreement, folder, ring, count, wire)
                trio.run(auditing, folder, ring, count, wire)


if __name__ == "__main__":
    main()
