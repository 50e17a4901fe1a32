"""What is asked for: a server with all its disks, or a volume alone.

Problem: a server's memory, its own disks, volumes that come with it and volumes that are there already must fit
together or not at all; and moving a server asks the same question as making it, with disks that lie somewhere already.

Idea: one frozen `ServerRequest` with a `Disk` for each disk, new or there. A disk says how near to the server it must
lie, and, if it is there, where it lies and whether it may move. So creation, migration, evacuation and rebalancing ask
alike.

Invariants (RequestError): a server has memory and a vCPU; disk ids are distinct; sizes are positive; a new disk of the
server's own lies where its host reaches it; no trait is both required and forbidden.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from scheduler.errors import RequestError
from scheduler.placement.resources import SR_BYTES_MAX, Zone

DISKS_MAX = 64
"""Devices that a Xen VM can have are fewer; a limit keeps the search for SRs short."""
MEMORY_MIB_MAX = 1 << 30
VCPUS_MAX = 4096


class Policy(Enum):
    """How the members of a server group lie to each other. The soft ones are wishes, the hard ones are kept at commit."""

    AFFINITY = "affinity"
    ANTI_AFFINITY = "anti-affinity"
    SOFT_AFFINITY = "soft-affinity"
    SOFT_ANTI_AFFINITY = "soft-anti-affinity"

    @property
    def hard(self) -> bool:
        """Whether a claim that breaks it is refused."""
        return self in (Policy.AFFINITY, Policy.ANTI_AFFINITY)


class Nearness(Enum):
    """Where a disk may lie, seen from its server."""

    HOST = "host"
    """On an SR that the server's host reaches: it can be attached as it is."""
    ZONE = "zone"
    """Anywhere in the server's availability zone; nearer is better."""
    ANYWHERE = "anywhere"
    """On any SR; nearer is better."""


@dataclass(frozen=True, slots=True)
class Membership:
    """A server's part in a server group.

    group_id       the group
    policy         of the group, the same for all members
    member_index   0 for the first; member i goes to where the ring has replica i of the group
    """

    group_id: str
    policy: Policy
    member_index: int = 0

    def __post_init__(self) -> None:
        if not self.group_id:
            raise RequestError("a server group has an id that is not empty")
        if not 0 <= self.member_index < 1 << 20:
            raise RequestError(f"group {self.group_id}: member {self.member_index} is outside 0..{(1 << 20) - 1}")


@dataclass(frozen=True, slots=True)
class Flavor:
    """A size that servers come in.

    memory_mib        of a server, what the hypervisor adds for itself included
    required_traits, forbidden_traits, required_tags   of the host, on top of what a request asks for
    """

    name: str
    memory_mib: int
    vcpus: int
    required_traits: frozenset[str] = frozenset()
    forbidden_traits: frozenset[str] = frozenset()
    required_tags: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if not 1 <= self.memory_mib <= MEMORY_MIB_MAX:
            raise RequestError(f"flavor {self.name}: memory of {self.memory_mib} MiB is outside 1..{MEMORY_MIB_MAX}")
        if not 1 <= self.vcpus <= VCPUS_MAX:
            raise RequestError(f"flavor {self.name}: {self.vcpus} vCPUs are outside 1..{VCPUS_MAX}")


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk that a server needs, new or there already.

    disk_id       of the disk, for a volume the volume's id
    size_bytes    its virtual size: what it takes of an SR
    volume_type   a word that its SR must offer (`Sr.volume_types`), None for any
    near          where it may lie, seen from the server
    volume        True: a volume, with a claim of its own that outlives the server's
    image_id      the image that a new disk is made from; an SR that has it is preferred
    sr_id         where it lies; None for a new disk
    movable       of a disk that is there: whether it may be copied to another SR; if not, the host must suit the disk
    """

    disk_id: str
    size_bytes: int
    volume_type: str | None = None
    near: Nearness = Nearness.HOST
    volume: bool = False
    image_id: str | None = None
    sr_id: str | None = None
    movable: bool = False

    def __post_init__(self) -> None:
        if not self.disk_id:
            raise RequestError("a disk has an id that is not empty")
        if not 1 <= self.size_bytes <= SR_BYTES_MAX:
            raise RequestError(f"disk {self.disk_id}: {self.size_bytes} bytes are outside 1..{SR_BYTES_MAX}")
        if not self.volume and self.near is not Nearness.HOST:
            raise RequestError(f"disk {self.disk_id} is the server's own and must lie where its host reaches it")


@dataclass(frozen=True, slots=True)
class ServerRequest:
    """A server to be placed with all its disks. Checked when made (RequestError).

    server_id             of the server; it decides where the ring would have it
    project               whose quota it counts against
    flavor                its size
    zone                  the availability zone that it must be in, None for any
    membership            its server group, if any
    same_host_as          servers that it must share its host with
    different_host_from   servers that it must not share its host with
    required_traits, forbidden_traits, required_tags   of the host
    disks                 all its disks, new ones and those there already
    image_id              the image that it starts from; hosts that have it at hand are preferred
    host_ids              only one of these hosts; empty for any
    excluded_host_ids     never one of these hosts, such as those where its build failed
    """

    server_id: str
    project: str
    flavor: Flavor
    zone: Zone | None = None
    membership: Membership | None = None
    same_host_as: tuple[str, ...] = ()
    different_host_from: tuple[str, ...] = ()
    required_traits: frozenset[str] = frozenset()
    forbidden_traits: frozenset[str] = frozenset()
    required_tags: frozenset[str] = frozenset()
    disks: tuple[Disk, ...] = ()
    image_id: str | None = None
    host_ids: frozenset[str] = frozenset()
    excluded_host_ids: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if not self.server_id:
            raise RequestError("a server has an id that is not empty")
        if len(self.disks) > DISKS_MAX:
            raise RequestError(f"server {self.server_id}: {len(self.disks)} disks are more than {DISKS_MAX}")
        if len({disk.disk_id for disk in self.disks}) < len(self.disks):
            raise RequestError(f"server {self.server_id}: two of its disks have the same id")
        both = (self.required_traits | self.flavor.required_traits) & (
            self.forbidden_traits | self.flavor.forbidden_traits
        )
        if both:
            raise RequestError(f"server {self.server_id}: trait {min(both)} is both required and forbidden")
        if self.server_id in self.different_host_from:
            raise RequestError(f"server {self.server_id} can't be on another host than itself")


@dataclass(frozen=True, slots=True)
class VolumeRequest:
    """A volume to be placed alone. Checked when made (RequestError).

    disk      the volume, a new one
    project   whose quota it counts against
    zone      the availability zone that it must be in, None for any
    host_id   a host that must reach it, such as that of the server which it is for; None for any
    excluded_sr_ids   never one of these SRs, such as those where making it failed
    """

    disk: Disk
    project: str
    zone: Zone | None = None
    host_id: str | None = None
    excluded_sr_ids: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if not self.disk.volume or self.disk.sr_id is not None:
            raise RequestError(f"disk {self.disk.disk_id} is not a new volume")
