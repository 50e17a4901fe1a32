"""The devices of the rings in force as background work reaches them: directly on this machine, else over the wire."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

import trio

from ring.ring import Ring
from ring.topology import Device
from storage_node.client import DeviceClient
from storage_node.hub import EpollHub, Hub
from storage_node.operations import Answer, GetCatalog, GetObject, GetRings, ListEntries, ListRows, Operation, Status
from storage_node.reader import LocalReader

Question: TypeAlias = Operation | GetRings

CALL_TIMEOUT_S: Final = 10.0
_LOCAL: Final = (GetCatalog, GetObject, ListEntries, ListRows)


class Peer:
    """One device, and the ways to it."""

    __slots__ = ("client", "device", "path", "reader", "scope")

    def __init__(
        self,
        device: Device,
        client: DeviceClient,
        path: Path | None,
        open_reader: Callable[[Path], LocalReader] = LocalReader,
    ) -> None:
        self.device = device
        self.client = client
        self.path = path
        """The device's directory, if it is on this machine."""
        self.reader = open_reader(path) if path is not None else None
        self.scope = trio.CancelScope()

    async def call(self, operation: Operation, timeout_s: float = CALL_TIMEOUT_S) -> Answer:
        """The device's answer; UNREACHABLE, in the operation's own answer type, where there is none."""
        answer = self._read(operation)
        return answer if answer is not None else await self.client.call(operation, timeout_s=timeout_s)

    def submit(
        self, operation: Question, on_answer: Callable[[Answer], None], timeout_s: float = CALL_TIMEOUT_S
    ) -> None:
        """The same with a callback, which is called once, perhaps before this returns."""
        answer = self._read(operation)
        if answer is not None:
            on_answer(answer)
        else:
            self.client.submit(operation, on_answer, timeout_s)

    def _read(self, operation: Question) -> Answer | None:
        """The answer of the disk itself, where it is here."""
        if self.reader is not None and isinstance(operation, _LOCAL):
            answer = self.reader.read(operation)
            if answer.status != Status.UNREACHABLE:
                return answer
        return None


class Peers:
    """All devices of the rings in force, connected while `run` runs.

    `address_of` says how to reach a device, `local_devices` maps ids of devices to their directories on this machine.
    `hub` serves the connections, `open_reader` reads a directory.
    """

    def __init__(
        self,
        ring: Ring,
        cluster_key: bytes,
        *,
        address_of: Callable[[Device], str],
        local_devices: Mapping[int, Path],
        hub: Hub | None = None,
        open_reader: Callable[[Path], LocalReader] = LocalReader,
        **client_options: Any,
    ) -> None:
        self._open_reader = open_reader
        self._address_of = address_of
        self._hub = hub or EpollHub()
        self._cluster_key = cluster_key
        self._client_options = {"ring_epoch": lambda: self.rings[0].epoch, **client_options}
        self._nursery: trio.Nursery | None = None
        self.rings: tuple[Ring, ...] = ()
        """Newest first."""
        self.by_id: dict[int, Peer] = {}
        self.adopt((ring,), local_devices)

    @property
    def ring(self) -> Ring:
        """The newest ring."""
        return self.rings[0]

    @property
    def local(self) -> tuple[Peer, ...]:
        """Those on this machine."""
        return tuple(peer for peer in self.by_id.values() if peer.reader is not None)

    def primaries(self, key: bytes) -> tuple[bytes, tuple[Peer, ...]]:
        """A name's hash and its primaries: under the newest ring, then those that only an older one has."""
        name_hash = self.ring.hash_key(key)
        return name_hash, tuple(self.by_id[number] for number in self.members(name_hash))

    def is_majority(self, name_hash: bytes, devices: Iterable[int]) -> bool:
        """Whether these devices are a majority of a hash's primaries, under each of the rings in force."""
        there = set(devices)
        for ring in self.rings:
            primaries = ring.primaries(ring.partition(name_hash))
            if sum(device.id in there for device in primaries) <= len(primaries) // 2:
                return False
        return True

    def members(self, name_hash: bytes) -> tuple[int, ...]:
        """Ids of the primaries of a hash under all rings in force, the newest ring's first."""
        found: dict[int, None] = {}
        for ring in self.rings:
            for device in ring.primaries(ring.partition(name_hash)):
                found[device.id] = None
        return tuple(found)

    def adopt(self, rings: Sequence[Ring], local_devices: Mapping[int, Path]) -> None:
        """Let these be the rings in force (newest first): connect to what is new, let go of what is in none."""
        devices: dict[int, Device] = {}
        for ring in rings:
            for device in ring.devices:
                if device is not None and device.kind == "disk":
                    devices.setdefault(device.id, device)
        for number, peer in list(self.by_id.items()):
            wanted = devices.get(number)
            if wanted is None or wanted.place != peer.device.place or local_devices.get(number) != peer.path:
                self._let_go(self.by_id.pop(number))
        for number, device in devices.items():
            present = self.by_id.get(number)
            if present is not None:
                present.device = device
                continue
            client = DeviceClient(
                self._address_of(device), device.name, self._cluster_key, hub=self._hub, **self._client_options
            )
            peer = self.by_id[number] = Peer(device, client, local_devices.get(number), self._open_reader)
            if self._nursery is not None:
                self._nursery.start_soon(self._keep, peer)
        self.rings = tuple(rings)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the connections up until cancelled. Started once every device was tried for the first time."""
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._hub.run)
                self._nursery = nursery
                async with trio.open_nursery() as first_tries:
                    for peer in self.by_id.values():
                        first_tries.start_soon(nursery.start, self._keep, peer)
                task_status.started()
        finally:
            self._nursery = None
            for peer in self.by_id.values():
                self._let_go(peer)

    @staticmethod
    async def _keep(peer: Peer, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with peer.scope:
            await peer.client.run(task_status)

    @staticmethod
    def _let_go(peer: Peer) -> None:
        peer.scope.cancel()
        if peer.reader is not None:
            peer.reader.close()


async def submit_all(requests: Sequence[tuple[Peer, Question]], timeout_s: float = CALL_TIMEOUT_S) -> list[Answer]:
    """The answers to many requests, in their order, all sent at once: a callback each, where a task would cost ten times."""
    answers: list[Answer | None] = [None] * len(requests)
    left = len(requests)
    everything = trio.Event()

    def note(index: int, answer: Answer) -> None:
        nonlocal left
        answers[index] = answer
        left -= 1
        if not left:
            everything.set()

    for index, (peer, operation) in enumerate(requests):
        peer.submit(operation, partial(note, index), timeout_s)
    if left:
        await everything.wait()
    else:
        await trio.lowlevel.checkpoint()
    return [answer for answer in answers if answer is not None]


async def ask_all(peers: Iterable[Peer], operation: Operation) -> list[Answer]:
    """Every device's answer, asked at once."""
    return await submit_all([(peer, operation) for peer in peers])
