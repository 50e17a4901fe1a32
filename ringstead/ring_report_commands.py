"""`ringstead ring` without a command, `plan`, `lose`, `draw`, `dispersion`, `validate`, `version`, `history`: what
only reads."""

from __future__ import annotations

import re
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np

from ring import ring_file, swift_ring_file
from ring.builder_files import State
from ring.draw import draw as draw_ring
from ring.durable import replace_file
from ring.measure import balances, device_counts, required_overload, tier_dispersions
from ring.rebalance import Plan, locked_partitions, make_plan, merged_devices, quality_of
from ring.ring import NO_DEVICE, Ring
from ring.ring_file import check_table
from ring.topology import Device, Tier, Topology, tier_name
from ring.topology_file import Design
from ring.what_if import Loss, Rates, Traffic, loss_of, traffic_of
from ringstead.ring_device_commands import describe, device_table, find, search_options, searches
from ringstead.ring_operator import (
    EXIT_DONE,
    EXIT_WARNING,
    Operator,
    RingCommand,
    RingCommandError,
    finish,
    pass_operator,
)
from ringstead.ring_output import SizeType, balance_cell, count_text, duration_text, print_table, size_text

DATA_DEFAULT = 1e12
RATE_DEFAULT = 50e6
"""Half of what a disk and a gigabit link give, so that clients keep the other half."""
_LIST_MAX = 20


@click.command(cls=RingCommand)
@pass_operator
def show(operator: Operator) -> None:
    """Show the ring and its devices. Flags: NEW holds nothing yet, DEL is removed by the next rebalance."""
    state = operator.files.read()
    facts, devices = _facts(operator, state), _all_devices(state)
    counts, share, flags = _holdings(state, devices)
    if operator.as_json:
        rows = [
            {**describe(d), "parts": int(counts[d.id]), "balance": share.get(d.id), "flag": flags.get(d.id, "")}
            for d in devices
        ]
        operator.answer({**facts, "devices": rows})
        return
    regions, zones = {d.tiers[0] for d in devices}, {d.tiers[1] for d in devices}
    settings = state.design.settings
    locked = facts["locked_partitions"]
    rest = f" ({count_text(locked, 'partition')} rest now)" if locked else ""
    lines = [
        f"{operator.files.path}, epoch {facts['epoch'] or 'none yet'}",
        (
            f"{settings.part_count} partitions, {settings.replicas:.6f} replicas, {len(regions)} regions, "
            f"{len(zones)} zones, {len(devices)} devices, {facts['balance']:.2f} balance, "
            f"{facts['dispersion']:.2f} dispersion"
        ),
        f"The minimum number of hours before a partition can be reassigned is {settings.min_part_hours}{rest}",
        f"The overload factor is {settings.overload * 100:.2f}% ({settings.overload:.6f})",
        f"Ring file {operator.files.ring_path} is {facts['ring_file']}",
    ]
    if facts["part_powers"] and len(facts["part_powers"]) > 1:
        lines.append(f"A part power increase is under way: partitions of powers {facts['part_powers']} are valid")
    operator.answer({}, lines)
    if devices:
        device_table(devices, counts, share, flags)


def _facts(operator: Operator, state: State) -> dict[str, Any]:
    settings, memory = state.design.settings, state.memory
    file = (
        "up-to-date"
        if state.ring_current
        else "obsolete: write_ring"
        if state.contents.ring
        else "not there yet: rebalance"
    )
    if state.ring_current and memory is not None and merged_devices(state.design, memory.ring) != memory.ring.devices:
        file = "older than the topology: rebalance, or write_ring for addresses alone"
    quality = None if memory is None else quality_of(state.design, memory.ring.table)
    locked = 0
    if memory is not None and memory.ring.part_power == settings.part_power:
        locked = int(np.count_nonzero(locked_partitions(state.design, memory, operator.now_min)))
    return {
        "file": str(operator.files.path),
        **{key: value for key, value in asdict(settings).items() if key != "seed"},
        "partitions": settings.part_count,
        "epoch": None if memory is None else memory.ring.epoch,
        "part_powers": None if memory is None else list(memory.ring.part_powers),
        "balance": 0.0 if quality is None else quality.balance,
        "dispersion": 0.0 if quality is None else quality.dispersion,
        "locked_partitions": locked,
        "ring_file": file,
    }


def _all_devices(state: State) -> list[Device]:
    """The devices of the design, and gone ones that still hold something."""
    ring = None if state.memory is None else state.memory.ring
    return [device for device in merged_devices(state.design, ring) if device is not None]


