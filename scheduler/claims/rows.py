"""Claims as rows and back: statements, made once, and what they return as the types of `claim`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from sqlalchemy import Column, Connection, Row, Select, bindparam, select

from scheduler.claims.claim import (
    Batch,
    Claim,
    DiskShare,
    HostLimit,
    HostShare,
    HostUsage,
    ProjectUsage,
    Quota,
    Role,
    SrLimit,
    SrUsage,
)
from scheduler.claims.tables import CLAIMS, DISKS, GROUPS, HOSTS, PROJECTS, SRS
from scheduler.placement.request import Membership, Policy

USAGE_FIELDS = ("servers", "vcpus", "memory_mib", "volumes", "disk_bytes")
IDS_MAX = 500
"""Ids in one IN (…): SQLite of old takes 999 parameters."""

_CLAIM_COLUMNS: Select[Any] = select(*CLAIMS.c, DISKS.c.disk_id, DISKS.c.sr_id, DISKS.c.size_bytes).select_from(
    CLAIMS.outerjoin(DISKS, (CLAIMS.c.owner == DISKS.c.owner) & (CLAIMS.c.role == DISKS.c.role))
)
_IN_ORDER = (CLAIMS.c.owner, CLAIMS.c.role, DISKS.c.position)
SELECT_CLAIMS = _CLAIM_COLUMNS.order_by(*_IN_ORDER)


class Lookup:
    """A question about rows by id. For one id it is put with `=`: an IN of any length is rendered anew each time."""

    def __init__(self, statement: Select[Any], column: Column[Any]) -> None:
        self._one = statement.where(column == bindparam("id"))
        self._many = statement.where(column.in_(bindparam("ids", expanding=True)))

    def rows(self, connection: Connection, ids: Collection[str]) -> Iterator[Row[Any]]:
        """The rows of these ids; rows of one id come in the statement's order."""
        if len(ids) == 1:
            yield from connection.execute(self._one, {"id": next(iter(ids))})
            return
        ordered = sorted(ids)
        for start in range(0, len(ordered), IDS_MAX):
            yield from connection.execute(self._many, {"ids": ordered[start : start + IDS_MAX]})


_CLAIMS_OF = Lookup(SELECT_CLAIMS, CLAIMS.c.owner)
_MEMBERS = Lookup(SELECT_CLAIMS, CLAIMS.c.group_id)
_HOSTS = Lookup(select(HOSTS), HOSTS.c.host_id)
_SRS = Lookup(select(SRS), SRS.c.sr_id)
_PROJECTS = Lookup(select(PROJECTS), PROJECTS.c.project)
_GROUPS = Lookup(select(GROUPS), GROUPS.c.group_id)


@dataclass(slots=True)
class Picture:
    """What was read in one transaction: the `View` that `check` decides by, with generations to compare when writing.

    default_quota   of projects that have none of their own
    keys            the idempotency key of each claim, by (owner, role)
    """

    default_quota: Quota
    hosts: dict[str, HostUsage] = field(default_factory=dict)
    srs: dict[str, SrUsage] = field(default_factory=dict)
    claims: dict[str, tuple[Claim, ...]] = field(default_factory=dict)
    keys: dict[tuple[str, Role], str] = field(default_factory=dict)
    groups: dict[str, int | None] = field(default_factory=dict)
    projects: dict[str, tuple[Quota, ProjectUsage, int | None]] = field(default_factory=dict)

    def host(self, host_id: str) -> HostUsage | None:
        """The usage of a host, None if it has no limit."""
        return self.hosts.get(host_id)

    def sr(self, sr_id: str) -> SrUsage | None:
        """The usage of an SR, None if it has no limit."""
        return self.srs.get(sr_id)

    def of(self, owner: str) -> tuple[Claim, ...]:
        """What an owner holds, the held claim first."""
        return self.claims.get(owner, ())

    def members(self, group_id: str) -> list[Claim]:
        """The claims of a server group that was read."""
        return [
            claim
            for claims in self.claims.values()
            for claim in claims
            if claim.membership is not None and claim.membership.group_id == group_id
        ]

    def quota(self, project: str) -> tuple[Quota, ProjectUsage]:
        """What a project may hold and what it holds."""
        return self.projects[project][:2]

    def read_owners(self, connection: Connection, owners: Collection[str]) -> None:
        """Read what these hold."""
        self._take_claims(_CLAIMS_OF.rows(connection, owners))

    def read_groups(self, connection: Connection, group_ids: Collection[str]) -> None:
        """Read the generations of these groups and their claims."""
        if group_ids:
            self.groups.update(dict.fromkeys(group_ids))
            self.groups.update({row.group_id: row.generation for row in _GROUPS.rows(connection, group_ids)})
            self._take_claims(_MEMBERS.rows(connection, group_ids))

    def read_projects(self, connection: Connection, projects: Collection[str]) -> None:
        """Read quota and usage of these projects; one without a row has the default quota and holds nothing."""
        self.projects.update({project: (self.default_quota, ProjectUsage(), None) for project in projects})
        for row in _PROJECTS.rows(connection, projects):
            self.projects[row.project] = project_of(row, self.default_quota)

    def read_usage(self, connection: Connection, host_ids: Collection[str], sr_ids: Collection[str]) -> None:
        """Read the usage of these hosts and SRs."""
        self.hosts.update({row.host_id: host_of(row) for row in _HOSTS.rows(connection, host_ids)})
        self.srs.update({row.sr_id: sr_of(row) for row in _SRS.rows(connection, sr_ids)})

    def _take_claims(self, rows: Iterable[Row[Any]]) -> None:
        """Take over all claims of the owners in these rows."""
        found: dict[str, tuple[Claim, ...]] = {}
        for claim, key in claims_of(rows):
            self.keys[claim.owner, claim.role] = key
            found[claim.owner] = (*found.get(claim.owner, ()), claim)
        self.claims.update(found)


