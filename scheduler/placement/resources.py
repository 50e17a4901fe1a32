"""What there is to place on: hosts and SRs, each a device in the ring's topology.

Problem: a hypervisor reports dozens of fields, some of them stale, some counting what we placed ourselves. Placement
needs few figures that mean one thing each.

Idea: one frozen `Host` and one frozen `Sr`, checked when made. Their place (region, zone, node, weight in the ring) is
the ring's own `Device`. They say what *can* be claimed, never what is: usage is in the claims alone, so nothing counts
twice. What servers that are not ours take is part of `Host.reserved_memory_mib`, what such disks take is
`Sr.foreign_bytes`.

Rejected: free memory as the hypervisor gives it (`host.compute_free_memory`) as the figure to place by. It lags behind
claims whose build has not begun, and two builds would see the same memory. It is a check of the driver's just before a
start.

Invariants: sizes are not negative; a host's device is of kind `host`, an SR's of kind `sr`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from ring.topology import Device, tier_name
from scheduler.errors import InventoryError

Zone: TypeAlias = tuple[int, int]
"""An availability zone: (region, zone) of the ring's topology. `zone_name` writes it as people do: `r1z2`."""

OVERCOMMIT_MAX = 64.0
VCPU_RATIO = 4.0
"""vCPUs that may be given out per processor, where nobody says otherwise."""
OVER_SUBSCRIPTION_MAX = 100.0
MEMORY_MIB_MAX = 1 << 40
SR_BYTES_MAX = 1 << 60
"""Sums of all SRs of a cloud stay within 63 bits."""


def zone_name(zone: Zone) -> str:
    """`r1z2` for (1, 2)."""
    return tier_name(zone)


@dataclass(frozen=True, slots=True)
class Host:
    """A Xen host that servers can be put on. Checked when made (InventoryError).

    host_id              its uuid in the pool, unique over all pools
    pool_id              the pool that it belongs to
    device               its place in the ring, of kind `host`; weight 0 drains it: nothing new is put there
    name                 what people call it
    memory_mib           all the memory of the machine
    reserved_memory_mib  what servers may not have: dom0, the hypervisor, a margin, and servers that are not ours
    pcpus                processors (threads) of the machine
    vcpu_ratio           vCPUs that may be given out per processor
    reserved_vcpus       vCPUs that servers may not have
    traits               what it has, such as `cpu-avx512` or `gpu`; a request may require or forbid them
    tags                 operators' words, such as `gold`; a request may require them
    enabled              False: an operator keeps new servers away
    maintenance          True: being emptied or worked on
    live                 False: it does not answer our probes
    """

    host_id: str
    pool_id: str
    device: Device
    memory_mib: int
    pcpus: int
    name: str = ""
    reserved_memory_mib: int = 0
    vcpu_ratio: float = VCPU_RATIO
    reserved_vcpus: int = 0
    traits: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()
    enabled: bool = True
    maintenance: bool = False
    live: bool = True

    def __post_init__(self) -> None:
        _check_id("host", self.host_id)
        if self.device.kind != "host":
            raise InventoryError(
                f"host {self.host_id}: its device in the ring is of kind {self.device.kind!r}, not 'host'"
            )
        _check_range(f"host {self.host_id}: memory_mib", self.memory_mib, MEMORY_MIB_MAX)
        _check_range(f"host {self.host_id}: reserved_memory_mib", self.reserved_memory_mib, MEMORY_MIB_MAX)
        _check_range(f"host {self.host_id}: pcpus", self.pcpus, 1 << 20)
        _check_range(f"host {self.host_id}: reserved_vcpus", self.reserved_vcpus, 1 << 20)
        if not 0 < self.vcpu_ratio <= OVERCOMMIT_MAX:
            raise InventoryError(f"host {self.host_id}: vcpu_ratio {self.vcpu_ratio} is not in (0, {OVERCOMMIT_MAX:g}]")

    @property
    def zone(self) -> Zone:
        """Its availability zone."""
        return (self.device.region, self.device.zone)

    @property
    def memory_limit_mib(self) -> int:
        """What all servers of ours together may have of its memory."""
        return max(0, self.memory_mib - self.reserved_memory_mib)

    @property
    def vcpus_limit(self) -> int:
        """How many vCPUs all servers of ours together may have."""
        return max(0, int(self.pcpus * self.vcpu_ratio) - self.reserved_vcpus)

    @property
    def is_open(self) -> bool:
        """Whether new servers may come: enabled, not in maintenance, live, with weight in the ring."""
        return self.enabled and not self.maintenance and self.live and self.device.weight > 0


