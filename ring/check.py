"""Verify a placement from nothing: every invariant of what was asked for, after each computation.

Problem: the code that moves replicas is the most intricate in this room, and its mistakes would be found when data is gone.

Idea: what a right placement is can be said in few rules, and verified by code that shares none with what made it, in
a fraction of the time. So it is verified always, not in tests alone, and a computation whose result breaks a rule
writes nothing.

The rules: every number is that of a device that may hold partitions; no partition has a device twice; each partition
has its number of replicas; each region, zone, node and device holds its quota exactly, and of each partition no less
than the floor and no more than the ceiling of quota/partitions, so that no two replicas share a domain where another
has room.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ring.measure import alike, device_numbers, domains, sharing
from ring.quota import LEVELS, Quotas, check_quotas
from ring.ring import NO_DEVICE, Table


class CheckError(AssertionError):
    """Ours: a computation broke an invariant. Nothing was written; please report it with the topology file."""


def check(quotas: Quotas, table: Table) -> None:
    """Verify from nothing that a table is what was asked for. CheckError says what is not.

    Every number is that of a device of the tree; no partition has a device twice; each partition has its number of
    replicas; each region, zone, node and device holds its quota exactly, and of each partition no less than the floor and no
    more than the ceiling of quota/partitions.
    """
    wrong = check_quotas(quotas)
    tree = quotas.tree
    rows = -(-quotas.replica_total // quotas.part_count)
    if table.shape != (rows, quotas.part_count):
        raise CheckError(f"the table has the shape {table.shape} instead of {(rows, quotas.part_count)}")
    present = table != NO_DEVICE
    extra_count = quotas.replica_total - (rows - 1) * quotas.part_count
    if not present[:-1].all() or not present[-1, :extra_count].all() or present[-1, extra_count:].any():
        wrong.append("a partition has another number of replicas than it should have")
    _, numbers = device_numbers(tree.devices, table, tree)
    if np.any((numbers < 0) & present):
        raise CheckError("; ".join([*wrong, "a replica is on a device that takes none"]))
    on_devices = np.bincount(numbers[present], minlength=len(tree))
    columns = np.arange(quotas.part_count)
    for level in range(1, len(LEVELS)):
        held = np.bincount(tree.domains[level], on_devices, len(tree.starts[level])).astype(np.int64)
        if not np.array_equal(held, quotas.counts[level]):
            wrong.append(f"{int(np.count_nonzero(held != quotas.counts[level]))} {LEVELS[level]}s miss their quota")
        # Partitions without two replicas in one domain have none in a smaller one, and can break no upper bound but 0.
        domain = domains(tree, level, numbers[:, columns])
        shared = sharing(domain)
        columns = columns[shared]
        wrong += _check_high(quotas, level, domain[:, shared]) + _check_low(quotas, level, numbers)
    if wrong:
        raise CheckError("; ".join(wrong))


def _check_high(quotas: Quotas, level: int, domain: NDArray[np.int32]) -> list[str]:
    """What is wrong with partitions that have several replicas in one domain."""
    _, high = quotas.bounds(level)
    if high.min(initial=len(domain)) >= len(domain):
        return []
    count, _ = alike(domain)
    here = domain >= 0
    return (
        [f"a partition has too many replicas in one {LEVELS[level]}"]
        if np.any(count[here] > high[domain[here]])
        else []
    )


def _check_low(quotas: Quotas, level: int, numbers: NDArray[np.int32]) -> list[str]:
    """What is wrong with domains that should hold some of each partition: there are at most as many as replicas."""
    low, _ = quotas.bounds(level)
    wrong: list[str] = []
    for number in np.flatnonzero(low):
        held = np.count_nonzero(domains(quotas.tree, level, numbers) == number, axis=0)
        if np.any(held < low[number]):
            wrong.append(f"a partition has too few replicas in {LEVELS[level]} {number}")
    return wrong
