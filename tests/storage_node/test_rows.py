"""Rows in LMDB against a sorted list: long names, every byte, both directions, two environments."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import lmdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage_node.rows import (
    PIECE_BYTES,
    POINTER,
    STRETCH_FIRST,
    backward,
    forward,
    merged,
    pointer_keys,
    row_base,
    row_key,
    stretch,
    successor,
    united,
)

BASE = row_base(1, b"h" * 16)
NEIGHBOURS = [row_base(1, b"g" * 15 + b"\xff"), row_base(1, b"i" * 16), row_base(2, b"h" * 16)]

stems = st.sampled_from(
    [b"", b"a", b"\xff", b"x" * (PIECE_BYTES - 1), b"x" * PIECE_BYTES, b"x" * (2 * PIECE_BYTES - 1)]
)
tails = st.binary(max_size=3) | st.sampled_from([b"\x00", b"\x01", b"\xff", b"\xff\xff", b"x" * PIECE_BYTES])
names = st.builds(lambda stem, tail: (stem + tail)[:2048], stems, tails).filter(bool)


@pytest.fixture
def environments(memory_path: Path) -> Iterator[list[lmdb.Environment]]:
    """Two empty ones."""
    made = [lmdb.open(str(memory_path / name), map_size=64 << 20, sync=False) for name in ("newer", "older")]
    yield made
    for environment in made:
        environment.close()


def fill(environment: lmdb.Environment, rows: dict[bytes, bytes]) -> None:
    """Let the environment hold these rows and their neighbours' and nothing else."""
    with environment.begin(write=True) as txn:
        txn.drop(environment.open_db(None, txn=txn), delete=False)
        for base in NEIGHBOURS:
            for name in (b"a", b"x" * 900):
                put(txn, base, name, b"a neighbour's")
        for name, value in rows.items():
            put(txn, BASE, name, value)


def put(txn: lmdb.Transaction[bytes], base: bytes, name: bytes, value: bytes) -> None:
    """One row and its pointers."""
    txn.put(row_key(base, name), value)
    for pointer in pointer_keys(base, name):
        txn.put(pointer, POINTER)


FIXTURE_OF_ALL = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@FIXTURE_OF_ALL
@given(rows=st.dictionaries(names, st.binary(min_size=1, max_size=2), max_size=25), bound=names)
def test_walks_meet_the_names_in_order(
    environments: list[lmdb.Environment], rows: dict[bytes, bytes], bound: bytes
) -> None:
    """Forward from any name, backward below any name, from either end; never a neighbour's."""
    fill(environments[0], rows)
    ordered = sorted(rows.items())
    with environments[0].begin() as txn:
        assert list(forward(txn, BASE, b"")) == ordered
        assert list(backward(txn, BASE, None)) == ordered[::-1]
        assert list(forward(txn, BASE, bound)) == [item for item in ordered if item[0] >= bound]
        assert list(backward(txn, BASE, bound)) == [item for item in ordered[::-1] if item[0] < bound]


@FIXTURE_OF_ALL
@given(
    newer=st.dictionaries(names, st.sampled_from([b"", b"new"]), max_size=15),
    older=st.dictionaries(names, st.just(b"old"), max_size=15),
    bound=names,
    reverse=st.booleans(),
)
def test_the_newer_environment_wins(
    environments: list[lmdb.Environment],
    newer: dict[bytes, bytes],
    older: dict[bytes, bytes],
    bound: bytes,
    reverse: bool,
) -> None:
    """Of a name in both the newer value counts, and an empty one hides the name."""
    fill(environments[0], newer)
    fill(environments[1], older)
    wanted = sorted(((name, value) for name, value in {**older, **newer}.items() if value), reverse=reverse)
    with environments[0].begin() as first, environments[1].begin() as second:
        if reverse:
            found = list(merged(backward(first, BASE, bound), backward(second, BASE, bound), True))
            assert found == [item for item in wanted if item[0] < bound]
        else:
            found = list(merged(forward(first, BASE, bound), forward(second, BASE, bound), False))
            assert found == [item for item in wanted if item[0] >= bound]


