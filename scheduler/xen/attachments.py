"""VBDs: disks in VMs.

A VBD has no tag of its own; it is what joins a VM and a VDI that have. So putting a disk in looks first whether they
are joined already, and taking it out is content when they are not.

Unplugging asks the guest, which may say no (DEVICE_DETACH_REJECTED: mounted, or busy for the moment). Most let go
within seconds, so the question is repeated for DETACH_S_MAX and then handed to the caller. It is never forced: a
guest would lose what it had not written.
"""

from __future__ import annotations

import trio

from scheduler.hypervisor import AttachedDisk, Gone, HypervisorError, NextSr, TryAgain, WrongState
from scheduler.xen.context import Context
from scheduler.xen.errors import DetachRejected, NoAnswer
from scheduler.xen.facts import attached_disk, attached_hosts, text
from scheduler.xen.picture import Picture
from scheduler.xen.session import Value
from scheduler.xen.tags import Record
from scheduler.xen.undo import undoing

DETACH_S_MAX = 30.0
DETACH_RETRY_S = 1.0
ALREADY = frozenset({"DEVICE_ALREADY_ATTACHED", "DEVICE_ALREADY_DETACHED", "DEVICE_NOT_ATTACHED"})


def joins(picture: Picture, vm: str, vdi: str) -> list[tuple[str, Record]]:
    """The VBDs between a VM and a VDI."""
    return [
        (ref, vbd) for ref, vbd in picture.table("VBD").items() if text(vbd, "VM") == vm and text(vbd, "VDI") == vdi
    ]


class Attachments:
    """VBDs of one pool."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def create(self, vm: str, vdi: str, *, bootable: bool = False, read_only: bool = False) -> str:
        """Join a VDI to a VM, unplugged; the VBD's reference."""
        record: dict[str, Value] = {
            "VM": vm,
            "VDI": vdi,
            "userdevice": "autodetect",
            "bootable": bootable,
            "mode": "RO" if read_only else "RW",
            "type": "Disk",
            "unpluggable": True,
            "empty": False,
            "other_config": {},
            "qos_algorithm_type": "",
            "qos_algorithm_params": {},
        }
        try:
            return str(await self._context.call("VBD.create", record))
        except NoAnswer:
            found = joins(await self._context.now(), vm, vdi)
            if not found:
                raise
            return found[0][0]

    async def attach(self, server_id: str, disk_id: str, *, read_only: bool = False) -> AttachedDisk:
        """See `Hypervisor.attach_disk`."""
        context = self._context
        picture = await context.now()
        vm, record = context.vm(picture, server_id)
        vdi, disk = context.disk(picture, disk_id)
        self._assert_free(picture, vm, vdi, disk_id)
        runs = text(record, "power_state") == "Running"
        if runs and text(record, "resident_on") not in attached_hosts(picture, _sr_of(picture, disk)):
            raise NextSr(f"pool {context.name}: the server's host does not reach the SR of disk {disk_id}")
        async with undoing() as undo:
            found = joins(picture, vm, vdi)
            vbd = found[0][0] if found else await self.create(vm, vdi, read_only=read_only)
            if not found:
                undo.push(f"the VBD of disk {disk_id}", lambda: self._remove(vbd))
            if runs and not (found and found[0][1].get("currently_attached")):
                await self._plug(vbd)
            undo.forget()
        picture = await context.now()
        made = picture.record("VBD", vbd)
        if made is None:
            raise Gone(f"pool {context.name}: disk {disk_id} was taken out again")
        return attached_disk(picture, made, context.cluster)

    def _assert_free(self, picture: Picture, vm: str, vdi: str, disk_id: str) -> None:
        for vbd in picture.table("VBD").values():
            other = picture.record("VM", text(vbd, "VM"))
            if text(vbd, "VDI") == vdi and text(vbd, "VM") != vm and other is not None:
                raise WrongState(
                    f"pool {self._context.name}: disk {disk_id} is in the VM {text(other, 'name_label')!r}"
                )

    async def _plug(self, vbd: str) -> None:
        try:
            await self._context.settle(
                "VBD",
                vbd,
                lambda: self._context.task("VBD.plug", vbd),
                lambda record: record.get("currently_attached") is True,
            )
        except WrongState as error:
            if error.code not in ALREADY:
                raise

    async def detach(self, server_id: str, disk_id: str) -> None:
        """See `Hypervisor.detach_disk`."""
        context = self._context
        picture = await context.now()
        vm, record = context.vm(picture, server_id)
        found = context.find_disk(picture, disk_id)
        for vbd, _ in joins(picture, vm, found[0]) if found is not None else ():
            if text(record, "power_state") in ("Running", "Paused"):
                await self._unplug(vbd, disk_id)
            await self._remove(vbd)

    async def _unplug(self, vbd: str, disk_id: str) -> None:
        deadline = trio.current_time() + DETACH_S_MAX
        while True:
            try:
                await self._context.settle(
                    "VBD",
                    vbd,
                    lambda: self._context.task("VBD.unplug", vbd),
                    lambda record: record.get("currently_attached") is False,
                )
                return
            except DetachRejected as error:
                if trio.current_time() + DETACH_RETRY_S > deadline:
                    raise TryAgain(
                        f"pool {self._context.name}: the guest does not let go of disk {disk_id}; unmount it there",
                        error.code,
                    ) from None
            except WrongState as error:
                if error.code in ALREADY:
                    return
                raise
            except Gone:
                return
            await trio.sleep(DETACH_RETRY_S)

    async def _remove(self, vbd: str) -> None:
        try:
            await self._context.settle(
                "VBD", vbd, lambda: self._context.call("VBD.destroy", vbd), lambda _record: False
            )
        except Gone:
            return
        except HypervisorError as error:
            if error.code != "OPERATION_NOT_ALLOWED":
                raise
            # Plugged still, or again: a plug without an answer that was carried out after all.
            await self._unplug(vbd, vbd)
            await self._context.call("VBD.destroy", vbd)


def _sr_of(picture: Picture, vdi: Record) -> Record:
    return picture.record("SR", text(vdi, "SR")) or {}
