"""The hypervisor as the lifecycle needs it: one pool, a dozen verbs, eight ways to fail.

Problem: servers and volumes live for years through crashes of the controllers that look after them. Whoever takes up a
half-done piece of work does not know how far the one before came, whether its last call arrived, or whether it is still
running somewhere. A driver that hands out the pool's own handles and three hundred error codes moves that trouble into
every caller.

Idea: everything is named by *our* ids, which the pool keeps beside each thing (a VM carries its server's id, a disk its
disk id, both the cluster's), so every verb can be said again: it looks for what it is about, does what is missing and
is content with what is there. Building is two stages, `create_server` (everything on disk, halted) and `power(START)`,
so that a build can be taken up or undone in between. Errors are few and say what to do next, not what went wrong in
detail.

Rejected: one call that creates and starts (a crash in it leaves a running VM that nobody knows); the pool's handles in
our records (they change when a VM crosses pools); a list of pools behind one object (each pool fails alone).

Invariants that each implementation keeps:
- A verb that is repeated with the same ids has the effect of one; deleting what is gone succeeds.
- Nothing without this cluster's mark is ever changed. It is reported all the same, since it takes up room.
- `create_server` leaves the whole VM or nothing, unless the process or the connection dies; then the next `create_server` or
  `destroy_server` with that id finds and removes what is left. What it leaves is marked unfinished until it is whole.
- After Unreachable nobody knows whether the call took effect; after every other error it did not.

Sizes are bytes, memory too; uuids are the pool's, ids ours (text of at most 64 characters from [A-Za-z0-9-]).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, Protocol, TypeAlias

import trio

ImageFormat: TypeAlias = Literal["raw", "vhd"]
Progress: TypeAlias = Callable[[float], None]
"""Told how much of a long piece of work is done, 0..1, now and then."""

# ---------------------------------------------------------------------------------------------------------------- errors


class HypervisorError(Exception):
    """A verb that a pool did not carry out. `code` is the pool's own word for it, for logs; the message is for people."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class TryAgain(HypervisorError):
    """Passing: another operation is in progress, a device is busy, a migration slot is taken. The same call, later."""


class NextHost(HypervisorError):
    """This host cannot (memory, disabled, not live, incompatible); another one may."""


class NextSr(HypervisorError):
    """This SR cannot (full, unplugged, lacks the feature); another one may."""


class WrongState(HypervisorError):
    """The thing is in a state in which this verb means nothing: pausing a halted server. The caller's to decide."""


class Gone(HypervisorError):
    """The server, disk, host or SR named is not in this pool (any more)."""


class Refused(HypervisorError):
    """The pool will not do it, however often it is asked: password, certificate, permission, licence, a bad value, an answer
    that makes no sense. An operator's to mend."""


class Unreachable(HypervisorError):
    """No answer from the pool in time. The call may or may not have taken effect."""


class MigrationFailed(HypervisorError):
    """The move broke; the server is where it was, and what was copied is removed."""


class Superseded(HypervisorError):
    """A later build of the same server is there: whoever asks holds a lease that ran out, and must stop."""


# ------------------------------------------------------------------------------------------------------ what a pool holds


class PowerState(Enum):
    """As XenAPI has it."""

    HALTED = "halted"
    RUNNING = "running"
    PAUSED = "paused"
    SUSPENDED = "suspended"


@dataclass(frozen=True, slots=True)
class HostFacts:
    """One host."""

    uuid: str
    name: str
    address: str
    memory_total_bytes: int
    memory_free_bytes: int
    """As `host.compute_free_memory` has it: what a new VM could get now."""
    memory_overhead_bytes: int
    """What Xen and its control domain take."""
    vcpu_count: int
    """Hardware threads."""
    enabled: bool
    live: bool
    """By probes of the driver's own; the pool's word lags by minutes."""
    is_master: bool = False
    tags: frozenset[str] = frozenset()
    """Capabilities of the hardware and the operator's tags; requests may require or forbid them."""


@dataclass(frozen=True, slots=True)
class SrFacts:
    """One storage repository that disks can be put on."""

    uuid: str
    name: str
    type: str
    shared: bool
    size_bytes: int
    used_bytes: int
    """Physically taken."""
    virtual_bytes: int
    """Sum of the sizes of its disks, as if thick."""
    hosts: frozenset[str]
    """Uuids of the hosts that reach it now: a PBD that is attached."""
    tags: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class NetworkFacts:
    """One network."""

    uuid: str
    name: str
    bridge: str
    hosts: frozenset[str] = frozenset()
    """Uuids of the hosts with an interface on it; a network that is internal to hosts has none."""


@dataclass(frozen=True, slots=True)
class DiskFacts:
    """One disk (a VDI). `disk_id` is empty where the disk is not this cluster's."""

    uuid: str
    sr: str
    name: str
    size_bytes: int
    disk_id: str = ""
    server_id: str = ""
    """Of the server whose own disk it is, so that it goes with the server; empty for volumes and their snapshots."""
    snapshot_of: str = ""
    """The disk id that it is a snapshot of, or empty. Disks of a server's snapshots have it too."""
    unfinished: bool = False
    """Its content is not whole: it was being made when somebody died."""


