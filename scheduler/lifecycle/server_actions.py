"""Actions on servers: claiming, building, starting, destroying, power, snapshots.

Each looks first for what is there: it may be the second time that it is performed, by another controller, with the first one
cut off at any point. Where a server is, its claim says; the record repeats it for people.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Connection

from scheduler.errors import RequestError
from scheduler.hypervisor import (
    DiskSpec,
    Gone,
    Hypervisor,
    NicSpec,
    PoolInventory,
    PowerAction,
    PowerState,
    Refused,
    ServerSpec,
    VmFacts,
)
from scheduler.lifecycle.machine import Event
from scheduler.lifecycle.pools import MIB
from scheduler.lifecycle.requests import request_of
from scheduler.lifecycle.tools import Job, Outcome, mac_of
from scheduler.records import store
from scheduler.records.types import (
    GroupRecord,
    ImageRecord,
    ImageState,
    ServerRecord,
    ServerState,
    SnapshotRecord,
    VolumeRecord,
    VolumeState,
)

STATES: Final = {
    PowerState.RUNNING: ServerState.ACTIVE,
    PowerState.HALTED: ServerState.STOPPED,
    PowerState.PAUSED: ServerState.PAUSED,
    PowerState.SUSPENDED: ServerState.SUSPENDED,
}


async def read_server(job: Job) -> tuple[ServerRecord, list[VolumeRecord], GroupRecord | None]:
    """The server that the task is about, its volumes and its group. Gone."""

    def read(connection: Connection) -> tuple[ServerRecord | None, list[VolumeRecord], GroupRecord | None]:
        server = store.find(connection, ServerRecord, job.task.subject)
        if server is None:
            return None, [], None
        volumes = store.all_of(connection, VolumeRecord, server_id=server.id)
        group = store.find(connection, GroupRecord, server.group_id) if server.group_id else None
        return server, volumes, group

    server, volumes, group = await job.tools.database.transact(read)
    if server is None:
        raise Gone(f"server {job.task.subject} has no record")
    return server, volumes, group


# -------------------------------------------------------------------------------------------------------------- building


async def claim_server(job: Job) -> Outcome:
    """Choose a host and SRs and claim them, unless that was done already."""
    server, volumes, group = await read_server(job)
    held, _ = await job.holds(server.id)
    if held is None:
        offering = job.tools.pools.hosts_offering(server.template, server.network)
        excluded = job.task.data.get("excluded", ())
        request = request_of(server, volumes, group, excluded=excluded, hosts=offering)
        await job.tools.database.block(lambda: job.tools.chooser.book(request, job.claim_key, guard=job.fenced))
        held, _ = await job.holds(server.id)
    if held is None or held.host is None:
        return Outcome(Event.AGAIN, "the claim was released by somebody else")
    host = held.host.host_id
    pool = job.tools.pools.pool_of_host(host)

    def note(connection: Connection) -> None:
        store.change(connection, ServerRecord, server.id, host_id=host, pool_id=pool)

    return Outcome(data={"host": host, "pool": pool}, changes=[note])


async def create_server(job: Job) -> Outcome:
    """Make the VM with its disk on the claimed host's pool, halted."""
    server, _, _ = await read_server(job)
    held, _ = await job.holds(server.id)
    if held is None or held.host is None:
        return Outcome(Event.NEXT, f"server {server.id} has no claim")
    image = None
    if server.image_id:
        image = await job.tools.database.transact(lambda c: store.find(c, ImageRecord, server.image_id))
        if image is None or image.state is not ImageState.READY:
            raise Refused(f"image {server.image_id} is not there any more")
    pool_id = str(job.task.data["pool"])
    nics = (
        NicSpec(network_of(job.tools.pools.seen(pool_id), server.network, held.host.host_id), mac_of(server.id, 0)),
    )
    root = DiskSpec(
        server.disk_id,
        f"{server.name} root",
        server.disk_bytes,
        held.disks[0].sr_id,
        None if image is None else job.tools.images.source(image),
    )
    spec = ServerSpec(
        server.id,
        server.name,
        job.build,
        server.memory_mib * MIB,
        server.vcpus,
        root,
        server.template,
        nics=nics if nics[0].network else (),
    )
    hypervisor = job.tools.pools.hypervisor(pool_id)
    await hypervisor.create_server(spec, held.host.host_id, job.progress)
    return Outcome()