def _holdings(state: State, devices: list[Device]) -> tuple[Any, dict[int, float], dict[int, str]]:
    """Replicas by device id, balances, and flags."""
    size = max((device.id for device in devices), default=-1) + 1
    here = {device.id for device in state.design.topology}
    flags = {device.id: "DEL" for device in devices if device.id not in here}
    if state.memory is None:
        return np.zeros(size, dtype=np.int64), {}, {**flags, **dict.fromkeys(here, "NEW")}
    counts = device_counts(state.memory.ring.table, size)
    holders = state.design.holders()
    flags.update({device.id: "NEW" for device in holders if not counts[device.id] and device.weight})
    share = balances(holders, counts, int(counts.sum())) if any(device.weight for device in holders) else {}
    return counts, share, flags


@click.command(cls=RingCommand)
@click.option("-s", "--seed", type=int, help="As for rebalance.")
@click.option("--data", type=SizeType(), default=DATA_DEFAULT, help="User data in the ring, each byte once.  [1 TB]")
@click.option("--rate", type=SizeType(), default=RATE_DEFAULT, help="Into and out of one device.  [50 MB/s]")
@click.option("--zone-rate", type=SizeType(), help="From one zone to another.  [no limit]")
@click.option("--all", "show_all", is_flag=True, help="All devices, not only those with most to do.")
@pass_operator
def plan(
    operator: Operator, seed: int | None, data: float, rate: float, zone_rate: float | None, show_all: bool
) -> None:
    """Show what a rebalance would do: moves, bytes, time, steps, and how good the ring is before and after."""
    state = operator.files.read()
    made = make_plan(state.design, state.memory, operator.now_min, seed)
    traffic = traffic_of(made, data, Rates(rate, zone_rate))
    if operator.as_json:
        operator.answer(_plan_json(made, traffic, data))
    else:
        _print_plan(made, traffic, data, rate, show_all)
    finish(EXIT_DONE if made.move_count or made.change.dropped else EXIT_WARNING)


def _plan_json(made: Plan, traffic: Traffic, data: float) -> dict[str, Any]:
    before = None if made.before is None else {"balance": made.before.balance, "dispersion": made.before.dispersion}
    return {
        "moves": traffic.moves,
        "bytes": traffic.moves * traffic.replica_bytes if made.before is not None else 0,
        "data_bytes": data,
        "replica_bytes": traffic.replica_bytes,
        "moves_due": traffic.moves_due,
        "dropped": made.change.dropped,
        "locked_partitions": int(np.count_nonzero(made.locked)),
        "steps": [asdict(step) for step in traffic.steps],
        "before": before,
        "after": {"balance": made.after.balance, "dispersion": made.after.dispersion},
        "devices": [
            {**describe(flow.device), "before": flow.before, "in": flow.coming, "out": flow.going, "after": flow.after}
            for flow in traffic.devices
        ],
        "zones": [
            {"from": tier_name(one), "to": tier_name(other), "replicas": count, "bytes": count * traffic.replica_bytes}
            for (one, other), count in traffic.zones.items()
        ],
    }


def _print_plan(made: Plan, traffic: Traffic, data: float, rate: float, show_all: bool) -> None:
    total = made.design.settings.replica_total
    if made.before is None:
        click.echo(f"First placement: {count_text(total, 'replica')} get a device, no data moves.")
        click.echo(f"Balance will be {made.after.balance:.2f}, dispersion {made.after.dispersion:.2f}.")
        return
    if not made.move_count and not made.change.dropped:
        click.echo("Nothing would move.")
        click.echo(f"Balance is {made.after.balance:.2f}, dispersion {made.after.dispersion:.2f}.")
        return
    size = traffic.moves * traffic.replica_bytes
    click.echo(
        f"{count_text(traffic.moves, 'replica')} of {total:,} would move ({100 * traffic.moves / total:.2f} %): "
        f"{size_text(size)} at {size_text(data)} of data"
    )
    if made.change.dropped:
        click.echo(f"{count_text(made.change.dropped, 'replica')} would be dropped, as the replica count is smaller")
    click.echo(f"balance     {made.before.balance:8.2f} -> {made.after.balance:.2f}")
    click.echo(f"dispersion  {made.before.dispersion:8.2f} -> {made.after.dispersion:.2f}")
    click.echo(
        f"{count_text(made.step_count, 'step')}, with never more than one replica of a partition in motion; at "
        f"{size_text(rate)}/s a device:"
    )
    rows = [
        [index + 1, f"{step.moves:,}", size_text(step.size_bytes), duration_text(step.duration_s)]
        for index, step in enumerate(traffic.steps)
    ]
    print_table(("step", "replicas", "bytes", "time"), rows)
    if traffic.moves_due < traffic.steps[0].moves if traffic.steps else False:
        click.echo(f"min_part_hours holds some of step 1 back: {count_text(traffic.moves_due, 'replica')} can move now")
    _print_zones(traffic)
    _print_flows(traffic, show_all)


