"""LocalReader: a device read from beside its writer, whatever happens to the device meanwhile."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from storage_node.blob import ObjectReader
from storage_node.device import Device, PutBlob
from storage_node.operations import (
    Found,
    FoundCatalog,
    FoundDigests,
    FoundEntries,
    FoundRows,
    FoundStatistics,
    GetCatalog,
    GetDigests,
    GetObject,
    GetStatistics,
    ListEntries,
    ListRows,
    PutCatalog,
    PutObject,
    PutRow,
    ReadOperation,
    Status,
)
from storage_node.reader import LocalReader
from storage_node.settings import KIB
from tests.storage_node.devices import SMALL, StillClock, die, drive_all, hash_of, make_device, open_device

KEY = b"/a/c/o"
CATALOG = (1, hash_of(9), b"/a/c")


def put(timestamp: int, data: bytes = b"data") -> PutObject:
    """A write of the one object."""
    return PutObject(hash_of(1), KEY, timestamp, b"meta", data)


def get(reader: LocalReader | Device) -> Found:
    """A read of it."""
    found = reader.read(GetObject(hash_of(1), KEY, True))
    assert isinstance(found, Found)
    return found


@pytest.fixture
def clock() -> StillClock:
    """The reader's."""
    return StillClock()


@pytest.fixture
def reader(memory_path: Path, clock: StillClock) -> LocalReader:
    """A reader of a device that need not be there."""
    return LocalReader(memory_path / "d", settings=SMALL, now_ms=clock)


def test_without_a_device_it_is_unreachable(memory_path: Path, reader: LocalReader) -> None:
    """For every kind of read, and until there is one; then it is read at once."""
    operations: list[ReadOperation] = [
        GetObject(hash_of(1), KEY, True),
        GetCatalog(*CATALOG),
        ListRows(*CATALOG),
        GetStatistics(),
    ]
    operations += [ListEntries(0, b"", None, 10), GetDigests(0, 20, 0, 4)]
    kinds = [Found, FoundCatalog, FoundRows, FoundStatistics, FoundEntries, FoundDigests]
    for operation, kind in zip(operations, kinds, strict=True):
        answer = reader.read(operation)
        assert type(answer) is kind
        assert answer.status == Status.UNREACHABLE
    assert reader.open_read(hash_of(1), KEY) == Status.UNREACHABLE
    Device.create(memory_path / "d", "made later")
    assert get(reader).status == Status.UNREACHABLE
    device = open_device(memory_path / "d")
    assert get(reader).status == Status.MISSING
    device.apply([put(5)])
    assert get(reader).data == b"data"
    reader.close()
    reader.close()
    device.close()


def test_it_answers_as_the_device_does(memory_path: Path, reader: LocalReader) -> None:
    """Every read, from `recent` and from `index`; only the coarse digests and the time of figures differ."""
    device = make_device(memory_path / "d")
    rows = [PutRow(1, CATALOG[1], b"row-%d" % number, 5, 0, False, 1, 10, b"p") for number in range(20)]
    device.apply([put(5), PutCatalog(*CATALOG, 1, {b"a": (b"b", 1)}), *rows])
    reads: list[ReadOperation] = [GetObject(hash_of(1), KEY, True), GetCatalog(*CATALOG), ListRows(*CATALOG, limit=7)]
    reads += [ListRows(*CATALOG, delimiter=b"-"), ListEntries(0, b"", None, 5), ListEntries(1, b"", None, 5)]
    reads += [GetDigests(0, 14, 0, 4), GetObject(hash_of(1), b"/another", True), GetObject(b"short", KEY, True)]
    for _ in range(2):
        for operation in reads:
            assert reader.read(operation) == device.read(operation)
        device.checkpoint()
    coarse = GetDigests(0, 0, 0, 8)
    assert reader.read(coarse).status == Status.REFUSED
    assert device.read(coarse).status == Status.FOUND
    statistics = reader.read(GetStatistics())
    assert isinstance(statistics, FoundStatistics)
    assert statistics.statistics is not None
    assert statistics.statistics.uuid == device.uuid
    device.close()
    reader.close()


def test_a_device_that_was_wiped_and_made_anew_is_noticed(
    memory_path: Path, reader: LocalReader, clock: StillClock
) -> None:
    """Within a second, by its files; until then the old one's state is what is seen."""
    device = make_device(memory_path / "d")
    device.apply([put(5, b"old")])
    assert get(reader).data == b"old"
    device.close()
    shutil.rmtree(memory_path / "d")
    clock.now += 1_000
    assert get(reader).status == Status.UNREACHABLE
    device = make_device(memory_path / "d")
    device.apply([put(3, b"new")])
    clock.now += 1_000
    assert get(reader).data == b"new"
    device.close()
    reader.close()


def test_a_reader_that_was_here_first_makes_way_for_the_writer(memory_path: Path, reader: LocalReader) -> None:
    """LMDB allows an environment once in a process: the reader's becomes the writer's."""
    make_device(memory_path / "d").close()
    assert get(reader).status == Status.MISSING
    second = LocalReader(memory_path / "d", settings=SMALL)
    assert get(second).status == Status.MISSING
    device = open_device(memory_path / "d")
    device.apply([put(5)])
    assert get(reader).data == b"data"
    device.close()
    assert get(second).data == b"data"
    reader.close()
    assert get(second).data == b"data"
    device = open_device(memory_path / "d")
    device.apply([put(6, b"more")])
    assert get(second).data == b"more"
    second.close()
    device.close()


