"""Digests of all cells, kept current: always what the devices say, whatever changed."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from replicator.cell_digests import CellDigests, fold
from replicator.differences import unpack_digests
from storage_node.operations import FoundDigests, GetDigests, PutObject
from tests.replicator.fleet import Fleet, at, fleet_of, ring_of

BITS = 10


def write(fleet: Fleet, number: int, name: int) -> None:
    """One object on one device."""
    key = b"/a/c/%d" % name
    fleet.apply(number, PutObject(fleet.hash(key), key, at(1), b"", b""))


async def verify(fleet: Fleet, cells: CellDigests) -> None:
    """What is known is what each device says when it is asked for everything."""
    known = await cells.refresh(0, BITS)
    assert set(known) == set(fleet.served)
    for number, table in known.items():
        answer = fleet.device(number).read(GetDigests(0, 0, 0, BITS))
        assert isinstance(answer, FoundDigests)
        assert (table == unpack_digests(answer.digests)).all()


@pytest.mark.parametrize("seed", range(3))
async def test_what_is_known_is_what_devices_say(seed: int):
    """After few and many changes, on some devices and not on others."""
    random = Random(seed)
    async with fleet_of(ring=ring_of(3, part_power=4)) as fleet:
        cells = CellDigests(fleet.peers)
        await verify(fleet, cells)
        for _ in range(12):
            for _ in range(random.choice([0, 1, 3, 100])):
                write(fleet, random.randrange(3), random.randrange(10_000))
            await verify(fleet, cells)


async def test_a_device_that_is_away_is_left_out_and_caught_up_with():
    """What it said before is not taken for what it says now."""
    async with fleet_of(ring=ring_of(3, part_power=4)) as fleet:
        cells = CellDigests(fleet.peers)
        await verify(fleet, cells)
        await fleet.stop(1)
        assert set(await cells.refresh(0, BITS)) == {0, 2}
        await fleet.start(1)
        write(fleet, 1, 5)
        await verify(fleet, cells)


def test_parts_follow_from_cells():
    """Folding is XOR."""
    table = np.arange(16, dtype=np.uint64).reshape(8, 2)
    assert fold(table, 3).tolist() == table.tolist()
    assert fold(table, 0).tolist() == [[0 ^ 2 ^ 4 ^ 6 ^ 8 ^ 10 ^ 12 ^ 14, 1 ^ 3 ^ 5 ^ 7 ^ 9 ^ 11 ^ 13 ^ 15]]
    assert fold(table, 1).tolist() == [[0 ^ 2 ^ 4 ^ 6, 1 ^ 3 ^ 5 ^ 7], [8 ^ 10 ^ 12 ^ 14, 9 ^ 11 ^ 13 ^ 15]]
