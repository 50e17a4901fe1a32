"""Levelling the load of hosts in few moves: a plan.

Problem: hosts drift apart as servers come and go. Every move costs minutes of network, so the plan should take the few
that matter.

Idea: while the most loaded host is further above the mean than asked for, move the one of its servers that brings it
and the host that placement would choose (the emptiest that may take it) closest to the mean together: one large move
instead of many small. Each move lowers the sum of the squares of what hosts are above and below the mean, so it ends; a
server moves at most once. Of moves that are as good within a hundredth, the one that copies fewer bytes.

The load of a host is the larger share of its memory or vCPUs that is claimed.

Rejected: computing the best assignment of all servers anew and moving to it. It moves most of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from scheduler.errors import NoValidHost, RequestError
from scheduler.placement.draft import Draft, Unit, units_of
from scheduler.placement.inventory import Inventory
from scheduler.placement.moves import Caps, MovePlan, PlacedServer
from scheduler.placement.place import DEFAULTS
from scheduler.placement.placement import Candidate
from scheduler.placement.settings import PlacementSettings

_CAPS = Caps()
THRESHOLD = 0.1
"""Share of a host that its load may be above the mean."""
_GAIN_MIN = 1e-4
"""Of the sum of squares; less is not worth a move."""


def plan_rebalance(
    inventory: Inventory,
    servers: Iterable[PlacedServer],
    host_ids: Iterable[str] | None = None,
    settings: PlacementSettings = DEFAULTS,
    *,
    threshold: float = THRESHOLD,
    moves_max: int = 1000,
    caps: Caps = _CAPS,
) -> MovePlan:
    """How to level the load of these hosts (all by default); servers of theirs move among them alone.

    `servers` are those that may move. The inventory holds their claims. It ends when no host is more than `threshold`
    above the mean, no move helps any more, or `moves_max` is reached.
    """
    if not 0 < threshold < 1:
        raise RequestError(f"threshold {threshold} is outside (0, 1)")
    among = set(inventory.host_index if host_ids is None else host_ids) & inventory.host_index.keys()
    among = {host_id for host_id in among if inventory.host_is_open(inventory.host_index[host_id])}
    others = frozenset(inventory.host_index.keys() - among)
    by_spread = replace(settings, spread=1.0, ring=0.0, image=0.0, failure=0.0, choice_count=1, choice_margin=0.0)
    draft = Draft(inventory, by_spread, seed=0)
    units: dict[str, list[Unit]] = {}
    for unit in units_of(sorted(servers, key=lambda server: server.request.server_id)):
        units.setdefault(unit[0].host_id, []).append(unit)
    stuck: set[str] = set()
    while len(draft.moves) < moves_max:
        loads = {host_id: _load(draft, host_id) for host_id in sorted(among)}
        mean = float(np.mean(list(loads.values()))) if loads else 0.0
        above = [host_id for host_id, load in loads.items() if load > mean + threshold and host_id not in stuck]
        if not above:
            break
        fullest = max(above, key=lambda host_id: loads[host_id])
        best = _best_move(draft, units.get(fullest, []), others | {fullest}, mean, moves_max - len(draft.moves))
        if best is None:
            stuck.add(fullest)
            continue
        unit, to = best
        units[fullest].remove(unit)
        draft.suppose(unit, to, frees=True)
    before = {host_id: round(inventory.claimed_share(inventory.host_index[host_id]), 4) for host_id in sorted(among)}
    after = {host_id: round(_load(draft, host_id), 4) for host_id in sorted(among)}
    return MovePlan(draft.waves(caps), {}, before, after)


def _best_move(
    draft: Draft, units: Iterable[Unit], away_from: frozenset[str] | set[str], mean: float, moves_max: int
) -> tuple[Unit, Candidate] | None:
    """The unit of a host whose move levels most, and where it goes; None if none helps."""
    found: list[tuple[float, int, int, Unit, Candidate]] = []
    for number, unit in enumerate(units):
        if len(unit) > moves_max:
            continue
        try:
            to = draft.find(unit, away_from)
        except (NoValidHost, RequestError):
            continue
        gain = _gain(draft, unit, to.host_id, mean)
        if gain > _GAIN_MIN:
            sizes = {disk.disk_id: disk.size_bytes for server in unit for disk in server.request.disks}
            copied = sum(sizes[disk.disk_id] for disk in to.disks if disk.moves_from is not None)
            found.append((-round(gain, 2), copied, number, unit, to))
    if not found:
        return None
    best = min(found, key=lambda entry: entry[:3])
    return best[3], best[4]


def _gain(draft: Draft, unit: Unit, to: str, mean: float) -> float:
    """By how much the squares of the distances of both hosts from the mean become less."""
    memory = sum(server.request.flavor.memory_mib for server in unit)
    vcpus = sum(server.request.flavor.vcpus for server in unit)
    gain = 0.0
    for host_id, sign in ((unit[0].host_id, -1), (to, 1)):
        gain += (_load(draft, host_id) - mean) ** 2 - (_load(draft, host_id, sign * memory, sign * vcpus) - mean) ** 2
    return gain


def _load(draft: Draft, host_id: str, memory_mib: int = 0, vcpus: int = 0) -> float:
    """The load of a host as supposed so far, with so much more (or less) claimed."""
    inventory = draft.inventory
    index = inventory.host_index[host_id]
    limits = int(inventory.memory_limit[index]), int(inventory.vcpus_limit[index])
    if not all(limits):
        return 1.0
    taken = limits[0] - int(inventory.memory_free[index]), limits[1] - int(inventory.vcpus_free[index])
    return max((taken[0] + memory_mib) / limits[0], (taken[1] + vcpus) / limits[1])
