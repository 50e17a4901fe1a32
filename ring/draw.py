"""The ring as a picture: zones, nodes, devices, what each should hold and holds, and where a partition's replicas lie.

Problem: balance and dispersion are two numbers; what an operator wants to see at a glance is whether zones are of a size,
which device is too full or empty, and what a partition's replicas have in common. With 3 devices and with 300.

Idea: a panel per zone, a block per node, a cell per device. In a cell a bar is as long as the device's share of all
weights (the longest share fills the cell) and a mark on it says how much of that it holds; colour is the balance.
Names, shares and counts are written where cells are large enough; everything is in the tooltip (`<title>`) of its
cell anyway. The replicas of one partition are outlined and numbered. Cells shrink in three steps as the number of
devices grows, panels flow into rows, so the picture stays about as wide as a screen.

It is written as SVG by hand: shapes and text only, no script, no font but the viewer's own. The colours are told apart by
people who don't see red and green too (blue under, grey right, orange over).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from ring.measure import balances, device_counts, dispersion
from ring.ring import NO_DEVICE, Ring
from ring.topology import Device

WIDTH = 1200
"""Pixels: what fits a screen and a landscape page."""
_MARGIN = 24
_GAP = 16
_LINE = 17

_INK, _FAINT, _PANEL, _LINE_COLOUR, _MARK = "#1f2933", "#66727f", "#f4f6f8", "#c9d1d9", "#b5179e"
_UNDER, _RIGHT, _OVER = "#2f6fb3", "#8a97a5", "#d9730d"
_UNDER_PALE, _RIGHT_PALE, _OVER_PALE = "#cfe0f2", "#e3e8ed", "#fbe3cc"
_RIGHT_WITHIN = 1.0
"""Percent of balance that counts as right: a difference that nobody would act on."""


@dataclass(frozen=True, slots=True)
class _Cell:
    """The size of a device's cell and how much is written in it."""

    width: int
    height: int
    font: int
    lines: int


_CELLS = (
    (16, _Cell(152, 62, 12, 3)),
    (80, _Cell(94, 36, 11, 2)),
    (400, _Cell(44, 22, 10, 1)),
    (1 << 30, _Cell(14, 10, 0, 0)),
)
"""Up to so many devices, cells of this kind; they grow to fill a panel, up to twice their width."""


@dataclass(frozen=True, slots=True)
class _Facts:
    """What is known about the devices: replicas, balance, share of the weights, and the row of the marked partition."""

    counts: dict[int, int]
    balances: dict[int, float]
    shares: dict[int, float]
    marked: dict[int, int]
    share_max: float


def draw(ring: Ring, partition: int | None = None, title: str = "") -> str:
    """The ring as an SVG document; `partition` is the one whose replicas are marked."""
    devices = [device for device in ring.devices if device is not None]
    first = ring.devices[int(ring.table[0, 0])]
    holders = [device for device in devices if first is not None and device.kind == first.kind]
    facts = _facts(ring, holders, partition)
    cell = next(cell for device_count, cell in _CELLS if len(holders) <= device_count)
    shapes, height = _head(ring, holders, title, partition, facts)
    body, height = _panels(holders, cell, facts, height)
    foot, height = _foot(ring, holders, height)
    return _document([*shapes, *body, *foot], height + _MARGIN)


def _facts(ring: Ring, holders: Sequence[Device], partition: int | None) -> _Facts:
    counts = device_counts(ring.table, len(ring.devices))
    weight_total = sum(device.weight for device in holders) or 1.0
    shares = {device.id: device.weight / weight_total for device in holders}
    marked: dict[int, int] = {}
    if partition is not None:
        marked = {device.id: replica for replica, device in enumerate(ring.primaries(partition))}
    return _Facts(
        counts={device.id: int(counts[device.id]) for device in holders},
        balances=balances(holders, counts, int(counts.sum())),
        shares=shares,
        marked=marked,
        share_max=max(shares.values(), default=1.0) or 1.0,
    )


