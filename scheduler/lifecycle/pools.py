"""The pools as this controller reaches them: a connection each, what each holds, and both as placement wants them.

Problem: placement reasons about hosts and SRs with a place in the ring, claims about limits, the lifecycle about verbs on a
pool; and each pool can be away while the others work.

Idea: `Pools` holds one `PoolLink` a pool and looks at each now and then. What it sees becomes records (a host that appears
gets a device id, which it keeps for life), limits of claims, and an inventory for placement. The translation is pure
(`hosts_of`, `srs_of`). What is not ours in a pool takes room like everything else: VMs without our mark are reserved memory,
disks without it, and snapshots, are foreign bytes.

Invariants: a pool that does not answer closes its hosts to new claims and changes nothing else; a host or SR that is gone
from its pool keeps its record, closed, as long as a claim is on it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from ring.topology import Device
from scheduler.errors import RequestError
from scheduler.hypervisor import Gone, HostFacts, Hypervisor, HypervisorError, PoolInventory, SrFacts, Unreachable
from scheduler.placement.resources import VCPU_RATIO, Host, Sr
from scheduler.records.types import HostRecord, PoolRecord, SrRecord

MIB: Final = 1 << 20
UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
HOST_WEIGHT_MAX: Final = 1e9
VM_OVERHEAD_MIB: Final = 8
"""What Xen keeps for each VM beside its memory (shadow and tables), rounded up; counted for VMs that are not ours."""
SYSTEM_SR_TYPES: Final = frozenset({"iso", "udev"})
"""SRs of these types hold media, not disks."""
THIN_SR_TYPES: Final = frozenset({"ext", "nfs", "smb", "file", "linstor", "zfs", "xfs", "cephfs", "btrfs", "gfs2"})


@dataclass
class PoolLink:
    """One pool, as this controller sees it."""

    record: PoolRecord
    hypervisor: Hypervisor
    inventory: PoolInventory | None = None
    """As last seen; kept while the pool is away."""
    problem: str = "not reached yet"
    """Why it cannot be used now; empty while it can."""


@dataclass
class Pools:
    """All pools. `link` makes the connection of one."""

    link: Callable[[PoolRecord], Hypervisor]
    links: dict[str, PoolLink] = field(default_factory=dict)

    def hypervisor(self, pool_id: str) -> Hypervisor:
        """The connection to a pool. Gone where it was removed."""
        if pool_id not in self.links:
            raise Gone(f"pool {pool_id} is not there (any more)")
        return self.links[pool_id].hypervisor

    async def look(self, pool_id: str, *, fresh: bool = False) -> PoolInventory:
        """What the pool holds now. Raises Unreachable, Refused, Gone."""
        link = self.links.get(pool_id)
        if link is None:
            raise Gone(f"pool {pool_id} is not there (any more)")
        try:
            link.inventory = await link.hypervisor.inventory(fresh=fresh)
        except HypervisorError as error:
            link.problem = str(error)
            raise
        link.problem = ""
        return link.inventory

    def seen(self, pool_id: str) -> PoolInventory:
        """What the pool held when it was last looked at. Unreachable where it never was."""
        link = self.links.get(pool_id)
        if link is None:
            raise Gone(f"pool {pool_id} is not there (any more)")
        if link.inventory is None:
            raise Unreachable(f"pool {link.record.name}: {link.problem}")
        return link.inventory

    def pool_of_host(self, host_id: str) -> str:
        """The pool that a host was last seen in. Gone where no pool has it; Unreachable while a pool is yet to be seen."""
        for pool_id, link in self.links.items():
            if link.inventory is not None and any(host.uuid == host_id for host in link.inventory.hosts):
                return pool_id
        raise self._missing(f"host {host_id}")

    def pool_of_sr(self, sr_id: str) -> str:
        """The pool that an SR was last seen in. Gone, Unreachable as above."""
        for pool_id, link in self.links.items():
            if link.inventory is not None and any(sr.uuid == sr_id for sr in link.inventory.srs):
                return pool_id
        raise self._missing(f"SR {sr_id}")

    def srs_outside(self, pool_id: str) -> set[str]:
        """The SRs of all other pools, as last seen."""
        others = [link.inventory for key, link in self.links.items() if key != pool_id]
        return {sr.uuid for inventory in others if inventory is not None for sr in inventory.srs}

    def hosts_offering(self, template: str, network: str) -> frozenset[str]:
        """The hosts whose pool has a template and a network of these names, the network with a way out of that host if it
        has one anywhere; empty where nothing is named. RequestError if no pool that was seen has both.

        A template that is named by its uuid is looked for by whichever pool is chosen.
        """
        if not network and (not template or UUID.fullmatch(template)):
            return frozenset()
        found: set[str] = set()
        for link in self.links.values():
            if link.inventory is not None:
                found |= _offering(link.inventory, template, network)
        if not found and self.links and all(link.inventory is not None for link in self.links.values()):
            wanted = [f"{noun} {name!r}" for noun, name in (("template", template), ("network", network)) if name]
            raise RequestError(f"no pool has {' and '.join(wanted)}; `ringstead pool list --json` names what each has")
        return frozenset(found)

    def _missing(self, what: str) -> HypervisorError:
        unseen = [link for link in self.links.values() if link.inventory is None]
        if unseen:
            return Unreachable(f"{what} is in no pool seen so far; pool {unseen[0].record.name}: {unseen[0].problem}")
        return Gone(f"no pool has {what}")

    def zone_of_host(self, host_id: str) -> tuple[int, int]:
        """The zone of the pool that a host was last seen in. Gone, Unreachable."""
        record = self.links[self.pool_of_host(host_id)].record
        return (record.region, record.zone)

    def host(self, host_id: str) -> HostFacts:
        """A host as last seen. Gone."""
        inventory = self.seen(self.pool_of_host(host_id))
        return next(host for host in inventory.hosts if host.uuid == host_id)

    def sr(self, sr_id: str) -> SrFacts:
        """An SR as last seen. Gone."""
        inventory = self.seen(self.pool_of_sr(sr_id))
        return next(sr for sr in inventory.srs if sr.uuid == sr_id)


def _offering(inventory: PoolInventory, template: str, network: str) -> set[str]:
    """Those hosts of one pool."""
    if template and not UUID.fullmatch(template) and template not in inventory.templates:
        return set()
    hosts = {host.uuid for host in inventory.hosts}
    if not network:
        return hosts
    named = [each for each in inventory.networks if network in (each.name, each.uuid)]
    # A network without any interface lies within each host, and so does for all of them.
    return {host for each in named for host in (each.hosts or hosts)} & hosts


def device_of_host(record: HostRecord, pool: PoolRecord, facts: HostFacts | None) -> Device:
    """The host's place in the ring: weight is its memory in GiB, 0 while an operator empties it."""
    weight = 0.0 if facts is None or record.maintenance else max(1.0, round(facts.memory_total_bytes / (1 << 30), 2))
    return Device(record.device_id, pool.region, pool.zone, record.node, 443, record.id, weight, "host")


