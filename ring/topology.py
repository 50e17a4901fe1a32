"""What there is: devices, and the failure domains that they stand in.

Problem: data and virtual machines must survive the loss of the same things, and the builder, the plan, the pictures and
the services all speak of devices. A dict that anyone may change in place (as Swift has it) is checked nowhere.

Idea: one frozen `Device`, checked when it is made, so that whoever holds one may believe it. Its failure domains are its
coordinates: region, zone, node. A *tier* is such a domain as a tuple: `(region,)`, `(region, zone)`,
`(region, zone, node)`, `(region, zone, node, id)`; `()` is everything. A `Topology` is a set of devices with distinct ids
and distinct places.

Rejected: nested objects for regions and zones. They have no attributes of their own, so the coordinates suffice, and a
device that moves to another zone is one changed number.

Invariants: weights are finite and not negative; no two devices of a topology share an id, or node, port and name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["disk", "host", "sr"]
"""`disk` holds replicas of objects, containers and accounts; `host` is a Xen host; `sr` is a storage repository."""
KINDS: tuple[Kind, ...] = ("disk", "host", "sr")
Tier: TypeAlias = tuple[int | str, ...]

REGION_MAX = 65_535
ZONE_MAX = 65_535
PORT_MAX = 65_535
WEIGHT_MAX = 1e12
"""A weight is usually gigabytes; this leaves room for whoever takes bytes, and sums of them stay exact enough."""
NODE_BYTES_MAX = 255
"""As long as a DNS name may be."""
NAME_BYTES_MAX = 255
"""As long as a file name may be: a device is a directory or a mount point."""
META_ENTRIES_MAX = 64
META_BYTES_MAX = 4096
DEVICE_COUNT_MAX = 1 << 20

_SHORT = 60
"""Characters up to which a text is short enough in any encoding."""
_NODE = re.compile(r"[^\s/\[\]\x00-\x1f\x7f]+")
_NAME = re.compile(r"[^\s/\x00-\x1f\x7f]+")


class TopologyError(ValueError):
    """The caller's: a device or a set of devices that cannot be. The message names the offending value."""


