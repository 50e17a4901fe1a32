"""The picture of a ring: well-formed, complete, and within its frame."""

from __future__ import annotations

import itertools

import pytest
from defusedxml import ElementTree

from ring.builder import build_ring
from ring.draw import WIDTH, draw
from ring.topology import Device

SVG = "{http://www.w3.org/2000/svg}"


def ring_of(count: int, zones: int, per_node: int):
    """A ring of so many devices, of two weights."""
    placed = [
        Device(
            i, 1 + i % zones % 2, i % zones, f"10.0.{i % zones}.{i // zones // per_node}", 6200, f"<sd&{i}", 1.0 + i % 2
        )
        for i in range(count)
    ]
    return build_ring(placed, 10, 3, 1)


@pytest.mark.parametrize(
    ("count", "zones", "per_node"), [(3, 3, 1), (30, 3, 5), (300, 5, 10), (300, 1, 60), (1000, 20, 10)]
)
def test_every_device_is_drawn_within_the_frame(count: int, zones: int, per_node: int):
    """At 3 devices and at 1,000: each has its cell and its words, nothing is outside, nothing lies over another cell."""
    root = ElementTree.fromstring(draw(ring_of(count, zones, per_node), 5, "a & b"))
    height = float(root.get("height"))
    cells = []
    for group in root.iter(f"{SVG}g"):
        rect = group.find(f"{SVG}rect")
        cells.append(tuple(float(rect.get(key)) for key in ("x", "y", "width", "height")))
    titles = [title.text for title in root.iter(f"{SVG}title")]
    assert len(cells) == len(set(cells)) == count
    assert all("<sd&" in title and "balance" in title for title in titles)
    for x, y, width, cell_height in cells:
        assert x >= 0
        assert x + width <= WIDTH
        assert y + cell_height <= height
    ordered = sorted(cells, key=lambda cell: (cell[1], cell[0]))
    for one, other in itertools.pairwise(ordered):
        assert one[1] + one[3] <= other[1] or one[0] + one[2] <= other[0]


def test_the_replicas_of_a_partition_are_marked():
    """Three cells are outlined and numbered, and named in the legend; without a partition none is."""
    ring = ring_of(30, 3, 5)
    text = draw(ring, 7)
    assert text.count("<circle") == 3
    for device in ring.primaries(7):
        assert str(device).replace("&", "&amp;").replace("<", "&lt;") in text
    assert "<circle" not in draw(ring, None)
