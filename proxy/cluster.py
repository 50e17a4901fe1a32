"""The devices of the ring as one proxy reaches them.

Problem: the store asks "the primaries of this name" for things, and does not want to know which of them lie on its own
machine (read directly through LMDB and `pread`), which behind a Unix socket and which behind TCP.

Idea: a `Replica` is one device with the two ways to it: a `DeviceClient` for writes and far reads, and a `LocalReader`
where the device's directory is on this machine. `Replica.submit` takes any operation and gives the answer to a callback,
at once for a local read. A `Placement` is what the ring says of one name: its hash, its primaries, and handoffs after
them. Placements of a partition share one tuple of replicas, made once.

Rings change while requests run: `adopt` takes the rings in force, newest first. Where they disagree about a partition its
placements are `MovingPlacement`s, whose primaries are those of all rings and whose majority is one in each (majority.py);
all other partitions are placed as before, at the same cost. Devices that are in no ring any more stay connected for
RETIRE_S, for requests that were placed on them.

A local read is right even while the device's own process is dead: what that process published was durable before, and it
acknowledged nothing that it had not published.

Rejected: a task and a nursery for each replica of each request (20 to 30 us each; a callback costs one).

Invariants:
- `submit` never blocks and never raises for what the device does; every submit is answered exactly once.
- All timestamps of this process come from one `Clock`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import trio

from proxy.majority import Tally, informed, votes_of
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


RETIRE_S = 60.0
"""How long a device that is in no ring any more stays connected: what was placed on it has ended or given up by then."""


class Replica:
    """One device of the ring, and the ways to it from here."""

    __slots__ = ("client", "device", "path", "reader", "scope")

    def __init__(
        self, device: Device, client: DeviceClient, reader: LocalReader | None, path: Path | None = None
    ) -> None:
        self.device = device
        self.client = client
        self.reader = reader
        self.path = path
        """The device's directory, if it is on this machine."""
        self.scope = trio.CancelScope()

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
    def filled(self) -> bool:
        """Whether the answer that has just come from it counts where it has nothing: it never forgot what it acknowledged.

        To be asked when a read's answer comes, not later.
        """
        reader = self.reader
        return not reader.filling if reader is not None and reader.opened else self.client.filled

    @property
    def reachable(self) -> bool:
        """Whether a write sent now has a chance."""
        return self.client.connected

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the connection up until `let_go`. Started once it was tried for the first time."""
        with self.scope:
            await self.client.run(task_status)

    def let_go(self) -> None:
        """Close whatever leads to the device."""
        self.scope.cancel()
        if self.reader is not None:
            self.reader.close()


class Placement:
    """Where one name belongs."""

    __slots__ = ("_cluster", "hash", "need", "primaries")

    moving: ClassVar[bool] = False
    """Whether several rings in force disagree about this name's primaries."""

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
            replica = cluster.replicas[device.id]
            if replica not in self.primaries:  # it may be one if the rings have changed since
                yield replica

    def tally(self) -> Tally:
        """A count of votes that has come to its end when a majority has voted."""
        return Tally((self.need,))

    def votes(self, replica: Replica) -> int:
        """The votes of one of the primaries."""
        return 1

    def suffices(self, replicas: Iterable[Replica]) -> bool:
        """Whether the primaries among these distinct devices are a majority."""
        return sum(replica in self.primaries for replica in replicas) >= self.need

    def informed(self, answered: Collection[Replica], filling: Collection[Replica]) -> bool:
        """Whether these distinct devices' answers cover every acknowledged write; of them `filling` were being filled."""
        known = [replica for replica in answered if replica in self.primaries]
        return informed(len(self.primaries), len(known), sum(replica not in filling for replica in known))


class MovingPlacement(Placement):
    """Where one name belongs while its partition moves: under several rings. See majority.py.

    `primaries` are those of all rings, those that surely have the data first; `need` is that of the newest ring.
    """

    __slots__ = ("_needs", "_votes")

    moving: ClassVar[bool] = True

    def __init__(self, cluster: Cluster, name_hash: bytes, votes: Mapping[Replica, int], needs: Sequence[int]) -> None:
        super().__init__(cluster, name_hash, tuple(votes))
        self._votes = votes
        self._needs = needs
        self.need = needs[0]

    def tally(self) -> Tally:
        """A count that has come to its end when a majority has voted in each ring."""
        return Tally(self._needs)

    def votes(self, replica: Replica) -> int:
        """The rings in which it is a primary, as a bit mask."""
        return self._votes[replica]

    def suffices(self, replicas: Iterable[Replica]) -> bool:
        """Whether the primaries among these distinct devices are a majority in each ring."""
        tally = self.tally()
        for replica in replicas:
            tally.add(self._votes.get(replica, 0))
        return not tally.lacking

    def informed(self, answered: Collection[Replica], filling: Collection[Replica]) -> bool:
        """The same in each ring."""
        for index in range(len(self._needs)):
            members = {replica for replica, rings in self._votes.items() if rings >> index & 1}
            known = members.intersection(answered)
            if not informed(len(members), len(known), len(known.difference(filling))):
                return False
        return True


