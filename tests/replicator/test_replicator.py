"""Replication over real devices and sockets: every kind of divergence ends, and a second pass moves nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import trio

from replicator.replicator import Replicator, ReplicatorSettings
from storage_node.device import Device
from storage_node.operations import (
    DeleteCatalog,
    DeleteObject,
    ForgetObject,
    FoundEntries,
    ListEntries,
    LockObject,
    PutCatalog,
    PutObject,
    PutRow,
    UpdateObject,
)
from storage_node.timestamp import Clock
from tests.replicator.fleet import CONTAINER, NOW_US, SMALL, Fleet, at, fleet_of
from tests.storage_node.devices import die, flip_byte

KEY = b"/a/c/o"
CATALOG = b"/a/c"


def put(fleet: Fleet, timestamp: int, data: bytes = b"data", key: bytes = KEY) -> PutObject:
    """A small object of that time."""
    return PutObject(fleet.hash(key), key, timestamp, b"meta", data)


def delete(fleet: Fleet, timestamp: int, key: bytes = KEY) -> DeleteObject:
    """Its deletion."""
    return DeleteObject(fleet.hash(key), key, timestamp)


def make(fleet: Fleet, timestamp: int, **items: str) -> PutCatalog:
    """A container of that time."""
    meta = {name.encode(): (value.encode(), timestamp) for name, value in items.items()}
    return PutCatalog(CONTAINER, fleet.hash(CATALOG), CATALOG, timestamp, meta)


def unmake(fleet: Fleet, timestamp: int) -> DeleteCatalog:
    """Its deletion."""
    return DeleteCatalog(CONTAINER, fleet.hash(CATALOG), CATALOG, timestamp)


def row(fleet: Fleet, name: bytes, timestamp: int, *, deleted: bool = False) -> PutRow:
    """A row of the container."""
    return PutRow(CONTAINER, fleet.hash(CATALOG), name, timestamp, 0, deleted, 1, 5, b"row")


async def settled(fleet: Fleet) -> None:
    """Replicate until nothing is to be done, and see that nothing is."""
    await fleet.settle()
    fleet.check()
    assert fleet.replicator.statistics().backlog == 0


# --------------------------------------------------------------------------------------------------------------- objects


async def test_an_object_that_two_lack_is_copied():
    """One primary has it: the others get it, bytes, metadata and times as they are."""
    async with fleet_of() as fleet:
        source, *rest = fleet.primaries(KEY)
        fleet.apply(source, put(fleet, at(1)))
        await settled(fleet)
        for number in rest:
            assert fleet.entry(number, KEY) == fleet.entry(source, KEY)
            assert fleet.data(number, KEY) == b"data"
        assert fleet.replicator.moved.objects == 2


async def test_a_second_pass_moves_nothing():
    """What agrees costs digests and nothing else."""
    async with fleet_of() as fleet:
        fleet.apply(fleet.primaries(KEY)[0], put(fleet, at(1)))
        await settled(fleet)
        moved = fleet.replicator.moved.bytes
        found = await fleet.replicator.run_round()
        assert found.differing == 0
        assert fleet.replicator.moved.bytes == moved


async def test_the_newest_version_wins():
    """Three primaries, three versions."""
    async with fleet_of() as fleet:
        for number, second in zip(fleet.primaries(KEY), (2, 3, 1), strict=True):
            fleet.apply(number, put(fleet, at(second), b"%d" % second))
        await settled(fleet)
        assert {fleet.data(number, KEY) for number in fleet.primaries(KEY)} == {b"3"}


async def test_a_tombstone_beats_what_it_deleted():
    """A replica that missed the deletion gets the tombstone; so does one that never had the object."""
    async with fleet_of() as fleet:
        one, other, third = fleet.primaries(KEY)
        fleet.apply(one, put(fleet, at(1)))
        fleet.apply(other, put(fleet, at(1)), delete(fleet, at(2)))
        await settled(fleet)
        for number in (one, other, third):
            entry = fleet.entry(number, KEY)
            assert entry is not None
            assert (entry.deleted, entry.timestamp) == (True, at(2))


async def test_metadata_travels_without_the_data():
    """A replica with the same data gets an update of a few bytes; one without it gets both, times as they were."""
    async with fleet_of() as fleet:
        one, other, third = fleet.primaries(KEY)
        data = bytes(100_000)
        fleet.apply(one, put(fleet, at(1), data), UpdateObject(fleet.hash(KEY), KEY, at(1), at(5), b"new"))
        fleet.apply(other, put(fleet, at(1), data))
        await settled(fleet)
        for number in (one, other, third):
            entry = fleet.entry(number, KEY)
            assert entry is not None
            assert (entry.timestamp, entry.meta_timestamp, entry.meta) == (at(1), at(5), b"new")
        assert (fleet.replicator.moved.metadata, fleet.replicator.moved.objects) == (1, 1)
        assert fleet.replicator.moved.bytes < 110_000


@pytest.mark.parametrize("local", [True, False], ids=["read directly", "over the wire"])
@pytest.mark.parametrize("size", [150_000, 300_000, 3_000_000])
async def test_large_objects_are_streamed(size: int, local: bool):
    """Beyond a frame, in the log or a file of its own, read directly or from afar."""
    async with fleet_of() as fleet:
        source, *rest = fleet.primaries(KEY)
        if not local:
            for peer in fleet.peers.by_id.values():
                if peer.device.id == source:
                    peer.reader = None
            fleet.replicator.objects.is_mine = lambda *_: True  # type: ignore[method-assign]
        data = bytes(range(251)) * (size // 251 + 1)
        fleet.put_large(source, KEY, at(1), data[:size])
        await settled(fleet)
        for number in rest:
            assert fleet.data(number, KEY) == data[:size]


async def test_handoff_data_goes_home_and_away():
    """A device that is no primary gives up its copy once all primaries have it."""
    async with fleet_of() as fleet:
        handoff = fleet.others(KEY)[0]
        fleet.apply(handoff, put(fleet, at(1)))
        await settled(fleet)
        assert fleet.entry(handoff, KEY) is None
        assert all(fleet.data(number, KEY) == b"data" for number in fleet.primaries(KEY))
        assert fleet.replicator.moved.forgotten == 1


async def test_a_handoffs_old_copy_goes_and_its_tombstone_comes_home():
    """Older than what is home: dropped; newer, a deletion: brought home."""
    async with fleet_of() as fleet:
        old, new = fleet.others(KEY)[:2]
        for number in fleet.primaries(KEY):
            fleet.apply(number, put(fleet, at(5)))
        fleet.apply(old, put(fleet, at(1)))
        await settled(fleet)
        assert fleet.entry(old, KEY) is None
        fleet.apply(new, delete(fleet, at(6)))
        await settled(fleet)
        assert fleet.entry(new, KEY) is None
        entry = fleet.entry(fleet.primaries(KEY)[0], KEY)
        assert entry is not None
        assert entry.deleted


async def test_a_handoff_keeps_its_copy_while_a_primary_is_away():
    """Two of three have confirmed: that is not enough; when the third is back it is."""
    async with fleet_of() as fleet:
        handoff = fleet.others(KEY)[0]
        away, *there = fleet.primaries(KEY)
        fleet.apply(handoff, put(fleet, at(1)))
        await fleet.stop(away)
        for _ in range(3):
            await fleet.replicator.run_round()
        assert fleet.entry(handoff, KEY) is not None
        assert all(fleet.data(number, KEY) == b"data" for number in there)
        assert fleet.replicator.statistics().backlog == 1
        await fleet.start(away)
        await settled(fleet)
        assert fleet.entry(handoff, KEY) is None
        assert fleet.data(away, KEY) == b"data"


async def test_a_handoff_keeps_what_was_written_meanwhile():
    """Only the version that was listed is removed."""
    async with fleet_of() as fleet:
        handoff = fleet.others(KEY)[0]
        fleet.apply(handoff, put(fleet, at(1)))
        forget = fleet.replicator.objects._forget

        async def overtaken(forgets: Sequence[tuple[int, int, ForgetObject]]) -> int:
            if forgets:
                fleet.apply(handoff, put(fleet, at(2), b"later"))
            return await forget(forgets)

        fleet.replicator.objects._forget = overtaken  # type: ignore[method-assign]
        await fleet.replicator.run_round()
        assert fleet.data(handoff, KEY) == b"later"
        await settled(fleet)
        assert {fleet.data(number, KEY) for number in fleet.primaries(KEY)} == {b"later"}


async def test_what_was_written_just_now_is_left_to_its_writer():
    """Within the settling time a difference is none; it is looked at again."""
    async with fleet_of() as fleet:
        source, *rest = fleet.primaries(KEY)
        settings = ReplicatorSettings(settle_s=2000.0)
        replicator = Replicator(fleet.peers, fleet.replicator.catalogs._clock, settings, now_us=lambda: at(1) >> 12)
        fleet.apply(source, put(fleet, at(0)))
        (result,) = (await replicator.run_round()).results
        assert result.outcome == (0, 1, 0)
        assert replicator.statistics().backlog == 0
        assert fleet.entry(rest[0], KEY) is None


async def test_a_lock_is_no_confirmation():
    """A primary that answers NEWER because of a lock does not have the object: the handoff keeps it."""
    async with fleet_of() as fleet:
        handoff = fleet.others(KEY)[0]
        locked = fleet.primaries(KEY)[0]
        fleet.apply(handoff, put(fleet, at(1)))
        fleet.apply(locked, LockObject(fleet.hash(KEY), KEY, at(500), 60_000))
        await fleet.replicator.run_round()
        assert fleet.entry(locked, KEY) is None
        assert fleet.entry(handoff, KEY) is not None


async def test_a_rotten_source_is_passed_over():
    """One holder's bytes are wrong: the other's are copied."""
    async with fleet_of() as fleet:
        rotten, good, lacking = fleet.primaries(KEY)
        for number in (rotten, good):
            fleet.apply(number, put(fleet, at(1), b"the right bytes"))
        rot(fleet, rotten, b"the right bytes")
        await fleet.settle()
        assert fleet.data(lacking, KEY) == b"the right bytes"
        assert fleet.replicator.moved.corrupt_sources == 1


def rot(fleet: Fleet, number: int, data: bytes) -> None:
    """Change a byte of what a device has on its disk."""
    for segment in (fleet.served[number].path / "log").iterdir():
        content = segment.read_bytes()
        where = content.find(data)
        if where >= 0:
            with segment.open("r+b") as file:
                file.seek(where)
                file.write(bytes((content[where] ^ 1,)))


async def test_a_device_that_came_back_empty_is_filled():
    """Many objects, none of them on the new disk: all come back, whatever their number in a range."""
    async with fleet_of() as fleet:
        keys = [b"/a/c/%d" % i for i in range(400)]
        for number in fleet.served:
            mine = [put(fleet, at(1), b"x" * 50, key) for key in keys if number in fleet.primaries(key)]
            if number != 2:
                fleet.apply(number, *mine)
        await settled(fleet)
        lost = [key for key in keys if 2 in fleet.primaries(key)]
        assert fleet.replicator.moved.objects == len(lost)


# -------------------------------------------------------------------------------------------------------------- catalogs


async def test_a_container_and_its_rows_are_copied():
    """State, items and rows of every kind, to the primaries that lack them."""
    async with fleet_of() as fleet:
        source, *rest = fleet.primaries(CATALOG)
        fleet.apply(source, make(fleet, at(1), color="red"), row(fleet, b"x", at(2)))
        fleet.apply(source, row(fleet, b"y", at(3), deleted=True))
        await settled(fleet)
        for number in rest:
            assert fleet.catalog(number, CATALOG) == fleet.catalog(source, CATALOG)
            assert fleet.rows(number, CATALOG) == fleet.rows(source, CATALOG)


async def test_rows_are_joined_from_all_replicas():
    """Each replica has rows that the others lack, and older versions of what they have."""
    async with fleet_of() as fleet:
        for index, number in enumerate(fleet.primaries(CATALOG)):
            fleet.apply(number, make(fleet, at(1)))
            fleet.apply(number, row(fleet, b"only-%d" % index, at(2)))
            fleet.apply(number, row(fleet, b"all", at(10 + index), deleted=index == 2))
        await settled(fleet)
        for number in fleet.primaries(CATALOG):
            rows = {row.name: row for row in fleet.rows(number, CATALOG)}
            assert sorted(rows) == [b"all", b"only-0", b"only-1", b"only-2"]
            assert rows[b"all"].deleted
            catalog = fleet.catalog(number, CATALOG)
            assert catalog is not None
            assert (catalog.row_count, catalog.size_bytes) == (3, 15)


async def test_many_rows_are_joined_page_by_page():
    """More rows than a page holds, every other one missing somewhere."""
    async with fleet_of() as fleet:
        for index, number in enumerate(fleet.primaries(CATALOG)):
            rows = [row(fleet, b"%05d" % i, at(2)) for i in range(2500) if i % 3 != index]
            fleet.apply(number, make(fleet, at(1)), *rows)
        await settled(fleet)
        assert all(len(fleet.rows(number, CATALOG)) == 2500 for number in fleet.primaries(CATALOG))


async def test_metadata_items_are_joined():
    """Two clients set two items through different majorities."""
    async with fleet_of() as fleet:
        one, other, _ = fleet.primaries(CATALOG)
        fleet.apply(one, make(fleet, at(1), a="1"))
        fleet.apply(other, make(fleet, at(2), b="2"))
        await settled(fleet)
        for number in fleet.primaries(CATALOG):
            catalog = fleet.catalog(number, CATALOG)
            assert catalog is not None
            assert {name: value for name, (value, _) in catalog.meta.items()} == {b"a": b"1", b"b": b"2"}
            assert catalog.created_timestamp == at(1)


async def test_an_acknowledged_deletion_of_a_container_reaches_the_third():
    """A majority deleted it; the third missed the deletion of its rows as well."""
    async with fleet_of() as fleet:
        *two, third = fleet.primaries(CATALOG)
        for number in (*two, third):
            fleet.apply(number, make(fleet, at(1)), row(fleet, b"x", at(2)))
        for number in two:
            fleet.apply(number, row(fleet, b"x", at(3), deleted=True), unmake(fleet, at(4)))
        await settled(fleet)
        for number in (*two, third):
            catalog = fleet.catalog(number, CATALOG)
            assert catalog is not None
            assert catalog.deleted_timestamp == at(4) > catalog.created_timestamp
            assert catalog.row_count == 0


async def test_a_row_that_was_never_acknowledged_goes_with_its_container():
    """A majority deleted the container while a row had reached only the third."""
    async with fleet_of() as fleet:
        *two, third = fleet.primaries(CATALOG)
        for number in two:
            fleet.apply(number, make(fleet, at(1)), unmake(fleet, at(4)))
        fleet.apply(third, make(fleet, at(1)), row(fleet, b"x", at(5)))
        await settled(fleet)
        for number in (*two, third):
            catalog = fleet.catalog(number, CATALOG)
            assert catalog is not None
            assert (catalog.deleted_timestamp, catalog.row_count) == (at(4), 0)


async def test_a_deletion_that_failed_half_way_is_undone():
    """One replica deleted what a majority has a row in: the container stays, with its metadata."""
    async with fleet_of() as fleet:
        one, *two = fleet.primaries(CATALOG)
        fleet.apply(one, make(fleet, at(1), color="red"), unmake(fleet, at(4)))
        for number in two:
            fleet.apply(number, make(fleet, at(1), color="red"), row(fleet, b"x", at(5)))
        await settled(fleet)
        for number in (one, *two):
            catalog = fleet.catalog(number, CATALOG)
            assert catalog is not None
            assert catalog.created_timestamp > catalog.deleted_timestamp
            assert catalog.row_count == 1
            assert catalog.meta[b"color"][0] == b"red"


async def test_a_deletion_in_doubt_waits():
    """While a primary is away that may know better, nothing is decided."""
    async with fleet_of() as fleet:
        one, other, away = fleet.primaries(CATALOG)
        fleet.apply(one, make(fleet, at(1)), unmake(fleet, at(4)))
        fleet.apply(other, make(fleet, at(1)), row(fleet, b"x", at(2)))
        fleet.apply(away, make(fleet, at(1)), row(fleet, b"x", at(3), deleted=True), unmake(fleet, at(4)))
        fleet.peers.by_id[away].reader = None  # on another machine: what a dead device had published can't be read
        await fleet.stop(away)
        for _ in range(4):
            await fleet.replicator.run_round()
        there = fleet.catalog(other, CATALOG)
        assert there is not None
        assert there.row_count == 1
        assert fleet.replicator.statistics().backlog == 1
        await fleet.start(away)
        await settled(fleet)
        there = fleet.catalog(other, CATALOG)
        assert there is not None
        assert (there.row_count, there.deleted_timestamp) == (0, at(4))


async def test_a_handoffs_container_goes_home_and_away():
    """With its rows, all of them confirmed by every primary first."""
    async with fleet_of() as fleet:
        handoff = fleet.others(CATALOG)[0]
        fleet.apply(handoff, make(fleet, at(1), a="1"), row(fleet, b"x", at(2)), row(fleet, b"y", at(2), deleted=True))
        fleet.apply(fleet.primaries(CATALOG)[0], make(fleet, at(1)), row(fleet, b"x", at(3)))
        await settled(fleet)
        assert fleet.catalog(handoff, CATALOG) is None
        for number in fleet.primaries(CATALOG):
            assert [(r.name, r.timestamp) for r in fleet.rows(number, CATALOG)] == [(b"x", at(3)), (b"y", at(2))]


@pytest.mark.parametrize("deleted", [False, True], ids=["alive", "deleted"])
async def test_a_handoff_that_lost_its_containers_name_gets_rid_of_its_rows(deleted: bool):
    """Rot took the container's own record: the rows go home (into a deleted one: as tombstones), and then away."""
    async with fleet_of() as fleet:
        handoff = fleet.others(CATALOG)[0]
        await fleet.stop(handoff)
        lose_the_name(fleet, handoff)
        await fleet.start(handoff)
        assert fleet.catalog(handoff, CATALOG) is None
        for number in fleet.primaries(CATALOG):
            fleet.apply(number, make(fleet, at(1)))
            if deleted:
                fleet.apply(number, unmake(fleet, at(3)))
        await fleet.settle()
        fleet.check(rotten_log=True)
        for number in fleet.primaries(CATALOG):
            assert [(item.name, item.deleted) for item in fleet.rows(number, CATALOG)] == [(b"name", deleted)]
        found = fleet.device(handoff).read(ListEntries(CONTAINER, bytes(16), None, 100))
        assert isinstance(found, FoundEntries)
        assert not found.entries


