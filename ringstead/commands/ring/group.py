"""`ringstead ring`, also installed as `ringstead-ring`: the operator's tool for rings.

The words are swift-ring-builder's, with `plan`, `lose`, `draw`, `import`, `export`, `history` and `undo` beside them. This
file has the group and what is about a ring as a whole; devices are in `device_commands`, what would be in
`plan_commands`, what is in `report_commands`.
"""

from __future__ import annotations

import secrets
from dataclasses import replace

import click

from ring.builder_files import NothingToUndoError
from ring.memory import Memory
from ring.part_power import cancel_increase, finish_increase, increase, prepare_increase
from ring.rebalance import make_plan, merged_devices, rebalance
from ring.ring import Ring
from ring.topology import KINDS, Kind, Topology
from ring.topology_file import Design, Settings, with_settings
from ringstead.commands.output import count_text
from ringstead.commands.ring import device_commands, plan_commands, report_commands, swift_commands
from ringstead.commands.ring.operator import (
    EXIT_DONE,
    EXIT_WARNING,
    Operator,
    RingCommandError,
    RingGroup,
    SeedType,
    check_memory,
    finish,
    make_operator,
    pass_operator,
)
from ringstead.one_machine.builder import RING_VARIABLE, TOPOLOGY_NAME

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 120}
BALANCE_WARNING = 5.0
"""Percent from which a rebalance asks for another one, as Swift's does."""


