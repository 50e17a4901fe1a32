"""What keeps a server off a host: one step after the other, over all hosts at once, and the sentence for one host.

Each step is a mask of the hosts that may pass and the word for what is in the way of the others. A host is turned down
by the first step that it does not pass; the sentence is then made for that host alone. So the masks are all that a
placement pays for, and the explanation can't disagree with them about who is turned down.

The last word on disks is `disks.assign_disks`, which tries them together; the step here looks at each disk alone. It
turns down no host that could take all of them, so whoever goes on from here only meets hosts too many, never too few.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from scheduler.placement import reasons
from scheduler.placement.disks import largest_in_reach, stays
from scheduler.placement.inventory import (
    NOTHING,
    Inventory,
    Mask,
)
from scheduler.placement.members import Member, hosts_open_to
from scheduler.placement.reach import zone_number
from scheduler.placement.request import Disk, Nearness, Policy, ServerRequest
from scheduler.placement.resources import Host, zone_name

MIB = 1 << 20


def steps(inventory: Inventory, request: ServerRequest) -> Iterator[tuple[str, Mask]]:
    """(what is in the way of those that do not pass, hosts that pass), in the order in which they are asked.

    The first step's word is empty: `words_in_the_way` says it. A mask may be kept elsewhere: don't change it.
    """
    yield "", inventory.mask(request)
    if request.host_ids:
        yield reasons.ASKED_FOR, _only(inventory, request.host_ids)
    if request.excluded_host_ids:
        yield reasons.EXCLUDED, ~_only(inventory, request.excluded_host_ids)
    for server_id in request.same_host_as:
        member = inventory.server(server_id)
        settled = member.settles_on if member is not None else None
        yield reasons.SAME_HOST, _only(inventory, () if settled is None else (settled,))
    if request.different_host_from:
        members = [inventory.server(server_id) for server_id in request.different_host_from]
        taken = [host_id for member in members if member is not None for host_id in member.host_ids]
        if taken:
            yield reasons.DIFFERENT_HOST, ~_only(inventory, taken)
    if request.membership is not None and request.membership.policy.hard:
        only, never = hosts_open_to(request.membership.policy, inventory.others(request))
        if only is not None:
            yield reasons.GROUP, _only(inventory, only)
        if never:
            yield reasons.GROUP, ~_only(inventory, never)
    yield reasons.MEMORY, inventory.memory_free >= request.flavor.memory_mib
    yield reasons.VCPUS, inventory.vcpus_free >= request.flavor.vcpus
    for disk in request.disks:
        mask = _disk_mask(inventory, disk)
        if mask is not None:
            yield reasons.SR_SPACE, mask


def passing(inventory: Inventory, request: ServerRequest) -> Mask:
    """The hosts that pass every step; a new array."""
    masks = steps(inventory, request)
    found = next(masks)[1].copy()
    for _, mask in masks:
        found &= mask
    return found


def count_in_the_way(inventory: Inventory, request: ServerRequest) -> Mapping[str, int]:
    """How many hosts are turned down, by what is in the way; what remains counts as disks that do not fit together."""
    counts: Counter[str] = Counter()
    left: Mask = np.ones(len(inventory.hosts), dtype=bool)
    for kind, mask in steps(inventory, request):
        turned_down = left & ~mask
        if kind:
            counts[kind] += int(np.count_nonzero(turned_down))
        else:
            for index in np.flatnonzero(turned_down).tolist():
                counts[_words_in_the_way(inventory, request, index)[0]] += 1
        left &= mask
    counts[reasons.SR_SPACE] += int(np.count_nonzero(left))
    return {kind: count for kind, count in counts.most_common() if count}


def kinds_in_the_way(inventory: Inventory, request: ServerRequest) -> list[str | None]:
    """For each host the word of the step that turns it down ("" for the first step), None for one that passes."""
    kinds: list[str | None] = [None] * len(inventory.hosts)
    left: Mask = np.ones(len(inventory.hosts), dtype=bool)
    for kind, mask in steps(inventory, request):
        for index in np.flatnonzero(left & ~mask):
            kinds[index] = kind
        left &= mask
    return kinds


def sentence(inventory: Inventory, request: ServerRequest, index: int, kind: str) -> tuple[str, str]:
    """(the word, the sentence) for a host that the step of that word turns down."""
    host = inventory.hosts[index]
    flavor = request.flavor
    if not kind:
        return _words_in_the_way(inventory, request, index)
    if kind == reasons.ASKED_FOR:
        return kind, "not among the hosts asked for"
    if kind == reasons.EXCLUDED:
        return kind, "ruled out by the request"
    if kind == reasons.SAME_HOST:
        absent = [s for s in request.same_host_as if not _is_on(inventory.server(s), host.host_id, settled=True)]
        return kind, f"server {absent[0]} is not on it"
    if kind == reasons.DIFFERENT_HOST:
        there = [s for s in request.different_host_from if _is_on(inventory.server(s), host.host_id, settled=False)]
        return kind, f"server {there[0]} is on it"
    if kind == reasons.GROUP:
        return kind, _group_sentence(inventory, request, host)
    if kind == reasons.MEMORY:
        return kind, f"needs {flavor.memory_mib} MiB of memory, {max(0, int(inventory.memory_free[index]))} MiB free"
    if kind == reasons.VCPUS:
        return kind, f"needs {flavor.vcpus} vCPUs, {max(0, int(inventory.vcpus_free[index]))} free"
    return _disk_sentence(inventory, request, index)


def _words_in_the_way(inventory: Inventory, request: ServerRequest, index: int) -> tuple[str, str]:
    """The word and sentence for a host that is closed or does not suit the request's words."""
    host, flavor = inventory.hosts[index], request.flavor
    if request.zone is not None and host.zone != request.zone:
        return reasons.ZONE, f"is in zone {zone_name(host.zone)}, {zone_name(request.zone)} is asked for"
    if not host.enabled:
        return reasons.DISABLED, "disabled by an operator"
    if host.maintenance:
        return reasons.MAINTENANCE, "in maintenance"
    if not host.live:
        return reasons.NOT_LIVE, "does not answer"
    if host.device.weight == 0:
        return reasons.DRAINED, "drained: its weight in the ring is 0"
    if not inventory.host_is_open(index):
        return reasons.CLOSED, "closed: takes no new servers"
    missing = (request.required_traits | flavor.required_traits) - host.traits
    if missing:
        return reasons.TRAIT, f"lacks trait {min(missing)}"
    unwanted = (request.forbidden_traits | flavor.forbidden_traits) & host.traits
    if unwanted:
        return reasons.TRAIT, f"has trait {min(unwanted)}, which is forbidden"
    return reasons.TAG, f"lacks tag {min((request.required_tags | flavor.required_tags) - host.tags)}"


