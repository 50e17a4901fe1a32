"""What operators ask for about volumes, images, flavors: checked, recorded, and made a task where a pool has to do
something."""

from __future__ import annotations

from typing import Final

from scheduler.errors import RequestError
from scheduler.lifecycle import tasks
from scheduler.lifecycle.operations import (
    Desk,
    InUse,
    WrongStateForThis,
    check_disk_bytes,
    check_name,
    check_zone,
    idle_server,
)
from scheduler.placement.request import MEMORY_MIB_MAX, VCPUS_MAX
from scheduler.records import store
from scheduler.records.types import (
    FlavorRecord,
    ImageRecord,
    ImageState,
    ServerRecord,
    ServerState,
    SnapshotRecord,
    TaskRecord,
    VolumeRecord,
    VolumeState,
)

FLAVOR_VCPUS_MAX: Final = 128
"""More than any guest of Xen can have."""


def create_volume(
    desk: Desk,
    name: str,
    project: str,
    size_bytes: int,
    *,
    zone: str = "",
    volume_type: str = "",
    image: str = "",
    copied: str = "",
    near: str = "",
    id_: str = "",
) -> tuple[VolumeRecord, TaskRecord]:
    """A volume; `near` names a server whose host must reach it, `id_` is the id that it is to have. `copied` names the
    volume that it is to be a copy of, which is attached to nothing and in whose pool the copy will be."""
    check_name("volume", name)
    check_name("project", project)
    source, original = None, None
    if copied:
        if image:
            raise RequestError("a volume has the content of an image or of another volume, not of both")
        original = idle_volume(desk, copied, project, VolumeState.AVAILABLE)
        size_bytes = size_bytes or original.size_bytes
        if size_bytes < original.size_bytes:
            raise RequestError(f"volume {original.name} has {original.size_bytes} bytes; {size_bytes} are too few")
    if image:
        source = store.named(desk.connection, ImageRecord, image)
        if source.state is not ImageState.READY:
            raise WrongStateForThis(f"image {source.name} is {source.state.value}")
        size_bytes = size_bytes or source.disk_bytes
        if size_bytes < source.disk_bytes:
            raise RequestError(
                f"image {source.name} holds a disk of {source.disk_bytes} bytes; {size_bytes} are too few"
            )
    check_disk_bytes(size_bytes)
    host = store.named(desk.connection, ServerRecord, near, project).host_id if near else ""
    volume = VolumeRecord(
        id_ or desk.new_id(),
        name,
        project,
        VolumeState.CREATING,
        size_bytes,
        desk.now_s,
        type=volume_type,
        zone=check_zone(desk, zone),
        image_id="" if source is None else source.id,
    )
    store.add(desk.connection, volume)
    copy = {} if original is None else {"copy_of": original.id, "copy_pool": original.pool_id}
    return volume, desk.submit("volume-create", volume.id, project, near_host=host, **copy)


def idle_volume(desk: Desk, name: str, project: str, *states: VolumeState) -> VolumeRecord:
    """The volume of that name, if nobody works on it and it is in one of these states. Busy, WrongStateForThis."""
    volume = store.named(desk.connection, VolumeRecord, name, project, lock=True)
    desk.not_busy("volume", volume.name, volume.id)
    if volume.state not in states:
        may = " or ".join(state.value for state in states)
        raise WrongStateForThis(f"volume {volume.name} is {volume.state.value}; this needs one that is {may}")
    return volume


def delete_volume(desk: Desk, name: str, project: str) -> tuple[VolumeRecord, TaskRecord]:
    """One that is attached to nothing."""
    volume = store.named(desk.connection, VolumeRecord, name, project, lock=True)
    task = tasks.open_task(desk.connection, volume.id)
    if task is not None and task.kind == "volume-delete":
        return volume, task
    if volume.server_id:
        raise InUse(f"volume {volume.name} is attached to server {volume.server_id}; detach it first")
    tasks.cancel_open(desk.connection, volume.id)
    store.change(desk.connection, VolumeRecord, volume.id, state=VolumeState.DELETING)
    pool = "" if task is None else str(task.data.get("pool", ""))
    return volume, desk.submit("volume-delete", volume.id, volume.project, pool=pool)


def attach_volume(
    desk: Desk, name: str, project: str, server_name: str, *, read_only: bool = False
) -> tuple[VolumeRecord, TaskRecord]:
    """Into a server that runs or is stopped."""
    server = idle_server(desk, server_name, project, [ServerState.ACTIVE, ServerState.STOPPED])
    volume = idle_volume(desk, name, project, VolumeState.AVAILABLE)
    data = {"server": server.id, "read_only": read_only}
    return volume, desk.submit("attach", volume.id, volume.project, **data)