@dataclass(frozen=True, slots=True)
class Sr:
    """A storage repository that disks can be put on. Checked when made (InventoryError).

    sr_id               its uuid, unique over all pools
    pool_id             the pool that it belongs to
    device              its place in the ring, of kind `sr`; weight 0 drains it
    name                what people call it
    size_bytes          all of it (SR.physical_size)
    used_bytes          what is written on it now (SR.physical_utilisation), ours and others'
    foreign_bytes       virtual size of the disks on it that no claim covers (SR.virtual_allocation less ours)
    reserved_bytes      what is never given out
    thin                whether a disk takes space only as it is written
    over_subscription   virtual bytes that may be given out per byte of size; counts only where `thin`
    shared              whether several hosts may reach it
    host_ids            the hosts that reach it: those with a plugged PBD
    volume_types        operators' words for what it offers, such as `ssd`; a disk may ask for one
    image_ids           the images that lie on it already, from which a disk is cloned in no time
    disk_bytes_max      the largest disk it can hold (2 TiB less some for VHD), None for any
    enabled             False: an operator keeps new disks away
    """

    sr_id: str
    pool_id: str
    device: Device
    size_bytes: int
    host_ids: frozenset[str]
    name: str = ""
    used_bytes: int = 0
    foreign_bytes: int = 0
    reserved_bytes: int = 0
    thin: bool = False
    over_subscription: float = 1.0
    shared: bool = False
    volume_types: frozenset[str] = frozenset()
    image_ids: frozenset[str] = frozenset()
    disk_bytes_max: int | None = None
    enabled: bool = True

    def __post_init__(self) -> None:
        _check_id("SR", self.sr_id)
        if self.device.kind != "sr":
            raise InventoryError(f"SR {self.sr_id}: its device in the ring is of kind {self.device.kind!r}, not 'sr'")
        for what in ("size_bytes", "used_bytes", "foreign_bytes", "reserved_bytes"):
            _check_range(f"SR {self.sr_id}: {what}", getattr(self, what), SR_BYTES_MAX)
        if not 0 < self.over_subscription <= OVER_SUBSCRIPTION_MAX:
            raise InventoryError(
                f"SR {self.sr_id}: over_subscription {self.over_subscription} is not in (0, {OVER_SUBSCRIPTION_MAX:g}]"
            )
        if not self.shared and len(self.host_ids) > 1:
            raise InventoryError(f"SR {self.sr_id} is not shared and {len(self.host_ids)} hosts reach it")

    @property
    def zone(self) -> Zone:
        """Its availability zone."""
        return (self.device.region, self.device.zone)

    @property
    def limit_bytes(self) -> int:
        """What the disks of ours together may have of it, by virtual size."""
        usable = max(0, self.size_bytes - self.reserved_bytes)
        whole = int(usable * self.over_subscription) if self.thin else usable
        return max(0, whole - self.foreign_bytes)

    @property
    def is_open(self) -> bool:
        """Whether new disks may come: enabled, with weight in the ring, and not written full."""
        return self.enabled and self.device.weight > 0 and self.used_bytes + self.reserved_bytes <= self.size_bytes


def _check_id(what: str, text: str) -> None:
    if not text or len(text) > 255:
        raise InventoryError(f"{what} id {text[:40]!r} is empty or longer than 255 characters")


def _check_range(what: str, number: int, number_max: int) -> None:
    if not 0 <= number <= number_max:
        raise InventoryError(f"{what} {number} is outside 0..{number_max}")
