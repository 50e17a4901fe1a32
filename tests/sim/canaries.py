"""Bugs let in on purpose, each of a kind that a store like this one has had: the simulator has to find them.

None has a switch in the product. They lie about the disk, replace a decision for the duration of a test, or do beside a
machine's daemons what a hasty daemon would do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import trio

from proxy.cluster import Placement
from storage_node.operations import (
    Entry,
    ForgetObject,
    FoundEntries,
    ListedEntry,
    ListEntries,
    Space,
)
from tests.sim.cluster import Machine, SimCluster
from tests.sim.world import current

EVERY_S = 1.0


class Canary(NamedTuple):
    """A bug, and the seeds among which at least one has to find it."""

    name: str
    seeds: tuple[int, ...]
    change: Callable[[SimCluster], None] = lambda cluster: None
    """Lets it in, before the cluster starts."""
    replaced: Callable[[], Any] = nullcontext
    """Lets it in for the duration of a run."""
    kinds: tuple[str, ...] = ()
    """The faults under which it shows; none: those that the seed draws."""


def _acknowledge_before_sync(cluster: SimCluster) -> None:
    """fdatasync returns at once and has done nothing."""

    async def lie() -> None:
        for machine in cluster.machines:
            machine.disk.lies = True

    cluster.beside.append(lie)


@contextmanager
def _one_is_enough() -> Iterator[None]:
    """A write is acknowledged, and a read answered, when one replica has."""
    original = Placement.__init__

    def made(self: Placement, *arguments: Any) -> None:
        original(self, *arguments)
        self.need = 1

    Placement.__init__ = made  # type: ignore[method-assign]
    try:
        yield
    finally:
        Placement.__init__ = original  # type: ignore[method-assign]


def _each(machine: Machine, forgotten: Callable[[ListedEntry, Entry], bool]) -> None:
    """Forget objects of a device, as a janitor who asks nobody."""
    device = machine.device
    if device is None or device.fenced or device._batch is not None:
        return
    found = device.read(ListEntries(Space.OBJECT, bytes(16), None, 1000))
    assert isinstance(found, FoundEntries)
    chosen = [
        ForgetObject(listed.hash, listed.key, listed.entry.timestamp, listed.entry.meta_timestamp)
        for listed in found.entries
        if isinstance(listed.entry, Entry) and forgotten(listed, listed.entry)
    ]
    if chosen:
        device.apply(chosen)


def _janitor(cluster: SimCluster, machine: Machine, forgotten: Callable[[ListedEntry, Entry], bool]) -> None:
    async def clean_for_ever() -> None:
        while True:
            await trio.sleep(EVERY_S)
            process = machine.processes.get("storage")
            if process is not None and process.alive and machine.disk.calls_to_live is None:
                _each(machine, forgotten)

    cluster.beside.append(clean_for_ever)


def _drop_tombstones_early(cluster: SimCluster) -> None:
    """Each device forgets its tombstones within seconds, whoever has not heard of them yet."""
    for machine in cluster.machines:
        _janitor(cluster, machine, lambda listed, entry: entry.deleted)


def _forget_handoffs_early(cluster: SimCluster) -> None:
    """Each device forgets what does not belong on it, whether the primaries have it or not."""
    for machine in cluster.machines:

        def astray(listed: ListedEntry, entry: Entry, number: int = machine.number) -> bool:
            partition = cluster.ring.partition(listed.hash)
            return number not in [device.id for device in cluster.ring.primaries(partition)]

        _janitor(cluster, machine, astray)


def _ignore_newer_rings(cluster: SimCluster) -> None:
    """One machine's daemons go on with the ring that they started with."""
    follower = cluster.follower

    def made(machine: Machine, direct: bool) -> Any:
        found = follower(machine, direct)
        process = current.get()
        if found is not None and process is not None and process.name == "m0/keeper":
            found.catch_up = _do_nothing  # type: ignore[method-assign]
            found.run = _do_nothing  # type: ignore[method-assign]
        return found

    cluster.follower = made  # type: ignore[method-assign]


async def _do_nothing(*_: Any) -> None:
    await trio.lowlevel.checkpoint()


CANARIES = (
    Canary("acknowledge before fdatasync", (1, 2, 3), _acknowledge_before_sync),
    Canary("drop a tombstone early", (4, 1, 2), _drop_tombstones_early),
    Canary("forget a handoff early", (5, 6, 7), _forget_handoffs_early, kinds=("the network is cut in two",)),
    Canary("ignore the newer ring", (8, 14, 19), _ignore_newer_rings),
    Canary("one replica is enough", (1, 3, 4), replaced=_one_is_enough),
)
