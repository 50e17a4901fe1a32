"""What each write does, in words: newest wins, locks, catalogs' lives, limits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest

from storage_node.device import Device, DeviceWrite, PutBlob
from storage_node.operations import (
    KEY_BYTES_MAX,
    META_BYTES_MAX,
    ROW_NAME_BYTES_MAX,
    SMALL_BYTES_MAX,
    Catalog,
    DeleteCatalog,
    DeleteObject,
    Entry,
    Found,
    FoundCatalog,
    GetCatalog,
    GetObject,
    Locked,
    LockObject,
    PutCatalog,
    PutObject,
    PutRow,
    Status,
    UnlockObject,
    UpdateObject,
    Written,
)
from tests.storage_node.devices import SMALL, StillClock, hash_of, make_device

HASH, KEY = hash_of(1), b"/a/c/o"
PLACE = (1, hash_of(2), b"/a/c")


@pytest.fixture
def clock() -> StillClock:
    """The device's."""
    return StillClock()


@pytest.fixture
def device(memory_path: Path, clock: StillClock) -> Iterator[Device]:
    """An empty one."""
    made = make_device(memory_path / "d", now=clock)
    yield made
    assert made.check() == []
    made.close()


def put(timestamp: int, data: bytes = b"data", *, manifest: bool = False, lock: int | None = None) -> PutObject:
    """A write of the object."""
    return PutObject(HASH, KEY, timestamp, b"meta", data, manifest, lock)


def do(device: Device, operation: DeviceWrite) -> Written:
    """Apply one operation that is no lock."""
    (answer,) = device.apply([operation])
    assert isinstance(answer, Written)
    return answer


def lock(device: Device, timestamp: int, lease_ms: int = 1000) -> Locked:
    """Lock the object."""
    (answer,) = device.apply([LockObject(HASH, KEY, timestamp, lease_ms)])
    assert isinstance(answer, Locked)
    return answer


def get(device: Device) -> Found:
    """Read the object."""
    found = device.read(GetObject(HASH, KEY, True))
    assert isinstance(found, Found)
    return found


def catalog(device: Device) -> Catalog:
    """Read the catalog."""
    found = device.read(GetCatalog(*PLACE))
    assert isinstance(found, FoundCatalog)
    assert found.catalog is not None
    return found.catalog


def test_the_newest_write_wins_and_older_ones_are_told(device: Device) -> None:
    """What was replaced is named; an equal timestamp is no news, and says so by itself."""
    assert do(device, put(5)) == Written(Status.APPLIED)
    assert do(device, put(7, b"newer")) == Written(Status.APPLIED, 5)
    assert do(device, put(6)) == Written(Status.NEWER, 7)
    assert do(device, put(7)) == Written(Status.NEWER, 7)
    assert do(device, DeleteObject(HASH, KEY, 7)) == Written(Status.NEWER, 7)
    assert get(device).data == b"newer"
    assert do(device, DeleteObject(HASH, KEY, 9)) == Written(Status.APPLIED, 7)
    assert do(device, put(8)) == Written(Status.NEWER, 9)
    assert do(device, put(10)) == Written(Status.APPLIED)


def test_deleting_what_was_never_there_leaves_a_tombstone(device: Device) -> None:
    """MISSING, but a write that is older and comes later loses against it."""
    assert do(device, DeleteObject(HASH, KEY, 5)) == Written(Status.MISSING)
    assert do(device, put(4)) == Written(Status.NEWER, 5)
    assert do(device, DeleteObject(HASH, KEY, 6)) == Written(Status.MISSING)
    assert get(device).entry == Entry(6, 6, True, 0, b"")
    assert device.statistics().tombstone_count == 1


