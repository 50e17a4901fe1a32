"""The order in which a number (a partition, or what stands for one) visits devices: a walk over failure domains.

Problem: when a machine is away every party must come, without talking, to the same next device, in another failure
domain. And a scheduler asks for the first few of ten thousand hosts, thousands of times a second.

Idea: each device draws a number from a hash of (walk, device) and its weight; sorted by it, a device's turn within its
node, then within its zone, then within its region is its place. So regions alternate, in each the zones, in each the
nodes, and a device more or less changes nothing among the others (weighted rendezvous hashing). `head` gives the
beginning alone: of each zone only the first few can be in it, and those a partition finds without sorting.

Rejected: the heads of all walks in a table: it is as large as a ring and must be made anew with every change of a host.

Invariants: `walk` holds each device once; `head` is where `walk` begins; both depend on number, seed and devices alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ring.shuffle import mix
from ring.topology import Device


class WalkOrder:
    """Devices as arrays, ready to be put in the order of a walk."""

    __slots__ = (
        "_indexes_by_zone",
        "_node_devices_max",
        "_salts",
        "devices",
        "index_of",
        "nodes",
        "regions",
        "weights",
        "zones",
    )

    def __init__(self, devices: Sequence[Device]) -> None:
        self.devices = devices
        self.index_of = {device.id: index for index, device in enumerate(devices)}
        self.weights = np.array([device.weight for device in devices], dtype=np.float64)
        with np.errstate(over="ignore"):
            self._salts = mix(np.array([device.id for device in devices], dtype=np.uint64))
        self.regions = _numbers([device.tiers[0] for device in devices])
        self.zones = _numbers([device.tiers[1] for device in devices])
        self.nodes = _numbers([device.tiers[2] for device in devices])
        self._node_devices_max = int(np.bincount(self.nodes).max()) if len(devices) else 0
        self._indexes_by_zone: dict[tuple[int, int], NDArray[np.intp]] = {
            (devices[indexes[0]].region, devices[indexes[0]].zone): indexes
            for indexes in (np.flatnonzero(self.zones == zone) for zone in range(int(self.zones.max(initial=-1)) + 1))
        }

    def walk(self, number: int, seed: int, after: Sequence[Device] = ()) -> tuple[Device, ...]:
        """The devices, without `after`, each as far as possible from those before it; weight 0 comes last."""
        used = [self.index_of[device.id] for device in after if device.id in self.index_of]
        rest = np.ones(len(self.devices), dtype=bool)
        rest[used] = False
        chosen = np.flatnonzero(rest)
        ordered = self._ordered(chosen, self._draws(chosen, number, seed), used)
        return tuple(self.devices[index] for index in ordered)

    def head(self, number: int, seed: int, count: int, zone: tuple[int, int] | None = None) -> NDArray[np.intp]:
        """The indexes of the first `count` devices of `walk(number, seed)`, of one zone (region, zone) if it is given.

        Devices of weight 0 are left out, so there may be fewer.
        """
        zones = self._indexes_by_zone
        if zone is not None:
            zones = {zone: zones[zone]} if zone in zones else {}
        if not zones or count < 1:
            return np.zeros(0, dtype=np.intp)
        # Where a node has several devices, its second comes after all other nodes, however early it is drawn.
        cut = count if self._node_devices_max == 1 else len(self.devices)
        firsts, uniforms, arrivals = [], [], []
        for indexes in zones.values():
            uniform, arrival = self._draws(indexes, number, seed)
            first = np.argpartition(arrival, cut - 1)[:cut] if cut < len(indexes) else slice(None)
            firsts.append(indexes[first])
            uniforms.append(uniform[first])
            arrivals.append(arrival[first])
        draws = np.concatenate(uniforms), np.concatenate(arrivals)
        ordered = self._ordered(np.concatenate(firsts), draws, ())
        return ordered[self.weights[ordered] > 0][:count]

    def _ordered(
        self, chosen: NDArray[np.intp], draws: tuple[NDArray[np.float64], NDArray[np.float64]], used: Sequence[int]
    ) -> NDArray[np.intp]:
        """These devices, with the draws of each, in the order of their turns; `used` ones count in their domains."""
        rank = np.empty(len(chosen), dtype=np.int64)
        rank[np.lexsort(draws)] = np.arange(len(chosen))
        keys: tuple[NDArray[np.int64], ...] = (rank,)
        for domain in (self.nodes, self.zones, self.regions):
            turn = _turn(domain[chosen], keys)
            if used:
                turn += np.bincount(domain[list(used)], minlength=len(self.devices))[domain[chosen]]
            keys = (*keys, turn)
        # A device that takes nothing is the last resort, wherever it stands.
        idle = (self.weights[chosen] == 0).astype(np.int64)
        return chosen[np.lexsort((*keys, idle))]

    def _draws(
        self, indexes: NDArray[np.intp], number: int, seed: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(uniform, arrival) of devices: the smallest of -log(u) / weight comes first (Efraimidis and Spirakis 2006)."""
        with np.errstate(over="ignore", divide="ignore"):
            start = mix(np.array([number ^ seed], dtype=np.uint64))[0]
            words = mix(start ^ self._salts[indexes])
            uniform = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
            return uniform, -np.log(uniform) / self.weights[indexes]


def _turn(domain: NDArray[np.int64], keys: tuple[NDArray[np.int64], ...]) -> NDArray[np.int64]:
    """For each device its turn within its domain, when the domain's devices are ordered by `keys` (last is first)."""
    count = len(domain)
    order = np.lexsort((*keys, domain))
    ordered = domain[order]
    begins = np.ones(count, dtype=bool)
    np.not_equal(ordered[1:], ordered[:-1], out=begins[1:])
    place = np.arange(count)
    turn = np.empty(count, dtype=np.int64)
    turn[order] = place - np.maximum.accumulate(np.where(begins, place, 0))
    return turn


def _numbers(tiers: Sequence[tuple[int | str, ...]]) -> NDArray[np.int64]:
    """A small number for each distinct tier, in the order of first appearance."""
    seen: dict[tuple[int | str, ...], int] = {}
    return np.array([seen.setdefault(tier, len(seen)) for tier in tiers], dtype=np.int64)
