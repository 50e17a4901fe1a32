"""How much each failure domain must hold: exact quotas, from the cluster down to the device.

Problem: share R replicas of P partitions out over regions, zones, nodes and devices so that
  1. no device holds a partition twice, or more than (1 + overload) times what its weight asks for;
  2. within that, no two replicas of a partition share a failure domain where another domain has room, large domains
     before small ones;
  3. within that, shares are in proportion to the weights.

Idea. What the weights ask for is water-filling: each device gets its part of all replicas, at most P. From there it goes
down the tree. A domain with q replicas per partition shares them out to its children in *layers*: every child gets a first
replica before any gets a second, since a second one in a domain is what 2. forbids. So if q falls into the k-th layer, a
child holds between min(k-1, room) and min(k, room), and in between it is weight * level for the one level that makes the
sum right: the largest deviation from the weights, among those free to deviate, is then the smallest possible. With no
overload nobody has room beyond the weights, and this gives the weights themselves.

Then to whole numbers, again from the top: a child gets its share rounded down or up, the parent's number being met exactly.
Which are rounded up minimizes the largest relative deviation; where that leaves a choice, those stay as they are that
hold more already, so that a rebalance without a change moves nothing.

Rejected: Swift's way, one factor for the whole ring that leads from weights to full dispersion. One domain that can't be
helped then keeps all others from what they could have.

Invariants, checked by `check_quotas`: children sum up to their parent, exactly; every number is within one of its real
share; no device is above P.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ring.topology import Device

LEVELS = ("cluster", "region", "zone", "node", "device")
DEVICE_LEVEL = len(LEVELS) - 1
_SNAP = 1e-6
"""Shares this near to a whole number are that number; the arithmetic before is good to some 1e-9."""


class QuotaError(ValueError):
    """The caller's: these devices cannot hold that many replicas."""


@dataclass(frozen=True, slots=True)
class Tree:
    """Devices that take part, in the order of their places, with the number of their domain at each level.

    ids          device ids, [device]
    weights      [device]
    domains      domain numbers, [level][device]; at the last level 0..device_count-1
    parents      number of the parent domain, [level][domain], from level 1
    starts       first device of each domain, [level][domain]; the devices of a domain are consecutive
    """

    devices: tuple[Device, ...]
    ids: NDArray[np.uint32]
    weights: NDArray[np.float64]
    domains: tuple[NDArray[np.intp], ...]
    parents: tuple[NDArray[np.intp], ...]
    starts: tuple[NDArray[np.intp], ...]

    @classmethod
    def of(cls, devices: Sequence[Device]) -> Tree:
        """The tree of those devices that have weight."""
        taking = tuple(sorted((d for d in devices if d.weight > 0), key=lambda d: (d.region, d.zone, d.node, d.id)))
        domains: list[NDArray[np.intp]] = []
        starts: list[NDArray[np.intp]] = []
        parents: list[NDArray[np.intp]] = []
        for level in range(len(LEVELS)):
            tiers = [((), *device.tiers)[level] for device in taking]
            first = np.array([i == 0 or tiers[i] != tiers[i - 1] for i in range(len(tiers))], dtype=bool)
            number = np.cumsum(first, dtype=np.intp) - 1
            start = np.flatnonzero(first)
            parents.append(domains[-1][start] if domains else np.zeros(len(start), dtype=np.intp))
            domains.append(number)
            starts.append(start)
        return cls(
            devices=taking,
            ids=np.array([d.id for d in taking], dtype=np.uint32),
            weights=np.array([d.weight for d in taking], dtype=np.float64),
            domains=tuple(domains),
            parents=tuple(parents),
            starts=tuple(starts),
        )

    def __len__(self) -> int:
        return len(self.ids)

    def sums(self, level: int, per_device: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sum over each domain of a level."""
        return np.add.reduceat(per_device, self.starts[level]) if len(self) else per_device

    def children(self, level: int) -> list[NDArray[np.intp]]:
        """The numbers, at level + 1, of the children of each domain of a level."""
        parent = self.parents[level + 1]
        return np.split(np.arange(len(parent)), np.flatnonzero(np.diff(parent)) + 1)


@dataclass(frozen=True, slots=True)
class Quotas:
    """What each domain must hold.

    weighted   replicas that the weights ask for, at most one per partition, real, [device]
    shares     replicas after dispersion, real, [level][domain]
    counts     replicas to hold, whole, [level][domain]
    """

    tree: Tree
    part_count: int
    replica_total: int
    weighted: NDArray[np.float64]
    shares: tuple[NDArray[np.float64], ...]
    counts: tuple[NDArray[np.int64], ...]

    def bounds(self, level: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """How many replicas of one partition each domain of a level holds, at least and at most."""
        counts = self.counts[level]
        return counts // self.part_count, -(-counts // self.part_count)


def solve_quotas(
    tree: Tree, part_count: int, replica_total: int, overload: float, held: NDArray[np.int64] | None = None
) -> Quotas:
    """The quotas of a ring of `part_count` partitions with `replica_total` replicas altogether.

    `held` is what each device of the tree holds now: it decides only what rounding leaves open.
    """
    if replica_total > part_count * len(tree):
        needed = -(-replica_total // part_count)
        raise QuotaError(f"{needed} replicas need {needed} devices with weight, and there are {len(tree)}: add devices")
    weighted = fill_to_level(tree.weights, np.zeros(len(tree)), np.full(len(tree), float(part_count)), replica_total)
    room = np.minimum(weighted * (1.0 + overload), float(part_count))
    holding = np.zeros(len(tree), dtype=np.int64) if held is None else held
    shares = [np.array([float(replica_total)])]
    counts = [np.array([replica_total], dtype=np.int64)]
    for level in range(DEVICE_LEVEL):
        share = np.zeros(len(tree.parents[level + 1]))
        count = np.zeros(len(share), dtype=np.int64)
        child_weighted = tree.sums(level + 1, weighted)
        child_room = tree.sums(level + 1, room)
        child_held = np.add.reduceat(holding, tree.starts[level + 1])
        for parent, group in enumerate(tree.children(level)):
            if len(group) == 1:
                share[group], count[group] = shares[level][parent], counts[level][parent]
                continue
            share[group] = _share_out(shares[level][parent], child_weighted[group], child_room[group], part_count)
            count[group] = round_to_sum(share[group], int(counts[level][parent]), child_held[group])
        shares.append(share)
        counts.append(count)
    return Quotas(tree, part_count, replica_total, weighted, tuple(shares), tuple(counts))


def _share_out(
    total: float, weighted: NDArray[np.float64], room: NDArray[np.float64], part_count: int
) -> NDArray[np.float64]:
    """Share a domain's replicas out to its children, layer by layer."""
    total = min(total, float(room.sum()))
    layer = 1
    while np.minimum(room, float(layer * part_count)).sum() < total - _SNAP:
        layer += 1
    low = np.minimum(room, float((layer - 1) * part_count))
    high = np.minimum(room, float(layer * part_count))
    return fill_to_level(weighted, low, high, total)


def fill_to_level(
    weights: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64], total: float
) -> NDArray[np.float64]:
    """`clip(level * weights, low, high)` for the one level at which the sum is `total`.

    Weights are positive; `total` is between the sums of low and high. Exact but for the rounding of floats: the sum is
    piecewise linear in the level, so the piece is found by bisection over its ends and then solved.
    """
    if total >= high.sum():
        return high.copy()
    if total <= low.sum():
        return low.copy()
    ends = np.unique(np.concatenate((low / weights, high / weights)))
    first, last = 0, len(ends) - 1
    while last - first > 1:
        middle = (first + last) // 2
        if np.clip(ends[middle] * weights, low, high).sum() <= total:
            first = middle
        else:
            last = middle
    centre = (ends[first] + ends[last]) / 2
    at_low = centre * weights <= low
    at_high = ~at_low & (centre * weights >= high)  # where low is high, it is counted once
    free = ~(at_low | at_high)
    fixed = low[at_low].sum() + high[at_high].sum()
    share = np.where(at_low, low, high)
    if free.any():
        share[free] = np.clip(weights[free] * ((total - fixed) / weights[free].sum()), low[free], high[free])
    return share


