"""Messages about hosts: memory, enabling, evacuating, and hosts that are gone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scheduler.xen.simulator import guest, memory
from scheduler.xen.simulator.calls.vm_migrate import pool_migrate
from scheduler.xen.simulator.database import Row
from scheduler.xen.simulator.failure import Failure
from scheduler.xen.simulator.jobs import Steps
from scheduler.xen.simulator.messages import message
from scheduler.xen.simulator.pool import Call, stamp


@message("host.compute_free_memory(host: host ref) -> int")
def compute_free_memory(call: Call, host: Row) -> int:
    """What a host has left with all its guests squeezed to their minimum."""
    return max(0, memory.free_bytes(call.pool, host))


@message("host.compute_memory_overhead(host: host ref) -> int")
def compute_memory_overhead(call: Call, host: Row) -> int:
    """The hypervisor's own share."""
    return int(host["memory_overhead"])


@message("host.disable(host: host ref, auto_enable: bool = True) -> void")
def disable(call: Call, host: Row, auto_enable: bool) -> Steps:
    """Let no VM start on a host or move to it."""
    call.pool.reach(host)
    yield from call.spend(call.pool.latencies.host_s, host)
    call.database.set(host, enabled=False)


@message("host.enable(host: host ref) -> void")
def enable(call: Call, host: Row) -> Steps:
    """Let VMs start on a host again."""
    call.pool.reach(host)
    with call.doing(host, "enable"):
        yield from call.spend(call.pool.latencies.host_s, host)
        call.database.set(host, enabled=True)


@message(
    "host.evacuate(host: host ref, network: network ref | null = 'OpaqueRef:NULL', evacuate_batch_size: int = 0) -> void"
)
def evacuate(call: Call, host: Row, network: Row | None, evacuate_batch_size: int) -> Steps:
    """Move all VMs of a disabled host to others, one after the other."""
    pool = call.pool
    pool.reach(host)
    _assert_disabled(host)
    prevented = _preventing(call, host)
    if prevented:
        raise Failure("CANNOT_EVACUATE_HOST", "|".join(",".join(reason) for reason in prevented.values()))
    with call.doing(host, "evacuate"):
        guests = _guests(call, host)
        for index, vm in enumerate(guests):
            if vm["resident_on"] == host.ref:
                yield from pool_migrate(call, vm, memory.choose_host(pool, vm, but=host), {})
            call.progress((index + 1) / len(guests))


def _assert_disabled(host: Row) -> None:
    if host["enabled"]:
        raise Failure("HOST_NOT_DISABLED")


def _guests(call: Call, host: Row) -> list[Row]:
    return [vm for vm in call.database.all("VM", host["resident_VMs"]) if not vm["is_control_domain"]]


def _preventing(call: Call, host: Row) -> dict[Row, list[str]]:
    """By VM that cannot leave a host, the failure that says why."""
    prevented: dict[Row, list[str]] = {}
    for vm in _guests(call, host):
        if vm["power_state"] != "Running":
            prevented[vm] = Failure("VM_BAD_POWER_STATE", vm.ref, "running", vm["power_state"].lower()).description
            continue
        try:
            memory.choose_host(call.pool, vm, but=host)
        except Failure as failure:
            reason = failure if failure.code != "NO_HOSTS_AVAILABLE" else _why_nowhere(call, vm, host)
            prevented[vm] = reason.description
    return prevented


def _why_nowhere(call: Call, vm: Row, but: Row) -> Failure:
    for other in call.database.rows("host"):
        if other is not but:
            try:
                memory.assert_can_boot_here(call.pool, vm, other)
            except Failure as failure:
                return failure
    return Failure("NO_HOSTS_AVAILABLE")


@message("host.get_vms_which_prevent_evacuation(self: host ref) -> (VM ref -> string set) map")
def get_vms_which_prevent_evacuation(call: Call, host: Row) -> dict[str, list[str]]:
    """By VM that could not leave, why."""
    return {vm.ref: reason for vm, reason in _preventing(call, host).items()}


@message("host.assert_can_evacuate(host: host ref) -> void")
def assert_can_evacuate(call: Call, host: Row) -> None:
    """Whether all VMs of a host could leave it."""
    prevented = _preventing(call, host)
    if prevented:
        raise Failure("CANNOT_EVACUATE_HOST", "|".join(",".join(reason) for reason in prevented.values()))