def _head(
    ring: Ring, holders: Sequence[Device], title: str, partition: int | None, facts: _Facts
) -> tuple[list[str], int]:
    """Title, what the ring is, and the legend."""
    worst = max((abs(value) for value in facts.balances.values()), default=0.0)
    zones = {device.tiers[1] for device in holders}
    nodes = {device.tiers[2] for device in holders}
    line = (
        f"{len(holders)} devices on {len(nodes)} nodes in {len(zones)} zones · {ring.part_count:,} partitions by "
        f"{ring.replica_count:g} replicas · epoch {ring.epoch} · balance {worst:.2f} % · "
        f"dispersion {dispersion(holders, ring.table):.2f} %"
    )
    shapes = [_text(_MARGIN, 40, title or "Ring", 22, _INK, weight="600"), _text(_MARGIN, 62, line, 13, _FAINT)]
    left, top = _MARGIN, 82
    legend = (
        (_UNDER, "holds less than its weight asks for"),
        (_RIGHT, f"as much, within {_RIGHT_WITHIN:g} %"),
        (_OVER, "more"),
    )
    for colour, words in legend:
        shapes += [_rect(left, top, 22, 10, colour), _text(left + 28, top + 10, words, 12, _FAINT)]
        left += 44 + int(6.3 * len(words))
    shapes.append(_text(left, top + 10, "bar: replicas held; pale: share of the weights", 12, _FAINT))
    top += 26
    if partition is not None:
        where = ", ".join(f"{replica + 1}: {device}" for replica, device in enumerate(ring.primaries(partition)))
        shapes += [
            _rect(_MARGIN + 1, top, 20, 10, "none", _MARK, 2),
            _text(_MARGIN + 28, top + 10, f"replicas of partition {partition}: {where}", 12, _FAINT),
        ]
        top += 26
    return shapes, top


