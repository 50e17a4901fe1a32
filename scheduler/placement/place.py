"""Where a server goes: filter, weigh, draw among the best.

The rule, in full: of the hosts that pass every filter and have an SR for each disk, order by score (then by device id);
of the best `choice_count`, those within `choice_margin` of the best are equals, and the seed draws one; the others are
the alternates, in order.

How it is fast: filters are masks over all hosts; scores an array; the best few are found by looking for the largest a
few times (no sort); disks are tried together for those few hosts alone, and a host whose disks do not fit after all is
passed over. That is the same as trying all, since a filter never turns down a host that could take the server.

Drawing: two schedulers that work at the same time see the same picture and would take the same host; one would be
refused and begin anew. With the ring's order in the score, different servers prefer different hosts anyway; the draw is
for where the ring says nothing, such as few hosts with a rare trait.
"""

from __future__ import annotations

import numpy as np
import xxhash

from scheduler.errors import InventoryError, NoValidHost, NoValidSr
from scheduler.placement import reasons
from scheduler.placement.disks import assign_disks
from scheduler.placement.filters import MIB, count_in_the_way, kinds_in_the_way, passing, sentence
from scheduler.placement.inventory import Inventory, Shares
from scheduler.placement.placement import Candidate, Explanation, Placement, Verdict, VolumePlacement
from scheduler.placement.request import ServerRequest, VolumeRequest
from scheduler.placement.resources import zone_name
from scheduler.placement.settings import PlacementSettings
from scheduler.placement.weighers import contributions, scores

DEFAULTS = PlacementSettings()


def place(
    inventory: Inventory, request: ServerRequest, settings: PlacementSettings = DEFAULTS, *, seed: int = 0
) -> Placement:
    """A host for the server and an SR for each of its disks, with alternates. NoValidHost if there is none.

    The same inventory, request, settings and seed give the same placement.
    """
    weighed = scores(inventory, request, settings)
    np.copyto(weighed, -np.inf, where=~passing(inventory, request))
    best = _best(inventory, request, settings, weighed)
    if not best:
        raise no_valid_host(inventory, request)
    return _draw(request, best, settings, seed)


def explain(
    inventory: Inventory, request: ServerRequest, settings: PlacementSettings = DEFAULTS, *, seed: int = 0
) -> Explanation:
    """What `place` would do, and a verdict on every host. Takes milliseconds per thousand hosts."""
    try:
        placement = place(inventory, request, settings, seed=seed)
    except NoValidHost:
        placement = None
    kinds = kinds_in_the_way(inventory, request)
    parts = [
        (name, np.arange(len(inventory.hosts)) if indexes is None else indexes, values)
        for name, indexes, values in contributions(inventory, request, settings)
    ]
    added: list[dict[str, float]] = [{} for _ in inventory.hosts]
    for name, indexes, values in parts:
        for index, value in zip(indexes.tolist(), np.broadcast_to(values, len(indexes)).tolist(), strict=True):
            added[index][name] = added[index].get(name, 0.0) + value
    weighed = scores(inventory, request, settings)
    verdicts = []
    for index, kind in enumerate(kinds):
        if kind is None and assign_disks(inventory, index, request.disks, settings) is None:
            kind = reasons.SR_SPACE
        if kind is not None:
            verdicts.append(Verdict(inventory.hosts[index].host_id, *sentence(inventory, request, index, kind)))
        else:
            assert placement is not None
            verdicts.append(_weighed_verdict(inventory, index, placement, float(weighed[index]), added[index]))
    return Explanation(placement, tuple(verdicts))


