"""The auditor finds what rots and has it mended, goes on where it was, and lists what no listing shows."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import trio
import trio.testing

from replicator.audit_position import AuditPosition, load_position, save_position
from replicator.auditor import Auditor, AuditorSettings, lists, split_object_key
from replicator.peers import Peer
from storage_node.operations import (
    DeleteObject,
    Entry,
    GetObject,
    PutCatalog,
    PutObject,
    PutRow,
    Row,
    Status,
    UpdateObject,
)
from storage_node.reader import LocalReader
from tests.replicator.fleet import CONTAINER, NOW_US, SMALL, Fleet, at, fleet_of

KEY = b"/a/c/o"
CATALOG = b"/a/c"
SMALL_DATA = b"sound bytes " * 20
FAST = AuditorSettings(entries_per_s=1e9, bytes_per_s=1e12, unlisted_s=0.0)


def auditor_of(fleet: Fleet, **arguments: object) -> Auditor:
    """One without a speed limit."""
    return Auditor(fleet.peers, FAST, now_us=lambda: NOW_US, **arguments)  # type: ignore[arg-type]


def peer_of(fleet: Fleet, number: int) -> Peer:
    """A device as the auditor knows it."""
    return fleet.peers.by_id[number]


def rot(fleet: Fleet, number: int, data: bytes, offset: int = 0) -> None:
    """Change a byte, `offset` behind where `data` begins, wherever a device's files have it."""
    root = fleet.served[number].path
    for path in [*(root / "log").iterdir(), *(root / "blobs").rglob("*")]:
        content = path.read_bytes() if path.is_file() else b""
        where = content.find(data)
        while where >= 0:
            with path.open("r+b") as file:
                file.seek(where + offset)
                file.write(bytes((content[where + offset] ^ 1,)))
            where = content.find(data, where + len(data))


def put_everywhere(fleet: Fleet, data: bytes = SMALL_DATA) -> list[int]:
    """An object on all its primaries, its metadata updated since."""
    primaries = fleet.primaries(KEY)
    for number in primaries:
        if len(data) < 100_000:
            fleet.apply(number, PutObject(fleet.hash(KEY), KEY, at(1), b"meta", data))
        else:
            fleet.put_large(number, KEY, at(1), data)
        fleet.apply(number, UpdateObject(fleet.hash(KEY), KEY, at(1), at(2), b"later meta"))
    return primaries


async def test_a_rotten_object_is_mended_from_a_replica():
    """Found by the scrub; the same version, metadata and times are there again, sound."""
    async with fleet_of() as fleet:
        rotten, *_ = put_everywhere(fleet)
        wanted = fleet.entry(rotten, KEY)
        rot(fleet, rotten, SMALL_DATA)
        assert fleet.device(rotten).check()
        auditor = auditor_of(fleet)
        await auditor.scrub(peer_of(fleet, rotten))
        assert (auditor.statistics().rotten, auditor.statistics().mended) == (1, 1)
        assert fleet.data(rotten, KEY) == SMALL_DATA
        assert fleet.entry(rotten, KEY) == wanted
        fleet.check(rotten_log=True)


