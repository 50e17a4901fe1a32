"""Records as values: what a row says, frozen.

Problem: a row handed around as a dict is checked nowhere, and an object that a library keeps in step with the database
changes under its reader's hands.

Idea: one frozen class a table, made from a row and never written back; a change is an UPDATE that names its columns (see
`scheduler.records.store`). The columns have the fields' names, so there is one place where a field is declared twice: here
and in `scheduler.records.tables`, and a test compares them.

Units: times are seconds since 1970 (UTC), sizes bytes, except memory of flavors and servers: MiB, as placement has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class ServerState(Enum):
    """Where a server is in its life, as people see it."""

    BUILDING = "building"
    ACTIVE = "active"
    STOPPED = "stopped"
    PAUSED = "paused"
    SUSPENDED = "suspended"
    ERROR = "error"
    """Its build failed and left nothing behind, or it was lost; `fault` says why. It can be deleted."""
    DELETING = "deleting"


class VolumeState(Enum):
    """Where a volume is in its life."""

    CREATING = "creating"
    AVAILABLE = "available"
    IN_USE = "in-use"
    ERROR = "error"
    DELETING = "deleting"


class ImageState(Enum):
    """Whether an image can be used."""

    SAVING = "saving"
    READY = "ready"
    ERROR = "error"


class TaskState(Enum):
    """Whether there is something left to do."""

    OPEN = "open"
    DONE = "done"
    FAILED = "failed"
    """Undone as far as it had come; `error` says why."""


@dataclass(frozen=True, slots=True)
class FlavorRecord:
    """A size that servers come in."""

    id: str
    name: str
    memory_mib: int
    vcpus: int
    disk_bytes: int
    required_traits: tuple[str, ...] = ()
    forbidden_traits: tuple[str, ...] = ()
    required_tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """An image: an object of the store, and what a server made from it needs."""

    id: str
    name: str
    state: ImageState
    format: str
    size_bytes: int
    """Of the object."""
    disk_bytes: int
    """Of the disk in it."""
    object_name: str
    checksum: str
    """MD5 of the object, in hex: its ETag."""
    created_s: float
    fault: str = ""


@dataclass(frozen=True, slots=True)
class PoolRecord:
    """A Xen pool. Its password is elsewhere (`scheduler.records.secrets`)."""

    id: str
    name: str
    url: str
    user: str
    verify: str
    """`system`, `off`, or a certificate in PEM that is the only one trusted."""
    region: int
    zone: int
    created_s: float


@dataclass(frozen=True, slots=True)
class HostRecord:
    """What an operator says of a host; everything else its pool says."""

    id: str
    pool_id: str
    device_id: int
    name: str
    node: str
    enabled: bool = True
    maintenance: bool = False
    vcpu_ratio: float = 0.0
    """vCPUs that may be given out per processor; 0: as the controller's settings say."""


@dataclass(frozen=True, slots=True)
class SrRecord:
    """An SR's place in the topology."""

    id: str
    pool_id: str
    device_id: int
    name: str
    node: str
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class GroupRecord:
    """A server group."""

    id: str
    name: str
    project: str
    policy: str


@dataclass(frozen=True, slots=True)
class ServerRecord:
    """A server. Where it is, is what its claim says; `host_id` and `pool_id` repeat it for lists."""

    id: str
    name: str
    project: str
    state: ServerState
    memory_mib: int
    vcpus: int
    disk_bytes: int
    disk_id: str
    flavor: str
    created_s: float
    image_id: str = ""
    template: str = ""
    zone: str = ""
    """Where it was asked to be: `r1z2`, or empty for anywhere."""
    group_id: str = ""
    member_index: int = 0
    pool_id: str = ""
    host_id: str = ""
    network: str = ""
    fault: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Traits, same and different hosts: what placement is told beside the flavor."""


@dataclass(frozen=True, slots=True)
class SnapshotRecord:
    """A snapshot of a server, or of a volume."""

    id: str
    name: str
    server_id: str
    volume_id: str
    size_bytes: int
    pool_id: str
    created_s: float


@dataclass(frozen=True, slots=True)
class VolumeRecord:
    """A volume."""

    id: str
    name: str
    project: str
    state: VolumeState
    size_bytes: int
    created_s: float
    type: str = ""
    zone: str = ""
    sr_id: str = ""
    pool_id: str = ""
    server_id: str = ""
    """What it is attached to."""
    device: str = ""
    image_id: str = ""
    fault: str = ""


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """A piece of work on one subject.

    kind, stage    which machine, and where it is in it (`scheduler.lifecycle.machine`)
    subject        id of the server, volume, image, host or zone that it is about; its tasks run one after the other
    data           what the work was asked with and has found out so far
    attempt        how often the present stage was tried
    round          how often the whole was begun anew, with another host
    not_before_s   when it may be tried again
    lease_owner, lease_until_s   the controller that works on it, and until when
    fence          counts those who have taken it up: the fencing token
    cancelled      somebody wants it stopped; what it leaves is the next task's to tidy
    progress       0..1 of what takes long
    """

    id: int
    kind: str
    stage: str
    subject: str
    project: str
    state: TaskState
    data: Mapping[str, Any]
    created_s: float
    attempt: int = 0
    round: int = 0
    not_before_s: float = 0.0
    lease_owner: str = ""
    lease_until_s: float = 0.0
    fence: int = 0
    cancelled: bool = False
    progress: float = 0.0
    error: str = ""
    finished_s: float = 0.0