class Cluster:
    """Every device of the rings in force, connected.

    `rings` are a ring, or the rings in force, newest first. `local_devices` maps ids of devices whose directories are on
    this machine to those directories. `address_of` says how to reach a device ("unix:PATH" or "IP:PORT"). `clock` stamps
    this process's writes. `hub` serves the connections, `open_reader` reads a directory. For `cautious_s` after a failure
    reads ask more than a bare majority.
    """

    def __init__(
        self,
        rings: Ring | Sequence[Ring],
        cluster_key: bytes,
        clock: Clock,
        address_of: Callable[[Device], str],
        local_devices: Mapping[int, Path] | None = None,
        monotonic: Callable[[], float] = trio.current_time,
        hub: Hub | None = None,
        open_reader: Callable[[Path], LocalReader] = LocalReader,
        cautious_s: float = CAUTIOUS_S,
        **client_options: Any,
    ) -> None:
        self.clock = clock
        self._cautious_s = cautious_s
        self.monotonic = monotonic
        self.background: trio.Nursery | None = None
        self._cluster_key = cluster_key
        self._address_of = address_of
        self._client_options = {"ring_epoch": lambda: self.rings[0].epoch, **client_options}
        self._placements: dict[int, tuple[Replica, ...]] = {}
        self._moving: dict[int, tuple[dict[Replica, int], tuple[int, ...]]] = {}
        self._cautious_until_s = 0.0
        self._new_until_s: float | None = None
        self._hub = hub or EpollHub()
        self._open_reader = open_reader
        self.replicas: dict[int, Replica] = {}
        """Of all rings in force, by the devices' ids."""
        self.rings: tuple[Ring, ...] = ()
        """In force, newest first."""
        self.changes = 0
        """How often the rings in force have changed."""
        self.all_local = False
        """Every device is on this machine."""
        self.adopt((rings,) if isinstance(rings, Ring) else rings, local_devices or {})

    def adopt(self, rings: Sequence[Ring], local_devices: Mapping[int, Path]) -> None:
        """Let these be the rings in force (newest first): connect to what is new, let go, in time, of what is in none.

        Requests that run go on with the placements that they have.
        """
        devices: dict[int, Device] = {}
        for ring in rings:
            for device in ring.devices:
                if device is not None and device.kind == "disk":
                    devices.setdefault(device.id, device)
        for number, replica in list(self.replicas.items()):
            wanted = devices.get(number)
            if wanted is None or wanted.place != replica.device.place or local_devices.get(number) != replica.path:
                self._retire(self.replicas.pop(number))
        for number, device in devices.items():
            present = self.replicas.get(number)
            if present is not None:
                present.device = device
                continue
            client = DeviceClient(
                self._address_of(device), device.name, self._cluster_key, hub=self._hub, **self._client_options
            )
            path = local_devices.get(number)
            reader = self._open_reader(path) if path is not None else None
            replica = self.replicas[number] = Replica(device, client, reader, path)
            if self.background is not None:
                self.background.start_soon(replica.run)
        self.rings = tuple(rings)
        self.ring = rings[0]
        """The newest: what says where handoffs are."""
        self._finest = max(rings, key=lambda ring: ring.part_power)
        self._placements = {}
        self._moving = {}
        self.changes += 1
        self.all_local = all(replica.reader is not None for replica in self.replicas.values())

    def _retire(self, replica: Replica) -> None:
        if self.background is None:
            replica.let_go()
        else:
            self.background.start_soon(self._let_go_later, replica)

    @staticmethod
    async def _let_go_later(replica: Replica) -> None:
        try:
            await trio.sleep(RETIRE_S)
        finally:
            replica.let_go()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the connections up until cancelled. Started once every device was tried for the first time."""
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._hub.run)
                async with trio.open_nursery() as first_tries:
                    self.background = nursery
                    for replica in self.replicas.values():
                        first_tries.start_soon(nursery.start, replica.run)
                nursery.start_soon(self._watch)
                task_status.started()
        finally:
            self.background = None
            self._hub.close()
            for replica in self.replicas.values():
                replica.let_go()

    async def _watch(self) -> None:
        while True:
            if not all(replica.client.connected for replica in self.replicas.values()):
                self._cautious_until_s = self.monotonic() + self._cautious_s
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
            self._new_until_s = now_s + self._cautious_s
        return now_s < self._new_until_s

    def note_failure(self) -> None:
        """A device did not answer or took no write: be cautious for a while."""
        self._cautious_until_s = self.monotonic() + self._cautious_s

    def place(self, key: bytes) -> Placement:
        """Where the account, container or object with this key belongs."""
        ring = self._finest
        name_hash = ring.hash_key(key)
        partition = ring.partition(name_hash)
        primaries = self._placements.get(partition)
        if primaries is None:
            return self._place_anew(name_hash, partition)
        return Placement(self, name_hash, primaries)

    def _place_anew(self, name_hash: bytes, partition: int) -> Placement:
        """The first time that a partition is asked for, and always while it moves."""
        moving = self._moving.get(partition)
        if moving is None:
            members = [[device.id for device in ring.primaries(ring.partition(name_hash))] for ring in self.rings]
            if all(set(ids) == set(members[0]) for ids in members[1:]):
                primaries = tuple(self.replicas[number] for number in members[0])
                self._placements[partition] = primaries
                return Placement(self, name_hash, primaries)
            votes = {self.replicas[number]: rings for number, rings in votes_of(members).items()}
            moving = self._moving[partition] = (votes, tuple(len(ids) // 2 + 1 for ids in members))
        return MovingPlacement(self, name_hash, *moving)

    def start_soon(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Run something beside the requests, for as long as the cluster is connected."""
        if self.background is not None:
            self.background.start_soon(partial(function, *arguments))