def _print_zones(traffic: Traffic) -> None:
    if not traffic.zones:
        return
    rows = [
        [tier_name(one), tier_name(other), f"{count:,}", size_text(count * traffic.replica_bytes)]
        for (one, other), count in sorted(traffic.zones.items(), key=lambda item: -item[1])
    ]
    click.echo("")
    print_table(("from zone", "to zone", "replicas", "bytes"), rows, left=("from zone", "to zone"))


def _print_flows(traffic: Traffic, show_all: bool) -> None:
    flows = sorted(traffic.devices, key=lambda flow: -max(flow.coming, flow.going))
    shown = flows if show_all else flows[:_LIST_MAX]
    rows = [
        [
            flow.device.id,
            str(flow.device),
            f"{flow.before:,}",
            f"{flow.coming:,}",
            f"{flow.going:,}",
            f"{flow.after:,}",
            size_text((flow.coming + flow.going) * traffic.replica_bytes),
        ]
        for flow in shown
    ]
    click.echo("")
    print_table(("id", "device", "before", "in", "out", "after", "bytes"), rows, left=("device",))
    if len(shown) < len(flows):
        click.echo(f"and {count_text(len(flows) - len(shown), 'device')} with less to do (--all)")


@click.command(cls=RingCommand)
@click.argument("words", nargs=-1, metavar="[SEARCH]...")
@search_options
@click.option("--data", type=SizeType(), default=DATA_DEFAULT, help="User data in the ring, each byte once.  [1 TB]")
@click.option("--list", "list_all", is_flag=True, help="List all partitions at risk.")
@pass_operator
def lose(operator: Operator, words: tuple[str, ...], data: float, list_all: bool, **options: Any) -> None:
    """Show what happens if a zone (`z2`), a node (`10.0.0.1`) or a device (`d7`) is lost; nothing is changed.

    Exit code 1 if some partition would fall under a majority.
    """
    state = operator.files.read()
    ring = _need_ring(state)
    everything = Topology.of(_all_devices(state))
    lost = find(everything, searches(words, options))
    loss = loss_of(state.design, ring, [device.id for device in lost], operator.now_min)
    replica_bytes = data / ring.part_count
    if operator.as_json:
        operator.answer(_loss_json(loss, lost, replica_bytes))
    else:
        _print_loss(loss, lost, state, ring, replica_bytes, list_all)
    finish(EXIT_WARNING if len(loss.below) or len(loss.gone) else EXIT_DONE)


def _loss_json(loss: Loss, lost: list[Device], replica_bytes: float) -> dict[str, Any]:
    return {
        "lost": [describe(device) for device in lost],
        "partitions_below_majority": loss.below.tolist(),
        "partitions_gone": loss.gone.tolist(),
        "partitions_with_fewer": loss.fewer,
        "partitions_untouched": loss.untouched,
        "repairs": loss.repairs,
        "repair_bytes": loss.repairs * replica_bytes,
        "obstacle": loss.obstacle or None,
        "survivors": _survivors_json(loss),
        "balance": None if loss.quality is None else loss.quality.balance,
        "dispersion": None if loss.quality is None else loss.quality.dispersion,
    }


def _survivors_json(loss: Loss) -> list[dict[str, Any]]:
    carried = loss.carried
    now = {index: int(count) for index, count in enumerate(loss.counts)}
    numbers = sorted({*now, *range(len(carried) if carried is not None else 0)} - {device.id for device in loss.lost})
    return [
        {
            "id": number,
            "now": now.get(number, 0),
            "after_repair": None if carried is None or number >= len(carried) else int(carried[number]),
        }
        for number in numbers
        if now.get(number) or (carried is not None and number < len(carried) and carried[number])
    ]


