"""The reconciler: what the records and claims say, held against what the pools really run.

Problem: VMs are started, moved and deleted with other tools, a controller that the kernel stopped for a minute finishes
a call that another one has repeated, disks are left by a power cut. Each of these is a difference between what we
believe and what is, and believing wrongly books a host twice or forgets a disk.

Idea: a pure comparison of one picture of everything (`Picture` -> `Difference`s). Each difference names what it is
about, what is the matter, and what would mend it: another pure value, that `mend` carries out. Nothing is mended that a
task is at work on, and nothing that was first seen this minute: a difference must be seen twice, some time apart,
before `--fix` touches it.

What is never touched: VMs and disks without this cluster's mark, pools that do not answer (absence of evidence), and a
running VM of a server that we know.

Invariant: after `--fix` on pools that answer, with nothing at work, every server has a claim where its VM is, every claim an
owner, and every VM and disk with our mark a record.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from scheduler.claims.claim import Claim, Role
from scheduler.hypervisor import DiskFacts, PoolInventory, PowerState, VmFacts
from scheduler.records.types import ServerRecord, ServerState, VolumeRecord, VolumeState


class Kind(Enum):
    """What can be the matter."""

    VM_WITHOUT_SERVER = "vm-without-server"
    SERVER_WITHOUT_VM = "server-without-vm"
    TWIN_VM = "twin-vm"
    """A second VM of one server."""
    MOVED = "moved"
    """The VM is on another host than is claimed, or a disk on another SR."""
    POWER = "power"
    """The record says active, the VM is halted; or the like."""
    CLAIM_WITHOUT_OWNER = "claim-without-owner"
    SERVER_WITHOUT_CLAIM = "server-without-claim"
    VOLUME_WITHOUT_CLAIM = "volume-without-claim"
    DISK_WITHOUT_VOLUME = "disk-without-volume"
    VOLUME_WITHOUT_DISK = "volume-without-disk"
    ATTACHMENT = "attachment"
    """The record and the pool disagree on what a volume is attached to."""
    UNFINISHED = "unfinished"
    """A VM or disk whose making was broken off, and nobody works on it."""


class Remedy(Enum):
    """What mends a difference."""

    DESTROY_VM = "destroy the VM with its disks"
    REMOVE_VM = "remove the leftover VM"
    DELETE_DISK = "delete the disk"
    RELEASE_CLAIM = "release the claim"
    CLAIM_THERE = "claim where it is"
    MARK_LOST = "mark it as lost"
    ADOPT_STATE = "record what the pool says"
    LOOK = "for an operator to decide"
    """Nothing is done by itself."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that does not fit.

    subject   id of the server, volume, claim's owner or disk
    pool      id of the pool that it is about, or empty
    text      a sentence for people
    """

    kind: Kind
    subject: str
    pool: str
    text: str
    remedy: Remedy
    uuid: str = ""
    """The pool's, of the VM or disk that the remedy is about."""

    @property
    def key(self) -> tuple[str, str, str]:
        """By which it is known again the next time."""
        return (self.kind.value, self.subject, self.pool)


@dataclass(frozen=True)
class Picture:
    """Everything at one moment.

    pools        inventory by pool id, of the pools that answer
    silent       ids of the pools that do not
    busy         ids of servers and volumes that an open task is about
    snapshots    ids of snapshots of servers and volumes, and of disks that a task made for a while
    pool_of_host, pool_of_sr   as last seen, silent pools included
    """

    pools: Mapping[str, PoolInventory]
    silent: frozenset[str]
    servers: Mapping[str, ServerRecord]
    volumes: Mapping[str, VolumeRecord]
    claims: tuple[Claim, ...]
    busy: frozenset[str]
    snapshots: frozenset[str]
    pool_of_host: Mapping[str, str]
    pool_of_sr: Mapping[str, str]


def differences(picture: Picture) -> list[Difference]:
    """All that does not fit, in a fixed order."""
    found = [
        *_vms(picture),
        *_servers(picture),
        *_volumes(picture),
        *_disks(picture),
        *_claims(picture),
    ]
    return sorted(found, key=lambda difference: difference.key)


def held_claims(claims: Iterable[Claim]) -> dict[str, Claim]:
    """What each owner holds, without what it moves to."""
    return {claim.owner: claim for claim in claims if claim.role is Role.HELD}


# ------------------------------------------------------------------------------------------------------------------- VMs


def _vms(picture: Picture) -> Iterable[Difference]:
    for pool_id, inventory in picture.pools.items():
        for vm in inventory.vms:
            if not vm.server_id or vm.server_id in picture.busy or vm.snapshot_id:
                continue
            server = picture.servers.get(vm.server_id)
            if server is None:
                text = f"VM {vm.name} ({vm.uuid}) has our mark, and there is no server {vm.server_id}"
                yield Difference(Kind.VM_WITHOUT_SERVER, vm.server_id, pool_id, text, Remedy.DESTROY_VM)
            elif vm.unfinished:
                text = f"the making of VM {vm.uuid} of server {server.name} was broken off, and nobody works on it"
                yield Difference(Kind.UNFINISHED, vm.server_id, pool_id, text, Remedy.REMOVE_VM, vm.uuid)
            elif server.state is ServerState.ERROR:
                text = f"server {server.name} failed, and its VM {vm.uuid} is there; delete the server, or look at it"
                yield Difference(Kind.VM_WITHOUT_SERVER, vm.server_id, pool_id, text, Remedy.LOOK)
    for server_id, places in vms_of_servers(picture).items():
        if len(places) > 1 and server_id in picture.servers and server_id not in picture.busy:
            yield _twins(picture.servers[server_id], places)