@click.group(cls=RingGroup, invoke_without_command=True, context_settings=_CONTEXT)
@click.option("-f", "--file", metavar="FILE", help=f"The topology file.  [${RING_VARIABLE}, or {TOPOLOGY_NAME}]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def ring(ctx: click.Context, file: str | None, as_json: bool) -> None:
    """Make and change rings: which devices hold which partitions.

    A ring is a topology file that people read and edit, and what the builder remembers of it beside. Change the file or
    use the commands, look at `plan`, then `rebalance`. Without a command: show the ring. The file may also stand first, as
    in `ringstead-ring FILE COMMAND`. Exit codes: 0 done, 1 nothing to do or a warning, 2 an error.
    """
    operator = ctx.obj = make_operator(ctx, file, as_json)
    if ctx.invoked_subcommand is None:
        if not operator.file_named and not operator.files.path.exists():
            click.echo(ctx.get_help())
            return
        show = report_commands.show
        show.invoke(show.make_context("show", [], parent=ctx))


def register(group: click.Group) -> None:
    """Put the commands of the other files into the group."""
    for module in (device_commands, plan_commands, report_commands, swift_commands):
        for command in module.COMMANDS:
            group.add_command(command)


@ring.command()
@click.argument("part_power", type=int)
@click.argument("replicas", type=float)
@click.argument("min_part_hours", type=int)
@click.option("--seed", type=int, help="Of the hash function.  [random]")
@click.option("--overload", type=float, default=0.0, help="See set_overload.")
@click.option(
    "--kind", type=click.Choice(KINDS), default="disk", show_default=True, help="Which devices hold partitions."
)
@pass_operator
def create(
    operator: Operator,
    part_power: int,
    replicas: float,
    min_part_hours: int,
    seed: int | None,
    overload: float,
    kind: Kind,
) -> None:
    """Begin a ring of 2^PART_POWER partitions with REPLICAS each.

    A partition that moved is not moved again for MIN_PART_HOURS.
    """
    chosen = secrets.randbits(63) if seed is None else seed
    settings = Settings(part_power, replicas, min_part_hours, overload, chosen, kind)
    operator.files.create(Design(settings, Topology(())), operator.words)
    operator.answer(
        {"file": str(operator.files.path), "part_power": part_power, "replicas": replicas, "seed": chosen},
        [f"{operator.files.path}: {settings.part_count} partitions with {replicas:g} replicas; next: add devices"],
    )


@ring.command()
@click.argument("replicas", type=float)
@pass_operator
def set_replicas(operator: Operator, replicas: float) -> None:
    """Change the replica count; it may be fractional."""
    with operator.changing() as state:
        design = with_settings(state.design, replicas=replicas)
        taking = sum(1 for device in design.holders() if device.weight > 0)
        if taking and replicas > taking:
            raise RingCommandError(
                f"{replicas:g} replicas need as many devices with weight, and there are {taking}: add devices"
            )
        operator.write(state, design, state.memory)
    operator.answer(
        {"replicas": replicas},
        [f"The replica count is now {replicas:.6f}.", "The change will take effect after the next rebalance."],
    )


@ring.command()
@click.argument("hours", type=int)
@pass_operator
def set_min_part_hours(operator: Operator, hours: int) -> None:
    """Change how long a partition that moved is left where it is."""
    with operator.changing() as state:
        operator.write(state, with_settings(state.design, min_part_hours=hours), state.memory)
    line = f"The minimum number of hours before a partition can be reassigned is now set to {hours}"
    operator.answer({"min_part_hours": hours}, [line])


@ring.command()
@click.argument("overload", metavar="OVERLOAD[%]")
@pass_operator
def set_overload(operator: Operator, overload: str) -> None:
    """Change how much more than its weight asks for a device may take to keep replicas apart (0.1 or 10%)."""
    percent = overload.endswith("%")
    try:
        factor = float(overload.rstrip("%")) / (100 if percent else 1)
    except ValueError as error:
        raise RingCommandError(f"overload {overload!r} is no number: write 0.1 or 10%") from error
    with operator.changing() as state:
        operator.write(state, with_settings(state.design, overload=factor), state.memory)
    lines = [f"The overload factor is now {factor * 100:.2f}% ({factor:.6f})"]
    lines.append("The change will take effect after the next rebalance.")
    warned = factor > 1 and not percent
    if warned:
        lines.append(f"Warning: that is {factor * 100:g} %; for {factor:g} % write {factor:g}%")
    operator.answer({"overload": factor}, lines)
    finish(EXIT_WARNING if warned else EXIT_DONE)


@ring.command()
@pass_operator
def pretend_min_part_hours_passed(operator: Operator) -> None:
    """Let all partitions move again at once. Use it only when replication is known to be done."""
    with operator.changing() as state:
        if state.memory is not None:
            operator.write(state, state.design, Memory.of(state.memory.ring))
    operator.answer({"locked": 0}, ["All partitions may move again."])


@ring.command(name="rebalance")
@click.option("-s", "--seed", type=SeedType(), help="Of the choices among equals.  [the ring's]")
@click.option("-f", "--force", is_flag=True, help="Write a new epoch even if nothing moves.")
@pass_operator
def rebalance_command(operator: Operator, seed: int | None, force: bool) -> None:
    """Carry out the next step of the plan, and write the ring file.

    Moves at most one replica of a partition, and none of a partition that moved less than min_part_hours ago; what was on
    removed devices is made again at once.
    """
    now_min = operator.now_min
    with operator.changing() as state:
        check_memory(state.design)
        plan = make_plan(state.design, state.memory, now_min, seed)
        done = rebalance(plan, state.memory, now_min, state.epoch_floor + 1)
        devices_changed = state.memory is not None and state.memory.ring.devices != done.memory.ring.devices
        nothing = not (done.moved or plan.change.dropped or devices_changed or force)
        if not nothing:
            operator.write(state, state.design, done.memory, write_ring=True)
    data = {
        "moved": done.moved,
        "dropped": plan.change.dropped,
        "waiting": done.waiting,
        "locked_partitions": done.locked,
        "balance": done.quality.balance,
        "dispersion": done.quality.dispersion,
        "epoch": None if nothing else done.memory.ring.epoch,
    }
    if nothing:
        why = "There is no need to do so at this time."
        if done.waiting:
            hours = state.design.settings.min_part_hours
            why = (
                f"{count_text(done.locked, 'partition')} moved less than min_part_hours ({hours}) ago; try again later."
            )
        operator.answer(data, ["No partitions could be reassigned.", why])
        finish(EXIT_WARNING)
    share = 100.0 * done.moved / state.design.settings.part_count
    lines = [
        (
            f"Reassigned {done.moved} ({share:.2f}%) partitions. Balance is now {done.quality.balance:.2f}.  "
            f"Dispersion is now {done.quality.dispersion:.2f}"
        )
    ]
    if done.waiting:
        wait = count_text(done.waiting, "replica")
        lines.append(
            f"{wait} wait for the next rebalance, in min_part_hours; then balance is {plan.after.balance:.2f}."
        )
    warned = False
    if done.quality.dispersion > 0:
        warned = True
        lines.append("NOTE: some replicas share a failure domain: adjust weights or overload, and see `dispersion -v`.")
    elif done.quality.balance > BALANCE_WARNING and done.quality.balance / 100 > state.design.settings.overload:
        warned = True
        lines.append("NOTE: balance is above 5: push this ring, wait for min_part_hours, and rebalance again.")
    operator.answer(data, lines)
    finish(EXIT_WARNING if warned else EXIT_DONE)


@ring.command()
@pass_operator
def write_ring(operator: Operator) -> None:
    """Write the ring file again, with the devices' present addresses and metadata. (rebalance writes it by itself.)"""
    with operator.changing() as state:
        memory = _need_memory(state.memory)
        old = memory.ring
        devices = merged_devices(state.design, old)
        if devices != old.devices:
            fresh = Ring(
                part_power=old.part_power,
                seed=old.seed,
                epoch=state.epoch_floor + 1,
                devices=devices,
                table=old.table,
                transition_power=old.transition_power,
            )
            memory = replace(memory, ring=fresh)
        written = operator.write(state, state.design, memory, write_ring=True)
    path = operator.files.ring_path
    what = "written" if written else "up to date already"
    operator.answer(
        {"file": str(path), "epoch": memory.ring.epoch, "written": written},
        [f"{path}: {what}, epoch {memory.ring.epoch}"],
    )


def _need_memory(memory: Memory | None) -> Memory:
    if memory is None:
        raise RingCommandError("no partition has a device yet: rebalance first")
    return memory


_STEPS = (
    ("prepare_increase_partition_power", prepare_increase, "Announce twice as many partitions to the nodes."),
    ("increase_partition_power", increase, "Go over to twice as many partitions; nothing moves."),
    ("cancel_increase_partition_power", cancel_increase, "Take the announcement back."),
    ("finish_increase_partition_power", finish_increase, "Leave the old partition numbers behind."),
)


def _make_step(name: str, text: str, index: int) -> None:
    @ring.command(name=name, help=text + "\n\nWrites the ring file; go on when all nodes have its epoch.")
    @pass_operator
    def step(operator: Operator) -> None:
        with operator.changing() as state:
            design, memory = _STEPS[index][1](state.design, _need_memory(state.memory))
            operator.write(state, design, memory, write_ring=True)
        powers = memory.ring.part_powers
        both = "" if len(powers) == 1 else f"; partitions of power {powers[1]} are valid as well"
        operator.answer(
            {"part_power": powers[0], "part_powers": list(powers), "epoch": memory.ring.epoch},
            [f"The partition power is {powers[0]}{both}. Ring file written, epoch {memory.ring.epoch}."],
        )


for _index, (_name, _, _text) in enumerate(_STEPS):
    _make_step(_name, _text, _index)


@ring.command()
@click.option(
    "--to", "number", type=int, metavar="VERSION", help="Bring back this version.  [that before the last change]"
)
@pass_operator
def undo(operator: Operator, number: int | None) -> None:
    """Bring the version before the last change back, as a new one; again for the one before that."""
    try:
        with operator.files.lock(operator.words):
            version = operator.files.undo(operator.words, number, operator.now_min)
    except NothingToUndoError as error:
        operator.answer({"version": None}, [str(error)])
        finish(EXIT_WARNING)
        return
    state = operator.files.read()
    epoch = None if state.memory is None else state.memory.ring.epoch
    lines = [f"Version {version.number} ({version.command}) is back."]
    if epoch is not None:
        lines.append(f"The ring has epoch {epoch}.")
    operator.answer({"version": version.number, "epoch": epoch}, lines)


register(ring)