def test_metadata_belong_to_the_version_that_they_were_written_for(device: Device) -> None:
    """MISSING for any other version; data stay, only the newest metadata count."""
    assert do(device, UpdateObject(HASH, KEY, 5, 6, b"m")) == Written(Status.MISSING)
    do(device, put(5))
    assert do(device, UpdateObject(HASH, KEY, 5, 7, b"seven")) == Written(Status.APPLIED, 5)
    assert do(device, UpdateObject(HASH, KEY, 5, 6, b"six")) == Written(Status.NEWER, 7)
    assert do(device, UpdateObject(HASH, KEY, 4, 8, b"other")) == Written(Status.MISSING, 5)
    assert get(device).entry == Entry(5, 7, False, 4, b"seven")
    assert get(device).data == b"data"
    assert do(device, put(6)) == Written(Status.APPLIED, 5)
    assert get(device).entry == Entry(6, 6, False, 4, b"meta")
    do(device, DeleteObject(HASH, KEY, 9))
    assert do(device, UpdateObject(HASH, KEY, 6, 10, b"late")) == Written(Status.MISSING, 9)


def test_whoever_replaces_a_manifest_is_given_it(device: Device) -> None:
    """By a write, by a deletion, in the same batch, and out of a file; not by a metadata update."""
    do(device, put(5, b"parts", manifest=True))
    do(device, UpdateObject(HASH, KEY, 5, 6, b"m"))
    assert do(device, put(7)).replaced_manifest == b"parts"
    answers = device.apply([put(8, b"more parts", manifest=True), DeleteObject(HASH, KEY, 9)])
    assert isinstance(answers[1], Written)
    assert answers[1].replaced_manifest == b"more parts"
    writer = device.open_write()
    writer.write(bytes(300_000))
    writer.finish()
    device.apply([PutBlob(HASH, KEY, 10, b"", writer, True)])
    assert do(device, put(11)).replaced_manifest == bytes(300_000)
    assert do(device, put(12)).replaced_manifest is None


def test_two_names_with_one_hash_are_refused(device: Device) -> None:
    """Every kind of operation and read, rather than giving one object's data to the other's name."""
    do(device, put(5))
    other = b"/another"
    operations: list[DeviceWrite] = [
        PutObject(HASH, other, 9, b"", b""),
        DeleteObject(HASH, other, 9),
        UpdateObject(HASH, other, 5, 9, b""),
    ]
    for operation in operations:
        assert "collision" in do(device, operation).detail
    (answer,) = device.apply([LockObject(HASH, other, 9, 1000)])
    assert answer.status == Status.REFUSED
    assert device.read(GetObject(HASH, other, True)).status == Status.REFUSED
    assert device.open_read(HASH, other) == Status.REFUSED
    do(device, PutCatalog(*PLACE, 1, {}))
    assert do(device, PutCatalog(*PLACE[:2], other, 2, {})).status == Status.REFUSED
    assert do(device, DeleteCatalog(*PLACE[:2], other, 2)).status == Status.REFUSED
    assert device.read(GetCatalog(*PLACE[:2], other)).status == Status.REFUSED


def test_a_lock_holds_off_others_and_older_writes(device: Device, clock: StillClock) -> None:
    """Another lock is LOCKED; a write from before the lock must stamp again; one from after it wins."""
    do(device, put(5))
    assert lock(device, 10) == Locked(Status.APPLIED, entry=get(device).entry)
    assert lock(device, 11) == Locked(Status.LOCKED, 10)
    assert lock(device, 10).status == Status.APPLIED
    assert do(device, put(9)) == Written(Status.NEWER, 10)
    assert do(device, DeleteObject(HASH, KEY, 9)) == Written(Status.NEWER, 10)
    for timestamp in (9, 11):
        assert do(device, UpdateObject(HASH, KEY, 5, timestamp, b"")) == Written(Status.LOCKED, 10)
    assert do(device, put(10, lock=11)) == Written(Status.LOCK_LOST, 10)
    assert do(device, put(10, lock=10)) == Written(Status.APPLIED, 5)
    assert do(device, put(10, lock=10)) == Written(Status.LOCK_LOST)
    assert lock(device, 9).status == Status.NEWER
    lock(device, 20)
    assert do(device, put(21)) == Written(Status.APPLIED, 10)
    assert do(device, put(20, lock=20)) == Written(Status.NEWER, 21)
    assert do(device, UnlockObject(HASH, 19)) == Written(Status.APPLIED)
    assert lock(device, 22).status == Status.LOCKED
    assert do(device, UnlockObject(HASH, 20)) == Written(Status.APPLIED)
    assert lock(device, 22).status == Status.APPLIED
    clock.now += 1000
    assert do(device, put(22, lock=22)) == Written(Status.LOCK_LOST)
    assert lock(device, 23).status == Status.APPLIED


