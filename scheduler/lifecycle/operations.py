"""What operators ask for about servers: checked, recorded, and made a task, in one transaction.

Problem: a request that makes no sense must be answered at once and leave nothing; one that makes sense must survive the
controller that took it.

Idea: everything that can be known without a pool is checked here (names, states, what is busy, what is referred to).
Then the record's new state and the task are written together. Whether there is room is for the first stage to say; where
it says no at once, what was to be created is forgotten again (`withdraw`).

Rule: at most one task works on a server, and a second is refused with the first one's name; but a deletion cancels
whatever is open and comes after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, func, select

from scheduler.errors import RequestError, SchedulerError
from scheduler.hypervisor import PowerAction
from scheduler.lifecycle import tasks
from scheduler.lifecycle.machine import MACHINES
from scheduler.lifecycle.pools import UUID
from scheduler.lifecycle.requests import parse_zone
from scheduler.placement.request import Policy
from scheduler.placement.resources import Zone, zone_name
from scheduler.records import store, tables
from scheduler.records.types import (
    FlavorRecord,
    GroupRecord,
    HostRecord,
    ImageRecord,
    ImageState,
    PoolRecord,
    ServerRecord,
    ServerState,
    SnapshotRecord,
    TaskRecord,
    TaskState,
    VolumeRecord,
    VolumeState,
)

NAME_CHARACTERS_MAX: Final = 63
DISK_BYTES_MAX: Final = 2040 << 30
"""What a VHD can hold, less what it needs for itself."""


class Busy(SchedulerError):
    """The caller's: a task is at work on it. Wait for it, or delete the thing."""


class WrongStateForThis(SchedulerError):
    """The caller's: it is in a state in which this means nothing."""


class NoPlace(SchedulerError):
    """The cloud's or the project's: there is no room or no quota for it now. Nothing was done, and nothing is left."""


class InUse(SchedulerError):
    """The caller's: something else depends on it; that goes first."""


@dataclass(frozen=True)
class Desk:
    """Who takes requests: a connection in a transaction, a clock, fresh ids, and the zones that there are."""

    connection: Connection
    now_s: float
    new_id: Callable[[], str]
    zones: frozenset[Zone] = frozenset()

    def submit(self, kind: str, subject: str, project: str, **data: Any) -> TaskRecord:
        """A new task."""
        return tasks.submit(self.connection, kind, subject, project, data, self.now_s)

    def not_busy(self, noun: str, name: str, subject: str) -> None:
        """Busy while a task is at work on it."""
        task = tasks.open_task(self.connection, subject)
        if task is not None:
            raise Busy(f"{noun} {name} is busy: task {task.id}, {MACHINES[task.kind].verb}, is at stage {task.stage}")


def check_name(noun: str, name: str) -> str:
    """A name that a person and a shell can handle. RequestError."""
    if not name or name != name.strip() or not name.isprintable():
        raise RequestError(f"{noun} name {name[:60]!r} is empty, or begins or ends with a space, or cannot be printed")
    if len(name) > NAME_CHARACTERS_MAX:
        raise RequestError(f"{noun} name {name[:20]!r}… is longer than {NAME_CHARACTERS_MAX} characters")
    if name.startswith("-") or "/" in name:
        raise RequestError(f"{noun} name {name!r} begins with a dash or holds a slash")
    return name


def check_zone(desk: Desk, text: str) -> str:
    """The zone as it is written everywhere (`r1z2`), if a pool is in it. RequestError."""
    zone = parse_zone(text)
    if zone is None:
        return ""
    if zone not in desk.zones:
        known = ", ".join(zone_name(known) for known in sorted(desk.zones)) or "none: add a pool first"
        raise RequestError(f"there is no availability zone {text}; there are {known}")
    return zone_name(zone)


# -------------------------------------------------------------------------------------------------------------- creating


@dataclass(frozen=True)
class NewServer:
    """What a server is asked with; names or ids where something is referred to."""

    name: str
    project: str
    flavor: str
    image: str = ""
    template: str = ""
    zone: str = ""
    group: str = ""
    network: str = ""
    volumes: Sequence[str] = ()
    disk_bytes: int = 0
    """0: the flavor's, or the image's if that is larger."""
    same_host_as: Sequence[str] = ()
    different_host_from: Sequence[str] = ()
    required_traits: Sequence[str] = ()
    forbidden_traits: Sequence[str] = ()
    stopped: bool = False
    id: str = ""
    """The id that it is to have, by which a request that is repeated is known again; empty for a new one."""


