"""Pace: how fast background work may go, with a knob and a pause.

Problem: a replicator, an auditor or an updater that goes as fast as it can takes from clients the disk and the processor
that the cluster is there for.

Idea: a token bucket. Work takes tokens for what it does (containers compared, bytes copied) before it does it, and waits
until they are there. The bucket holds a second's worth, so that short work does not wait at all. Rate and pause can
change while someone waits.

The arithmetic (`Bucket`) is pure and gets its time from the caller; `Pace` adds the waiting.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

BURST_S = 1.0
"""Unused rate is kept for this long."""


class Bucket:
    """A token bucket whose clock is its caller's."""

    __slots__ = ("_at_s", "_tokens", "rate_per_s")

    def __init__(self, rate_per_s: float, now_s: float) -> None:
        if not rate_per_s > 0:
            raise ValueError(f"a rate must be above 0, not {rate_per_s}")
        self.rate_per_s = rate_per_s
        self._tokens = rate_per_s * BURST_S
        self._at_s = now_s

    def take(self, count: float, now_s: float) -> float:
        """Take tokens, on credit if need be; -> how long to wait before the work may begin. Seconds."""
        elapsed_s = max(0.0, now_s - self._at_s)
        self._at_s = now_s
        self._tokens = min(self.rate_per_s * BURST_S, self._tokens + elapsed_s * self.rate_per_s) - count
        return max(0.0, -self._tokens / self.rate_per_s)


class Pace:
    """A rate that tasks keep to, and a pause that holds them."""

    def __init__(self, rate_per_s: float, monotonic: Callable[[], float] = trio.current_time) -> None:
        self._monotonic = monotonic
        self._rate_per_s = rate_per_s
        self._bucket: Bucket | None = None
        self._changed = trio.Event()
        self._running = trio.Event()
        self._running.set()

    @property
    def rate_per_s(self) -> float:
        """How much a second."""
        return self._rate_per_s

    @rate_per_s.setter
    def rate_per_s(self, rate_per_s: float) -> None:
        self._rate_per_s = rate_per_s
        self._bucket = None
        self._changed.set()
        self._changed = trio.Event()

    @property
    def paused(self) -> bool:
        """Whether work is held."""
        return not self._running.is_set()

    def pause(self) -> None:
        """Hold all who take from now on, until `resume`."""
        if self._running.is_set():
            self._running = trio.Event()

    def resume(self) -> None:
        """Let them go on."""
        self._running.set()

    async def take(self, count: float = 1.0) -> None:
        """Wait until so much may be done. A checkpoint in any case."""
        await self._running.wait()
        now_s = self._monotonic()
        if self._bucket is None:
            self._bucket = Bucket(self._rate_per_s, now_s)
        wait_s = self._bucket.take(count, now_s)
        if wait_s > 0:
            with trio.move_on_after(wait_s):
                await self._changed.wait()  # who waited at the old rate has waited enough
        else:
            await trio.lowlevel.checkpoint()
        await self._running.wait()
