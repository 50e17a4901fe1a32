"""From XenAPI's records to the facts of the interface. Pure.

Records come from other people's machines, so each field is taken with care: a number is digits in a string or a
number, a reference that points nowhere is left out, and a record without a uuid is no object. What the placement
should not know is left out here: control domains, templates, SRs that hold no disks (ISO libraries, removable media).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from scheduler.hypervisor import (
    AttachedDisk,
    DiskFacts,
    HostFacts,
    NetworkFacts,
    PoolInventory,
    PowerState,
    SrFacts,
    VmFacts,
)
from scheduler.xen import tags
from scheduler.xen.picture import Picture
from scheduler.xen.tags import Record

NULL = "OpaqueRef:NULL"
WHOLE = re.compile(r"-?[0-9]{1,19}")
DISKLESS_SR_TYPES = frozenset({"iso", "udev"})
_POWER = {
    "Halted": PowerState.HALTED,
    "Running": PowerState.RUNNING,
    "Paused": PowerState.PAUSED,
    "Suspended": PowerState.SUSPENDED,
}


def text(record: Record | None, name: str) -> str:
    """A field of text; empty if it is not there."""
    value = record.get(name) if record is not None else None
    return value if isinstance(value, str) else ""


def number(record: Record | None, name: str) -> int:
    """A whole number; 0 if it is not there. SRs that do not know a size say -1, which is 0 as well."""
    value = record.get(name) if record is not None else None
    if isinstance(value, str):
        value = int(value) if WHOLE.fullmatch(value) else 0
    return max(value, 0) if isinstance(value, int) and not isinstance(value, bool) else 0


def refs(record: Record | None, name: str) -> list[str]:
    """A set of references."""
    value = record.get(name) if record is not None else None
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def mapping(record: Record | None, name: str) -> dict[str, str]:
    """A map from text to text."""
    value = record.get(name) if record is not None else None
    return {str(key): str(item) for key, item in value.items()} if isinstance(value, Mapping) else {}


def uuid_of(picture: Picture, name: str, ref: str) -> str:
    """The uuid of a reference; empty if that is null or points nowhere."""
    return text(picture.record(name, ref), "uuid")


def pool_uuid(picture: Picture) -> str:
    """The pool's own."""
    return text(next(iter(picture.table("pool").values()), {}), "uuid")


def is_arriving(picture: Picture, vm: Record) -> bool:
    """Whether a VM is on its way from another pool, and so not yet what its tags say. See `arrivals`."""
    passport = mapping(vm, "other_config").get(tags.PASSPORT, "")
    return bool(passport) and passport.partition(" ")[0] != pool_uuid(picture)


def is_server(vm: Record) -> bool:
    """Whether a VM record is a VM that takes up room: no template, no control domain, no snapshot."""
    return not vm.get("is_a_template") and not vm.get("is_control_domain") and not tags.is_snapshot(vm)


def is_template(vm: Record, cluster: str) -> bool:
    """Whether it is a template that a server can be made from: not a clone of one that is becoming a server."""
    return vm.get("is_a_template") is True and not tags.is_snapshot(vm) and not tags.server_of(vm, cluster)


def is_reported(vm: Record, cluster: str) -> bool:
    """Whether a VM record is in the inventory: servers, whole or begun, of ours and of others; of snapshots only
    ours."""
    if tags.is_snapshot(vm):
        return bool(tags.snapshot_of_server(vm, cluster))
    return is_server(vm) or bool(tags.server_of(vm, cluster))


def attached_hosts(picture: Picture, sr: Record) -> list[str]:
    """References of the hosts that have an SR plugged."""
    pbds = (picture.record("PBD", ref) for ref in refs(sr, "PBDs"))
    return [text(pbd, "host") for pbd in pbds if pbd is not None and pbd.get("currently_attached") is True]


def vbds_of(picture: Picture, vm: Record) -> Iterator[tuple[str, Record]]:
    """The disk VBDs of a VM that hold a VDI, in order of their device numbers."""
    found = [(ref, vbd) for ref in refs(vm, "VBDs") if (vbd := picture.record("VBD", ref)) is not None]
    found.sort(key=lambda item: number(item[1], "userdevice"))
    for ref, vbd in found:
        if text(vbd, "type") == "Disk" and text(vbd, "VDI") not in ("", NULL):
            yield ref, vbd


def host_facts(picture: Picture, ref: str, host: Record, *, free_bytes: int, live: bool) -> HostFacts:
    """One host."""
    metrics = picture.record("host_metrics", text(host, "metrics"))
    cpu = mapping(host, "cpu_info").get("cpu_count", "0")
    masters = {text(pool, "master") for pool in picture.table("pool").values()}
    return HostFacts(
        uuid=text(host, "uuid"),
        name=text(host, "name_label"),
        address=text(host, "address"),
        memory_total_bytes=number(metrics, "memory_total"),
        memory_free_bytes=free_bytes,
        memory_overhead_bytes=number(host, "memory_overhead"),
        vcpu_count=int(cpu) if WHOLE.fullmatch(cpu) else len(refs(host, "host_CPUs")),
        enabled=host.get("enabled") is True,
        live=live,
        is_master=ref in masters,
        tags=frozenset(refs(host, "tags")),
    )


