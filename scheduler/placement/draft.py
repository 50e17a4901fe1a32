"""A plan of moves while it is being made: what is supposed so far, and which move must wait for which.

Problem: a plan is right only if every move has room at the moment it begins, while servers that move at the same time
hold both places; and two moves that are far apart in the plan must not wait for each other for nothing.

Idea: suppose each move in a copy of the inventory: the target is claimed, and what is held stays claimed, as it will
while the move runs. Where a later move may use what an earlier one frees, the source's share is given back in the copy,
and from then on every move to that host waits for the one that freed it. Bytes on SRs are never counted as freed: a
copied disk is deleted late.

Waves are filled in the order of the plan: a move goes in the first wave after all that it waits for in which it exceeds
no cap.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from scheduler.claims.claim import Claim, DiskShare, HostShare, Role
from scheduler.errors import RequestError
from scheduler.placement.inventory import Inventory
from scheduler.placement.moves import Caps, Move, PlacedServer
from scheduler.placement.place import place
from scheduler.placement.placement import Candidate
from scheduler.placement.request import Disk, Flavor, Policy, ServerRequest
from scheduler.placement.settings import PlacementSettings

Unit = tuple[PlacedServer, ...]
"""Servers that move together: one, or all members of a hard affinity group."""


class Draft:
    """Moves supposed so far. Begins with the inventory as it is, of which it makes a copy."""

    def __init__(self, inventory: Inventory, settings: PlacementSettings, seed: int) -> None:
        self.inventory = inventory.copy()
        self.settings = settings
        self._seed = seed
        self.moves: list[Move] = []
        self._waits_for: list[set[int]] = []
        self._freed_by: dict[str, set[int]] = {}
        """Moves (by place in the plan) that free a host's share which is counted as free."""

    def find(self, unit: Unit, away_from: Iterable[str]) -> Candidate:
        """Where a unit would go, not to these hosts. NoValidHost if nowhere."""
        return place(self.inventory, _as_one(unit, frozenset(away_from)), self.settings, seed=self._seed).chosen

    def suppose(self, unit: Unit, to: Candidate, *, frees: bool) -> list[Move]:
        """The unit moves there; with `frees`, later moves may use what it leaves."""
        waits_for = set(self._freed_by.get(to.host_id, ()))
        first = len(self.moves)
        for server in unit:
            self.moves.append(self._move(server, to))
            self._waits_for.append(waits_for)
        self.inventory.add([_target_claim(move) for move in self.moves[first:]])
        if frees:
            self._freed_by.setdefault(unit[0].host_id, set()).update(range(first, len(self.moves)))
            self.inventory.subtract([_held_share(server) for server in unit])
        return self.moves[first:]

    def without(self, server: PlacedServer) -> None:
        """Suppose for a moment that a server gives up its host; take it back with `with_again`."""
        self.inventory.subtract([_held_share(server)])

    def with_again(self, server: PlacedServer) -> None:
        """Take `without` back."""
        self.inventory.add([_held_share(server)])

    def waves(self, caps: Caps) -> tuple[tuple[Move, ...], ...]:
        """The moves in waves under these caps, each as early as may be."""
        waves: list[list[Move]] = []
        loads: list[Counter[tuple[str, str]]] = []
        wave_of: list[int] = []
        for move, waits_for in zip(self.moves, self._waits_for, strict=True):
            number = max((wave_of[other] + 1 for other in waits_for), default=0)
            wanted = _load(move)
            while number < len(waves) and not _fits(loads[number], wanted, caps):
                number += 1
            if number == len(waves):
                waves.append([])
                loads.append(Counter())
            waves[number].append(move)
            loads[number].update(wanted)
            wave_of.append(number)
        return tuple(tuple(wave) for wave in waves)

    def _move(self, server: PlacedServer, to: Candidate) -> Move:
        own = {disk.disk_id: disk for disk in server.request.disks}
        disks = tuple(disk for disk in to.disks if disk.disk_id in own)
        copied = tuple(disk for disk in disks if disk.moves_from is not None)
        hosts, index = self.inventory.hosts, self.inventory.host_index
        pools = (hosts[index[server.host_id]].pool_id, hosts[index[to.host_id]].pool_id)
        size = sum(own[disk.disk_id].size_bytes for disk in copied)
        return Move(server, Candidate(to.host_id, to.score, disks), copied, size, pools)


