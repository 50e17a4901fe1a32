"""The topology file: what the operator wants, as one text that people read and edit.

Problem: what Swift keeps in a builder file can be seen only through its tool, and can't be reviewed, compared or kept under
version control.

Idea: a TOML file with the ring's settings and one line per device, grouped by region, zone and node; moving a device to
another zone is moving its line. The commands of `ringstead ring` change this file, and so may an editor. Where replicas
lie at present is not in here: that is the builder's memory (`ring.memory`), and `rebalance` brings the two together.

    version = 1

    [ring]
    part_power = 16
    replicas = 3.0
    min_part_hours = 24
    overload = 0.0
    seed = 1234

    [region.1.zone.2.node."10.0.0.1"]
    devices = [
      { id = 0, name = "sdb", port = 6200, weight = 100.0 },
      { id = 1, name = "xen1", port = 443, weight = 64.0, kind = "host", meta = { rack = "A1" } },
    ]

A line without an id gets that of the device which the memory knows at that place, or the lowest that nothing has or had.
Comments are not kept when a command writes the
file: what should stay belongs into `meta`.

Invariants: what `dumps` writes `loads` reads back equal; a file that breaks a rule is refused with the rule and the place.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, NamedTuple, TypeAlias, get_args

from ring.ring import PART_POWER_MAX, REPLICA_COUNT_MAX, SEED_MAX
from ring.topology import Device, Kind, Topology, TopologyError

Place: TypeAlias = tuple[str, int, str]
"""Node, port and name of a device."""

VERSION = 1
TOPOLOGY_BYTES_MAX = 1 << 28
HOURS_MAX = 24 * 365
"""A year: nobody waits longer for a partition, and 65535 hours would be a slip of the finger."""
OVERLOAD_MAX = 1e6
"""Beyond any ratio of weights: at this the ring is as dispersed as it can be."""


class TopologyFileError(ValueError):
    """The caller's: a topology file that can't be read. The message says what is wrong, and where."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a ring should be. Checked when made (TopologyError).

    part_power      2**part_power partitions
    replicas        may be fractional: 2.5 gives every other partition a third replica
    min_part_hours  a partition that moved stays where it is for so long
    overload        how much more than its weight asks for a device may take to keep replicas apart; 0.1 is 10 %
    seed            of the hash function, chosen once for a cluster, 0..2**64-1
    kind            which devices hold partitions
    """

    part_power: int
    replicas: float
    min_part_hours: int
    overload: float = 0.0
    seed: int = 0
    kind: Kind = "disk"

    def __post_init__(self) -> None:
        if not 0 <= self.part_power <= PART_POWER_MAX:
            raise TopologyError(f"part power {self.part_power} is outside 0..{PART_POWER_MAX}")
        if not 1 <= self.replicas <= REPLICA_COUNT_MAX:
            raise TopologyError(f"replica count {self.replicas:g} is outside 1..{REPLICA_COUNT_MAX}")
        if not 0 <= self.min_part_hours <= HOURS_MAX:
            raise TopologyError(f"min_part_hours {self.min_part_hours} is outside 0..{HOURS_MAX}")
        if not 0 <= self.overload <= OVERLOAD_MAX:
            raise TopologyError(f"overload {self.overload:g} is outside 0..{OVERLOAD_MAX:g}")
        if not 0 <= self.seed <= SEED_MAX:
            raise TopologyError(f"seed {self.seed} is outside 0..2**64-1")
        if self.kind not in get_args(Kind):
            raise TopologyError(f"kind {self.kind!r} is none of {', '.join(get_args(Kind))}")

    @property
    def part_count(self) -> int:
        """How many partitions there are."""
        return 1 << self.part_power

    @property
    def replica_total(self) -> int:
        """How many replicas of all partitions there are."""
        return math.floor(self.replicas * self.part_count + 1e-9)


@dataclass(frozen=True, slots=True)
class Design:
    """What the operator wants: settings and devices."""

    settings: Settings
    topology: Topology

    def holders(self) -> list[Device]:
        """The devices that partitions may be on."""
        return [device for device in self.topology if device.kind == self.settings.kind]


class Text(NamedTuple):
    """What a topology file says, and whether every line has its id."""

    design: Design
    numbered: bool


def loads(text: str, known: Mapping[Place, int] | None = None) -> Design:
    """The design in this text. TopologyFileError says what is wrong, and where.

    `known` are the ids of devices that the memory knows, by their places; no new device gets one of them.
    """
    return read(text, known).design


def read(text: str, known: Mapping[Place, int] | None = None) -> Text:
    """As `loads`, and whether every line has its id."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise TopologyFileError(f"it is no TOML: {error}") from error
    version = document.pop("version", None)
    if not isinstance(version, int):
        raise TopologyFileError("it has no `version`: another kind of file")
    if version > VERSION:
        raise TopologyFileError(f"it has version {version}, and this program knows up to {VERSION}: use a newer one")
    try:
        settings = _settings(document.pop("ring", None))
        rows = list(_rows(document.pop("region", {})))
        if document:
            raise TopologyFileError(f"there is no `{next(iter(document))}` in a topology file")
        design = Design(settings, Topology.of(_numbered(rows, known or {})))
        return Text(design, all(row["id"] is not None for row in rows))
    except TopologyError as error:
        raise TopologyFileError(str(error)) from error


