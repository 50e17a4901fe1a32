"""Messages that move VMs: within a pool by memory alone, and with their disks within a pool or to another one.

`host.migrate_receive` gives the sender a map that says where to; `VM.migrate_send` brings the VM there. Whatever the
sender makes on the other side (the VM's record, disks) is removed again when it fails or is cancelled, and only the last
step, which takes no time, makes the VM the other side's.

Served are destinations in pools of this process, found by the session in the map. A VM with snapshots stays in its pool:
what becomes of their disks is not modelled.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from scheduler.xen.simulator import guest, memory, storage
from scheduler.xen.simulator.allowed import refusal
from scheduler.xen.simulator.calls.session import open_session
from scheduler.xen.simulator.calls.vm_make import copy_vbd, copy_vif, new_vm, remove_vm
from scheduler.xen.simulator.database import Row
from scheduler.xen.simulator.failure import Failure
from scheduler.xen.simulator.jobs import Steps
from scheduler.xen.simulator.messages import message
from scheduler.xen.simulator.pool import Call, Pool
from scheduler.xen.simulator.schema import words
from scheduler.xen.simulator.undo import Undo

STORAGE_MIGRATIONS_MAX: Final = 3
"""Storage migrations that a pool sends at once."""


@message("VM.pool_migrate(vm: VM ref, host: host ref, options: (string -> string) map) -> void")
def pool_migrate(call: Call, vm: Row, host: Row, options: Mapping[str, str]) -> Steps:
    """Move a running VM to another host of its pool that reaches its disks."""
    pool = call.pool
    with call.doing(vm, "pool_migrate"):
        memory.assert_can_boot_here(pool, vm, host, memory=False)
        source = guest.host_of(pool, vm)
        pool.reach(source)
        pool.reach(host)
        with call.marking(host, "vm_migrate"), memory.reserving(pool, vm, host):
            yield from call.spend(pool.latencies.memory_s(vm["memory_dynamic_max"]), source, host, to=0.95)
            guest.move(pool, vm, host)
        pool.announce("VM_MIGRATED", "VM", vm)


@message(
    "host.migrate_receive(host: host ref, network: network ref, options: (string -> string) map) -> (string -> string) map"
)
def migrate_receive(call: Call, host: Row, network: Row, options: Mapping[str, str]) -> dict[str, str]:
    """Where another host, of this pool or another, can send a VM to this one."""
    pool = call.pool
    pool.reach(host)
    if not host["enabled"]:
        raise Failure("HOST_DISABLED", host.ref)
    pifs = [pif for pif in pool.database.all("PIF", network["PIFs"]) if pif["host"] == host.ref]
    if not pifs:
        raise Failure("HOST_CANNOT_ATTACH_NETWORK", host.ref, network.ref)
    if not pifs[0]["IP"]:
        raise Failure("INTERFACE_HAS_NO_IP", pifs[0].ref)
    session = open_session(pool, host, originator="migrate_receive")
    return {
        "host": host.ref,
        "session_id": session.ref,
        "master": f"{pool.url(pool.master)}/",
        "SM": f"{pool.url(host)}/services/SM?session_id={session.ref}",
        "xenops": f"{pool.url(host)}/services/xenops?session_id={session.ref}",
    }


@dataclass(frozen=True, slots=True)
class Plan:
    """A checked storage migration."""

    target: Pool
    host: Row
    moves: Sequence[tuple[Row, Row, Row]]
    """(VBD, VDI, SR of the target) for each disk that is copied."""
    stays: Sequence[Row]
    """VBDs whose VDI the destination reaches as well."""
    networks: Mapping[str, str]
    """By VIF, the network on the other side."""
    keep_original: bool

    def crosses(self, pool: Pool) -> bool:
        """Whether the VM leaves its pool."""
        return self.target is not pool


_SIGNATURE: Final = (
    "vm: VM ref, dest: (string -> string) map, live: bool, vdi_map: (VDI ref -> SR ref) map, "
    "vif_map: (VIF ref -> network ref) map, options: (string -> string) map, vgpu_map: (VGPU ref -> GPU_group ref) map = {}"
)


@message(f"VM.assert_can_migrate({_SIGNATURE}) -> void")
def assert_can_migrate(
    call: Call,
    vm: Row,
    dest: Mapping[str, str],
    live: bool,
    vdi_map: Mapping[str, str],
    vif_map: Mapping[str, str],
    options: Mapping[str, str],
    vgpu_map: Mapping[str, str],
) -> None:
    """Whether `VM.migrate_send` with the same arguments would begin."""
    refused = refusal(call.pool, vm, "migrate_send")
    if refused is not None:
        raise refused
    plan = _plan(call, vm, dest, vdi_map, vif_map, options)
    if vm["power_state"] == "Running":
        memory.assert_fits(plan.target, vm, plan.host)


def _plan(
    call: Call,
    vm: Row,
    dest: Mapping[str, str],
    vdi_map: Mapping[str, str],
    vif_map: Mapping[str, str],
    options: Mapping[str, str],
) -> Plan:
    """What a migration would do. Raises the Failure that says why it cannot."""
    pool = call.pool
    target, host = _destination(call, dest)
    if target is not pool and vm["snapshots"]:
        raise Failure("OPERATION_NOT_ALLOWED", "a VM with snapshots cannot leave its pool")
    moves, stays = [], []
    for vbd, vdi in memory.disks_of(pool, vm):
        sr = _sr_for(pool, target, host, vdi, vdi_map)
        if sr is None:
            stays.append(vbd)
        else:
            if not memory.sees_sr(target, host, sr):
                raise Failure("VM_REQUIRES_SR", vm.ref, sr.ref)
            refused = refusal(pool, vdi, "mirror")
            if refused is not None:
                raise refused
            moves.append((vbd, vdi, sr))
    networks = _networks(pool, target, host, vm, vif_map)
    for reference in vdi_map:
        pool.database.get("VDI", reference)
    return Plan(target, host, moves, stays, networks, options.get("copy") == "true")


def _destination(call: Call, dest: Mapping[str, str]) -> tuple[Pool, Row]:
    for key in ("host", "session_id", "master", "SM", "xenops"):
        if key not in dest:
            raise Failure("INVALID_VALUE", f"dest:{key}", "")
    target: Pool | None = call.site.pool_of_session(dest["session_id"])
    if target is None:
        raise Failure("SESSION_INVALID", dest["session_id"])
    host = target.database.get("host", dest["host"])
    target.reach(host)
    if not host["enabled"]:
        raise Failure("HOST_DISABLED", host.ref)
    return target, host


def _sr_for(pool: Pool, target: Pool, host: Row, vdi: Row, vdi_map: Mapping[str, str]) -> Row | None:
    """The SR that a VDI is to move to; None when it stays where it is, within reach of the destination."""
    mapped = vdi_map.get(vdi.ref)
    own = pool.database.get("SR", vdi["SR"])
    if mapped is not None and mapped != own.ref:
        return target.database.get("SR", mapped)
    if target is pool and memory.sees_sr(pool, host, own):
        return None
    if mapped is None:
        raise Failure("VDI_NOT_IN_MAP", vdi.ref)
    raise Failure("VM_REQUIRES_SR", vdi.ref, own.ref)


def _networks(pool: Pool, target: Pool, host: Row, vm: Row, vif_map: Mapping[str, str]) -> dict[str, str]:
    networks = {}
    for vif in pool.database.all("VIF", vm["VIFs"]):
        if target is pool:
            reference = vif_map.get(vif.ref, vif["network"])
        elif vif.ref in vif_map:
            reference = vif_map[vif.ref]
        else:
            raise Failure("VIF_NOT_IN_MAP", vif.ref)
        network = target.database.get("network", reference)
        if not memory.sees_network(target, host, network):
            raise Failure("VM_REQUIRES_NETWORK", vm.ref, network.ref)
        networks[vif.ref] = network.ref
    return networks


@message(f"VM.migrate_send({_SIGNATURE}, vdi_format_map: (VDI ref -> string) map = {{}}) -> VM ref")
def migrate_send(
    call: Call,
    vm: Row,
    dest: Mapping[str, str],
    live: bool,
    vdi_map: Mapping[str, str],
    vif_map: Mapping[str, str],
    options: Mapping[str, str],
    vgpu_map: Mapping[str, str],
    vdi_format_map: Mapping[str, str],
) -> Any:
    """Move a VM with its disks; its reference on the other side."""
    pool = call.pool
    refused = refusal(pool, vm, "migrate_send")
    if refused is not None:
        raise refused
    if not live and vm["power_state"] == "Running":
        raise Failure("VM_BAD_POWER_STATE", vm.ref, "halted", "running")
    plan = _plan(call, vm, dest, vdi_map, vif_map, options)
    with contextlib.ExitStack() as held, Undo() as undo:
        held.enter_context(call.doing(vm, "migrate_send"))
        if plan.moves:
            held.enter_context(one_of_few(pool))
        for _vbd, vdi, _sr in plan.moves:
            held.enter_context(call.doing(vdi, "mirror"))
        twin = _twin(call, vm, plan, undo) if plan.crosses(pool) else vm
        runs = vm["power_state"] == "Running"
        if runs:
            memory.assert_can_boot_here(plan.target, twin, plan.host, memory=False) if twin is not vm else None
            held.enter_context(memory.reserving(plan.target, twin, plan.host))
        copies = yield from _mirror(call, vm, plan, undo, held)
        if runs:
            source = guest.host_of(pool, vm)
            yield from call.spend(pool.latencies.memory_s(vm["memory_dynamic_max"]), source, plan.host, to=0.99)
        if twin is vm:
            _commit_inside(call, vm, plan, copies, runs)
        else:
            _commit_across(call, vm, twin, plan, copies, runs)
    plan.target.announce("VM_MIGRATED", "VM", twin)
    return plan.target.database.get("VM", twin.ref)


@contextlib.contextmanager
def one_of_few(pool: Pool) -> Iterator[None]:
    """Be one of the storage migrations that a pool sends. Raises Failure TOO_MANY_STORAGE_MIGRATES."""
    if pool.storage_migrations >= STORAGE_MIGRATIONS_MAX:
        raise Failure("TOO_MANY_STORAGE_MIGRATES", str(STORAGE_MIGRATIONS_MAX))
    pool.storage_migrations += 1
    try:
        yield
    finally:
        pool.storage_migrations -= 1


_OWN_TO_A_POOL = words(
    "allowed_operations current_operations VBDs VIFs consoles resident_on scheduled_to_be_resident_on "
    "domid metrics guest_metrics suspend_VDI suspend_SR snapshots affinity power_state groups children "
    "parent snapshot_of appliance"
)


def _twin(call: Call, vm: Row, plan: Plan, undo: Undo) -> Row:
    """The VM's record in the other pool, halted until the VM has arrived."""
    values = {name: value for name, value in vm.values.items() if name not in _OWN_TO_A_POOL}
    if plan.keep_original:
        values["uuid"] = plan.target.new_uuid()
    twin = new_vm(plan.target, values)
    undo.add(lambda: remove_vm(plan.target, twin))
    operation = {call.operation: "migrate_send"}
    plan.target.database.set(twin, current_operations=operation)
    return twin