def lose_the_name(fleet: Fleet, number: int) -> None:
    """Let a device that is not served have a row of the container, whose own record rots before the index has it."""
    path = fleet.served[number].path
    device = Device.open(path, settings=SMALL)
    device.apply([make(fleet, at(1)), row(fleet, b"name", at(2))])
    die(device)
    segments = [(segment, segment.read_bytes().find(CATALOG)) for segment in sorted((path / "log").glob("*.seg"))]
    ((segment, offset),) = [(segment, offset) for segment, offset in segments if offset >= 0]
    flip_byte(segment, offset)


async def test_a_handoffs_container_stays_while_a_primary_is_away():
    """Its rows too."""
    async with fleet_of() as fleet:
        handoff = fleet.others(CATALOG)[0]
        away, *_ = fleet.primaries(CATALOG)
        fleet.apply(handoff, make(fleet, at(1)), row(fleet, b"x", at(2)))
        await fleet.stop(away)
        for _ in range(4):
            await fleet.replicator.run_round()
        assert len(fleet.rows(handoff, CATALOG)) == 1
        await fleet.start(away)
        await settled(fleet)
        assert fleet.catalog(handoff, CATALOG) is None


# ------------------------------------------------------------------------------------------------------- knobs, failures


async def test_pausing_holds_the_work():
    """A round that is paused finds what differs and moves nothing; afterwards it goes on where it was held."""
    async with fleet_of() as fleet, trio.open_nursery() as nursery:
        source, *rest = fleet.primaries(KEY)
        fleet.replicator.throttle.pause()
        fleet.apply(source, put(fleet, at(1)))
        nursery.start_soon(fleet.replicator.run_round)
        with trio.fail_after(10):
            while not fleet.replicator.statistics().pending:
                await trio.sleep(0.005)
        assert fleet.replicator.statistics().paused
        assert fleet.data(rest[0], KEY) is None
        fleet.replicator.throttle.resume()
        with trio.fail_after(10):
            while fleet.replicator.statistics().pending:
                await trio.sleep(0.005)
        assert fleet.data(rest[0], KEY) == b"data"


