"""Tombstones go when every device has spoken, and not before."""

from __future__ import annotations

import pytest

from replicator.reclaim import Reclaimer, ReclaimSettings
from storage_node.operations import DeleteCatalog, DeleteObject, ForgetObject, PutCatalog, PutObject, PutRow
from tests.replicator.fleet import CONTAINER, NOW_US, Fleet, at, fleet_of, ring_of

KEY = b"/a/c/o"
CATALOG = b"/a/c"


def reclaimer_of(fleet: Fleet, age_s: float = 0.0) -> Reclaimer:
    """One that takes everything for old enough, unless told otherwise."""
    return Reclaimer(fleet.peers, ReclaimSettings(age_s=age_s), now_us=lambda: NOW_US)


def reclaimed(reclaimer: Reclaimer) -> tuple[int, int, int]:
    """Objects, rows and catalogs, since the start."""
    figures = reclaimer.statistics()
    return figures.objects, figures.rows, figures.catalogs


def delete_everywhere(fleet: Fleet, key: bytes = KEY, second: int = 1) -> None:
    """A tombstone on all primaries."""
    for number in fleet.primaries(key):
        fleet.apply(number, DeleteObject(fleet.hash(key), key, at(second)))


async def test_a_confirmed_tombstone_goes_everywhere():
    """All primaries hold it, nobody else holds anything: nothing is left, and stays so."""
    async with fleet_of() as fleet:
        delete_everywhere(fleet)
        reclaimer = reclaimer_of(fleet)
        await reclaimer.run_pass()
        assert reclaimer.statistics().objects == 1
        assert all(fleet.entry(number, KEY) is None for number in fleet.served)
        await fleet.settle()
        fleet.check()
        assert all(fleet.device(number).statistics().tombstone_count == 0 for number in fleet.served)


async def test_a_young_tombstone_stays():
    """Younger than the age: untouched."""
    async with fleet_of() as fleet:
        delete_everywhere(fleet)
        await reclaimer_of(fleet, age_s=10_000).run_pass()
        assert all(fleet.entry(number, KEY) is not None for number in fleet.primaries(KEY))


@pytest.mark.parametrize("held", ["nothing", "the object", "an older tombstone"])
async def test_a_tombstone_that_one_primary_lacks_stays(held: str):
    """Absence is no confirmation; nor is an old version."""
    async with fleet_of() as fleet:
        delete_everywhere(fleet, second=5)
        last = fleet.primaries(KEY)[2]
        old = fleet.entry(last, KEY)
        assert old is not None
        fleet.apply(last, ForgetObject(fleet.hash(KEY), KEY, old.timestamp, old.meta_timestamp))
        if held == "the object":
            fleet.apply(last, PutObject(fleet.hash(KEY), KEY, at(1), b"", b"data"))
        elif held == "an older tombstone":
            fleet.apply(last, DeleteObject(fleet.hash(KEY), KEY, at(2)))
        reclaimer = reclaimer_of(fleet)
        await reclaimer.run_pass()
        assert reclaimer.statistics().objects == 0
        await fleet.settle()
        entry = fleet.entry(last, KEY)
        assert entry is not None
        assert entry.deleted
        assert entry.timestamp == at(5)
        await reclaimer.run_pass()
        assert reclaimer.statistics().objects == 1


async def test_a_handoff_with_the_old_object_keeps_the_tombstone():
    """It would bring the object back: its copy has to go first."""
    async with fleet_of() as fleet:
        delete_everywhere(fleet, second=5)
        handoff = fleet.others(KEY)[0]
        fleet.apply(handoff, PutObject(fleet.hash(KEY), KEY, at(1), b"", b"data"))
        reclaimer = reclaimer_of(fleet)
        await reclaimer.run_pass()
        assert reclaimer.statistics().objects == 0
        await fleet.settle()
        assert fleet.entry(handoff, KEY) is None
        await reclaimer.run_pass()
        assert reclaimer.statistics().objects == 1


async def test_a_silent_device_holds_up_everything():
    """Whatever it is: it may hold anything."""
    async with fleet_of() as fleet:
        delete_everywhere(fleet)
        away = fleet.others(KEY)[0]
        await fleet.stop(away)
        reclaimer = reclaimer_of(fleet)
        await reclaimer.run_pass()
        assert reclaimer.statistics().objects == 0
        assert reclaimer.statistics().waits_for == (away,)
        assert reclaimer.statistics().backlog == 1
        assert reclaimer.statistics().oldest_s == pytest.approx(1_000 - 1)
        await fleet.start(away)
        await reclaimer.run_pass()
        assert reclaimer.statistics().objects == 1
        assert (reclaimer.statistics().backlog, reclaimer.statistics().oldest_s) == (0, 0.0)


async def test_during_a_move_the_new_primaries_count():
    """A tombstone that a new primary has not been given yet stays."""
    async with fleet_of(6) as fleet:
        old, new = fleet.ring, ring_of(7, epoch=2)
        key = next(
            key
            for key in (b"/a/c/%d" % number for number in range(100))
            if set(fleet.primaries(key, new)) - set(fleet.primaries(key, old))
        )
        delete_everywhere(fleet, key)
        fleet.add(new)
        fleet.peers.adopt((new, old), fleet.local_devices())
        await fleet.start(6)
        reclaimer = reclaimer_of(fleet)
        await reclaimer.run_pass()
        assert reclaimer.statistics().objects == 0
        await fleet.replicator.run_round()
        await reclaimer.run_pass()
        assert reclaimer.statistics().objects == 1


async def test_rows_and_deleted_containers_go():
    """A container's tombstone rows first, then the container that is deleted itself."""
    async with fleet_of() as fleet:
        hash_ = fleet.hash(CATALOG)
        for number in fleet.primaries(CATALOG):
            fleet.apply(number, PutCatalog(CONTAINER, hash_, CATALOG, at(1), {}))
            fleet.apply(number, PutRow(CONTAINER, hash_, b"x", at(2), 0, True, 0, 0, b""))
        reclaimer = reclaimer_of(fleet)
        await reclaimer.run_pass()
        assert reclaimed(reclaimer) == (0, 1, 0)
        assert all(fleet.rows(number, CATALOG) == [] for number in fleet.primaries(CATALOG))
        await reclaimer.run_pass()
        assert fleet.catalog(fleet.primaries(CATALOG)[0], CATALOG) is not None
        for number in fleet.primaries(CATALOG):
            fleet.apply(number, DeleteCatalog(CONTAINER, hash_, CATALOG, at(3)))
        await reclaimer.run_pass()
        assert reclaimed(reclaimer) == (0, 1, 1)
        assert all(fleet.catalog(number, CATALOG) is None for number in fleet.served)
        fleet.check()


async def test_a_row_that_one_primary_lacks_stays():
    """As with objects."""
    async with fleet_of() as fleet:
        hash_ = fleet.hash(CATALOG)
        for index, number in enumerate(fleet.primaries(CATALOG)):
            fleet.apply(number, PutCatalog(CONTAINER, hash_, CATALOG, at(1), {}))
            if index != 2:
                fleet.apply(number, PutRow(CONTAINER, hash_, b"x", at(2), 0, True, 0, 0, b""))
        reclaimer = reclaimer_of(fleet)
        await reclaimer.run_pass()
        assert reclaimer.statistics().rows == 0
        await fleet.settle()
        await reclaimer.run_pass()
        assert reclaimer.statistics().rows == 1