def place_volume(
    inventory: Inventory, request: VolumeRequest, settings: PlacementSettings = DEFAULTS, *, seed: int = 0
) -> VolumePlacement:
    """An SR for a volume alone, with alternates. NoValidSr if there is none.

    Of the SRs that take it, those with the image come first, then those with the largest (`sr_spread`) share free;
    where several are within `choice_margin` of the best, the seed draws.
    """
    disk = request.disk
    largest = inventory.largest_on_sr(disk.volume_type)
    reach = None
    if request.host_id is not None:
        host_index = inventory.host_index.get(request.host_id)
        if host_index is None:
            raise InventoryError(f"host {request.host_id} is not in the inventory")
        reach = inventory.in_reach(host_index)
    found: list[tuple[float, int]] = []
    counts: dict[str, int] = {}
    for index, sr in enumerate(inventory.srs):
        if reach is not None and index not in reach:
            kind = reasons.DISK_REACH
        elif request.zone is not None and sr.zone != request.zone:
            kind = reasons.ZONE
        elif sr.sr_id in request.excluded_sr_ids:
            kind = reasons.EXCLUDED
        elif not inventory.sr_is_open(index):
            kind = reasons.CLOSED
        elif disk.volume_type is not None and disk.volume_type not in sr.volume_types:
            kind = reasons.SR_TYPE
        elif largest[index] < disk.size_bytes:
            kind = reasons.SR_SPACE
        else:
            share = int(inventory.sr_free[index]) / max(int(inventory.sr_limit[index]), 1)
            has_image = disk.image_id is not None and disk.image_id in sr.image_ids
            found.append(((share if settings.sr_spread else -share) + (2.0 if has_image else 0.0), index))
            continue
        counts[kind] = counts.get(kind, 0) + 1
    if not found:
        raise NoValidSr(_no_sr_message(inventory, request, counts), counts)
    found.sort(key=lambda entry: (-entry[0], entry[1]))
    found = found[: max(settings.choice_count, settings.alternate_count + 1)]
    equals = sum(score > found[0][0] - settings.choice_margin for score, _ in found[: settings.choice_count]) or 1
    chosen = xxhash.xxh3_64_intdigest(disk.disk_id.encode(), seed=seed) % equals
    ids = [inventory.srs[index].sr_id for _, index in found]
    return VolumePlacement(request, ids.pop(chosen), tuple(ids[: settings.alternate_count]))


def no_valid_host(inventory: Inventory, request: ServerRequest) -> NoValidHost:
    """The error that says why there is none, with how many hosts each thing is in the way of."""
    counts = count_in_the_way(inventory, request)
    listed = ", ".join(f"{kind} {count}" for kind, count in counts.items())
    size = f"{request.flavor.memory_mib} MiB, {request.flavor.vcpus} vCPUs"
    where = f" in zone {zone_name(request.zone)}" if request.zone is not None else ""
    return NoValidHost(
        f"no host{where} can take server {request.server_id} ({size}); "
        f"of {len(inventory.hosts)} hosts in the way: {listed or 'there are none'}",
        counts,
    )


def _best(
    inventory: Inventory, request: ServerRequest, settings: PlacementSettings, weighed: Shares
) -> list[Candidate]:
    """The best hosts that take all disks, best first, as many as are needed. Uses `weighed` up."""
    wanted = max(settings.choice_count, settings.alternate_count + 1)
    best: list[Candidate] = []
    if not len(weighed):
        return best
    while len(best) < wanted:
        index = int(weighed.argmax())
        score = float(weighed[index])
        if score == -np.inf:
            break
        weighed[index] = -np.inf
        disks = assign_disks(inventory, index, request.disks, settings)
        if disks is not None:
            best.append(Candidate(inventory.hosts[index].host_id, score, disks))
    return best


def _draw(request: ServerRequest, best: list[Candidate], settings: PlacementSettings, seed: int) -> Placement:
    limit = best[0].score - settings.choice_margin
    equals = sum(candidate.score > limit for candidate in best[: settings.choice_count]) or 1
    chosen = 0
    if equals > 1:
        chosen = xxhash.xxh3_64_intdigest(request.server_id.encode(), seed=seed) % equals
    taken = best.pop(chosen)
    return Placement(request, taken, tuple(best[: settings.alternate_count]))


def _weighed_verdict(
    inventory: Inventory, index: int, placement: Placement, score: float, added: dict[str, float]
) -> Verdict:
    host_id = inventory.hosts[index].host_id
    chosen = placement.chosen
    if host_id == chosen.host_id:
        return Verdict(host_id, reasons.CHOSEN, f"chosen with a score of {score:.3f}", score, added)
    name = inventory.hosts[inventory.host_index[chosen.host_id]].name or chosen.host_id
    if score >= chosen.score:
        reason = f"as good as {name} ({score:.3f}, {chosen.score:.3f}); the draw fell on that"
    else:
        reason = f"scores {score:.3f}, {name} {chosen.score:.3f}"
    return Verdict(host_id, reasons.OUTWEIGHED, reason, score, added)


def _no_sr_message(inventory: Inventory, request: VolumeRequest, counts: dict[str, int]) -> str:
    listed = ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items(), key=lambda item: -item[1]))
    size = f"{-(-request.disk.size_bytes // MIB)} MiB"
    return (
        f"no SR can take volume {request.disk.disk_id} ({size}); "
        f"of {len(inventory.srs)} SRs in the way: {listed or 'there are none'}"
    )
