"""The model: what any answer of the store may be, given all that was asked of it before.

A name is a register. Every write that was tried is known, with its value and (when it was acknowledged, or met by a read)
its timestamp; where the timestamp is not known, bounds for it are. The rules:

- a write that is acknowledged is later, by its timestamp, than all that had been acknowledged when it began;
- a read gives the value of some write that was tried, as it was written, and none that is older than one that had been
  acknowledged when the read began; a listing shows the same;
- what was refused for certain is never seen;
- new metadata belongs to one version: whoever reads that version afterwards sees that metadata or later one;
- what has an end is read before it by every clock, and not after it by any; in between clocks may differ.

A copy is a write of one of the values that its source had; which is known once it is acknowledged, or read.
A write that was not acknowledged may have happened, now or later; its timestamp decides against what.

A *degraded* answer (the store says so: handoffs took the write, or too few primaries answered the read) promises less: such
a write is not lost, but may not be seen before the cluster has healed; such a read may give something older. Once healed,
`settled` holds all that was acknowledged, degraded or not, against what every proxy says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import md5
from typing import NamedTuple

from tests.sim.world import Violation

NEVER = float("inf")
SOME = b""
"""The value of a copy as long as it is not known: no client writes nothing."""


@dataclass
class Write:
    """A write that was tried. `value` None: a deletion."""

    number: int
    value: bytes | None
    began_s: float
    floor: int
    """The newest that had been acknowledged when it began."""
    done_s: float = NEVER
    """When it was acknowledged."""
    refused: bool = False
    degraded: bool = False
    low: int = 0
    high: int = (1 << 64) - 1
    """Bounds of its timestamp, both included."""
    source: Name | None = None
    """What it copies."""
    end_s: float = NEVER
    """When it is to be deleted, by clocks that are up to `Name.skew_s` wrong."""

    def values(self) -> list[bytes]:
        """What it may have written: of a copy whatever its source may have had."""
        if self.source is not None and self.value == SOME:
            return [value for write in self.source.writes for value in write.values()]
        return [self.value] if self.value is not None else []


@dataclass
class Update:
    """New metadata that was tried, for whatever version was there."""

    number: int
    data: int = 0
    """The timestamp of that version, once it was acknowledged."""
    stamp: int = 0
    """Its own."""
    done_s: float = NEVER
    degraded: bool = False


class Seen(NamedTuple):
    """What a read gave. `value` None: nothing there, with the timestamp of the tombstone if one was met."""

    value: bytes | None
    timestamp: int
    number: int | None = None
    """Of the write, where the metadata says it."""
    update: int | None = None
    """Of the update whose metadata it has; None: its writer's."""
    changed: int = 0
    """The timestamp of its metadata."""


