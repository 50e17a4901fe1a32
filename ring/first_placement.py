"""The first placement: every quota met exactly, without a search.

Problem: place R replicas of P partitions so that each domain gets exactly its quota, each partition has between floor and
ceil of quota/P replicas in each domain, no device has a partition twice, and the partners of a device are spread evenly
over all others (or its loss is repaired from two devices instead of from all).

Idea, at one domain: lay its replicas along a line, all partitions in some order, then again in the same order, until the
quota is used up; those with one replica more come first in the order. Equal partitions are then exactly one round apart,
so any stretch of the line holds of each partition the floor or the ceil of its length over the round: give each child a
stretch as long as its quota. The order within a domain is free, so each domain draws its own, and partners are random.
A domain with at most one replica of a partition has no rule left to break: any cut of a random order will do, down to the
devices. So only the few domains that are wider than one round are visited one by one.

This is systematic sampling (Madow 1949), once per domain. Rejected: placing replica by replica with a heap of hungry
devices, as Swift does: a million times a Python loop, and what comes last fits badly.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ring.quota import DEVICE_LEVEL, Quotas
from ring.ring import NO_DEVICE, Table
from ring.shuffle import Shuffler


def first_placement(quotas: Quotas, seed: int) -> Table:
    """A table that meets the quotas exactly; the same quotas and seed give the same table."""
    part_count = quotas.part_count
    rows = -(-quotas.replica_total // part_count)
    extra_count = quotas.replica_total - (rows - 1) * part_count
    table = np.full((rows, part_count), NO_DEVICE, dtype=np.uint32)
    filled = np.zeros(part_count, dtype=np.intp)
    shuffler = Shuffler(seed)
    everything = np.arange(part_count)
    work = [(0, 0, everything[:extra_count], everything[extra_count:])]
    while work:
        level, domain, heavy, light = work.pop()
        if quotas.counts[level][domain] <= part_count:
            _fill_devices(table, filled, quotas, level, domain, heavy[shuffler.permutation(len(heavy))])
        else:
            work += _cut(quotas, level, domain, heavy, light, shuffler)
    _shuffle_rows(table, extra_count, shuffler)
    return table


def _cut(
    quotas: Quotas,
    level: int,
    domain: int,
    heavy: NDArray[np.intp],
    light: NDArray[np.intp],
    shuffler: Shuffler,
) -> list[tuple[int, int, NDArray[np.intp], NDArray[np.intp]]]:
    """Cut the line of a domain into its children's stretches: (level, child, partitions with one more, the others)."""
    part_count = quotas.part_count
    line = np.concatenate((heavy[shuffler.permutation(len(heavy))], light[shuffler.permutation(len(light))]))
    assert len(line) == part_count
    stretches = []
    start = 0
    for child in np.flatnonzero(quotas.tree.parents[level + 1] == domain):
        length = int(quotas.counts[level + 1][child]) % part_count
        around = np.roll(line, -start)
        more, rest = around[:length], around[length:]
        if length == 0 and quotas.counts[level + 1][child]:
            # Whole rounds: every partition alike. They count as those with one more of a round less.
            more, rest = around, around[:0]
        stretches.append((level + 1, int(child), more, rest))
        start = (start + int(quotas.counts[level + 1][child])) % part_count
    return stretches


def _fill_devices(
    table: Table,
    filled: NDArray[np.intp],
    quotas: Quotas,
    level: int,
    domain: int,
    partitions: NDArray[np.intp],
) -> None:
    """Give the devices of a domain consecutive runs of these partitions, of which each occurs once."""
    tree = quotas.tree
    devices = slice(
        int(tree.starts[level][domain]),
        int(tree.starts[level][domain + 1]) if domain + 1 < len(tree.starts[level]) else len(tree),
    )
    counts = quotas.counts[DEVICE_LEVEL][devices]
    assert int(counts.sum()) == len(partitions)
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