def units_of(servers: Iterable[PlacedServer]) -> list[Unit]:
    """The servers by who moves together, in the order given."""
    together: dict[str, list[PlacedServer]] = {}
    found: list[list[PlacedServer]] = []
    for server in servers:
        membership = server.request.membership
        if membership is None or membership.policy is not Policy.AFFINITY:
            found.append([server])
        elif membership.group_id in together:
            together[membership.group_id].append(server)
        else:
            together[membership.group_id] = [server]
            found.append(together[membership.group_id])
    return [tuple(unit) for unit in found]


def _as_one(unit: Unit, away_from: frozenset[str]) -> ServerRequest:
    """The request of a unit: that of the server, or for several one that has all they need together."""
    requests = [server.request for server in unit]
    first = requests[0]
    excluded = first.excluded_host_ids | away_from
    if len(requests) == 1:
        return replace(first, excluded_host_ids=excluded)
    zones = {request.zone for request in requests if request.zone is not None}
    host_ids = [request.host_ids for request in requests if request.host_ids]
    if len(zones) > 1 or (host_ids and not frozenset.intersection(*host_ids)):
        raise RequestError(f"{first.server_id} and the rest of its affinity group ask for different places")
    return ServerRequest(
        first.server_id,
        first.project,
        Flavor(
            "together",
            sum(request.flavor.memory_mib for request in requests),
            sum(request.flavor.vcpus for request in requests),
        ),
        zone=min(zones, default=None),
        same_host_as=_outside(unit, [name for request in requests for name in request.same_host_as]),
        different_host_from=_outside(unit, [name for request in requests for name in request.different_host_from]),
        required_traits=_union([r.required_traits | r.flavor.required_traits for r in requests]),
        forbidden_traits=_union([r.forbidden_traits | r.flavor.forbidden_traits for r in requests]),
        required_tags=_union([r.required_tags | r.flavor.required_tags for r in requests]),
        disks=_all_disks(requests),
        host_ids=frozenset.intersection(*host_ids) if host_ids else frozenset(),
        excluded_host_ids=_union([excluded, *(request.excluded_host_ids for request in requests)]),
    )


def _outside(unit: Unit, names: Iterable[str]) -> tuple[str, ...]:
    inside = {server.request.server_id for server in unit}
    return tuple(dict.fromkeys(name for name in names if name not in inside))


def _union(sets: Sequence[frozenset[str]]) -> frozenset[str]:
    return frozenset[str]().union(*sets)


def _all_disks(requests: Sequence[ServerRequest]) -> tuple[Disk, ...]:
    return tuple(disk for request in requests for disk in request.disks)


def _held_share(server: PlacedServer) -> Claim:
    """The claim of a server on its host, without disks."""
    request = server.request
    share = HostShare(server.host_id, request.flavor.memory_mib, request.flavor.vcpus)
    return Claim(request.server_id, request.project, share, (), request.membership)


def _target_claim(move: Move) -> Claim:
    """All that a move claims, its volumes' bytes too: in a plan nobody asks whose they are."""
    request = move.server.request
    sizes = {disk.disk_id: disk.size_bytes for disk in request.disks}
    share = HostShare(move.to.host_id, request.flavor.memory_mib, request.flavor.vcpus)
    disks = tuple(DiskShare(disk.disk_id, disk.sr_id, sizes[disk.disk_id]) for disk in move.disks)
    return Claim(request.server_id, request.project, share, disks, request.membership, Role.TARGET)


def _load(move: Move) -> Counter[tuple[str, str]]:
    """What a move counts against: its hosts, and with storage its pools (a pool once, also where it is both)."""
    load = Counter({("host", move.server.host_id): 1})
    load["host", move.to.host_id] += 1
    if move.is_storage_move:
        load.update({("pool", pool): 1 for pool in set(move.pools)})
    return load


def _fits(load: Counter[tuple[str, str]], wanted: Counter[tuple[str, str]], caps: Caps) -> bool:
    limits = {"host": caps.host_moves_max, "pool": caps.pool_storage_moves_max}
    return all(load[where] + count <= limits[where[0]] for where, count in wanted.items())