def detach_volume(desk: Desk, name: str, project: str) -> tuple[VolumeRecord, TaskRecord]:
    """Out of the server that has it."""
    volume = idle_volume(desk, name, project, VolumeState.IN_USE)
    desk.not_busy("server", volume.server_id, volume.server_id)
    return volume, desk.submit("detach", volume.id, volume.project)


def extend_volume(desk: Desk, name: str, project: str, size_bytes: int) -> tuple[VolumeRecord, TaskRecord]:
    """Grow it."""
    volume = idle_volume(desk, name, project, VolumeState.AVAILABLE)
    if check_disk_bytes(size_bytes) <= volume.size_bytes:
        raise RequestError(f"volume {volume.name} has {volume.size_bytes} bytes; it can only grow")
    return volume, desk.submit("extend", volume.id, volume.project, size_bytes=size_bytes)


def snapshot_volume(desk: Desk, name: str, project: str, snapshot: str) -> tuple[VolumeRecord, TaskRecord]:
    """Keep it as it is now."""
    volume = idle_volume(desk, name, project, VolumeState.AVAILABLE, VolumeState.IN_USE)
    check_name("snapshot", snapshot)
    if any(known.name == snapshot for known in store.all_of(desk.connection, SnapshotRecord, volume_id=volume.id)):
        raise store.NameTaken(f"volume {volume.name} has a snapshot {snapshot!r} already")
    number = desk.new_id()
    return volume, desk.submit("volume-snapshot", volume.id, volume.project, snapshot=number, name=snapshot)


def delete_snapshot(desk: Desk, name: str, project: str, snapshot: str) -> tuple[VolumeRecord, TaskRecord]:
    """Remove one snapshot of a volume, which stays as it is. NoSuchRecord."""
    volume = idle_volume(desk, name, project, VolumeState.AVAILABLE, VolumeState.IN_USE)
    for known in store.all_of(desk.connection, SnapshotRecord, volume_id=volume.id):
        if snapshot in (known.name, known.id):
            return volume, desk.submit("snapshot-delete", volume.id, volume.project, snapshot=known.id)
    raise store.NoSuchRecord(f"volume {volume.name} has no snapshot {snapshot!r}")


# ----------------------------------------------------------------------------------------------------- flavors and images


def create_flavor(
    desk: Desk,
    name: str,
    memory_mib: int,
    vcpus: int,
    disk_bytes: int,
    required_traits: tuple[str, ...] = (),
    forbidden_traits: tuple[str, ...] = (),
) -> FlavorRecord:
    """A size that servers come in. RequestError, NameTaken."""
    check_name("flavor", name)
    if not 1 <= memory_mib <= MEMORY_MIB_MAX:
        raise RequestError(f"memory of {memory_mib} MiB is outside 1..{MEMORY_MIB_MAX}")
    if not 1 <= vcpus <= min(VCPUS_MAX, FLAVOR_VCPUS_MAX):
        raise RequestError(f"{vcpus} vCPUs are outside 1..{FLAVOR_VCPUS_MAX}")
    if both := set(required_traits) & set(forbidden_traits):
        raise RequestError(f"trait {min(both)} is both required and forbidden")
    for trait in (*required_traits, *forbidden_traits):
        check_name("trait", trait)
    flavor = FlavorRecord(
        desk.new_id(), name, memory_mib, vcpus, check_disk_bytes(disk_bytes), required_traits, forbidden_traits
    )
    store.add(desk.connection, flavor)
    return flavor


def register_image(
    desk: Desk, name: str, image_format: str, size_bytes: int, disk_bytes: int, object_name: str, checksum: str
) -> ImageRecord:
    """An image whose object is in the store already. RequestError, NameTaken."""
    check_name("image", name)
    if image_format not in ("raw", "vhd"):
        raise RequestError(f"image format {image_format!r} is neither raw nor vhd")
    check_disk_bytes(disk_bytes)
    image = ImageRecord(
        desk.new_id(),
        name,
        ImageState.READY,
        image_format,
        size_bytes,
        disk_bytes,
        object_name,
        checksum,
        desk.now_s,
    )
    store.add(desk.connection, image)
    return image


def remove_image(desk: Desk, name: str) -> ImageRecord:
    """Its record; the object is the caller's to remove. InUse while a server is being built from it."""
    image = store.named(desk.connection, ImageRecord, name, lock=True)
    building = store.count_of(desk.connection, ServerRecord, image_id=image.id, state=ServerState.BUILDING)
    building += store.count_of(desk.connection, VolumeRecord, image_id=image.id, state=VolumeState.CREATING)
    if building or image.state is ImageState.SAVING:
        raise InUse(f"image {image.name} is being used; wait until that is done")
    store.remove(desk.connection, ImageRecord, image.id)
    return image
