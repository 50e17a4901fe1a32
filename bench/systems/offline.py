"""Millions of objects or rows put into the devices of a stopped cluster of ours, by the device store's own code.

By requests, ten million objects would take hours. Here each device is opened as its process would open it, and takes what
a proxy would send (with the metadata that a proxy would pack), in large batches: log, index, digests and
totals come out as if they had come over the wire. Every replica gets the same timestamps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
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


def write_rows(data: Path, account: str, container: str, count: int) -> None:
    """List `count` names in a container that exists, on each of its replicas."""
    ring = ring_file.load(data / "cluster.ring")
    clock = Clock(WRITER)
    key = container_key(account, container.encode())
    hash_ = ring.hash_key(key)
    etag = hashlib.md5(b"", usedforsecurity=False).hexdigest()
    payload = row_payload(etag, CONTENT_TYPE, "")
    stamps = [clock.stamp() for _ in range(count)]
    for device in ring.primaries(ring.partition(hash_)):
        rows = (
            PutRow(Space.CONTAINER, hash_, listed_name(n).encode(), stamps[n], 0, False, 1, 0, payload)
            for n in range(count)
        )
        _apply(data / "devices" / device.name, rows)


def write_objects(data: Path, account: str, container: str, count: int, size_bytes: int, *, rows: bool = True) -> None:
    """Put `count` objects into a container that exists, on each of their primaries; with their rows, unless told not to."""
    ring = ring_file.load(data / "cluster.ring")
    body = (b"0123456789abcdef" * (size_bytes // 16 + 1))[:size_bytes]
    etag = hashlib.md5(body, usedforsecurity=False).hexdigest()
    meta = pack_meta(etag, CONTENT_TYPE, size_bytes, {})
    stamp = Clock(WRITER).stamp()
    for device in ring.devices:
        if device is not None and device.kind == "disk":
            operations = _objects_of(ring, device.id, account, container, count, body, meta, stamp)
            _apply(data / "devices" / device.name, operations)
    if rows:
        key = container_key(account, container.encode())
        hash_ = ring.hash_key(key)
        payload = row_payload(etag, CONTENT_TYPE, "")
        for device in ring.primaries(ring.partition(hash_)):
            listed = (
                PutRow(Space.CONTAINER, hash_, object_name(n).encode(), stamp, 0, False, 1, size_bytes, payload)
                for n in range(count)
            )
            _apply(data / "devices" / device.name, listed)


def _objects_of(
    ring: Ring, device_id: int, account: str, container: str, count: int, body: bytes, meta: bytes, stamp: int
) -> Iterator[PutObject]:
    """What one device holds of them."""
    start = container_key(account, container.encode()) + b"/"
    mine = [any(d.id == device_id for d in ring.primaries(p)) for p in range(ring.part_count)]
    for number in range(count):
        key = start + object_name(number).encode()
        hash_ = ring.hash_key(key)
        if mine[ring.partition(hash_)]:
            yield PutObject(hash_, key, stamp, meta, body)


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
