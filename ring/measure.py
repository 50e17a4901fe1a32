"""How good a placement is: balance and dispersion, as swift-ring-builder counts them.

*Balance* is the largest deviation of a device's replicas from what its weight asks for, in percent of that.
*Dispersion* is the share of replicas, in percent, that share a failure domain though the number of domains would allow
them not to (whatever the weights say): 0 is what one wants. *Required overload* is how much more than its weight some device
must take for that. All numbers are computed from the table and the devices alone, by other code than made them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ring.quota import DEVICE_LEVEL, LEVELS, Tree, solve_quotas
from ring.ring import NO_DEVICE, Table
from ring.topology import Device, Tier

BALANCE_MAX = 999.99
"""The balance of a device that should have nothing and has something."""


@dataclass(frozen=True, slots=True)
class TierDispersion:
    """How the replicas of partitions lie in one failure domain.

    counts           partitions with 0, 1, 2 … replicas in it
    replicas_max     how many a partition should have there at most
    """

    tier: Tier
    counts: tuple[int, ...]
    replicas_max: int

    @property
    def part_count(self) -> int:
        """Replicas in it."""
        return sum(index * count for index, count in enumerate(self.counts))

    @property
    def percent(self) -> float:
        """Replicas in it that are more than a partition should have there, in percent of those in it."""
        over = sum((n - self.replicas_max) * c for n, c in enumerate(self.counts) if n > self.replicas_max)
        return 100.0 * over / max(self.part_count, 1)


def device_counts(table: Table, id_count: int) -> NDArray[np.int64]:
    """Replicas on each device, by id."""
    counts: NDArray[np.int64] = np.bincount(table[table != NO_DEVICE], minlength=id_count)
    return counts


def balances(devices: Sequence[Device], counts: NDArray[np.int64], replica_total: int) -> dict[int, float]:
    """By device id: percent above (or below) what its weight asks for."""
    weight_total = sum(device.weight for device in devices)
    result: dict[int, float] = {}
    for device in devices:
        count = int(counts[device.id]) if device.id < len(counts) else 0
        if device.weight == 0:
            result[device.id] = BALANCE_MAX if count else 0.0
        else:
            result[device.id] = 100.0 * count / (device.weight * replica_total / weight_total) - 100.0
    return result


def balance(devices: Sequence[Device], table: Table) -> float:
    """The largest deviation of all, in percent."""
    id_count = max((device.id for device in devices), default=-1) + 1
    counts = device_counts(table, id_count)
    return max((abs(b) for b in balances(devices, counts, int(counts.sum())).values()), default=0.0)


def dispersion(devices: Sequence[Device], table: Table) -> float:
    """Replicas that share a domain without need, in percent of all; at a partition's worst level."""
    tree, numbers = device_numbers(devices, table)
    replica_total = int(np.count_nonzero(table != NO_DEVICE))
    limits = replica_limits(tree, replica_total / table.shape[1])
    worst = np.zeros(table.shape[1], dtype=np.int64)
    columns = np.arange(table.shape[1])
    for level in range(1, len(LEVELS)):
        # What shares no domain at one level shares none at the next.
        domain = domains(tree, level, numbers[:, columns])
        shared = sharing(domain)
        columns = columns[shared]
        if limits[level].min(initial=len(table)) < len(table):
            worst[columns] = np.maximum(worst[columns], _excess(domain[:, shared], limits[level]))
    return 100.0 * float(worst.sum()) / max(replica_total, 1)


def replica_limits(tree: Tree, replicas: float) -> list[NDArray[np.int64]]:
    """How many replicas of a partition each domain should have at most, [level][domain], if weights did not matter."""
    limits = [np.array([int(np.ceil(replicas - 1e-9))])]
    for level in range(1, len(LEVELS)):
        siblings = np.bincount(tree.parents[level])[tree.parents[level]]
        limits.append(-(-limits[-1][tree.parents[level]] // siblings))
    limits[0] = np.array([int(np.ceil(replicas - 1e-9))])
    limits[DEVICE_LEVEL] = np.minimum(limits[DEVICE_LEVEL], 1)
    return limits


def tier_dispersions(devices: Sequence[Device], table: Table) -> list[TierDispersion]:
    """Every region, zone, node and device with the number of partitions that have so many replicas there."""
    tree, numbers = device_numbers(devices, table)
    limits = replica_limits(tree, np.count_nonzero(table != NO_DEVICE) / table.shape[1])
    result: list[TierDispersion] = []
    for level in range(1, len(LEVELS)):
        domain = domains(tree, level, numbers)
        histogram = np.zeros((len(tree.starts[level]), len(table) + 1), dtype=np.int64)
        count, first = alike(domain)
        here = first & (domain >= 0)
        np.add.at(histogram, (domain[here], count[here]), 1)
        histogram[:, 0] = table.shape[1] - histogram.sum(axis=1)
        for number, start in enumerate(tree.starts[level]):
            tier = tree.devices[start].tiers[level - 1]
            row = tuple(int(value) for value in histogram[number])
            result.append(TierDispersion(tier, row, int(limits[level][number])))
    return sorted(result, key=lambda entry: tuple(map(str, entry.tier)))


def required_overload(devices: Sequence[Device], part_count: int, replica_total: int) -> float:
    """The overload at which the replicas would be dispersed as well as the number of domains allows."""
    tree = Tree.of(devices)
    quotas = solve_quotas(tree, part_count, replica_total, overload=1e9)
    return max(0.0, float((quotas.shares[DEVICE_LEVEL] / quotas.weighted).max(initial=1.0)) - 1.0)


def sharing(domain: NDArray[np.int32]) -> NDArray[np.bool_]:
    """The partitions that have two replicas in one domain."""
    shared = np.zeros(domain.shape[1], dtype=bool)
    for index in range(len(domain)):
        for earlier in range(index):
            shared |= domain[index] == domain[earlier]
    return shared


def device_numbers(devices: Sequence[Device], table: Table, tree: Tree | None = None) -> tuple[Tree, NDArray[np.int32]]:
    """The tree of these devices, and the table in its device numbers; -1 for what is not in the tree."""
    tree = tree or Tree.of(devices)
    size = max(int(np.max(table, where=table != NO_DEVICE, initial=0)), int(tree.ids.max(initial=0))) + 2
    number_of = np.full(size, -1, dtype=np.int32)
    number_of[tree.ids] = np.arange(len(tree))
    numbers: NDArray[np.int32] = number_of[np.minimum(table, np.uint32(size - 1))]
    return tree, numbers


def domains(tree: Tree, level: int, numbers: NDArray[np.int32]) -> NDArray[np.int32]:
    """The domain that each replica is in, at a level; -1 where it is in none."""
    of_device = np.r_[tree.domains[level], -1].astype(np.int32)
    domains: NDArray[np.int32] = of_device[numbers]
    return domains


def alike(domain: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """For each replica: how many of its partition are in its domain, and whether it is the first of them."""
    count = np.zeros(domain.shape, dtype=np.int64)
    first = np.ones(domain.shape, dtype=bool)
    for index, row in enumerate(domain):
        count += domain == row
        for earlier in range(index):
            first[index] &= domain[earlier] != row
    return count, first


def _excess(domain: NDArray[np.int32], limit: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each partition: replicas above the limit, over all domains of a level."""
    count, first = alike(domain)
    over = np.where((domain >= 0) & first, np.maximum(count - np.r_[limit, 0][domain], 0), 0)
    total: NDArray[np.int64] = over.sum(axis=0)
    return total
