"""Rows as they stand in the index, against the same rows taken apart one by one."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from storage_node.device import Device
from storage_node.index import decode_row, pack_row
from storage_node.operations import FoundRows, ListRows, PutCatalog, PutRow, Row
from storage_node.reader import LocalReader
from storage_node.rows import row_base
from storage_node.stored_rows import Pair, StoredRows, live_pairs, row_struct
from tests.storage_node.devices import SMALL, StillClock, hash_of, make_device

BASE = row_base(1, b"h" * 16)
CATALOG = (1, hash_of(9), b"/a/c")
U64 = st.integers(0, 2**64 - 1)
U32 = st.integers(0, 2**32 - 1)
VALUES = st.builds(
    lambda place, deleted, numbers, payload: pack_row(*place, int(deleted), *numbers) + payload,
    st.tuples(U32, U32, U32),
    st.booleans(),
    st.tuples(U64, U64, U64, U64),
    st.binary(max_size=40),
)
PAIRS = st.lists(st.tuples(st.binary(min_size=1, max_size=9).map(BASE.__add__), st.just(b"") | VALUES), max_size=12)


def naive(pairs: list[Pair]) -> tuple[Row, ...]:
    """The live rows, by the index's own decoder."""
    found = []
    for key, value in pairs:
        if value and not (row := decode_row(value)).deleted:
            times = row.timestamp, row.sub_timestamp
            found.append(Row(key[len(BASE) :], *times, False, row.object_count, row.size_bytes, row.payload))
    return tuple(found)


@given(PAIRS)
def test_they_are_a_sequence_of_rows(pairs: list[Pair]) -> None:
    """Tombstones and what is hidden are left out; length, order, places, slices and equality are those of the tuple."""
    stored, rows = StoredRows(live_pairs(pairs)), naive(pairs)
    assert (len(stored), tuple(stored), stored.rows()) == (len(rows), rows, rows)
    assert stored == rows
    assert rows == stored
    assert stored == StoredRows(list(stored.pairs))
    assert stored != (*rows, None)
    assert [stored[place] for place in range(-len(rows), len(rows))] == [*rows, *rows]
    assert stored[1:-1] == rows[1:-1]
    assert stored.names() == [row.name for row in rows]


@given(PAIRS)
def test_what_is_shown_of_a_row(pairs: list[Pair]) -> None:
    """The struct takes the same fields out of a value as the decoder, and goes on into the payload."""
    stored = StoredRows(live_pairs(pairs))
    shown = row_struct("2s")
    for row, (_, value) in zip(stored, stored.pairs, strict=True):
        if len(row.payload) >= 2:
            expected = row.timestamp, row.sub_timestamp, row.size_bytes, row.payload[:2]
            assert shown.unpack_from(value) == expected


def test_a_reader_gives_them_and_a_device_tuples(memory_path: Path) -> None:
    """Both say the same, with deletions in `recent` over rows in `index`; what a server sends is packed as tuples."""
    device: Device = make_device(memory_path / "d")
    reader = LocalReader(memory_path / "d", settings=SMALL, now_ms=StillClock())
    rows = [PutRow(1, CATALOG[1], b"row-%02d" % number, 5, 0, False, 1, 10, b"p") for number in range(40)]
    device.apply([PutCatalog(*CATALOG, 1, {b"a": (b"b", 1)}), *rows])
    device.checkpoint()
    device.apply([PutRow(1, CATALOG[1], b"row-%02d" % number, 6, 0, True, 0, 0, b"") for number in range(0, 40, 3)])
    device.apply([PutRow(1, CATALOG[1], b"row-%02d+" % number, 6, 0, False, 1, 1, b"q") for number in range(5)])
    for query in (ListRows(*CATALOG, limit=7), ListRows(*CATALOG), ListRows(*CATALOG, start=b"row-2", limit=0)):
        read, told = reader.read(query), device.read(query)
        assert isinstance(read, FoundRows)
        assert isinstance(told, FoundRows)
        assert type(read.items) is StoredRows
        assert type(told.items) is tuple
        assert read == told
    reader.close()
    device.close()