def _mirror(call: Call, vm: Row, plan: Plan, undo: Undo, held: contextlib.ExitStack) -> Any:
    """Copy the disks; by VDI reference, the copy, which nobody else can use as long as `held` is."""
    pool = call.pool
    source = call.database.find("host", vm["resident_on"])
    copies: dict[str, Row] = {}
    total = sum(int(vdi["physical_utilisation"]) for _vbd, vdi, _sr in plan.moves) or 1
    done = 0
    for _vbd, vdi, sr in plan.moves:
        if vdi.ref in copies:
            continue
        used = pool.disks.used_bytes(storage.key_of(vdi))
        kept = (
            "name_label",
            "name_description",
            "type",
            "sharable",
            "read_only",
            "other_config",
            "xenstore_data",
            "tags",
        )
        values = {name: vdi[name] for name in kept}
        made = storage.make_vdi(plan.target, sr, int(vdi["virtual_size"]), used_bytes=used, **values)
        undo.add(lambda made=made: storage.drop_vdi(plan.target, made))  # type: ignore[misc]
        held.enter_context(call.marking(made, "mirror", plan.target.database))
        copies[vdi.ref] = made
        done += int(vdi["physical_utilisation"])
        workers = (source or storage.worker_of(pool, pool.database.get("SR", vdi["SR"])), plan.host)
        seconds = pool.latencies.mirror_overhead_s + pool.latencies.copy_s(int(vdi["physical_utilisation"]))
        yield from call.spend(seconds, *workers, to=0.8 * done / total)
        yield from storage.copy_bytes(pool, vdi, plan.target, made)
    return copies