def test_locks_are_few_and_short(memory_path: Path) -> None:
    """A lease is cut to the longest allowed, and of too many locks the last is BUSY until others expire."""
    clock = StillClock()
    device = make_device(memory_path / "d", replace(SMALL, lock_count_max=3, lock_lease_ms_max=500), now=clock)
    locks: list[DeviceWrite] = [LockObject(hash_of(number), b"/%d" % number, 5, 10_000) for number in range(4)]
    assert [answer.status for answer in device.apply(locks)] == [Status.APPLIED] * 3 + [Status.BUSY]
    clock.now += 500
    assert device.apply(locks[3:])[0].status == Status.APPLIED
    assert device.apply([LockObject(HASH, KEY, 5, -7)])[0].status == Status.APPLIED
    assert do(device, PutObject(HASH, KEY, 4, b"", b"")).status == Status.APPLIED
    device.close()


def test_a_batch_of_locks_writes_nothing(device: Device) -> None:
    """And needs no sync."""
    batch = device.decide([LockObject(HASH, KEY, 5, 1000), UnlockObject(HASH, 5), put(1)._replace(hash=b"short")])
    assert not batch.needs_sync
    device.sync(batch)
    assert [answer.status for answer in device.publish(batch)] == [Status.APPLIED, Status.APPLIED, Status.REFUSED]
    assert device.statistics().log_bytes == 0


def test_one_batch_at_a_time(device: Device) -> None:
    """decide, sync, publish: anything else is the caller's mistake and changes nothing."""
    batch = device.decide([put(5)])
    with pytest.raises(ValueError, match="not published"):
        device.decide([put(6)])
    with pytest.raises(ValueError, match="not synced"):
        device.publish(batch)
    assert get(device).status == Status.MISSING
    device.sync(batch)
    assert get(device).status == Status.MISSING
    device.publish(batch)
    with pytest.raises(ValueError, match="not the batch"):
        device.publish(batch)
    assert get(device).status == Status.FOUND


def test_a_catalog_is_created_once(device: Device) -> None:
    """The earliest creation of its life counts, whichever comes first; without `create` it must be there."""
    assert do(device, PutCatalog(*PLACE, 5, {}, False)) == Written(Status.MISSING)
    assert do(device, PutCatalog(*PLACE, 5, {})) == Written(Status.APPLIED)
    assert do(device, PutCatalog(*PLACE, 8, {})) == Written(Status.APPLIED, 5)
    assert do(device, PutCatalog(*PLACE, 3, {})) == Written(Status.APPLIED, 5)
    assert catalog(device).created_timestamp == 3
    assert do(device, DeleteCatalog(*PLACE, 7)) == Written(Status.NEWER, 8)
    assert do(device, DeleteCatalog(*PLACE, 9)) == Written(Status.APPLIED, 3)
    assert do(device, PutCatalog(*PLACE, 9, {})) == Written(Status.NEWER, 9)
    assert do(device, PutCatalog(*PLACE, 10, {}, False)) == Written(Status.MISSING, 9)
    assert do(device, DeleteCatalog(*PLACE, 10)) == Written(Status.MISSING)
    assert do(device, PutCatalog(*PLACE, 11, {})) == Written(Status.APPLIED)
    assert catalog(device)[:2] == (11, 10)


