"""The devices of a ring, asked over the wire what they say of themselves: for `ringstead status` and `ringstead device`.

They are asked over the same connections that proxies use, so a device that is called up is one that proxies reach. What
does not answer is shown as down, not waited for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ringstead.commands.figures import size_text
from ringstead.errors import ClusterDown

if TYPE_CHECKING:
    from rich.table import Table

    from proxy.cluster import Cluster, Replica

ASK_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True)
class DeviceStatus:
    """One device of the ring."""

    id: int
    region: int
    zone: int
    node: str
    port: int
    name: str
    up: bool
    fenced: str
    """Why it takes no writes until it is released; empty while it does."""
    full: str
    """Why it takes no data for want of room; empty while there is enough."""
    filling: bool
    """It was made anew, or lost something: what it has not got does not count until the replicator has filled it."""
    total_bytes: int
    free_bytes: int
    used_bytes: int
    """By logs and blobs."""
    objects: int
    containers: int
    rows: int
    corrupt: int
    """Reads that found wrong bytes, since its process started."""

    @property
    def well(self) -> bool:
        """It is up and takes writes. (One that is being filled does, and is on its way.)"""
        return self.up and not self.fenced and not self.full

    @property
    def state(self) -> tuple[str, str]:
        """Its state in a word, and that word's colour."""
        if not self.up:
            return "down", "red"
        if self.fenced:
            return "fenced", "red"
        if self.full:
            return "full", "yellow"
        return ("filling", "yellow") if self.filling else ("up", "green")

    @property
    def remarks(self) -> list[str]:
        """Sentences about what an operator should know."""
        said = []
        if self.fenced:
            said.append(
                f"{self.name} takes no writes: {self.fenced} (`ringstead device release {self.name}` ends that)"
            )
        elif self.full:
            said.append(f"{self.name} is full: {self.full}")
        if self.filling:
            said.append(f"{self.name} is being filled: other replicas answer for it (`ringstead daemon replicator`)")
        if self.corrupt:
            said.append(f"{self.name} found {self.corrupt} damaged reads since it started")
        return said


async def ask_devices(cluster: Cluster) -> list[DeviceStatus]:
    """All devices of the rings in force, by region, zone and id; asked at once."""
    import trio

    found: list[DeviceStatus] = []

    async def look(replica: Replica) -> None:
        found.append(await _ask(replica))

    async with trio.open_nursery() as nursery:
        for replica in cluster.replicas.values():
            nursery.start_soon(look, replica)
    return sorted(found, key=lambda device: (device.region, device.zone, device.id))


async def _ask(replica: Replica) -> DeviceStatus:
    from storage_node.operations import FoundStatistics, GetStatistics

    answer = await replica.client.call(GetStatistics(), timeout_s=ASK_TIMEOUT_S)
    device = replica.device
    place = (device.id, device.region, device.zone, device.node, device.port, device.name)
    figures = answer.statistics if isinstance(answer, FoundStatistics) else None
    if figures is None:
        return DeviceStatus(*place, False, "", "", False, 0, 0, 0, 0, 0, 0, 0)
    return DeviceStatus(
        *place,
        True,
        figures.fenced,
        figures.full,
        bool(figures.filling),
        figures.total_bytes,
        figures.free_bytes,
        figures.log_bytes + figures.blob_bytes,
        figures.object_count,
        figures.container_count,
        figures.row_count,
        figures.corrupt,
    )


def require_one_up(devices: Sequence[DeviceStatus]) -> None:
    """Raise ClusterDown where no device answers."""
    if not any(device.up for device in devices):
        raise ClusterDown("no device answers; is the cluster running? (`ringstead up`)")


def device_table(devices: Sequence[DeviceStatus]) -> Table:
    """One line a device."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("ZONE", "DEVICE", "ADDRESS", "STATE", "USED", "FREE", "OBJECTS", "CONTAINERS"):
        table.add_column(heading, justify="right" if heading in ("USED", "FREE", "OBJECTS", "CONTAINERS") else "left")
    for device in devices:
        state, colour = device.state
        figures = [size_text(device.used_bytes), size_text(device.free_bytes)]
        figures += [f"{device.objects:,}", f"{device.containers:,}"]
        table.add_row(
            f"r{device.region}z{device.zone}",
            device.name,
            f"{device.node}:{device.port}",
            f"[{colour}]{state}[/]",
            *(figures if device.up else []),
        )
    return table
