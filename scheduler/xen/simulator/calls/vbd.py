"""Messages about VBDs: a VDI as a VM's device, attached and detached while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scheduler.xen.simulator import guest, memory
from scheduler.xen.simulator.calls.vm_power import assert_attachable
from scheduler.xen.simulator.calls.vm_settings import DEVICES_MAX
from scheduler.xen.simulator.database import Row
from scheduler.xen.simulator.failure import Failure
from scheduler.xen.simulator.jobs import Steps
from scheduler.xen.simulator.messages import message
from scheduler.xen.simulator.pool import Call
from scheduler.xen.simulator.records import constructor_fields


@message("VBD.create(args: VBD record) -> VBD ref")
def create(call: Call, args: Mapping[str, Any]) -> Row:
    """A VBD from a record, not plugged; `userdevice` may be `autodetect`."""
    database = call.database
    values = constructor_fields("VBD", args)
    vm = database.get("VM", values.get("VM", database.null))
    kind = values.get("type", "CD")
    vdi = database.find("VDI", values.get("VDI", database.null))
    if vdi is None:
        if not values.get("empty"):
            raise Failure("HANDLE_INVALID", "VDI", values.get("VDI", database.null))
        if kind == "Disk":
            raise Failure("VBD_NOT_REMOVABLE_MEDIA", database.null)
        values["VDI"] = database.null
    elif values.get("empty"):
        values["VDI"] = database.null
    if kind == "CD" and values.get("mode", "RO") != "RO":
        raise Failure("VBD_CDS_MUST_BE_READONLY")
    if vdi is not None and values.get("mode", "RO") == "RW" and vdi["read_only"]:
        raise Failure("VDI_READONLY", vdi.ref)
    values["userdevice"] = _position(call, vm, values.get("userdevice", "autodetect"))
    return database.add("VBD", **values, device="")


def _position(call: Call, vm: Row, wished: str) -> str:
    taken = {vbd["userdevice"] for vbd in call.database.all("VBD", vm["VBDs"])}
    if wished in ("", "autodetect"):
        return next(str(number) for number in range(DEVICES_MAX) if str(number) not in taken)
    if wished.startswith(("xvd", "hd", "sd")) and len(wished) in (3, 4) and wished[-1].isalpha():
        wished = str(ord(wished[-1]) - ord("a"))
    if not wished.isdecimal() or not 0 <= int(wished) < DEVICES_MAX:
        raise Failure("INVALID_DEVICE", wished)
    if wished in taken:
        raise Failure("DEVICE_ALREADY_EXISTS", wished)
    return wished


@message("VBD.destroy(self: VBD ref) -> void")
def destroy(call: Call, vbd: Row) -> None:
    """Remove a VBD that is not plugged."""
    if vbd["currently_attached"]:
        raise Failure("OPERATION_NOT_ALLOWED", "VBD still attached to a running VM")
    with call.doing(vbd, "attach"):
        pass
    call.database.remove(vbd)


@message("VBD.plug(self: VBD ref) -> void")
def plug(call: Call, vbd: Row) -> Steps:
    """Attach a VBD to its running VM."""
    pool, database = call.pool, call.database
    with call.doing(vbd, "plug"):
        vm = database.get("VM", vbd["VM"])
        host = guest.host_of(pool, vm)
        pool.reach(host)
        if vbd["empty"]:
            raise Failure("VBD_IS_EMPTY", vbd.ref)
        vdi = database.get("VDI", vbd["VDI"])
        assert_attachable(call, vbd, vdi)
        sr = database.get("SR", vdi["SR"])
        if not memory.sees_sr(pool, host, sr):
            raise Failure("VM_REQUIRES_SR", vm.ref, sr.ref)
        yield from call.spend(pool.latencies.plug_s, host)
        if vm["power_state"] in ("Running", "Paused"):
            database.set(vbd, currently_attached=True, device=guest.device_name(vbd["userdevice"]))


@message("VBD.unplug(self: VBD ref) -> void")
def unplug(call: Call, vbd: Row) -> Steps:
    """Detach a VBD; a guest that uses the disk refuses."""
    vm = call.database.get("VM", vbd["VM"])
    with call.doing(vbd, "unplug"):
        host = guest.host_of(call.pool, vm)
        call.pool.reach(host)
        yield from call.spend(call.pool.latencies.plug_s, host)
        if guest.behaves(vm, "holds-disks"):
            raise Failure("DEVICE_DETACH_REJECTED", "VBD", vbd.ref, "the guest is using the device")
        call.database.set(vbd, currently_attached=False)


@message("VBD.unplug_force(self: VBD ref) -> void")
def unplug_force(call: Call, vbd: Row) -> Steps:
    """Detach a VBD whatever the guest does with it."""
    with call.doing(vbd, "unplug_force"):
        host = guest.host_of(call.pool, call.database.get("VM", vbd["VM"]))
        call.pool.reach(host)
        yield from call.spend(call.pool.latencies.plug_s, host)
        call.database.set(vbd, currently_attached=False)


@message("VBD.insert(vbd: VBD ref, vdi: VDI ref) -> void")
def insert(call: Call, vbd: Row, vdi: Row) -> None:
    """Put a disc into an empty drive."""
    with call.doing(vbd, "insert"):
        vm = call.database.get("VM", vbd["VM"])
        host = call.database.find("host", vm["resident_on"])
        sr = call.database.get("SR", vdi["SR"])
        if host is not None and not memory.sees_sr(call.pool, host, sr):
            raise Failure("VM_REQUIRES_SR", vm.ref, sr.ref)
        call.database.set(vbd, VDI=vdi.ref, empty=False, currently_attached=host is not None)


@message("VBD.eject(vbd: VBD ref) -> void")
def eject(call: Call, vbd: Row) -> None:
    """Take the disc out of a drive."""
    with call.doing(vbd, "eject"):
        call.database.set(vbd, VDI=call.database.null, empty=True, currently_attached=False)


@message("VBD.set_mode(self: VBD ref, value: enum vbd_mode) -> void")
def set_mode(call: Call, vbd: Row, value: str) -> None:
    """Whether a VM may write, from the next time on that the VBD is attached."""
    if vbd["type"] == "CD" and value != "RO":
        raise Failure("VBD_CDS_MUST_BE_READONLY")
    call.database.set(vbd, mode=value)


@message("VBD.assert_attachable(self: VBD ref) -> void")
def attachable(call: Call, vbd: Row) -> None:
    """Whether a VBD's disk can be attached now."""
    if vbd["empty"]:
        raise Failure("VBD_IS_EMPTY", vbd.ref)
    assert_attachable(call, vbd, call.database.get("VDI", vbd["VDI"]))