@dataclass(frozen=True, slots=True)
class AttachedDisk:
    """A disk in a VM."""

    disk: str
    """The disk's uuid."""
    device: str
    """Its name in the guest: xvda; empty while the VM is halted and the pool has not chosen one."""
    plugged: bool
    disk_id: str = ""


@dataclass(frozen=True, slots=True)
class VmFacts:
    """One VM, or a snapshot of one.

    `server_id` is empty where the VM is not this cluster's, or has not arrived yet from another pool: until the move is
    over, the one over there is the server.
    """

    uuid: str
    name: str
    power: PowerState
    host: str
    """Uuid of the host that it runs (or is paused) on; empty when halted or suspended."""
    memory_bytes: int
    vcpu_count: int
    server_id: str = ""
    snapshot_id: str = ""
    """Ours, where this is a snapshot: then `server_id` is the server that it is of."""
    build: int = 0
    """The build that made it: the fencing token of the task."""
    unfinished: bool = False
    """`create_server` did not come to its end."""
    disks: tuple[AttachedDisk, ...] = ()


@dataclass(frozen=True, slots=True)
class PoolInventory:
    """All that a pool holds, at one moment. Control domains and templates are left out of `vms`."""

    pool: str
    """Uuid."""
    name: str
    version: str
    hosts: tuple[HostFacts, ...]
    srs: tuple[SrFacts, ...]
    networks: tuple[NetworkFacts, ...]
    disks: tuple[DiskFacts, ...]
    vms: tuple[VmFacts, ...]
    templates: tuple[str, ...] = ()
    """Names of the templates that a server can be made from."""


# ---------------------------------------------------------------------------------------------------------- what is asked


class ImageSource(Protocol):
    """The bytes of an image, wherever they are kept. Can be opened again: an import that broke begins anew."""

    @property
    def size_bytes(self) -> int:
        """Of the file, in its format."""
        ...

    @property
    def format(self) -> ImageFormat:
        """How the disk is written in it."""
        ...

    def open(self) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The file's bytes, in pieces of at most a few MiB."""
        ...


@dataclass(frozen=True, slots=True)
class DiskSpec:
    """A disk to be made.

    disk_id      ours
    size_bytes   what the guest sees; at least the image's, or the copied disk's
    sr           uuid of where it goes
    image        its content; None and no `copy_of`: zeros
    copy_of      the disk id that it is a copy of, in the same pool
    """

    disk_id: str
    name: str
    size_bytes: int
    sr: str
    image: ImageSource | None = None
    copy_of: str = ""


@dataclass(frozen=True, slots=True)
class NicSpec:
    """A network interface: the network's uuid and a MAC that the caller chose, the same at every repetition."""

    network: str
    mac: str


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """A server to be made.

    build        the fencing token of the task that builds: higher for whoever took the task up later
    template     name (or uuid) of the template whose settings, and unless `root` has an image whose disks, the VM gets;
                 empty with an image: a plain HVM guest
    root         its first disk, which is its own. Without image: the template's disk, copied to `root.sr`
    disks        further disks of its own, made beside it
    """

    server_id: str
    name: str
    build: int
    memory_bytes: int
    vcpu_count: int
    root: DiskSpec
    template: str = ""
    disks: tuple[DiskSpec, ...] = ()
    nics: tuple[NicSpec, ...] = ()


class PowerAction(Enum):
    """What can be done to a server's power; each is content when the state that it leads to is there already."""

    START = "start"
    SHUT_DOWN = "shut down"
    """The guest is asked; TryAgain when it does not obey in time."""
    CUT = "cut"
    """Hard shutdown, from any state."""
    REBOOT = "reboot"
    RESET = "reset"
    """Hard reboot."""
    PAUSE = "pause"
    UNPAUSE = "unpause"
    SUSPEND = "suspend"
    RESUME = "resume"


@dataclass(frozen=True, slots=True)
class MigrationTicket:
    """Permission to send a VM to a host, from the pool that the host is in (`host.migrate_receive`)."""

    pool: str
    host: str
    token: Mapping[str, str] = field(repr=False)
    """Holds a session of the receiving pool: a secret."""


@dataclass(frozen=True, slots=True)
class Migration:
    """A move of a server.

    host       uuid of the host that it goes to
    disks      disk id -> uuid of the SR that the disk goes to; disks that are not named stay. Empty: a move in a pool
               between hosts that share the storage
    networks   network uuid -> network uuid over there; needed between pools
    ticket     from the receiving pool; needed as soon as `disks` is not empty
    """

    host: str
    disks: Mapping[str, str] = field(default_factory=dict)
    networks: Mapping[str, str] = field(default_factory=dict)
    ticket: MigrationTicket | None = None


# ------------------------------------------------------------------------------------------------------------- the verbs