def network_of(inventory: PoolInventory, name: str, host: str) -> str:
    """The uuid of the pool's network of that name; without a name the first that the host has an interface on. Refused."""
    networks = sorted(inventory.networks, key=lambda network: (host not in network.hosts, network.bridge, network.uuid))
    if not name:
        return networks[0].uuid if networks else ""
    for network in networks:
        if name in (network.name, network.uuid):
            return network.uuid
    raise Refused(f"pool {inventory.name} has no network {name!r}")


async def attach_volumes(job: Job) -> Outcome:
    """The volumes that the server was asked with."""
    server, volumes, _ = await read_server(job)
    hypervisor = job.tools.pools.hypervisor(str(job.task.data["pool"]))
    devices: dict[str, str] = {}
    for volume in volumes:
        attached = await hypervisor.attach_disk(server.id, volume.id)
        devices[volume.id] = attached.device

    def note(connection: Connection) -> None:
        for volume_id, device in devices.items():
            store.change(connection, VolumeRecord, volume_id, state=VolumeState.IN_USE, device=device)

    return Outcome(changes=[note])


async def start_server(job: Job) -> Outcome:
    """Start it on the host that is claimed."""
    server, _, _ = await read_server(job)
    held, _ = await job.holds(server.id)
    if held is None or held.host is None:
        return Outcome(Event.NEXT, f"server {server.id} has no claim")
    if job.task.data.get("stopped"):
        return Outcome(changes=[_state(server.id, ServerState.STOPPED)])
    hypervisor = job.tools.pools.hypervisor(str(job.task.data["pool"]))
    vm = await hypervisor.power(server.id, PowerAction.START, held.host.host_id)
    return Outcome(changes=[_state(server.id, STATES[vm.power])])


def _state(server_id: str, state: ServerState) -> Any:
    return lambda connection: store.change(connection, ServerRecord, server_id, state=state, fault="")


# ------------------------------------------------------------------------------------------------------------ destroying


async def destroy_server(job: Job) -> Outcome:
    """Remove whatever any pool that the server has to do with holds of it."""
    for hypervisor in await pools_of(job):
        await hypervisor.destroy_server(job.task.subject)
    return Outcome()


async def pools_of(job: Job) -> list[Hypervisor]:
    """The pools that may hold something of the server: those of its claims, and the one that its record names."""
    held, target = await job.holds(job.task.subject)
    server = await job.tools.database.transact(lambda c: store.find(c, ServerRecord, job.task.subject))
    ids = [str(job.task.data.get("pool", "")), "" if server is None else server.pool_id]
    hosts = [claim.host.host_id for claim in (held, target) if claim is not None and claim.host is not None]
    ids.extend(job.tools.pools.pool_of_host(host) for host in hosts)
    return [job.tools.pools.hypervisor(pool_id) for pool_id in dict.fromkeys(ids) if pool_id]


async def release_server(job: Job) -> Outcome:
    """Let go of all that it holds."""
    await job.tools.database.block(lambda: job.tools.claims.release([job.task.subject], guard=job.fenced))
    host = str(job.task.data.get("host", ""))
    if job.task.kind == "build" and host:
        job.tools.chooser.note_failure(host)

    def note(connection: Connection) -> None:
        store.change(connection, ServerRecord, job.task.subject, host_id="", pool_id="")

    return Outcome(changes=[note])


async def forget_server(job: Job) -> Outcome:
    """Remove its records; its volumes are free again."""
    subject = job.task.subject

    def forget(connection: Connection) -> None:
        free_volumes(connection, subject)
        for snapshot in store.all_of(connection, SnapshotRecord, server_id=subject):
            store.remove(connection, SnapshotRecord, snapshot.id)
        store.remove(connection, ServerRecord, subject)

    return Outcome(changes=[forget])


