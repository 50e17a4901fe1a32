"""What a server or a volume holds, and the interface of those who keep it.

Problem: several schedulers choose hosts at the same time from pictures that are slightly old, processes die between any
two steps, and clients repeat what they asked. Yet no host may be given out twice, and nothing may be held that nobody
owns.

Idea: a `Claim` is what one owner (a server or a volume) holds: a share of a host and bytes on SRs. A `Batch` of claims
(a server with its volumes) is committed whole or not at all. Whoever keeps the claims knows the limit of each host and
SR, counts what is claimed of each, and gives each a *generation* that grows with every change; a commit is a
compare-and-swap on the generations of all that it touches, and limits, group policies and quotas are checked again
under it. A batch has an idempotency key: repeated, it answers as it did the first time.

A server that moves holds two claims for a while: `Role.HELD` where it is, and `Role.TARGET` where it goes, with those
disks that go elsewhere. `finish_move` makes the target the held one (disks that are not in it stay), `abort_move` lets
go of the target; each at once and repeatable.

Rejected: a status in each claim (building, active): that is the server's, not the claim's. Claims that run out by
themselves: a build that takes long would lose its host, and absence of news is no reason to delete; the reconciler
finds claims without an owner.

Invariants: for each host and SR the sum of claims is at most its limit, unless the limit was lowered since; in a group
of hard anti-affinity no two members hold a claim (of either role) on one host; in one of hard affinity all hold on
one, unless of members that moved together some arrived and some did not (nobody joins while members move, so a move may
end either way); a project's held claims are within its quota, unless that was lowered since.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from scheduler.errors import RequestError
from scheduler.placement.request import Membership
from scheduler.placement.resources import Host, Sr

if TYPE_CHECKING:
    from sqlalchemy import Connection


class Role(Enum):
    """What a claim is for."""

    HELD = "held"
    TARGET = "target"
    """Where the owner is moving to."""


@dataclass(frozen=True, slots=True)
class HostShare:
    """What is claimed of a host."""

    host_id: str
    memory_mib: int
    vcpus: int


@dataclass(frozen=True, slots=True)
class DiskShare:
    """What is claimed of an SR for one disk."""

    disk_id: str
    sr_id: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Claim:
    """What one owner holds.

    owner        id of the server or volume; no server has the id of a volume
    project      whose quota it counts against
    host         the share of a host; None for a volume
    disks        its disks; those that live on SRs without the server (volumes) are claims of their own
    membership   the server group, for a server that is in one
    """

    owner: str
    project: str
    host: HostShare | None = None
    disks: tuple[DiskShare, ...] = ()
    membership: Membership | None = None
    role: Role = Role.HELD

    def __post_init__(self) -> None:
        if not self.owner:
            raise RequestError("a claim has an owner")
        if self.membership is not None and self.host is None:
            raise RequestError(f"{self.owner}: only a server can be in a group")


@dataclass(frozen=True, slots=True)
class Batch:
    """Claims that are committed together or not at all.

    key                   idempotency key; the same key with the same `asked` answers as the first time
    claims                at most one for each owner
    same_host_as          servers that the server in it must share its host with, at commit
    different_host_from   servers that the server in it must not share its host with, at commit
    generations           generation by host id or SR id that the choice was made under, as far as known. Where one is no
                          longer in force the commit looks again; by itself that is no reason to refuse
    """

    key: str
    claims: tuple[Claim, ...]
    same_host_as: tuple[str, ...] = ()
    different_host_from: tuple[str, ...] = ()
    generations: Mapping[str, int] = field(default_factory=dict, compare=False, hash=False)

    def __post_init__(self) -> None:
        if not self.key or len(self.key) > 255:
            raise RequestError(f"idempotency key {self.key[:40]!r} is empty or longer than 255 characters")
        if not self.claims:
            raise RequestError(f"batch {self.key} claims nothing")
        if len({claim.owner for claim in self.claims}) < len(self.claims):
            raise RequestError(f"batch {self.key} has two claims of one owner")

    @property
    def asked(self) -> tuple[object, ...]:
        """What is asked for, without where: batches that ask the same may differ in the hosts and SRs that were chosen."""
        return tuple(
            (
                claim.owner,
                claim.project,
                claim.role.value,
                None if claim.host is None else (claim.host.memory_mib, claim.host.vcpus),
                tuple(sorted((disk.disk_id, disk.size_bytes) for disk in claim.disks)),
                None if claim.membership is None else (claim.membership.group_id, claim.membership.policy.value),
            )
            for claim in self.claims
        )


@dataclass(frozen=True, slots=True)
class HostLimit:
    """How much of a host may be claimed; `is_open` False refuses new claims and leaves those there."""

    host_id: str
    memory_mib: int
    vcpus: int
    is_open: bool = True

    @classmethod
    def of(cls, host: Host) -> HostLimit:
        """The limit of a host as its pool reports it."""
        return cls(host.host_id, host.memory_limit_mib, host.vcpus_limit, host.is_open)


@dataclass(frozen=True, slots=True)
class SrLimit:
    """How much of an SR may be claimed; `is_open` False refuses new claims and leaves those there."""

    sr_id: str
    size_bytes: int
    is_open: bool = True

    @classmethod
    def of(cls, sr: Sr) -> SrLimit:
        """The limit of an SR as its pool reports it."""
        return cls(sr.sr_id, sr.limit_bytes, sr.is_open)


@dataclass(frozen=True, slots=True)
class HostUsage:
    """What is claimed of a host, both roles together, at that generation."""

    limit: HostLimit
    memory_mib: int
    vcpus: int
    generation: int


@dataclass(frozen=True, slots=True)
class SrUsage:
    """What is claimed of an SR, both roles together, at that generation."""

    limit: SrLimit
    size_bytes: int
    generation: int


@dataclass(frozen=True, slots=True)
class Change:
    """What a call changed, for whoever keeps a picture of the claims (`Inventory.apply`).

    claims      what the owners hold now, also where the call was a repetition that changed nothing
    gone        what they held and hold no longer
    hosts, srs  what is claimed, after the call, of each host and SR that it touched
    """

    claims: tuple[Claim, ...] = ()
    gone: tuple[Claim, ...] = ()
    hosts: tuple[HostUsage, ...] = ()
    srs: tuple[SrUsage, ...] = ()


@dataclass(frozen=True, slots=True)
class Quota:
    """What a project may hold; None is no limit. Only held claims count, so a move needs no spare quota."""

    servers: int | None = None
    vcpus: int | None = None
    memory_mib: int | None = None
    volumes: int | None = None
    disk_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class ProjectUsage:
    """What a project holds."""

    servers: int = 0
    vcpus: int = 0
    memory_mib: int = 0
    volumes: int = 0
    disk_bytes: int = 0


Guard = Callable[["Connection | None"], None]
"""What a change of claims depends on beside the claims: it is called in the change's own transaction, before anything is
read, and raises where the change must not be made. Claims that are in no database call it with None."""


class Claims(Protocol):
    """Who keeps the claims. Calls block (they belong in a worker thread where a database is behind them); thread-safe."""

    def commit(self, batch: Batch, *, guard: Guard | None = None) -> Change:
        """Claim all of the batch, or nothing. The same answer when this very batch was committed before. What `guard` raises
        is raised, and nothing is claimed.

        Conflict if a host or SR is closed or full or a group policy would break, now; QuotaExceeded; KeyReused; KeySpent;
        ClaimStateError if an owner holds already (role HELD); if it holds nothing, moves already or would come out of
        the move with another size (role TARGET).
        """
        ...

    def release(self, owners: Iterable[str], *, guard: Guard | None = None) -> Change:
        """Let go of all that these owners hold, both roles, at once. Owners without claims are no error. What `guard` raises
        is raised, and nothing is changed."""
        ...

    def finish_move(self, owners: Iterable[str], *, guard: Guard | None = None) -> Change:
        """Make the targets of these owners what they hold, and let go of what they held; at once.

        Owners that hold and have no target are left as they are (so it can be repeated). ClaimStateError for one that
        holds nothing.
        """
        ...

    def abort_move(self, owners: Iterable[str], *, guard: Guard | None = None) -> Change:
        """Let go of the targets of these owners, at once. Owners without a target are no error."""
        ...

    def grow(self, owner: str, disk_id: str, size_bytes: int, *, guard: Guard | None = None) -> Change:
        """Make a held disk that large; repeatable, never smaller. `guard` as above.

        Conflict if its SR is full, QuotaExceeded, ClaimStateError if the owner holds no such disk.
        """
        ...

    def made(self, key: str) -> Change | None:
        """What was claimed under an idempotency key and where, None if nothing was. KeySpent if it was released since."""
        ...

    def of(self, owner: str) -> tuple[Claim, ...]:
        """What an owner holds: nothing, one claim, or (moving) two, the held one first."""
        ...

    def all(self) -> Iterator[Claim]:
        """Every claim, in the order of owners, the held one of an owner first."""
        ...

    def members(self, group_id: str) -> tuple[Claim, ...]:
        """The claims of a server group, both roles, in the order of owners."""
        ...

    def usage(self) -> tuple[tuple[HostUsage, ...], tuple[SrUsage, ...]]:
        """What is claimed of every host and SR that has a limit, in the order of ids."""
        ...

    def usage_of(self, resource_ids: Iterable[str]) -> tuple[tuple[HostUsage, ...], tuple[SrUsage, ...]]:
        """The same, of these hosts and SRs alone."""
        ...

    def set_limits(self, hosts: Iterable[HostLimit] = (), srs: Iterable[SrLimit] = ()) -> None:
        """Set limits of hosts and SRs; others stay as they are. A limit below what is claimed stops further claims only."""
        ...

    def remove(self, resource_ids: Iterable[str]) -> None:
        """Forget the limits of hosts and SRs that are gone. Claims on them stay until released, and no new one comes."""
        ...

    def set_quota(self, project: str, quota: Quota) -> None:
        """Set what a project may hold."""
        ...

    def quota(self, project: str) -> tuple[Quota, ProjectUsage]:
        """What a project may hold and what it does hold."""
        ...

    def forget_keys(self, before_s: float) -> int:
        """Forget the idempotency keys that were used before that time (seconds since 1970) and hold nothing. How many."""
        ...
