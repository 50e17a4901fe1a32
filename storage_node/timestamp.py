"""Hybrid logical clock timestamps.

Problem: replicas decide by timestamp which of two writes is the newer, and wall clocks of different machines disagree by
minutes. A later write of a machine whose clock is behind must not lose to an earlier one of a machine that is ahead.

Idea (Kulkarni et al., "Logical Physical Clocks", 2014): a timestamp is the wall clock, unless something later has been
seen, in which case it is that plus the smallest step. A writer that learns that its timestamp was too old observes the
newer one and stamps again (`Outcome.NEWER`), so no acknowledged write is hidden by an earlier one.

A timestamp is one unsigned 64-bit integer, so that it compares, packs and sorts as such:

    bits 63..12  microseconds since 1970-01-01 UTC (good until 2112)
    bits 11..0   the writer's number, so that two writers never make the same timestamp

Rejected: floats (Swift's X-Timestamp; they round), a separate logical counter (stepping the microsecond does the same),
vector clocks (the store is last-writer-wins; nobody would merge the branches).
"""

from __future__ import annotations

import time
from collections.abc import Callable

WRITER_BITS = 12
WRITER_COUNT = 1 << WRITER_BITS
TIMESTAMP_MAX = (1 << 64) - 1


class Clock:
    """Makes timestamps that are later than all that it made or observed.

    `now_us` gives the wall clock in microseconds; the simulator passes its own. `writer` is this process's number in the
    cluster, 0..4095; two processes that write must not share one.
    """

    __slots__ = ("_last_us", "_now_us", "writer")

    def __init__(self, writer: int, now_us: Callable[[], int] | None = None) -> None:
        if not 0 <= writer < WRITER_COUNT:
            raise ValueError(f"writer {writer} is outside 0..{WRITER_COUNT - 1}")
        self.writer = writer
        self._now_us = now_us or wall_clock_us
        self._last_us = 0

    def stamp(self) -> int:
        """A timestamp later than every one made or observed here before."""
        now_us = self._now_us()
        self._last_us = now_us if now_us > self._last_us else self._last_us + 1
        return self._last_us << WRITER_BITS | self.writer

    def observe(self, timestamp: int) -> None:
        """Take note of another's timestamp: whatever is stamped from now on is later."""
        seen_us = timestamp >> WRITER_BITS
        if seen_us > self._last_us:
            self._last_us = seen_us


def wall_clock_us() -> int:
    """The wall clock, in microseconds since 1970-01-01 UTC."""
    return time.time_ns() // 1000


def microseconds(timestamp: int) -> int:
    """Microseconds since 1970-01-01 UTC of a timestamp."""
    return timestamp >> WRITER_BITS


def from_microseconds(us: int, writer: int = 0) -> int:
    """The timestamp of a moment, as `writer` would have made it."""
    return us << WRITER_BITS | writer