def test_a_deletion_before_the_creation_is_remembered(device: Device) -> None:
    """MISSING, and the creation that comes late loses."""
    assert do(device, DeleteCatalog(*PLACE, 5)) == Written(Status.MISSING)
    assert do(device, PutCatalog(*PLACE, 4, {})) == Written(Status.NEWER, 5)
    assert device.statistics().container_count == 0


def test_metadata_items_are_merged_one_by_one(device: Device) -> None:
    """Newest first for each, a removal is remembered, another life begins without any of them."""
    do(device, PutCatalog(*PLACE, 1, {b"a": (b"1", 1), b"b": (b"1", 1)}))
    do(device, PutCatalog(*PLACE, 5, {b"a": (b"5", 5)}, False))
    do(device, PutCatalog(*PLACE, 6, {b"b": (b"", 6)}, False))
    do(device, PutCatalog(*PLACE, 7, {b"a": (b"3", 3), b"b": (b"4", 4)}, False))
    assert catalog(device).meta == {b"a": (b"5", 5), b"b": (b"", 6)}
    assert do(device, DeleteCatalog(*PLACE, 8)).status == Status.APPLIED
    do(device, PutCatalog(*PLACE, 9, {b"c": (b"9", 9), b"d": (b"old", 7)}))
    assert catalog(device).meta == {b"c": (b"9", 9)}


def test_rows_make_the_totals(device: Device) -> None:
    """Exactly, through replacement, deletion and late reports; only an empty catalog is deleted."""

    def row(
        name: bytes, timestamp: int, sub_timestamp: int = 0, *, deleted: bool = False, count: int = 1, size: int = 10
    ) -> Written:
        return do(device, PutRow(1, PLACE[1], name, timestamp, sub_timestamp, deleted, count, size, b"p"))

    assert row(b"a", 5) == Written(Status.NO_CATALOG)
    do(device, PutCatalog(*PLACE, 1, {}))
    assert row(b"a", 5) == Written(Status.APPLIED)
    assert row(b"a", 5) == Written(Status.NEWER, 5)
    assert row(b"a", 4, 9) == Written(Status.NEWER, 5)
    assert row(b"a", 5, 2, count=3, size=7) == Written(Status.APPLIED, 5)
    assert row(b"b", 6, size=100) == Written(Status.APPLIED)
    found = catalog(device)
    assert (found.row_count, found.object_count, found.size_bytes, found.newest_row_timestamp) == (2, 4, 107, 6)
    assert do(device, DeleteCatalog(*PLACE, 20)) == Written(Status.NOT_EMPTY, 1)
    assert row(b"a", 7, deleted=True) == Written(Status.APPLIED, 5)
    assert row(b"b", 8, deleted=True, size=100) == Written(Status.APPLIED, 6)
    assert row(b"c", 9, deleted=True) == Written(Status.APPLIED)
    found = catalog(device)
    assert (found.row_count, found.object_count, found.size_bytes) == (0, 0, 0)
    assert do(device, DeleteCatalog(*PLACE, 20)).status == Status.APPLIED
    assert row(b"d", 21) == Written(Status.NO_CATALOG, 20)
    do(device, PutCatalog(*PLACE, 30, {}))
    assert row(b"a", 6) == Written(Status.NEWER, 7)


ROW = PutRow(1, PLACE[1], b"r", 5, 0, False, 1, 1, b"")


