"""Actions that move a server: with its memory, with its disks, between pools, or away from a host that is dead.

Problem: during a move a server could be in either of two places, and a controller that comes upon the task later must not
guess. Releasing the target while the server runs there, or the source while it still does, books a host twice.

Idea: for as long as the move lasts both are claimed (`Role.TARGET` beside `Role.HELD`). Whichever way it ends, the pools are
asked where the server is before one of the two is let go.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from sqlalchemy import Connection

from scheduler.claims.claim import Role
from scheduler.hypervisor import (
    Gone,
    HypervisorError,
    Migration,
    PoolInventory,
    PowerAction,
    PowerState,
    Refused,
    VmFacts,
)
from scheduler.lifecycle.machine import Event
from scheduler.lifecycle.requests import move_request_of, parse_zone
from scheduler.lifecycle.server_actions import STATES, read_server
from scheduler.lifecycle.tools import Job, Outcome
from scheduler.records import store
from scheduler.records.types import ServerRecord, ServerState, SnapshotRecord, VolumeRecord

ARRIVAL_LOOKS: Final = 5
"""How often the new pool is looked at, ever more slowly, before a move is over without the server having been seen there."""


async def claim_target(job: Job) -> Outcome:
    """Choose where it goes and claim that, too, unless that was done already."""
    server, volumes, group = await read_server(job)
    held, target = await job.holds(server.id)
    if held is None or held.host is None:
        raise Refused(f"server {server.name} has no claim to move; `ringstead reconcile` says why")
    if target is None:
        data = job.task.data
        lying = {}
        for volume in volumes:
            holds, _ = await job.holds(volume.id)
            if holds is not None:
                there = holds.disks[0]
                lying[volume.id] = (replace(volume, size_bytes=there.size_bytes), there.sr_id)
        request = move_request_of(
            server,
            held,
            lying,
            group,
            to_hosts=data.get("to_hosts") or await _bound_to(job, server),
            to_zone=parse_zone(str(data.get("to_zone", ""))),
            excluded=data.get("excluded", ()),
            copy_disks=bool(data.get("copy_disks", True)),
            here=job.tools.pools.zone_of_host(held.host.host_id),
            any_zone=bool(data.get("any_zone")),
        )
        await job.tools.database.block(
            lambda: job.tools.chooser.book(request, job.claim_key, Role.TARGET, guard=job.fenced)
        )
        _, target = await job.holds(server.id)
    if target is None or target.host is None:
        return Outcome(Event.AGAIN, "the claim was released by somebody else")
    pools = job.tools.pools
    return Outcome(
        data={
            "host": target.host.host_id,
            "pool": pools.pool_of_host(target.host.host_id),
            "from": held.host.host_id,
            "from_pool": pools.pool_of_host(held.host.host_id),
        }
    )


async def _bound_to(job: Job, server: ServerRecord) -> list[str]:
    """The hosts of its pool, for a server that cannot leave that: its snapshots are there. Else none in particular."""
    snapshots = await job.tools.database.transact(lambda c: store.count_of(c, SnapshotRecord, server_id=server.id))
    if not snapshots:
        return []
    return [host.uuid for host in job.tools.pools.seen(server.pool_id).hosts]


async def move_server(job: Job) -> Outcome:
    """Move it, with the disks whose SR changes."""
    server, volumes, _ = await read_server(job)
    data = job.task.data
    place = await locate(job, server.id)
    if place is None:
        raise Gone(f"server {server.name} is in none of the pools of its move")
    pool_id, inventory, vm = place
    moving = await disks_to_move(job, server, volumes, inventory, vm)
    if pool_id == data["pool"] and not moving and vm.host in ("", data["host"]):
        return Outcome(data={"power": vm.power.value})
    ticket = None
    networks: dict[str, str] = {}
    if moving or pool_id != data["pool"]:
        ticket = await job.tools.pools.hypervisor(str(data["pool"])).prepare_receive(str(data["host"]))
    if pool_id != data["pool"]:
        networks = networks_between(inventory, job.tools.pools.seen(str(data["pool"])))
    migration = Migration(str(data["host"]), moving, networks, ticket)
    await job.tools.pools.hypervisor(pool_id).migrate(server.id, migration, job.progress)
    return Outcome(data={"power": vm.power.value})


async def locate(job: Job, server_id: str) -> tuple[str, PoolInventory, VmFacts] | None:
    """The pool that the server is in now, of the two of its move; the target is asked first."""
    data = job.task.data
    for pool_id in dict.fromkeys((str(data["pool"]), str(data["from_pool"]))):
        inventory = await job.tools.pools.look(pool_id, fresh=True)
        for vm in inventory.vms:
            if vm.server_id == server_id and not vm.snapshot_id and not vm.unfinished:
                return pool_id, inventory, vm
    return None


async def disks_to_move(
    job: Job, server: ServerRecord, volumes: list[VolumeRecord], inventory: PoolInventory, vm: VmFacts
) -> dict[str, str]:
    """Disk id -> SR of each disk that does not lie where the targets' claims have it."""
    wanted: dict[str, str] = {}
    for owner in (server.id, *(volume.id for volume in volumes)):
        held, target = await job.holds(owner)
        claim = target or held
        for share in claim.disks if claim is not None else ():
            wanted[share.disk_id] = share.sr_id
    lies = {disk.disk_id: disk.sr for disk in inventory.disks}
    return {
        attached.disk_id: wanted[attached.disk_id]
        for attached in vm.disks
        if attached.disk_id in wanted and lies.get(attached.disk_id) != wanted[attached.disk_id]
    }