def dumps(design: Design) -> str:
    """The design as a topology file."""
    settings = design.settings
    lines = [
        "# Ringstead: what the ring should be. Edit it here or with `ringstead ring`, then `ringstead ring plan`.",
        f"version = {VERSION}",
        "",
        "[ring]",
        f"part_power = {settings.part_power}",
        f"replicas = {settings.replicas!r}",
        f"min_part_hours = {settings.min_part_hours}",
        f"overload = {settings.overload!r}",
        f"seed = {_seed_text(settings.seed)}",
    ]
    if settings.kind != "disk":
        lines.append(f'kind = "{settings.kind}"')
    ordered = sorted(design.topology, key=lambda device: (device.region, device.zone, device.node, device.id))
    for (region, zone, node), devices in groupby(ordered, key=lambda device: (device.region, device.zone, device.node)):
        lines += ["", f"[region.{region}.zone.{zone}.node.{_text(node)}]", "devices = ["]
        lines += [f"  {_line(device)}," for device in devices]
        lines.append("]")
    return "\n".join(lines) + "\n"


def _seed_text(seed: int) -> str:
    # TOML's integers are signed 64-bit ones, so the upper half of the seeds is written as a string.
    return str(seed) if seed < 1 << 63 else f'"{seed}"'


def _text(value: str) -> str:
    """A TOML basic string; JSON's escapes are a subset of TOML's, but for DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _line(device: Device) -> str:
    fields = [
        f"id = {device.id}",
        f"name = {_text(device.name)}",
        f"port = {device.port}",
        f"weight = {float(device.weight)!r}",
    ]
    if device.kind != "disk":
        fields.append(f"kind = {_text(device.kind)}")
    if device.meta:
        entries = ", ".join(f"{_text(key)} = {_text(value)}" for key, value in sorted(device.meta.items()))
        fields.append(f"meta = {{ {entries} }}")
    return "{ " + ", ".join(fields) + " }"


def _settings(table: object) -> Settings:
    if not isinstance(table, dict):
        raise TopologyFileError("it has no table [ring]")
    values = dict(table)
    for key in ("part_power", "replicas", "min_part_hours", "seed"):
        if key not in values:
            raise TopologyFileError(f"[ring] has no `{key}`")
    part_power = _number(values.pop("part_power"), int, "[ring] part_power")
    replicas = _number(values.pop("replicas"), float, "[ring] replicas")
    hours = _number(values.pop("min_part_hours"), int, "[ring] min_part_hours")
    overload = _number(values.pop("overload", 0.0), float, "[ring] overload")
    seed_value = values.pop("seed")
    seed = _number(int(seed_value) if str(seed_value).isdecimal() else seed_value, int, "[ring] seed")
    kind = values.pop("kind", "disk")
    if values:
        raise TopologyFileError(f"[ring] has no `{next(iter(values))}`")
    return Settings(int(part_power), float(replicas), int(hours), float(overload), int(seed), kind)


def _rows(regions: object) -> Iterator[dict[str, Any]]:
    """The lines of the file, as the arguments of devices; their ids may be missing."""
    for region, zones in _tables(regions, "region"):
        for zone, nodes in _tables(_only(zones, "zone", f"region {region}"), f"region {region}, zone"):
            where = f"region {region}, zone {zone}"
            for node, table in _entries(_only(nodes, "node", where), where):
                lines = _only(table, "devices", f"{where}, node {node}")
                if not isinstance(lines, list):
                    raise TopologyFileError(f"{where}, node {node}: `devices` is no list")
                for line in lines:
                    yield _arguments(line, region, zone, node)


def _arguments(line: object, region: int, zone: int, node: str) -> dict[str, Any]:
    where = f"region {region}, zone {zone}, node {node}"
    if not isinstance(line, dict):
        raise TopologyFileError(f"{where}: {line!r} is no device")
    values = dict(line)
    name = values.pop("name", None)
    if not isinstance(name, str):
        raise TopologyFileError(f"{where}: a device has no `name`")
    where = f"{where}, device {name}"
    device_id = values.pop("id", None)
    meta = values.pop("meta", {})
    if not isinstance(meta, dict) or not all(isinstance(value, str) for value in meta.values()):
        raise TopologyFileError(f"{where}: meta is no table of strings")
    arguments = {
        "id": None if device_id is None else _number(device_id, int, f"{where}: id"),
        "region": region,
        "zone": zone,
        "node": node,
        "port": _number(values.pop("port", None), int, f"{where}: port"),
        "name": name,
        "weight": float(_number(values.pop("weight", None), float, f"{where}: weight")),
        "kind": values.pop("kind", "disk"),
        "meta": meta,
    }
    if values:
        raise TopologyFileError(f"{where}: a device has no `{next(iter(values))}`")
    return arguments


def _numbered(rows: list[dict[str, Any]], known: Mapping[Place, int]) -> list[Device]:
    """Devices of these arguments; who has no id gets its own back, or the lowest free one."""
    used = {row["id"] for row in rows}
    taken = used.union(known.values())
    free = (number for number in range(len(rows) + len(taken) + 1) if number not in taken)
    devices: list[Device] = []
    for row in rows:
        number = row["id"]
        if number is None:
            number = known.get((row["node"], row["port"], row["name"]))
            number = next(free) if number is None or number in used else number
        try:
            devices.append(Device(**{**row, "id": number}))
        except TopologyError as error:
            place = f"region {row['region']}, zone {row['zone']}, node {row['node']}, device {row['name']}"
            raise TopologyFileError(f"{place}: {error}") from error
    return devices


def _only(table: object, key: str, where: str) -> object:
    """The one entry that this table may have."""
    if not isinstance(table, dict) or set(table) - {key}:
        raise TopologyFileError(f"{where}: only `{key}` may stand here")
    return table.get(key, {})


def _entries(table: object, where: str) -> Iterator[tuple[str, object]]:
    if not isinstance(table, Mapping):
        raise TopologyFileError(f"{where}: a table is missing")
    yield from table.items()


def _tables(table: object, what: str) -> Iterator[tuple[int, object]]:
    for key, value in _entries(table, what):
        if not key.isdecimal():
            raise TopologyFileError(f"{what} {key!r} is no number")
        yield int(key), value


def _number(value: object, kind: type[int] | type[float], what: str) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int if kind is int else (int, float)):
        raise TopologyFileError(f"{what} {value!r} is no {'whole ' if kind is int else ''}number")
    if not math.isfinite(value):
        raise TopologyFileError(f"{what} {value} is not finite")
    return value


def with_settings(design: Design, **changes: Any) -> Design:
    """The design with other settings. TopologyError if they can't be."""
    return replace(design, settings=replace(design.settings, **changes))