def _print_loss(loss: Loss, lost: list[Device], state: State, ring: Ring, replica_bytes: float, list_all: bool) -> None:
    share = 100.0 / ring.part_count
    held = int(ring.table[ring.table != NO_DEVICE].size) - int(loss.counts.sum())
    click.echo(f"Without {count_text(len(lost), 'device')} ({held:,} replicas, {size_text(held * replica_bytes)}):")
    rows = [
        ["keep all replicas", f"{loss.untouched:,}", f"{share * loss.untouched:.2f}", "nothing happens"],
        ["lose some, keep a majority", f"{loss.fewer:,}", f"{share * loss.fewer:.2f}", "reads and writes go on"],
        ["fall under a majority", f"{len(loss.below):,}", f"{share * len(loss.below):.2f}", "handoffs take the writes"],
        [
            "lose every replica",
            f"{len(loss.gone):,}",
            f"{share * len(loss.gone):.2f}",
            "what is in them is not to be had",
        ],
    ]
    print_table(("partitions that", "count", "%", "meaning"), rows, left=("partitions that", "meaning"))
    for what, partitions in (("under a majority", loss.below), ("without any replica", loss.gone)):
        if len(partitions):
            shown = partitions.tolist() if list_all else partitions[:_LIST_MAX].tolist()
            more = "" if len(shown) == len(partitions) else f" … (--list for all {len(partitions):,})"
            click.echo(f"{what}: {' '.join(map(str, shown))}{more}")
    click.echo("")
    if loss.carried is None:
        click.echo(f"The survivors can't make up for it: {loss.obstacle}")
    else:
        assert loss.quality is not None
        click.echo(
            f"To make up for it {count_text(loss.repairs, 'replica')} are made again or moved "
            f"({size_text(loss.repairs * replica_bytes)}); then balance is {loss.quality.balance:.2f}, "
            f"dispersion {loss.quality.dispersion:.2f}."
        )
    _print_survivors(loss, state.design, replica_bytes)


def _print_survivors(loss: Loss, design: Design, replica_bytes: float) -> None:
    by_id = {device.id: device for device in design.topology}
    rows: list[list[object]] = []
    for entry in _survivors_json(loss):
        now, then = entry["now"], entry["after_repair"]
        growth: object = "" if then is None or not now else balance_cell(100.0 * then / now - 100.0)
        after = "" if then is None else f"{then:,}"
        size = "" if then is None else size_text(then * replica_bytes)
        rows.append([entry["id"], str(by_id.get(entry["id"], "")), f"{now:,}", after, growth, size])
    print_table(("id", "survivor", "now", "after repair", "%", "carries"), rows, left=("survivor",))


@click.command(cls=RingCommand)
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, metavar="FILE.svg")
@click.option("--partition", type=int, help="Mark the replicas of this partition.  [one in the middle; -1 marks none]")
@click.option("--key", help="Mark the replicas of this name, /account/container/object.")
@pass_operator
def draw(operator: Operator, output: Path, partition: int | None, key: str | None) -> None:
    """Draw the ring as an SVG file: zones, nodes, devices, what they should hold and hold."""
    state = operator.files.read()
    old = _need_ring(state)
    shown = Ring(
        part_power=old.part_power,
        seed=old.seed,
        epoch=old.epoch,
        devices=merged_devices(state.design, old),
        table=old.table,
        transition_power=old.transition_power,
    )
    if key is not None:
        partition = shown.partition(shown.hash_key(key.encode()))
    elif partition is None:
        partition = shown.part_count // 2
    elif not -1 <= partition < shown.part_count:
        raise RingCommandError(f"partition {partition} is outside 0..{shown.part_count - 1}")
    svg = draw_ring(shown, None if partition == -1 else partition, operator.files.path.stem)
    replace_file(output.absolute(), svg.encode())
    operator.answer({"file": str(output), "partition": partition}, [f"{output}: {len(svg):,} bytes"])


