"""What a new pool consists of: hosts with local storage, shared storage, networks, templates.

Sizes are those of small servers. Everything that a client could ask of a pool that was just installed is there: a control
domain on each host, a management network, an SR on each host's own disk and one that all share, ISOs, templates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from scheduler.xen.simulator import memory, storage
from scheduler.xen.simulator.database import Row
from scheduler.xen.simulator.pool import Pool

GIB: Final = 1 << 30
MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class HostPlan:
    """How a host is equipped."""

    memory_bytes: int = 64 * GIB
    cpus: int = 16
    local_bytes: int = 512 * GIB
    local_type: str = "ext"
    """Type of the SR on its own disk: `ext` is thin, `lvm` thick."""


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """What a pool is made of."""

    name: str
    addresses: tuple[str, ...]
    """Of each host, the master first."""
    host: HostPlan = HostPlan()
    shared_bytes: int = 2048 * GIB
    """Of the SR that all hosts share; 0 leaves it out."""
    first_slot: int = 0
    """Number of its master among the hosts of all pools, by which a host finds its address again."""


@dataclass(frozen=True, slots=True)
class TemplatePlan:
    """A template as pools bring them."""

    name: str
    memory_bytes: int
    disk_bytes: int


TEMPLATES: Final = (
    TemplatePlan("Other install media", 256 * MIB, 0),
    TemplatePlan("Alpine Linux 3", 256 * MIB, 2 * GIB),
    TemplatePlan("Debian Bookworm 12", 1 * GIB, 10 * GIB),
    TemplatePlan("Ubuntu Noble Numbat 24.04", 2 * GIB, 10 * GIB),
    TemplatePlan("Rocky Linux 9", 2 * GIB, 10 * GIB),
    TemplatePlan("Windows Server 2022 (64-bit)", 4 * GIB, 32 * GIB),
)
SLOT: Final = "sim:slot"
"""The `other_config` key of a host that says where it is served."""
DOM0_BYTES: Final = 2 * GIB
XEN_BYTES: Final = 512 * MIB


def build(pool: Pool, plan: PoolPlan) -> None:
    """Fill an empty pool."""
    database = pool.database
    row = database.add("pool", name_label=plan.name, master="", tls_verification_enabled=True)
    networks = [
        database.add("network", name_label="Pool-wide network associated with eth0", bridge="xenbr0", MTU=1500),
        database.add(
            "network",
            name_label="Host internal management network",
            bridge="xenapi",
            other_config={"is_host_internal_management_network": "true"},
        ),
    ]
    hosts = [_host(pool, plan, index, networks[0]) for index in range(len(plan.addresses))]
    database.set(row, master=hosts[0].ref)
    for host in hosts:
        local = _sr(pool, f"Local storage on {host['name_label']}", plan.host.local_type, plan.host.local_bytes, [host])
        database.set(host, suspend_image_sr=local.ref, crash_dump_sr=local.ref)
    _managers(pool)
    default = _first_sr(pool)
    if plan.shared_bytes:
        default = _sr(pool, "Shared storage", "nfs", plan.shared_bytes, hosts, shared=True)
    database.set(row, default_SR=default.ref, suspend_image_SR=default.ref, crash_dump_SR=default.ref)
    isos = _sr(pool, "ISO library", "iso", 64 * GIB, hosts, shared=True)
    tools = storage.make_vdi(pool, isos, 2 * MIB, name_label="guest-tools.iso", read_only=True, sharable=True)
    database.set(tools, is_tools_iso=True, location="guest-tools.iso")
    for template in TEMPLATES:
        _template(pool, template)


def _first_sr(pool: Pool) -> Row:
    return pool.database.rows("SR")[0]


def _host(pool: Pool, plan: PoolPlan, index: int, network: Row) -> Row:
    database = pool.database
    name = f"{plan.name}-h{index + 1}"
    metrics = database.add("host_metrics", memory_total=plan.host.memory_bytes, live=True, last_updated=pool.now())
    model = "Simulated CPU @ 2.40GHz"
    host = database.add(
        "host",
        name_label=name,
        hostname=name,
        address=plan.addresses[index],
        enabled=True,
        other_config={SLOT: str(plan.first_slot + index)},
        metrics=metrics.ref,
        memory_overhead=XEN_BYTES,
        API_version_major=2,
        API_version_minor=21,
        API_version_vendor="Ringstead",
        software_version={"product_brand": "XCP-ng", "product_version": "8.3.0", "xapi": "24.19", "xen": "4.17.5"},
        cpu_info={
            "cpu_count": str(plan.host.cpus),
            "socket_count": "2",
            "vendor": "GenuineIntel",
            "speed": "2400",
            "modelname": model,
        },
        cpu_configuration={},
        capabilities=("xen-3.0-x86_64", "hvm-3.0-x86_64"),
        edition="xcp-ng",
        sched_policy="credit",
        virtual_hardware_platform_versions=(0, 1, 2),
    )
    for number in range(plan.host.cpus):
        database.add("host_cpu", host=host.ref, number=number, vendor="GenuineIntel", speed=2400, modelname=model)
    octets = [pool.random.randrange(256) for _ in range(5)]
    mac = ":".join(f"{octet:02x}" for octet in (0x02, *octets))
    address = plan.addresses[index].partition(":")[0]
    database.add(
        "PIF", host=host.ref, network=network.ref, device="eth0", MAC=mac, MTU=1500, VLAN=-1, physical=True,
        management=True, IP=address, netmask="255.0.0.0", ip_configuration_mode="Static", currently_attached=True,
    )  # fmt: skip
    _control_domain(pool, host, name)
    return host


def _control_domain(pool: Pool, host: Row, name: str) -> None:
    metrics = pool.database.add("VM_metrics", memory_actual=DOM0_BYTES, VCPUs_number=4)
    domain = pool.database.add(
        "VM",
        name_label=f"Control domain on host: {name}",
        is_control_domain=True,
        power_state="Running",
        resident_on=host.ref,
        affinity=host.ref,
        memory_static_max=DOM0_BYTES,
        memory_dynamic_max=DOM0_BYTES,
        memory_dynamic_min=DOM0_BYTES,
        memory_static_min=DOM0_BYTES,
        memory_target=DOM0_BYTES,
        memory_overhead=MIB,
        VCPUs_max=4,
        VCPUs_at_startup=4,
        domid=0,
        metrics=metrics.ref,
    )
    pool.database.set(host, control_domain=domain.ref)


def _sr(pool: Pool, name: str, kind: str, size_bytes: int, hosts: list[Row], *, shared: bool = False) -> Row:
    sr = pool.database.add(
        "SR",
        name_label=name,
        type=kind,
        content_type="iso" if kind == "iso" else "user",
        shared=shared,
        physical_size=size_bytes,
    )
    for host in hosts:
        pool.database.add("PBD", host=host.ref, SR=sr.ref, currently_attached=True, device_config={"location": name})
    return sr


def _managers(pool: Pool) -> None:
    features = ("VDI_CREATE", "VDI_DELETE", "VDI_ATTACH", "VDI_DETACH", "VDI_CLONE", "VDI_SNAPSHOT", "VDI_RESIZE")
    for kind, name in (("ext", "Local EXT3 VHD"), ("lvm", "Local VHD on LVM"), ("nfs", "NFS VHD"), ("iso", "ISO")):
        pool.database.add(
            "SM",
            type=kind,
            name_label=name,
            vendor="Ringstead",
            version="1.0",
            required_api_version="1.0",
            features=dict.fromkeys(features, 1),
            supported_image_formats=("raw", "vhd") if kind != "iso" else ("raw",),
        )


def _template(pool: Pool, plan: TemplatePlan) -> None:
    other_config = {"install-methods": "cdrom,http"}
    if plan.disk_bytes:
        disk = f'<disk device="0" size="{plan.disk_bytes}" sr="" bootable="true" type="system"/>'
        other_config["disks"] = f"<provision>{disk}</provision>"
    metrics = pool.database.add("VM_metrics")
    vm = pool.database.add(
        "VM",
        name_label=plan.name,
        is_a_template=True,
        is_default_template=True,
        power_state="Halted",
        domid=-1,
        memory_static_min=plan.memory_bytes // 2,
        memory_dynamic_min=plan.memory_bytes,
        memory_dynamic_max=plan.memory_bytes,
        memory_static_max=plan.memory_bytes,
        VCPUs_max=1,
        VCPUs_at_startup=1,
        HVM_boot_policy="BIOS order",
        HVM_boot_params={"order": "cdn", "firmware": "bios"},
        domain_type="hvm",
        actions_after_reboot="restart",
        actions_after_crash="restart",
        platform={"viridian": "false", "nx": "true", "pae": "true", "apic": "true", "acpi": "1"},
        other_config=other_config,
        metrics=metrics.ref,
    )
    pool.database.set(vm, memory_overhead=memory.overhead_bytes(vm))