async def test_a_device_that_returns_during_a_round_is_not_overlooked():
    """The next round is begun right after the one in which it was asked for, not when its time has come."""
    async with fleet_of() as fleet, trio.open_nursery() as nursery:
        asked: list[int] = []

        def ask_for_another(work: list[Any]) -> None:
            if not asked:
                asked.append(len(work))
                replicator.kick()

        settings = ReplicatorSettings(settle_s=0.0, interval_s=3_600.0)
        replicator = Replicator(fleet.peers, Clock(7, lambda: NOW_US), settings, shuffle=ask_for_another)
        await nursery.start(replicator.run)
        with trio.fail_after(20):
            while replicator.statistics().rounds < 2:
                await trio.sleep(0.005)
        nursery.cancel_scope.cancel()


async def test_a_long_round_counts_what_it_has_still_to_do(monkeypatch: pytest.MonkeyPatch):
    """While a device is filled again the backlog is what it lacks, and as old as the round."""
    monkeypatch.setattr("replicator.replicator.LONG_ROUND_S", 0.0)
    async with fleet_of() as fleet, trio.open_nursery() as nursery:
        fleet.replicator.throttle.pause()
        fleet.apply(fleet.primaries(KEY)[0], put(fleet, at(1)))
        nursery.start_soon(fleet.replicator.run_round)
        with trio.fail_after(10):
            while not fleet.replicator.statistics().backlog:
                await trio.sleep(0.005)
        assert fleet.replicator.statistics().oldest_s > 0
        fleet.replicator.throttle.resume()


