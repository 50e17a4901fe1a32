"""Blobs: large objects in files, every chunk verified before a byte of it is given out."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random
from typing import NoReturn

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage_node.blob import (
    CHUNK_BYTES,
    READ_BYTES_MAX,
    BlobReader,
    BlobWriter,
    InlineReader,
    ObjectReader,
    blob_path,
    chunk_count,
)
from storage_node.disk import RealDisk
from storage_node.errors import CorruptData, DeviceFull
from storage_node.log import PlaceGone
from storage_node.operations import Entry
from tests.storage_node.devices import flip_byte

BLOB_ID = bytes(range(16))
DATA = Random(5).randbytes(3 * CHUNK_BYTES + 1000)


def make_writer(path: Path, inline_bytes_max: int = 100) -> BlobWriter:
    """A writer with directories of its own."""
    for name in ("incoming", "blobs/00"):
        (path / name).mkdir(parents=True, exist_ok=True)

    def fail(error: OSError, _: int) -> NoReturn:
        raise error

    return BlobWriter(
        RealDisk(),
        str(path / "incoming"),
        str(path / "blobs"),
        BLOB_ID,
        inline_bytes_max,
        1 << 20,
        lambda length, held: None,
        fail,
    )


def store(path: Path, data: bytes, pieces: list[int] | None = None) -> BlobWriter:
    """Write data in pieces of these lengths, the rest in one."""
    writer = make_writer(path)
    at = 0
    for piece in pieces or []:
        writer.write(data[at : at + piece])
        at += piece
    writer.write(memoryview(data)[at:])
    writer.finish()
    return writer


def open_blob(path: Path, writer: BlobWriter, size: int) -> BlobReader:
    """Open what was stored."""
    entry = Entry(1, 1, False, size, b"")
    return BlobReader(RealDisk(), blob_path(str(path / "blobs"), BLOB_ID), BLOB_ID, writer.table_checksum, entry)


def read(reader: ObjectReader, start: int, stop: int) -> bytes:
    """As bytes; try_read must give the same or nothing."""
    found = bytes(reader.read(start, stop))
    tried = reader.try_read(start, stop)
    assert tried is None or bytes(tried) == found
    return found


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.integers(101, len(DATA)),
    pieces=st.lists(
        st.sampled_from([1, 99, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES]), max_size=4
    ),
    ranges=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=4),
)
def test_any_range_reads_back(
    memory_path: Path, size: int, pieces: list[int], ranges: list[tuple[float, float]]
) -> None:
    """However the data came in, and wherever a read begins and ends."""
    data = DATA[:size]
    writer = store(memory_path, data, pieces)
    reader = open_blob(memory_path, writer, size)
    assert b"".join(read(reader, at, min(at + READ_BYTES_MAX, size)) for at in range(0, size, READ_BYTES_MAX)) == data
    for first, second in ranges:
        start, stop = sorted((int(first * size), int(second * size)))
        stop = min(stop, start + READ_BYTES_MAX)
        assert read(reader, start, stop) == data[start:stop]
    reader.close()
    reader.close()
    assert list((memory_path / "incoming").iterdir()) == []


def test_aligned_reads_are_not_copied(memory_path: Path) -> None:
    """Whole chunks come as the bytes that were read."""
    reader = open_blob(memory_path, store(memory_path, DATA), len(DATA))
    assert isinstance(reader.read(CHUNK_BYTES, 3 * CHUNK_BYTES), bytes)
    assert isinstance(reader.read(CHUNK_BYTES + 1, 3 * CHUNK_BYTES), memoryview)
    reader.close()


@pytest.mark.parametrize("at", [0, CHUNK_BYTES - 1, CHUNK_BYTES, len(DATA) - 1])
def test_a_rotten_byte_is_never_given_out(memory_path: Path, at: int) -> None:
    """Reads that touch its chunk fail, others do not."""
    writer = store(memory_path, DATA)
    flip_byte(Path(blob_path(str(memory_path / "blobs"), BLOB_ID)), at)
    reader = open_blob(memory_path, writer, len(DATA))
    for start in range(0, len(DATA), CHUNK_BYTES):
        stop = min(start + 10, len(DATA))
        if start // CHUNK_BYTES == at // CHUNK_BYTES:
            with pytest.raises(CorruptData):
                reader.read(start, stop)
            with pytest.raises(CorruptData):
                assert reader.try_read(start, stop) is not None or reader.read(start, stop)
        else:
            assert read(reader, start, stop) == DATA[start:stop]
    reader.close()


@pytest.mark.parametrize("at", [0, 8, 31, 40, 50, 90])
def test_a_rotten_table_is_noticed_when_it_is_opened(memory_path: Path, at: int) -> None:
    """Table, footer and checksum alike: the log's record vouches for them."""
    writer = store(memory_path, DATA)
    flip_byte(Path(blob_path(str(memory_path / "blobs"), BLOB_ID)), len(DATA) + at % (8 * 4 + 48))
    with pytest.raises(CorruptData):
        open_blob(memory_path, writer, len(DATA))


