"""Rows: the names in an account or container, in the order of their bytes, in LMDB.

Problem: LMDB's keys are at most 511 bytes, names are up to 2,048 and listings must come in exact byte order, forward and
backward, from anywhere; a delimiter must skip what it rolls up instead of reading it; and what is newer than the index
lies in another environment.

Idea: a row's key is its catalog's hash and the first PIECE_BYTES of its name. Where names are longer, one *pointer* key
(those bytes and a 0x01) stands for all names that go on, and leads to a key space of its own, named by a hash of the
path to it, where the next piece of each stands, and so on. The pointer is longer than any other key and sorts right behind
the one name that ends there, and before every greater one, so a walk that descends where it meets a pointer meets the names
in order:

    <catalog> aaa…a           the name of exactly PIECE_BYTES
    <catalog> aaa…a 01        -> every longer name that begins so
    <catalog> aaa…b

The walks are generators over one environment; `merged` weaves two of them together. To skip, a caller drops the
generator and makes one that begins elsewhere: a seek costs about two microseconds. A page of plain rows, by far the most
frequent, is taken from each environment as one `stretch` instead: a third of the time of a walk, which comes back to the
interpreter for each row.

The hash that names a child space is BLAKE2b: names are chosen by clients, and two that collide would share their rows.
Pointers are never removed; an unused one costs a failed descent. Each environment needs its own: a walk of `recent` finds
a long name there only by a pointer there, so every write of such a row writes its pointers too.

Rejected: escaping and splitting names over several keys (a name is then no longer one key to compare), truncating the key
and sorting in the value (unbounded values), a smaller limit for names (upload rows carry name, upload id and part number).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from hashlib import blake2b
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING

from storage_node.index import LONG_ROW_TAG, ROW_TAGS

if TYPE_CHECKING:
    import lmdb

PIECE_BYTES = 460
BASE_BYTES = 17
POINTER = b"\x01"
POINTER_KEY_BYTES = BASE_BYTES + PIECE_BYTES + 1
"""No other key is as long."""
STRETCH_FIRST = 32
"""Rows that a stretch takes at first."""


def row_base(space: int, hash_: bytes) -> bytes:
    """What all keys of a catalog's rows begin with."""
    return ROW_TAGS[space] + hash_


def child_base(base: bytes, piece: bytes) -> bytes:
    """What the keys behind the pointer `base + piece` begin with."""
    return bytes((base[0] | LONG_ROW_TAG,)) + blake2b(base + piece, digest_size=16).digest()


def row_key(base: bytes, name: bytes) -> bytes:
    """Where a row is kept."""
    while len(name) > PIECE_BYTES:
        base, name = child_base(base, name[:PIECE_BYTES]), name[PIECE_BYTES:]
    return base + name


def pointer_keys(base: bytes, name: bytes) -> list[bytes]:
    """The pointers that must exist for a walk to find the row; none for all but the longest names."""
    found = []
    while len(name) > PIECE_BYTES:
        piece = name[:PIECE_BYTES]
        found.append(base + piece + POINTER)
        base, name = child_base(base, piece), name[PIECE_BYTES:]
    return found


