"""The first placement: every quota met exactly, without a search.

Problem: place R replicas of P partitions so that each domain gets exactly its quota, each partition has between floor and
ceil of quota/P replicas in each domain, no device has a partition twice, and the partners of a device are spread evenly
over all others (or its loss is repaired from two devices instead of from all).

Idea, at one domain: lay its replicas along a line, all partitions in some order, then again in the same order, until the
quota is used up; those with one replica more come first in the order. Equal partitions are then exactly one round apart,
so any stretch of the line holds of each partition the floor or the ceil of its length over the round: give each child a
stretch as long as its quota. This is systematic sampling (Madow 1949). It leaves neighbours together: a child shares its
partitions with the few that lie one round further on. So pairs of partitions then exchange children, wherever both may,
until nothing of the line is left to see (`_mix`; the switching chain by which random matrices of given sums are drawn).

A domain with at most one replica of a partition has no rule left to break: any cut of a random order will do, down to the
devices. So only the few domains that are wider than one round are visited one by one.

Rejected: placing replica by replica with a heap of hungry devices, as Swift does: a million times a Python loop, and what
comes last fits badly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ring.quota import DEVICE_LEVEL, Quotas
from ring.ring import NO_DEVICE, Table
from ring.shuffle import Shuffler

_MIX_PASSES_PER_ROW = 4
"""A pass gives one replica of each partition the chance to change places; after four times as many passes as there are
replicas, one in fifty has had none."""
_ABSENT = -1


@dataclass(frozen=True, slots=True)
class _Part:
    """A domain and the partitions whose replicas it gets: those with one replica more, and the others."""

    level: int
    domain: int
    heavy: NDArray[np.intp]
    light: NDArray[np.intp]


def first_placement(quotas: Quotas, seed: int) -> Table:
    """A table that meets the quotas exactly; the same quotas and seed give the same table."""
    part_count = quotas.part_count
    rows = -(-quotas.replica_total // part_count)
    extra_count = quotas.replica_total - (rows - 1) * part_count
    table = np.full((rows, part_count), NO_DEVICE, dtype=np.uint32)
    filled = np.zeros(part_count, dtype=np.intp)
    shuffler = Shuffler(seed)
    everything = np.arange(part_count)
    work = [_Part(0, 0, everything[:extra_count], everything[extra_count:])]
    while work:
        part = work.pop()
        if quotas.counts[part.level][part.domain] <= part_count:
            _fill_devices(table, filled, quotas, part, shuffler)
        else:
            work += _cut(quotas, part, shuffler)
    _shuffle_rows(table, extra_count, shuffler)
    return table


def _cut(quotas: Quotas, part: _Part, shuffler: Shuffler) -> list[_Part]:
    """Share the replicas of a domain out to its children."""
    level = part.level + 1
    children = np.flatnonzero(quotas.tree.parents[level] == part.domain)
    if len(children) == 1:
        return [_Part(level, int(children[0]), part.heavy, part.light)]
    order = np.concatenate(
        (part.heavy[shuffler.permutation(len(part.heavy))], part.light[shuffler.permutation(len(part.light))])
    )
    counts = quotas.counts[level][children]
    line = np.repeat(np.arange(len(children), dtype=np.int32), counts)
    rows = -(-len(line) // quotas.part_count)
    child = np.full((rows, quotas.part_count), _ABSENT, dtype=np.int32)
    child.ravel()[: len(line)] = line
    low, high = quotas.bounds(level)
    if np.any(low != high):
        _mix(child, len(line), low[children], high[children], shuffler)
    return _parts_of(quotas, level, children, child, order)


def _mix(
    child: NDArray[np.int32],
    replica_count: int,
    low: NDArray[np.int64],
    high: NDArray[np.int64],
    shuffler: Shuffler,
) -> None:
    """Let pairs of partitions exchange the children of one replica each, many times, where all bounds allow it."""
    rows, part_count = child.shape
    columns = np.arange(part_count)
    present = np.where(columns < replica_count - (rows - 1) * part_count, rows, rows - 1).astype(np.uint64)
    for _ in range(_MIX_PASSES_PER_ROW * rows if part_count > 1 else 0):
        # Partners differ by one mask, so that the pairs are disjoint and found without a sort.
        mask = 1 + int(shuffler.words(1)[0] % np.uint64(part_count - 1))
        left = columns[columns & (1 << (mask.bit_length() - 1)) == 0]
        right = left ^ mask
        lots = shuffler.words(part_count)
        row = (lots % np.maximum(present, np.uint64(1))).astype(np.intp)
        one, other = child[row[left], left], child[row[right], right]
        swap = (
            (one != other)
            & (one >= 0)
            & (other >= 0)
            & _may_change(child[:, left], one, other, low, high)
            & _may_change(child[:, right], other, one, low, high)
        )
        left, right = left[swap], right[swap]
        child[row[left], left], child[row[right], right] = other[swap], one[swap]


def _may_change(
    block: NDArray[np.int32],
    giver: NDArray[np.int32],
    taker: NDArray[np.int32],
    low: NDArray[np.int64],
    high: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """For each column: may one replica go from a child to another?"""
    given = np.count_nonzero(block == giver, axis=0)
    taken = np.count_nonzero(block == taker, axis=0)
    may: NDArray[np.bool_] = (given > low[giver]) & (taken < high[taker])
    return may


def _parts_of(
    quotas: Quotas,
    level: int,
    children: NDArray[np.intp],
    child: NDArray[np.int32],
    order: NDArray[np.intp],
) -> list[_Part]:
    """What each child got, as partitions."""
    part_count = quotas.part_count
    flat = child.ravel()
    by_child = np.argsort(flat.astype(np.int16) if len(children) < 1 << 15 else flat, kind="stable")
    by_child = by_child[np.count_nonzero(flat == _ABSENT) :]
    parts: list[_Part] = []
    start = 0
    for number in children:
        stop = start + int(quotas.counts[level][number])
        partitions = order[by_child[start:stop] % part_count]
        start = stop
        if len(partitions) <= part_count:
            parts.append(_Part(level, int(number), partitions, partitions[:0]))
            continue
        held = np.bincount(partitions, minlength=part_count)
        floor = len(partitions) // part_count
        parts.append(_Part(level, int(number), np.flatnonzero(held > floor), np.flatnonzero(held <= floor)))
    return parts


def _fill_devices(table: Table, filled: NDArray[np.intp], quotas: Quotas, part: _Part, shuffler: Shuffler) -> None:
    """Give the devices of a domain consecutive runs of its partitions, of which each occurs once."""
    tree = quotas.tree
    starts = tree.starts[part.level]
    stop = int(starts[part.domain + 1]) if part.domain + 1 < len(starts) else len(tree)
    devices = slice(int(starts[part.domain]), stop)
    counts = quotas.counts[DEVICE_LEVEL][devices]
    assert int(counts.sum()) == len(part.heavy)
    partitions = part.heavy[shuffler.permutation(len(part.heavy))]
    table[filled[partitions], partitions] = np.repeat(tree.ids[devices], counts)
    filled[partitions] += 1


def _shuffle_rows(table: Table, extra_count: int, shuffler: Shuffler) -> None:
    """Put the replicas of each partition in random order, so that replica 0 is not always in the first zone."""
    for columns in (slice(0, extra_count), slice(extra_count, None)):
        rows = len(table) if columns.start == 0 else len(table) - 1
        width = table[0, columns].size
        if rows < 2 or width == 0:
            continue
        # Fisher and Yates, all partitions at once: a swap of rows costs less than a sort of keys.
        part = np.arange(width)
        block = table[:, columns]
        for row in range(rows - 1, 0, -1):
            other = (shuffler.words(width) % np.uint64(row + 1)).astype(np.intp)
            chosen = block[other, part]
            block[other, part] = block[row]
            block[row] = chosen