def parts(ids: Sequence[str]) -> Iterable[Sequence[str]]:
    """The ids in parts that fit a statement."""
    for start in range(0, len(ids), IDS_MAX):
        yield ids[start : start + IDS_MAX]


def claims_of(rows: Iterable[Row[Any]]) -> list[tuple[Claim, str]]:
    """(claim, its idempotency key) of rows with a disk each, in the order of owners and roles."""
    found: list[tuple[Claim, str]] = []
    last: Row[Any] | None = None
    disks: list[DiskShare] = []
    for row in rows:
        if last is not None and (row.owner, row.role) != (last.owner, last.role):
            found.append((_claim(last, disks), last.key))
            disks = []
        if row.disk_id is not None:
            disks.append(DiskShare(row.disk_id, row.sr_id, row.size_bytes))
        last = row
    if last is not None:
        found.append((_claim(last, disks), last.key))
    return found


def _claim(row: Row[Any], disks: list[DiskShare]) -> Claim:
    host = None if row.host_id is None else HostShare(row.host_id, row.memory_mib, row.vcpus)
    membership = None if row.group_id is None else Membership(row.group_id, Policy(row.policy), row.member_index)
    return Claim(row.owner, row.project, host, tuple(disks), membership, Role(row.role))


def claim_row(claim: Claim, key: str) -> dict[str, object]:
    """A claim as a row."""
    host, membership = claim.host, claim.membership
    return {
        "owner": claim.owner,
        "role": claim.role.value,
        "project": claim.project,
        "host_id": None if host is None else host.host_id,
        "memory_mib": 0 if host is None else host.memory_mib,
        "vcpus": 0 if host is None else host.vcpus,
        "group_id": None if membership is None else membership.group_id,
        "policy": None if membership is None else membership.policy.value,
        "member_index": 0 if membership is None else membership.member_index,
        "key": key,
    }


def disk_rows(claim: Claim) -> list[dict[str, object]]:
    """The disks of a claim as rows."""
    return [
        {
            "owner": claim.owner,
            "role": claim.role.value,
            "disk_id": disk.disk_id,
            "position": position,
            "sr_id": disk.sr_id,
            "size_bytes": disk.size_bytes,
        }
        for position, disk in enumerate(claim.disks)
    ]


def host_of(row: Row[Any]) -> HostUsage:
    """A host's row."""
    limit = HostLimit(row.host_id, row.memory_limit_mib, row.vcpus_limit, row.is_open)
    return HostUsage(limit, row.memory_mib, row.vcpus, row.generation)


def sr_of(row: Row[Any]) -> SrUsage:
    """An SR's row."""
    return SrUsage(SrLimit(row.sr_id, row.limit_bytes, row.is_open), row.size_bytes, row.generation)


def project_of(row: Row[Any], default: Quota) -> tuple[Quota, ProjectUsage, int]:
    """A project's row: quota, usage, generation."""
    quota = default
    if row.has_quota:
        quota = Quota(row.servers_max, row.vcpus_max, row.memory_mib_max, row.volumes_max, row.disk_bytes_max)
    usage = ProjectUsage(row.servers, row.vcpus, row.memory_mib, row.volumes, row.disk_bytes)
    return quota, usage, row.generation


def asked_digest(batch: Batch) -> bytes:
    """16 bytes that say what a batch asks for."""
    return blake2b(repr(batch.asked).encode(), digest_size=16).digest()
