"""What must hold after every step, summed up from nothing."""

from __future__ import annotations

from hypothesis.stateful import invariant

from scheduler.claims.claim import Claim
from scheduler.placement.request import Policy
from tests.scheduler.histories.world import World


class Promises(World):
    """Limits, policies, quotas, sums and pictures."""

    allowed: dict[str, tuple[int, int]]
    """(memory, vCPUs) claimed of each host when last looked: a limit may fall below that."""

    @invariant()
    def nothing_is_given_out_twice(self):
        """No host or SR is over its limit, unless the limit fell below what was claimed; then it gets nothing more."""
        if not hasattr(self, "claims"):
            return
        claims = list(self.claims[1].all())
        memory: dict[str, int] = {}
        vcpus: dict[str, int] = {}
        stored: dict[str, int] = {}
        for claim in claims:
            if claim.host is not None:
                memory[claim.host.host_id] = memory.get(claim.host.host_id, 0) + claim.host.memory_mib
                vcpus[claim.host.host_id] = vcpus.get(claim.host.host_id, 0) + claim.host.vcpus
            for disk in claim.disks:
                stored[disk.sr_id] = stored.get(disk.sr_id, 0) + disk.size_bytes
        for each in self.hosts:
            sums = (memory.pop(each.host_id, 0), vcpus.pop(each.host_id, 0))
            floor = self.allowed.get(each.host_id, (0, 0))
            assert sums[0] <= max(each.memory_limit_mib, floor[0]), f"{each.host_id}: {sums[0]} MiB"
            assert sums[1] <= max(each.vcpus_limit, floor[1]), f"{each.host_id}: {sums[1]} vCPUs"
            self.allowed[each.host_id] = sums
        for each in self.srs:
            size_bytes = stored.pop(each.sr_id, 0)
            assert size_bytes <= each.limit_bytes, f"{each.sr_id}: {size_bytes} bytes"
        assert not memory
        assert not stored
        self.usage_is_the_sum(claims)

    def usage_is_the_sum(self, claims: list[Claim]) -> None:
        """What the claims keep as sums are sums, and the model holds the same claims."""
        hosts, srs = self.claims[0].usage()
        for usage in hosts:
            shares = [c.host for c in claims if c.host is not None and c.host.host_id == usage.limit.host_id]
            assert usage.memory_mib == sum(share.memory_mib for share in shares)
            assert usage.vcpus == sum(share.vcpus for share in shares)
        for on_sr in srs:
            sizes = [d.size_bytes for c in claims for d in c.disks if d.sr_id == on_sr.limit.sr_id]
            assert on_sr.size_bytes == sum(sizes)
        found: dict[str, list[Claim]] = {}
        for claim in claims:
            found.setdefault(claim.owner, []).append(claim)
        assert found == self.model
        assert self.wrong_sums() == []

    @invariant()
    def policies_hold(self):
        """No two members of an anti-affinity group meet; an affinity group is together, however its moves end."""
        if not hasattr(self, "claims"):
            return
        apart: dict[tuple[str, str], str] = {}
        together: dict[tuple[str, int], set[str]] = {}
        for owner, claims in self.model.items():
            for claim in claims:
                if claim.membership is None:
                    continue
                group = claim.membership.group_id
                if claim.membership.policy is Policy.ANTI_AFFINITY:
                    assert apart.setdefault((group, claim.host.host_id), owner) == owner
            if claims[0].membership is not None and claims[0].membership.policy is Policy.AFFINITY:
                group = claims[0].membership.group_id
                for end in (0, -1):
                    together.setdefault((group, end), set()).add(claims[end].host.host_id)
        assert all(len(hosts) == 1 for hosts in together.values()), together

    @invariant()
    def quota_holds(self):
        """No project holds more than its quota; what it holds is counted right."""
        if not hasattr(self, "claims"):
            return
        quota, usage = self.claims[1].quota("red")
        held = [claims[0] for claims in self.model.values() if claims[0].project == "red"]
        assert usage.servers == sum(claim.host is not None for claim in held)
        assert usage.vcpus == sum(claim.host.vcpus for claim in held if claim.host is not None)
        assert usage.disk_bytes == sum(disk.size_bytes for claim in held for disk in claim.disks)
        for name in ("servers", "vcpus", "disk_bytes"):
            limit = getattr(quota, name)
            assert limit is None or getattr(usage, name) <= limit

    @invariant()
    def pictures_are_whole(self):
        """What a picture derives from what it knows is right, however old that is."""
        for booking in getattr(self, "schedulers", ()):
            booking.inventory.check()
