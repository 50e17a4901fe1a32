"""What there is and what of it is taken, as arrays: the picture that placement decides by.

Problem: ten thousand hosts are looked at for each server, thousands of times a second; and each placement changes one
host of them.

Idea: what does not depend on the request is kept as arrays over hosts and changed where a claim changes it: free
memory, free vCPUs, the mean share of both that is free, and for each volume type the largest disk that some SR in reach
of the host would take. What depends on the request's words alone (zone, traits, whether the host is open) is a mask
that is kept per combination of words, since few are asked for again and again. The rest of a placement is a handful of
vector operations.

The picture may be old: other schedulers claim, too. It holds the generation of each host and SR that it knows; a claim
that meets a newer one is checked again at commit, and what the commit found comes back through `refresh`.

Rejected: an index by free memory (a tree or buckets): the score mixes memory, ring order and more, and at 10,000 hosts
a pass over an array takes microseconds. Hosts as Python objects in the loop: a thousand times slower.

Invariants: hosts are in the order of their devices' ids, SRs of their ids; every array has one entry per host or SR,
those over SRs one more, the last, that stands for no SR; `check()` computes all derived arrays anew and compares.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ring.walk import WalkOrder
from scheduler.claims.claim import Change, Claim, HostUsage, SrUsage
from scheduler.errors import InventoryError
from scheduler.placement.members import Member, Members
from scheduler.placement.reach import Reach
from scheduler.placement.request import ServerRequest
from scheduler.placement.resources import Host, Sr, Zone
from scheduler.placement.settings import RING_POSITIONS

Mask: TypeAlias = NDArray[np.bool_]
Amounts: TypeAlias = NDArray[np.int64]
Shares: TypeAlias = NDArray[np.float64]
Indexes: TypeAlias = NDArray[np.intp]

NOTHING = -1
"""In arrays of bytes: no SR would take any disk, not even an empty one."""
_MASKS_MAX = 256
"""Combinations of words that masks are kept for."""
_HEAD = 2 * RING_POSITIONS
"""Hosts of a walk that are kept: enough for the members of a usual group."""
_HEADS_MAX = 1 << 14
"""Beginnings of walks that are kept: a few MiB."""


class Inventory:
    """Hosts, SRs and what is claimed of them. Not thread-safe: one scheduler, one inventory.

    seed   of the ring: it and the devices' ids decide in which order a server visits the hosts
    """

    def __init__(self, hosts: Iterable[Host], srs: Iterable[Sr], *, seed: int = 0) -> None:
        self.seed = seed
        self.hosts = sorted(hosts, key=lambda host: host.device.id)
        self.srs = sorted(srs, key=lambda sr: sr.sr_id)
        self.host_index = {host.host_id: index for index, host in enumerate(self.hosts)}
        self.sr_index = {sr.sr_id: index for index, sr in enumerate(self.srs)}
        self._check_distinct()
        host_count = len(self.hosts)
        self.memory_limit: Amounts = np.zeros(host_count, dtype=np.int64)
        self.memory_free: Amounts = np.zeros(host_count, dtype=np.int64)
        self.vcpus_limit: Amounts = np.zeros(host_count, dtype=np.int64)
        self.vcpus_free: Amounts = np.zeros(host_count, dtype=np.int64)
        self.room: Shares = np.zeros(host_count, dtype=np.float64)
        """Mean of the shares of memory and of vCPUs that are free, 0..1."""
        self.sr_limit: Amounts = np.array([sr.limit_bytes for sr in self.srs], dtype=np.int64)
        self.sr_free: Amounts = self.sr_limit.copy()
        self._closed_hosts: set[int] = set()
        self._closed_srs: set[int] = set()
        """What the claims take nothing on, whatever the pools say."""
        self.host_generations = [0] * host_count
        self.sr_generations = [0] * len(self.srs)
        self.failures: dict[int, int] = {}
        """Recent failed builds by host index."""
        self.members = Members()
        self._reach = Reach(self.hosts, self.srs, self.host_index)
        self.zones = self._reach.zones
        """Each host's availability zone as one number."""
        self._largest: dict[str | None, tuple[Amounts, Amounts]] = {}
        for index, host in enumerate(self.hosts):
            self.memory_limit[index] = self.memory_free[index] = host.memory_limit_mib
            self.vcpus_limit[index] = self.vcpus_free[index] = host.vcpus_limit
            self._set_room(index)
        self._masks: dict[object, Mask] = {}
        self._image_hosts: dict[str, Indexes] = {}
        self._heads: dict[tuple[int, Zone | None], Indexes] = {}
        self.order = WalkOrder([host.device for host in self.hosts])

    def copy(self) -> Inventory:
        """A picture of the same that changes by itself, to suppose things in."""
        twin = Inventory(self.hosts, self.srs, seed=self.seed)
        for name in ("memory_limit", "memory_free", "vcpus_limit", "vcpus_free", "room", "sr_limit", "sr_free"):
            getattr(twin, name)[:] = getattr(self, name)
        twin.host_generations, twin.sr_generations = list(self.host_generations), list(self.sr_generations)
        twin.failures = dict(self.failures)
        twin._closed_hosts, twin._closed_srs = set(self._closed_hosts), set(self._closed_srs)
        twin.members = self.members.copy()
        return twin

    # ------------------------------------------------------------------------------------------------- what changes

    def apply(self, change: Change) -> None:
        """What a call to the claims changed."""
        for claim in change.gone:
            self.members.note(claim, present=False)
        for claim in change.claims:
            self.members.note(claim, present=True)
        self.refresh(change.hosts, change.srs)

    def load(self, claims: Iterable[Claim], hosts: Iterable[HostUsage], srs: Iterable[SrUsage]) -> None:
        """Forget what is claimed and take it from here: all that there is."""
        self.members.load(claims)
        self.refresh(hosts, srs)

    def add(self, claims: Iterable[Claim]) -> None:
        """Suppose that these claims were made, too. For plans: generations stay as they are."""
        for claim in claims:
            self._take(claim, 1)
            self.members.note(claim, present=True)

    def subtract(self, claims: Iterable[Claim]) -> None:
        """Suppose that these claims were let go of. For plans: generations stay as they are."""
        for claim in claims:
            self._take(claim, -1)
            self.members.note(claim, present=False)

    def refresh(self, hosts: Iterable[HostUsage] = (), srs: Iterable[SrUsage] = ()) -> None:
        """Limits and usage of these, as the claims have them. Those that are not in the inventory are passed over."""
        for host in hosts:
            index = self.host_index.get(host.limit.host_id)
            if index is not None:
                limit = host.limit
                self.memory_limit[index], self.vcpus_limit[index] = limit.memory_mib, limit.vcpus
                self.memory_free[index] = limit.memory_mib - host.memory_mib
                self.vcpus_free[index] = limit.vcpus - host.vcpus
                self.host_generations[index] = host.generation
                self._set_room(index)
                if limit.is_open == (index in self._closed_hosts):
                    self._close_host(index, not limit.is_open)
        for sr in srs:
            index = self.sr_index.get(sr.limit.sr_id)
            if index is not None:
                self.sr_limit[index] = sr.limit.size_bytes
                self.sr_free[index] = sr.limit.size_bytes - sr.size_bytes
                self.sr_generations[index] = sr.generation
                (self._closed_srs.discard if sr.limit.is_open else self._closed_srs.add)(index)
                self._set_largest(index)

    def refresh_members(self, group_id: str, claims: Iterable[Claim]) -> None:
        """The claims of a server group, as those who keep them have it: all of them."""
        self.members.groups.pop(group_id, None)
        for claim in claims:
            self.members.note(claim, present=True)

    def refresh_owner(self, owner: str, claims: Iterable[Claim]) -> None:
        """What an owner holds, as those who keep the claims have it: all of it."""
        self.members.servers.pop(owner, None)
        for claim in claims:
            self.members.note(claim, present=True)

    def close(self, resource_ids: Iterable[str]) -> None:
        """The claims know nothing of these hosts and SRs: nothing is put there until `refresh` brings them back."""
        for name in resource_ids:
            if name in self.host_index:
                self._close_host(self.host_index[name], True)
            elif name in self.sr_index:
                self._closed_srs.add(self.sr_index[name])
                self._set_largest(self.sr_index[name])

    def update_host(self, host: Host) -> None:
        """Another state or size of a host that is there, on the same device and SRs. InventoryError if it can't be."""
        index = self._index_of_host(host.host_id)
        if host.device != self.hosts[index].device:
            raise InventoryError(f"host {host.host_id} has another place in the ring: make a new inventory")
        self.memory_free[index] += host.memory_limit_mib - self.memory_limit[index]
        self.vcpus_free[index] += host.vcpus_limit - self.vcpus_limit[index]
        self.memory_limit[index], self.vcpus_limit[index] = host.memory_limit_mib, host.vcpus_limit
        self.hosts[index] = host
        self._set_room(index)
        self._masks.clear()

    def update_sr(self, sr: Sr) -> None:
        """Another state or size of an SR that is there, reached by the same hosts. InventoryError if not."""
        index = self.sr_index.get(sr.sr_id)
        if index is None:
            raise InventoryError(f"SR {sr.sr_id} is not in the inventory")
        old = self.srs[index]
        if sr.host_ids != old.host_ids or sr.device != old.device:
            raise InventoryError(f"SR {sr.sr_id} is reached by other hosts: make a new inventory")
        self.sr_free[index] += sr.limit_bytes - self.sr_limit[index]
        self.sr_limit[index] = sr.limit_bytes
        self.srs[index] = sr
        self._image_hosts.clear()
        if sr.volume_types != old.volume_types:
            self._largest.clear()
        else:
            self._set_largest(index)

    def set_failures(self, counts: Mapping[str, int]) -> None:
        """Recent failed builds by host id; hosts that are not named have none. What is recent the caller decides."""
        self.failures = {
            self.host_index[host_id]: count for host_id, count in counts.items() if count and host_id in self.host_index
        }

    # ---------------------------------------------------------------------------------------------------- what is asked

    def server(self, server_id: str) -> Member | None:
        """Where a server is, None if it has no claim here."""
        return self.members.servers.get(server_id)

    def others(self, request: ServerRequest) -> Mapping[str, Member]:
        """The other members of the request's group, by server id."""
        return self.members.others(request)

    def generations(self, host_id: str | None, sr_ids: Iterable[str]) -> dict[str, int]:
        """The generations that the picture has of a host and SRs; what it has not, as a host taken away, is left out."""
        known = {sr_id: self.sr_generations[self.sr_index[sr_id]] for sr_id in sr_ids if sr_id in self.sr_index}
        if host_id is not None and host_id in self.host_index:
            known[host_id] = self.host_generations[self.host_index[host_id]]
        return known

    def mask(self, request: ServerRequest) -> Mask:
        """The hosts that are open and suit the request's words: zone, traits, tags. Don't change it."""
        flavor = request.flavor
        words = (
            request.zone,
            request.required_traits | flavor.required_traits,
            request.forbidden_traits | flavor.forbidden_traits,
            request.required_tags | flavor.required_tags,
        )
        mask = self._masks.get(words)
        if mask is None:
            if len(self._masks) >= _MASKS_MAX:
                self._masks.pop(next(iter(self._masks)))
            mask = self._masks[words] = self._make_mask(*words)
        return mask

    def largest(self, volume_type: str | None) -> Amounts:
        """For each host the largest disk that one SR in reach takes; NOTHING where there is no such SR. Don't change it."""
        return self._arrays_of(volume_type)[1]

    def largest_on_sr(self, volume_type: str | None) -> Amounts:
        """For each SR the largest disk that it takes; NOTHING where it takes none; the last entry is no SR."""
        return self._arrays_of(volume_type)[0]

    def image_hosts(self, image_id: str) -> Indexes:
        """The hosts that reach an SR that has the image."""
        found = self._image_hosts.get(image_id)
        if found is None:
            having = [index for index, sr in enumerate(self.srs) if image_id in sr.image_ids]
            reached = [self._reach.reached_by[index] for index in having]
            found = np.unique(np.concatenate(reached)) if reached else np.zeros(0, dtype=np.intp)
            self._image_hosts[image_id] = found
        return found

    def ring_hosts(self, number: int, zone: Zone | None, start: int) -> Indexes:
        """Up to RING_POSITIONS hosts of a walk, from place `start` on, after its end from its beginning.

        Of a zone's hosts alone, if one is given.
        """
        key = (number, zone)
        head = self._heads.get(key)
        if head is None or (len(head) < start + RING_POSITIONS and len(head) == _HEAD):
            head = self.order.head(number, self.seed, max(_HEAD, start + RING_POSITIONS), zone)
            if len(head) <= _HEAD:
                if len(self._heads) >= _HEADS_MAX:
                    self._heads.pop(next(iter(self._heads)))
                self._heads[key] = head
        if start + RING_POSITIONS <= len(head):
            return head[start : start + RING_POSITIONS]
        return np.roll(head, -(start % len(head)))[:RING_POSITIONS] if len(head) else head

    def in_zone(self, zone: Zone) -> tuple[int, ...]:
        """The SRs of an availability zone."""
        return self._reach.in_zone.get(zone, ())

    def reached_by(self, sr_index: int) -> Indexes:
        """The hosts that reach an SR."""
        return self._reach.reached_by[sr_index]

    def in_reach(self, host_index: int) -> tuple[int, ...]:
        """The SRs that a host reaches."""
        return self._reach.in_reach[host_index]

    def host_is_open(self, host_index: int) -> bool:
        """Whether new servers may come to a host, by the pool and by the claims."""
        return self.hosts[host_index].is_open and host_index not in self._closed_hosts

    def sr_is_open(self, sr_index: int) -> bool:
        """Whether new disks may come to an SR, by the pool and by the claims."""
        return self.srs[sr_index].is_open and sr_index not in self._closed_srs

    def claimed_share(self, host_index: int) -> float:
        """The larger share of a host's memory or vCPUs that is claimed: 0 empty, 1 full. 1 for a host of no size."""
        memory, vcpus = int(self.memory_limit[host_index]), int(self.vcpus_limit[host_index])
        if not memory or not vcpus:
            return 1.0
        return max(1 - int(self.memory_free[host_index]) / memory, 1 - int(self.vcpus_free[host_index]) / vcpus)

    def check(self) -> None:
        """AssertionError unless what was kept up to date is what one would compute now."""
        for index in range(len(self.hosts)):
            kept = self.room[index]
            self._set_room(index)
            assert kept == self.room[index], f"room of {self.hosts[index].host_id}: {kept}, not {self.room[index]}"
        for volume_type, (on_sr, for_host) in list(self._largest.items()):
            right = self._make_largest(volume_type)
            assert np.array_equal(on_sr, right[0]), f"largest disk by SR, type {volume_type}"
            assert np.array_equal(for_host, right[1]), f"largest disk by host, type {volume_type}"

    # ------------------------------------------------------------------------------------------------------- inner works

    def _check_distinct(self) -> None:
        if len(self.host_index) < len(self.hosts):
            raise InventoryError("two hosts have the same id")
        if len(self.sr_index) < len(self.srs):
            raise InventoryError("two SRs have the same id")
        if len({host.device.id for host in self.hosts}) < len(self.hosts):
            raise InventoryError("two hosts have the same device id")
        clash = self.host_index.keys() & self.sr_index.keys()
        if clash:
            raise InventoryError(f"{min(clash)} is the id of a host and of an SR")

    def _close_host(self, index: int, closed: bool) -> None:
        (self._closed_hosts.add if closed else self._closed_hosts.discard)(index)
        self._masks.clear()

    def _index_of_host(self, host_id: str) -> int:
        index = self.host_index.get(host_id)
        if index is None:
            raise InventoryError(f"host {host_id} is not in the inventory")
        return index

    def _take(self, claim: Claim, sign: int) -> None:
        host = claim.host
        if host is not None:
            index = self.host_index.get(host.host_id)
            if index is not None:
                self.memory_free[index] -= sign * host.memory_mib
                self.vcpus_free[index] -= sign * host.vcpus
                self._set_room(index)
        touched = set()
        for disk in claim.disks:
            index = self.sr_index.get(disk.sr_id)
            if index is not None:
                self.sr_free[index] -= sign * disk.size_bytes
                touched.add(index)
        for index in touched:
            self._set_largest(index)

    def _set_room(self, index: int) -> None:
        memory, vcpus = int(self.memory_limit[index]), int(self.vcpus_limit[index])
        free = max(int(self.memory_free[index]), 0) / memory if memory else 0.0
        self.room[index] = (free + (max(int(self.vcpus_free[index]), 0) / vcpus if vcpus else 0.0)) / 2

    def _set_largest(self, sr_index: int) -> None:
        """Bring what hosts may put on this SR up to date, for the volume types that anybody asked for."""
        sr = self.srs[sr_index]
        reached = self._reach.reached_by[sr_index]
        for volume_type, (on_sr, for_host) in self._largest.items():
            if volume_type is not None and volume_type not in sr.volume_types:
                continue
            on_sr[sr_index] = self._largest_disk(sr_index)
            if len(reached) == 1:
                host_index = int(reached[0])
                for_host[host_index] = max([int(on_sr[index]) for index in self._reach.in_reach[host_index]])
            else:
                for_host[reached] = on_sr[self._reach.table[reached]].max(axis=1)

    def _largest_disk(self, sr_index: int) -> int:
        sr = self.srs[sr_index]
        free = int(self.sr_free[sr_index])
        if free < 0 or not self.sr_is_open(sr_index):
            return NOTHING
        return free if sr.disk_bytes_max is None else min(free, sr.disk_bytes_max)

    def _arrays_of(self, volume_type: str | None) -> tuple[Amounts, Amounts]:
        arrays = self._largest.get(volume_type)
        if arrays is None:
            if len(self._largest) >= _MASKS_MAX:
                self._largest.pop(next(iter(self._largest)))
            arrays = self._largest[volume_type] = self._make_largest(volume_type)
        return arrays

    def _make_largest(self, volume_type: str | None) -> tuple[Amounts, Amounts]:
        on_sr: Amounts = np.full(len(self.srs) + 1, NOTHING, dtype=np.int64)
        for index, sr in enumerate(self.srs):
            if volume_type is None or volume_type in sr.volume_types:
                on_sr[index] = self._largest_disk(index)
        return on_sr, on_sr[self._reach.table].max(axis=1)

    def _make_mask(
        self, zone: Zone | None, required: frozenset[str], forbidden: frozenset[str], tags: frozenset[str]
    ) -> Mask:
        return np.array(
            [
                self.host_is_open(index)
                and (zone is None or host.zone == zone)
                and required <= host.traits
                and not forbidden & host.traits
                and tags <= host.tags
                for index, host in enumerate(self.hosts)
            ],
            dtype=bool,
        )
