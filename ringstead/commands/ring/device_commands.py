"""`ringstead ring add`, `remove`, `set_weight` and the like: commands about devices.

Devices are named as one text (`r1z2-10.0.0.1:6200/sdb`, or any part of it in a search) or by long options, as
swift-ring-builder has it. Whatever is wrong with one of several devices, nothing of the command is carried out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import click
import numpy as np

from ring.device_text import (
    InfoChange,
    Search,
    make_meta,
    normal_address,
    parse_change,
    parse_device,
    parse_search,
    parse_weight,
)
from ring.measure import balances, device_counts
from ring.ring import NO_DEVICE
from ring.topology import Device, Kind, Topology
from ring.topology_file import Design
from ringstead.commands.ring.devices import (
    ask,
    describe,
    device_table,
    find,
    refuse_options,
    search_of_options,
    search_options,
    searches,
    yes_option,
)
from ringstead.commands.ring.operator import EXIT_ERROR, Operator, RingCommand, RingCommandError, finish, pass_operator


def changed(design: Design, devices: Sequence[Device]) -> Design:
    """The design with these devices in the place of those with the same ids."""
    fresh = {device.id: device for device in devices}
    return replace(design, topology=Topology.of(fresh.get(device.id, device) for device in design.topology))


@click.command(cls=RingCommand)
@click.argument("devices", nargs=-1, metavar="[DEVICE WEIGHT]...")
@search_options
@click.option("--set", "entries", multiple=True, metavar="KEY=VALUE", help="Metadata; may be repeated.")
@pass_operator
def add(operator: Operator, devices: tuple[str, ...], entries: tuple[str, ...], **options: Any) -> None:
    """Add devices: `r1z2-10.0.0.1:6200/sdb 100`, as many as you like, or one by options.

    The form is [rREGION]zZONE-IP:PORT[RREPLICATION_IP:PORT]/NAME[_NOTE] WEIGHT.
    """
    refuse_options(devices)
    kind: Kind = options.get("kind") or "disk"
    meta = dict(_entry(entry) for entry in entries)
    with operator.changing() as state:
        ring = None if state.memory is None else state.memory.ring
        if ring is not None and ring.transition_power is not None:
            raise RingCommandError("a part power increase is under way: finish or cancel it before adding devices")
        taken = [device.id for device in ring.devices if device is not None] if ring is not None else []
        topology, fresh = state.design.topology, []
        if devices:
            options.pop("kind")
            if any(value is not None for value in options.values()):
                raise RingCommandError("give devices as text or by options, not both")
            if len(devices) % 2:
                raise RingCommandError(f"{devices[-1]!r} has no weight: write DEVICE WEIGHT for each device")
            for text, weight in zip(devices[::2], devices[1::2], strict=True):
                device = parse_device(text, weight, topology.next_id(taken), kind)
                fresh.append(replace(device, meta={**device.meta, **meta}))
                topology = Topology.of([*topology, fresh[-1]])
        else:
            device = _device_of_options(options, topology.next_id(taken), kind)
            fresh.append(replace(device, meta={**device.meta, **meta}))
            topology = Topology.of([*topology, fresh[-1]])
        operator.write(state, replace(state.design, topology=topology), state.memory)
    operator.answer(
        {"added": [describe(device) for device in fresh]},
        [f"Device d{device.id}{device} with {device.weight:g} weight got id {device.id}" for device in fresh],
    )


def _entry(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise RingCommandError(f"{text!r} is no metadata: write KEY=VALUE")
    return key, value


def _device_of_options(options: dict[str, Any], device_id: int, kind: Kind) -> Device:
    for name in ("zone", "ip", "port", "device", "weight"):
        if options[name] is None:
            raise RingCommandError(
                f"--{name} is missing; a device by options needs --zone --ip --port --device --weight"
            )
    if options["id_"] is not None:
        device_id = options["id_"]
    return Device(
        id=device_id,
        region=1 if options["region"] is None else options["region"],
        zone=options["zone"],
        node=normal_address(options["ip"]),
        port=options["port"],
        name=options["device"],
        weight=options["weight"],
        kind=kind,
        meta=make_meta(options["replication_ip"], options["replication_port"], options["meta"]),
    )


@click.command(cls=RingCommand)
@click.argument("words", nargs=-1, metavar="[SEARCH]...")
@search_options
@yes_option
@pass_operator
def remove(operator: Operator, words: tuple[str, ...], yes: bool, **options: Any) -> None:
    """Remove failed devices: what they held is made again elsewhere by the next rebalance.

    To take a working device out, set its weight to 0, rebalance, and remove it when it is empty.
    """
    with operator.changing() as state:
        if state.memory is not None and state.memory.ring.transition_power is not None:
            raise RingCommandError("a part power increase is under way: finish or cancel it before removing devices")
        devices = find(state.design.topology, searches(words, options, names=True))
        gone = {device.id for device in devices}
        kind = state.design.settings.kind
        left = [device for device in state.design.topology if device.id not in gone]
        if any(device.kind == kind for device in devices) and not any(device.kind == kind for device in left):
            raise RingCommandError("that would remove the last device; begin another ring with `create` instead")
        ask(devices, "remove", yes)
        operator.write(state, replace(state.design, topology=Topology.of(left)), state.memory)
    lines = [f"d{device.id}{device} marked for removal and will be removed next rebalance." for device in devices]
    operator.answer({"removed": [describe(device) for device in devices]}, lines)


def _pairs(words: tuple[str, ...], options: dict[str, Any], what: str) -> list[tuple[Search, str]]:
    """(search, value) of `SEARCH VALUE …` or of options and one value."""
    refuse_options(words)
    by_options = search_of_options(options)
    if by_options is not None:
        if len(words) != 1:
            raise RingCommandError(f"with options give one {what}")
        return [(by_options, words[0])]
    if not words or len(words) % 2:
        raise RingCommandError(f"write SEARCH {what.upper()} for each change")
    return [(parse_search(search), value) for search, value in zip(words[::2], words[1::2], strict=True)]


def _change(
    operator: Operator,
    pairs: Sequence[tuple[Search, Callable[[Device], Device]]],
    what: str,
    yes: bool,
    line: Callable[[Device, Device], str],
) -> None:
    """Apply changes to the devices that searches find, all or none."""
    with operator.changing() as state:
        design = state.design
        result: list[tuple[Device, Device]] = []
        for search, change in pairs:
            devices = find(design.topology, [search])
            ask(devices, what, yes)
            fresh = [change(device) for device in devices]
            design = changed(design, fresh)
            result += list(zip(devices, fresh, strict=True))
        operator.write(state, design, state.memory)
    operator.answer({"changed": [describe(new) for _, new in result]}, [line(old, new) for old, new in result])


@click.command(cls=RingCommand)
@click.argument("words", nargs=-1, metavar="[SEARCH WEIGHT]...")
@search_options
@yes_option
@pass_operator
def set_weight(operator: Operator, words: tuple[str, ...], yes: bool, **options: Any) -> None:
    """Change weights: `set_weight z2 200 d7 0`, or options and one weight."""
    pairs: list[tuple[Search, Callable[[Device], Device]]] = []
    for search, text in _pairs(words, options, "weight"):
        weight = parse_weight(text)
        pairs.append((search, lambda device, weight=weight: replace(device, weight=weight)))  # type: ignore[misc]
    _change(
        operator, pairs, "update the weight for", yes, lambda _, new: f"d{new.id}{new} weight set to {new.weight:g}"
    )


@click.command(cls=RingCommand)
@click.argument("words", nargs=-1, metavar="[SEARCH]...")
@search_options
@yes_option
@pass_operator
def drain(operator: Operator, words: tuple[str, ...], yes: bool, **options: Any) -> None:
    """Let devices that work be emptied: `drain z1`, `drain 10.0.0.1`, `drain d7`, `drain sdb`. The same as set_weight 0.

    `rebalance` (of a running cluster: `ringstead rebalance start`) moves what they hold; `remove` them when they are empty.
    """
    pairs: list[tuple[Search, Callable[[Device], Device]]] = [
        (search, lambda device: replace(device, weight=0.0)) for search in searches(words, options, names=True)
    ]
    _change(operator, pairs, "drain", yes, lambda _, new: f"d{new.id}{new} will be emptied")


def _number_command(name: str) -> click.Command:
    @click.command(name=f"set_{name}", cls=RingCommand, help=f"Change {name}s: SEARCH {name.upper()}.")
    @click.argument("words", nargs=-1, metavar=f"[SEARCH {name.upper()}]...")
    @search_options
    @yes_option
    @pass_operator
    def command(operator: Operator, words: tuple[str, ...], yes: bool, **options: Any) -> None:
        pairs: list[tuple[Search, Callable[[Device], Device]]] = []
        for search, text in _pairs(words, options, name):
            if not text.isdecimal():
                raise RingCommandError(f"{name} {text!r} is no whole number")
            pairs.append((search, lambda device, number=int(text): replace(device, **{name: number})))  # type: ignore[misc]
        _change(operator, pairs, f"update the {name} for", yes, lambda old, new: f"d{old.id}{old} {name} set to {new}")

    return command


set_region, set_zone = _number_command("region"), _number_command("zone")


@click.command(cls=RingCommand)
@click.argument("words", nargs=-1, metavar="[SEARCH CHANGE]...")
@search_options
@click.option("-I", "--change-ip")
@click.option("-P", "--change-port", type=int)
@click.option("-J", "--change-replication-ip")
@click.option("-Q", "--change-replication-port", type=int)
@click.option("-D", "--change-device")
@click.option("-M", "--change-meta")
@click.option("--set", "entries", multiple=True, metavar="KEY=VALUE", help="Metadata; KEY= removes it.")
@yes_option
@pass_operator
def set_info(operator: Operator, words: tuple[str, ...], entries: tuple[str, ...], yes: bool, **options: Any) -> None:
    """Change addresses, names and metadata: `set_info d3 10.0.0.7:6200R10.1.0.7:6200/sdc_note`, or a part of it.

    Nothing moves: it is the same device at another address. write_ring tells the nodes.
    """
    refuse_options(words)
    change = InfoChange(
        node=None if options["change_ip"] is None else normal_address(options["change_ip"]),
        port=options["change_port"],
        replication_ip=None
        if options["change_replication_ip"] is None
        else normal_address(options["change_replication_ip"]),
        replication_port=options["change_replication_port"],
        name=options["change_device"],
        note=options["change_meta"],
        meta=tuple(_entry(entry) for entry in entries),
    )
    for name in [name for name in options if name.startswith("change_")]:
        del options[name]
    by_options = search_of_options(options)
    pairs: list[tuple[Search, Callable[[Device], Device]]] = []
    if by_options is not None or change != InfoChange():
        if by_options is None and len(words) == 1:
            by_options, words = parse_search(words[0]), ()
        if words or by_options is None or change == InfoChange():
            raise RingCommandError("say which device, by one search or by options, and what to change")
        pairs.append((by_options, change.apply))
    else:
        if not words or len(words) % 2:
            raise RingCommandError("write SEARCH CHANGE for each change")
        for search, text in zip(words[::2], words[1::2], strict=True):
            pairs.append((parse_search(search), parse_change(text).apply))
    _change(
        operator, pairs, "update the info for", yes, lambda old, new: f"Device d{old.id}{old} is now d{new.id}{new}"
    )


@click.command(cls=RingCommand)
@click.argument("words", nargs=-1, metavar="[SEARCH]...")
@search_options
@pass_operator
def search(operator: Operator, words: tuple[str, ...], **options: Any) -> None:
    """Show the devices that match."""
    state = operator.files.read()
    wanted = searches(words, options)
    found = [device for device in state.design.topology if any(one.matches(device) for one in wanted)]
    if not found:
        operator.answer({"devices": []}, ["No matching devices found"])
        finish(EXIT_ERROR)
    table = None if state.memory is None else state.memory.ring.table
    holders = state.design.holders()
    counts = np.zeros(1 + max(d.id for d in state.design.topology), dtype=np.int64)
    if table is not None:
        counts = device_counts(table, len(counts))
    total = state.design.settings.replica_total
    share = balances(holders, counts, total) if any(d.weight for d in holders) else {}
    if operator.as_json:
        rows = [{**describe(d), "parts": int(counts[d.id]), "balance": share.get(d.id)} for d in found]
        operator.answer({"devices": rows})
        return
    device_table(found, counts, share, {})


@click.command(cls=RingCommand)
@click.argument("words", nargs=-1, metavar="[SEARCH]...")
@search_options
@pass_operator
def list_parts(operator: Operator, words: tuple[str, ...], **options: Any) -> None:
    """List the partitions with a replica on a matching device, most matches first."""
    state = operator.files.read()
    if state.memory is None:
        raise RingCommandError("no partition has a device yet: rebalance first")
    ring = state.memory.ring
    found = find(Topology.of(d for d in ring.devices if d is not None), searches(words, options))
    chosen = np.zeros(len(ring.devices) + 1, dtype=bool)
    chosen[[device.id for device in found]] = True
    table = np.where(ring.table == NO_DEVICE, len(ring.devices), ring.table)
    matches = np.count_nonzero(chosen[table], axis=0)
    order = np.argsort(-matches, kind="stable")[: np.count_nonzero(matches)]
    if operator.as_json:
        operator.answer({"partitions": [[int(p), int(matches[p])] for p in order]})
        return
    click.echo("Partition   Matches")
    click.echo("\n".join(f"{p:9d}   {matches[p]:7d}" for p in order.tolist()))


COMMANDS = (add, remove, set_weight, drain, set_region, set_zone, set_info, search, list_parts)