def test_a_file_of_the_wrong_length_is_noticed(memory_path: Path) -> None:
    """Cut short or grown, or the size that the index says is another one."""
    writer = store(memory_path, DATA)
    path = Path(blob_path(str(memory_path / "blobs"), BLOB_ID))
    with pytest.raises(CorruptData):
        open_blob(memory_path, writer, len(DATA) - 1)
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(CorruptData):
        open_blob(memory_path, writer, len(DATA))
    os.truncate(path, path.stat().st_size + 10)
    with pytest.raises(CorruptData):
        open_blob(memory_path, writer, len(DATA))
    path.unlink()
    with pytest.raises(PlaceGone):
        open_blob(memory_path, writer, len(DATA))


def test_another_blob_in_its_place_is_noticed(memory_path: Path) -> None:
    """Even one that is whole."""
    writer = store(memory_path, DATA)
    first = Path(blob_path(str(memory_path / "blobs"), BLOB_ID)).read_bytes()
    store(memory_path, DATA[::-1])
    assert Path(blob_path(str(memory_path / "blobs"), BLOB_ID)).read_bytes() != first
    with pytest.raises(CorruptData):
        open_blob(memory_path, writer, len(DATA))


def test_small_objects_stay_in_memory(memory_path: Path) -> None:
    """Up to the limit, exactly; the same reader interface serves them."""
    writer = make_writer(memory_path)
    writer.write(b"a" * 60)
    writer.write(b"b" * 40)
    assert writer.in_memory
    writer.finish()
    assert writer.take_data() == b"a" * 60 + b"b" * 40
    reader = InlineReader(Entry(1, 1, False, 100, b""), writer.take_data())
    assert read(reader, 0, 100) == writer.take_data()
    assert read(reader, 50, 70) == b"a" * 10 + b"b" * 10
    with pytest.raises(ValueError, match="outside"):
        reader.read(0, 101)
    reader.close()
    writer = make_writer(memory_path)
    writer.write(b"a" * 100)
    writer.write(b"b")
    assert not writer.in_memory
    writer.abort()
    assert list((memory_path / "incoming").iterdir()) == []


def test_a_writer_is_used_once(memory_path: Path) -> None:
    """Not written to when finished, not finished twice, aborted any number of times, before or after."""
    writer = store(memory_path, DATA)
    assert writer.finished
    with pytest.raises(ValueError, match="finished"):
        writer.write(b"more")
    with pytest.raises(ValueError, match="finished"):
        writer.finish()
    writer.abort()
    writer.abort()
    assert not Path(blob_path(str(memory_path / "blobs"), BLOB_ID)).exists()
    with pytest.raises(ValueError, match="aborted"):
        writer.finish()
    used = store(memory_path, DATA)
    used.used()
    used.abort()
    assert Path(blob_path(str(memory_path / "blobs"), BLOB_ID)).exists()


def test_room_is_asked_for_before_it_is_taken(memory_path: Path) -> None:
    """In steps, and a refusal reaches the writer's caller."""
    writer = make_writer(memory_path)
    asked: list[int] = []

    def make_room(length: int, _: int) -> None:
        asked.append(length)
        if len(asked) > 3:
            raise DeviceFull("enough")

    writer._make_room = make_room
    writer.write(bytes(1 << 20))
    writer.write(bytes(1 << 19))
    with pytest.raises(DeviceFull):
        writer.write(bytes(1 << 20))
    assert asked[1:3] == [1 << 20, 1 << 20]
    writer.abort()


def test_chunks_are_counted_to_the_last_byte() -> None:
    """None for nothing, one more for one byte more."""
    assert [chunk_count(size) for size in (0, 1, CHUNK_BYTES, CHUNK_BYTES + 1)] == [0, 1, 1, 2]