@pytest.mark.parametrize(
    "operation",
    [
        put(5)._replace(hash=b"short"),
        put(5)._replace(key=b""),
        put(5)._replace(key=bytes(KEY_BYTES_MAX + 1)),
        put(5)._replace(meta=bytes(META_BYTES_MAX + 1)),
        put(5)._replace(timestamp=0),
        put(5)._replace(timestamp=1 << 64),
        put(5)._replace(data=bytes(SMALL_BYTES_MAX + 1)),
        DeleteObject(HASH, b"", 5),
        UpdateObject(HASH, KEY, 5, 0, b""),
        PutCatalog(0, *PLACE[1:], 5, {}),
        PutCatalog(3, *PLACE[1:], 5, {}),
        PutCatalog(*PLACE, 5, {b"a": (b"v", 0)}),
        PutCatalog(*PLACE, 5, {b"a": (bytes(META_BYTES_MAX), 5)}),
        DeleteCatalog(0, *PLACE[1:], 5),
        ROW._replace(space=0),
        ROW._replace(hash=b"short"),
        ROW._replace(name=b""),
        ROW._replace(name=bytes(ROW_NAME_BYTES_MAX + 1)),
        ROW._replace(timestamp=0),
        ROW._replace(sub_timestamp=1 << 64),
        ROW._replace(object_count=-1),
        ROW._replace(size_bytes=1 << 63),
        ROW._replace(payload=bytes(META_BYTES_MAX + 1)),
    ],
    ids=lambda operation: type(operation).__name__,
)
def test_what_breaks_a_limit_is_refused(device: Device, operation: DeviceWrite) -> None:
    """With a sentence, and without a trace; what is at the limit is taken."""
    answer = do(device, operation)
    assert answer.status == Status.REFUSED
    assert answer.detail
    assert device.statistics().log_bytes == 0


def test_what_is_at_the_limits_is_taken(device: Device) -> None:
    """The longest key, name, metadata and data, the latest timestamp."""
    key, last = bytes(KEY_BYTES_MAX), (1 << 64) - 1
    big = PutObject(HASH, key, last, bytes(META_BYTES_MAX), bytes(SMALL.inline_bytes_max))
    do(device, PutCatalog(*PLACE, 1, {}))
    row = PutRow(1, PLACE[1], bytes(ROW_NAME_BYTES_MAX), last, last, False, 1 << 62, 1 << 62, bytes(META_BYTES_MAX))
    assert [answer.status for answer in device.apply([big, row])] == [Status.APPLIED] * 2
    device.checkpoint()
    found = device.read(GetObject(HASH, key, True))
    assert isinstance(found, Found)
    assert found.data == big.data


def test_an_unfinished_writer_is_refused(device: Device) -> None:
    """And a writer is used up, whatever the answer."""
    writer = device.open_write()
    assert do(device, PutBlob(HASH, KEY, 5, b"", writer)).status == Status.REFUSED
    writer.write(b"x")
    writer.finish()
    do(device, put(9))
    assert do(device, PutBlob(HASH, KEY, 5, b"", writer)).status == Status.NEWER
    assert do(device, PutBlob(HASH, KEY, 10, b"", writer)).status == Status.REFUSED


def test_the_order_of_writes_does_not_matter(memory_path: Path) -> None:
    """All orders of a set of writes, each twice, leave the same objects, catalogs and digests."""
    writes: list[DeviceWrite] = [
        put(3),
        put(7, b"newer"),
        DeleteObject(HASH, KEY, 5),
        PutRow(1, PLACE[1], b"r", 4, 1, False, 1, 5, b""),
        PutRow(1, PLACE[1], b"r", 6, 0, True, 1, 5, b""),
    ]
    seen = set()
    device = make_device(memory_path / "d")
    for number, order in enumerate(permutations(writes)):
        hash_ = hash_of(number)
        moved = [operation._replace(hash=hash_) for operation in order]
        device.apply([PutCatalog(1, hash_, b"/a/c", 1, {}), *moved, *moved])
        found = device.read(GetObject(hash_, KEY, True))
        state = device.read(GetCatalog(1, hash_, b"/a/c"))
        assert isinstance(found, Found)
        assert isinstance(state, FoundCatalog)
        assert state.catalog is not None
        seen.add((found.entry, found.data, state.catalog[3:]))
    assert len(seen) == 1
    assert device.check() == []
    device.close()
