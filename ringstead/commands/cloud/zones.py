"""`ringstead zone`: what a zone holds, of data and of servers, and what would be lost with it.

One ring places both, so one question has one answer: which partitions would fall under a majority (from the ring alone, with
the same code as `ringstead ring lose`), which servers would stop, which groups would lose their majority, and whether the
other zones have room for what has to run again.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ringstead.commands.cloud.client import Controller, cloud_command, say, size_text, table, wait_option
from ringstead.commands.cloud.pools import report_drain
from ringstead.errors import RingsteadError, UsageError

if TYPE_CHECKING:
    from ring.ring import Ring
    from ring.what_if import Loss


@click.group()
def zone() -> None:
    """What a zone holds, and what would be lost with it."""


@zone.command(name="show")
@click.argument("name", metavar="ZONE")
@cloud_command
def zone_show(name: str, data: Path, config: Path | None, as_json: bool) -> None:
    """What the zone holds of data, servers and volumes."""
    answer = _gather(name, data, config)
    if as_json:
        click.echo(json.dumps(answer))
        return
    data_part, compute = answer["data"], answer["compute"]
    click.echo(f"zone {answer['zone']}")
    click.echo(
        f"data     {len(data_part['devices'])} devices, {data_part['replicas']:,} of {data_part['replicas_all']:,} "
        f"replicas of partitions"
    )
    if compute is None:
        click.echo(f"servers  unknown: {answer['compute_problem']}")
        return
    click.echo(f"hosts    {len(compute['hosts'])}, {sum(host['state'] == 'up' for host in compute['hosts'])} up")
    click.echo(f"servers  {len(compute['servers'])}")
    click.echo(f"volumes  {len(compute['volumes'])}, {size_text(sum(v['size_bytes'] for v in compute['volumes']))}")
    if compute["servers"]:
        click.echo()
        rows = [
            [each["name"], each["project"], each["state"], each["host"], each["group"]] for each in compute["servers"]
        ]
        table(["SERVER", "PROJECT", "STATE", "HOST", "GROUP"], rows)
    if compute["volumes"]:
        click.echo()
        rows = [
            [each["name"], each["project"], size_text(each["size_bytes"]), each["server"]]
            for each in compute["volumes"]
        ]
        table(["VOLUME", "PROJECT", "SIZE", "SERVER"], rows, right=["SIZE"])


@zone.command(name="lose")
@click.argument("name", metavar="ZONE")
@cloud_command
def zone_lose(name: str, data: Path, config: Path | None, as_json: bool) -> None:
    """What would stop, and what would fall under a majority, without the zone."""
    answer = _gather(name, data, config)
    if as_json:
        click.echo(json.dumps(answer))
        return
    lost = answer["data"]["loss"]
    click.echo(f"without zone {answer['zone']}")
    click.echo("data")
    if lost["gone"] == lost["below_majority"] == 0:
        click.echo("  all stays readable and writable with a majority of its replicas")
    if lost["gone"]:
        click.echo(f"  {lost['gone']:,} of {lost['partitions']:,} partitions would be gone")
    if lost["below_majority"]:
        click.echo(f"  {lost['below_majority']:,} of {lost['partitions']:,} partitions would be under a majority")
    click.echo(f"  {lost['one_fewer']:,} partitions would have fewer replicas, {lost['repairs']:,} to be made again")
    if lost["obstacle"]:
        click.echo(f"  they could not all be made again: {lost['obstacle']}")
    compute = answer["compute"]
    if compute is None:
        click.echo(f"servers\n  unknown: {answer['compute_problem']}")
        return
    running = [each for each in compute["servers"] if each["state"] in ("active", "paused")]
    click.echo("servers")
    click.echo(f"  {len(running)} would stop" + (f": {', '.join(each['name'] for each in running)}" if running else ""))
    for group in compute["groups"]:
        fate = "keeps a majority" if group["majority"] else "FALLS UNDER A MAJORITY"
        click.echo(f"  group {group['name']} {fate}: {group['left']} of {group['members']} members left")
    room = compute["room"]
    enough = "have room" if room["enough"] else "DO NOT HAVE ROOM"
    click.echo(
        f"  the other zones {enough} for them: {room['needed_memory_mib']}M and {room['needed_vcpus']} vCPUs needed, "
        f"{room['free_memory_mib']}M and {room['free_vcpus']} free"
    )
    click.echo("volumes")
    click.echo(
        f"  {len(compute['volumes'])} would be out of reach, "
        f"{size_text(sum(each['size_bytes'] for each in compute['volumes']))}"
    )


@zone.command()
@click.argument("name", metavar="ZONE")
@wait_option
@cloud_command
def drain(name: str, data: Path, config: Path | None, as_json: bool, wait: bool) -> None:
    """Move all servers out of a zone, with their disks. Its hosts take none until `zone enable`."""
    controller = Controller(data, config)
    report_drain(controller, controller.ask("zone.drain", name=name), f"zone {name}", wait=wait, as_json=as_json)


@zone.command()
@click.argument("name", metavar="ZONE")
@cloud_command
def enable(name: str, data: Path, config: Path | None, as_json: bool) -> None:
    """Let the hosts of a zone take servers again."""
    answer = Controller(data, config).ask("zone.enable", name=name)
    say(answer, f"{len(answer['hosts'])} hosts in zone {name} take servers", as_json=as_json)


# ------------------------------------------------------------------------------------------------------------- gathering


def _gather(name: str, data: Path, config: Path | None) -> dict[str, Any]:
    """Both halves of the answer. A controller that is away leaves its half unknown, and the other is still told."""
    from scheduler.errors import RequestError
    from scheduler.lifecycle.requests import parse_zone
    from scheduler.placement.resources import zone_name

    try:
        wanted = parse_zone(name)
    except RequestError as error:
        raise UsageError(str(error)) from None
    if wanted is None:
        raise UsageError("name a zone: z2")
    stored = _data_of(wanted, data, config)
    compute, problem = None, ""
    try:
        compute = Controller(data, config).ask("zone.show", name=name)
    except UsageError as error:
        problem = str(error)
        if not stored["devices"]:
            raise
    except RingsteadError as error:
        problem = str(error)
    return {"zone": zone_name(wanted), "data": stored, "compute": compute, "compute_problem": problem}


def _data_of(wanted: tuple[int, int], data: Path, config: Path | None) -> dict[str, Any]:
    """What the ring has in the zone, and what it would mean to lose it."""
    import numpy as np

    from ring.ring import NO_DEVICE
    from ringstead.commands.access import service_settings
    from ringstead.rings.in_force import load_ring

    settings = service_settings(data, config, "controller") if config else _proxy_settings(data)
    ring = load_ring(settings.ring_file)
    devices = [device for device in ring.devices if device is not None and device.kind == "disk"]
    inside = [device for device in devices if (device.region, device.zone) == wanted]
    ids = np.array([device.id for device in inside], dtype=np.int64)
    present = ring.table != NO_DEVICE
    found: Loss = _loss(ring, [device.id for device in inside])
    return {
        "devices": [{"id": device.id, "name": device.name, "node": device.node} for device in inside],
        "replicas": int(np.count_nonzero(np.isin(ring.table, ids) & present)),
        "replicas_all": int(np.count_nonzero(present)),
        "loss": {
            "partitions": ring.part_count,
            "gone": len(found.gone),
            "below_majority": len(found.below),
            "one_fewer": found.fewer,
            "untouched": found.untouched,
            "repairs": found.repairs,
            "obstacle": found.obstacle,
        },
    }


def _proxy_settings(data: Path) -> Any:
    from ringstead.commands.access import Target

    return Target(data).settings()


def _loss(ring: Ring, lost: list[int]) -> Loss:
    from ring.topology import Topology
    from ring.topology_file import Design, Settings
    from ring.what_if import loss_of

    devices = [device for device in ring.devices if device is not None]
    settings = Settings(part_power=ring.part_power, replicas=ring.replica_count, seed=ring.seed, min_part_hours=0)
    return loss_of(Design(settings, Topology.of(devices)), ring, lost, int(time.time()) // 60)