@message("host.declare_dead(host: host ref) -> void")
def declare_dead(call: Call, host: Row) -> None:
    """An operator says that a host is gone: its VMs are halted in the records, free to start elsewhere."""
    if host is call.pool.master:
        raise Failure("HOST_IS_LIVE", host.ref)
    if host.ref not in call.pool.dead and call.pool.is_live(host):
        raise Failure("HOST_IS_LIVE", host.ref)
    metrics = call.database.get("host_metrics", host["metrics"])
    call.database.set(metrics, live=False)
    for vm in _guests(call, host):
        guest.halt(call.pool, vm)


@message("host.shutdown(host: host ref) -> void")
def shutdown(call: Call, host: Row) -> Steps:
    """Switch a disabled and empty host off; its pool is told, so it is not called live any more."""
    with call.doing(host, "shutdown"):
        yield from _switch_off(call, host)


def _switch_off(call: Call, host: Row) -> Steps:
    call.pool.reach(host)
    for vm in _guests(call, host):
        raise Failure("HOST_IN_USE", host.ref, "VM", vm.ref)
    yield from call.spend(call.pool.latencies.host_s, cancellable=False)
    call.site.kill(call.pool, host)
    call.database.set(call.database.get("host_metrics", host["metrics"]), live=False)


@message("host.reboot(host: host ref) -> void")
def reboot(call: Call, host: Row) -> Steps:
    """Switch a disabled and empty host off, and on again."""
    with call.doing(host, "reboot"):
        yield from _switch_off(call, host)
        yield from call.spend(call.pool.latencies.host_boot_s, cancellable=False)
        call.site.revive(call.pool, host)


@message("host.power_on(host: host ref) -> void")
def power_on(call: Call, host: Row) -> Steps:
    """Switch a host on that was off."""
    if host.ref in call.pool.dead:
        yield from call.spend(call.pool.latencies.host_boot_s)
        call.site.revive(call.pool, host)


@message("host.destroy(self: host ref) -> void")
def destroy(call: Call, host: Row) -> None:
    """Remove a dead host from its pool."""
    if host.ref not in call.pool.dead:
        raise Failure("HOST_IS_LIVE", host.ref)
    if _guests(call, host):
        raise Failure("HOST_HAS_RESIDENT_VMS", host.ref)
    for vm in call.database.all("VM", host["resident_VMs"]):
        call.database.remove(vm)
    for cls, field in (("PBD", "PBDs"), ("PIF", "PIFs"), ("host_cpu", "host_CPUs")):
        for row in call.database.all(cls, host[field]):
            call.database.remove(row)
    call.database.remove(call.database.get("host_metrics", host["metrics"]))
    call.database.remove(host)


@message("host.get_servertime(host: host ref) -> datetime", asynchronous=False)
def get_servertime(call: Call, host: Row) -> Any:
    """A host's clock."""
    call.pool.reach(host)
    return stamp(call.pool.clock())


@message("host.get_server_localtime(host: host ref) -> datetime", asynchronous=False)
def get_server_localtime(call: Call, host: Row) -> Any:
    """A host's clock, in its time zone, which is UTC."""
    call.pool.reach(host)
    return stamp(call.pool.clock())


@message("host.get_management_interface(host: host ref) -> PIF ref")
def get_management_interface(call: Call, host: Row) -> Row:
    """The PIF by which a host is managed."""
    for pif in call.database.all("PIF", host["PIFs"]):
        if pif["management"]:
            return pif
    raise Failure("HOST_HAS_NO_MANAGEMENT_IP")


@message("host.get_server_certificate(host: host ref) -> string")
def get_server_certificate(call: Call, host: Row) -> str:
    """The certificate that a host shows over TLS."""
    return call.pool.certificate_pem


@message("host.call_plugin(host: host ref, plugin: string, fn: string, args: (string -> string) map) -> string")
def call_plugin(call: Call, host: Row, plugin: str, fn: str, args: Mapping[str, str]) -> str:
    """No plugin is installed."""
    call.pool.reach(host)
    raise Failure("XENAPI_MISSING_PLUGIN", plugin)


@message("host.list_methods() -> string set", asynchronous=False)
def list_methods(call: Call) -> list[str]:
    """All messages that are served."""
    from scheduler.xen.simulator.dispatch import all_methods

    return all_methods()


@message("host.sync_data(host: host ref) -> void", asynchronous=False)
def sync_data(call: Call, host: Row) -> None:
    """Write the records down, which is done anyhow."""