def _twins(server: ServerRecord, places: list[tuple[str, PoolInventory, VmFacts]]) -> Difference:
    """Of a halted VM beside another one the halted one goes; of two that run an operator must say which."""
    where = ", ".join(f"{vm.uuid} ({vm.power.value}) in {inventory.name}" for _, inventory, vm in places)
    text = f"server {server.name} has {len(places)} VMs: {where}"
    halted = [(pool_id, vm) for pool_id, _, vm in places if vm.power is PowerState.HALTED]
    if len(halted) == len(places):
        halted = [(pool_id, vm) for pool_id, vm in halted if pool_id != server.pool_id]
    if len(halted) == len(places) - 1 and halted:
        pool_id, vm = halted[0]
        return Difference(Kind.TWIN_VM, server.id, pool_id, text, Remedy.REMOVE_VM, vm.uuid)
    return Difference(Kind.TWIN_VM, server.id, places[0][0], text, Remedy.LOOK)


def vms_of_servers(picture: Picture) -> dict[str, list[tuple[str, PoolInventory, VmFacts]]]:
    """The whole VMs of each server, wherever they are."""
    found: dict[str, list[tuple[str, PoolInventory, VmFacts]]] = {}
    for pool_id, inventory in picture.pools.items():
        for vm in inventory.vms:
            if vm.server_id and not vm.snapshot_id and not vm.unfinished:
                found.setdefault(vm.server_id, []).append((pool_id, inventory, vm))
    return found


# --------------------------------------------------------------------------------------------------------------- servers

_POWER = {
    PowerState.RUNNING: ServerState.ACTIVE,
    PowerState.HALTED: ServerState.STOPPED,
    PowerState.PAUSED: ServerState.PAUSED,
    PowerState.SUSPENDED: ServerState.SUSPENDED,
}


def _servers(picture: Picture) -> Iterable[Difference]:
    vms, held = vms_of_servers(picture), held_claims(picture.claims)
    for server in picture.servers.values():
        if server.id in picture.busy or server.state in (ServerState.ERROR, ServerState.BUILDING):
            continue
        places = vms.get(server.id, [])
        claim = held.get(server.id)
        if not places:
            if server.pool_id not in picture.silent and not picture.silent:
                text = f"server {server.name} is {server.state.value}, and no pool has its VM"
                yield Difference(Kind.SERVER_WITHOUT_VM, server.id, server.pool_id, text, Remedy.MARK_LOST)
            continue
        pool_id, inventory, vm = places[0]
        if len(places) > 1:
            continue
        if claim is None:
            text = f"server {server.name} runs on {vm.host or 'no host'} in {inventory.name} and holds no claim"
            yield Difference(Kind.SERVER_WITHOUT_CLAIM, server.id, pool_id, text, Remedy.CLAIM_THERE)
            continue
        if (moved := _moved(server, claim, inventory, vm)) is not None:
            yield Difference(Kind.MOVED, server.id, pool_id, moved, Remedy.CLAIM_THERE)
        elif _is_on_dead_host(inventory, vm):
            text = f"server {server.name} is on host {vm.host}, which does not answer; evacuate it"
            yield Difference(Kind.POWER, server.id, pool_id, text, Remedy.LOOK)
        elif _POWER[vm.power] is not server.state:
            text = f"server {server.name} is recorded as {server.state.value} and is {_POWER[vm.power].value}"
            yield Difference(Kind.POWER, server.id, pool_id, text, Remedy.ADOPT_STATE)


def _moved(server: ServerRecord, claim: Claim, inventory: PoolInventory, vm: VmFacts) -> str | None:
    """A sentence if the VM is elsewhere than it claims."""
    assert claim.host is not None
    if vm.host and vm.host != claim.host.host_id:
        return f"server {server.name} runs on {vm.host} in {inventory.name} and claims {claim.host.host_id}"
    if not vm.host and all(host.uuid != claim.host.host_id for host in inventory.hosts):
        return f"server {server.name} is in pool {inventory.name}, and its claim is on a host of another one"
    lies = {disk.disk_id: disk.sr for disk in inventory.disks if disk.disk_id}
    for share in claim.disks:
        if share.disk_id in lies and lies[share.disk_id] != share.sr_id:
            return f"disk {share.disk_id} of server {server.name} lies on {lies[share.disk_id]}, not on {share.sr_id}"
    return None


def _is_on_dead_host(inventory: PoolInventory, vm: VmFacts) -> bool:
    return any(host.uuid == vm.host and not host.live for host in inventory.hosts)