def _group_sentence(inventory: Inventory, request: ServerRequest, host: Host) -> str:
    membership = request.membership
    assert membership is not None
    others = inventory.others(request)
    if membership.policy is Policy.ANTI_AFFINITY:
        there = min(server_id for server_id, member in others.items() if host.host_id in member.host_ids)
        return f"server {there} of anti-affinity group {membership.group_id} is on it"
    places = sorted({host_id for member in others.values() for host_id in member.host_ids})
    moving = min((name for name, member in others.items() if len(set(member.host_ids)) > 1), default=None)
    if moving is not None:
        return f"server {moving} of affinity group {membership.group_id} is moving; nobody joins it until it is there"
    if len(places) > 1:
        return f"affinity group {membership.group_id} is on {len(places)} hosts already"
    return f"affinity group {membership.group_id} is on {places[0]}"


def _disk_sentence(inventory: Inventory, request: ServerRequest, index: int) -> tuple[str, str]:
    for disk in request.disks:
        if stays(inventory, index, disk):
            continue
        if disk.sr_id is not None and not disk.movable:
            return reasons.DISK_REACH, f"does not reach SR {disk.sr_id}, where disk {disk.disk_id} is"
        largest = largest_in_reach(inventory, index, disk)
        if largest == NOTHING:
            offers = f" offers volume type {disk.volume_type} and" if disk.volume_type is not None else ""
            return reasons.SR_TYPE, f"no SR in reach{offers} takes disk {disk.disk_id}"
        if largest < disk.size_bytes:
            needs = f"disk {disk.disk_id} needs {-(-disk.size_bytes // MIB)} MiB"
            return reasons.SR_SPACE, f"{needs}, the SRs in reach take {largest // MIB} MiB at most"
    count = sum(not stays(inventory, index, disk) for disk in request.disks)
    whole = sum(disk.size_bytes for disk in request.disks if not stays(inventory, index, disk))
    return reasons.SR_SPACE, f"each of {count} disks fits, all together ({-(-whole // MIB)} MiB) do not"


def _is_on(member: Member | None, host_id: str, *, settled: bool) -> bool:
    if member is None:
        return False
    return member.settles_on == host_id if settled else host_id in member.host_ids


def _only(inventory: Inventory, host_ids: Iterable[str]) -> Mask:
    """The mask of these hosts."""
    mask: Mask = np.zeros(len(inventory.hosts), dtype=bool)
    for host_id in host_ids:
        index = inventory.host_index.get(host_id)
        if index is not None:
            mask[index] = True
    return mask


def _disk_mask(inventory: Inventory, disk: Disk) -> Mask | None:
    """The hosts on which this disk alone could be; None if that is so on all."""
    if disk.sr_id is None:
        return _room_mask(inventory, disk)
    if disk.near is Nearness.ANYWHERE:
        return None
    mask: Mask = np.zeros(len(inventory.hosts), dtype=bool)
    sr_index = inventory.sr_index.get(disk.sr_id)
    if sr_index is not None:
        mask[inventory.reached_by(sr_index)] = True
        if disk.near is Nearness.ZONE:
            mask |= inventory.zones == zone_number(inventory.srs[sr_index].zone)
    if disk.movable:
        mask |= _room_mask(inventory, disk)
    return mask


def _room_mask(inventory: Inventory, disk: Disk) -> Mask:
    """The hosts for which some SR would take this disk."""
    mask: Mask = inventory.largest(disk.volume_type) >= disk.size_bytes
    if disk.near is Nearness.HOST:
        return mask
    takes = np.flatnonzero(inventory.largest_on_sr(disk.volume_type)[:-1] >= disk.size_bytes)
    if disk.near is Nearness.ANYWHERE:
        return np.full(len(inventory.hosts), len(takes) > 0)
    return mask | np.isin(inventory.zones, [zone_number(inventory.srs[index].zone) for index in takes])
