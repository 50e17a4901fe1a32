"""Who was made anew is filled once every primary of all that it holds was compared with it; silence fills nobody."""

from __future__ import annotations

import shutil

import trio

from storage_node.device import Device
from storage_node.operations import PutObject
from tests.replicator.fleet import Fleet, at, fleet_of

KEYS = [b"/a/c/%d" % number for number in range(40)]


async def replace(fleet: Fleet, number: int) -> None:
    """Put an empty device in the place of one."""
    await fleet.stop(number)
    path = fleet.served[number].path
    shutil.rmtree(path)
    Device.create(path, fleet.served[number].name, filling=True)
    await fleet.start(number)


async def until_filled(fleet: Fleet) -> None:
    """Round after round. What lies on the replicator's machine it may read from the files of before for a second."""
    with trio.fail_after(60):
        while fleet.device(1).filling:
            await fleet.replicator.run_round()
            await trio.sleep(0.05)


def store(fleet: Fleet) -> None:
    """Give every primary its objects."""
    for second, key in enumerate(KEYS):
        for number in fleet.primaries(key):
            fleet.apply(number, PutObject(fleet.hash(key), key, at(second), b"", b"data " + key))


async def test_an_emptied_device_is_filled_when_it_has_everything() -> None:
    """All that it should have is there when the mark goes."""
    async with fleet_of(4) as machines:
        store(machines)
        await replace(machines, 1)
        await until_filled(machines)
        assert all(machines.entry(1, key) is not None for key in KEYS if 1 in machines.primaries(key))


async def test_a_primary_that_is_away_holds_the_mark_up() -> None:
    """It may be the only one that knows of a write; once it is back the mark goes."""
    async with fleet_of(4) as machines:
        store(machines)
        await replace(machines, 1)
        await machines.stop(0)
        for _ in range(4):
            await machines.replicator.run_round()
        assert machines.device(1).filling
        lacking = machines.replicator.statistics().filling
        assert lacking["d1"] > 0
        await machines.start(0)
        await until_filled(machines)
        assert machines.replicator.statistics().filling == {}


async def test_a_new_cluster_is_filled_in_one_round() -> None:
    """All are empty and all agree."""
    async with fleet_of(4, filling=True) as machines:
        assert all(machines.device(number).filling for number in range(4))
        await machines.replicator.run_round()
        assert not any(machines.device(number).filling for number in range(4))


async def test_one_that_is_emptied_again_begins_again() -> None:
    """What was proven of the device before says nothing of this one."""
    async with fleet_of(4) as machines:
        store(machines)
        await replace(machines, 1)
        await machines.stop(0)
        await machines.replicator.run_round()
        await machines.replicator.run_round()
        await replace(machines, 1)
        await machines.start(0)
        await until_filled(machines)
        assert all(machines.entry(1, key) is not None for key in KEYS if 1 in machines.primaries(key))