def sr_facts(picture: Picture, sr: Record) -> SrFacts:
    """One SR."""
    hosts = (uuid_of(picture, "host", ref) for ref in attached_hosts(picture, sr))
    return SrFacts(
        uuid=text(sr, "uuid"),
        name=text(sr, "name_label"),
        type=text(sr, "type"),
        shared=sr.get("shared") is True,
        size_bytes=number(sr, "physical_size"),
        used_bytes=number(sr, "physical_utilisation"),
        virtual_bytes=number(sr, "virtual_allocation"),
        hosts=frozenset(uuid for uuid in hosts if uuid),
        tags=frozenset(refs(sr, "tags")),
    )


def network_facts(picture: Picture, network: Record) -> NetworkFacts:
    """One network."""
    pifs = (picture.record("PIF", ref) for ref in refs(network, "PIFs"))
    hosts = (uuid_of(picture, "host", text(pif, "host")) for pif in pifs)
    return NetworkFacts(
        uuid=text(network, "uuid"),
        name=text(network, "name_label"),
        bridge=text(network, "bridge"),
        hosts=frozenset(uuid for uuid in hosts if uuid),
    )


def disk_facts(picture: Picture, vdi: Record, cluster: str) -> DiskFacts:
    """One VDI."""
    return DiskFacts(
        uuid=text(vdi, "uuid"),
        sr=uuid_of(picture, "SR", text(vdi, "SR")),
        name=text(vdi, "name_label"),
        size_bytes=number(vdi, "virtual_size"),
        disk_id=tags.disk_of(vdi, cluster),
        server_id=tags.owner_of(vdi, cluster),
        snapshot_of=tags.origin_of(vdi, cluster),
        unfinished=tags.is_unfinished(vdi, cluster),
    )


def attached_disk(picture: Picture, vbd: Record, cluster: str) -> AttachedDisk:
    """One disk VBD with a VDI."""
    vdi = picture.record("VDI", text(vbd, "VDI"))
    return AttachedDisk(
        disk=text(vdi, "uuid"),
        device=text(vbd, "device"),
        plugged=vbd.get("currently_attached") is True,
        disk_id=tags.disk_of(vdi, cluster) if vdi is not None else "",
    )


def vm_facts(picture: Picture, vm: Record, cluster: str) -> VmFacts:
    """One VM or snapshot of one."""
    power = _POWER.get(text(vm, "power_state"), PowerState.HALTED)
    return VmFacts(
        uuid=text(vm, "uuid"),
        name=text(vm, "name_label"),
        power=power,
        host=uuid_of(picture, "host", text(vm, "resident_on"))
        if power in (PowerState.RUNNING, PowerState.PAUSED)
        else "",
        memory_bytes=number(vm, "memory_static_max"),
        vcpu_count=number(vm, "VCPUs_max"),
        server_id="" if is_arriving(picture, vm) else tags.server_of(vm, cluster),
        snapshot_id=tags.snapshot_of_server(vm, cluster),
        build=tags.build_of(vm, cluster),
        unfinished=tags.is_unfinished(vm, cluster),
        disks=tuple(attached_disk(picture, vbd, cluster) for _, vbd in vbds_of(picture, vm)),
    )


def inventory(picture: Picture, cluster: str, hosts: tuple[HostFacts, ...]) -> PoolInventory:
    """All that the pool holds, with the hosts as they were computed."""
    pool: Record = next(iter(picture.table("pool").values()), {})
    master = picture.record("host", text(pool, "master"))
    vms = picture.table("VM").values()
    srs = [sr for sr in picture.table("SR").values() if text(sr, "type") not in DISKLESS_SR_TYPES]
    return PoolInventory(
        pool=text(pool, "uuid"),
        name=text(pool, "name_label"),
        version=mapping(master, "software_version").get("product_version", ""),
        hosts=hosts,
        srs=tuple(sr_facts(picture, sr) for sr in srs),
        networks=tuple(network_facts(picture, network) for network in picture.table("network").values()),
        disks=tuple(
            disk_facts(picture, vdi, cluster)
            for vdi in picture.table("VDI").values()
            if text(picture.record("SR", text(vdi, "SR")), "type") not in DISKLESS_SR_TYPES
        ),
        vms=tuple(
            vm_facts(picture, vm, cluster) for vm in vms if is_server(vm) or tags.snapshot_of_server(vm, cluster)
        ),
        templates=tuple(sorted(text(vm, "name_label") for vm in vms if is_template(vm, cluster))),
    )
