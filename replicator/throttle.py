"""How many bytes a second background copies may move: in all, and to each device; and a pause.

Problem: filling a new device as fast as it goes takes the disk from the clients whose data lies there; a limit on the whole
alone lets all of it fall on one device. And most copies are of a few bytes, for which waiting must cost nothing when there
is nothing to wait for.

Idea: two token buckets, one shared and one for each target; whoever takes waits for the slower of the two, and not at all
while both have tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import trio

from replicator.pace import Bucket


class Throttle:
    """Bytes a second, whole and per device. Both can change while copies wait."""

    def __init__(
        self,
        bytes_per_s: float,
        device_bytes_per_s: float,
        monotonic: Callable[[], float] = trio.current_time,
    ) -> None:
        self._monotonic = monotonic
        self._bytes_per_s = bytes_per_s
        self._device_bytes_per_s = device_bytes_per_s
        self._caps = (math.inf, math.inf)
        self._whole: Bucket | None = None
        self._devices: dict[int, Bucket] = {}
        self._changed = trio.Event()
        self._running = trio.Event()
        self._running.set()

    @property
    def bytes_per_s(self) -> float:
        """What all devices together are given at most."""
        return self._bytes_per_s

    @property
    def device_bytes_per_s(self) -> float:
        """What one device is given at most."""
        return self._device_bytes_per_s

    def set_rates(self, bytes_per_s: float | None = None, device_bytes_per_s: float | None = None) -> None:
        """Change one or both. Raises ValueError for what is not above 0."""
        for rate in (bytes_per_s, device_bytes_per_s):
            if rate is not None and not rate > 0:
                raise ValueError(f"a rate must be above 0, not {rate}")
        self._bytes_per_s = bytes_per_s or self._bytes_per_s
        self._device_bytes_per_s = device_bytes_per_s or self._device_bytes_per_s
        self._measure_anew()

    def _measure_anew(self) -> None:
        """At the rates of now; who waits has waited enough."""
        self._whole = None
        self._devices = {}
        self._changed.set()
        self._changed = trio.Event()

    @property
    def caps(self) -> tuple[float, float]:
        """What holds besides the rates while data moves to another ring: for all devices together, and for one."""
        return self._caps

    def set_caps(self, bytes_per_s: float = math.inf, device_bytes_per_s: float = math.inf) -> None:
        """Let the lower of rate and cap hold from now on. Raises ValueError for what is not above 0."""
        for cap in (bytes_per_s, device_bytes_per_s):
            if not cap > 0:
                raise ValueError(f"a rate must be above 0, not {cap}")
        if self._caps != (bytes_per_s, device_bytes_per_s):
            self._caps = bytes_per_s, device_bytes_per_s
            self._measure_anew()

    @property
    def paused(self) -> bool:
        """Whether copies are held."""
        return not self._running.is_set()

    def pause(self) -> None:
        """Hold whatever has not begun, until `resume`."""
        if self._running.is_set():
            self._running = trio.Event()

    def resume(self) -> None:
        """Let it go on."""
        self._running.set()

    async def hold(self) -> None:
        """Wait while it is paused. A checkpoint in any case."""
        await self._running.wait()

    async def take(self, device: int, size_bytes: int) -> None:
        """Wait until so many bytes may go to that device. No checkpoint when they may go at once."""
        if not self._running.is_set():
            await self._running.wait()
        now_s = self._monotonic()
        if self._whole is None:
            self._whole = Bucket(min(self._bytes_per_s, self._caps[0]), now_s)
        bucket = self._devices.get(device)
        if bucket is None:
            bucket = self._devices[device] = Bucket(min(self._device_bytes_per_s, self._caps[1]), now_s)
        wait_s = max(self._whole.take(size_bytes, now_s), bucket.take(size_bytes, now_s))
        if wait_s > 0:
            with trio.move_on_after(wait_s):
                await self._changed.wait()
            await self._running.wait()
