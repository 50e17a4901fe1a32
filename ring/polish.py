"""The last avoidable moves of a small ring.

Problem: `ring.reassignment` chooses well, but not with foresight: now and then a replica moves that need not have, when two
choices that each look free exclude one another. On a ring of a few partitions that is visible.

Idea: what is left of a minimum-cost flow when the sums are right already is to cancel negative cycles. Draw an arc from
device d to e for each partition that has a replica on d and may have it on e instead; the arc costs 1 if that makes a move,
-1 if it takes one back. A cycle of negative cost, followed, keeps every device's count and saves moves; when there is none,
the moves are the fewest possible (Klein 1967; rows are bases of a laminar matroid, for which Murota 2003 has the theorem: a
shortest cycle keeps all rows valid). Shortest first, by min-plus products of the matrix of the cheapest arcs.

The work grows with partitions x devices squared, so this is for small rings, and for them it is exact.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ring.quota import LEVELS, Quotas

SIZE_MAX = 1 << 22
"""Partitions x devices squared up to which a ring is polished: some tenths of a second at worst."""
_CYCLES_MAX = 1000
_INF = np.int16(1 << 12)


def polish(devices: NDArray[np.int32], before: NDArray[np.bool_], quotas: Quotas) -> None:
    """Take back, in place, whatever moves can be saved.

    devices  [replica, partition]: numbers of the tree's devices, negative where there is none; valid for the quotas
    before   [partition, device]: whether it was there before

    Meant for rings of partitions x devices squared up to SIZE_MAX.
    """
    here = np.zeros((quotas.part_count, len(quotas.tree)), dtype=bool)
    for row in devices:
        columns = np.flatnonzero(row >= 0)
        here[columns, row[columns]] = True
    for _ in range(_CYCLES_MAX):
        costs = _costs(here, before, quotas, np.arange(quotas.part_count))
        cycle = _cycle(costs.min(axis=0))
        if not cycle or not _follow(cycle, costs, here, before, quotas):
            break
    _write_back(devices, here)


def _costs(
    here: NDArray[np.bool_], before: NDArray[np.bool_], quotas: Quotas, partitions: NDArray[np.intp]
) -> NDArray[np.int16]:
    """What it costs to bring a replica from one device to another: [partition, from, to]."""
    tree = quotas.tree
    held, old = here[partitions], before[partitions]
    may = held[:, :, None] & ~held[:, None, :]
    for level in range(1, len(LEVELS) - 1):
        domain = tree.domains[level]
        low, high = quotas.bounds(level)
        count = np.zeros((len(partitions), len(tree.starts[level])), dtype=np.int64)
        np.add.at(count.T, domain, held.T)
        gives = (count > low)[:, domain]
        takes = (count < high)[:, domain]
        may &= (domain[:, None] == domain) | (gives[:, :, None] & takes[:, None, :])
    cost = old[:, :, None].astype(np.int16) - old[:, None, :].astype(np.int16)
    return np.where(may, cost, _INF)


def _cycle(arcs: NDArray[np.int16]) -> list[int]:
    """A shortest cycle of negative cost over these arcs, [from, to]; empty if there is none."""
    count = len(arcs)
    reach = arcs
    middles: list[NDArray[np.intp]] = []
    while True:
        if np.any(np.diagonal(reach) < 0):
            break
        if len(middles) + 1 >= count:
            return []
        through = reach[:, :, None] + arcs[None, :, :]
        middles.append(through.argmin(axis=1))
        reach = np.minimum(through.min(axis=1), _INF)
    start = int(np.argmin(np.diagonal(reach)))
    cycle = [start]
    for middle in reversed(middles):
        cycle.append(int(middle[start, cycle[-1]]))
    return [start, *reversed(cycle[1:]), start]


def _follow(
    cycle: list[int],
    costs: NDArray[np.int16],
    here: NDArray[np.bool_],
    before: NDArray[np.bool_],
    quotas: Quotas,
) -> bool:
    """Exchange along a cycle; False, with nothing changed, if its arcs exclude one another."""
    trial: dict[int, NDArray[np.bool_]] = {}
    saved = 0
    for giver, taker in pairwise(cycle):
        cost = int(costs[:, giver, taker].min())
        candidates = np.flatnonzero(costs[:, giver, taker] == cost)
        unused = [int(partition) for partition in candidates if int(partition) not in trial]
        partition = unused[0] if unused else int(candidates[0])
        row = trial.setdefault(partition, here[partition].copy())
        if not unused:
            single = _costs(row[None], before[partition][None], quotas, np.zeros(1, dtype=np.intp))
            if int(single[0, giver, taker]) != cost:
                return False
        row[giver], row[taker] = False, True
        saved -= cost
    if saved <= 0:
        return False
    for partition, row in trial.items():
        here[partition] = row
    return True


def _write_back(devices: NDArray[np.int32], here: NDArray[np.bool_]) -> None:
    """Put what is on no device any more onto those that are new."""
    for partition in range(devices.shape[1]):
        column = devices[:, partition]
        now = set(np.flatnonzero(here[partition]).tolist())
        fresh = sorted(now - set(column[column >= 0].tolist()))
        for row, device in enumerate(column.tolist()):
            if device >= 0 and device not in now:
                column[row] = fresh.pop()