def _commit_inside(call: Call, vm: Row, plan: Plan, copies: Mapping[str, Row], runs: bool) -> None:
    database = call.database
    for vbd, vdi, _sr in plan.moves:
        copy = copies[vdi.ref]
        database.set(vbd, VDI=copy.ref)
        for older in database.all("VDI", vdi["snapshots"]):
            database.set(older, snapshot_of=copy.ref)
    for _vbd, vdi, _sr in plan.moves:
        storage.drop_vdi(call.pool, vdi)
    for vif_ref, network_ref in plan.networks.items():
        database.set(database.get("VIF", vif_ref), network=network_ref)
    if runs:
        guest.move(call.pool, vm, plan.host)


def _commit_across(call: Call, vm: Row, twin: Row, plan: Plan, copies: Mapping[str, Row], runs: bool) -> None:
    pool, target = call.pool, plan.target
    for vbd in pool.database.all("VBD", vm["VBDs"]):
        copy = copies.get(vbd["VDI"])
        copied = copy_vbd(target, vbd, twin, copy.ref if copy is not None else target.database.null)
        if copy is None:
            target.database.set(copied, empty=True)
    for vif in pool.database.all("VIF", vm["VIFs"]):
        copy_vif(target, vif, twin, keep_mac=True, network_ref=plan.networks[vif.ref])
    target.database.set(twin, current_operations={})
    if runs:
        guest.build(target, twin, plan.host, paused=False)
    if plan.keep_original:
        return
    if runs:
        guest.halt(pool, vm)
    for _vbd, vdi, _sr in plan.moves:
        storage.drop_vdi(pool, vdi)
    remove_vm(pool, vm)
