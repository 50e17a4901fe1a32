"""Messages about snapshots of VMs: snapshot, checkpoint, revert."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from scheduler.xen.simulator import guest, storage
from scheduler.xen.simulator.calls.vm_make import (
    ARRIVING,
    RowSteps,
    copy_devices,
    copy_record,
    copy_vbd,
    copy_vif,
    duplicate,
)
from scheduler.xen.simulator.calls.vm_power import suspend_image, take_down
from scheduler.xen.simulator.database import Row
from scheduler.xen.simulator.failure import Failure
from scheduler.xen.simulator.jobs import Steps, Work
from scheduler.xen.simulator.messages import message
from scheduler.xen.simulator.pool import Call
from scheduler.xen.simulator.schema import words
from scheduler.xen.simulator.undo import Undo


@message("VM.snapshot(vm: VM ref, new_name: string, ignore_vdis: VDI ref set = []) -> VM ref")
def snapshot(call: Call, vm: Row, new_name: str, ignore_vdis: Sequence[Row]) -> RowSteps:
    """A VM's settings and disks as they are now."""
    with call.doing(vm, "snapshot"), Undo() as undo:
        return (yield from _snapshot(call, vm, new_name, undo, ignore_vdis))


def _snapshot(call: Call, vm: Row, name: str, undo: Undo, ignored: Sequence[Row] = ()) -> RowSteps:
    copy = copy_record(call, vm, name, undo, **_of(call, vm))
    with call.marking(copy, ARRIVING):
        yield from _snapshot_devices(call, vm, copy, undo, ignored)
    return copy


def _snapshot_devices(call: Call, vm: Row, copy: Row, undo: Undo, ignored: Sequence[Row]) -> Steps:
    database = call.database
    for vbd in database.all("VBD", vm["VBDs"]):
        vdi = database.find("VDI", vbd["VDI"])
        if vdi is None or vbd["type"] != "Disk":
            copy_vbd(call.pool, vbd, copy, vbd["VDI"])
        elif vdi not in ignored:
            now = call.pool.now()
            made = yield from duplicate(
                call, vdi, undo, operation="snapshot", is_a_snapshot=True, snapshot_of=vdi.ref, snapshot_time=now
            )
            copy_vbd(call.pool, vbd, copy, made.ref)
    for vif in database.all("VIF", vm["VIFs"]):
        copy_vif(call.pool, vif, copy, keep_mac=True)


def _of(call: Call, vm: Row) -> dict[str, Any]:
    return {
        "is_a_snapshot": True,
        "is_a_template": True,
        "snapshot_of": vm.ref,
        "snapshot_time": call.pool.now(),
        "snapshot_info": {"power-state-at-snapshot": vm["power_state"], "disk-snapshot-type": "crash_consistent"},
        "transportable_snapshot_id": "",
    }


@message("VM.checkpoint(vm: VM ref, new_name: string) -> VM ref")
def checkpoint(call: Call, vm: Row, new_name: str) -> RowSteps:
    """A snapshot with the memory of the VM, which runs on afterwards."""
    pool = call.pool
    with call.doing(vm, "checkpoint"), Undo() as undo:
        copy = yield from _snapshot(call, vm, new_name, undo)
        if vm["power_state"] == "Suspended":
            image = yield from _copy_of_memory(call, vm, undo)
            if image is not None:
                call.database.set(copy, suspend_VDI=image.ref, power_state="Suspended")
            return copy
        host = guest.host_of(pool, vm)
        pool.reach(host)
        image = suspend_image(call, vm, host)
        undo.add(lambda: storage.drop_vdi(pool, image))
        with call.marking(copy, ARRIVING), call.marking(image, "blocked"):
            yield from call.spend(pool.latencies.memory_s(vm["memory_dynamic_max"]), host)
        call.database.set(copy, suspend_VDI=image.ref, power_state="Suspended")
        return copy


@message("VM.revert(snapshot: VM ref) -> void")
def revert(call: Call, snapshot: Row) -> Steps:
    """Give a VM the disks, VIFs and settings that it had at a snapshot of it."""
    pool, database = call.pool, call.database
    vm = database.find("VM", snapshot["snapshot_of"])
    if vm is None and snapshot["is_a_snapshot"]:
        raise Failure("OPERATION_NOT_ALLOWED", "the VM of this snapshot no longer exists")
    with call.doing(snapshot, "revert"), Undo() as undo:
        assert vm is not None
        with call.doing(vm, "reverting"):
            replacement = copy_record(call, snapshot, "reverting", undo)
            with call.marking(replacement, ARRIVING):
                yield from copy_devices(call, snapshot, replacement, undo, operation="clone", keep_mac=True)
                image = yield from _copy_of_memory(call, snapshot, undo)
                if vm["power_state"] != "Halted":
                    yield from take_down(call, vm)
            _replace_devices(call, vm, replacement)
            _restore_settings(call, vm, snapshot)
            if image is not None:
                database.set(vm, suspend_VDI=image.ref, power_state="Suspended")
            database.remove(database.get("VM_metrics", replacement["metrics"]))
            database.remove(replacement)
    pool.announce("VM_SNAPSHOT_REVERTED", "VM", vm)


def _copy_of_memory(call: Call, snapshot: Row, undo: Undo) -> Generator[Work, None, Row | None]:
    """The suspend image of a checkpoint, once more; None for a snapshot without memory."""
    image = call.database.find("VDI", snapshot["suspend_VDI"])
    if image is None:
        return None
    return (yield from duplicate(call, image, undo, operation="snapshot"))


def _replace_devices(call: Call, vm: Row, replacement: Row) -> None:
    database = call.database
    for vbd in database.all("VBD", vm["VBDs"]):
        vdi = database.find("VDI", vbd["VDI"])
        if vdi is not None and vbd["type"] == "Disk":
            for older in database.all("VDI", vdi["snapshots"]):
                database.set(older, snapshot_of=_successor(call, vbd, replacement))
            storage.drop_vdi(call.pool, vdi)
        if database.find("VBD", vbd.ref) is vbd:
            database.remove(vbd)
    for vif in database.all("VIF", vm["VIFs"]):
        database.remove(vif)
    devices = [*database.all("VBD", replacement["VBDs"]), *database.all("VIF", replacement["VIFs"])]
    for device in devices:
        database.set(device, VM=vm.ref)


def _successor(call: Call, vbd: Row, replacement: Row) -> str:
    for other in call.database.all("VBD", replacement["VBDs"]):
        if other["userdevice"] == vbd["userdevice"]:
            return str(other["VDI"])
    return call.database.null


_KEPT = words(
    "uuid name_label snapshot_of snapshot_time snapshot_info is_a_snapshot is_a_template snapshots "
    "metrics VBDs VIFs allowed_operations current_operations power_state suspend_VDI consoles domid "
    "transportable_snapshot_id resident_on "
    "scheduled_to_be_resident_on guest_metrics children parent memory_target crash_dumps attached_PCIs VGPUs VUSBs VTPMs "
    "is_default_template is_control_domain groups"
)


def _restore_settings(call: Call, vm: Row, snapshot: Row) -> None:
    restored = {name: snapshot[name] for name in snapshot.schema.fields if name not in _KEPT}
    call.database.set(vm, **restored)
