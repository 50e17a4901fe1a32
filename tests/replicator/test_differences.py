"""Comparing digests: what differs is found, what agrees is not, absent devices say nothing."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from replicator.differences import NOTHING, Digests, HashRange, Membership, differing_parts, unpack_digests
from ring.builder import build_ring
from ring.ring import Ring
from ring.topology import Device

PART_POWER = 5


def ring_of(count: int, seed: int = 1, part_power: int = PART_POWER) -> Ring:
    """A ring of equal devices in three zones."""
    return build_ring(
        [Device(i, 1, i % 3, f"10.0.0.{i}", 6200, "sda", 100.0) for i in range(count)], part_power, 3, seed
    )


def agreeing(ring: Ring, bits: int = PART_POWER) -> dict[int, Digests]:
    """Digests of devices of which each holds the same thing in each of its partitions."""
    digests = {device.id: np.zeros((1 << bits, 2), dtype=np.uint64) for device in ring.devices if device}
    for cell in range(1 << bits):
        for device in ring.primaries(cell >> (bits - ring.part_power)):
            digests[device.id][cell] = (cell + 1, 7)
    return digests


def test_devices_in_agreement_have_no_differences():
    """Equal digests at all primaries and nothing elsewhere: nothing to do."""
    ring = ring_of(6)
    assert Membership([ring]).differences(agreeing(ring)) == []


def test_an_empty_cluster_agrees():
    """Zeros everywhere are agreement, and so is no answer at all."""
    ring = ring_of(6)
    empty = {device: np.zeros((32, 2), dtype=np.uint64) for device in range(6)}
    assert Membership([ring]).differences(empty) == []
    assert Membership([ring]).differences({}) == []


@given(st.integers(0, 31), st.integers(0, 2), st.sampled_from([(0, 0), (9, 9)]))
def test_a_primary_that_differs_is_found(cell, replica, value):
    """One digest that is missing or wrong makes its cell differ, and no other."""
    ring = ring_of(6)
    digests = agreeing(ring)
    digests[ring.primaries(cell)[replica].id][cell] = value
    (found,) = Membership([ring]).differences(digests)
    assert found.range == HashRange(PART_POWER, cell)
    assert found.concerned == (tuple(device.id for device in ring.primaries(cell)), ())


@given(st.integers(0, 31), st.data())
def test_what_a_handoff_holds_is_a_difference(cell, data):
    """A device that is no primary of a cell and holds something there is named."""
    ring = ring_of(6)
    digests = agreeing(ring)
    primaries = tuple(device.id for device in ring.primaries(cell))
    handoff = data.draw(st.sampled_from(sorted(set(range(6)) - set(primaries))))
    digests[handoff][cell] = digests[primaries[0]][cell]
    (found,) = Membership([ring]).differences(digests)
    assert found.concerned == (primaries, (handoff,))


def test_a_device_that_does_not_answer_makes_no_difference():
    """The others are compared with each other, whichever is away."""
    ring = ring_of(6)
    for away in range(6):
        digests = agreeing(ring)
        del digests[away]
        assert Membership([ring]).differences(digests) == []


def test_two_that_answer_are_compared_while_the_third_is_away():
    """A difference between the remaining two is found."""
    ring = ring_of(6)
    digests = agreeing(ring)
    away, one, _ = (device.id for device in ring.primaries(4))
    del digests[away]
    digests[one][4] = (1, 1)
    assert [found.range.prefix for found in Membership([ring]).differences(digests)] == [4]


def test_during_a_move_old_and_new_primaries_count():
    """With two rings in force what the new primaries lack is a difference; when all hold it there is none."""
    old, new = ring_of(6, seed=1), ring_of(6, seed=2)
    membership = Membership([new, old])
    digests = agreeing(old)
    moved = {cell for cell in range(32) if set(new.primaries(cell)) - set(old.primaries(cell))}
    assert {found.range.prefix for found in membership.differences(digests)} == moved
    for cell, value in ((cell, (cell + 1, 7)) for cell in moved):
        for device in membership.primaries(cell):
            digests[device][cell] = value
    assert membership.differences(digests) == []
    assert {found.range.prefix for found in Membership([new]).differences(digests)} == {
        cell for cell in range(32) if set(old.primaries(cell)) - set(new.primaries(cell))
    }


def test_rings_of_different_part_power_are_compared_by_the_finest_common_cells():
    """While the part power grows both rings give the same cells."""
    coarse, fine = ring_of(6, part_power=4), ring_of(6, part_power=5)
    membership = Membership([coarse, fine])
    assert membership.bits == 4
    assert membership.mixed
    assert set(membership.primaries(3)) == {
        device.id for ring, part in ((coarse, 3), (fine, 6), (fine, 7)) for device in ring.primaries(part)
    }


def test_ranges_divide_without_gap():
    """The parts of a range begin and end where it does, each where the one before ended."""
    whole = HashRange(0, 0)
    assert (whole.start, whole.end) == (bytes(16), None)
    parts = [HashRange(4, 9).part(index, 3) for index in range(8)]
    assert parts[0].start == HashRange(4, 9).start
    assert parts[-1].end == HashRange(4, 9).end
    assert all(one.end == other.start for one, other in pairwise(parts))


def test_parts_differ_where_primaries_disagree_or_others_hold_something():
    """The same rule as for cells, within a range."""
    a, b = b"a" * 16, b"b" * 16
    digests = {1: (a, a, NOTHING, a), 2: (a, b, NOTHING, a), 3: (NOTHING, NOTHING, a, NOTHING)}
    assert differing_parts(digests, (1, 2, 4), 2) == [1, 2]


def test_digests_come_as_arrays():
    """Sixteen bytes a cell become two words."""
    assert unpack_digests([NOTHING, b"\x01" + bytes(15)]).tolist() == [[0, 0], [1, 0]]