@pytest.mark.parametrize("size", [150_000, 900_000])
async def test_a_rotten_large_object_is_mended(size: int):
    """In the log, and in a file of its own."""
    data = bytes(range(256)) * (size // 256)
    async with fleet_of() as fleet:
        rotten, *_ = put_everywhere(fleet, data)
        rot(fleet, rotten, data[:1000], offset=500)
        auditor = auditor_of(fleet)
        await auditor.scrub(peer_of(fleet, rotten))
        assert auditor.statistics().mended == 1
        assert fleet.data(rotten, KEY) == data
        fleet.check(rotten_log=True)


@pytest.mark.parametrize("size", [len(SMALL_DATA), 900_000])
async def test_replicas_of_other_machines_mend_as_well(size: int):
    """Over the wire: only the rotten device is on the auditor's machine."""
    data = (SMALL_DATA * (size // len(SMALL_DATA) + 1))[:size]
    async with fleet_of(local=[]) as fleet:
        rotten, *_ = put_everywhere(fleet, data)
        peer = peer_of(fleet, rotten)
        peer.path = fleet.served[rotten].path
        peer.reader = LocalReader(peer.path, settings=SMALL)
        rot(fleet, rotten, data[:64], offset=32)
        auditor = auditor_of(fleet)
        await auditor.scrub(peer)
        assert (auditor.statistics().rotten, auditor.statistics().mended) == (1, 1)
        assert fleet.data(rotten, KEY) == data
        fleet.check(rotten_log=True)


async def test_replicas_that_are_rotten_in_different_places_mend_each_other():
    """No replica has the whole object; together they do, and all have it afterwards."""
    data = Random(1).randbytes(1 << 20)
    async with fleet_of() as fleet:
        primaries = put_everywhere(fleet, data)
        for index, number in enumerate(primaries):
            rot(fleet, number, data[index * 300_000 :][:16])
        for number in primaries:
            auditor = auditor_of(fleet)
            await auditor.scrub(peer_of(fleet, number))
            assert auditor.statistics().mended == 1
        assert all(fleet.data(number, KEY) == data for number in primaries)
        fleet.check(rotten_log=True)


async def test_what_no_replica_has_sound_is_left_alone():
    """Every copy is rotten in the same place: nothing is removed, and it is tried again later."""
    async with fleet_of() as fleet:
        primaries = put_everywhere(fleet)
        for number in primaries:
            rot(fleet, number, SMALL_DATA)
        auditor = auditor_of(fleet)
        await auditor.scrub(peer_of(fleet, primaries[0]))
        statistics = auditor.statistics()
        assert (statistics.backlog, statistics.rotten, statistics.mended) == (1, 1, 0)
        assert fleet.entry(primaries[0], KEY) is not None


async def test_it_is_tried_again_when_a_replica_is_back():
    """The only sound replica was away."""
    async with fleet_of() as fleet:
        rotten, other, sound = put_everywhere(fleet)
        for number in (rotten, other):
            rot(fleet, number, SMALL_DATA)
        peer_of(fleet, sound).reader = None
        await fleet.stop(sound)
        auditor = auditor_of(fleet)
        await auditor.scrub(peer_of(fleet, rotten))
        assert auditor.statistics().backlog == 1
        await fleet.start(sound)
        for one in auditor._unmended.values():
            one.due_s = 0.0
        await auditor.retry()
        assert auditor.statistics().backlog == 0
        assert fleet.data(rotten, KEY) == SMALL_DATA


async def test_a_read_that_met_rot_has_it_mended_soon():
    """Nobody waits for the scrub: whoever read it wrote it down."""
    async with fleet_of() as fleet:
        rotten, *_ = put_everywhere(fleet)
        rot(fleet, rotten, SMALL_DATA)
        assert fleet.device(rotten).read(GetObject(fleet.hash(KEY), KEY, True)).status == Status.CORRUPT
        auditor = auditor_of(fleet)
        await auditor.look_at_suspects(peer_of(fleet, rotten))
        assert auditor.statistics().suspects == auditor.statistics().mended == 1
        assert fleet.data(rotten, KEY) == SMALL_DATA
        await auditor.look_at_suspects(peer_of(fleet, rotten))
        assert auditor.statistics().suspects - auditor.statistics().rotten <= 1


async def test_false_alarms_change_nothing():
    """A suspect that is sound on the second look, or is gone."""
    async with fleet_of() as fleet:
        number, *_ = put_everywhere(fleet)
        before = fleet.digests(number)
        with (fleet.served[number].path / "suspects").open("w") as file:
            file.write(f"{fleet.hash(KEY).hex()} {KEY.hex()}\n{bytes(16).hex()} {b'/gone/c/o'.hex()}\n")
        auditor = auditor_of(fleet)
        await auditor.look_at_suspects(peer_of(fleet, number))
        assert (auditor.statistics().suspects, auditor.statistics().rotten) == (2, 0)
        assert fleet.digests(number) == before


@pytest.mark.parametrize("what", [b"/a/c/gone", b"the item", b"payload", b"deleted-row"])
async def test_rotten_records_of_everything_else_are_written_anew(what: bytes):
    """A tombstone, a container, rows."""
    async with fleet_of() as fleet:
        gone = b"/a/c/gone"
        for number in fleet.primaries(gone):
            fleet.apply(number, DeleteObject(fleet.hash(gone), gone, at(1)))
        hash_ = fleet.hash(CATALOG)
        for number in fleet.primaries(CATALOG):
            fleet.apply(number, PutCatalog(CONTAINER, hash_, CATALOG, at(1), {b"i": (b"the item", at(1))}))
            fleet.apply(number, PutRow(CONTAINER, hash_, b"live-row", at(1), 0, False, 1, 1, b"payload"))
            fleet.apply(number, PutRow(CONTAINER, hash_, b"deleted-row", at(1), 0, True, 0, 0, b""))
        rotten = fleet.primaries(gone if what == gone else CATALOG)[0]
        before = fleet.digests(rotten)
        rot(fleet, rotten, what)
        auditor = auditor_of(fleet)
        await auditor.scrub(peer_of(fleet, rotten))
        assert auditor.statistics().mended == 1
        assert fleet.digests(rotten) == before
        page = auditor_of(fleet)
        await page.scrub(peer_of(fleet, rotten))
        assert page.statistics().rotten == 0


async def test_a_scrub_goes_on_where_it_was():
    """After a restart in the middle of a pass; and the pass counts once."""
    async with fleet_of() as fleet:
        keys = [b"/a/c/%d" % number for number in range(300)]
        for key in keys:
            fleet.apply(0, PutObject(fleet.hash(key), key, at(1), b"", b""))
        peer = peer_of(fleet, 0)
        assert peer.path is not None
        middle = b"\x80" + bytes(15)
        save_position(peer.path, AuditPosition(0, middle, NOW_US, 3))
        auditor = auditor_of(fleet)
        await auditor.scrub(peer)
        assert auditor.statistics().entries == sum(fleet.hash(key) >= middle for key in keys)
        assert load_position(peer.path) == AuditPosition(passes=4)
        assert auditor.statistics().passes == 4


def test_a_damaged_position_is_the_beginning(tmp_path: Path):
    """So is none, and one of a future version."""
    assert load_position(tmp_path) == AuditPosition()
    save_position(tmp_path, AuditPosition(1, b"x" * 16, 5, 2))
    assert load_position(tmp_path) == AuditPosition(1, b"x" * 16, 5, 2)
    file = tmp_path / "scrub.json"
    file.write_bytes(file.read_bytes().replace(b'"passes": 2', b'"passes": 3'))
    assert load_position(tmp_path) == AuditPosition()


async def test_it_runs_by_itself():
    """Devices are scrubbed, suspects seen to, and a pause holds the scrub."""
    async with fleet_of(3) as fleet, trio.open_nursery() as nursery:
        rotten, *_ = put_everywhere(fleet)
        rot(fleet, rotten, SMALL_DATA)
        auditor = auditor_of(fleet)
        auditor.pause()
        await nursery.start(auditor.run)
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert auditor.statistics().passes == 0
        auditor.resume()
        with trio.fail_after(20):
            while auditor.statistics().passes < 3:
                await trio.sleep(0.01)
        assert auditor.statistics().mended == 1
        nursery.cancel_scope.cancel()


# ---------------------------------------------------------------------------------------------------------- missing rows


async def listed_by(fleet: Fleet) -> tuple[Auditor, list[bytes]]:
    """An auditor that notes what it would list, after one pass over everything."""
    asked: list[bytes] = []

    async def relist(key: bytes) -> bool:
        asked.append(key)
        return True

    auditor = auditor_of(fleet, relist=relist)
    for number in fleet.served:
        await auditor.scrub(peer_of(fleet, number))
    return auditor, asked


async def test_an_object_without_a_row_is_listed_once():
    """By the device that is its first primary."""
    async with fleet_of() as fleet:
        put_everywhere(fleet)
        for number in fleet.primaries(CATALOG):
            fleet.apply(number, PutCatalog(CONTAINER, fleet.hash(CATALOG), CATALOG, at(1), {}))
        auditor, asked = await listed_by(fleet)
        assert asked == [KEY]
        assert auditor.statistics().relisted == 1


@pytest.mark.parametrize("deleted", [False, True])
async def test_an_object_with_a_row_is_left_alone(deleted: bool):
    """A row on two of three is enough, and a later deletion is a row."""
    async with fleet_of() as fleet:
        put_everywhere(fleet)
        hash_ = fleet.hash(CATALOG)
        for number in fleet.primaries(CATALOG):
            fleet.apply(number, PutCatalog(CONTAINER, hash_, CATALOG, at(0), {}))
        for number in fleet.primaries(CATALOG)[:2]:
            timestamp = at(9) if deleted else at(1)
            fleet.apply(number, PutRow(CONTAINER, hash_, b"o", timestamp, at(2), deleted, 1, 1, b""))
        assert (await listed_by(fleet))[1] == []


@pytest.mark.parametrize(("row_at", "shown"), [(1, True), (9, False), (None, False)])
async def test_a_deleted_object_that_is_still_shown_is_mended(row_at: int | None, shown: bool):
    """A row from before the tombstone on one replica is enough; one of a later object, or none at all, is left alone."""
    async with fleet_of() as fleet:
        hash_ = fleet.hash(CATALOG)
        for number in fleet.primaries(KEY):
            fleet.apply(number, DeleteObject(fleet.hash(KEY), KEY, at(5)))
        for number in fleet.primaries(CATALOG):
            fleet.apply(number, PutCatalog(CONTAINER, hash_, CATALOG, at(0), {}))
        if row_at is not None:
            fleet.apply(fleet.primaries(CATALOG)[1], PutRow(CONTAINER, hash_, b"o", at(row_at), 0, False, 1, 1, b""))
        assert (await listed_by(fleet))[1] == [KEY] * shown


async def test_while_too_few_replicas_answer_nothing_is_listed():
    """Absence is not to be concluded from silence."""
    async with fleet_of() as fleet:
        put_everywhere(fleet)
        for number in fleet.primaries(CATALOG)[:2]:
            peer_of(fleet, number).reader = None
            await fleet.stop(number)
        asked: list[bytes] = []

        async def relist(key: bytes) -> bool:
            asked.append(key)
            return True

        auditor = auditor_of(fleet, relist=relist)
        for number in fleet.served:
            if peer_of(fleet, number).reader is not None:
                await auditor.scrub(peer_of(fleet, number))
        assert asked == []


def test_rows_are_as_late_as_their_objects_or_not():
    """Data first, then metadata."""
    entry = Entry(5, 7, False, 1, b"")
    row = Row(b"o", 5, 0, False, 1, 1, b"")
    assert not lists(row, entry)
    assert lists(row._replace(sub_timestamp=7), entry)
    assert lists(row._replace(timestamp=6), entry)
    assert not lists(row._replace(timestamp=4, sub_timestamp=9), entry)
    assert lists(row, entry._replace(meta_timestamp=5))


def test_keys_of_objects_are_split():
    """Account and container go together; names may hold slashes."""
    assert split_object_key(b"/a/c/o/p//") == (b"/a/c", b"o/p//")
    assert split_object_key(b"/a/\x00uploads/o") == (b"/a/\x00uploads", b"o")
    for key in (b"/a/c", b"/a", b"/a//o", b"a/c/o", b"/a/c/"):
        assert split_object_key(key) is None
