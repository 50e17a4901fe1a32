"""The rule of a commit said once more in plain Python: what stands against a batch, from claims, hosts and SRs alone.

It shares no code with `scheduler.claims.check` beyond the types, and finds all that stands in the way, not the first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from scheduler.claims.claim import Batch, Claim, Quota, Role
from scheduler.placement import reasons
from scheduler.placement.request import Policy
from scheduler.placement.resources import Host, Sr

STATE = "state"
QUOTA = "quota"


class NaiveClaims:
    """What is claimed at one moment, by owner, the held claim first; and the limits that it must keep."""

    def __init__(
        self, held: Mapping[str, Sequence[Claim]], hosts: Iterable[Host], srs: Iterable[Sr], quotas: Mapping[str, Quota]
    ) -> None:
        self.held = held
        self.hosts = {host.host_id: host for host in hosts}
        self.srs = {sr.sr_id: sr for sr in srs}
        self.quotas = quotas

    def against(self, batch: Batch) -> set[str]:
        """The word of each rule that the batch would break; none if it must be accepted."""
        found: set[str] = set()
        for claim in batch.claims:
            if not self.is_in_state(claim):
                found.add(STATE)
            found |= self.against_host(claim, batch) | self.against_srs(claim, batch)
            if claim.host is not None:
                if not self.suits_group(claim, batch):
                    found.add(reasons.GROUP)
                found |= self.against_company(claim.host.host_id, batch)
            if self.exceeds_quota(claim.project, batch):
                found.add(QUOTA)
        return found

    def is_in_state(self, claim: Claim) -> bool:
        """Whether the owner may claim this now: nothing is held before a first claim, one thing before a move."""
        mine = self.held.get(claim.owner, ())
        if claim.role is Role.HELD:
            return not mine
        return (
            len(mine) == 1
            and {(disk.disk_id, disk.size_bytes) for disk in claim.disks}
            <= {(disk.disk_id, disk.size_bytes) for disk in mine[0].disks}
            and (claim.project, claim.membership) == (mine[0].project, mine[0].membership)
            and (claim.host is None) == (mine[0].host is None)
            and asked(Batch("?", (replace(claim, disks=(), role=Role.HELD),)))
            == asked(Batch("?", (replace(mine[0], disks=()),)))
        )

    def all_with(self, batch: Batch) -> list[Claim]:
        """Everything, the batch included."""
        return [claim for claims in self.held.values() for claim in claims] + list(batch.claims)

    def against_host(self, claim: Claim, batch: Batch) -> set[str]:
        """Whether its host is closed, or would be over its memory or vCPUs."""
        if claim.host is None:
            return set()
        host = self.hosts[claim.host.host_id]
        shares = [each.host for each in self.all_with(batch) if each.host and each.host.host_id == host.host_id]
        found = set() if host.is_open else {reasons.CLOSED}
        if sum(share.memory_mib for share in shares) > host.memory_limit_mib:
            found.add(reasons.MEMORY)
        if sum(share.vcpus for share in shares) > host.vcpus_limit:
            found.add(reasons.VCPUS)
        return found

    def against_srs(self, claim: Claim, batch: Batch) -> set[str]:
        """Whether an SR of its disks is closed or would be over its size."""
        found: set[str] = set()
        for sr_id in {disk.sr_id for disk in claim.disks}:
            sizes = [disk.size_bytes for c in self.all_with(batch) for disk in c.disks if disk.sr_id == sr_id]
            if not self.srs[sr_id].is_open:
                found.add(reasons.CLOSED)
            if sum(sizes) > self.srs[sr_id].limit_bytes:
                found.add(reasons.SR_SPACE)
        return found

    def suits_group(self, claim: Claim, batch: Batch) -> bool:
        """Whether a hard policy of its group holds with it."""
        if claim.membership is None or claim.host is None:
            return True
        now: dict[str, list[str]] = {}
        for other in self.all_with(batch):
            in_group = other.membership is not None and other.membership.group_id == claim.membership.group_id
            if in_group and other.owner != claim.owner and other.host is not None:
                now.setdefault(other.owner, []).append(other.host.host_id)
        if claim.membership.policy is Policy.ANTI_AFFINITY:
            return all(claim.host.host_id not in hosts for hosts in now.values())
        if claim.membership.policy is not Policy.AFFINITY:
            return True
        if claim.role is Role.TARGET:  # what moves with it leaves where it was
            movers = {other.owner for other in batch.claims if other.role is Role.TARGET}
            now = {owner: hosts[-1:] if owner in movers else hosts for owner, hosts in now.items()}
        return all(set(hosts) == {claim.host.host_id} for hosts in now.values())

    def against_company(self, host_id: str, batch: Batch) -> set[str]:
        """Whether a server that the batch names is where it must not be."""
        found: set[str] = set()
        for words, names in (
            (reasons.SAME_HOST, batch.same_host_as),
            (reasons.DIFFERENT_HOST, batch.different_host_from),
        ):
            for name in names:
                hosts = [claim.host.host_id for claim in self.held.get(name, ()) if claim.host is not None]
                if words == reasons.SAME_HOST and hosts[-1:] != [host_id]:
                    found.add(words)
                if words == reasons.DIFFERENT_HOST and host_id in hosts:
                    found.add(words)
        return found

    def exceeds_quota(self, project: str, batch: Batch) -> bool:
        """Whether the batch takes the project over its quota in something that it adds to."""
        quota = self.quotas.get(project, Quota())
        before = _held_by(project, [claim for claims in self.held.values() for claim in claims])
        after = _held_by(project, self.all_with(batch))
        for name, amount in after.items():
            limit = getattr(quota, name)
            if limit is not None and amount > limit and amount > before[name]:
                return True
        return False


def asked(batch: Batch) -> list[object]:
    """What a key stands for: who wants how much, wherever it is."""
    return [
        (
            claim.owner,
            claim.project,
            claim.role,
            claim.host and (claim.host.memory_mib, claim.host.vcpus),
            {disk.disk_id: disk.size_bytes for disk in claim.disks},
            claim.membership and (claim.membership.group_id, claim.membership.policy),
        )
        for claim in batch.claims
    ]


def _held_by(project: str, claims: Iterable[Claim]) -> dict[str, int]:
    held = [claim for claim in claims if claim.project == project and claim.role is Role.HELD]
    hosts = [claim.host for claim in held if claim.host is not None]
    return {
        "servers": len(hosts),
        "vcpus": sum(host.vcpus for host in hosts),
        "memory_mib": sum(host.memory_mib for host in hosts),
        "volumes": len(held) - len(hosts),
        "disk_bytes": sum(disk.size_bytes for claim in held for disk in claim.disks),
    }
