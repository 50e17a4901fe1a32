"""Messages that make VMs and remove them: create, clone, copy, provision, destroy."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any
from xml.etree.ElementTree import ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from scheduler.xen.simulator import guest, memory, storage
from scheduler.xen.simulator.allowed import is_null
from scheduler.xen.simulator.database import Row
from scheduler.xen.simulator.failure import Failure
from scheduler.xen.simulator.jobs import Steps, Work
from scheduler.xen.simulator.messages import message
from scheduler.xen.simulator.pool import Call, Pool, null_or
from scheduler.xen.simulator.records import constructor_fields
from scheduler.xen.simulator.schema import words
from scheduler.xen.simulator.undo import Undo

RowSteps = Generator[Work, None, Row]
PROVISION_KEY = "disks"
ARRIVING = "import"
"""What a VM is doing whose disks are still being made."""

_NOT_COPIED = words(
    "uuid allowed_operations current_operations VBDs VIFs VGPUs VUSBs VTPMs consoles resident_on "
    "scheduled_to_be_resident_on domid metrics guest_metrics suspend_VDI snapshots children crash_dumps "
    "is_default_template is_control_domain power_state memory_target snapshot_of snapshot_time "
    "is_a_snapshot snapshot_info transportable_snapshot_id parent attached_PCIs"
)
"""What a copy of a VM's record does not take over."""


@message("VM.create(args: VM record) -> VM ref")
def create(call: Call, args: Mapping[str, Any]) -> Row:
    """A VM from a record, halted."""
    values = constructor_fields("VM", args)
    values.pop("power_state", None)
    for reference in ("suspend_VDI", "affinity", "suspend_SR"):
        if is_null(values.get(reference, "")):
            values.pop(reference, None)
    return new_vm(call.pool, values)


def new_vm(pool: Pool, values: Mapping[str, Any]) -> Row:
    """A VM with these fields, checked. Raises Failure INVALID_VALUE or MEMORY_CONSTRAINT_VIOLATION."""
    filled = {"VCPUs_max": 1, "VCPUs_at_startup": 1, "actions_after_reboot": "restart", "domid": -1, **values}
    filled.setdefault("actions_after_crash", "restart")
    filled["VCPUs_max"] = filled["VCPUs_max"] or 1
    filled["VCPUs_at_startup"] = filled["VCPUs_at_startup"] or 1
    check_vcpus(filled["VCPUs_at_startup"], filled["VCPUs_max"])
    ceiling = filled.get("memory_static_max") or 256 * memory.MIB
    for name in ("memory_static_max", "memory_dynamic_max", "memory_dynamic_min"):
        filled[name] = filled.get(name) or ceiling
    check_memory(*(filled.get(name, 0) for name in MEMORY_FIELDS))
    metrics = pool.database.add("VM_metrics", install_time=pool.now(), last_updated=pool.now())
    vm = pool.database.add("VM", **filled, metrics=metrics.ref)
    pool.database.set(vm, memory_overhead=memory.overhead_bytes(vm))
    return vm


MEMORY_FIELDS = ("memory_static_min", "memory_dynamic_min", "memory_dynamic_max", "memory_static_max")


def check_memory(static_min: int, dynamic_min: int, dynamic_max: int, static_max: int) -> None:
    """Raises Failure MEMORY_CONSTRAINT_VIOLATION unless the four are in order."""
    if not 0 <= static_min <= dynamic_min <= dynamic_max <= static_max or static_max == 0:
        order = "static_min <= dynamic_min <= dynamic_max <= static_max"
        raise Failure("MEMORY_CONSTRAINT_VIOLATION", f"Memory limits must satisfy: {order}")


def check_vcpus(at_startup: int, most: int) -> None:
    """Raises Failure INVALID_VALUE unless a VM can start with so many vCPUs."""
    if most < 1:
        raise Failure("INVALID_VALUE", "VCPUs_max", str(most))
    if not 1 <= at_startup <= most:
        raise Failure("INVALID_VALUE", "VCPUs_at_startup", str(at_startup))


