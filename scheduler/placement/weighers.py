"""What speaks for a host: the sum of what each weigher gives it.

A weigher gives every host a value in 0..1, times its multiplier. Most speak of few hosts (the beginning of the ring's
walk, hosts where a build failed, hosts of the group), so each returns the hosts that it speaks of and what it adds
there; only `spread` speaks of all, from an array that the inventory keeps. The sums are made in one fixed order, so
that equal hosts have equal scores to the last bit, whoever computes them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import xxhash

from scheduler.placement.inventory import Indexes, Inventory, Shares
from scheduler.placement.request import Policy, ServerRequest
from scheduler.placement.settings import RING_POSITIONS, PlacementSettings

Contribution: TypeAlias = tuple[str, Indexes | None, Shares | float]
"""(weigher, the distinct hosts that it speaks of or None for all, what it adds to each)."""

WALK_POWER = 10
"""A server's walk is one of 2**10, as if it were a partition: beginnings of walks that were computed can be kept."""
_VALUES: Shares = 1.0 - np.arange(RING_POSITIONS, dtype=np.float64) / RING_POSITIONS


def scores(inventory: Inventory, request: ServerRequest, settings: PlacementSettings) -> Shares:
    """The score of every host; a new array."""
    found: Shares | None = None
    for _, indexes, values in contributions(inventory, request, settings):
        if found is None:
            found = np.asarray(values, dtype=np.float64)
        else:
            found[indexes] += values
    assert found is not None
    return found


def contributions(inventory: Inventory, request: ServerRequest, settings: PlacementSettings) -> Iterator[Contribution]:
    """What each weigher adds, in the order in which it is added up. The first is `spread`, a new array over all hosts."""
    yield "spread", None, inventory.room * settings.spread
    if settings.ring:
        indexes = ring_hosts(inventory, request)
        yield "ring", indexes, _VALUES[: len(indexes)] * settings.ring
    if settings.image and request.image_id is not None:
        yield "image", inventory.image_hosts(request.image_id), settings.image
    there = [disk.sr_id for disk in request.disks if disk.sr_id is not None]
    if settings.volume and there:
        for sr_id in there:
            if sr_id in inventory.sr_index:
                yield "volume", inventory.reached_by(inventory.sr_index[sr_id]), settings.volume / len(there)
    if settings.failure and inventory.failures:
        indexes = np.fromiter(inventory.failures, dtype=np.intp)
        counts = np.fromiter(inventory.failures.values(), dtype=np.float64)
        yield "failure", indexes, -(1.0 - 1.0 / (1.0 + counts)) * settings.failure
    if settings.soft_affinity and request.membership is not None:
        yield from _soft(inventory, request, settings)


def _soft(inventory: Inventory, request: ServerRequest, settings: PlacementSettings) -> Iterator[Contribution]:
    assert request.membership is not None
    policy = request.membership.policy
    if policy.hard:
        return
    others = inventory.others(request)
    there = Counter(member.settles_on for member in others.values())
    hosts = {inventory.host_index[host]: count for host, count in there.items() if host in inventory.host_index}
    if hosts:
        sign = 1.0 if policy is Policy.SOFT_AFFINITY else -1.0
        indexes = np.fromiter(hosts, dtype=np.intp)
        counts = np.fromiter(hosts.values(), dtype=np.float64)
        yield "soft-affinity", indexes, sign * (counts / len(others)) * settings.soft_affinity


def ring_hosts(inventory: Inventory, request: ServerRequest) -> Indexes:
    """The hosts that the ring names for a server, first choice first.

    A server alone takes its own walk from the beginning. Member i of a group takes the group's walk from place i, so
    members begin in different regions, zones and nodes as far as there are any. In a zone the walk is of that zone's
    hosts.
    """
    membership = request.membership
    key = request.server_id if membership is None else membership.group_id
    number = walk_number(key, inventory.seed)
    return inventory.ring_hosts(number, request.zone, 0 if membership is None else membership.member_index)


def walk_number(key: str, seed: int) -> int:
    """Which of the walks a server or group has: the partition of its id."""
    return xxhash.xxh3_128_intdigest(key.encode(), seed=seed) >> (128 - WALK_POWER)