@dataclass
class Name:
    """The register of one name."""

    key: str
    skew_s: float = 0.0
    """No clock is more wrong than this."""
    writes: list[Write] = field(default_factory=list)
    updates: list[Update] = field(default_factory=list)

    def floor(self, at_s: float, *, degraded_too: bool = False) -> int:
        """The least timestamp of the newest write that was acknowledged by then."""
        return max((w.low for w in self.writes if w.done_s <= at_s and (degraded_too or not w.degraded)), default=0)

    def begin(self, value: bytes | None, now_s: float) -> Write:
        """A write is about to be tried."""
        write = Write(len(self.writes), value, now_s, self.floor(now_s))
        self.writes.append(write)
        return write

    def begin_update(self) -> Update:
        """New metadata is about to be tried."""
        self.updates.append(Update(len(self.updates)))
        return self.updates[-1]

    def acknowledged(self, write: Write, now_s: float, low: int, high: int, degraded: bool) -> None:
        """It was, with a timestamp within these bounds."""
        if not degraded and high <= write.floor:
            raise Violation(f"{self.key}: write {write.number} got {high}, not later than {write.floor} before it")
        write.done_s, write.degraded = now_s, degraded
        write.low, write.high = max(write.low, low, 0 if degraded else write.floor + 1), min(write.high, high)

    def unknown(self, write: Write, high: int) -> None:
        """It failed, and may have happened or may happen yet; the writer had made no timestamp beyond `high`."""
        write.high = min(write.high, high)

    def refused(self, write: Write) -> None:
        """It failed, and it is certain that nothing of it is left."""
        write.refused = True

    def with_etag(self, etag: str) -> bytes:
        """The value that has this MD5, of those that were tried."""
        for value in (value for write in self.writes for value in write.values()):
            if md5(value, usedforsecurity=False).hexdigest() == etag:
                return value
        raise Violation(f"{self.key}: bytes that nobody wrote, of MD5 {etag}")

    def read(self, seen: Seen, began_s: float, now_s: float, *, degraded: bool = False, settled: bool = False) -> None:
        """A read, from then to now, gave this."""
        floor = 0 if degraded else self.floor(began_s, degraded_too=settled)
        if seen.value is None:
            self._missing(seen.timestamp, floor, now_s)
            return
        write = self._written(seen)
        if write.refused:
            raise Violation(f"{self.key}: write {write.number} was refused, and is there")
        if not write.low <= seen.timestamp <= write.high:
            raise Violation(f"{self.key}: write {write.number} has {seen.timestamp}, not {write.low}..{write.high}")
        write.low = write.high = seen.timestamp
        write.value = seen.value
        if seen.timestamp < floor:
            raise Violation(
                f"{self.key}: write {write.number} of {seen.timestamp} is read where {floor} is acknowledged"
            )
        if began_s > write.end_s + self.skew_s:
            raise Violation(
                f"{self.key}: write {write.number} was to be gone at {write.end_s}, and is read at {began_s}"
            )
        self._described(write, seen, began_s, degraded=degraded, settled=settled)

    def copied(self, value: bytes, began_s: float, *, degraded: bool) -> None:
        """A copy, begun then, has taken this value."""
        floor = 0 if degraded else self.floor(began_s)
        if all(write.value != value or write.refused or write.high < floor for write in self.writes):
            raise Violation(f"{self.key}: what was copied is older than {floor}, which is acknowledged")

    def _written(self, seen: Seen) -> Write:
        assert seen.value is not None
        found = [w for w in self.writes if seen.value in w.values() and seen.number in (None, w.number)]
        if not found:
            raise Violation(f"{self.key}: bytes that nobody wrote (as {seen.number}): {seen.value[:60]!r}")
        return next((w for w in found if w.low <= seen.timestamp <= w.high), found[0])

    def _described(self, write: Write, seen: Seen, began_s: float, *, degraded: bool, settled: bool) -> None:
        """The metadata that was read belongs to that version, and is no older than what was acknowledged for it."""
        if seen.update is not None:
            if seen.update >= len(self.updates):
                raise Violation(f"{self.key}: metadata that nobody wrote in {seen[1:]}")
        elif seen.changed not in (0, seen.timestamp):
            raise Violation(f"{self.key}: metadata of {seen.changed} that is no update's in {seen[1:]}")
        for update in self.updates:
            counts = update.done_s <= began_s and not degraded and (settled or not update.degraded)
            if counts and update.data == seen.timestamp and update.stamp > max(seen.changed, seen.timestamp):
                raise Violation(f"{self.key}: write {write.number} without update {update.number}: {seen[1:]}")

    def is_gone(self, floor: int, now_s: float) -> bool:
        """Whether nothing may be there though this was acknowledged: itself or a later write is a deletion, or has ended."""
        return any(self._accounts_for_nothing(write, floor, now_s) for write in self.writes)

    def _accounts_for_nothing(self, write: Write, floor: int, now_s: float) -> bool:
        deleted = write.value is None or now_s >= write.end_s - self.skew_s
        return deleted and not write.refused and write.high >= floor

    def _missing(self, timestamp: int, floor: int, now_s: float) -> None:
        if (floor and not self.is_gone(floor, now_s)) or 0 < timestamp < floor:
            raise Violation(f"{self.key}: nothing there (tombstone {timestamp}) where {floor} is acknowledged")

    def listed(self, timestamp: int | None, began_s: float, now_s: float) -> None:
        """A listing, from then to now, showed the name with this timestamp (of data or metadata), or did not show it."""
        floor = self.floor(began_s)
        if timestamp is None:
            if floor and not self.is_gone(floor, now_s):
                raise Violation(f"{self.key}: not listed where {floor} is acknowledged")
        elif timestamp < floor or not any(
            w.value is not None and not w.refused and w.high >= floor and w.low <= timestamp for w in self.writes
        ):
            raise Violation(f"{self.key}: listed with {timestamp} where {floor} is acknowledged")


@dataclass
class Passing:
    """A container that clients make and delete while others write to it.

    It is not deleted while something in it is acknowledged (`Name.listed` says so), and a write meanwhile is refused. A
    deletion that meets a new row at some replicas only is undone, and until then some will not see the container; so that it
    is not there may be said whenever somebody tried to delete it.
    """

    created_s: float = NEVER
    """When its creation was first acknowledged."""
    deletion_tried: bool = False


def settled(names: Mapping[str, Name], answers: Iterable[Mapping[str, Seen]], now_s: float) -> None:
    """All has healed: every proxy (one mapping each) gives the same, and all that was acknowledged is there."""
    first: Mapping[str, Seen] | None = None
    for answer in answers:
        for key, name in names.items():
            name.read(answer[key], now_s, now_s, settled=True)
            if first is not None and answer[key].value != first[key].value:
                raise Violation(f"{key}: two proxies disagree: {answer[key]} and {first[key]}")
        first = first or answer