def successor(prefix: bytes) -> bytes | None:
    """The least text greater than all that begin with `prefix`; None if there is none."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes((stem[-1] + 1,)) if stem else None


def forward(
    txn: lmdb.Transaction[bytes], base: bytes, start: bytes, lead: bytes = b""
) -> Iterator[tuple[bytes, bytes]]:
    """(name, value) of the rows with name >= start, ascending. `lead` is what the path to `base` says of the names."""
    long = len(start) > PIECE_BYTES
    cursor = txn.cursor()
    if not cursor.set_range(base + start[:PIECE_BYTES] + POINTER if long else base + start):
        return
    begin = start[:PIECE_BYTES]
    for key, value in cursor.iternext():
        if len(key) == POINTER_KEY_BYTES:
            if not key.startswith(base):
                return
            piece = key[BASE_BYTES:-1]
            rest = start[PIECE_BYTES:] if long and piece == begin else b""
            yield from forward(txn, child_base(base, piece), rest, lead + piece)
        elif key.startswith(base):
            yield lead + key[BASE_BYTES:], value
        else:
            return


def stretch(
    txn: lmdb.Transaction[bytes], base: bytes, start: bytes, end: bytes | None, count: int
) -> list[tuple[bytes, bytes]] | None:
    """The first `count` (at least 1) rows of start <= name < end, ascending, as (key, value) with keys that begin with
    `base`; None where a pointer is among them, or a bound may be behind one: walk then.
    """
    if len(start) > PIECE_BYTES or (end is not None and len(end) > PIECE_BYTES):
        return None
    cursor = txn.cursor()
    if not cursor.set_range(base + start):
        return []
    stop = successor(base) if end is None else base + end
    assert stop is not None  # a tag is never 0xff
    following = cursor.iternext()
    found = list(islice(following, min(count, STRETCH_FIRST)))
    # In pieces that double: behind the few rows of a small catalog stand those of others, as many as a page may have.
    while len(found) < count and found[-1][0] < stop:
        more = list(islice(following, min(len(found), count - len(found))))
        if not more:
            break
        found += more
    if found[-1][0] >= stop:
        del found[bisect_left(found, (stop,)) :]
    return None if POINTER_KEY_BYTES in map(len, map(itemgetter(0), found)) else found


def united(newer: list[tuple[bytes, bytes]], older: list[tuple[bytes, bytes]], count: int) -> list[tuple[bytes, bytes]]:
    """The first `count` rows of two stretches of `count`: of a key in both the newer's value, which may hide it (empty).

    What lies behind the end of a stretch that was cut off is behind `count` others, so it is not missed.
    """
    if not newer or not older:
        return newer or older
    return sorted((dict(older) | dict(newer)).items())[:count]


def backward(
    txn: lmdb.Transaction[bytes], base: bytes, stop: bytes | None, lead: bytes = b""
) -> Iterator[tuple[bytes, bytes]]:
    """(name, value) of the rows with name < stop (None: all), descending."""
    cursor = txn.cursor()
    if stop is None:
        limit = successor(base)
        assert limit is not None  # a tag is never 0xff
    elif len(stop) > PIECE_BYTES:
        piece = stop[:PIECE_BYTES]
        limit = base + piece + POINTER
        if txn.get(limit) is not None:
            yield from backward(txn, child_base(base, piece), stop[PIECE_BYTES:], lead + piece)
    else:
        limit = base + stop
    if not (cursor.prev() if cursor.set_range(limit) else cursor.last()):
        return
    for key, value in cursor.iterprev():
        if len(key) == POINTER_KEY_BYTES:
            if not key.startswith(base):
                return
            piece = key[BASE_BYTES:-1]
            yield from backward(txn, child_base(base, piece), None, lead + piece)
        elif key.startswith(base):
            yield lead + key[BASE_BYTES:], value
        else:
            return


def merged(
    newer: Iterator[tuple[bytes, bytes]], older: Iterator[tuple[bytes, bytes]], reverse: bool
) -> Iterator[tuple[bytes, bytes]]:
    """Weave two walks in the same direction; of a name in both the newer's value, and an empty value hides the name."""
    new = next(newer, None)
    return older if new is None else _woven(new, newer, older, reverse)


def _woven(
    new: tuple[bytes, bytes] | None,
    newer: Iterator[tuple[bytes, bytes]],
    older: Iterator[tuple[bytes, bytes]],
    reverse: bool,
) -> Iterator[tuple[bytes, bytes]]:
    old = next(older, None)
    while new is not None:
        if old is not None and new[0] != old[0] and (new[0] < old[0]) == reverse:
            yield old
            old = next(older, None)
            continue
        if new[1]:
            yield new
        if old is not None and new[0] == old[0]:
            old = next(older, None)
        new = next(newer, None)
    if old is not None:
        yield old
    yield from older
