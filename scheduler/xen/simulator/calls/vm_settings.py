"""Messages that set a VM's fields where more is checked than the type, and questions about VMs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scheduler.xen.simulator import guest, memory
from scheduler.xen.simulator.allowed import refusal
from scheduler.xen.simulator.calls.vm_make import check_memory, check_vcpus
from scheduler.xen.simulator.database import Row
from scheduler.xen.simulator.failure import Failure
from scheduler.xen.simulator.messages import message
from scheduler.xen.simulator.pool import Call


def _settable(field: str, words: str, *, asynchronous: bool) -> None:
    """Serve `set_` for a field that the datamodel calls a message of its own but that needs no further check."""

    def serve(call: Call, vm: Row, value: Any) -> None:
        call.database.set(vm, **{field: value})

    message(f"VM.set_{field}(self: VM ref, value: {words}) -> void", asynchronous=asynchronous)(serve)


def _map_entries(field: str, key_words: str, *, asynchronous: bool) -> None:
    """Serve `add_to_` and `remove_from_` of a map field that the datamodel calls messages of their own."""

    def add(call: Call, vm: Row, key: str, value: str) -> None:
        if key in vm[field]:
            raise Failure("MAP_DUPLICATE_KEY", "VM", field, vm.ref, key)
        call.database.set(vm, **{field: {**vm[field], key: value}})

    def remove(call: Call, vm: Row, key: str) -> None:
        call.database.set(vm, **{field: {name: item for name, item in vm[field].items() if name != key}})

    signature = f"self: VM ref, key: {key_words}"
    message(f"VM.add_to_{field}({signature}, value: string) -> void", asynchronous=asynchronous)(add)
    message(f"VM.remove_from_{field}({signature}) -> void", asynchronous=asynchronous)(remove)


for _field, _words, _asynchronous in (
    ("other_config", "(string -> string) map", False),
    ("platform", "(string -> string) map", False),
    ("NVRAM", "(string -> string) map", False),
    ("HVM_boot_policy", "string", False),
    ("HVM_shadow_multiplier", "float", False),
    ("domain_type", "enum domain_type", False),
    ("ha_restart_priority", "string", False),
    ("actions_after_crash", "enum on_crash_behaviour", True),
    ("bios_strings", "(string -> string) map", True),
    ("blocked_operations", "(enum vm_operations -> string) map", True),
    ("has_vendor_device", "bool", True),
    ("order", "int", True),
    ("start_delay", "int", True),
    ("shutdown_delay", "int", True),
):
    _settable(_field, _words, asynchronous=_asynchronous)
for _field, _words, _asynchronous in (
    ("other_config", "string", False),
    ("platform", "string", False),
    ("NVRAM", "string", False),
    ("blocked_operations", "enum vm_operations", True),
):
    _map_entries(_field, _words, asynchronous=_asynchronous)


@message("VM.set_groups(self: VM ref, value: VM_group ref set) -> void")
def set_groups(call: Call, vm: Row, value: Sequence[Row]) -> None:
    """The groups that a VM belongs to: one at most."""
    if len(value) > 1:
        raise Failure("TOO_MANY_GROUPS")
    call.database.set(vm, groups=tuple(group.ref for group in value))


@message("VM.set_VCPUs_max(self: VM ref, value: int) -> void", asynchronous=False)
def set_vcpus_max(call: Call, vm: Row, value: int) -> None:
    """How many vCPUs a VM can have."""
    with call.doing(vm, "changing_VCPUs"):
        check_vcpus(min(vm["VCPUs_at_startup"], value), value)
        call.database.set(vm, VCPUs_max=value, VCPUs_at_startup=min(vm["VCPUs_at_startup"], value))
        call.database.set(vm, memory_overhead=memory.overhead_bytes(vm))


@message("VM.set_VCPUs_at_startup(self: VM ref, value: int) -> void", asynchronous=False)
def set_vcpus_at_startup(call: Call, vm: Row, value: int) -> None:
    """How many vCPUs a VM starts with."""
    with call.doing(vm, "changing_VCPUs"):
        check_vcpus(value, vm["VCPUs_max"])
        call.database.set(vm, VCPUs_at_startup=value)


@message("VM.set_VCPUs_number_live(self: VM ref, nvcpu: int) -> void")
def set_vcpus_number_live(call: Call, vm: Row, nvcpu: int) -> None:
    """How many vCPUs a running VM has."""
    with call.doing(vm, "changing_VCPUs_live"):
        check_vcpus(nvcpu, vm["VCPUs_max"])
        metrics = call.database.get("VM_metrics", vm["metrics"])
        call.database.set(vm, VCPUs_at_startup=nvcpu)
        call.database.set(metrics, VCPUs_number=nvcpu)


@message(
    "VM.set_memory_limits(self: VM ref, static_min: int, static_max: int, dynamic_min: int, dynamic_max: int) -> void"
)
def set_memory_limits(
    call: Call, vm: Row, static_min: int, static_max: int, dynamic_min: int, dynamic_max: int
) -> None:
    """All four limits of a VM's memory."""
    with call.doing(vm, "changing_memory_limits"):
        _set_memory(call, vm, static_min, dynamic_min, dynamic_max, static_max)