async def test_a_full_or_fenced_target_costs_the_others_nothing():
    """It stays in the backlog, and is served when it takes writes again."""
    async with fleet_of() as fleet:
        source, fenced, other = fleet.primaries(KEY)
        fleet.apply(source, put(fleet, at(1)))
        fleet.device(fenced).fence("for the test")
        await fleet.replicator.run_round()
        assert fleet.data(other, KEY) == b"data"
        assert fleet.entry(fenced, KEY) is None
        assert fleet.replicator.statistics().backlog == 1
        assert fleet.replicator.moved.failed == 1
        fleet.device(fenced).release_fence()
        await settled(fleet)
        assert fleet.data(fenced, KEY) == b"data"


async def test_devices_of_other_machines_are_left_to_their_replicator_at_first():
    """A difference between two remote devices is not this node's; one that lasts is, if a device of this node lacks it."""
    async with fleet_of(local=[]) as fleet:
        source, *_ = fleet.primaries(KEY)
        fleet.apply(source, put(fleet, at(1)))
        assert (await fleet.replicator.run_round()).differing == 0
    async with fleet_of() as fleet:
        source, mine, _ = fleet.primaries(KEY)
        for number, peer in fleet.peers.by_id.items():
            if number != mine:
                peer.reader = None
        fleet.apply(source, put(fleet, at(1)))
        for _ in range(3):
            await fleet.replicator.run_round()
        assert fleet.entry(mine, KEY) is None
        await fleet.replicator.run_round()
        assert fleet.data(mine, KEY) == b"data"