@dataclass(frozen=True, slots=True)
class Device:
    """One place that something can be put on. Checked when made (TopologyError).

    id       its number in the ring, which it keeps for life
    region, zone, node   its failure domains; `node` is the address (IP or host name) of the machine
    port     where its service listens
    name     its name on the node, such as `sdb`
    weight   its share of all that is stored, in proportion to the other weights; 0 takes nothing
    kind     `disk`, `host` or `sr`
    meta     free text of the operator's, by key
    """

    id: int
    region: int
    zone: int
    node: str
    port: int
    name: str
    weight: float
    kind: Kind = "disk"
    meta: dict[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        # The common case in one expression: a ring of thousands of devices is loaded in milliseconds.
        if not (
            0 <= self.id < DEVICE_COUNT_MAX
            and 0 <= self.region <= REGION_MAX
            and 0 <= self.zone <= ZONE_MAX
            and 0 <= self.port <= PORT_MAX
            and 0.0 <= self.weight <= WEIGHT_MAX
            and self.kind in KINDS
            and not self.meta
            and len(self.node) <= _SHORT
            and len(self.name) <= _SHORT
            and _NODE.fullmatch(self.node)
            and _NAME.fullmatch(self.name)
        ):
            self._explain()

    def _explain(self) -> None:
        """Check one thing after the other and say which is wrong, if any is."""
        _check_range("device id", self.id, DEVICE_COUNT_MAX - 1)
        _check_range("region", self.region, REGION_MAX)
        _check_range("zone", self.zone, ZONE_MAX)
        _check_range("port", self.port, PORT_MAX)
        _check_text("node", self.node, _NODE, NODE_BYTES_MAX)
        _check_text("device name", self.name, _NAME, NAME_BYTES_MAX)
        check_weight(self.weight)
        if self.kind not in KINDS:
            raise TopologyError(f"kind {self.kind!r} is none of {', '.join(KINDS)}")
        _check_meta(self.meta)

    @property
    def place(self) -> tuple[str, int, str]:
        """What no other device may share: node, port, name."""
        return (self.node, self.port, self.name)

    @property
    def tiers(self) -> tuple[Tier, Tier, Tier, Tier]:
        """The failure domains that it is in, from the largest to the device itself."""
        return (
            (self.region,),
            (self.region, self.zone),
            (self.region, self.zone, self.node),
            (self.region, self.zone, self.node, self.id),
        )

    def __str__(self) -> str:
        node = f"[{self.node}]" if ":" in self.node else self.node
        return f"r{self.region}z{self.zone}-{node}:{self.port}/{self.name}"


@dataclass(frozen=True, slots=True)
class Topology:
    """Devices with distinct ids and places, in the order of their ids. Checked when made (TopologyError)."""

    devices: tuple[Device, ...]

    @classmethod
    def of(cls, devices: Iterable[Device]) -> Topology:
        """The topology of these devices, in whatever order they come."""
        return cls(tuple(sorted(devices, key=lambda device: device.id)))

    def __post_init__(self) -> None:
        places: dict[tuple[str, int, str], Device] = {}
        last_id = -1
        for device in self.devices:
            if device.id <= last_id:
                raise TopologyError(f"device id {device.id} occurs twice")
            last_id = device.id
            twin = places.setdefault(device.place, device)
            if twin is not device:
                raise TopologyError(f"device {device} is there already, as id {twin.id}")

    def __iter__(self) -> Iterator[Device]:
        return iter(self.devices)

    def __len__(self) -> int:
        return len(self.devices)

    def get(self, device_id: int) -> Device | None:
        """The device of that id, or None."""
        return next((device for device in self.devices if device.id == device_id), None)

    def next_id(self, taken: Iterable[int] = ()) -> int:
        """The lowest id that neither a device here nor `taken` has."""
        used = {device.id for device in self.devices}.union(taken)
        return next(number for number in range(len(used) + 1) if number not in used)


def tier_name(tier: Tier) -> str:
    """A tier as people write it: `r1`, `r1z2`, `r1z2-10.0.0.1`; `cluster` for the whole."""
    if not tier:
        return "cluster"
    text = f"r{tier[0]}"
    if len(tier) > 1:
        text += f"z{tier[1]}"
    if len(tier) > 2:
        text += f"-{tier[2]}"
    if len(tier) > 3:
        text += f"/d{tier[3]}"
    return text


def check_weight(weight: float) -> float:
    """The weight, if it can be one: finite, not negative, not beyond WEIGHT_MAX. TopologyError otherwise."""
    if not math.isfinite(weight):
        raise TopologyError(f"weight {weight} is not a number that one can compute with")
    if weight < 0:
        raise TopologyError(f"weight {weight:g} is negative; 0 drains a device")
    if weight > WEIGHT_MAX:
        raise TopologyError(f"weight {weight:g} is above {WEIGHT_MAX:g}")
    return weight


def _check_range(what: str, number: int, number_max: int) -> None:
    if not 0 <= number <= number_max:
        raise TopologyError(f"{what} {number} is outside 0..{number_max}")


def _check_text(what: str, text: str, pattern: re.Pattern[str], bytes_max: int) -> None:
    if not pattern.fullmatch(text):
        raise TopologyError(f"{what} {text!r} is empty or holds a space, a slash or a control character")
    if len(text.encode()) > bytes_max:
        raise TopologyError(f"{what} {text[:40]!r}… is longer than {bytes_max} bytes")


def _check_meta(meta: dict[str, str]) -> None:
    if len(meta) > META_ENTRIES_MAX:
        raise TopologyError(f"{len(meta)} metadata entries are more than {META_ENTRIES_MAX}")
    size = sum(len(key.encode()) + len(value.encode()) for key, value in meta.items())
    if size > META_BYTES_MAX:
        raise TopologyError(f"metadata of {size} bytes is more than {META_BYTES_MAX}")
