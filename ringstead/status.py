"""`ringstead status`: what every device says of itself, which processes run, and what waits to be done.

It asks the devices over the same wire that the proxies use, so a device that it calls up is one that proxies reach. What
does not answer is shown as down, not waited for; the command itself fails only where there is no cluster to ask.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ringstead.access import Target, open_cluster, run_command
from ringstead.config import ProxyConfig
from ringstead.control import ask, control_path
from ringstead.daemon_output import daemon_table
from ringstead.errors import ClusterDown
from ringstead.figures import size_text

if TYPE_CHECKING:
    from proxy.cluster import Replica

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
    """Why it takes no writes; empty while it does."""
    total_bytes: int
    free_bytes: int
    used_bytes: int
    """By logs and blobs."""
    objects: int
    containers: int
    rows: int
    corrupt: int
    """Reads that found wrong bytes, since its process started."""


@dataclass(frozen=True)
class ClusterStatus:
    """Everything that the command shows."""

    endpoint: str
    epoch: int
    replicas: float
    devices: list[DeviceStatus]
    services: list[dict[str, Any]]
    """From the supervisor; empty where there is none."""
    daemons: dict[str, Any]
    """What each daemon of this node tells of itself; empty when their process does not answer."""

    @property
    def healthy(self) -> bool:
        """Every device is up and takes writes."""
        return all(device.up and not device.fenced for device in self.devices)


def show_status(data: Path, config: Path | None, *, as_json: bool) -> None:
    """Print it. Raises RingsteadError where there is no cluster."""
    settings = Target(data, config).settings()
    found = run_command(lambda: _gather(settings))
    if as_json:
        click.echo(json.dumps({**asdict(found), "healthy": found.healthy}))
    else:
        _print(found)
    if not any(device.up for device in found.devices):
        raise ClusterDown("no device answers; is the cluster running? (`ringstead up`)")


async def _gather(settings: ProxyConfig) -> ClusterStatus:
    import trio

    async with open_cluster(settings) as cluster:
        found: dict[int, DeviceStatus] = {}

        async def look(replica: Replica) -> None:
            found[replica.device.id] = await _ask_device(replica)

        async with trio.open_nursery() as nursery:
            for replica in cluster.replicas.values():
                nursery.start_soon(look, replica)
        devices = sorted(found.values(), key=lambda device: (device.region, device.zone, device.id))
        ring = cluster.ring
    host = f"[{settings.listen}]" if ":" in settings.listen else settings.listen
    return ClusterStatus(
        f"http://{host}:{settings.port}",
        ring.epoch,
        ring.replica_count,
        devices,
        _ask_process(settings, "supervisor", "status").get("services", []),
        _ask_process(settings, "daemons", "status").get("daemons", {}),
    )


async def _ask_device(replica: Replica) -> DeviceStatus:
    from storage_node.operations import FoundStatistics, GetStatistics

    answer = await replica.client.call(GetStatistics(), timeout_s=ASK_TIMEOUT_S)
    device = replica.device
    place = (device.id, device.region, device.zone, device.node, device.port, device.name)
    figures = answer.statistics if isinstance(answer, FoundStatistics) else None
    if figures is None:
        return DeviceStatus(*place, False, "", 0, 0, 0, 0, 0, 0, 0)
    return DeviceStatus(
        *place,
        True,
        figures.fenced,
        figures.total_bytes,
        figures.free_bytes,
        figures.log_bytes + figures.blob_bytes,
        figures.object_count,
        figures.container_count,
        figures.row_count,
        figures.corrupt,
    )


def _ask_process(settings: ProxyConfig, name: str, operation: str) -> dict[str, Any]:
    try:
        return ask(control_path(settings.socket_dir, name), operation, timeout_s=ASK_TIMEOUT_S)
    except ClusterDown:
        return {}


def _print(found: ClusterStatus) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading, justify in (
        ("ZONE", "left"),
        ("DEVICE", "left"),
        ("ADDRESS", "left"),
        ("STATE", "left"),
        ("USED", "right"),
        ("FREE", "right"),
        ("OBJECTS", "right"),
        ("CONTAINERS", "right"),
    ):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for device in found.devices:
        state = "[red]down[/]" if not device.up else "[yellow]fenced[/]" if device.fenced else "[green]up[/]"
        figures = (
            (
                size_text(device.used_bytes),
                size_text(device.free_bytes),
                f"{device.objects:,}",
                f"{device.containers:,}",
            )
            if device.up
            else ("", "", "", "")
        )
        table.add_row(f"r{device.region}z{device.zone}", device.name, f"{device.node}:{device.port}", state, *figures)
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"{found.endpoint}  ring epoch {found.epoch}, {found.replicas:g} replicas")
    console.print()
    console.print(table)
    for device in found.devices:
        if device.fenced:
            console.print(f"[yellow]{device.name} takes no writes: {device.fenced}[/]")
        if device.corrupt:
            console.print(f"[yellow]{device.name} found {device.corrupt} damaged reads since it started[/]")
    console.print()
    for service in found.services:
        if service["state"] != "ready":
            console.print(f"[yellow]{service['name']} is {service['state']}[/]")
    if found.services:
        deaths = sum(service["deaths"] for service in found.services)
        console.print(f"processes  {len(found.services)}, {deaths} died and were started again")
    if found.daemons:
        console.print(daemon_table(found.daemons))
    else:
        console.print("daemons    [red]do not answer[/]")