def new_server(desk: Desk, wanted: NewServer) -> ServerRecord:
    """The record that the server would have; nothing is written. RequestError, NoSuchRecord."""
    connection = desk.connection
    check_name("server", wanted.name)
    check_name("project", wanted.project)
    flavor = store.named(connection, FlavorRecord, wanted.flavor)
    image = _image(connection, wanted.image) if wanted.image else None
    if (image is None) == (not wanted.template):
        raise RequestError("a server is made from an image or from a template: name one of the two")
    disk_bytes = wanted.disk_bytes or max(flavor.disk_bytes, image.disk_bytes if image is not None else 0)
    if image is not None and disk_bytes < image.disk_bytes:
        raise RequestError(f"image {image.name} holds a disk of {image.disk_bytes} bytes; {disk_bytes} are too few")
    check_disk_bytes(disk_bytes)
    group, index = _group(desk, wanted)
    others = {
        "same_host_as": [
            store.named(connection, ServerRecord, name, wanted.project).id for name in wanted.same_host_as
        ],
        "different_host_from": [
            store.named(connection, ServerRecord, name, wanted.project).id for name in wanted.different_host_from
        ],
        "required_traits": sorted({*flavor.required_traits, *wanted.required_traits}),
        "forbidden_traits": sorted({*flavor.forbidden_traits, *wanted.forbidden_traits}),
        "required_tags": list(flavor.required_tags),
    }
    if both := {*others["required_traits"]} & {*others["forbidden_traits"]}:
        raise RequestError(f"trait {min(both)} is both required and forbidden")
    return ServerRecord(
        wanted.id or desk.new_id(),
        wanted.name,
        wanted.project,
        ServerState.BUILDING,
        flavor.memory_mib,
        flavor.vcpus,
        disk_bytes,
        desk.new_id(),
        flavor.name,
        desk.now_s,
        image_id=image.id if image is not None else "",
        template=wanted.template,
        zone=check_zone(desk, wanted.zone),
        group_id=group.id if group is not None else "",
        member_index=index,
        network=wanted.network,
        options={key: value for key, value in others.items() if value},
    )


def create_server(desk: Desk, wanted: NewServer) -> tuple[ServerRecord, TaskRecord]:
    """Record the server and have it built. NameTaken, Busy, RequestError, NoSuchRecord."""
    server = new_server(desk, wanted)
    volumes = [store.named(desk.connection, VolumeRecord, name, wanted.project, lock=True) for name in wanted.volumes]
    store.add(desk.connection, server)
    for volume in volumes:
        desk.not_busy("volume", volume.name, volume.id)
        if volume.state is not VolumeState.AVAILABLE:
            raise WrongStateForThis(
                f"volume {volume.name} is {volume.state.value}; only an available one can be attached"
            )
        store.change(desk.connection, VolumeRecord, volume.id, server_id=server.id, state=VolumeState.IN_USE)
    return server, desk.submit("build", server.id, server.project, **({"stopped": True} if wanted.stopped else {}))


def check_id(text: str) -> str:
    """An id that a client chose: a UUID, or empty. RequestError."""
    if text and not UUID.fullmatch(text):
        raise RequestError(f"{text[:60]!r} is no UUID in small letters")
    return text


def first_task(desk: Desk, subject: str) -> TaskRecord | None:
    """The task that created a server or volume, as it is now: what a repeated request for it is answered with."""
    query = select(tables.TASKS).where(tables.TASKS.c.subject == subject).order_by(tables.TASKS.c.id).limit(1)
    row = desk.connection.execute(query).one_or_none()
    return None if row is None else store.from_row(TaskRecord, row)


def withdraw(desk: Desk, task: TaskRecord) -> None:
    """Forget a server or volume for which no place was found, as if it had not been asked for: nobody wants to clean up
    what never was. Whatever had a place once stays, with what went wrong."""
    unplaced = task.state is TaskState.FAILED and task.stage == MACHINES[task.kind].first and task.round == 0
    if not unplaced:
        return
    server = store.find(desk.connection, ServerRecord, task.subject)
    volume = store.find(desk.connection, VolumeRecord, task.subject)
    if task.kind == "build" and server is not None and server.state is ServerState.ERROR:
        store.remove(desk.connection, ServerRecord, server.id)
    if task.kind == "volume-create" and volume is not None and volume.state is VolumeState.ERROR:
        store.remove(desk.connection, VolumeRecord, volume.id)


def _image(connection: Connection, name: str) -> ImageRecord:
    image = store.named(connection, ImageRecord, name)
    if image.state is not ImageState.READY:
        raise WrongStateForThis(f"image {image.name} is {image.state.value}{f': {image.fault}' if image.fault else ''}")
    return image


