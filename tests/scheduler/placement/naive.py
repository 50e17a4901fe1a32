"""The rule of placement said once more, host by host in plain Python, from records and claims alone.

It shares no code with `scheduler.placement` beyond the types: usage is summed from the claims, the ring's order is the whole
`Ring.walk`, every host is filtered, weighed and sorted.
"""

from __future__ import annotations

import numpy as np
import xxhash

from ring.ring import NO_DEVICE, Ring
from scheduler.claims.claim import Claim, Role
from scheduler.placement.request import Disk, Nearness, Policy, ServerRequest
from scheduler.placement.resources import Host, Sr
from scheduler.placement.settings import PlacementSettings


class NaivePlacement:
    """One cloud at one moment."""

    def __init__(
        self, hosts: list[Host], srs: list[Sr], claims: list[Claim], seed: int, failures: dict[str, int]
    ) -> None:
        self.hosts = sorted(hosts, key=lambda host: host.device.id)
        self.srs = sorted(srs, key=lambda sr: sr.sr_id)
        self.claims = claims
        self.failures = failures
        self.seed = seed
        known: list = [None] * (max(host.device.id for host in hosts) + 1)
        for host in hosts:
            known[host.device.id] = host.device
        table = np.full((1, 1), NO_DEVICE, dtype=np.uint32)
        self.ring = Ring(part_power=0, seed=seed, epoch=0, devices=known, table=table)

    def place(self, request: ServerRequest, settings: PlacementSettings, seed: int):
        """((host id, [(disk, sr)…]) chosen, the same for the alternates), or None."""
        able = []
        for host in self.hosts:
            if self.may(request, host):
                disks = self.disks(request, host, settings)
                if disks is not None:
                    able.append((self.score(request, host, settings), host.host_id, disks))
        if not able:
            return None
        able.sort(key=lambda entry: -entry[0])  # stable: by device id among equals
        equals = [entry for entry in able[: settings.choice_count] if entry[0] > able[0][0] - settings.choice_margin]
        draw = xxhash.xxh3_64_intdigest(request.server_id.encode(), seed=seed) % max(len(equals), 1)
        chosen = able[draw]
        rest = [entry for entry in able if entry is not chosen][: settings.alternate_count]
        return chosen, rest

    def may(self, request: ServerRequest, host: Host) -> bool:
        """Whether the host passes, disks aside."""
        mine = [claim for claim in self.claims if claim.host is not None and claim.host.host_id == host.host_id]
        need = request.flavor
        if not (host.enabled and host.live and not host.maintenance and host.device.weight > 0):
            return False
        if request.zone not in (None, host.zone):
            return False
        if not (request.required_traits | need.required_traits) <= host.traits:
            return False
        if (request.forbidden_traits | need.forbidden_traits) & host.traits:
            return False
        if not (request.required_tags | need.required_tags) <= host.tags:
            return False
        if (request.host_ids and host.host_id not in request.host_ids) or host.host_id in request.excluded_host_ids:
            return False
        if any(self.settled(server) != host.host_id for server in request.same_host_as):
            return False
        if any(claim.owner in request.different_host_from for claim in mine):
            return False
        group = self.members(request)
        if group and request.membership.policy is Policy.ANTI_AFFINITY and any(c.owner in group for c in mine):
            return False
        together = request.membership is not None and request.membership.policy is Policy.AFFINITY
        if together and any(c.owner in group and c.host.host_id != host.host_id for c in self.claims if c.host):
            return False
        if sum(claim.host.memory_mib for claim in mine) + need.memory_mib > host.memory_mib - host.reserved_memory_mib:
            return False
        return sum(claim.host.vcpus for claim in mine) + need.vcpus <= int(host.pcpus * host.vcpu_ratio)

    def members(self, request: ServerRequest) -> set[str]:
        """The other members of the request's group."""
        if request.membership is None:
            return set()
        return {
            claim.owner
            for claim in self.claims
            if claim.membership is not None
            and claim.membership.group_id == request.membership.group_id
            and claim.owner != request.server_id
        }

    def settled(self, owner: str) -> str | None:
        """The host that a server will be on when it has moved."""
        hosts = {
            claim.role: claim.host.host_id for claim in self.claims if claim.owner == owner and claim.host is not None
        }
        return hosts.get(Role.TARGET, hosts.get(Role.HELD))

    def disks(self, request: ServerRequest, host: Host, settings: PlacementSettings) -> list[tuple[str, str]] | None:
        """(disk, SR) for each disk, the first way found with the largest disk first."""
        free = {sr.sr_id: self.free(sr) for sr in self.srs}
        found: dict[str, str] = {}
        todo: list[Disk] = []
        for disk in request.disks:
            if disk.sr_id is not None and self.suits(disk, disk.sr_id, host):
                found[disk.disk_id] = disk.sr_id
            elif disk.sr_id is not None and not disk.movable:
                return None
            else:
                todo.append(disk)
        todo.sort(key=lambda disk: -disk.size_bytes)

        def go(position: int) -> bool:
            if position == len(todo):
                return True
            disk = todo[position]
            options = []
            for number, sr in enumerate(self.srs):
                if (
                    not self.offers(sr, disk)
                    or not self.suits(disk, sr.sr_id, host)
                    or free[sr.sr_id] < disk.size_bytes
                ):
                    continue
                tier = 0 if host.host_id in sr.host_ids else 1 if sr.zone == host.zone else 2
                lacks = disk.image_id is not None and disk.image_id not in sr.image_ids
                order = -free[sr.sr_id] if settings.sr_spread else free[sr.sr_id]
                options.append((tier, lacks, order, number, sr.sr_id))
            for *_, sr_id in sorted(options):
                free[sr_id] -= disk.size_bytes
                found[disk.disk_id] = sr_id
                if go(position + 1):
                    return True
                free[sr_id] += disk.size_bytes
            return False

        return [(disk.disk_id, found[disk.disk_id]) for disk in request.disks] if go(0) else None

    def offers(self, sr: Sr, disk: Disk) -> bool:
        """Whether an SR takes such disks at all."""
        return (
            sr.is_open
            and (disk.volume_type is None or disk.volume_type in sr.volume_types)
            and (sr.disk_bytes_max is None or disk.size_bytes <= sr.disk_bytes_max)
        )

    def suits(self, disk: Disk, sr_id: str, host: Host) -> bool:
        """Whether a disk on that SR is near enough to the host."""
        if disk.near is Nearness.ANYWHERE:
            return True
        sr = next((sr for sr in self.srs if sr.sr_id == sr_id), None)
        if sr is None:
            return False
        return host.host_id in sr.host_ids or (disk.near is Nearness.ZONE and sr.zone == host.zone)

    def free(self, sr: Sr) -> int:
        """Bytes that may be given out still."""
        whole = int(sr.size_bytes * sr.over_subscription) if sr.thin else sr.size_bytes
        taken = sum(disk.size_bytes for claim in self.claims for disk in claim.disks if disk.sr_id == sr.sr_id)
        return max(0, whole - sr.foreign_bytes) - taken

    def score(self, request: ServerRequest, host: Host, settings: PlacementSettings) -> float:
        """The sum of what all weighers say, in their order."""
        mine = [claim.host for claim in self.claims if claim.host is not None and claim.host.host_id == host.host_id]
        memory, vcpus = host.memory_mib - host.reserved_memory_mib, int(host.pcpus * host.vcpu_ratio)
        share = (memory - sum(part.memory_mib for part in mine)) / memory
        score = (share + (vcpus - sum(part.vcpus for part in mine)) / vcpus) / 2 * settings.spread
        place = self.ring_place(request, host)
        if place < 16:
            score += (1.0 - place / 16) * settings.ring
        reached = [sr for sr in self.srs if host.host_id in sr.host_ids]
        if request.image_id is not None and any(request.image_id in sr.image_ids for sr in reached):
            score += settings.image
        there = [disk.sr_id for disk in request.disks if disk.sr_id is not None]
        for sr_id in there:
            if any(sr.sr_id == sr_id for sr in reached):
                score += settings.volume / len(there)
        count = self.failures.get(host.host_id, 0)
        if count:
            score += -(1.0 - 1.0 / (1.0 + count)) * settings.failure
        group = self.members(request)
        if group and not request.membership.policy.hard:
            here = sum(self.settled(owner) == host.host_id for owner in group)
            sign = 1.0 if request.membership.policy is Policy.SOFT_AFFINITY else -1.0
            if here:
                score += sign * (here / len(group)) * settings.soft_affinity
        return score

    def ring_place(self, request: ServerRequest, host: Host) -> int:
        """At which place the server's walk comes to the host."""
        key = request.server_id if request.membership is None else request.membership.group_id
        number = xxhash.xxh3_128_intdigest(key.encode(), seed=self.seed) >> 118
        walk = [device.id for device in self.ring.walk(number, "host") if device.weight > 0]
        zones = {each.device.id: each.zone for each in self.hosts}
        walk = [number for number in walk if request.zone in (None, zones[number])]
        if host.device.id not in walk:
            return 1 << 30
        start = 0 if request.membership is None else request.membership.member_index
        return (walk.index(host.device.id) - start) % len(walk)