def _panels(holders: Sequence[Device], cell: _Cell, facts: _Facts, top: int) -> tuple[list[str], int]:
    """A panel for each zone, flowing in rows."""
    ordered = sorted(holders, key=lambda device: (device.region, device.zone, device.node, device.id))
    zones = [list(group) for _, group in groupby(ordered, key=lambda device: (device.region, device.zone))]
    in_row = max(1, min(len(zones), (WIDTH - 2 * _MARGIN + _GAP) // (_panel_width_min(zones, cell) + _GAP)))
    width = (WIDTH - 2 * _MARGIN - (in_row - 1) * _GAP) // in_row
    shapes: list[str] = []
    for start in range(0, len(zones), in_row):
        row = zones[start : start + in_row]
        drawn = [
            _panel(zone, cell, facts, _MARGIN + index * (width + _GAP), top, width) for index, zone in enumerate(row)
        ]
        height = max(panel_height for _, panel_height in drawn)
        for index, (panel, _) in enumerate(drawn):
            shapes.append(_rect(_MARGIN + index * (width + _GAP), top, width, height, _PANEL, _LINE_COLOUR, 1, 6))
            shapes += panel
        top += height + _GAP
    return shapes, top


def _panel_width_min(zones: Sequence[Sequence[Device]], cell: _Cell) -> int:
    """A panel is wide enough for a node's devices in one row where that is possible, and for its heading."""
    most = max(sum(1 for _ in group) for zone in zones for _, group in groupby(zone, key=lambda device: device.node))
    columns = min(most, max(1, (WIDTH // 3) // (cell.width + 4)))
    return max(300, 2 * 12 + columns * (cell.width + 4))


def _panel(
    zone: Sequence[Device], cell: _Cell, facts: _Facts, left: int, top: int, width: int
) -> tuple[list[str], int]:
    """One zone: its heading, then its nodes."""
    share = sum(facts.shares[device.id] for device in zone)
    held = sum(facts.counts[device.id] for device in zone)
    total = sum(facts.counts.values()) or 1
    first = zone[0]
    shapes = [
        _text(left + 12, top + 24, f"region {first.region} · zone {first.zone}", 15, _INK, weight="600"),
        _text(
            left + width - 12,
            top + 24,
            f"weight {100 * share:.1f} % · holds {100 * held / total:.1f} %",
            12,
            _FAINT,
            anchor="end",
        ),
    ]
    most = max(sum(1 for _ in group) for _, group in groupby(zone, key=lambda device: device.node))
    fitting = max(1, (width - 24 + 4) // (cell.width + 4))
    # As many rows as are needed, all equally full, and cells as wide as that allows.
    columns = -(-most // -(-most // fitting))
    cell = replace(cell, width=min((width - 24 + 4) // columns - 4, 2 * cell.width))
    at = top + 36
    for node, group in groupby(zone, key=lambda device: device.node):
        devices = list(group)
        if cell.lines or len(devices) > 4:
            shapes.append(_text(left + 12, at + 11, node, max(cell.font, 10), _FAINT))
            at += 16
        for index, device in enumerate(devices):
            x = left + 12 + index % columns * (cell.width + 4)
            y = at + index // columns * (cell.height + 4)
            shapes += _device(device, cell, facts, x, y)
        at += -(-len(devices) // columns) * (cell.height + 4) + 4
    return shapes, at - top + 8


def _device(device: Device, cell: _Cell, facts: _Facts, left: int, top: int) -> list[str]:
    """One device: pale bar for what it should hold, full bar for what it holds, and the words that fit."""
    count, deviation, share = facts.counts[device.id], facts.balances[device.id], facts.shares[device.id]
    colour, pale = _colours(deviation, count)
    span = cell.width * share / facts.share_max
    held = min(span * (1 + deviation / 100) if share else cell.width, cell.width) if count else 0.0
    bar = cell.height if cell.lines <= 1 else 10
    words = (
        f"{device} (id {device.id}): weight {device.weight:g} ({100 * share:.2f} %), {count:,} replicas, "
        f"balance {deviation:+.2f} %"
    )
    y = top + cell.height - bar
    shapes = [
        f"<g><title>{escape(words)}</title>",
        _rect(left, top, cell.width, cell.height, "#ffffff", _LINE_COLOUR, 1, 3),
        _rect(left, y, span, bar, pale),
        _rect(
            left, y + (bar * 0.25 if cell.lines != 1 else bar - 3), held, bar * 0.5 if cell.lines != 1 else 3, colour
        ),
    ]
    lines = (device.name, f"{count:,} · {deviation:+.1f} %", f"weight {device.weight:g} · {100 * share:.2f} %")
    if cell.lines == 2:
        lines = (f"{device.name} {deviation:+.1f} %", "", "")
    for index, line in enumerate(lines[: cell.lines]):
        room = int(cell.width / (cell.font * 0.58))
        text = line if len(line) <= room else line[: room - 1] + "…"
        shapes.append(
            _text(left + 4, top + (cell.font + 4) * (index + 1), text, cell.font, _INK if index == 0 else _FAINT)
        )
    if device.id in facts.marked:
        shapes.append(_rect(left, top, cell.width, cell.height, "none", _MARK, 2.5, 3))
        if cell.lines:
            x = left + cell.width
            shapes.append(f'<circle cx="{x - 2}" cy="{top + 2}" r="8" fill="{_MARK}"/>')
            shapes.append(_text(x - 2, top + 6, str(facts.marked[device.id] + 1), 11, "#ffffff", anchor="middle"))
    return [*shapes, "</g>"]


def _colours(deviation: float, count: int) -> tuple[str, str]:
    if deviation > _RIGHT_WITHIN:
        return _OVER, _OVER_PALE
    if deviation < -_RIGHT_WITHIN and (count or deviation < 0):
        return _UNDER, _UNDER_PALE
    return _RIGHT, _RIGHT_PALE


def _foot(ring: Ring, holders: Sequence[Device], top: int) -> tuple[list[str], int]:
    """How far apart replicas are: partitions by the number of zones, and of nodes, that they are in."""
    shapes: list[str] = []
    for name, tier_index in (("zones", 1), ("nodes", 2)):
        histogram = _spread(ring, holders, tier_index)
        words = ", ".join(f"{100 * share:.4g} % in {number}" for number, share in histogram)
        shapes.append(_text(_MARGIN, top + 12, f"partitions by the number of {name} they are in: {words}", 12, _INK))
        left, room = _MARGIN, WIDTH - 2 * _MARGIN
        for place, (_, share) in enumerate(histogram):
            shapes.append(_rect(left, top + 20, max(room * share - 2, 1), 10, _OVER if place else _RIGHT))
            left += round(room * share)
        top += 44
    return shapes, top


def _spread(ring: Ring, holders: Sequence[Device], tier_index: int) -> list[tuple[int, float]]:
    """(number of domains, share of the partitions that are in so many), most domains first."""
    seen: dict[object, int] = {}
    domain_of = np.full(len(ring.devices) + 1, -1, dtype=np.int64)
    for device in holders:
        domain_of[device.id] = seen.setdefault(device.tiers[tier_index], len(seen))
    domains = domain_of[np.where(ring.table == NO_DEVICE, len(ring.devices), ring.table)]
    distinct = np.zeros(ring.part_count, dtype=np.int64)
    for row in range(len(domains)):
        fresh = domains[row] >= 0
        for earlier in range(row):
            fresh &= domains[earlier] != domains[row]
        distinct += fresh
    counts = np.bincount(distinct)
    return [(int(n), float(counts[n]) / ring.part_count) for n in np.flatnonzero(counts)[::-1]]


def _rect(
    left: float,
    top: float,
    width: float,
    height: float,
    fill: str,
    stroke: str = "",
    stroke_width: float = 1,
    radius: float = 0,
) -> str:
    edge = f' stroke="{stroke}" stroke-width="{stroke_width}"' if stroke else ""
    corner = f' rx="{radius}"' if radius else ""
    return f'<rect x="{left:g}" y="{top:g}" width="{width:.1f}" height="{height:g}" fill="{fill}"{edge}{corner}/>'


def _text(left: float, top: float, words: str, size: int, colour: str, *, weight: str = "", anchor: str = "") -> str:
    bold = f' font-weight="{weight}"' if weight else ""
    place = f' text-anchor="{anchor}"' if anchor else ""
    return f'<text x="{left:g}" y="{top:g}" font-size="{size}" fill="{colour}"{bold}{place}>{escape(words)}</text>'


def _document(shapes: Iterable[str], height: int) -> str:
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    font = quoteattr("system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif")
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family={font}>',
            _rect(0, 0, WIDTH, height, "#ffffff"),
            *shapes,
            "</svg>\n",
        )
    )
