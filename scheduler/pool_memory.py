"""What a pool in memory holds, whoever is connected to it; and what it means that a VM arrives.

Tests change it at will: they add hosts, kill them, put there what others would have. `scheduler.hypervisor_memory` is the
connection to it.

Invariants: a host never has more memory in running VMs than it has, an SR never more bytes of disks than its size; what
would break that is refused and counted in `overruns`, which a correct scheduler keeps at nought as long as nobody else
uses the pool.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from scheduler.hypervisor import (
    DiskFacts,
    HostFacts,
    Migration,
    NetworkFacts,
    NextHost,
    NextSr,
    PoolInventory,
    PowerState,
    SrFacts,
    VmFacts,
    WrongState,
)


@dataclass
class MemoryPool:
    """What the pool holds, whoever is connected to it. Tests change it at will."""

    uuid: str
    hosts: dict[str, HostFacts] = field(default_factory=dict)
    srs: dict[str, SrFacts] = field(default_factory=dict)
    networks: dict[str, NetworkFacts] = field(default_factory=dict)
    disks: dict[str, DiskFacts] = field(default_factory=dict)
    vms: dict[str, VmFacts] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    """Of disks whose content matters to a test, by uuid."""
    templates: tuple[str, ...] = ("Other install media",)
    reachable: bool = True
    overruns: int = 0
    migrating: int = 0
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def new_uuid(self, kind: str) -> str:
        """A uuid that nothing here had before."""
        return f"{self.uuid}-{kind}{next(self.numbers)}"

    def add_host(self, uuid: str, memory_bytes: int, vcpu_count: int, *, tags: frozenset[str] = frozenset()) -> None:
        """An enabled, live host."""
        self.hosts[uuid] = HostFacts(
            uuid, uuid, uuid, memory_bytes, memory_bytes, 0, vcpu_count, True, True, not self.hosts, tags
        )

    def add_sr(self, uuid: str, size_bytes: int, hosts: frozenset[str], *, shared: bool) -> None:
        """An SR that these hosts reach."""
        self.srs[uuid] = SrFacts(uuid, uuid, "nfs" if shared else "ext", shared, size_bytes, 0, 0, hosts)

    def kill_host(self, uuid: str) -> None:
        """It stops. Its VMs count as running on it until it is declared dead, and its local SRs are out of reach."""
        self.hosts[uuid] = replace(self.hosts[uuid], live=False)
        for sr in self.srs.values():
            self.srs[sr.uuid] = replace(sr, hosts=sr.hosts - {uuid})

    def memory_used(self, host: str) -> int:
        """By VMs that run or are paused there."""
        return sum(vm.memory_bytes for vm in self.vms.values() if vm.host == host)

    def sr_used(self, sr: str) -> int:
        """By all disks, as if thick."""
        return sum(disk.size_bytes for disk in self.disks.values() if disk.sr == sr)

    def disk_of(self, disk_id: str) -> DiskFacts | None:
        """The disk of that id."""
        return next((disk for disk in self.disks.values() if disk.disk_id == disk_id), None)

    def holders(self, disk_uuid: str) -> list[VmFacts]:
        """VMs (not snapshots) that the disk is attached to."""
        return [vm for vm in self.vms.values() if not vm.snapshot_id and any(d.disk == disk_uuid for d in vm.disks)]

    def inventory(self) -> PoolInventory:
        """All of it."""
        hosts = tuple(
            replace(h, memory_free_bytes=h.memory_total_bytes - self.memory_used(h.uuid)) for h in self.hosts.values()
        )
        srs = tuple(
            replace(s, used_bytes=self.sr_used(s.uuid), virtual_bytes=self.sr_used(s.uuid)) for s in self.srs.values()
        )
        return PoolInventory(
            self.uuid,
            self.uuid,
            "in memory",
            hosts,
            srs,
            tuple(self.networks.values()),
            tuple(self.disks.values()),
            tuple(self.vms.values()),
            self.templates,
        )


def check_arrival(
    source: MemoryPool, target: MemoryPool, vm: VmFacts, migration: Migration, moving: dict[str, str]
) -> None:
    """Whether the VM can arrive. Raises NextHost, NextSr, WrongState."""
    facts = target.hosts.get(migration.host)
    if facts is None or not facts.live or not facts.enabled:
        raise NextHost(f"host {migration.host} takes no servers", "HOST_DISABLED")
    if vm.host and not source.hosts[vm.host].live:
        raise WrongState(f"host {vm.host} is dead: nothing can leave it")
    runs = vm.power in (PowerState.RUNNING, PowerState.PAUSED)
    needed = vm.memory_bytes if runs and vm.host != migration.host else 0
    if target.memory_used(migration.host) + needed > facts.memory_total_bytes:
        target.overruns += 1
        raise NextHost(f"host {migration.host} has too little memory", "HOST_NOT_ENOUGH_FREE_MEMORY")
    for attached in vm.disks:
        disk = source.disks[attached.disk]
        sr = moving.get(attached.disk, disk.sr)
        if sr not in target.srs or migration.host not in target.srs[sr].hosts:
            raise NextSr(f"host {migration.host} does not reach SR {sr}", "VDI_NOT_IN_MAP")
        if sr != disk.sr and target.sr_used(sr) + disk.size_bytes > target.srs[sr].size_bytes:
            target.overruns += 1
            raise NextSr(f"SR {sr} is full", "SR_FULL")


def move_vm(source: MemoryPool, target: MemoryPool, vm: VmFacts, migration: Migration, moving: dict[str, str]) -> None:
    """The switch-over, in one instant."""
    runs = vm.power in (PowerState.RUNNING, PowerState.PAUSED)
    kept = []
    for attached in vm.disks:
        disk = source.disks[attached.disk]
        if attached.disk in moving:
            content = source.contents.pop(disk.uuid, None)
            del source.disks[disk.uuid]
            disk = replace(disk, uuid=target.new_uuid("disk"), sr=moving[attached.disk])
            target.disks[disk.uuid] = disk
            if content is not None:
                target.contents[disk.uuid] = content
        kept.append(replace(attached, disk=disk.uuid))
    del source.vms[vm.uuid]
    uuid = vm.uuid if target is source else target.new_uuid("vm")
    target.vms[uuid] = replace(vm, uuid=uuid, host=migration.host if runs else "", disks=tuple(kept))
