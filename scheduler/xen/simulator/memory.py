"""What a host's memory is promised to, and which host may take a VM.

A VM is counted at what its balloon can be squeezed to (`memory_dynamic_min`) and its overhead, from the moment that it is
`scheduled_to_be_resident_on` a host until it left; a migration counts on both hosts until it ended. What guests really
have (`VM_metrics.memory_actual`) lies between dynamic minimum and maximum, all on a host squeezed alike.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from scheduler.xen.simulator.allowed import is_null
from scheduler.xen.simulator.database import Row
from scheduler.xen.simulator.failure import Failure

if TYPE_CHECKING:
    from scheduler.xen.simulator.pool import Pool

MIB: Final = 1 << 20


def overhead_bytes(vm: Row) -> int:
    """Memory that a VM needs of the hypervisor beyond its own: page tables by its size, a little for each vCPU."""
    return MIB * (2 + int(vm["VCPUs_max"])) + int(vm["memory_static_max"]) // 128 // MIB * MIB


def need_bytes(vm: Row) -> int:
    """What a VM takes of a host, at the least."""
    return int(vm["memory_dynamic_min"]) + int(vm["memory_overhead"] or overhead_bytes(vm))


def on_host(pool: Pool, host: Row) -> list[Row]:
    """VMs that count on a host: resident, or on their way to it."""
    resident = pool.database.all("VM", host["resident_VMs"])
    coming = [
        vm
        for vm in pool.database.rows("VM")
        if vm.values.get("scheduled_to_be_resident_on") == host.ref and vm["resident_on"] != host.ref
    ]
    return resident + coming


def total_bytes(pool: Pool, host: Row) -> int:
    """A host's memory, the hypervisor's own share taken off."""
    metrics = pool.database.get("host_metrics", host["metrics"])
    return int(metrics["memory_total"]) - int(host["memory_overhead"])


def free_bytes(pool: Pool, host: Row) -> int:
    """What is left with all guests squeezed to their minimum: `host.compute_free_memory`."""
    return total_bytes(pool, host) - sum(need_bytes(vm) for vm in on_host(pool, host))


@contextlib.contextmanager
def reserving(pool: Pool, vm: Row, host: Row) -> Iterator[None]:
    """Count a VM on a host for the length of the block. Raises Failure HOST_NOT_ENOUGH_FREE_MEMORY."""
    assert_fits(pool, vm, host)
    pool.database.set(vm, scheduled_to_be_resident_on=host.ref)
    try:
        yield
    finally:
        if pool.database.find("VM", vm.ref) is vm:
            pool.database.set(vm, scheduled_to_be_resident_on=pool.database.null)


def assert_fits(pool: Pool, vm: Row, host: Row) -> None:
    """Raises Failure HOST_NOT_ENOUGH_FREE_MEMORY when a host has not the memory for a VM."""
    needed, available = need_bytes(vm), free_bytes(pool, host)
    if needed > available:
        raise Failure("HOST_NOT_ENOUGH_FREE_MEMORY", str(needed), str(available))


def balance(pool: Pool, host: Row) -> None:
    """Squeeze the guests of a host alike, and note what each has."""
    guests = [vm for vm in pool.database.all("VM", host["resident_VMs"]) if not vm["is_control_domain"]]
    spare = max(0, free_bytes(pool, host))
    wanted = sum(int(vm["memory_dynamic_max"]) - int(vm["memory_dynamic_min"]) for vm in guests)
    share = min(1.0, spare / wanted) if wanted > 0 else 1.0
    for vm in guests:
        low, high = int(vm["memory_dynamic_min"]), int(vm["memory_dynamic_max"])
        target = high if share >= 1.0 else low + int((high - low) * share)
        pool.database.set(vm, memory_target=target)
        metrics = pool.database.find("VM_metrics", vm["metrics"])
        if metrics is not None:
            pool.database.set(metrics, memory_actual=target, last_updated=pool.now())


def sees_sr(pool: Pool, host: Row, sr: Row) -> bool:
    """Whether a host reaches an SR."""
    return any(pbd["currently_attached"] and pbd["host"] == host.ref for pbd in pool.database.all("PBD", sr["PBDs"]))


def sees_network(pool: Pool, host: Row, network: Row) -> bool:
    """Whether a host can attach VIFs to a network; one without PIFs is inside each host."""
    pifs = pool.database.all("PIF", network["PIFs"])
    return not pifs or any(pif["host"] == host.ref for pif in pifs)


def disks_of(pool: Pool, vm: Row) -> list[tuple[Row, Row]]:
    """(VBD, VDI) of a VM, empty drives left out."""
    pairs = []
    for vbd in pool.database.all("VBD", vm["VBDs"]):
        vdi = pool.database.find("VDI", vbd["VDI"])
        if vdi is not None:
            pairs.append((vbd, vdi))
    return pairs


def assert_can_boot_here(pool: Pool, vm: Row, host: Row, *, memory: bool = True) -> None:
    """Raises the Failure that says why a VM cannot run on a host."""
    if not pool.is_live(host):
        raise Failure("HOST_NOT_LIVE")
    if not host["enabled"]:
        raise Failure("HOST_DISABLED", host.ref)
    cpus = int(host["cpu_info"].get("cpu_count", "0"))
    if vm["VCPUs_at_startup"] > cpus:
        raise Failure("HOST_NOT_ENOUGH_PCPUS", str(vm["VCPUs_at_startup"]), str(cpus))
    for _vbd, vdi in disks_of(pool, vm):
        sr = pool.database.get("SR", vdi["SR"])
        if not sees_sr(pool, host, sr):
            raise Failure("VM_REQUIRES_SR", vm.ref, sr.ref)
    for vif in pool.database.all("VIF", vm["VIFs"]):
        network = pool.database.find("network", vif["network"])
        if network is not None and not sees_network(pool, host, network):
            raise Failure("VM_REQUIRES_NETWORK", vm.ref, network.ref)
    if memory:
        assert_fits(pool, vm, host)


def choose_host(pool: Pool, vm: Row, *, but: Row | None = None) -> Row:
    """A host for a VM: the one of its affinity if that can, else the one with the most free memory.

    VMs of an anti-affinity group go where the fewest of the group are. Raises Failure NO_HOSTS_AVAILABLE; with one host
    only, the reason why that one cannot.
    """
    able, reason = [], Failure("NO_HOSTS_AVAILABLE")
    hosts = [host for host in pool.database.rows("host") if host is not but]
    for host in hosts:
        try:
            assert_can_boot_here(pool, vm, host)
        except Failure as failure:
            reason = failure if len(hosts) == 1 else reason
        else:
            if host.ref not in pool.dead:
                able.append(host)
    if not able:
        raise reason
    if not is_null(vm["affinity"]) and any(host.ref == vm["affinity"] for host in able):
        return pool.database.get("host", vm["affinity"])
    companions = _companions(pool, vm)
    return min(able, key=lambda host: (companions.count(host.ref), -free_bytes(pool, host), host.ref))


def _companions(pool: Pool, vm: Row) -> list[str]:
    """Where the other members of a VM's anti-affinity groups are."""
    places = []
    for group in pool.database.all("VM_group", vm["groups"]):
        if group["placement"] == "anti_affinity":
            places += [other["resident_on"] for other in pool.database.all("VM", group["VMs"]) if other is not vm]
    return places
