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
from ring.rebalance import locked_partitions, make_plan, merged_devices, quality_of
from ring.ring import Ring
from ring.ring_file import check_table
from ring.topology import Device, Tier, tier_name
from ringstead.commands.output import count_text, print_table
from ringstead.commands.ring.devices import all_devices, describe, device_table, need_ring
from ringstead.commands.ring.operator import (
    EXIT_DONE,
    EXIT_WARNING,
    Operator,
    RingCommand,
    RingCommandError,
    finish,
    pass_operator,
)


@click.command(cls=RingCommand)
@pass_operator
def show(operator: Operator) -> None:
    """Show the ring and its devices. Flags: NEW holds nothing yet, DEL is removed by the next rebalance."""
    state = operator.files.read()
    facts, devices = _facts(operator, state), all_devices(state)
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
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, metavar="FILE.svg")
@click.option("--partition", type=int, help="Mark the replicas of this partition.  [one in the middle; -1 marks none]")
@click.option("--key", help="Mark the replicas of this name, /account/container/object.")
@pass_operator
def draw(operator: Operator, output: Path, partition: int | None, key: str | None) -> None:
    """Draw the ring as an SVG file: zones, nodes, devices, what they should hold and hold."""
    state = operator.files.read()
    old = need_ring(state)
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
    ring = need_ring(state)
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
    ring = need_ring(state)
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


COMMANDS = (show, draw, dispersion, validate, version, history)