def _set_memory(call: Call, vm: Row, static_min: int, dynamic_min: int, dynamic_max: int, static_max: int) -> None:
    check_memory(static_min, dynamic_min, dynamic_max, static_max)
    call.database.set(
        vm,
        memory_static_min=static_min,
        memory_static_max=static_max,
        memory_dynamic_min=dynamic_min,
        memory_dynamic_max=dynamic_max,
    )
    call.database.set(vm, memory_overhead=memory.overhead_bytes(vm))


@message("VM.set_memory(self: VM ref, value: int) -> void")
def set_memory(call: Call, vm: Row, value: int) -> None:
    """One size for the maximum and both dynamic limits."""
    with call.doing(vm, "changing_memory_limits"):
        _set_memory(call, vm, min(vm["memory_static_min"], value), value, value, value)


@message("VM.set_memory_static_max(self: VM ref, value: int) -> void", asynchronous=False)
def set_memory_static_max(call: Call, vm: Row, value: int) -> None:
    """The most memory that a VM can ever have."""
    _set_one(call, vm, "changing_static_range", memory_static_max=value)


@message("VM.set_memory_static_min(self: VM ref, value: int) -> void", asynchronous=False)
def set_memory_static_min(call: Call, vm: Row, value: int) -> None:
    """The least memory that a VM can ever have."""
    _set_one(call, vm, "changing_static_range", memory_static_min=value)


@message("VM.set_memory_dynamic_max(self: VM ref, value: int) -> void", asynchronous=False)
def set_memory_dynamic_max(call: Call, vm: Row, value: int) -> None:
    """What a VM gets while its host has enough."""
    _set_one(call, vm, "changing_dynamic_range", memory_dynamic_max=value)


@message("VM.set_memory_dynamic_min(self: VM ref, value: int) -> void", asynchronous=False)
def set_memory_dynamic_min(call: Call, vm: Row, value: int) -> None:
    """What a VM is squeezed to at the most."""
    _set_one(call, vm, "changing_dynamic_range", memory_dynamic_min=value)


@message("VM.set_memory_static_range(self: VM ref, min: int, max: int) -> void")
def set_memory_static_range(call: Call, vm: Row, low: int, high: int) -> None:
    """Both static limits."""
    _set_one(call, vm, "changing_static_range", memory_static_min=low, memory_static_max=high)


@message("VM.set_memory_dynamic_range(self: VM ref, min: int, max: int) -> void")
def set_memory_dynamic_range(call: Call, vm: Row, low: int, high: int) -> None:
    """Both dynamic limits; of a running VM too, as far as its host's memory goes."""
    _set_one(call, vm, "changing_dynamic_range", memory_dynamic_min=low, memory_dynamic_max=high)


def _set_one(call: Call, vm: Row, operation: str, **limits: int) -> None:
    wanted = {name: limits.get(name, vm[name]) for name in limits.keys() | set(_LIMITS)}
    with call.doing(vm, operation):
        host = call.database.find("host", vm["resident_on"])
        grown = wanted["memory_dynamic_min"] - int(vm["memory_dynamic_min"])
        if host is not None and grown > 0:
            available = memory.free_bytes(call.pool, host)
            if grown > available:
                raise Failure("HOST_NOT_ENOUGH_FREE_MEMORY", str(grown), str(available))
        _set_memory(call, vm, *(wanted[name] for name in _LIMITS))
        if host is not None:
            memory.balance(call.pool, host)