@message("VM.destroy(self: VM ref) -> void")
def destroy(call: Call, vm: Row) -> None:
    """Remove a VM and its devices; its VDIs stay."""
    if vm["is_default_template"]:
        raise Failure("VM_CANNOT_DELETE_DEFAULT_TEMPLATE", vm.ref)
    with call.doing(vm, "destroy"):
        pass
    remove_vm(call.pool, vm)


def remove_vm(pool: Pool, vm: Row) -> None:
    """Remove a VM's records and its suspend image."""
    database = pool.database
    if database.find("VM", vm.ref) is not vm:
        return
    guest.drop_suspend_image(pool, vm)
    for device in [*database.all("VBD", vm["VBDs"]), *database.all("VIF", vm["VIFs"])]:
        database.remove(device)
    for console in database.all("console", vm["consoles"]):
        database.remove(console)
    guest.forget_guest(pool, vm)
    metrics = database.find("VM_metrics", vm["metrics"])
    if metrics is not None:
        database.remove(metrics)
    database.remove(vm)


@message("VM.clone(vm: VM ref, new_name: string) -> VM ref")
def clone(call: Call, vm: Row, new_name: str) -> RowSteps:
    """A VM like another, its disks cloned on their SRs."""
    with call.doing(vm, "clone"), Undo() as undo:
        twin = copy_record(call, vm, new_name, undo)
        with call.marking(twin, ARRIVING):
            yield from copy_devices(call, vm, twin, undo, operation="clone")
        return twin


@message("VM.copy(vm: VM ref, new_name: string, sr: SR ref | null) -> VM ref")
def copy(call: Call, vm: Row, new_name: str, sr: Row | None) -> RowSteps:
    """A VM like another, its disks copied in full, to another SR if one is given."""
    with call.doing(vm, "copy"), Undo() as undo:
        twin = copy_record(call, vm, new_name, undo)
        with call.marking(twin, ARRIVING):
            yield from copy_devices(call, vm, twin, undo, operation="copy", sr=sr)
        return twin


def copy_record(call: Call, vm: Row, name: str, undo: Undo, **different: Any) -> Row:
    """A new VM with the settings of another and no devices yet."""
    values = {field: value for field, value in vm.values.items() if field not in _NOT_COPIED}
    if vm["is_a_snapshot"] and not different.get("is_a_snapshot"):
        values["is_a_template"] = True
    copied = new_vm(call.pool, {**values, "name_label": name, **different})
    undo.add(lambda: remove_vm(call.pool, copied))
    return copied


def copy_devices(
    call: Call, vm: Row, twin: Row, undo: Undo, *, operation: str, sr: Row | None = None, keep_mac: bool = False
) -> Steps:
    """Give a VM the disks and VIFs of another; `operation` (clone, copy, snapshot) says how disks are made."""
    database = call.database
    disks = database.all("VBD", vm["VBDs"])
    for index, vbd in enumerate(disks):
        vdi = database.find("VDI", vbd["VDI"])
        ref = vbd["VDI"]
        if vdi is not None and vbd["type"] == "Disk":
            made = yield from duplicate(call, vdi, undo, operation=operation, sr=sr, to=(index + 1) / len(disks))
            ref = made.ref
        copy_vbd(call.pool, vbd, twin, ref)
    for vif in database.all("VIF", vm["VIFs"]):
        copy_vif(call.pool, vif, twin, keep_mac=keep_mac)


def copy_vbd(pool: Pool, vbd: Row, vm: Row, vdi_ref: str) -> Row:
    """A VBD like another, of another VM and to another VDI."""
    kept = ("userdevice", "bootable", "mode", "type", "unpluggable", "empty", "other_config", "qos_algorithm_type")
    return pool.database.add("VBD", VM=vm.ref, VDI=vdi_ref, **{name: vbd[name] for name in kept})


def copy_vif(pool: Pool, vif: Row, vm: Row, *, keep_mac: bool = False, network_ref: str = "") -> Row:
    """A VIF like another, of another VM, with a MAC of its own unless the other's is to be kept."""
    kept = ("device", "MTU", "other_config", "locking_mode", "ipv4_allowed", "ipv6_allowed", "qos_algorithm_type")
    return pool.database.add(
        "VIF",
        VM=vm.ref,
        network=network_ref or vif["network"],
        MAC=vif["MAC"] if keep_mac else new_mac(pool),
        MAC_autogenerated=not keep_mac or vif["MAC_autogenerated"],
        **{name: vif[name] for name in kept},
    )


