"""How many bytes a second background copies may move: in all, and to each device.

Problem: filling a new device as fast as it goes takes the disk from the clients whose data lies there; a limit on the whole
alone lets all of it fall on one device.

Idea: two paces in a row, one shared and one for each target. Pausing holds both.
"""

from __future__ import annotations

from replicator.pace import Pace


class Throttle:
    """Bytes a second, whole and per device. Both can change while copies wait."""

    def __init__(self, bytes_per_s: float, device_bytes_per_s: float) -> None:
        self.whole = Pace(bytes_per_s)
        self._device_bytes_per_s = device_bytes_per_s
        self._devices: dict[int, Pace] = {}

    @property
    def device_bytes_per_s(self) -> float:
        """What one device is given at most."""
        return self._device_bytes_per_s

    def set_rates(self, bytes_per_s: float | None = None, device_bytes_per_s: float | None = None) -> None:
        """Change one or both. Raises ValueError for what is not above 0."""
        for rate in (bytes_per_s, device_bytes_per_s):
            if rate is not None and not rate > 0:
                raise ValueError(f"a rate must be above 0, not {rate}")
        if bytes_per_s is not None:
            self.whole.rate_per_s = bytes_per_s
        if device_bytes_per_s is not None:
            self._device_bytes_per_s = device_bytes_per_s
            for pace in self._devices.values():
                pace.rate_per_s = device_bytes_per_s

    async def take(self, device: int, size_bytes: int) -> None:
        """Wait until so many bytes may go to that device."""
        pace = self._devices.get(device)
        if pace is None:
            pace = self._devices[device] = Pace(self._device_bytes_per_s)
        await self.whole.take(size_bytes)
        await pace.take(size_bytes)