class Hypervisor(Protocol):
    """One pool. Every verb raises the errors above and nothing else."""

    @property
    def name(self) -> str:
        """What the operator called the pool."""
        ...

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the picture of the pool current until cancelled; started as soon as the first attempt to reach it is over,
        well or not. A pool that comes back is picked up again. Never raises HypervisorError."""
        ...

    async def inventory(self, *, fresh: bool = False) -> PoolInventory:
        """All that the pool holds: from the picture that events keep current, or read anew. Raises Unreachable rather than
        answer with a picture that events no longer keep."""
        ...

    async def find_server(self, server_id: str) -> VmFacts | None:
        """The VM of that server as the pool has it now (never its snapshots)."""
        ...

    async def create_server(self, spec: ServerSpec, host: str, progress: Progress = lambda done: None) -> VmFacts:
        """Make the VM with its disks and interfaces, halted. `host` only says from where the SRs must be reachable.

        A whole one of that id is returned as it is. An unfinished one of the same or an earlier build is removed and made
        again; one of a later build is Superseded. Takes back what it made when it fails. Raises NextHost, NextSr, Refused
        (unknown template, a size below the image's, an image that is none).
        """
        ...

    async def power(self, server_id: str, action: PowerAction, host: str = "") -> VmFacts:
        """Change the power state; START and RESUME on `host` (`VM.start_on` paused, finish, unpause). Raises NextHost,
        WrongState, Gone, TryAgain."""
        ...

    async def destroy_server(self, server_id: str) -> None:
        """Cut its power, delete the VM, its own disks, its snapshots and their disks, and what is unfinished of it. Volumes
        stay, detached."""
        ...

    async def remove_vm(self, uuid: str) -> None:
        """One VM by the pool's uuid, with the disks that are its own: a leftover of a broken build, or a twin, that the
        reconciler found. Content when it is gone. Refused without this cluster's mark, WrongState while it runs."""
        ...

    async def remove_disk(self, uuid: str) -> None:
        """One disk by the pool's uuid, that a broken copy left. Refused without this cluster's mark, WrongState while it is
        attached."""
        ...

    async def set_name(self, server_id: str, name: str) -> None:
        """What the pool's own tools call the VM."""
        ...

    async def console_url(self, server_id: str) -> str:
        """Where its console can be reached; holds no secret. Raises WrongState when it does not run."""
        ...

    async def snapshot_server(self, server_id: str, snapshot_id: str, name: str) -> None:
        """Keep the VM's disks as they are now."""
        ...

    async def revert_server(self, server_id: str, snapshot_id: str) -> None:
        """Bring its disks back to what the snapshot holds; the server is halted afterwards. Disks keep their ids."""
        ...

    async def delete_server_snapshot(self, snapshot_id: str) -> None:
        """The snapshot with its disks."""
        ...

    async def create_disk(self, spec: DiskSpec, progress: Progress = lambda done: None) -> DiskFacts:
        """Make a disk that is nobody's own: a volume. A whole one of that id is returned; an unfinished one made again.
        Raises NextSr, Gone (`copy_of`), Refused."""
        ...

    async def resize_disk(self, disk_id: str, size_bytes: int) -> DiskFacts:
        """Grow it. Raises WrongState while it is attached to a running server, Refused for less than it has, NextSr when the
        SR is full."""
        ...

    async def snapshot_disk(self, disk_id: str, snapshot_id: str, name: str) -> DiskFacts:
        """A disk of the id `snapshot_id` on the same SR, which no later write to the first one changes."""
        ...

    async def delete_disk(self, disk_id: str) -> None:
        """Raises WrongState while it is attached."""
        ...

    async def attach_disk(self, server_id: str, disk_id: str, *, read_only: bool = False) -> AttachedDisk:
        """Put it into the server, plugged at once if that runs. Raises WrongState if another server has it, NextSr if the
        server's host does not reach its SR."""
        ...

    async def detach_disk(self, server_id: str, disk_id: str) -> None:
        """Take it out, with the retries that a guest which holds on to it asks for; then TryAgain."""
        ...

    def export_disk(self, disk_id: str, image_format: ImageFormat) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Its bytes as a file of that format, in pieces of at most a few MiB. Raises Gone, and WrongState while a running
        server writes to it (take a snapshot first)."""
        ...

    async def prepare_receive(self, host: str, network: str = "") -> MigrationTicket:
        """Permission for another pool (or this one) to send VMs to this host, over that network (empty: management)."""
        ...

    async def migrate(self, server_id: str, migration: Migration, progress: Progress = lambda done: None) -> None:
        """Move the server, running or halted, to another host, with the disks that are named. Cancelling the call cancels
        the move. Ids are kept; the pool's uuids of VM and disks may change. Content when the server is at `host` and its
        disks where they should be. Said to the pool that the server is in: one that it has left already raises Gone.
        Raises MigrationFailed, NextHost, NextSr, TryAgain (three storage migrations run already), WrongState."""
        ...

    async def set_host_enabled(self, host: str, enabled: bool) -> None:
        """Whether the pool itself starts VMs on it."""
        ...

    async def declare_dead(self, host: str) -> None:
        """Take a host for dead, so that its VMs count as halted and can be started elsewhere. Raises WrongState when it
        answers a probe: two hosts must never write to one disk."""
        ...

    async def close(self) -> None:
        """End the sessions."""
        ...
