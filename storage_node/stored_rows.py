"""Rows as they stand in the index: what a page is until somebody wants to know what is in it.

Problem: a page has up to ten thousand rows, and most of what it costs is making them into tuples: an index value has the
place in the log and seven other fields, of which a listing shows three. Whoever reads a device on its own machine wants
them as text.

Idea: the answer holds the keys and values that the index gave, which are bytes already, and is a sequence of `Row` to
all who ask for one: they are made only then. Who renders a thousand of them takes `pairs` and the struct of
`row_struct`, which has just what a listing shows, and may go on into the payload, whose form its writer knows.

Rejected: columns (a list for each field is made as expensively as the tuples), buffers into LMDB's map (they end with the
transaction, and each is an object dearer than the bytes).

Invariants: the rows are live (no tombstones, nothing hidden by `recent`), ascending, and of one catalog; equal to a
sequence of the same `Row`s. They do not travel: a server sends tuples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from struct import Struct
from typing import overload

from storage_node.index import ROW_BYTES, unpack_row
from storage_node.operations import Row
from storage_node.rows import BASE_BYTES

Pair = tuple[bytes, bytes]
"""A row's key and value in the index; the name is the key behind BASE_BYTES, the payload the value behind ROW_BYTES."""

FLAGS_AT = 12
"""Where in a value the byte of flags stands."""
FLAG_DELETED = 1
_SHOWN = "<16xQQ8xQ"
"""Of a value: timestamp, sub_timestamp, size_bytes."""


def row_struct(payload: str) -> Struct:
    """Takes timestamp, sub_timestamp and size_bytes out of a value, and what `payload` says of the payload."""
    return Struct(_SHOWN + payload)


def live_pairs(pairs: list[Pair]) -> list[Pair]:
    """Those that are neither tombstones nor hidden."""
    return [pair for pair in pairs if (value := pair[1]) and not value[FLAGS_AT] & FLAG_DELETED]


def row_of(pair: Pair) -> Row:
    """A live row, taken apart."""
    key, value = pair
    _, _, _, _, timestamp, sub_timestamp, object_count, size_bytes = unpack_row(value)
    return Row(key[BASE_BYTES:], timestamp, sub_timestamp, False, object_count, size_bytes, value[ROW_BYTES:])


class StoredRows(Sequence[Row]):
    """The live rows of a page, in the order of their names."""

    __slots__ = ("pairs",)

    def __init__(self, pairs: list[Pair]) -> None:
        self.pairs = pairs

    def names(self) -> list[bytes]:
        """Of each row the name."""
        return [key[BASE_BYTES:] for key, _ in self.pairs]

    def rows(self) -> tuple[Row, ...]:
        """All of them, taken apart."""
        new = tuple.__new__
        return tuple(
            [
                new(Row, (key[BASE_BYTES:], fields[4], fields[5], False, fields[6], fields[7], value[ROW_BYTES:]))
                for key, value in self.pairs
                for fields in (unpack_row(value),)
            ]
        )

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows())

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | Sequence[Row]:
        return StoredRows(self.pairs[index]) if isinstance(index, slice) else row_of(self.pairs[index])

    def __eq__(self, other: object) -> bool:
        return self.rows() == tuple(other) if isinstance(other, (tuple, StoredRows)) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # equal to a tuple, and never a key

    def __repr__(self) -> str:
        return f"StoredRows{self.rows()!r}"