_LIMITS = ("memory_static_min", "memory_dynamic_min", "memory_dynamic_max", "memory_static_max")


@message("VM.assert_operation_valid(self: VM ref, op: enum vm_operations) -> void")
def assert_operation_valid(call: Call, vm: Row, op: str) -> None:
    """Whether a VM allows an operation now."""
    refused = refusal(call.pool, vm, op)
    if refused is not None:
        raise refused


@message("VM.get_boot_record(self: VM ref) -> VM record", asynchronous=False)
def get_boot_record(call: Call, vm: Row) -> Mapping[str, Any]:
    """The settings that a VM runs with, which here are those of its record."""
    refused = refusal(call.pool, vm, "get_boot_record")
    if refused is not None:
        raise refused
    return vm.record()


@message("VM.update_allowed_operations(self: VM ref) -> void")
def update_allowed_operations(call: Call, vm: Row) -> None:
    """Bring a VM's list of allowed operations up to date, which it always is."""
    call.database.touch(vm)


@message("VM.assert_can_boot_here(self: VM ref, host: host ref) -> void")
def assert_can_boot_here(call: Call, vm: Row, host: Row) -> None:
    """Whether a VM could start on a host."""
    memory.assert_can_boot_here(call.pool, vm, host)


@message("VM.assert_agile(self: VM ref) -> void")
def assert_agile(call: Call, vm: Row) -> None:
    """Whether a VM could run on every host: all its disks on shared SRs."""
    for _vbd, vdi in memory.disks_of(call.pool, vm):
        sr = call.database.get("SR", vdi["SR"])
        if not sr["shared"]:
            raise Failure("HA_CONSTRAINT_VIOLATION_SR_NOT_SHARED", sr.ref)


@message("VM.get_possible_hosts(vm: VM ref) -> host ref set")
def get_possible_hosts(call: Call, vm: Row) -> list[Row]:
    """The hosts on which a VM could start."""
    possible = []
    for host in call.database.rows("host"):
        try:
            memory.assert_can_boot_here(call.pool, vm, host)
        except Failure:
            continue
        possible.append(host)
    return possible


@message("VM.get_allowed_VBD_devices(vm: VM ref) -> string set", asynchronous=False)
def get_allowed_vbd_devices(call: Call, vm: Row) -> list[str]:
    """The positions that a new disk can have."""
    taken = {vbd["userdevice"] for vbd in call.database.all("VBD", vm["VBDs"])}
    return [str(number) for number in range(DEVICES_MAX) if str(number) not in taken]


@message("VM.get_allowed_VIF_devices(vm: VM ref) -> string set", asynchronous=False)
def get_allowed_vif_devices(call: Call, vm: Row) -> list[str]:
    """The positions that a new VIF can have."""
    taken = {vif["device"] for vif in call.database.all("VIF", vm["VIFs"])}
    return [str(number) for number in range(VIFS_MAX) if str(number) not in taken]


DEVICES_MAX = 255
VIFS_MAX = 7


@message("VM.compute_memory_overhead(vm: VM ref) -> int")
def compute_memory_overhead(call: Call, vm: Row) -> int:
    """Memory that a VM needs of the hypervisor beyond its own."""
    return memory.overhead_bytes(vm)


@message("VM.maximise_memory(self: VM ref, total: int, approximate: bool) -> int")
def maximise_memory(call: Call, vm: Row, total: int, approximate: bool) -> int:
    """The most memory that a VM could have where so much is free."""
    fixed = memory.MIB * (2 + int(vm["VCPUs_max"]))
    return max(0, (total - fixed) * 128 // 129 // memory.MIB * memory.MIB)


@message("VM.call_plugin(vm: VM ref, plugin: string, fn: string, args: (string -> string) map) -> string")
def call_plugin(call: Call, vm: Row, plugin: str, fn: str, args: Mapping[str, str]) -> str:
    """No plugin is installed."""
    call.pool.reach(guest.host_of(call.pool, vm))
    raise Failure("XENAPI_MISSING_PLUGIN", plugin)
