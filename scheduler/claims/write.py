"""Writing an outcome: each row only if it is still the one that was read.

The order (groups, projects, hosts, SRs, each by id) is the same in every transaction, so two of them never wait for
each other in a circle. A row that is not there yet is inserted; if another transaction inserts it first, the database
refuses, and that too is a race.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, Insert, Update, bindparam, delete, insert, update

from scheduler.claims.check import Outcome
from scheduler.claims.claim import Change, Claim
from scheduler.claims.rows import USAGE_FIELDS, Picture, claim_row, disk_rows
from scheduler.claims.tables import CLAIMS, DISKS, GROUPS, HOSTS, PROJECTS, SRS

_UPDATE_HOST = (
    update(HOSTS)
    .where(HOSTS.c.host_id == bindparam("id"), HOSTS.c.generation == bindparam("known"))
    .values(memory_mib=bindparam("new_memory"), vcpus=bindparam("new_vcpus"), generation=HOSTS.c.generation + 1)
)
_UPDATE_SR = (
    update(SRS)
    .where(SRS.c.sr_id == bindparam("id"), SRS.c.generation == bindparam("known"))
    .values(size_bytes=bindparam("new_size"), generation=SRS.c.generation + 1)
)
_UPDATE_PROJECT = (
    update(PROJECTS)
    .where(PROJECTS.c.project == bindparam("id"), PROJECTS.c.generation == bindparam("known"))
    .values(**{name: bindparam(f"new_{name}") for name in USAGE_FIELDS}, generation=PROJECTS.c.generation + 1)
)
_UPDATE_GROUP = (
    update(GROUPS)
    .where(GROUPS.c.group_id == bindparam("id"), GROUPS.c.generation == bindparam("known"))
    .values(generation=GROUPS.c.generation + 1)
)
_DELETE_DISKS = delete(DISKS).where(DISKS.c.owner == bindparam("id"), DISKS.c.role == bindparam("of_role"))
_DELETE_CLAIM = delete(CLAIMS).where(CLAIMS.c.owner == bindparam("id"), CLAIMS.c.role == bindparam("of_role"))
_INSERT_CLAIMS = insert(CLAIMS)
_INSERT_DISKS = insert(DISKS)


class Raced(Exception):
    """Another transaction changed a row between reading and writing it: begin anew."""


def write(
    connection: Connection,
    picture: Picture,
    outcome: Outcome,
    gone: Sequence[Claim],
    come: Sequence[Claim] = (),
    keys: Sequence[str] = (),
) -> Change:
    """Delete `gone`, insert `come` with their idempotency keys, write the sums. Raced if a row is another than was read."""
    _write_groups(connection, picture)
    _write_projects(connection, picture, outcome)
    for host_id, host in sorted(outcome.hosts.items()):
        known = {"id": host_id, "known": host.generation - 1}
        _swap(connection, _UPDATE_HOST, {**known, "new_memory": host.memory_mib, "new_vcpus": host.vcpus})
    for sr_id, sr in sorted(outcome.srs.items()):
        _swap(connection, _UPDATE_SR, {"id": sr_id, "known": sr.generation - 1, "new_size": sr.size_bytes})
    for claim in gone:
        row = {"id": claim.owner, "of_role": claim.role.value}
        if claim.disks:
            connection.execute(_DELETE_DISKS, row)
        if not connection.execute(_DELETE_CLAIM, row).rowcount:
            raise Raced
    if come:
        _insert(connection, _INSERT_CLAIMS, [claim_row(claim, key) for claim, key in zip(come, keys, strict=True)])
        _insert(connection, _INSERT_DISKS, [row for claim in come for row in disk_rows(claim)])
    return Change(tuple(come), tuple(gone), tuple(outcome.hosts.values()), tuple(outcome.srs.values()))


def _write_groups(connection: Connection, picture: Picture) -> None:
    for group_id, generation in sorted(picture.groups.items()):
        if generation is None:
            connection.execute(insert(GROUPS), [{"group_id": group_id, "generation": 1}])
        else:
            _swap(connection, _UPDATE_GROUP, {"id": group_id, "known": generation})


def _write_projects(connection: Connection, picture: Picture, outcome: Outcome) -> None:
    """Every project that was read counts up, also where the sums stay: it stands for the state of its owners."""
    for project, (_, before, generation) in sorted(picture.projects.items()):
        usage = outcome.projects.get(project, before)
        sums = {name: getattr(usage, name) for name in USAGE_FIELDS}
        if generation is None:
            row = {"project": project, "has_quota": False, "generation": 1, **sums}
            connection.execute(insert(PROJECTS), [row])
        else:
            new = {f"new_{name}": value for name, value in sums.items()}
            _swap(connection, _UPDATE_PROJECT, {"id": project, "known": generation, **new})


def _insert(connection: Connection, statement: Insert, rows: Sequence[dict[str, object]]) -> None:
    if len(rows) == 1:
        connection.execute(statement, rows[0])
    elif rows:
        connection.execute(statement, rows)


def _swap(connection: Connection, statement: Update, values: dict[str, object]) -> None:
    if not connection.execute(statement, values).rowcount:
        raise Raced
