"""The picture that the reconciler compares, taken; and differences mended.

Order matters in taking it: records and claims before the pools and again after them. What changed in between is at work, and
left alone: a picture of a house in which people walk about shows some of them twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

import structlog
import trio
from sqlalchemy import Connection, select

from scheduler.claims.claim import Batch, Claim, DiskShare, HostShare, Role
from scheduler.errors import SchedulerError
from scheduler.hypervisor import HypervisorError, PoolInventory
from scheduler.lifecycle.reconcile import LOST, Difference, Kind, Picture, Remedy, differences, vms_of_servers
from scheduler.lifecycle.requests import memory_claim_mib
from scheduler.lifecycle.server_actions import STATES
from scheduler.lifecycle.tools import Tools
from scheduler.placement.request import Membership, Policy
from scheduler.records import store, tables
from scheduler.records.types import (
    GroupRecord,
    ServerRecord,
    ServerState,
    SnapshotRecord,
    TaskState,
    VolumeRecord,
    VolumeState,
)

log = structlog.get_logger("scheduler.reconcile")

PAUSE_S: Final = 1.0
"""Between the two looks that a difference must be seen in."""
LOOK_TIMEOUT_S: Final = 60.0


async def take_picture(tools: Tools) -> Picture:
    """Everything as it is now."""
    before = await tools.database.transact(_read)
    claims_before = await tools.database.block(lambda: tuple(tools.claims.all()))
    found, silent = {}, set()
    for pool_id in list(tools.pools.links):
        try:
            with trio.fail_after(LOOK_TIMEOUT_S):
                found[pool_id] = await tools.pools.look(pool_id, fresh=True)
        except (HypervisorError, trio.TooSlowError):
            silent.add(pool_id)
    claims = await tools.database.block(lambda: tuple(tools.claims.all()))
    servers, volumes, busy, snapshots = await tools.database.transact(_read)
    changed = {
        *_changed(before[0], servers),
        *_changed(before[1], volumes),
        *(claim.owner for claim in set(claims).symmetric_difference(claims_before)),
    }
    inventories = [link.inventory for link in tools.pools.links.values() if link.inventory is not None]
    pool_ids = [pool_id for pool_id, link in tools.pools.links.items() if link.inventory is not None]
    return Picture(
        found,
        frozenset(silent),
        servers,
        volumes,
        claims,
        frozenset(busy | before[2] | changed),
        frozenset(snapshots | before[3]),
        {host.uuid: pool for pool, seen in zip(pool_ids, inventories, strict=True) for host in seen.hosts},
        {sr.uuid: pool for pool, seen in zip(pool_ids, inventories, strict=True) for sr in seen.srs},
    )


def _changed(before: Mapping[str, object], after: Mapping[str, object]) -> set[str]:
    return {key for key in {*before, *after} if before.get(key) != after.get(key)}


def _read(
    connection: Connection,
) -> tuple[dict[str, ServerRecord], dict[str, VolumeRecord], set[str], set[str]]:
    servers = {server.id: server for server in store.all_of(connection, ServerRecord)}
    volumes = {volume.id: volume for volume in store.all_of(connection, VolumeRecord)}
    query = select(tables.TASKS.c.subject, tables.TASKS.c.data).where(tables.TASKS.c.state == TaskState.OPEN.value)
    busy: set[str] = set()
    snapshots = {snapshot.id for snapshot in store.all_of(connection, SnapshotRecord)}
    for subject, data in connection.execute(query):
        busy |= {subject, str(data.get("server", ""))}
        snapshots |= {str(data.get("snapshot", "")), str(data.get("frozen", ""))}
    busy.discard("")
    return servers, volumes, busy, snapshots


async def compare(tools: Tools, *, pause_s: float = PAUSE_S) -> list[Difference]:
    """The differences that two looks, some time apart, have in common."""
    first = {difference.key for difference in differences(await take_picture(tools))}
    if not first:
        return []
    await trio.sleep(pause_s)
    return [difference for difference in differences(await take_picture(tools)) if difference.key in first]


async def mend(tools: Tools, found: Iterable[Difference]) -> list[tuple[Difference, str]]:
    """Mend what can be mended; each difference with what became of it: empty if it is mended, else why not."""
    results: list[tuple[Difference, str]] = []
    for difference in found:
        if difference.remedy is Remedy.LOOK:
            results.append((difference, "left for an operator to decide"))
            continue
        try:
            await _mend(tools, difference)
        except (HypervisorError, SchedulerError) as error:
            log.warning("a difference could not be mended", kind=difference.kind.value, reason=str(error))
            results.append((difference, str(error)))
        else:
            log.info("mended", kind=difference.kind.value, subject=difference.subject, remedy=difference.remedy.value)
            results.append((difference, ""))
    return results


async def _mend(tools: Tools, difference: Difference) -> None:
    remedy, subject = difference.remedy, difference.subject
    if remedy is Remedy.DESTROY_VM:
        await tools.pools.hypervisor(difference.pool).destroy_server(subject)
    elif remedy is Remedy.REMOVE_VM:
        await tools.pools.hypervisor(difference.pool).remove_vm(difference.uuid)
    elif remedy is Remedy.DELETE_DISK:
        await tools.pools.hypervisor(difference.pool).remove_disk(difference.uuid)
    elif remedy is Remedy.RELEASE_CLAIM:
        await _release(tools, subject)
    elif remedy is Remedy.MARK_LOST:
        await tools.database.transact(lambda c: _mark_lost(c, difference))
    elif remedy is Remedy.ADOPT_STATE:
        await _adopt(tools, difference)
    elif remedy is Remedy.CLAIM_THERE:
        await _claim_there(tools, difference)


async def _release(tools: Tools, owner: str) -> None:
    """All of it where there is no owner; the target alone where there is one that no task moves."""
    claims = await tools.database.block(lambda: tools.claims.of(owner))
    server = await tools.database.transact(lambda c: store.find(c, ServerRecord, owner))
    volume = await tools.database.transact(lambda c: store.find(c, VolumeRecord, owner))
    record = server or volume
    alive = record is not None and record.state not in (ServerState.ERROR, VolumeState.ERROR)
    if alive and any(claim.role is Role.TARGET for claim in claims):
        await tools.database.block(lambda: tools.claims.abort_move([owner]))
    elif not alive:
        await tools.database.block(lambda: tools.claims.release([owner]))


def _mark_lost(connection: Connection, difference: Difference) -> None:
    fault = LOST + difference.text
    if difference.kind is Kind.SERVER_WITHOUT_VM:
        store.change(connection, ServerRecord, difference.subject, state=ServerState.ERROR, fault=fault)
    else:
        store.change(connection, VolumeRecord, difference.subject, state=VolumeState.ERROR, fault=fault)


async def _adopt(tools: Tools, difference: Difference) -> None:
    """Record the power state, or what a volume is in, as the pool has it."""
    inventory = await tools.pools.look(difference.pool, fresh=True)

    def adopt(connection: Connection) -> None:
        if difference.kind is Kind.POWER:
            for vm in inventory.vms:
                if vm.server_id == difference.subject and not vm.snapshot_id and not vm.unfinished:
                    store.change(connection, ServerRecord, vm.server_id, state=STATES[vm.power], fault="")
            return
        places = {
            attached.disk_id: (vm.server_id, attached.device)
            for vm in inventory.vms
            if vm.server_id and not vm.snapshot_id
            for attached in vm.disks
        }
        server_id, device = places.get(difference.subject, ("", ""))
        state = VolumeState.IN_USE if server_id else VolumeState.AVAILABLE
        store.change(connection, VolumeRecord, difference.subject, server_id=server_id, device=device, state=state)

    await tools.database.transact(adopt)


async def _claim_there(tools: Tools, difference: Difference) -> None:
    """Claim for a server or volume what it really takes, in the place of what it claims now.

    A conflict (the place is full, or a group's policy is broken there) is reported and nothing is changed: what was claimed
    stays claimed, so that no third party is given it.
    """
    picture = await take_picture(tools)
    claims = await tools.database.block(lambda: tools.claims.of(difference.subject))
    held = next((claim for claim in claims if claim.role is Role.HELD), None)
    wanted = await _claim_of(tools, picture, difference.subject, held)
    if wanted is not None and held is not None:
        # A disk's claim grows before its record does: what is held says how large it is.
        sizes = {disk.disk_id: disk.size_bytes for disk in held.disks}
        disks = tuple(replace(disk, size_bytes=sizes.get(disk.disk_id, disk.size_bytes)) for disk in wanted.disks)
        wanted = replace(wanted, disks=disks)
    if wanted is None or wanted == held:
        return
    key = f"reconcile.{difference.subject}.{int(tools.now_s() * 1000)}.{tools.new_id()}"
    if held is None:
        await tools.database.block(lambda: tools.claims.commit(Batch(key, (wanted,))))
        await _note_place(tools, picture, wanted)
        return
    if any(claim.role is Role.TARGET for claim in claims):
        await tools.database.block(lambda: tools.claims.abort_move([difference.subject]))
    target = Claim(wanted.owner, wanted.project, wanted.host, wanted.disks, wanted.membership, Role.TARGET)
    await tools.database.block(lambda: tools.claims.commit(Batch(key, (target,))))
    await tools.database.block(lambda: tools.claims.finish_move([difference.subject]))
    await _note_place(tools, picture, wanted)


async def _claim_of(tools: Tools, picture: Picture, subject: str, held: Claim | None) -> Claim | None:
    lies = {disk.disk_id: disk for seen in picture.pools.values() for disk in seen.disks if disk.disk_id}
    volume = picture.volumes.get(subject)
    if volume is not None:
        if subject not in lies:
            return None
        disk = DiskShare(subject, lies[subject].sr, volume.size_bytes)
        return Claim(subject, volume.project, None, (disk,))
    server = picture.servers.get(subject)
    places = vms_of_servers(picture).get(subject, [])
    if server is None or len(places) != 1:
        return None
    _, inventory, vm = places[0]
    host = vm.host or _home(inventory, server, held)
    if not host:
        return None
    group = None
    if server.group_id:
        group = await tools.database.transact(lambda c: store.find(c, GroupRecord, server.group_id))
    member = None if group is None else Membership(group.id, Policy(group.policy), server.member_index)
    root = lies.get(server.disk_id)
    disks = () if root is None else (DiskShare(server.disk_id, root.sr, server.disk_bytes),)
    share = HostShare(host, memory_claim_mib(server.memory_mib, server.vcpus), server.vcpus)
    return Claim(server.id, server.project, share, disks, member)


def _home(inventory: PoolInventory, server: ServerRecord, held: Claim | None) -> str:
    """A host for a halted server: the one that it claims if that is in the pool, else the first that reaches its disk."""
    present = {host.uuid for host in inventory.hosts}
    if held is not None and held.host is not None and held.host.host_id in present:
        return held.host.host_id
    srs = {disk.disk_id: disk.sr for disk in inventory.disks}
    reach = next((sr.hosts for sr in inventory.srs if sr.uuid == srs.get(server.disk_id)), frozenset())
    return min(reach, default="")


async def _note_place(tools: Tools, picture: Picture, claim: Claim) -> None:
    def note(connection: Connection) -> None:
        if claim.host is not None:
            host = claim.host.host_id
            pool = picture.pool_of_host.get(host, "")
            store.change(connection, ServerRecord, claim.owner, host_id=host, pool_id=pool)
        elif claim.disks:
            sr = claim.disks[0].sr_id
            pool = picture.pool_of_sr.get(sr, "")
            store.change(connection, VolumeRecord, claim.owner, sr_id=sr, pool_id=pool)

    await tools.database.transact(note)