def networks_between(source: PoolInventory, target: PoolInventory) -> dict[str, str]:
    """For each network over here the one over there: of the same name, of the same bridge, or the first with hosts on."""
    names = {network.name: network.uuid for network in target.networks}
    bridges = {network.bridge: network.uuid for network in target.networks}
    first = min(target.networks, key=lambda network: (not network.hosts, network.bridge), default=None)
    found: dict[str, str] = {}
    for network in source.networks:
        there = names.get(network.name) or bridges.get(network.bridge) or (first.uuid if first is not None else "")
        if there:
            found[network.uuid] = there
    return found


async def settle_move(job: Job) -> Outcome:
    """The target is what it holds from now on."""
    server, volumes, _ = await read_server(job)
    if not await _has_arrived(job) and job.task.attempt < ARRIVAL_LOOKS:
        return Outcome(Event.AGAIN, f"server {server.name} is still arriving in its pool")
    owners = [server.id, *[volume.id for volume in volumes if (await job.holds(volume.id))[0] is not None]]
    settled = await job.tools.database.block(lambda: job.tools.claims.finish_move(owners, guard=job.fenced))
    data = job.task.data
    places = {claim.owner: claim.disks[0].sr_id for claim in settled.claims if claim.host is None and claim.disks}
    changes: dict[str, object] = {"host_id": data["host"], "pool_id": data["pool"], "fault": ""}
    if data.get("to_zone") and server.zone:
        changes["zone"] = data["to_zone"]
    if "power" in data:
        changes["state"] = STATES[PowerState(data["power"])]

    def note(connection: Connection) -> None:
        store.change(connection, ServerRecord, server.id, **changes)
        for volume_id, sr_id in places.items():
            store.change(connection, VolumeRecord, volume_id, sr_id=sr_id, pool_id=data["pool"])

    return Outcome(changes=[note])


async def _has_arrived(job: Job) -> bool:
    """Whether its new pool knows it as the server, so that the next order finds it: a look lets in who has come from another
    pool. A pool that is silent now is not waited for: the move is over all the same."""
    data = job.task.data
    try:
        inventory = await job.tools.pools.look(str(data["pool"]), fresh=data["pool"] != data["from_pool"])
    except HypervisorError:
        return True
    return any(vm.server_id == job.task.subject and not vm.snapshot_id for vm in inventory.vms)


async def abort_move(job: Job) -> Outcome:
    """Let go of the target, unless the server turns out to be there."""
    server, volumes, _ = await read_server(job)
    place = await locate(job, server.id)
    if place is not None:
        pool_id, inventory, vm = place
        data = job.task.data
        there = pool_id == data["pool"] and (pool_id != data["from_pool"] or vm.host == data["host"])
        if there and not await disks_to_move(job, server, volumes, inventory, vm):
            return Outcome(Event.ARRIVED, data={"power": vm.power.value})
    owners = [server.id, *(volume.id for volume in volumes)]
    await job.tools.database.block(lambda: job.tools.claims.abort_move(owners, guard=job.fenced))
    return Outcome()


async def declare_dead(job: Job) -> Outcome:
    """The host that it was on counts as dead, so that it may run elsewhere."""
    data = job.task.data
    await job.tools.pools.hypervisor(str(data["from_pool"])).declare_dead(str(data["from"]))
    return Outcome()


async def restart_server(job: Job) -> Outcome:
    """Start it where it goes, if it ran."""
    server, _, _ = await read_server(job)
    data = job.task.data
    if data["pool"] != data["from_pool"]:
        raise Refused("a server whose host is dead can only be started in the same pool: its disks are there")
    if server.state in (ServerState.STOPPED, ServerState.SUSPENDED):
        return Outcome()
    hypervisor = job.tools.pools.hypervisor(str(data["pool"]))
    vm = await hypervisor.power(server.id, PowerAction.START, str(data["host"]))
    return Outcome(data={"power": vm.power.value})
