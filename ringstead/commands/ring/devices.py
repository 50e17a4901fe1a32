"""Devices on the command line: how they are searched for, agreed on, described and listed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from ring.builder_files import State
from ring.device_text import REPLICATION_IP, REPLICATION_PORT, DeviceTextError, Search, normal_address, parse_search
from ring.rebalance import merged_devices
from ring.ring import Ring
from ring.topology import KINDS, Device, Topology
from ringstead.commands.output import balance_cell, print_table
from ringstead.commands.ring.operator import RingCommandError

F = TypeVar("F", bound=Callable[..., Any])

_SEARCH_OPTIONS = (
    click.option("-u", "--id", "id_", type=int, help="Device ID."),
    click.option("-r", "--region", type=int),
    click.option("-z", "--zone", type=int),
    click.option("-i", "--ip", help="Address or host name."),
    click.option("-p", "--port", type=int),
    click.option("-j", "--replication-ip"),
    click.option("-q", "--replication-port", type=int),
    click.option("-d", "--device", help="Its name on the node."),
    click.option("-w", "--weight", type=float),
    click.option("-m", "--meta", help="A text in the metadata."),
    click.option("--kind", type=click.Choice(KINDS)),
)
yes_option = click.option("-y", "--yes", is_flag=True, help="Don't ask when several devices match.")


def search_options(function: F) -> F:
    """`--region`, `--zone` and the others by which devices are found."""
    for option in reversed(_SEARCH_OPTIONS):
        function = option(function)
    return function


def search_of_options(options: dict[str, Any]) -> Search | None:
    """The search that options ask for; None if there are none. Takes them out of `options`."""
    values = {name: options.pop(name) for name in list(options)}
    if all(value is None for value in values.values()):
        return None
    return Search(
        id=values["id_"],
        region=values["region"],
        zone=values["zone"],
        node=None if values["ip"] is None else normal_address(values["ip"]),
        port=values["port"],
        name=values["device"],
        replication_ip=None if values["replication_ip"] is None else normal_address(values["replication_ip"]),
        replication_port=values["replication_port"],
        weight=values["weight"],
        note=values["meta"],
        kind=values["kind"],
    )


def searches(words: Sequence[str], options: dict[str, Any], *, names: bool = False) -> list[Search]:
    """The searches of a command that takes texts or options, but not both. With `names` a text may be a device's name."""
    refuse_options(words)
    by_options = search_of_options(options)
    if words and by_options:
        raise RingCommandError("give devices as text or by options, not both")
    if not words and by_options is None:
        raise RingCommandError("say which devices: d0, r1z2, z2-10.0.0.1:6200/sdb, or by options")
    if by_options:
        return [by_options]
    return [_search_or_name(word) if names else parse_search(word) for word in words]


def _search_or_name(word: str) -> Search:
    try:
        return parse_search(word)
    except DeviceTextError:
        return Search(name=word)


def refuse_options(words: Sequence[str]) -> None:
    """Words that look like options, but are none, are a slip."""
    for word in words:
        if word.startswith("-") and not word.lstrip("-")[:1].isdigit() and word[1:].lower() not in ("inf", "nan"):
            raise RingCommandError(f"there is no option {word!r}; see --help")


def find(topology: Topology, wanted: Sequence[Search]) -> list[Device]:
    """The devices that any of the searches finds. RingCommandError if one finds none."""
    found: dict[int, Device] = {}
    for search in wanted:
        matches = search.find(topology)
        if not matches:
            raise RingCommandError("Search value matched 0 devices; nothing was changed")
        found.update({device.id: device for device in matches})
    return [found[number] for number in sorted(found)]


def ask(devices: Sequence[Device], what: str, yes: bool) -> None:
    """Make sure that several devices are meant."""
    if len(devices) == 1 or yes:
        return
    for device in devices:
        click.echo(f"    d{device.id}{device}", err=True)
    if not sys.stdin.isatty():
        raise RingCommandError(f"{len(devices)} devices match; add --yes to {what} them all")
    if not click.confirm(f"Are you sure you want to {what} these {len(devices)} devices?", err=True):
        raise RingCommandError("nothing was changed")


def describe(device: Device) -> dict[str, Any]:
    """A device as JSON."""
    return {
        "id": device.id,
        "region": device.region,
        "zone": device.zone,
        "node": device.node,
        "port": device.port,
        "name": device.name,
        "weight": device.weight,
        "kind": device.kind,
        "meta": device.meta,
    }


def device_table(devices: Sequence[Device], counts: Any, share: dict[int, float], flags: dict[int, str]) -> None:
    """Print devices with what they hold."""
    ordered = sorted(devices, key=lambda d: (d.region, d.zone, d.node, d.name))
    rows: list[list[object]] = []
    for device in ordered:
        node = f"[{device.node}]" if ":" in device.node else device.node
        replication = device.meta.get(REPLICATION_IP, device.node), device.meta.get(REPLICATION_PORT, device.port)
        others = {k: v for k, v in device.meta.items() if k not in (REPLICATION_IP, REPLICATION_PORT)}
        text = " ".join(v if k == "note" else f"{k}={v}" for k, v in sorted(others.items()))
        if replication != (device.node, device.port):
            text = f"{text} replication={replication[0]}:{replication[1]}".strip()
        rows.append(
            [
                device.id,
                device.region,
                device.zone,
                f"{node}:{device.port}",
                device.name,
                device.kind,
                f"{device.weight:.2f}",
                int(counts[device.id]) if device.id < len(counts) else 0,
                balance_cell(share[device.id]) if device.id in share else "",
                flags.get(device.id, ""),
                text,
            ]
        )
    columns = [
        "id",
        "region",
        "zone",
        "address:port",
        "name",
        "kind",
        "weight",
        "partitions",
        "balance",
        "flags",
        "meta",
    ]
    # What is the same everywhere, or nowhere, only makes lines long.
    dull = {"kind": {"disk"}, "flags": {""}, "meta": {""}}
    shown = [i for i, name in enumerate(columns) if {row[i] for row in rows} - dull.get(name, set())]
    left = ("address:port", "name", "kind", "flags", "meta")
    print_table([columns[i] for i in shown], [[row[i] for i in shown] for row in rows], left=left)


def all_devices(state: State) -> list[Device]:
    """The devices of the design, and gone ones that still hold something."""
    ring = None if state.memory is None else state.memory.ring
    return [device for device in merged_devices(state.design, ring) if device is not None]


def need_ring(state: State) -> Ring:
    if state.memory is None:
        raise RingCommandError("no partition has a device yet: rebalance first")
    return state.memory.ring
