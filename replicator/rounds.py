"""One round of replication: compare everything, narrow down what differs, settle it.

Problem: know in milliseconds that a million objects agree; find one that does not with a few kilobytes; and when a device
comes back empty, fill it without keeping a list of what it lacks in memory.

Idea: the digests of all cells (partitions, mostly) of all devices are kept current (cell_digests.py). Each cell that differs
is a walk of its own: ask the devices concerned for the digests of the cell's parts, go on with those that differ, until a
part holds a few dozen entries; then list and settle it. A few cells are worked on at a time, in an order drawn anew each
round, so that one that cannot be settled holds up no other, and two nodes seldom work on the same.

What stays open (a device is away, a copy failed) is remembered by cell, with the time since when: that is the backlog.

A device that answered when the round began and does not any more leaves something open in each cell in which it was to be
asked: what the others agree about without it says nothing.

Invariants: memory is bounded by cells, not by objects; a round ends; a device that stops answering ends its part of the
round and nothing else.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np
import trio
from numpy.typing import NDArray

from replicator.catalogs import CatalogSettler
from replicator.cell_digests import CellDigests
from replicator.differences import (
    CELL_BITS_MAX,
    NOTHING,
    Concerned,
    Difference,
    Digests,
    HashRange,
    Membership,
    differing_parts,
)
from replicator.listing import gather, list_entries
from replicator.objects import Manner, ObjectSettler, Outcome
from replicator.peers import Peers
from storage_node.operations import (
    Catalog,
    FoundDigests,
    FoundStatistics,
    GetDigests,
    GetStatistics,
    ListedEntry,
    Space,
    Statistics,
)

LEAF_ENTRIES: Final = 64
"""A range that holds about so many entries is listed instead of narrowed further."""
FAN_OUT_BITS: Final = 8
RANGE_BITS_MAX: Final = 48
CELLS_AT_ONCE: Final = 4
SPACES: Final = (Space.OBJECT, Space.CONTAINER, Space.ACCOUNT)


class Cell(NamedTuple):
    """A cell of a space: what is compared first, and what the backlog counts."""

    space: int
    number: int


class Compared(NamedTuple):
    """What a round found in one cell."""

    cell: Cell
    outcome: Outcome
    complete: bool
    """Every primary of it has answered."""
    held: bool = False
    """It was left as it is, since what moves to another ring is held."""
    alike: bool = False
    """Looked at more closely the devices agreed in all of it, by digests that they gave themselves: nothing was settled."""


class Round(NamedTuple):
    """How a round went."""

    cells: int
    """Compared, over all spaces."""
    differing: int
    devices: int
    """That answered."""
    silent: tuple[int, ...]
    """That did not."""
    results: tuple[Compared, ...]
    """Of the cells that differed."""
    elsewhere: frozenset[Cell] = frozenset()
    """Cells that differ and concern no device of this machine: other nodes settle them."""


class Rounds:
    """Compares and settles. `shuffle` puts the cells of a round in the order in which they are worked on."""

    def __init__(
        self,
        peers: Peers,
        objects: ObjectSettler,
        catalogs: CatalogSettler,
        shuffle: Callable[[list[tuple[int, Difference]]], None],
    ) -> None:
        self._peers = peers
        self._objects = objects
        self._catalogs = catalogs
        self._shuffle = shuffle
        self._cells = CellDigests(peers)
        self._membership: Membership | None = None
        self._epochs: list[int] = []
        self.pending = 0
        """Cells of the round under way that differ and were not worked off yet."""
        self.open: set[Cell] | None = None
        """Cells known to differ, as the last round that began has found them; None before the first."""
        self.silent: frozenset[int] = frozenset()
        """Devices that did not answer when those were found: what differs about them is not known."""
        self._answering: frozenset[int] = frozenset()
        """Devices that did."""
        self._broken_off: set[Cell] = set()
        """Cells in which one of those was asked again and did not answer."""
        self._alike: set[Cell] = set()
        self.filled: frozenset[Cell] = frozenset()
        """Cells about which the rings in force disagree and in which a device held something when that round began."""

    @property
    def membership(self) -> Membership:
        """Of the rings in force."""
        epochs = [ring.epoch for ring in self._peers.rings]
        if self._membership is None or epochs != self._epochs:
            self._membership, self._epochs = Membership(self._peers.rings), epochs
        return self._membership

    async def run(
        self,
        manner_of: Callable[[Cell], Manner],
        hold: Callable[[], Awaitable[object]],
        is_held: Callable[[Cell], bool] = lambda _: False,
        compared: Callable[[], None] = lambda: None,
    ) -> Round:
        """One round. `manner_of` says how to go about a cell; `hold()` is awaited before each (a pause).

        Cells that are held when their turn comes are left as they are. `compared()` is called once differences are known.
        """
        membership = self.membership
        digests = {space: await self._cells.refresh(space, membership.bits) for space in SPACES}
        answering = set.intersection(*(set(found) for found in digests.values()))
        self.filled = frozenset(
            Cell(space, number)
            for space, found in digests.items()
            for number in np.flatnonzero(occupied(found.values(), membership.moves)).tolist()
        )
        differing: list[tuple[int, Difference]] = [
            (space, difference) for space, found in digests.items() for difference in membership.differences(found)
        ]
        work = [(space, difference) for space, difference in differing if self._is_ours(difference)]
        elsewhere = frozenset(
            Cell(space, difference.range.prefix) for space, difference in differing if not self._is_ours(difference)
        )
        self._shuffle(work)
        leaf_bits = await self._leaf_bits(membership.bits) if work else {}
        results: list[Compared] = []
        queue = iter(work)
        self.pending = len(work)
        self.open = {Cell(space, difference.range.prefix) for space, difference in differing}
        self.silent = frozenset(set(self._peers.by_id) - answering)
        self._answering = frozenset(answering)
        self._broken_off.clear()
        self._alike.clear()

        compared()

        async def work_off() -> None:
            for space, difference in queue:
                await hold()
                cell = Cell(space, difference.range.prefix)
                if is_held(cell):
                    results.append(Compared(cell, Outcome(left=1), complete=False, held=True))
                    self.pending -= 1
                    continue
                outcome = await self._settle_cell(space, difference, leaf_bits[space], manner_of(cell))
                complete = answering.issuperset(difference.concerned.primaries)
                results.append(Compared(cell, outcome, complete, alike=cell in self._alike))
                self.pending -= 1
                if not outcome.left and self.open is not None:
                    self.open.discard(cell)

        try:
            async with trio.open_nursery() as nursery:
                for _ in range(CELLS_AT_ONCE):
                    nursery.start_soon(work_off)
        finally:
            self.pending = 0
        silent = tuple(sorted(self.silent))
        return Round(len(SPACES) << membership.bits, len(work), len(answering), silent, tuple(results), elsewhere)

    def _is_ours(self, difference: Difference) -> bool:
        """Whether a device of this machine is concerned."""
        by_id = self._peers.by_id
        return any(
            peer.reader is not None
            for device in difference.concerned.everyone
            if (peer := by_id.get(device)) is not None
        )

    async def _leaf_bits(self, cell_bits: int) -> dict[int, int]:
        """For each space the length of prefixes at which a range is small enough to be listed."""
        answers = await gather(self._peers, tuple(self._peers.by_id), GetStatistics())
        statistics = [
            answer.statistics
            for answer in answers.values()
            if isinstance(answer, FoundStatistics) and answer.statistics is not None
        ]
        return leaf_bits(statistics, cell_bits)

    # ---------------------------------------------------------------------------------------------------------- one cell

    async def _settle_cell(self, space: int, difference: Difference, leaf_bits: int, manner: Manner) -> Outcome:
        outcome = Outcome()
        cell = Cell(space, difference.range.prefix)
        self._alike.add(cell)
        async for within, concerned in self._narrow(space, difference.range, difference.concerned, leaf_bits):
            self._alike.discard(cell)
            if space == Space.OBJECT:
                expected = self._answering.intersection(concerned.everyone)
                outcome += await self._objects.settle(within, concerned, manner, expected)
            else:
                outcome += await self._settle_catalogs(space, within, concerned, manner)
        if cell in self._broken_off:
            self._alike.discard(cell)
            return outcome + Outcome(left=1)
        return outcome

    async def _narrow(
        self, space: int, within: HashRange, concerned: Concerned, leaf_bits: int
    ) -> AsyncIterator[tuple[HashRange, Concerned]]:
        """The small ranges in which the devices differ."""
        part_bits = max(ring.part_power for ring in self._peers.rings)
        cell = Cell(space, within.prefix)
        pending = [(within, concerned)]
        while pending:
            within, concerned = pending.pop()
            if within.bits >= max(leaf_bits, part_bits if self.membership.mixed else 0):
                yield within, concerned
                continue
            fan_out_bits = fan_out(within.bits, leaf_bits, part_bits)
            question = GetDigests(space, within.bits, within.prefix, fan_out_bits)
            answers = await gather(self._peers, concerned.everyone, question)
            digests = {
                device: answer.digests
                for device, answer in answers.items()
                if isinstance(answer, FoundDigests) and len(answer.digests) == 1 << fan_out_bits
            }
            if not self._answering.intersection(concerned.everyone) <= digests.keys():
                self._broken_off.add(cell)
            pending += self._parts(within, concerned, digests, fan_out_bits, part_bits)

    def _parts(
        self,
        within: HashRange,
        concerned: Concerned,
        digests: dict[int, tuple[bytes, ...]],
        fan_out_bits: int,
        part_bits: int,
    ) -> list[tuple[HashRange, Concerned]]:
        """The parts of a range that differ, each with the devices that it concerns."""
        reached_bits = within.bits + fan_out_bits
        if not self.membership.mixed or reached_bits > part_bits:
            parts = differing_parts(digests, concerned.primaries, fan_out_bits)
            return [(within.part(part, fan_out_bits), concerned) for part in parts]
        if reached_bits < part_bits:
            # Still parts of several partitions: whatever is not empty has to be looked at.
            return [
                (within.part(part, fan_out_bits), concerned)
                for part in range(1 << fan_out_bits)
                if any(parts[part] != NOTHING for parts in digests.values())
            ]
        found = []
        for number in range(1 << fan_out_bits):
            part = within.part(number, fan_out_bits)
            primaries = self._peers.members(part.start)
            here = {device: (parts[number],) for device, parts in digests.items()}
            if differing_parts(here, primaries, 0):
                others = tuple(device for device in concerned.everyone if device not in primaries)
                found.append((part, Concerned(primaries, others)))
        return found

    async def _settle_catalogs(self, space: int, within: HashRange, concerned: Concerned, manner: Manner) -> Outcome:
        outcome = Outcome()
        expected = self._answering.intersection(concerned.everyone)
        async for beside, answered in list_entries(self._peers, space, within, concerned.everyone):
            if not expected.issubset(answered):
                outcome += Outcome(left=1)
            for hash_, listed in beside.items():
                if catalogs_differ(listed, answered, concerned.primaries):
                    # A device whose record of it rotted has rows, and has lost the name that they belong to.
                    key = next((entry.key for entry in listed.values() if entry.key), b"")
                    nameless = {device for device, entry in listed.items() if not entry.key}
                    outcome += await self._catalogs.settle(space, hash_, key, concerned, manner, nameless)
        return outcome


def occupied(digests: Iterable[Digests], among: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """For each cell of those whether a device holds something in it."""
    found = np.zeros_like(among)
    if among.any():
        for device in digests:
            found |= (device != 0).any(axis=1)
    return found & among


def catalogs_differ(listed: dict[int, ListedEntry], answered: Sequence[int], primaries: Sequence[int]) -> bool:
    """Whether devices that answered do not hold a catalog alike, or one holds it that should not."""
    states = {
        (entry.created_timestamp, entry.deleted_timestamp, entry.digest, tuple(sorted(entry.meta.items())))
        for item in listed.values()
        if isinstance(entry := item.entry, Catalog)
    }
    if len(states) > 1 or any(device not in primaries for device in listed):
        return True
    return any(device in answered and device not in listed for device in primaries)


def leaf_bits(statistics: Sequence[Statistics], cell_bits: int) -> dict[int, int]:
    """For each space how long a prefix must be for its range to hold about LEAF_ENTRIES, on the fullest device."""
    counts = {
        Space.OBJECT: max((s.object_count + s.tombstone_count for s in statistics), default=0),
        Space.CONTAINER: max((s.container_count for s in statistics), default=0),
        Space.ACCOUNT: max((s.account_count for s in statistics), default=0),
    }
    return {
        space: min(RANGE_BITS_MAX, max(cell_bits, (max(0, count) // LEAF_ENTRIES).bit_length()))
        for space, count in counts.items()
    }


def fan_out(bits: int, leaf_bits: int, part_bits: int) -> int:
    """Into how many parts (as a power of two) to divide a range.

    As far as devices keep digests at once, since those cost them nothing; beyond that a few bits at a time. Partitions are a
    stop on the way.
    """
    goal = part_bits if bits < part_bits else leaf_bits
    if bits < CELL_BITS_MAX:
        goal = min(goal, CELL_BITS_MAX)
    return max(1, min(FAN_OUT_BITS, goal - bits))