def test_a_compacted_segment_is_looked_up_again(memory_path: Path, reader: LocalReader) -> None:
    """The place that a reader holds may be gone by the time that it reads it."""
    device = make_device(memory_path / "d")
    device.apply([put(5, bytes(1000))])
    assert get(reader).status == Status.FOUND
    for number in range(10):
        device.apply([PutObject(hash_of(20), b"/x", number + 1, b"", bytes(1900))])
    parts = reader._parts
    assert parts is not None
    stale_recent, stale_index = parts.recent_env.env.begin(), parts.index_env.env.begin()
    for _ in range(3):
        device.checkpoint()
        drive_all(device)
    assert not (memory_path / "d" / "log" / "0000000001.seg").exists()
    parts.segments.drop(1)
    begins = [stale_recent, stale_index]

    class Stale:
        """Gives the old snapshots once."""

        def __init__(self, real: object) -> None:
            self._real = real

        def begin(self) -> object:
            """An old transaction, then real ones."""
            return begins.pop(0) if begins else self._real.begin()  # type: ignore[attr-defined]

    for environment in (parts.recent_env, parts.index_env):
        environment.env = Stale(environment.env)  # type: ignore[assignment]
    assert get(reader).status == Status.FOUND
    assert begins == []
    for environment in (parts.recent_env, parts.index_env):
        environment.env = environment.env._real  # type: ignore[attr-defined]
    device.close()
    reader.close()


def test_a_file_that_stays_away_is_corrupt(memory_path: Path, reader: LocalReader) -> None:
    """Looking again and again ends; the auditor will find it."""
    device = make_device(memory_path / "d")
    writer = device.open_write()
    writer.write(bytes(50 * KIB))
    writer.finish()
    device.apply([PutBlob(hash_of(1), KEY, 5, b"", writer)])
    for file in (memory_path / "d" / "blobs").rglob("*"):
        if file.is_file():
            file.unlink()
    assert get(reader).status == Status.CORRUPT
    assert get(device).status == Status.CORRUPT
    assert reader.open_read(hash_of(1), KEY) == Status.CORRUPT
    assert device.open_read(hash_of(1), KEY) == Status.CORRUPT
    reader.close()
    device.close()


def test_an_open_object_stays_readable_when_it_is_replaced(memory_path: Path, reader: LocalReader) -> None:
    """Inline or a file: the reader of a version reads that version to its end."""
    device = make_device(memory_path / "d")
    for size in (1_000, 300_000):
        data = bytes((size % 256,)) * size
        writer = device.open_write()
        writer.write(data)
        writer.finish()
        device.apply([PutBlob(hash_of(size), KEY, 5, b"", writer)])
        opened = reader.open_read(hash_of(size), KEY)
        assert not isinstance(opened, Status)
        device.apply([PutObject(hash_of(size), KEY, 6, b"", b"newer")])
        drive_all(device)
        assert read_all(opened) == data
        assert reader.open_read(hash_of(size), KEY, 5) == Status.MISSING
        opened.close()
    assert not [file for file in (memory_path / "d" / "blobs").rglob("*") if file.is_file()]
    reader.close()
    device.close()


def read_all(opened: ObjectReader) -> bytes:
    """All of it."""
    return bytes(opened.read(0, opened.entry.size_bytes))


def test_a_map_that_grew_is_followed(memory_path: Path) -> None:
    """In another process, where LMDB finds out by itself: `recent` is grown under a reader that has it open."""
    settings = replace(SMALL, recent_map_bytes=128 * KIB, index_map_bytes=192 * KIB)
    device = make_device(memory_path / "d", settings)
    script = (
        "import sys; from storage_node.reader import LocalReader\n"
        "from storage_node.operations import GetObject\n"
        "reader = LocalReader(sys.argv[1])\n"
        "for line in sys.stdin:\n"
        "    found = reader.read(GetObject(bytes.fromhex(line), b'/a', False))\n"
        "    print(int(found.status), flush=True)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(device.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdin is not None
    assert child.stdout is not None
    sizes = set()
    for number in range(600):
        hash_ = hash_of(number)
        assert device.apply([PutObject(hash_, b"/a", 5, bytes(500), b"")])[0].status == Status.APPLIED
        if number % 20 == 0:
            child.stdin.write(hash_.hex() + "\n")
            child.stdin.flush()
            assert int(child.stdout.readline()) == Status.FOUND
            sizes.add(device._parts.recent_env.env.info()["map_size"])
    assert len(sizes) > 1
    child.stdin.close()
    child.wait()
    die(device)


def test_a_listing_is_never_of_two_snapshots(memory_path: Path, reader: LocalReader) -> None:
    """When the index is ahead of the `recent` that was taken, both are taken again."""
    device = make_device(memory_path / "d")
    device.apply([PutCatalog(*CATALOG, 1, {})])
    assert reader.read(ListRows(*CATALOG)).status == Status.FOUND
    parts = reader._parts
    assert parts is not None
    old = parts.recent_env.env.begin()
    device.apply([PutRow(1, CATALOG[1], b"row", 5, 0, False, 1, 10, b"p")])
    device.checkpoint()
    begins = [old]
    real = parts.recent_env.env

    class Late:
        """Gives an old snapshot once."""

        def begin(self) -> object:
            """The old one, then new ones."""
            return begins.pop() if begins else real.begin()

    parts.recent_env.env = Late()  # type: ignore[assignment]
    answer = reader.read(ListRows(*CATALOG))
    parts.recent_env.env = real
    assert isinstance(answer, FoundRows)
    assert answer.catalog is not None
    assert (answer.catalog.row_count, len(answer.items)) == (1, 1)
    reader.close()
    device.close()