@FIXTURE_OF_ALL
@given(
    newer=st.dictionaries(names, st.sampled_from([b"", b"new"]), max_size=15),
    older=st.dictionaries(names, st.just(b"old"), max_size=15),
    start=st.just(b"") | names,
    end=st.none() | names,
    count=st.integers(1, 12),
)
def test_a_stretch_is_the_beginning_of_a_walk(
    environments: list[lmdb.Environment],
    newer: dict[bytes, bytes],
    older: dict[bytes, bytes],
    start: bytes,
    end: bytes | None,
    count: int,
) -> None:
    """Two stretches united give the first rows of both, or say that long names are in the way, and only then."""
    fill(environments[0], newer)
    fill(environments[1], older)
    wanted = [
        (BASE + name, value)
        for name, value in sorted({**older, **newer}.items())
        if name >= start and (end is None or name < end)
    ]
    with environments[0].begin() as first, environments[1].begin() as second:
        stretches = [stretch(txn, BASE, start, end, count) for txn in (first, second)]
    if stretches[0] is None or stretches[1] is None:
        assert max(map(len, [start, end or b"", *newer, *older])) > PIECE_BYTES
    else:
        assert united(stretches[0], stretches[1], count) == wanted[:count]


@pytest.mark.parametrize("count", [1, STRETCH_FIRST, STRETCH_FIRST + 1, 3 * STRETCH_FIRST, 200, 1_000])
@pytest.mark.parametrize("end", [None, b"0050", b"0099", b"0150"])
def test_a_stretch_is_taken_in_pieces(environments: list[lmdb.Environment], count: int, end: bytes | None) -> None:
    """Of a hundred rows with another catalog's behind them it gives the first, and none of the other's."""
    fill(environments[0], {b"%04d" % number: b"new" for number in range(100)})
    with environments[0].begin(write=True) as txn:
        for number in range(100):
            txn.put(successor(BASE) + b"%04d" % number, b"another's")
    with environments[0].begin() as txn:
        found = stretch(txn, BASE, b"", end, count)
    stop = 50 if end == b"0050" else 99 if end == b"0099" else 100
    assert found == [(BASE + b"%04d" % number, b"new") for number in range(min(stop, count))]


@given(name=st.binary(min_size=1, max_size=2048), other=st.binary(min_size=1, max_size=2048))
def test_keys_fit_and_are_distinct(name: bytes, other: bytes) -> None:
    """LMDB takes at most 511 bytes; two names never share a key, and no pointer is a name's key."""
    keys = [row_key(BASE, name), *pointer_keys(BASE, name)]
    assert all(len(key) <= 511 for key in keys)
    assert len(set(keys)) == len(keys)
    if name != other:
        assert row_key(BASE, name) != row_key(BASE, other)


@given(prefix=st.binary(max_size=4), name=st.binary(max_size=6))
def test_the_successor_of_a_prefix_is_the_least_text_behind_it(prefix: bytes, name: bytes) -> None:
    """A name is below it exactly if it begins with the prefix, or is below the prefix."""
    behind = successor(prefix)
    if behind is None:
        assert prefix.strip(b"\xff") == b""
    else:
        assert (name < behind) == (name < prefix or name.startswith(prefix))


def test_a_walk_reads_only_what_is_asked_of_it(environments: list[lmdb.Environment]) -> None:
    """Generators: the first of a hundred thousand names costs as much as of ten."""
    fill(environments[0], {b"%06d" % number: b"v" for number in range(20_000)})
    with environments[0].begin() as txn:
        assert [name for name, _ in islice(forward(txn, BASE, b"010000"), 3)] == [b"010000", b"010001", b"010002"]
        assert next(backward(txn, BASE, b"010000"))[0] == b"009999"
