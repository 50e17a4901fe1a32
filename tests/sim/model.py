"""The model: what any answer of the store may be, given all that was asked of it before.

A name is a register. Every write that was tried is known, with its value and (when it was acknowledged, or met by a read)
its timestamp; where the timestamp is not known, bounds for it are. The rules:

- a write that is acknowledged is later, by its timestamp, than all that had been acknowledged when it began;
- a read gives the value of some write that was tried, as it was written, and none that is older than one that had been
  acknowledged when the read began; a listing shows the same;
- what was refused for certain is never seen.

A write that was not acknowledged may have happened, now or later; its timestamp decides against what.

A *degraded* answer (the store says so: handoffs took the write, or too few primaries answered the read) promises less: such
a write is not lost, but may not be seen before the cluster has healed; such a read may give something older. Once healed,
`settled` holds all that was acknowledged, degraded or not, against what every proxy says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.sim.world import Violation

NEVER = float("inf")


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


class Seen(NamedTuple):
    """What a read gave. `value` None: nothing there, with the timestamp of the tombstone if one was met."""

    value: bytes | None
    timestamp: int


@dataclass
class Name:
    """The register of one name."""

    key: str
    writes: list[Write] = field(default_factory=list)

    def floor(self, at_s: float, *, degraded_too: bool = False) -> int:
        """The least timestamp of the newest write that was acknowledged by then."""
        return max((w.low for w in self.writes if w.done_s <= at_s and (degraded_too or not w.degraded)), default=0)

    def begin(self, value: bytes | None, now_s: float) -> Write:
        """A write is about to be tried."""
        write = Write(len(self.writes), value, now_s, self.floor(now_s))
        self.writes.append(write)
        return write

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

    def read(self, seen: Seen, began_s: float, *, degraded: bool = False, settled: bool = False) -> None:
        """A read, begun then, gave this."""
        floor = 0 if degraded else self.floor(began_s, degraded_too=settled)
        if seen.value is None:
            self._missing(seen.timestamp, floor)
            return
        found = [w for w in self.writes if w.value == seen.value]
        if not found:
            raise Violation(f"{self.key}: bytes that nobody wrote: {seen.value[:60]!r}")
        write = found[0]
        if write.refused:
            raise Violation(f"{self.key}: write {write.number} was refused, and is there")
        if not write.low <= seen.timestamp <= write.high:
            raise Violation(f"{self.key}: write {write.number} has {seen.timestamp}, not {write.low}..{write.high}")
        write.low = write.high = seen.timestamp
        if seen.timestamp < floor:
            raise Violation(
                f"{self.key}: write {write.number} of {seen.timestamp} is read where {floor} is acknowledged"
            )

    def _missing(self, timestamp: int, floor: int) -> None:
        deleted = floor == 0 or any(w.value is None and not w.refused and w.high >= floor for w in self.writes)
        if not deleted or 0 < timestamp < floor:
            raise Violation(f"{self.key}: nothing there (tombstone {timestamp}) where {floor} is acknowledged")

    def listed(self, timestamp: int | None, began_s: float) -> None:
        """A listing, begun then, showed the name with this timestamp, or did not show it."""
        floor = self.floor(began_s)
        later = [w for w in self.writes if not w.refused and w.high >= floor]
        if timestamp is None:
            if floor and not any(w.value is None for w in later):
                raise Violation(f"{self.key}: not listed where {floor} is acknowledged")
        elif timestamp < floor or not any(w.value is not None and w.low <= timestamp for w in later):
            raise Violation(f"{self.key}: listed with {timestamp} where {floor} is acknowledged")


def settled(names: Mapping[str, Name], answers: Iterable[Mapping[str, Seen]], now_s: float) -> None:
    """All has healed: every proxy (one mapping each) gives the same, and all that was acknowledged is there."""
    first: Mapping[str, Seen] | None = None
    for answer in answers:
        for key, name in names.items():
            name.read(answer[key], now_s, settled=True)
            if first is not None and answer[key].value != first[key].value:
                raise Violation(f"{key}: two proxies disagree: {answer[key]} and {first[key]}")
        first = first or answer
