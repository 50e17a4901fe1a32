"""Whatever devices hold, after replication all primaries hold the newest of everything and nobody else holds anything."""

from __future__ import annotations

from random import Random

import pytest

from storage_node.device import DeviceWrite
from storage_node.operations import (
    Catalog,
    DeleteCatalog,
    DeleteObject,
    Entry,
    PutCatalog,
    PutObject,
    PutRow,
    Row,
    UpdateObject,
)
from tests.replicator.fleet import Fleet, at, fleet_of, ring_of

KEYS = [b"/a/c/%d" % number for number in range(12)]
CATALOGS = [(1, b"/a/c"), (1, b"/a/d"), (2, b"/a")]
NAMES = [b"p", b"q", b"r"]


def object_write(random: Random, fleet: Fleet) -> DeviceWrite:
    """A write of an object, at a time of its own: writers never share one."""
    key = random.choice(KEYS)
    hash_ = fleet.hash(key)
    second = random.randint(1, 400)
    timestamp = at(second) + KEYS.index(key)
    if random.random() < 0.25:
        return DeleteObject(hash_, key, timestamp + 1)
    return PutObject(hash_, key, timestamp, b"m%d" % second, b"d%d" % second)


def catalog_write(random: Random, fleet: Fleet) -> DeviceWrite:
    """A write of an account, a container or a row."""
    space, key = random.choice(CATALOGS)
    hash_ = fleet.hash(key)
    timestamp = at(random.randint(1, 400)) + space
    pick = random.random()
    if pick < 0.35:
        items = {b"i": (b"%d" % timestamp, timestamp)} if random.random() < 0.5 else {}
        return PutCatalog(space, hash_, key, timestamp, items)
    if pick < 0.5:
        return DeleteCatalog(space, hash_, key, timestamp + 8)
    deleted = random.random() < 0.4
    return PutRow(space, hash_, random.choice(NAMES), timestamp + 16 * deleted, 0, deleted, 1, 1, b"%d" % timestamp)


def diverge(random: Random, fleet: Fleet) -> None:
    """Each operation reaches some devices, mostly of those that it should reach; metadata is updated here and there."""
    for _ in range(random.randint(5, 60)):
        make = object_write if random.random() < 0.5 else catalog_write
        operation = make(random, fleet)
        primaries = [device.id for device in fleet.ring.primaries(fleet.ring.partition(operation.hash))]
        others = [number for number in fleet.served if number not in primaries]
        reached = random.sample(primaries, random.randint(1, 3))
        if random.random() < 0.2:
            reached.append(random.choice(others))
        for number in reached:
            fleet.apply(number, operation)
    for _ in range(random.randint(0, 5)):
        key = random.choice(KEYS)
        number = random.choice(fleet.primaries(key))
        entry = fleet.entry(number, key)
        if entry is not None and not entry.deleted:
            update = UpdateObject(fleet.hash(key), key, entry.timestamp, at(500 + random.randint(0, 50)), b"new")
            fleet.apply(number, update)


def newest_objects(fleet: Fleet) -> dict[bytes, Entry]:
    """By the rule of reads: the latest data, of equal times the tombstone, then the latest metadata."""
    newest = {}
    for key in KEYS:
        entries = [entry for number in fleet.served if (entry := fleet.entry(number, key)) is not None]
        if entries:
            newest[key] = max(entries, key=lambda e: (e.timestamp, e.deleted, e.meta_timestamp))
    return newest


def newest_rows(fleet: Fleet) -> dict[tuple[int, bytes, bytes], Row]:
    """The latest of each row, wherever it is."""
    newest: dict[tuple[int, bytes, bytes], Row] = {}
    for space, key in CATALOGS:
        for number in fleet.served:
            if fleet.catalog(number, key, space) is None:
                continue
            for row in fleet.rows(number, key, space):
                there = newest.get((space, key, row.name))
                if there is None or (row.timestamp, row.sub_timestamp) > (there.timestamp, there.sub_timestamp):
                    newest[space, key, row.name] = row
    return newest


def latest_deletions(fleet: Fleet) -> dict[tuple[int, bytes], int]:
    """Of each catalog."""
    found: dict[tuple[int, bytes], int] = {}
    for space, key in CATALOGS:
        catalogs = [c for number in fleet.served if (c := fleet.catalog(number, key, space)) is not None]
        found[space, key] = max((c.deleted_timestamp for c in catalogs), default=0)
    return found


def verify_objects(fleet: Fleet, wanted: dict[bytes, Entry]) -> None:
    """Every primary has exactly the newest, and can read it."""
    for key in KEYS:
        for number in fleet.primaries(key):
            assert fleet.entry(number, key) == wanted.get(key), key
            entry = wanted.get(key)
            assert fleet.data(number, key) == (b"d" + entry_second(entry) if entry and not entry.deleted else None)


def entry_second(entry: Entry) -> bytes:
    """The number that the writer put into the data."""
    return b"%d" % (((entry.timestamp >> 12) - (at(0) >> 12)) // 1_000_000)


def verify_catalogs(
    fleet: Fleet, rows: dict[tuple[int, bytes, bytes], Row], deletions: dict[tuple[int, bytes], int]
) -> None:
    """Replicas are alike; what lives has the newest of every row; what is deleted has no live row."""
    for space, key in CATALOGS:
        replicas = [fleet.catalog(number, key, space) for number in fleet.primaries(key)]
        assert len({_state(replica) for replica in replicas}) == 1, (space, key)
        replica = replicas[0]
        if replica is None:
            continue
        assert replica.deleted_timestamp == deletions[space, key]
        for number in fleet.primaries(key):
            listed = {row.name: row for row in fleet.rows(number, key, space)}
            for name in NAMES:
                wanted = rows.get((space, key, name))
                if replica.created_timestamp > replica.deleted_timestamp or (wanted and wanted.deleted):
                    assert listed.get(name) == wanted, (space, key, name)
                elif wanted is not None:
                    assert listed[name].deleted


def _state(replica: Catalog | None) -> object:
    return replica and replica._replace(
        meta=tuple(sorted(replica.meta.items())),  # type: ignore[arg-type]
        touched_timestamp=0,
        newest_row_timestamp=0,
    )


@pytest.mark.parametrize("seed", range(25))
async def test_random_divergence_ends(seed: int):
    """A seeded mess of writes that reached some replicas and not others (the seed is the test's name)."""
    random = Random(seed)
    async with fleet_of(ring=ring_of(6, seed=seed, part_power=random.choice([0, 2, 4]))) as fleet:
        for _ in range(2):
            diverge(random, fleet)
            objects, rows, deletions = newest_objects(fleet), newest_rows(fleet), latest_deletions(fleet)
            await fleet.settle(8)
            fleet.check()
            verify_objects(fleet, objects)
            verify_catalogs(fleet, rows, deletions)
