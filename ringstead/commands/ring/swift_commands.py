"""`ringstead ring import` and `export`: to and from OpenStack Swift's files."""

from __future__ import annotations

import secrets
from pathlib import Path

import click

from ring import ring_file, swift_builder_file, swift_ring_file
from ring.builder_files import design_of
from ring.durable import replace_file
from ring.memory import Memory
from ring.ring_file import RingFileError
from ring.swift_ring_file import SwiftFileError
from ring.topology_file import Design
from ringstead.commands.ring.operator import Operator, RingCommand, RingCommandError, pass_operator

HOURS_DEFAULT = 24
"""Swift's own guess where a ring file doesn't say."""


def _import(path: Path, seed: int, hours: int) -> tuple[Design, Memory | None, str]:
    data = path.read_bytes()
    if data.startswith(b"\x1f\x8b"):
        ring = swift_ring_file.loads(data, seed)
        return *design_of(ring, hours), "Swift ring"
    if data.startswith(ring_file.MAGIC):
        ring = ring_file.loads(data)
        return *design_of(ring, hours), "ring"
    if data.startswith(b"\x80"):
        return *swift_builder_file.loads(data, seed), "Swift builder"
    raise SwiftFileError("it is neither a .builder nor a .ring.gz of Swift, nor a ring file")


@click.command(name="import", cls=RingCommand)
@click.argument("source", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--min-part-hours", type=int, default=HOURS_DEFAULT, show_default=True, help="Where the file doesn't say."
)
@click.option("--seed", type=int, help="Of the hash function.  [random]")
@pass_operator
def import_command(operator: Operator, source: Path, min_part_hours: int, seed: int | None) -> None:
    """Begin a ring from Swift's SOURCE.builder or SOURCE.ring.gz, or from a ring file whose builder was lost.

    Devices and placement are taken over. Which name is in which partition is not: Swift hashes names otherwise, so data
    is copied over HTTP.
    """
    chosen = secrets.randbits(63) if seed is None else seed
    try:
        design, memory, what = _import(source, chosen, min_part_hours)
    except (SwiftFileError, RingFileError) as error:
        raise RingCommandError(f"{source}: {error}") from error
    operator.files.create(design, operator.words, memory)
    settings = design.settings
    operator.answer(
        {
            "file": str(operator.files.path),
            "devices": len(design.topology),
            "part_power": settings.part_power,
            "replicas": settings.replicas,
            "assigned": memory is not None,
        },
        [
            (
                f"{operator.files.path}: {what} of {len(design.topology)} devices, {settings.part_count} partitions with "
                f"{settings.replicas:g} replicas{'' if memory is not None else ', not rebalanced yet'}"
            )
        ],
    )


@click.command(cls=RingCommand)
@click.argument("target", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--format-version", type=click.IntRange(1, 2), default=1, show_default=True, help="Swift's ring format.")
@pass_operator
def export(operator: Operator, target: Path, format_version: int) -> None:
    """Write the ring to TARGET.ring.gz, for Swift's own Ring class."""
    memory = operator.files.read().memory
    if memory is None:
        raise RingCommandError("no partition has a device yet: rebalance first")
    replace_file(target.absolute(), swift_ring_file.dumps(memory.ring, format_version))
    operator.answer(
        {"file": str(target), "format_version": format_version, "epoch": memory.ring.epoch},
        [f"{target}: Swift's ring format {format_version}, version {memory.ring.epoch}"],
    )


@click.command(cls=RingCommand)
@click.argument("min_part_hours", type=int, default=HOURS_DEFAULT)
@pass_operator
def write_builder(operator: Operator, min_part_hours: int) -> None:
    """Make the topology file and the builder's memory again from the ring file, if they were lost."""
    path = operator.files.ring_path
    ring = ring_file.load(path)
    design, memory = design_of(ring, min_part_hours)
    operator.files.create(design, operator.words, memory, from_ring=True)
    operator.answer(
        {"file": str(operator.files.path), "devices": len(design.topology)},
        [f"{operator.files.path}: made from {path.name}; check min_part_hours and overload, which a ring doesn't know"],
    )


COMMANDS = (import_command, export, write_builder)