# --------------------------------------------------------------------------------------------------------------- volumes


def _volumes(picture: Picture) -> Iterable[Difference]:
    held = held_claims(picture.claims)
    disks = {
        disk.disk_id: (pool_id, disk)
        for pool_id, inventory in picture.pools.items()
        for disk in inventory.disks
        if disk.disk_id and not disk.server_id
    }
    attached = {
        entry.disk_id: vm
        for inventory in picture.pools.values()
        for vm in inventory.vms
        for entry in vm.disks
        if vm.server_id and not vm.snapshot_id and entry.disk_id
    }
    for volume in picture.volumes.values():
        if volume.id in picture.busy or volume.server_id in picture.busy:
            continue
        if volume.state in (VolumeState.ERROR, VolumeState.CREATING):
            continue
        if volume.id not in disks:
            if not picture.silent:
                text = f"volume {volume.name} is {volume.state.value}, and no pool has its disk"
                yield Difference(Kind.VOLUME_WITHOUT_DISK, volume.id, volume.pool_id, text, Remedy.MARK_LOST)
            continue
        pool_id, disk = disks[volume.id]
        claim = held.get(volume.id)
        if claim is None or all(share.sr_id != disk.sr for share in claim.disks):
            kind = Kind.VOLUME_WITHOUT_CLAIM if claim is None else Kind.MOVED
            text = f"volume {volume.name} lies on {disk.sr} and claims {_srs(claim)}"
            yield Difference(kind, volume.id, pool_id, text, Remedy.CLAIM_THERE)
        elif (vm := attached.get(volume.id)) is not None and vm.server_id != volume.server_id:
            text = f"volume {volume.name} is recorded in {volume.server_id or 'no server'} and is in {vm.server_id}"
            yield Difference(Kind.ATTACHMENT, volume.id, pool_id, text, Remedy.ADOPT_STATE)
        elif vm is None and volume.server_id:
            text = f"volume {volume.name} is recorded in {volume.server_id} and is in no server"
            yield Difference(Kind.ATTACHMENT, volume.id, pool_id, text, Remedy.ADOPT_STATE)


def _srs(claim: Claim | None) -> str:
    return "nothing" if claim is None else ", ".join(share.sr_id for share in claim.disks) or "nothing"


# ------------------------------------------------------------------------------------------------------- disks and claims


def _disks(picture: Picture) -> Iterable[Difference]:
    known = {server.disk_id for server in picture.servers.values()} | set(picture.volumes) | picture.snapshots
    for pool_id, inventory in picture.pools.items():
        in_vms = {attached.disk for vm in inventory.vms for attached in vm.disks}
        for disk in inventory.disks:
            if not disk.disk_id or disk.uuid in in_vms or _is_busy(picture, disk):
                continue
            if disk.disk_id not in known:
                text = f"disk {disk.name} ({disk.uuid}) has our mark, and nothing knows {disk.disk_id}"
                yield Difference(Kind.DISK_WITHOUT_VOLUME, disk.disk_id, pool_id, text, Remedy.DELETE_DISK, disk.uuid)
            elif disk.unfinished:
                text = f"the making of disk {disk.uuid} was broken off, and nobody works on it"
                yield Difference(Kind.UNFINISHED, disk.disk_id, pool_id, text, Remedy.DELETE_DISK, disk.uuid)


def _is_busy(picture: Picture, disk: DiskFacts) -> bool:
    return bool({disk.disk_id, disk.server_id, disk.snapshot_of} & picture.busy)


def _claims(picture: Picture) -> Iterable[Difference]:
    for claim in picture.claims:
        if claim.owner in picture.busy:
            continue
        owner: ServerRecord | VolumeRecord | None = picture.servers.get(claim.owner) or picture.volumes.get(claim.owner)
        pool = ""
        if claim.host is not None:
            pool = picture.pool_of_host.get(claim.host.host_id, "")
        elif claim.disks:
            pool = picture.pool_of_sr.get(claim.disks[0].sr_id, "")
        failed = owner is not None and owner.state in (ServerState.ERROR, VolumeState.ERROR)
        if pool in picture.silent:
            continue
        if owner is None:
            text = f"{claim.owner} holds a claim and is no server or volume"
            yield Difference(Kind.CLAIM_WITHOUT_OWNER, claim.owner, pool, text, Remedy.RELEASE_CLAIM)
        elif failed and not owner_lost(owner):
            text = f"{owner.name} failed and holds a claim"
            yield Difference(Kind.CLAIM_WITHOUT_OWNER, claim.owner, pool, text, Remedy.RELEASE_CLAIM)
        elif claim.role is Role.TARGET:
            text = f"{owner.name} holds the target of a move that nobody works on"
            yield Difference(Kind.CLAIM_WITHOUT_OWNER, claim.owner, pool, text, Remedy.RELEASE_CLAIM)


LOST = "lost: "
"""How the fault of a server or volume begins that the reconciler marked as lost; its claim is kept until it is deleted."""


def owner_lost(owner: ServerRecord | VolumeRecord) -> bool:
    """Whether it was marked as lost, rather than never built."""
    return owner.fault.startswith(LOST)
