"""The oracle: placements as flows in a network, solved exactly, slowly, and by other code than the builder's.

The network has a node for each partition, for each (partition, domain) and for each device's column. A unit of flow is a
replica. The bounds of an arc (partition, domain) say how many replicas of the partition may be in the domain; the arc of a
column holds the device's quota. A flow of the full size is a placement that keeps to all rules; one of minimum cost, where
every arc into a device that the partition was not on costs 1, is one with the fewest moves.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence

from ring.topology import Device


class Network:
    """A flow network with integral capacities and costs (successive shortest paths; SPFA since costs may be negative)."""

    def __init__(self) -> None:
        self.number: dict[Hashable, int] = {}
        self.arcs: list[list[int]] = []
        """to, capacity left, cost; the reverse of arc i is arc i ^ 1."""
        self.out: list[list[int]] = []

    def node(self, name: Hashable) -> int:
        """The number of a node, made when first named."""
        if name not in self.number:
            self.number[name] = len(self.out)
            self.out.append([])
        return self.number[name]

    def arc(self, start: Hashable, stop: Hashable, capacity: int, cost: int = 0) -> None:
        """Add an arc."""
        first, last = self.node(start), self.node(stop)
        self.out[first].append(len(self.arcs))
        self.arcs.append([last, capacity, cost])
        self.out[last].append(len(self.arcs))
        self.arcs.append([first, 0, -cost])

    def solve(self, source: Hashable, sink: Hashable) -> tuple[int, int]:
        """The size of a maximum flow, and its least cost."""
        start, stop = self.node(source), self.node(sink)
        size = cost_total = 0
        while True:
            cost = [10**9] * len(self.out)
            via = [-1] * len(self.out)
            cost[start] = 0
            queue, queued = deque([start]), {start}
            while queue:
                node = queue.popleft()
                queued.discard(node)
                for index in self.out[node]:
                    to, capacity, price = self.arcs[index]
                    if capacity > 0 and cost[node] + price < cost[to]:
                        cost[to], via[to] = cost[node] + price, index
                        if to not in queued:
                            queued.add(to)
                            queue.append(to)
            if via[stop] < 0:
                return size, cost_total
            node = stop
            while node != start:
                self.arcs[via[node]][1] -= 1
                self.arcs[via[node] ^ 1][1] += 1
                node = self.arcs[via[node] ^ 1][0]
            size += 1
            cost_total += cost[stop]


def fewest_moves(
    devices: Sequence[Device],
    replicas: Sequence[int],
    quotas: dict[int, int],
    bounds: dict[tuple[object, ...], tuple[int, int]],
    before: Sequence[set[int]],
) -> int | None:
    """The least number of moves to a placement that keeps to all rules; None if there is no such placement.

    replicas   how many each partition must have
    quotas     how many each device (by id) must hold
    bounds     how many replicas of a partition each region, zone and node holds, at least and at most
    before     on which devices each partition was
    """
    network = Network()
    must = 10**6
    domains = {tier: None for device in devices for tier in device.tiers[:3]}
    for partition, count in enumerate(replicas):
        network.arc("source", partition, count)
        for tier in domains:
            low, high = bounds[tier]
            parent = (partition, tier[:-1]) if len(tier) > 1 else partition
            # An arc that must be used is one that pays: the maximum flow of least cost uses it if any does.
            network.arc(parent, (partition, tier), low, -must)
            network.arc(parent, (partition, tier), high - low)
        for device in devices:
            cost = 0 if device.id in before[partition] else 1
            network.arc((partition, device.tiers[2]), ("device", device.id), 1, cost)
    for device in devices:
        network.arc(("device", device.id), "sink", quotas[device.id])
    size, cost = network.solve("source", "sink")
    needed = sum(bounds[tier][0] for tier in domains) * len(replicas)
    if size != sum(replicas):
        return None
    moves = cost + must * needed
    return moves if moves < must else None


def most_dispersed(
    devices: Sequence[Device], replicas: Sequence[int], room: dict[int, int], tier_length: int, limit: int
) -> int:
    """How many replicas can be placed with at most `limit` of a partition in each domain of a level (maximum flow).

    `room` is what each device can take at most; tier_length is 1 for regions, 2 for zones, 3 for nodes.
    """
    network = Network()
    domains = {device.tiers[tier_length - 1]: None for device in devices}
    for partition, count in enumerate(replicas):
        network.arc("source", partition, count)
        for tier in domains:
            network.arc(partition, (partition, tier), limit)
        for device in devices:
            network.arc((partition, device.tiers[tier_length - 1]), ("device", device.id), 1)
    for device in devices:
        network.arc(("device", device.id), "sink", room[device.id])
    return network.solve("source", "sink")[0]