def round_to_sum(share: NDArray[np.float64], total: int, held: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each share rounded down or up, the sum being `total`, the largest relative deviation being the smallest possible.

    Where that leaves a choice, those are rounded up that hold as much already, then those with the larger fraction.
    """
    near = np.round(share)
    exact = np.abs(share - near) < _SNAP
    whole = np.where(exact, near, np.floor(share))
    fraction = np.where(exact, 0.0, share - whole)
    up_count = total - int(whole.sum())
    open_to = fraction > 0
    if up_count < 0 or up_count > int(open_to.sum()):
        # The parent itself was rounded: its own fraction is spread over children that look whole.
        open_to = np.ones(len(share), dtype=bool)
        whole, up_count = _make_room(whole, up_count)
    size = np.maximum(share, 1e-300)
    cost_down, cost_up = fraction / size, (1.0 - fraction) / size
    limit = _smallest_limit(cost_down[open_to], cost_up[open_to], up_count)
    must = open_to & (cost_down > limit)
    may = open_to & ~must & (cost_up <= limit)
    rounded = whole.astype(np.int64)
    order = np.lexsort((-fraction, held <= rounded, ~may, ~must))
    rounded[order[:up_count]] += 1
    return rounded


def _make_room(whole: NDArray[np.float64], up_count: int) -> tuple[NDArray[np.float64], int]:
    """Take one from enough of the largest children that `up_count` is not negative."""
    lowered = whole.copy()
    if up_count < 0:
        lowered[np.argsort(-whole, kind="stable")[:-up_count]] -= 1
        up_count = 0
    return lowered, up_count


def _smallest_limit(cost_down: NDArray[np.float64], cost_up: NDArray[np.float64], up_count: int) -> float:
    """The smallest deviation that some choice of `up_count` roundings up keeps to."""
    limits = np.unique(np.concatenate((cost_down, cost_up)))
    first, last = 0, len(limits) - 1
    while first < last:
        middle = (first + last) // 2
        must = cost_down > limits[middle]
        may = cost_up <= limits[middle]
        if not (must & ~may).any() and must.sum() <= up_count <= may.sum():
            last = middle
        else:
            first = middle + 1
    return float(limits[last]) if len(limits) else 0.0


def check_quotas(quotas: Quotas) -> list[str]:
    """Everything that is wrong with these quotas; nothing, normally."""
    wrong: list[str] = []
    tree = quotas.tree
    for level in range(DEVICE_LEVEL):
        sums = np.bincount(tree.parents[level + 1], quotas.counts[level + 1], len(quotas.counts[level]))
        if not np.array_equal(sums.astype(np.int64), quotas.counts[level]):
            wrong.append(f"quotas of the {LEVELS[level + 1]}s do not sum up to those of the {LEVELS[level]}s")
        if np.any(np.abs(quotas.counts[level + 1] - quotas.shares[level + 1]) > 1.0 + _SNAP):
            wrong.append(f"a {LEVELS[level + 1]}'s quota is more than one from its share")
    if np.any(quotas.counts[-1] > quotas.part_count) or np.any(quotas.counts[-1] < 0):
        wrong.append("a device's quota is outside 0..partitions")
    return wrong
