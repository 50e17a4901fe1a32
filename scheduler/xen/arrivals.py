"""Servers that come from another pool: not ours before they are here, whole when they are.

While a VM moves to another pool, its record stands in both, with the same tags. Until the move is over, the one over
there must count as nobody's: whoever took it for the server would start it while it still runs where it came from.
And whether XenAPI carries the tags of the disks along depends on the version.

So before it leaves, its passport is written on it: the pool that it leaves, its state, and the tags of its disks by
device number. A VM with a passport of another pool is *arriving*; it has arrived when nothing is going on with it,
all its disks are there and its state is the one that it left in. Then its disks get their tags back and the passport
is taken off, which makes it the server.

A guest that shuts itself down in the moment of its arrival would be arriving for ever; so one that has stood still
for LOST_S is let in as it is.
"""

from __future__ import annotations

import json
import math
from typing import Any

import trio

from scheduler.hypervisor import Gone
from scheduler.xen import tags
from scheduler.xen.context import Context
from scheduler.xen.facts import is_arriving, mapping, pool_uuid, text, vbds_of
from scheduler.xen.picture import Picture
from scheduler.xen.tags import Record

LOST_S = 900.0

DiskTags = dict[str, dict[str, str]]
"""Tags by device number."""


class Arrivals:
    """Passports of VMs of one pool."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._first_seen: dict[str, float] = {}

    def disk_tags(self, picture: Picture, vm: Record) -> DiskTags:
        """The tags of a VM's disks by device number."""
        found = {}
        for _, vbd in vbds_of(picture, vm):
            config = mapping(picture.record("VDI", text(vbd, "VDI")), "other_config")
            if config.get(tags.CLUSTER) == self._context.cluster:
                found[text(vbd, "userdevice")] = tags.only_ours(config)
        return found

    async def put_back(self, picture: Picture, vm: str, written: DiskTags) -> None:
        """Write the tags on the disks where they are missing."""
        record = picture.record("VM", vm)
        for _, vbd in list(vbds_of(picture, record)) if record is not None else ():
            wanted = written.get(text(vbd, "userdevice"), {})
            has = mapping(picture.record("VDI", text(vbd, "VDI")), "other_config")
            if any(has.get(key) != value for key, value in wanted.items()):
                await self._context.put_tags("VDI", text(vbd, "VDI"), wanted)

    async def give_passport(self, picture: Picture, ref: str, vm: Record) -> None:
        """Before a VM leaves this pool."""
        passport = json.dumps({"state": text(vm, "power_state"), "disks": self.disk_tags(picture, vm)})
        await self._context.put_tags("VM", ref, {tags.PASSPORT: f"{pool_uuid(picture)} {passport}"})

    async def take_passport(self, ref: str) -> None:
        """It did not leave."""
        await self._context.put_tags("VM", ref, {}, drop=(tags.PASSPORT,))

    async def welcome(self, picture: Picture) -> bool:
        """Let in who has arrived; whether there was anybody."""
        arriving = [(ref, vm) for ref, vm in picture.table("VM").items() if self._is_arriving(picture, vm)]
        self._first_seen = {ref: self._first_seen.get(ref, trio.current_time()) for ref, _ in arriving}
        welcomed = False
        for ref, vm in arriving:
            passport = _read(mapping(vm, "other_config")[tags.PASSPORT])
            if self._has_arrived(picture, ref, vm, passport):
                try:
                    await self.put_back(picture, ref, _disks(passport))
                    await self.take_passport(ref)
                except Gone:
                    continue
                welcomed = True
        return welcomed

    def _is_arriving(self, picture: Picture, vm: Record) -> bool:
        ours = mapping(vm, "other_config").get(tags.CLUSTER) == self._context.cluster
        return ours and is_arriving(picture, vm) and not tags.is_snapshot(vm)

    def _has_arrived(self, picture: Picture, ref: str, vm: Record, passport: dict[str, Any]) -> bool:
        if vm.get("current_operations"):
            return False
        there = {text(vbd, "userdevice") for _, vbd in vbds_of(picture, vm)}
        if not set(_disks(passport)) <= there:
            return False
        waited_s = trio.current_time() - self._first_seen.get(ref, math.inf)
        return text(vm, "power_state") == passport.get("state") or waited_s > LOST_S


def _read(written: str) -> dict[str, Any]:
    try:
        found = json.loads(written.partition(" ")[2])
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _disks(passport: dict[str, Any]) -> DiskTags:
    disks = passport.get("disks")
    if not isinstance(disks, dict):
        return {}
    return {
        str(device): {str(key): str(value) for key, value in config.items()}
        for device, config in disks.items()
        if isinstance(config, dict)
    }