def new_mac(pool: Pool) -> str:
    """A locally administered MAC address."""
    octets = [pool.random.randrange(256) for _ in range(6)]
    octets[0] = (octets[0] & 0xFC) | 0x02
    return ":".join(f"{octet:02x}" for octet in octets)


def duplicate(
    call: Call,
    vdi: Row,
    undo: Undo,
    *,
    operation: str,
    sr: Row | None = None,
    to: float | None = None,
    **different: Any,
) -> RowSteps:
    """A VDI with the bytes of another, on the same SR or another, in the time that takes."""
    pool, database = call.pool, call.database
    target_sr = sr or database.get("SR", vdi["SR"])
    with call.doing(vdi, operation):
        worker = storage.worker_of(pool, target_sr)
        used = pool.disks.used_bytes(storage.key_of(vdi))
        values = {
            **{
                name: vdi[name]
                for name in ("name_label", "name_description", "type", "other_config", "sm_config", "tags")
            },
            **{name: vdi[name] for name in ("sharable", "read_only", "on_boot", "xenstore_data")},
            **different,
        }
        made = storage.make_vdi(pool, target_sr, int(vdi["virtual_size"]), used_bytes=used, **values)
        undo.add(lambda: storage.drop_vdi(pool, made))
        seconds = pool.latencies.snapshot_s
        if operation in ("copy", "mirror"):
            seconds = pool.latencies.copy_s(int(vdi["physical_utilisation"]))
        with call.marking(made, "blocked"):
            yield from call.spend(seconds, worker, to=to)
            yield from storage.copy_bytes(pool, vdi, pool, made)
    return made


@message("VM.provision(vm: VM ref) -> void")
def provision(call: Call, vm: Row) -> Steps:
    """Make a template a VM, with the disks that its provisioning document asks for."""
    pool, database = call.pool, call.database
    with call.doing(vm, "provision"), Undo() as undo:
        for wish in wished_disks(vm):
            sr = _provision_sr(call, vm, wish["sr"])
            made = storage.make_vdi(
                pool, sr, wish["size"], name_label=f"{vm['name_label']} {wish['device']}", type="system"
            )
            undo.add(lambda made=made: storage.drop_vdi(pool, made))  # type: ignore[misc]
            with call.marking(made, "blocked"):
                yield from call.spend(pool.latencies.vdi_create_s, storage.worker_of(pool, sr))
            bootable = wish["bootable"]
            database.add(
                "VBD", VM=vm.ref, VDI=made.ref, userdevice=wish["device"], bootable=bootable, mode="RW", type="Disk"
            )
        rest = {key: value for key, value in vm["other_config"].items() if key != PROVISION_KEY}
        database.set(vm, is_a_template=False, is_default_template=False, other_config=rest)


def wished_disks(vm: Row) -> list[dict[str, Any]]:
    """The disks that a template's provisioning document asks for. Raises Failure INVALID_VALUE when it is none."""
    text = vm["other_config"].get(PROVISION_KEY, "")
    if not text:
        return []
    try:
        return [
            {
                "device": disk.attrib["device"],
                "size": int(disk.attrib["size"]),
                "sr": disk.attrib.get("sr", ""),
                "bootable": disk.attrib.get("bootable", "false") == "true",
            }
            for disk in fromstring(text).iter("disk")
        ]
    except (ParseError, DefusedXmlException, KeyError, ValueError):
        raise Failure("INVALID_VALUE", f"other_config:{PROVISION_KEY}", text) from None


def _provision_sr(call: Call, vm: Row, uuid: str) -> Row:
    if uuid:
        return call.database.by_uuid("SR", uuid)
    default = call.database.find("SR", call.pool.row["default_SR"])
    if default is None:
        raise Failure("HANDLE_INVALID", "SR", null_or(default))
    return default