def _group(desk: Desk, wanted: NewServer) -> tuple[GroupRecord | None, int]:
    """The server group and the lowest member number that nobody has."""
    if not wanted.group:
        return None, 0
    group = store.named(desk.connection, GroupRecord, wanted.group, wanted.project, lock=True)
    taken = {server.member_index for server in store.all_of(desk.connection, ServerRecord, group_id=group.id)}
    return group, next(index for index in range(len(taken) + 1) if index not in taken)


def check_disk_bytes(size_bytes: int) -> int:
    """A size that a disk can have. RequestError."""
    if not 1 << 20 <= size_bytes <= DISK_BYTES_MAX:
        raise RequestError(f"a disk of {size_bytes:,} bytes is outside 1 MiB..{DISK_BYTES_MAX >> 30} GiB")
    return size_bytes


# ------------------------------------------------------------------------------------------------------------- thereafter

_MAY: Final = {
    PowerAction.START: {ServerState.STOPPED},
    PowerAction.SHUT_DOWN: {ServerState.ACTIVE},
    PowerAction.CUT: {ServerState.ACTIVE, ServerState.PAUSED, ServerState.SUSPENDED},
    PowerAction.REBOOT: {ServerState.ACTIVE},
    PowerAction.RESET: {ServerState.ACTIVE, ServerState.PAUSED},
    PowerAction.PAUSE: {ServerState.ACTIVE},
    PowerAction.UNPAUSE: {ServerState.PAUSED},
    PowerAction.SUSPEND: {ServerState.ACTIVE},
    PowerAction.RESUME: {ServerState.SUSPENDED, ServerState.PAUSED},
}
_SETTLED: Final = frozenset({ServerState.ACTIVE, ServerState.STOPPED, ServerState.PAUSED, ServerState.SUSPENDED})


def idle_server(desk: Desk, name: str, project: str, states: Sequence[ServerState] = ()) -> ServerRecord:
    """The server of that name, if nobody works on it and it is in one of these states. Busy, WrongStateForThis."""
    server = store.named(desk.connection, ServerRecord, name, project, lock=True)
    desk.not_busy("server", server.name, server.id)
    if server.state not in (states or _SETTLED):
        may = " or ".join(sorted(state.value for state in states or _SETTLED))
        fault = f" ({server.fault})" if server.fault else ""
        raise WrongStateForThis(f"server {server.name} is {server.state.value}{fault}; this needs one that is {may}")
    return server


def power(desk: Desk, name: str, project: str, action: PowerAction) -> tuple[ServerRecord, TaskRecord]:
    """Start, stop, reboot, pause, suspend, resume."""
    server = idle_server(desk, name, project, sorted(_MAY[action], key=lambda state: state.value))
    if action is PowerAction.RESUME and server.state is ServerState.PAUSED:
        action = PowerAction.UNPAUSE
    return server, desk.submit("power", server.id, server.project, action=action.name)


def delete_server(desk: Desk, name: str, project: str) -> tuple[ServerRecord, TaskRecord]:
    """Whatever is being done with it is given up first."""
    server = store.named(desk.connection, ServerRecord, name, project, lock=True)
    task = tasks.open_task(desk.connection, server.id)
    if task is not None and task.kind == "delete":
        return server, task
    tasks.cancel_open(desk.connection, server.id)
    store.change(desk.connection, ServerRecord, server.id, state=ServerState.DELETING)
    pool = "" if task is None else str(task.data.get("pool", ""))
    return server, desk.submit("delete", server.id, server.project, pool=pool)


def migrate_server(
    desk: Desk, name: str, project: str, to_hosts: Sequence[str], to_zone: str
) -> tuple[ServerRecord, TaskRecord]:
    """To one of these hosts (ids), into this zone, or anywhere else than it is."""
    server = idle_server(desk, name, project, [ServerState.ACTIVE, ServerState.STOPPED])
    if server.host_id in to_hosts and len(to_hosts) == 1:
        raise RequestError(f"server {server.name} is on that host already")
    zone = check_zone(desk, to_zone)
    _check_moves_alone(desk, server)
    _check_snapshots_stay(desk, server, to_hosts, zone)
    return server, desk.submit("migrate", server.id, server.project, to_hosts=list(to_hosts), to_zone=zone)


def _check_moves_alone(desk: Desk, server: ServerRecord) -> None:
    """A server is not asked to leave those that it must share a host with. RequestError."""
    group = store.find(desk.connection, GroupRecord, server.group_id) if server.group_id else None
    if group is None or group.policy != Policy.AFFINITY.value:
        return
    members = store.all_of(desk.connection, ServerRecord, group_id=group.id)
    others = [other.name for other in members if other.id != server.id and other.host_id]
    if others:
        raise RequestError(
            f"server {server.name} must share its host with {', '.join(sorted(others)[:5])} (affinity group {group.name}); "
            "they move together when their host or zone is emptied: `ringstead host evacuate`, `zone drain`"
        )


