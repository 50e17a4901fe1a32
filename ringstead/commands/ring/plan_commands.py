"""`ringstead ring plan` and `lose`: what a change, or a loss, would mean."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click
import numpy as np

from ring.builder_files import State
from ring.rebalance import Plan, make_plan
from ring.ring import NO_DEVICE, Ring
from ring.topology import Device, Topology, tier_name
from ring.topology_file import Design
from ring.what_if import Loss, Rates, Traffic, loss_of, traffic_of
from ringstead.commands.output import SizeType, balance_cell, count_text, duration_text, print_table, size_text
from ringstead.commands.ring.devices import all_devices, describe, find, need_ring, search_options, searches
from ringstead.commands.ring.operator import (
    EXIT_DONE,
    EXIT_WARNING,
    Operator,
    RingCommand,
    SeedType,
    check_memory,
    finish,
    pass_operator,
)

DATA_DEFAULT = 1e12
RATE_DEFAULT = 50e6
"""Half of what a disk and a gigabit link give, so that clients keep the other half."""
_LIST_MAX = 20


@click.command(cls=RingCommand)
@click.option("-s", "--seed", type=SeedType(), help="As for rebalance.")
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
    check_memory(state.design)
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
    ring = need_ring(state)
    everything = Topology.of(all_devices(state))
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


COMMANDS = (plan, lose)
