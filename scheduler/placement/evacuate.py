"""Emptying hosts, one or a whole zone, in the fewest moves: a plan.

Problem: each server on the hosts must move at least once; a plan that needs no other move is the best there is. But the
largest server may find no host with room although there is room in sum, scattered.

Idea: the largest first, each to where placement would put it (so the ring, traits, groups and disks count as always). A
server that finds no host gets one by making room: one smaller server elsewhere moves away first. That costs one move
more and is tried only then. What still finds no place is named with the reason; the rest of the plan stands.

Hard affinity groups move as one. Servers keep the zone they asked for: a zone's evacuation strands those that asked for
that zone.

Rejected: solving it as a packing problem. It is NP-hard, and the plan is for people to read: "largest first" they can
foresee.
"""

from __future__ import annotations

from collections.abc import Iterable

from scheduler.errors import NoValidHost, RequestError
from scheduler.placement.draft import Draft, Unit, units_of
from scheduler.placement.inventory import Inventory
from scheduler.placement.moves import Caps, MovePlan, PlacedServer
from scheduler.placement.place import DEFAULTS
from scheduler.placement.request import Policy
from scheduler.placement.settings import PlacementSettings

_CAPS = Caps()
DISPLACED_TRIES_MAX = 200
"""Servers that are tried to be moved away to make room for one."""


def plan_evacuation(
    inventory: Inventory,
    servers: Iterable[PlacedServer],
    host_ids: Iterable[str],
    settings: PlacementSettings = DEFAULTS,
    *,
    caps: Caps = _CAPS,
    seed: int = 0,
) -> MovePlan:
    """How to empty these hosts.

    `servers` are all those that may move: those on the hosts must, others may have to make room. The inventory holds
    their claims.
    """
    leaving = frozenset(host_ids)
    placed = sorted(servers, key=lambda server: server.request.server_id)
    draft = Draft(inventory, settings, seed)
    before = _loads(inventory, leaving)
    stranded: dict[str, str] = {}
    units = [unit for unit in units_of(placed) if any(server.host_id in leaving for server in unit)]
    staying = [server for server in placed if server.host_id not in leaving]
    for unit in sorted(units, key=_size, reverse=True):
        try:
            draft.suppose(unit, draft.find(unit, leaving), frees=False)
        except RequestError as error:
            stranded.update({server.request.server_id: str(error) for server in unit})
        except NoValidHost as error:
            if not _make_room(draft, unit, staying, leaving):
                stranded.update({server.request.server_id: str(error) for server in unit})
    touched = leaving | {move.to.host_id for move in draft.moves} | {move.server.host_id for move in draft.moves}
    after = draft.inventory
    for move in draft.moves:
        if move.server.host_id in leaving:
            draft.without(move.server)
    return MovePlan(draft.waves(caps), stranded, before | _loads(inventory, touched), _loads(after, touched))


def _make_room(draft: Draft, unit: Unit, staying: list[PlacedServer], leaving: frozenset[str]) -> bool:
    """Move one server elsewhere so that the unit finds a place; the smallest that helps. Whether it was possible."""
    moved = {move.server.request.server_id for move in draft.moves}
    loose = [server for server in staying if server.request.server_id not in moved and _moves_alone(server)]
    for server in sorted(loose, key=lambda server: _size((server,)))[:DISPLACED_TRIES_MAX]:
        draft.without(server)
        try:
            wanted = draft.find(unit, leaving)
        except NoValidHost:
            wanted = None
        draft.with_again(server)
        if wanted is None or wanted.host_id != server.host_id:
            continue
        try:
            elsewhere = draft.find((server,), leaving | {server.host_id})
        except NoValidHost:
            continue
        draft.suppose((server,), elsewhere, frees=True)
        staying.remove(server)
        try:
            draft.suppose(unit, draft.find(unit, leaving), frees=False)
        except NoValidHost:  # what was moved took the SR's last room
            continue
        return True
    return False


def _moves_alone(server: PlacedServer) -> bool:
    """Whether a server may move without others: it is in no affinity group."""
    membership = server.request.membership
    return membership is None or membership.policy is not Policy.AFFINITY


def _size(unit: Unit) -> tuple[int, int, str]:
    """What units are ordered by: memory, then vCPUs."""
    return (
        sum(server.request.flavor.memory_mib for server in unit),
        sum(server.request.flavor.vcpus for server in unit),
        unit[0].request.server_id,
    )


def _loads(inventory: Inventory, host_ids: Iterable[str]) -> dict[str, float]:
    """The claimed share of these hosts that are in the inventory."""
    return {
        host_id: round(inventory.claimed_share(inventory.host_index[host_id]), 4)
        for host_id in sorted(host_ids)
        if host_id in inventory.host_index
    }