def _check_snapshots_stay(desk: Desk, server: ServerRecord, to_hosts: Sequence[str], zone: str) -> None:
    """A server with snapshots is not asked to leave its pool, which it cannot. RequestError."""
    count = store.count_of(desk.connection, SnapshotRecord, server_id=server.id)
    pool = store.find(desk.connection, PoolRecord, server.pool_id)
    if not count or pool is None:
        return
    hosts = [store.find(desk.connection, HostRecord, host) for host in to_hosts]
    elsewhere = any(host is not None and host.pool_id != pool.id for host in hosts)
    if elsewhere or zone not in ("", zone_name((pool.region, pool.zone))):
        raise RequestError(
            f"server {server.name} has {count} snapshots, with which it cannot leave pool {pool.name}; delete them first"
        )


def snapshot_server(desk: Desk, name: str, project: str, snapshot: str) -> tuple[ServerRecord, TaskRecord, str]:
    """Keep its disks as they are now; also the snapshot's id."""
    server = idle_server(desk, name, project)
    check_name("snapshot", snapshot)
    if any(known.name == snapshot for known in store.all_of(desk.connection, SnapshotRecord, server_id=server.id)):
        raise store.NameTaken(f"server {server.name} has a snapshot {snapshot!r} already")
    number = desk.new_id()
    return server, desk.submit("snapshot", server.id, server.project, snapshot=number, name=snapshot), number


def snapshot_of(desk: Desk, server_id: str, name: str) -> SnapshotRecord:
    """The snapshot of that name or id of a server. NoSuchRecord."""
    for snapshot in store.all_of(desk.connection, SnapshotRecord, server_id=server_id):
        if name in (snapshot.name, snapshot.id):
            return snapshot
    raise store.NoSuchRecord(f"the server has no snapshot {name!r}")


def revert_server(desk: Desk, name: str, project: str, snapshot: str) -> tuple[ServerRecord, TaskRecord]:
    """Bring its disks back to the snapshot; it runs again afterwards if it runs now."""
    server = idle_server(desk, name, project, [ServerState.ACTIVE, ServerState.STOPPED])
    found = snapshot_of(desk, server.id, snapshot)
    if found.pool_id != server.pool_id:
        raise RequestError(f"snapshot {found.name} was left behind in another pool when the server moved")
    runs = server.state is ServerState.ACTIVE
    return server, desk.submit("revert", server.id, server.project, snapshot=found.id, start=runs)


def delete_snapshot(desk: Desk, name: str, project: str, snapshot: str) -> tuple[ServerRecord, TaskRecord]:
    """Remove a snapshot of a server."""
    server = idle_server(desk, name, project)
    found = snapshot_of(desk, server.id, snapshot)
    return server, desk.submit("snapshot-delete", server.id, server.project, snapshot=found.id)


def capture_image(
    desk: Desk, name: str, project: str, image_name: str, image_format: str, object_name: str
) -> tuple[ImageRecord, TaskRecord]:
    """An image from a server's disk; its record is there at once, `saving`."""
    server = idle_server(desk, name, project)
    check_name("image", image_name)
    image = ImageRecord(
        desk.new_id(), image_name, ImageState.SAVING, image_format, 0, server.disk_bytes, object_name, "", desk.now_s
    )
    store.add(desk.connection, image)
    task = desk.submit(
        "capture",
        server.id,
        server.project,
        image=image.id,
        object=object_name,
        frozen=desk.new_id(),
        format=image_format,
    )
    return image, task


# ---------------------------------------------------------------------------------------------------------------- groups


def create_group(desk: Desk, name: str, project: str, policy: str) -> GroupRecord:
    """A server group. RequestError, NameTaken."""
    check_name("server group", name)
    check_name("project", project)
    if policy not in {known.value for known in Policy}:
        raise RequestError(f"policy {policy!r} is none of {', '.join(known.value for known in Policy)}")
    group = GroupRecord(desk.new_id(), name, project, policy)
    store.add(desk.connection, group)
    return group


def delete_group(desk: Desk, name: str, project: str) -> GroupRecord:
    """An empty server group. InUse."""
    group = store.named(desk.connection, GroupRecord, name, project, lock=True)
    members = store.count_of(desk.connection, ServerRecord, group_id=group.id)
    if members:
        raise InUse(f"server group {group.name} has {members} servers; delete them first")
    store.remove(desk.connection, GroupRecord, group.id)
    return group


def open_task_count(connection: Connection) -> int:
    """How much work is open."""
    query = select(func.count()).where(tables.TASKS.c.state == "open")
    return int(connection.execute(query).scalar_one())