def free_volumes(connection: Connection, server_id: str) -> None:
    """Volumes of a server that is no more are attached to nothing."""
    for volume in store.all_of(connection, VolumeRecord, server_id=server_id):
        store.change(connection, VolumeRecord, volume.id, server_id="", device="", state=VolumeState.AVAILABLE)


# ------------------------------------------------------------------------------------------------- power and snapshots


async def power_server(job: Job) -> Outcome:
    """Change its power state."""
    server, _, _ = await read_server(job)
    action = PowerAction[str(job.task.data["action"])]
    held, _ = await job.holds(server.id)
    if held is None or held.host is None:
        raise RequestError(f"server {server.name} has no host; `ringstead reconcile` says why")
    hypervisor = job.tools.pools.hypervisor(server.pool_id)
    vm = await hypervisor.power(server.id, action, held.host.host_id)
    return Outcome(changes=[_state(server.id, STATES[vm.power])])


async def snapshot_server(job: Job) -> Outcome:
    """Keep its disks as they are."""
    server, _, _ = await read_server(job)
    data = job.task.data
    await job.tools.pools.hypervisor(server.pool_id).snapshot_server(server.id, data["snapshot"], data["name"])
    record = SnapshotRecord(
        data["snapshot"], data["name"], server.id, "", server.disk_bytes, server.pool_id, job.tools.now_s()
    )
    return Outcome(changes=[lambda connection: store.add(connection, record)])


async def revert_server(job: Job) -> Outcome:
    """Bring its disks back; it is stopped afterwards, or runs again if it ran."""
    server, _, _ = await read_server(job)
    hypervisor = job.tools.pools.hypervisor(server.pool_id)
    await hypervisor.revert_server(server.id, job.task.data["snapshot"])
    held, _ = await job.holds(server.id)
    if not job.task.data.get("start") or held is None or held.host is None:
        return Outcome(changes=[_state(server.id, ServerState.STOPPED)])
    vm: VmFacts = await hypervisor.power(server.id, PowerAction.START, held.host.host_id)
    return Outcome(changes=[_state(server.id, STATES[vm.power])])


async def delete_snapshot(job: Job) -> Outcome:
    """A snapshot of a server or of a volume."""
    snapshot_id = str(job.task.data["snapshot"])
    snapshot = await job.tools.database.transact(lambda c: store.find(c, SnapshotRecord, snapshot_id))
    if snapshot is not None:
        hypervisor = job.tools.pools.hypervisor(snapshot.pool_id)
        if snapshot.server_id:
            await hypervisor.delete_server_snapshot(snapshot_id)
        else:
            await hypervisor.delete_disk(snapshot_id)
    return Outcome(changes=[lambda connection: store.remove(connection, SnapshotRecord, snapshot_id)])


# ---------------------------------------------------------------------------------------------------------------- images


async def freeze_disk(job: Job) -> Outcome:
    """A snapshot of the server's disk, that can be read while the server writes on."""
    server, _, _ = await read_server(job)
    frozen = str(job.task.data["frozen"])
    await job.tools.pools.hypervisor(server.pool_id).snapshot_disk(server.disk_id, frozen, f"{server.name} image")
    return Outcome(data={"pool": server.pool_id})


async def export_image(job: Job) -> Outcome:
    """The snapshot's bytes into the object store."""
    data = job.task.data
    hypervisor = job.tools.pools.hypervisor(str(data["pool"]))
    async with hypervisor.export_disk(str(data["frozen"]), data["format"]) as pieces:
        size, checksum = await job.tools.images.save(str(data["object"]), pieces)

    def note(connection: Connection) -> None:
        values = {"state": ImageState.READY, "size_bytes": size, "checksum": checksum, "fault": ""}
        store.change(connection, ImageRecord, str(data["image"]), **values)

    return Outcome(changes=[note])


async def thaw_disk(job: Job) -> Outcome:
    """Remove the snapshot."""
    pool_id = str(job.task.data.get("pool", ""))
    if pool_id:
        await job.tools.pools.hypervisor(pool_id).delete_disk(str(job.task.data["frozen"]))
    return Outcome()
