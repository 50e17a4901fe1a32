"""Reclaiming tombstones: when the note that something was deleted may itself go.

Problem: a tombstone that goes too early brings the deleted object back: some device that missed the deletion still holds it,
and replication spreads it as news. A tombstone that never goes is a leak.

Idea: it goes when it is certain that nothing older is left. That takes the word of every device, not the silence of any:

- every primary, of all rings in force, holds exactly this tombstone (each is asked; one that is away, or holds nothing, has
  not confirmed);
- every other device of the rings has answered in this pass, and holds nothing at all in the tombstone's cell (its digest is
  zero): no handoff waits to bring the old object home;
- it is older than `age_s`, so that no write that was under way when it was made can still arrive.

Then all primaries forget it. If one of them is not reached in that moment it keeps its copy, replication gives it back
to the others, and a later pass tries again.

The same for tombstone rows of accounts and containers, and for deleted catalogs without rows. A node does this for the
cells whose first primary is on it.

A device that is away holds up all reclaiming, which is the price; one that is gone for good leaves the ring. One that was
removed from the ring and comes back with its old data must be emptied first.

Invariants: no tombstone goes on a majority, on an old digest, or because a device does not answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import structlog
import trio
from numpy.typing import NDArray

from replicator.catalog_plan import row_version
from replicator.daemon import Daemon, Rate
from replicator.differences import HashRange, Membership, unpack_digests
from replicator.listing import ENTRIES_PAGE, ROWS_PAGE, gather, next_hash
from replicator.pace import Pace
from replicator.peers import Peers
from storage_node.operations import (
    Answer,
    Catalog,
    Entry,
    ForgetCatalog,
    ForgetObject,
    ForgetRow,
    Found,
    FoundCatalog,
    FoundDigests,
    FoundEntries,
    FoundRows,
    GetCatalog,
    GetDigests,
    GetObject,
    ListedEntry,
    ListEntries,
    ListRows,
    Operation,
    Row,
    Space,
    Status,
)
from storage_node.timestamp import from_microseconds, microseconds, wall_clock_us

NO_ROWS: Final = bytes(16)
"""A catalog's digest when it has no rows, tombstones included."""
_GONE: Final = (Status.APPLIED, Status.MISSING)

log = structlog.get_logger("replicator.reclaim")


@dataclass(frozen=True)
class ReclaimSettings:
    """When, and how fast."""

    age_s: float = 14 * 86_400.0
    """Younger tombstones stay: longer than a pass of the auditor, which mends listings that still show what is deleted."""
    interval_s: float = 3_600.0
    """Between two passes."""
    entries_per_s: float = 5_000.0
    """Entries and rows looked at."""


class ReclaimStatistics(NamedTuple):
    """What was reclaimed since the start."""

    backlog: int
    """Tombstones old enough to go that the last pass had to leave."""
    oldest_s: float
    """How long the oldest of them could have gone already."""
    objects: int
    rows: int
    catalogs: int
    passes: int
    looked_at: int
    waits_for: tuple[int, ...]
    """Devices that did not answer in the last pass: nothing is reclaimed until they do."""
    entries_per_s: float
    paused: bool


class _Cell(NamedTuple):
    """A range of hashes that this node sees to."""

    range: HashRange
    primaries: tuple[int, ...]
    safe: bool
    """Every device has answered, and only primaries hold anything in it."""