def device_of_sr(record: SrRecord, pool: PoolRecord, facts: SrFacts | None) -> Device:
    """The SR's place in the ring: weight is its size in GiB. A local one is at its host's node, a shared one at its own."""
    weight = 0.0 if facts is None else max(1.0, round(facts.size_bytes / (1 << 30), 2))
    return Device(record.device_id, pool.region, pool.zone, record.node, 0, record.id, weight, "sr")


def topology_devices(link: PoolLink, hosts: Mapping[str, HostRecord], srs: Mapping[str, SrRecord]) -> list[Device]:
    """The pool's hosts and SRs as lines of the topology: by what they are, whatever an operator does with them now."""
    if link.inventory is None:
        return []
    found = [
        device_of_host(replace(hosts[facts.uuid], maintenance=False), link.record, facts)
        for facts in link.inventory.hosts
        if facts.uuid in hosts
    ]
    return found + [
        device_of_sr(srs[facts.uuid], link.record, facts) for facts in link.inventory.srs if facts.uuid in srs
    ]


def hosts_of(link: PoolLink, records: Mapping[str, HostRecord], vcpu_ratio: float = VCPU_RATIO) -> list[Host]:
    """The pool's hosts for placement; one without a record is left out until it has one."""
    if link.inventory is None:
        return []
    foreign: dict[str, int] = {}
    foreign_vcpus: dict[str, int] = {}
    for vm in link.inventory.vms:
        if vm.host and not vm.server_id:
            foreign[vm.host] = foreign.get(vm.host, 0) + -(-vm.memory_bytes // MIB) + VM_OVERHEAD_MIB
            foreign_vcpus[vm.host] = foreign_vcpus.get(vm.host, 0) + vm.vcpu_count
    found = []
    for facts in link.inventory.hosts:
        record = records.get(facts.uuid)
        if record is None:
            continue
        overhead = -(-facts.memory_overhead_bytes // MIB)
        found.append(
            Host(
                host_id=facts.uuid,
                pool_id=link.record.id,
                device=device_of_host(record, link.record, facts),
                memory_mib=facts.memory_total_bytes // MIB,
                pcpus=facts.vcpu_count,
                name=facts.name,
                reserved_memory_mib=overhead + foreign.get(facts.uuid, 0),
                vcpu_ratio=record.vcpu_ratio or vcpu_ratio,
                reserved_vcpus=foreign_vcpus.get(facts.uuid, 0),
                traits=facts.tags,
                tags=facts.tags,
                enabled=record.enabled and facts.enabled,
                maintenance=record.maintenance,
                live=facts.live and not link.problem,
            )
        )
    return found


def srs_of(link: PoolLink, records: Mapping[str, SrRecord]) -> list[Sr]:
    """The pool's SRs for placement. Disks without our mark are foreign; so are snapshots, which no claim covers."""
    if link.inventory is None:
        return []
    foreign: dict[str, int] = {}
    for disk in link.inventory.disks:
        if not disk.disk_id or disk.snapshot_of:
            foreign[disk.sr] = foreign.get(disk.sr, 0) + disk.size_bytes
    found = []
    for facts in link.inventory.srs:
        record = records.get(facts.uuid)
        if record is None or facts.type in SYSTEM_SR_TYPES:
            continue
        reached = facts.hosts if facts.shared else frozenset(sorted(facts.hosts)[:1])
        found.append(
            Sr(
                sr_id=facts.uuid,
                pool_id=link.record.id,
                device=device_of_sr(record, link.record, facts),
                size_bytes=facts.size_bytes,
                host_ids=reached,
                name=facts.name,
                used_bytes=min(facts.used_bytes, facts.size_bytes),
                foreign_bytes=foreign.get(facts.uuid, 0),
                thin=facts.type in THIN_SR_TYPES,
                shared=facts.shared,
                volume_types=facts.tags,
                enabled=record.enabled and bool(facts.hosts) and not link.problem,
            )
        )
    return found


def next_device_id(taken: Iterable[int], first: int) -> int:
    """The lowest free id from `first` on."""
    used = set(taken)
    return next(number for number in range(first, first + len(used) + 1) if number not in used)