@click.command(cls=RingCommand)
@click.argument("tier_filter", required=False, metavar="[REGEX]")
@click.option("-v", "--verbose", is_flag=True, help="Each tier that matches.")
@click.option("--recalculate", is_flag=True, hidden=True, help="As it always is.")
@pass_operator
def dispersion(operator: Operator, tier_filter: str | None, verbose: bool, recalculate: bool) -> None:
    """Show how far apart replicas are; REGEX chooses tiers (`z2$`). Exit code 1 if some share a domain needlessly."""
    del recalculate
    state = operator.files.read()
    ring = _need_ring(state)
    holders = state.design.holders()
    quality = quality_of(state.design, ring.table)
    try:
        pattern = re.compile(tier_filter or "")
    except re.error as error:
        raise RingCommandError(f"{tier_filter!r} is no regular expression: {error}") from error
    by_id = {device.id: device for device in holders}
    tiers = [(_tier_text(entry.tier, by_id), entry) for entry in tier_dispersions(holders, ring.table)]
    tiers = [(name, entry) for name, entry in tiers if pattern.search(name)]
    worst = max(tiers, key=lambda item: item[1].percent, default=None)
    needed = required_overload(holders, ring.part_count, state.design.settings.replica_total)
    lines = [
        (
            f"Dispersion is {quality.dispersion:.6f}, Balance is {quality.balance:.6f}, "
            f"Overload is {state.design.settings.overload * 100:.2f}%"
        ),
        f"Required overload is {needed * 100:.6f}%",
    ]
    bad = worst is not None and worst[1].percent > 0
    if worst is not None and bad:
        lines.append(f"Worst tier is {worst[1].percent:.6f} ({worst[0]})")
    rows = [
        {"tier": name, "parts": e.part_count, "percent": e.percent, "max": e.replicas_max, "counts": list(e.counts)}
        for name, e in tiers
    ]
    operator.answer(
        {
            "dispersion": quality.dispersion,
            "balance": quality.balance,
            "required_overload": needed,
            "tiers": rows,
        },
        lines,
    )
    if verbose and not operator.as_json:
        columns = ("Tier", "Parts", "%", "Max", *map(str, range(len(ring.table) + 1)))
        cells = [[n, e.part_count, f"{e.percent:.2f}", e.replicas_max, *e.counts] for n, e in tiers]
        print_table(columns, cells, left=("Tier",))
    finish(EXIT_WARNING if bad else EXIT_DONE)


def _tier_text(tier: Tier, devices: dict[int, Device]) -> str:
    if len(tier) < 4:
        return tier_name(tier)
    return f"{tier_name(tier[:3])}/{devices[int(tier[3])].name}"


@click.command(cls=RingCommand)
@pass_operator
def validate(operator: Operator) -> None:
    """Verify the files from nothing: the topology, the memory, the ring, and that they fit each other."""
    state = operator.files.read()
    ring = _need_ring(state)
    check_table(ring)
    pending = 0
    if ring.transition_power is None:
        # The plan verifies every quota and bound of its end; if nothing is left to move, that end is what there is.
        pending = make_plan(state.design, state.memory, operator.now_min).move_count
    if state.contents.ring is not None:
        ring_file.loads(state.contents.ring)
    lines = [f"{operator.files.path}: sound; {count_text(ring.part_count, 'partition')}, epoch {ring.epoch}"]
    if pending:
        lines.append(f"{count_text(pending, 'replica')} are not yet where they should be: see plan")
    elif ring.transition_power is None:
        lines.append("Every region, zone, node and device holds exactly its quota.")
    operator.answer({"sound": True, "pending_moves": pending, "epoch": ring.epoch}, lines)


@click.command(cls=RingCommand)
@pass_operator
def version(operator: Operator) -> None:
    """Show the version and epoch of the ring file."""
    path = operator.files.ring_path
    data = path.read_bytes()
    if data.startswith(b"\x1f\x8b"):
        ring = swift_ring_file.loads(data, 0)
    else:
        ring = ring_file.load(path)
    bits = len(ring.devices).bit_length()
    operator.answer(
        {"file": str(path), "format_version": ring_file.VERSION, "epoch": ring.epoch, "id_bits": bits},
        [f"{path}: format version {ring_file.VERSION} ({bits}-bit IDs), epoch {ring.epoch}"],
    )


@click.command(cls=RingCommand)
@pass_operator
def history(operator: Operator) -> None:
    """List the versions that `undo --to` can bring back."""
    versions = operator.files.versions()
    if operator.as_json:
        operator.answer({"versions": [asdict(entry) for entry in versions]})
        return
    rows = [
        [
            entry.number,
            datetime.fromtimestamp(entry.time_s, UTC).strftime("%Y-%m-%d %H:%M:%SZ"),
            entry.who,
            entry.command + ("" if entry.origin == entry.number else f"  (brought back {entry.origin})"),
        ]
        for entry in versions
    ]
    print_table(("version", "time", "who", "command"), rows, left=("time", "who", "command"))


def _need_ring(state: State) -> Ring:
    if state.memory is None:
        raise RingCommandError("no partition has a device yet: rebalance first")
    return state.memory.ring


COMMANDS = (show, plan, lose, draw, dispersion, validate, version, history)
