"""The devices of a ring as background work reaches them: directly where they are on this machine, else over the wire."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import trio

from ring.ring import Ring
from ring.topology import Device
from storage_node.client import DeviceClient
from storage_node.operations import Answer, GetCatalog, GetObject, ListEntries, ListRows, Operation, Status
from storage_node.reader import LocalReader

CALL_TIMEOUT_S: Final = 10.0
_LOCAL: Final = (GetCatalog, GetObject, ListEntries, ListRows)


class Peer:
    """One device, and the ways to it."""

    __slots__ = ("client", "device", "reader")

    def __init__(self, device: Device, client: DeviceClient, reader: LocalReader | None) -> None:
        self.device = device
        self.client = client
        self.reader = reader

    async def call(self, operation: Operation, timeout_s: float = CALL_TIMEOUT_S) -> Answer:
        """The device's answer; UNREACHABLE, in the operation's own answer type, where there is none."""
        if self.reader is not None and isinstance(operation, _LOCAL):
            answer = self.reader.read(operation)
            if answer.status != Status.UNREACHABLE:
                return answer
        return await self.client.call(operation, timeout_s=timeout_s)


class Peers:
    """All devices of a ring, connected while `run` runs."""

    def __init__(
        self,
        ring: Ring,
        cluster_key: bytes,
        *,
        address_of: Callable[[Device], str],
        local_devices: Mapping[int, Path],
        **client_options: Any,
    ) -> None:
        self.ring = ring
        self.by_id: dict[int, Peer] = {}
        for device in ring.devices:
            if device is not None and device.kind == "disk":
                client = DeviceClient(address_of(device), device.name, cluster_key, **client_options)
                reader = LocalReader(local_devices[device.id]) if device.id in local_devices else None
                self.by_id[device.id] = Peer(device, client, reader)

    @property
    def local(self) -> tuple[Peer, ...]:
        """Those on this machine."""
        return tuple(peer for peer in self.by_id.values() if peer.reader is not None)

    def primaries(self, key: bytes) -> tuple[bytes, tuple[Peer, ...]]:
        """A name's hash and its primaries."""
        name_hash = self.ring.hash_key(key)
        devices = self.ring.primaries(self.ring.partition(name_hash))
        return name_hash, tuple(self.by_id[device.id] for device in devices)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the connections up until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                for peer in self.by_id.values():
                    nursery.start_soon(peer.client.run)
                task_status.started()
        finally:
            for peer in self.by_id.values():
                if peer.reader is not None:
                    peer.reader.close()


async def ask_all(peers: Iterable[Peer], operation: Operation) -> list[Answer]:
    """Every device's answer, asked at once."""
    answers: list[Answer] = []

    async def ask(peer: Peer) -> None:
        answers.append(await peer.call(operation))

    async with trio.open_nursery() as nursery:
        for peer in peers:
            nursery.start_soon(ask, peer)
    return answers
