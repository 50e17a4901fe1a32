"""`ringstead status`: what every device says of itself, which processes run, and what waits to be done.

What does not answer is shown as down, not waited for; the command itself fails only where there is no cluster to ask.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ringstead.commands.access import Target, open_cluster, run_command
from ringstead.commands.cluster.daemon_output import daemon_table
from ringstead.commands.cluster.device_status import (
    ASK_TIMEOUT_S,
    DeviceStatus,
    ask_devices,
    device_table,
    require_one_up,
)
from ringstead.errors import ClusterDown
from ringstead.processes.control import ask, control_path
from ringstead.settings.config import ProxyConfig

if TYPE_CHECKING:
    from ringstead.rings.change import Progress


@dataclass(frozen=True)
class ClusterStatus:
    """Everything that the command shows."""

    endpoint: str
    epoch: int
    replicas: float
    devices: list[DeviceStatus]
    services: list[dict[str, Any]]
    """From the supervisor; empty where there is none."""
    rebalance: Progress
    """How far a move to a newer ring is."""
    daemons: dict[str, Any]
    """What each daemon of this node tells of itself; empty when their process does not answer."""
    controller: dict[str, Any]
    """What the controller of servers and volumes does; empty where none answers."""

    @property
    def healthy(self) -> bool:
        """Every device is up and takes writes."""
        return all(device.well for device in self.devices)


def show_status(data: Path, config: Path | None, *, as_json: bool) -> None:
    """Print it. Raises RingsteadError where there is no cluster."""
    settings = Target(data, config).settings()
    found = run_command(lambda: _gather(settings))
    if as_json:
        click.echo(json.dumps({**asdict(found), "rebalance": found.rebalance.as_json(), "healthy": found.healthy}))
    else:
        _print(found)
    require_one_up(found.devices)


async def _gather(settings: ProxyConfig) -> ClusterStatus:
    from ringstead.rings.change import progress
    from ringstead.rings.in_force import load_generations

    async with open_cluster(settings) as cluster:
        devices = await ask_devices(cluster)
        ring = cluster.ring
    host = f"[{settings.listen}]" if ":" in settings.listen else settings.listen
    return ClusterStatus(
        f"http://{host}:{settings.port}",
        ring.epoch,
        ring.replica_count,
        devices,
        _ask_process(settings, "supervisor", "status").get("services", []),
        progress(settings, load_generations(settings.ring_file)),
        _ask_process(settings, "daemons", "status").get("daemons", {}),
        _ask_process(settings, "controller", "statistics"),
    )


def _ask_process(settings: ProxyConfig, name: str, operation: str) -> dict[str, Any]:
    try:
        return ask(control_path(settings.socket_dir, name), operation, timeout_s=ASK_TIMEOUT_S)
    except ClusterDown:
        return {}


def _print(found: ClusterStatus) -> None:
    from rich.console import Console

    from ringstead.commands.cluster.rebalance import progress_text

    console = Console(soft_wrap=True, highlight=False)
    console.print(f"{found.endpoint}  ring epoch {found.epoch}, {found.replicas:g} replicas")
    console.print()
    console.print(device_table(found.devices))
    for device in found.devices:
        for remark in device.remarks:
            console.print(remark, style="yellow", markup=False)
    console.print()
    for service in found.services:
        if service["state"] != "ready":
            console.print(f"[yellow]{service['name']} is {service['state']}[/]")
    if found.services:
        deaths = sum(service["deaths"] for service in found.services)
        console.print(f"processes  {len(found.services)}, {deaths} died and were started again")
    if found.rebalance.problem:
        console.print(f"[red]rings      {found.rebalance.problem}[/]")
    elif found.rebalance.under_way:
        console.print(f"rebalance  {progress_text(found.rebalance)} (`ringstead rebalance`)")
    if found.daemons:
        console.print(daemon_table(found.daemons))
    else:
        console.print("daemons    [red]do not answer[/]")
    if found.controller:
        console.print(_controller_line(found.controller))


def _controller_line(figures: dict[str, Any]) -> str:
    down = f", [red]{figures['pools_down']} do not answer[/]" if figures["pools_down"] else ""
    defects = f", [red]{figures['defects']} defects (see its log)[/]" if figures["defects"] else ""
    return f"controller {figures['servers']} servers, {figures['pools']} pools{down}, {figures['open']} tasks{defects}"
