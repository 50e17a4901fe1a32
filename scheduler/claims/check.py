"""Whether a batch of claims may be, and what a change of claims makes of the sums: the one rule for all who keep claims.

Pure: what is claimed now is looked up through a `View`; the answer is an `Outcome`, the new sums of all that the change
touches. Whoever keeps the claims must see to it that what the view said is still so when the outcome is written: by a
lock, or by comparing the generations that the view gave. Group policies depend on the group's claims alone, so a change
in a group must count as a change of the group as well as of the host.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from scheduler.claims.claim import (
    Batch,
    Claim,
    DiskShare,
    HostLimit,
    HostUsage,
    ProjectUsage,
    Quota,
    Role,
    SrLimit,
    SrUsage,
)
from scheduler.errors import ClaimStateError, Conflict, QuotaExceeded
from scheduler.placement import reasons
from scheduler.placement.request import Membership, Policy

_MIB = 1 << 20
_QUOTA_WORDS = {
    "servers": "servers",
    "vcpus": "vCPUs",
    "memory_mib": "MiB of memory",
    "volumes": "volumes",
    "disk_bytes": "bytes of disks",
}


class View(Protocol):
    """What is claimed now."""

    def host(self, host_id: str) -> HostUsage | None:
        """The usage of a host, None if it has no limit."""
        ...

    def sr(self, sr_id: str) -> SrUsage | None:
        """The usage of an SR, None if it has no limit."""
        ...

    def of(self, owner: str) -> tuple[Claim, ...]:
        """What an owner holds, the held claim first."""
        ...

    def members(self, group_id: str) -> Iterable[Claim]:
        """The claims of a server group, both roles."""
        ...

    def quota(self, project: str) -> tuple[Quota, ProjectUsage]:
        """What a project may hold and what it holds."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """The new sums of all that a change touches, generations counted up by one."""

    hosts: dict[str, HostUsage] = field(default_factory=dict)
    srs: dict[str, SrUsage] = field(default_factory=dict)
    projects: dict[str, ProjectUsage] = field(default_factory=dict)


def check_batch(batch: Batch, view: View) -> Outcome:
    """What committing this batch makes of the sums. Conflict, QuotaExceeded or ClaimStateError if it may not be."""
    for claim in batch.claims:
        _check_owner(claim, view.of(claim.owner))
        if claim.host is not None:
            _check_group(claim, batch, view)
    _check_company(batch, view)
    outcome = change((), batch.claims, view)
    _check_limits(batch.claims, outcome)
    for project, usage in outcome.projects.items():
        quota, before = view.quota(project)
        _check_quota(project, quota, before, usage)
    return outcome


def check_growth(old: Claim, new: Claim, view: View) -> Outcome:
    """What growing a disk of a held claim makes of the sums. Conflict or QuotaExceeded if it may not be."""
    outcome = change((old,), (new,), view)
    for usage in outcome.srs.values():
        before = view.sr(usage.limit.sr_id)
        if before is not None and usage.size_bytes > before.size_bytes:
            _check_sr(usage)
    quota, held = view.quota(new.project)
    _check_quota(new.project, quota, held, outcome.projects[new.project])
    return outcome


def change(gone: Iterable[Claim], come: Iterable[Claim], view: View) -> Outcome:
    """What letting go of claims and making others makes of the sums; nothing is checked."""
    outcome = Outcome()
    for sign, claims in ((-1, gone), (1, come)):
        for claim in claims:
            _add_claim(outcome, claim, sign, view)
    return outcome


def grown(claim: Claim, disk_id: str, size_bytes: int) -> Claim:
    """The claim with that disk at least that large. ClaimStateError if it has no such disk."""
    if not any(disk.disk_id == disk_id for disk in claim.disks):
        raise ClaimStateError(f"{claim.owner} holds no disk {disk_id}")
    disks = tuple(
        DiskShare(disk_id, disk.sr_id, max(size_bytes, disk.size_bytes)) if disk.disk_id == disk_id else disk
        for disk in claim.disks
    )
    return Claim(claim.owner, claim.project, claim.host, disks, claim.membership, claim.role)


def moved(held: Claim, target: Claim) -> Claim:
    """What is held once the move is finished: the target, and the disks that did not move."""
    where = {disk.disk_id: disk for disk in target.disks}
    disks = tuple(where.get(disk.disk_id, disk) for disk in held.disks)
    return Claim(held.owner, held.project, target.host, disks, held.membership, Role.HELD)


def _add_claim(outcome: Outcome, claim: Claim, sign: int, view: View) -> None:
    host = claim.host
    if host is not None:
        usage = outcome.hosts.get(host.host_id)
        step = 0
        if usage is None:
            usage = view.host(host.host_id) or HostUsage(HostLimit(host.host_id, 0, 0, False), 0, 0, 0)
            step = 1
        outcome.hosts[host.host_id] = HostUsage(
            usage.limit,
            usage.memory_mib + sign * host.memory_mib,
            usage.vcpus + sign * host.vcpus,
            usage.generation + step,
        )
    disk_bytes = 0
    for disk in claim.disks:
        disk_bytes += disk.size_bytes
        on_sr = outcome.srs.get(disk.sr_id)
        step = 0
        if on_sr is None:
            on_sr = view.sr(disk.sr_id) or SrUsage(SrLimit(disk.sr_id, 0, False), 0, 0)
            step = 1
        outcome.srs[disk.sr_id] = SrUsage(
            on_sr.limit, on_sr.size_bytes + sign * disk.size_bytes, on_sr.generation + step
        )
    if claim.role is Role.HELD:
        held = outcome.projects.get(claim.project) or view.quota(claim.project)[1]
        outcome.projects[claim.project] = ProjectUsage(
            held.servers + (sign if host is not None else 0),
            held.vcpus + (sign * host.vcpus if host is not None else 0),
            held.memory_mib + (sign * host.memory_mib if host is not None else 0),
            held.volumes + (sign if host is None else 0),
            held.disk_bytes + sign * disk_bytes,
        )


def _check_owner(claim: Claim, claims: tuple[Claim, ...]) -> None:
    if claim.role is Role.HELD:
        if claims:
            raise ClaimStateError(f"{claim.owner} holds a claim already; release it first, or move it")
        return
    if not claims:
        raise ClaimStateError(f"{claim.owner} holds nothing that could move")
    if len(claims) > 1:
        raise ClaimStateError(f"{claim.owner} is moving already; finish that move or abort it first")
    held = claims[0]
    sizes = {disk.disk_id: disk.size_bytes for disk in held.disks}
    for disk in claim.disks:
        if disk.disk_id not in sizes:
            raise ClaimStateError(f"{claim.owner} holds no disk {disk.disk_id} that could move")
        # What is larger at the target would be held when the move is finished, and no quota was asked then.
        if disk.size_bytes != sizes[disk.disk_id]:
            raise ClaimStateError(
                f"{claim.owner}: disk {disk.disk_id} has {sizes[disk.disk_id]} bytes, not {disk.size_bytes}; "
                "a move does not change its size"
            )
    if (claim.project, claim.membership, _size(claim)) != (held.project, held.membership, _size(held)):
        raise ClaimStateError(
            f"{claim.owner}: a move changes neither project nor group nor what the owner is, nor its size"
        )


def _size(claim: Claim) -> tuple[int, int] | None:
    """Memory in MiB and vCPUs of a server, None for a volume."""
    return None if claim.host is None else (claim.host.memory_mib, claim.host.vcpus)


def _check_group(claim: Claim, batch: Batch, view: View) -> None:
    membership, host = claim.membership, claim.host
    assert host is not None
    if membership is None or not membership.policy.hard:
        return
    apart = membership.policy is Policy.ANTI_AFFINITY
    for other in _company_in_group(claim, membership, batch, view):
        if other.host is None or (other.host.host_id == host.host_id) is not apart:
            continue
        if apart:
            message = f"{other.owner} is on host {host.host_id} already"
        elif other.role is Role.TARGET:
            message = f"{other.owner} is moving to host {other.host.host_id}"
        else:
            message = f"{other.owner} is on host {other.host.host_id}, not {host.host_id}"
        raise _group_conflict(membership, message)


def _company_in_group(claim: Claim, membership: Membership, batch: Batch, view: View) -> Iterator[Claim]:
    """The claims of other members that this one must suit: those of both roles, since a move may end either way.

    But those who leave together need not suit what the others leave.
    """
    moving = {other.owner for other in batch.claims if other.role is Role.TARGET}
    together = moving if claim.role is Role.TARGET and membership.policy is Policy.AFFINITY else set()
    yield from (other for other in view.members(membership.group_id) if other.owner not in {claim.owner, *together})
    for other in batch.claims:
        group_id = other.membership.group_id if other.membership is not None else None
        if group_id == membership.group_id and other.owner != claim.owner:
            yield other


def _group_conflict(membership: Membership, message: str) -> Conflict:
    return Conflict(
        f"{membership.policy.value} group {membership.group_id}: {message}",
        kind=reasons.GROUP,
        resource=membership.group_id,
    )


def _check_company(batch: Batch, view: View) -> None:
    """same_host_as and different_host_from, for the server of the batch."""
    if not batch.same_host_as and not batch.different_host_from:
        return
    for claim in batch.claims:
        if claim.host is None:
            continue
        host_id = claim.host.host_id
        for server_id in batch.same_host_as:
            others = [other.host.host_id for other in view.of(server_id) if other.host is not None]
            if not others or others[-1] != host_id:
                raise Conflict(
                    f"server {server_id} is not on host {host_id}", kind=reasons.SAME_HOST, resource=server_id
                )
        for server_id in batch.different_host_from:
            if any(other.host is not None and other.host.host_id == host_id for other in view.of(server_id)):
                raise Conflict(
                    f"server {server_id} is on host {host_id}", kind=reasons.DIFFERENT_HOST, resource=server_id
                )


def _check_limits(claims: Iterable[Claim], outcome: Outcome) -> None:
    for claim in claims:
        if claim.host is not None:
            _check_host(outcome.hosts[claim.host.host_id], claim)
    for usage in outcome.srs.values():
        _check_sr(usage)


def _check_host(after: HostUsage, claim: Claim) -> None:
    limit, share = after.limit, claim.host
    assert share is not None
    if not limit.is_open:
        raise Conflict(f"host {limit.host_id} takes no new servers", kind=reasons.CLOSED, resource=limit.host_id)
    if after.memory_mib > limit.memory_mib:
        free = max(0, limit.memory_mib - (after.memory_mib - share.memory_mib))
        raise Conflict(
            f"host {limit.host_id}: needs {share.memory_mib} MiB of memory, {free} MiB free",
            kind=reasons.MEMORY,
            resource=limit.host_id,
        )
    if after.vcpus > limit.vcpus:
        free = max(0, limit.vcpus - (after.vcpus - share.vcpus))
        raise Conflict(
            f"host {limit.host_id}: needs {share.vcpus} vCPUs, {free} free", kind=reasons.VCPUS, resource=limit.host_id
        )


def _check_sr(after: SrUsage) -> None:
    limit = after.limit
    if not limit.is_open:
        raise Conflict(f"SR {limit.sr_id} takes no new disks", kind=reasons.CLOSED, resource=limit.sr_id)
    if after.size_bytes > limit.size_bytes:
        over = -(-(after.size_bytes - limit.size_bytes) // _MIB)
        raise Conflict(f"SR {limit.sr_id} lacks {over} MiB of space", kind=reasons.SR_SPACE, resource=limit.sr_id)


def _check_quota(project: str, quota: Quota, before: ProjectUsage, after: ProjectUsage) -> None:
    for resource, word in _QUOTA_WORDS.items():
        limit, used, wanted = getattr(quota, resource), getattr(before, resource), getattr(after, resource)
        if limit is not None and wanted > limit and wanted > used:
            raise QuotaExceeded(
                f"project {project} would have {wanted} {word}, its quota is {limit}; it has {used}",
                project=project,
                resource=resource,
                limit=limit,
                used=used,
                asked=wanted - used,
            )