class Reclaimer:
    """One node's. `now_us` is the wall clock."""

    def __init__(
        self,
        peers: Peers,
        settings: ReclaimSettings = ReclaimSettings(),
        *,
        now_us: Callable[[], int] = wall_clock_us,
    ) -> None:
        self._peers = peers
        self.settings = settings
        self.pace = Pace(settings.entries_per_s)
        self._now_us = now_us
        self._objects = self._rows = self._catalogs = self._passes = self._looked_at = 0
        self._waits_for: tuple[int, ...] = ()
        self._waiting = self._waiting_now = 0
        self._oldest = self._oldest_now = 0
        """Of those that wait: the earliest timestamp; 0 if none does."""

    def statistics(self) -> ReclaimStatistics:
        """As of now."""
        oldest_us = microseconds(self._oldest) + int(self.settings.age_s * 1_000_000)
        return ReclaimStatistics(
            self._waiting,
            max(0.0, (self._now_us() - oldest_us) / 1e6) if self._waiting else 0.0,
            self._objects,
            self._rows,
            self._catalogs,
            self._passes,
            self._looked_at,
            self._waits_for,
            self.pace.rate_per_s,
            self.pace.paused,
        )

    def daemon(self) -> Daemon:
        """As a service runs it."""
        pace = self.pace
        return Daemon(
            "reclaimer",
            "Removes notes of deletions once every device has confirmed that nothing older is left.",
            "tombstones old enough to go that are not confirmed everywhere",
            self.run,
            self.statistics,
            frozenset(("objects", "rows", "catalogs", "passes", "looked_at")),
            pace.pause,
            pace.resume,
            (Rate.of(pace, "entries_per_s", "Entries and rows looked at."),),
        )

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Pass after pass, until cancelled."""
        task_status.started()
        while True:
            await self.pace.take(0)
            await self.run_pass()
            await trio.sleep(self.settings.interval_s)

    async def run_pass(self) -> None:
        """Look at everything once, and reclaim what may go."""
        self._passes += 1
        before = from_microseconds(max(0, self._now_us() - int(self.settings.age_s * 1_000_000)))
        membership = Membership(self._peers.rings)
        self._waiting_now = self._oldest_now = 0
        for space in Space:
            for ours in await self._our_cells(space, membership):
                if space == Space.OBJECT:
                    await self._reclaim_objects(ours, before)
                else:
                    await self._reclaim_catalogs(space, ours, before)
        self._waiting, self._oldest = self._waiting_now, self._oldest_now
        log.info("pass", **self.statistics()._asdict())

    async def _our_cells(self, space: int, membership: Membership) -> list[_Cell]:
        """The cells that are this node's and hold anything."""
        bits = membership.bits
        answers = await gather(self._peers, tuple(self._peers.by_id), GetDigests(space, 0, 0, bits))
        self._waits_for = tuple(sorted(set(self._peers.by_id) - set(answers)))
        digests = {
            device: unpack_digests(answer.digests)
            for device, answer in answers.items()
            if isinstance(answer, FoundDigests) and len(answer.digests) == 1 << bits
        }
        certain = len(digests) == len(self._peers.by_id) and not membership.mixed
        occupied: dict[int, NDArray[np.bool_]] = {device: np.any(held != 0, axis=1) for device, held in digests.items()}
        ours = []
        for cell in range(1 << bits):
            primaries = membership.primaries(cell)
            if not primaries or not self._is_local(primaries[0]):
                continue
            here = occupied.get(primaries[0])
            if here is None or not here[cell]:
                continue
            safe = certain and not any(held[cell] for device, held in occupied.items() if device not in primaries)
            ours.append(_Cell(HashRange(bits, cell), primaries, safe))
        return ours

    def _leave(self, timestamp: int) -> None:
        """Take note of a tombstone that is old enough to go and has to stay."""
        self._waiting_now += 1
        self._oldest_now = min(self._oldest_now or timestamp, timestamp)

    def _is_local(self, device: int) -> bool:
        return self._peers.by_id[device].reader is not None

    # ----------------------------------------------------------------------------------------------------------- objects

    async def _reclaim_objects(self, ours: _Cell, before: int) -> None:
        async for entries in self._entries(Space.OBJECT, ours):
            for hash_, key, entry in entries:
                if not isinstance(entry, Entry) or not entry.deleted or entry.timestamp >= before:
                    continue
                if not (ours.safe and await self._reclaim_object(hash_, key, entry, ours.primaries)):
                    self._leave(entry.timestamp)

    async def _reclaim_object(self, hash_: bytes, key: bytes, entry: Entry, primaries: Sequence[int]) -> bool:
        answers = await gather(self._peers, primaries, GetObject(hash_, key, False))
        confirmed = [
            isinstance(answer, Found)
            and answer.entry is not None
            and answer.entry.deleted
            and answer.entry.timestamp == entry.timestamp
            for answer in answers.values()
        ]
        if len(confirmed) < len(primaries) or not all(confirmed):
            return False
        gone = await self._forget(primaries, ForgetObject(hash_, key, entry.timestamp, entry.meta_timestamp))
        self._objects += gone
        return gone

    # ---------------------------------------------------------------------------------------------------------- catalogs

    async def _reclaim_catalogs(self, space: int, ours: _Cell, before: int) -> None:
        async for entries in self._entries(space, ours):
            for hash_, key, catalog in entries:
                if not isinstance(catalog, Catalog):
                    continue
                if catalog.digest != NO_ROWS:
                    await self._reclaim_rows(space, hash_, key, ours, before)
                elif catalog.created_timestamp <= catalog.deleted_timestamp < before and not (
                    ours.safe and await self._reclaim_catalog(space, hash_, key, catalog, ours.primaries)
                ):
                    self._leave(catalog.deleted_timestamp)

    async def _reclaim_rows(self, space: int, hash_: bytes, key: bytes, ours: _Cell, before: int) -> None:
        start = b""
        while True:
            page = ListRows(space, hash_, key, start, limit=ROWS_PAGE, deleted=True)
            peer = self._peers.by_id.get(ours.primaries[0])
            answer = await peer.call(page) if peer is not None else None
            if not isinstance(answer, FoundRows) or not answer.items:
                return
            await self._look(len(answer.items))
            rows = [item for item in answer.items if isinstance(item, Row)]
            for row in rows:
                if not row.deleted or max(row_version(row)) >= before:
                    continue
                if not (ours.safe and await self._reclaim_row(space, hash_, key, row, ours.primaries)):
                    self._leave(max(row_version(row)))
            if not answer.truncated or not rows:
                return
            start = rows[-1].name + b"\x00"

    async def _reclaim_row(self, space: int, hash_: bytes, key: bytes, row: Row, primaries: Sequence[int]) -> bool:
        question = ListRows(space, hash_, key, row.name, row.name + b"\x00", limit=1, deleted=True)
        answers = await gather(self._peers, primaries, question)
        if len(answers) < len(primaries) or not all(_has_row(answer, row) for answer in answers.values()):
            return False
        gone = await self._forget(primaries, ForgetRow(space, hash_, row.name, row.timestamp, row.sub_timestamp))
        self._rows += gone
        return gone

    async def _reclaim_catalog(
        self, space: int, hash_: bytes, key: bytes, catalog: Catalog, primaries: Sequence[int]
    ) -> bool:
        answers = await gather(self._peers, primaries, GetCatalog(space, hash_, key))
        held = [answer.catalog for answer in answers.values() if isinstance(answer, FoundCatalog)]
        alike = all(
            replica is not None
            and replica.deleted_timestamp == catalog.deleted_timestamp >= replica.created_timestamp
            and replica.digest == NO_ROWS
            for replica in held
        )
        if len(held) < len(primaries) or not alike:
            return False
        gone = 0
        for device, replica in zip(answers, held, strict=True):
            assert replica is not None
            times = replica.created_timestamp, replica.deleted_timestamp, replica.touched_timestamp
            gone += await self._forget([device], ForgetCatalog(space, hash_, key, *times, dict(replica.meta)))
        self._catalogs += gone == len(primaries)
        return gone == len(primaries)

    # ------------------------------------------------------------------------------------------------------------ shared

    async def _entries(self, space: int, ours: _Cell) -> AsyncIterator[tuple[ListedEntry, ...]]:
        """What the first primary of a cell holds in it, page by page, at the pace that was set."""
        within, peer = ours.range, self._peers.by_id.get(ours.primaries[0])
        start: bytes | None = within.start
        while start is not None and peer is not None:
            answer = await peer.call(ListEntries(space, start, within.end, ENTRIES_PAGE))
            if not isinstance(answer, FoundEntries) or not answer.entries:
                return
            await self._look(len(answer.entries))
            yield answer.entries
            start = next_hash(answer.entries[-1].hash, within.end) if answer.truncated else None

    async def _look(self, count: int) -> None:
        self._looked_at += count
        await self.pace.take(count)

    async def _forget(self, devices: Sequence[int], forget: Operation) -> bool:
        """Let all devices forget it; whether all have."""
        gone = []

        async def send(device: int) -> None:
            peer = self._peers.by_id.get(device)
            gone.append(peer is not None and (await peer.call(forget)).status in _GONE)

        async with trio.open_nursery() as nursery:
            for device in devices:
                nursery.start_soon(send, device)
        return all(gone)


def _has_row(answer: Answer, row: Row) -> bool:
    """Whether a device says that it holds exactly that row."""
    return (
        isinstance(answer, FoundRows)
        and len(answer.items) == 1
        and isinstance(item := answer.items[0], Row)
        and item.deleted
        and row_version(item) == row_version(row)
    )
