"""Messages about VDIs. Raw bytes go over HTTP; see `transfer`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scheduler.xen.simulator import guest, memory, storage
from scheduler.xen.simulator.calls.vm_make import RowSteps, duplicate
from scheduler.xen.simulator.calls.vm_migrate import one_of_few
from scheduler.xen.simulator.database import Row
from scheduler.xen.simulator.failure import Failure
from scheduler.xen.simulator.jobs import Steps
from scheduler.xen.simulator.messages import message
from scheduler.xen.simulator.pool import Call
from scheduler.xen.simulator.records import constructor_fields
from scheduler.xen.simulator.undo import Undo


@message("VDI.create(args: VDI record) -> VDI ref")
def create(call: Call, args: Mapping[str, Any]) -> RowSteps:
    """An empty VDI from a record."""
    values = constructor_fields("VDI", args)
    sr = call.database.get("SR", values.pop("SR", call.database.null))
    if "virtual_size" not in values:
        raise Failure("FIELD_TYPE_ERROR", "virtual_size")
    with call.doing(sr, "vdi_create"), Undo() as undo:
        worker = storage.worker_of(call.pool, sr)
        vdi = storage.make_vdi(call.pool, sr, values.pop("virtual_size"), **values)
        undo.add(lambda: storage.drop_vdi(call.pool, vdi))
        with call.marking(vdi, "blocked"):
            yield from call.spend(call.pool.latencies.vdi_create_s, worker)
    return vdi


@message("VDI.destroy(self: VDI ref) -> void")
def destroy(call: Call, vdi: Row) -> Steps:
    """Remove a VDI and its bytes."""
    with call.doing(vdi, "destroy"):
        worker = storage.worker_of(call.pool, call.database.get("SR", vdi["SR"]))
        yield from call.spend(call.pool.latencies.vdi_destroy_s, worker, cancellable=False)
        storage.drop_vdi(call.pool, vdi)


@message("VDI.forget(vdi: VDI ref) -> void")
def forget(call: Call, vdi: Row) -> None:
    """Remove a VDI from the pool's records; here its bytes go as well, for no scan could find them again."""
    with call.doing(vdi, "forget"):
        pass
    storage.drop_vdi(call.pool, vdi)


@message("VDI.resize(vdi: VDI ref, size: int) -> void")
def resize(call: Call, vdi: Row, size: int) -> Steps:
    """Make a VDI larger that no running VM has."""
    yield from _resize(call, vdi, size, "resize")


@message("VDI.resize_online(vdi: VDI ref, size: int) -> void")
def resize_online(call: Call, vdi: Row, size: int) -> Steps:
    """Make a VDI larger, attached or not."""
    yield from _resize(call, vdi, size, "resize_online")


def _resize(call: Call, vdi: Row, size: int, operation: str) -> Steps:
    with call.doing(vdi, operation):
        worker = storage.worker_of(call.pool, call.database.get("SR", vdi["SR"]))
        yield from call.spend(call.pool.latencies.vdi_create_s, worker)
        storage.set_size(call.pool, vdi, size)


@message("VDI.snapshot(vdi: VDI ref, driver_params: (string -> string) map = {}) -> VDI ref")
def snapshot(call: Call, vdi: Row, driver_params: Mapping[str, str]) -> RowSteps:
    """What a VDI holds now, kept."""
    with Undo() as undo:
        now = call.pool.now()
        return (
            yield from duplicate(
                call, vdi, undo, operation="snapshot", is_a_snapshot=True, snapshot_of=vdi.ref, snapshot_time=now
            )
        )


@message("VDI.clone(vdi: VDI ref, driver_params: (string -> string) map = {}) -> VDI ref")
def clone(call: Call, vdi: Row, driver_params: Mapping[str, str]) -> RowSteps:
    """A VDI of its own that holds what another does, on the same SR."""
    with Undo() as undo:
        return (yield from duplicate(call, vdi, undo, operation="clone"))


@message(
    "VDI.copy(vdi: VDI ref, sr: SR ref | null = 'OpaqueRef:NULL', base_vdi: VDI ref | null = 'OpaqueRef:NULL', "
    "into_vdi: VDI ref | null = 'OpaqueRef:NULL') -> VDI ref"
)
def copy(call: Call, vdi: Row, sr: Row | None, base_vdi: Row | None, into_vdi: Row | None) -> RowSteps:
    """A full copy on an SR, or into a VDI that there is."""
    with Undo() as undo:
        if into_vdi is None:
            if sr is None:
                raise Failure("HANDLE_INVALID", "SR", call.database.null)
            return (yield from duplicate(call, vdi, undo, operation="copy", sr=sr))
        if into_vdi["virtual_size"] < vdi["virtual_size"]:
            raise Failure("VDI_TOO_SMALL", into_vdi.ref, str(vdi["virtual_size"]))
        if into_vdi["read_only"]:
            raise Failure("VDI_READONLY", into_vdi.ref)
        with call.doing(vdi, "copy"), call.doing(into_vdi, "copy"):
            worker = storage.worker_of(call.pool, call.database.get("SR", into_vdi["SR"]))
            seconds = call.pool.latencies.copy_s(int(vdi["physical_utilisation"]))
            yield from call.spend(seconds, worker, to=0.95)
            yield from storage.copy_bytes(call.pool, vdi, call.pool, into_vdi)
        return into_vdi


@message("VDI.pool_migrate(vdi: VDI ref, sr: SR ref, options: (string -> string) map) -> VDI ref")
def pool_migrate(call: Call, vdi: Row, sr: Row, options: Mapping[str, str]) -> RowSteps:
    """Move the disk of a running VM to another SR that its host reaches."""
    vbds = [vbd for vbd in call.database.all("VBD", vdi["VBDs"]) if vbd["currently_attached"]]
    if len(vbds) != 1:
        raise Failure("VDI_NEEDS_VM_FOR_MIGRATE", vdi.ref)
    vm = call.database.get("VM", vbds[0]["VM"])
    host = guest.host_of(call.pool, vm)
    if not memory.sees_sr(call.pool, host, sr):
        raise Failure("VM_REQUIRES_SR", vm.ref, sr.ref)
    with call.doing(vm, "migrate_send"), one_of_few(call.pool), Undo() as undo:
        made = yield from duplicate(call, vdi, undo, operation="mirror", sr=sr, to=0.95)
        for vbd in vbds:
            call.database.set(vbd, VDI=made.ref)
        for older in call.database.all("VDI", vdi["snapshots"]):
            call.database.set(older, snapshot_of=made.ref)
        storage.drop_vdi(call.pool, vdi)
    return made


def _settable(field: str, words: str, *, asynchronous: bool) -> None:
    def serve(call: Call, vdi: Row, value: Any) -> None:
        call.database.set(vdi, **{field: value})

    message(f"VDI.set_{field}(self: VDI ref, value: {words}) -> void", asynchronous=asynchronous)(serve)


for _field, _words, _asynchronous in (
    ("name_label", "string", True),
    ("name_description", "string", True),
    ("read_only", "bool", False),
    ("sharable", "bool", False),
    ("on_boot", "enum on_boot", True),
    ("allow_caching", "bool", True),
):
    _settable(_field, _words, asynchronous=_asynchronous)
