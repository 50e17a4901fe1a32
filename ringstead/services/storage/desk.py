"""The desk of a storage process: watches over its devices, says aloud what is wrong with them, and does what operators want.

Problem: a device that takes no writes (its disk failed a sync, a read, or is full; or somebody fenced it) goes on answering
reads, and its replicas' writes go elsewhere: nobody notices until the next disk fails. And its directory may go away under
the process (unmounted, removed), which then writes into files that nobody will see again.

Idea: look at each device once a second, log what has changed, and fence what must be: a disk that failed to read (noted by
whichever process met it, see storage_node.suspects), a directory that is not the one that was opened. The control socket
shows each device and takes `fence` and `release`.

A fence is released by an operator, never by itself: whether a disk that failed once is to be trusted again is not for a
program to decide. After a failed sync the device has to be opened anew, so that its log ends where it is certain; the desk
does that in place, without a restart of the process. What it missed meanwhile the replicator brings.

A device that was fenced for a read is, once released, let go on for GRACE_S whatever reads fail: the auditor must be able to
write the object whose bytes can't be read to another place, and until it has, every read of it fails as before.

A device that cannot be opened, at the start or anew, is tried again: it comes back when its disk is mounted.

Invariants: a device is in `devices` exactly while it is open and served; one operator's wish at a time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol

import structlog
import trio

from ringstead.errors import RingsteadError
from ringstead.processes.control import Answer, Operation, Refused
from storage_node.device import Device
from storage_node.errors import DeviceFenced
from storage_node.suspects import take_disk_error

LOOK_S: Final = 1.0
TRY_AGAIN_S: Final = 5.0
"""How often it is tried to open what could not be opened: finding out may take reading a whole log."""
READ_FAILED: Final = "the disk failed to read"
"""How the reason of such a fence begins."""
GRACE_S: Final = 900.0
"""Longer than the auditor waits between two attempts to mend something."""

log = structlog.get_logger("ringstead.devices")


class DeviceServer(Protocol):
    """What serves the devices."""

    def add_device(self, name: str, device: Device) -> None:
        """Serve it from now on."""

    async def remove_device(self, name: str) -> Device:
        """Serve it no more; what it has accepted is answered."""
        ...


class DeviceDesk:
    """Of one process. `devices` is the process's own table of open devices, which changes as devices come and go."""

    def __init__(
        self,
        devices: dict[str, Device],
        server: DeviceServer,
        open_device: Callable[[str], Device],
        failed: Mapping[str, RingsteadError] = {},
    ) -> None:
        self._devices = devices
        self._server = server
        self._open_device = open_device
        self._turn = trio.Lock()
        self._said: dict[str, str] = {}
        self._places: dict[Device, tuple[int, int] | None] = {}
        """Which directory was opened, as its identity file's device and inode."""
        self._released_s: dict[str, float] = {}
        self._closed: dict[str, str] = {}
        """Devices of this process that could not be opened, and why: tried again."""
        self._try_at_s = 0.0
        for name, error in failed.items():
            self._could_not_open(name, error)

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            if trio.current_time() >= self._try_at_s:
                self._try_at_s = trio.current_time() + TRY_AGAIN_S
                for name in list(self._closed):
                    await self._try_again(name)
            for name, device in list(self._devices.items()):
                self.look(name, device)
            await trio.sleep(LOOK_S)

    # ------------------------------------------------------------------------------------------------------------ watching

    def look(self, name: str, device: Device) -> None:
        """Fence a device that must be, and say what has changed."""
        if not device.fenced and self._is_gone(device):
            device.fence(f"the directory that was opened is no longer at {device.path}")
        try:
            error = take_disk_error(str(device.path))
        except OSError as failure:
            error = str(failure)
        if error and not device.fenced:
            released_s = self._released_s.get(name)
            if released_s is not None and trio.current_time() - released_s < GRACE_S:
                log.warning("a disk fails to read, after its release", device=name, reason=error)
            else:
                device.fence(f"{READ_FAILED}: {error}")
        self._say(name, device)

    def _is_gone(self, device: Device) -> bool:
        if device not in self._places:
            self._places = {known: self._places[known] for known in self._devices.values() if known in self._places}
            self._places[device] = _place_of(device.path)
        return _place_of(device.path) != self._places[device]

    def _say(self, name: str, device: Device) -> None:
        state = f"fenced: {device.fenced}" if device.fenced else device.statistics().full and "full"
        before = self._said.get(name, "")
        if state == before:
            return
        self._said[name] = state
        if device.fenced:
            log.error("a device takes no writes", device=name, reason=device.fenced)
        elif state:
            log.error("a device is full", device=name, reason=device.statistics().full)
        else:
            log.info("a device takes writes again", device=name)

    # ---------------------------------------------------------------------------------------------------------- operations

    def operations(self) -> dict[str, Operation]:
        """What the control socket offers."""

        async def status(_: Mapping[str, Any]) -> Answer:
            return {"devices": {name: self.describe(name) for name in self._devices}, "closed": dict(self._closed)}

        async def fence(request: Mapping[str, Any]) -> Answer:
            return await self.fence(str(request["name"]), str(request.get("reason", "")))

        async def release(request: Mapping[str, Any]) -> Answer:
            return await self.release(str(request["name"]))

        return {"status": status, "fence": fence, "release": release}

    def describe(self, name: str) -> dict[str, Any]:
        """One device, fit for JSON."""
        device = self._device(name)
        statistics = device.statistics()._asdict()
        return {"path": str(device.path), "notes": device.notes, **statistics, "uuid": device.uuid.hex()}

    async def fence(self, name: str, reason: str) -> Answer:
        """Take a device out of service for writing. Raises Refused."""
        async with self._turn:
            device = self._device(name)
            if device.fenced:
                raise Refused(f"{name} takes no writes already: {device.fenced}")
            device.fence(reason or "taken out of service by an operator")
            self._say(name, device)
            return self.describe(name)

    async def release(self, name: str) -> Answer:
        """Let a device take writes again, opened anew where that has to be. Raises Refused."""
        async with self._turn:
            device = self._device(name)
            reason = device.fenced
            if not reason:
                raise Refused(f"{name} takes writes already")
            try:
                if self._is_gone(device):
                    device = await self._open_anew(name)
                try:
                    device.release_fence()
                except DeviceFenced:
                    device.keep_fence()
                    device = await self._open_anew(name)
                    device.release_fence()
            except (OSError, RingsteadError) as error:
                raise Refused(f"{name} can't be released: {error}") from error
            if reason.startswith(READ_FAILED):
                self._released_s[name] = trio.current_time()
            self._say(name, device)
            return self.describe(name)

    def _device(self, name: str) -> Device:
        device = self._devices.get(name)
        if device is None and name in self._closed:
            raise Refused(f"{name} is not open: {self._closed[name]}; it is tried again by itself")
        if device is None:
            raise Refused(f"this process serves no device {name!r}; it serves {', '.join(self._devices) or 'none'}")
        return device

    async def _open_anew(self, name: str) -> Device:
        """Close a device and open it again, in place. Raises RingsteadError; it is tried again then."""
        device = await self._server.remove_device(name)
        del self._devices[name]
        await trio.to_thread.run_sync(device.close)
        self._closed[name] = "it is being opened anew"
        return await self._open(name)

    async def _open(self, name: str) -> Device:
        try:
            device = await trio.to_thread.run_sync(self._open_device, name)
        except RingsteadError as error:
            self._could_not_open(name, error)
            raise
        self._closed.pop(name, None)
        self._devices[name] = device
        self._server.add_device(name, device)
        log.info("a device was opened anew", device=name, notes=device.notes)
        return device

    async def _try_again(self, name: str) -> None:
        async with self._turn:
            if name in self._devices:  # somebody else has opened it
                del self._closed[name]
                return
            with suppress(RingsteadError):
                await self._open(name)

    def _could_not_open(self, name: str, error: RingsteadError) -> None:
        if self._closed.get(name) != str(error):
            log.error("a device can't be opened; it is tried again", device=name, reason=str(error))
        self._closed[name] = str(error)


def _place_of(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path / "device.json")
    except OSError:
        return None
    return found.st_dev, found.st_ino
