"""Choosing from whole arrays: at most one of each column, and within budgets.

Problem: "each partition gives up at most one replica, each device no more than it has too many, those that move already
last" is a loop with counters, and a loop over a million partitions is what makes a builder slow.

Idea: give every candidate a key (how dear it is, then a lot), let each column choose its smallest, then let each budget keep
its smallest. What one round leaves open the next one takes; a few rounds do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ring.shuffle import Shuffler

_NEVER = np.uint64((1 << 64) - 1)
_LOT_BITS = np.uint64(8)


@dataclass(frozen=True, slots=True)
class Budget:
    """No more than `amounts[k]` of the candidates for which `keys` is k are chosen."""

    keys: NDArray[np.signedinteger]
    amounts: NDArray[np.int64]


def pick(
    may: NDArray[np.bool_], dear: NDArray[np.uint8], shuffler: Shuffler, budgets: tuple[Budget, ...]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of the chosen: at most one a column, within all budgets, the least dear first, then by lot."""
    open_to = may.copy()
    for budget in budgets:
        open_to &= budget.amounts[budget.keys] > 0
    columns = np.flatnonzero(open_to.any(axis=0))
    if not len(columns):
        return columns, columns
    lots = shuffler.words(may.shape[0] * len(columns)).reshape(may.shape[0], len(columns)) >> _LOT_BITS
    keys = np.where(open_to[:, columns], dear[:, columns].astype(np.uint64) << np.uint64(56) | lots, _NEVER)
    rows = keys.argmin(axis=0)
    key = keys[rows, np.arange(len(columns))]
    for budget in budgets:
        group = budget.keys[rows, columns]
        kept = rank_within(group, key) < budget.amounts[group]
        rows, columns, key = rows[kept], columns[kept], key[kept]
    return rows, columns


def rank_within(groups: NDArray[np.signedinteger], keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The place of each item among those of its group, in the order of the keys, from 0."""
    order = np.lexsort((keys, groups))
    ordered = groups[order]
    rank = np.empty(len(groups), dtype=np.int64)
    if len(groups):
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        rank[order] = np.arange(len(groups)) - np.repeat(starts, np.diff(np.r_[starts, len(groups)]))
    return rank
