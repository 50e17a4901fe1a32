"""Actions on volumes: a claim on an SR, a disk there, and its way into servers and out again."""

from __future__ import annotations

from sqlalchemy import Connection

from scheduler.errors import Conflict, RequestError
from scheduler.hypervisor import DiskSpec, Gone, Refused
from scheduler.lifecycle.machine import Event
from scheduler.lifecycle.requests import volume_request_of
from scheduler.lifecycle.tools import Job, Outcome
from scheduler.placement import reasons
from scheduler.records import store
from scheduler.records.types import (
    ImageRecord,
    ImageState,
    ServerRecord,
    SnapshotRecord,
    VolumeRecord,
    VolumeState,
)


async def read_volume(job: Job) -> VolumeRecord:
    """The volume that the task is about. Gone."""
    volume = await job.tools.database.transact(lambda c: store.find(c, VolumeRecord, job.task.subject))
    if volume is None:
        raise Gone(f"volume {job.task.subject} has no record")
    return volume


async def claim_volume(job: Job) -> Outcome:
    """Choose an SR and claim the bytes, unless that was done already."""
    volume = await read_volume(job)
    held, _ = await job.holds(volume.id)
    if held is None:
        data = job.task.data
        near, excluded = str(data.get("near_host", "")), set(data.get("excluded", ()))
        if data.get("copy_of"):  # a pool copies within itself
            excluded |= job.tools.pools.srs_outside(str(data["copy_pool"]))
        request = volume_request_of(volume, near, excluded)
        await job.tools.database.block(lambda: job.tools.chooser.book_volume(request, job.claim_key, guard=job.fenced))
        held, _ = await job.holds(volume.id)
    if held is None:
        return Outcome(Event.AGAIN, "the claim was released by somebody else")
    sr = held.disks[0].sr_id
    pool = job.tools.pools.pool_of_sr(sr)

    def note(connection: Connection) -> None:
        store.change(connection, VolumeRecord, volume.id, sr_id=sr, pool_id=pool)

    return Outcome(data={"host": sr, "pool": pool}, changes=[note])


async def create_volume(job: Job) -> Outcome:
    """Make the disk on the SR that is claimed."""
    volume = await read_volume(job)
    held, _ = await job.holds(volume.id)
    if held is None:
        return Outcome(Event.NEXT, f"volume {volume.id} has no claim")
    image = None
    if volume.image_id:
        image = await job.tools.database.transact(lambda c: store.find(c, ImageRecord, volume.image_id))
        if image is None or image.state is not ImageState.READY:
            raise Refused(f"image {volume.image_id} is not there any more")
    spec = DiskSpec(
        volume.id,
        volume.name,
        volume.size_bytes,
        held.disks[0].sr_id,
        None if image is None else job.tools.images.source(image),
        copy_of=str(job.task.data.get("copy_of", "")),
    )
    await job.tools.pools.hypervisor(str(job.task.data["pool"])).create_disk(spec, job.progress)

    def note(connection: Connection) -> None:
        store.change(connection, VolumeRecord, volume.id, state=VolumeState.AVAILABLE, fault="")

    return Outcome(changes=[note])


async def delete_disk(job: Job) -> Outcome:
    """The volume's disk and its snapshots', wherever its claim or its record says that they are."""
    subject = job.task.subject
    volume = await job.tools.database.transact(lambda c: store.find(c, VolumeRecord, subject))
    snapshots = await job.tools.database.transact(lambda c: store.all_of(c, SnapshotRecord, volume_id=subject))
    held, target = await job.holds(subject)
    pools = [str(job.task.data.get("pool", "")), "" if volume is None else volume.pool_id]
    pools += [job.tools.pools.pool_of_sr(claim.disks[0].sr_id) for claim in (held, target) if claim is not None]
    for pool_id in dict.fromkeys(pools):
        if pool_id:
            hypervisor = job.tools.pools.hypervisor(pool_id)
            for snapshot in snapshots:
                if snapshot.pool_id == pool_id:
                    await hypervisor.delete_disk(snapshot.id)
            await hypervisor.delete_disk(subject)
    return Outcome()


async def release_volume(job: Job) -> Outcome:
    """Let go of its bytes."""
    await job.tools.database.block(lambda: job.tools.claims.release([job.task.subject], guard=job.fenced))

    def note(connection: Connection) -> None:
        store.change(connection, VolumeRecord, job.task.subject, sr_id="", pool_id="")

    return Outcome(changes=[note])


async def forget_volume(job: Job) -> Outcome:
    """Remove its records."""

    def forget(connection: Connection) -> None:
        for snapshot in store.all_of(connection, SnapshotRecord, volume_id=job.task.subject):
            store.remove(connection, SnapshotRecord, snapshot.id)
        store.remove(connection, VolumeRecord, job.task.subject)

    return Outcome(changes=[forget])


async def attach_volume(job: Job) -> Outcome:
    """Into the server that the task names."""
    volume = await read_volume(job)
    server_id = str(job.task.data["server"])
    server = await job.tools.database.transact(lambda c: store.find(c, ServerRecord, server_id))
    if server is None:
        raise Gone(f"server {server_id} is not there any more")
    if server.pool_id != volume.pool_id:
        raise RequestError(
            f"volume {volume.name} lies in another pool than server {server.name}; migrate the server there first"
        )
    hypervisor = job.tools.pools.hypervisor(volume.pool_id)
    attached = await hypervisor.attach_disk(server.id, volume.id, read_only=bool(job.task.data.get("read_only")))

    def note(connection: Connection) -> None:
        values = {"state": VolumeState.IN_USE, "server_id": server.id, "device": attached.device}
        store.change(connection, VolumeRecord, volume.id, **values)

    return Outcome(changes=[note])


async def detach_volume(job: Job) -> Outcome:
    """Out of the server that has it."""
    volume = await read_volume(job)
    if volume.server_id:
        await job.tools.pools.hypervisor(volume.pool_id).detach_disk(volume.server_id, volume.id)

    def note(connection: Connection) -> None:
        store.change(
            connection, VolumeRecord, volume.id, state=VolumeState.AVAILABLE, server_id="", device="", fault=""
        )

    return Outcome(changes=[note])


async def extend_volume(job: Job) -> Outcome:
    """Claim the additional bytes, then grow the disk."""
    volume = await read_volume(job)
    size = int(job.task.data["size_bytes"])
    try:
        await job.tools.database.block(lambda: job.tools.claims.grow(volume.id, volume.id, size, guard=job.fenced))
    except Conflict as error:  # it lies where it lies: no other SR could do
        return Outcome(Event.AGAIN if error.kind == reasons.CONTENDED else Event.NO_ROOM, str(error))
    await job.tools.pools.hypervisor(volume.pool_id).resize_disk(volume.id, size)

    def note(connection: Connection) -> None:
        store.change(connection, VolumeRecord, volume.id, size_bytes=size)

    return Outcome(changes=[note])


async def snapshot_volume(job: Job) -> Outcome:
    """Keep the volume as it is now."""
    volume = await read_volume(job)
    data = job.task.data
    await job.tools.pools.hypervisor(volume.pool_id).snapshot_disk(volume.id, data["snapshot"], data["name"])
    record = SnapshotRecord(
        data["snapshot"], data["name"], "", volume.id, volume.size_bytes, volume.pool_id, job.tools.now_s()
    )
    return Outcome(changes=[lambda connection: store.add(connection, record)])
