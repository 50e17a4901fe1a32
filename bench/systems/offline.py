"""Millions of objects or rows put into the devices of a stopped cluster of ours, by the device store's own code.

By requests, ten million objects would take hours. Here each device is opened as its process would open it, and takes what
a proxy would send (with the metadata that a proxy would pack), in large batches: log, index, digests and
totals come out as if they had come over the wire. Every replica gets the same timestamps. Each device is filled by a
process of its own, as many at a time as there are cores.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from bench.plan import listed_name, object_name
from proxy.entry import pack_meta, row_payload
from proxy.names import container_key
from ring import ring_file
from ring.ring import Ring
from storage_node.device import Device
from storage_node.operations import PutObject, PutRow, Space, Status
from storage_node.timestamp import Clock
from storage_node.work import Progress

WRITER: Final = 4094
BATCH: Final = 5_000
CONTENT_TYPE: Final = "application/octet-stream"


class OfflineFailed(Exception):
    """A device did not take what it was given."""


@dataclass(frozen=True, slots=True)
class Filling:
    """What goes into the devices: plain values, so that a process of its own can fill each."""

    data: Path
    account: str
    container: str
    count: int
    size_bytes: int
    name_of: Callable[[int], str]
    stamp: int
    """Of every object and row: they are of different names."""
    objects: bool
    rows: bool


def write_rows(data: Path, account: str, container: str, count: int) -> None:
    """List `count` names in a container that exists, on each of its replicas."""
    stamp = Clock(WRITER).stamp()
    _fill(Filling(data, account, container, count, 0, listed_name, stamp, objects=False, rows=True))


def write_objects(data: Path, account: str, container: str, count: int, size_bytes: int, *, rows: bool = True) -> None:
    """Put `count` objects into a container that exists, on each of their primaries; with their rows, unless told not to."""
    stamp = Clock(WRITER).stamp()
    _fill(Filling(data, account, container, count, size_bytes, object_name, stamp, objects=True, rows=rows))


def _fill(filling: Filling) -> None:
    ring = ring_file.load(filling.data / "cluster.ring")
    devices = [device.id for device in ring.devices if device is not None and device.kind == "disk"]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=spawn) as pool:
        for done in [pool.submit(_fill_device, filling, device_id) for device_id in devices]:
            done.result()


def _fill_device(filling: Filling, device_id: int) -> None:
    """What one device holds of it."""
    ring = ring_file.load(filling.data / "cluster.ring")
    device = ring.devices[device_id]
    assert device is not None
    body = (b"0123456789abcdef" * (filling.size_bytes // 16 + 1))[: filling.size_bytes]
    etag = hashlib.md5(body, usedforsecurity=False).hexdigest()
    path = filling.data / "devices" / device.name
    if filling.objects:
        meta = pack_meta(etag, CONTENT_TYPE, filling.size_bytes, {})
        _apply(path, _objects_of(ring, device_id, filling, body, meta))
    hash_ = ring.hash_key(container_key(filling.account, filling.container.encode()))
    if filling.rows and any(primary.id == device_id for primary in ring.primaries(ring.partition(hash_))):
        payload = row_payload(etag, CONTENT_TYPE, "")
        rows = (
            PutRow(
                Space.CONTAINER,
                hash_,
                filling.name_of(number).encode(),
                filling.stamp,
                0,
                False,
                1,
                filling.size_bytes,
                payload,
            )
            for number in range(filling.count)
        )
        _apply(path, rows)


def _objects_of(ring: Ring, device_id: int, filling: Filling, body: bytes, meta: bytes) -> Iterator[PutObject]:
    start = container_key(filling.account, filling.container.encode()) + b"/"
    mine = [any(primary.id == device_id for primary in ring.primaries(p)) for p in range(ring.part_count)]
    for number in range(filling.count):
        key = start + filling.name_of(number).encode()
        hash_ = ring.hash_key(key)
        if mine[ring.partition(hash_)]:
            yield PutObject(hash_, key, filling.stamp, meta, body)


def _apply(path: Path, operations: Iterable[PutObject | PutRow]) -> None:
    """Let one device take them all, with the background work that is due in between."""
    device = Device.open(path)
    try:
        source = iter(operations)
        while batch := list(islice(source, BATCH)):
            for answer in device.apply(batch):
                if answer.status != Status.APPLIED:
                    raise OfflineFailed(f"{path}: {answer}")
            _keep_house(device)
        device.checkpoint()
    finally:
        device.close()


def _keep_house(device: Device) -> None:
    while (work := device.next_work()) is not None:
        while (progress := work.step()) is not Progress.DONE:
            if progress is Progress.BLOCK:
                work.block()
            elif progress is Progress.WAIT:
                device.apply([])
