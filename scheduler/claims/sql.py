"""Claims in a SQL database: one SQLite file for one machine, PostgreSQL where several controllers share them.

A call is one transaction over a snapshot. It reads the rows that the rule of `check` needs, then writes each row that
the outcome touches only if it is still the one that was read; where one is not, all is rolled back and the call begins
anew. So a refusal is right at the moment of the snapshot, an acceptance at the moment of the commit, without locks held
while thinking. (PostgreSQL runs these transactions in REPEATABLE READ and refuses by itself to write a row that changed
since; SQLite's run one after the other, see `scheduler.database`. The comparison of generations stands below both.)

What covers what: a claim's host and SR rows cover limits, and hard anti-affinity, since both rivals touch the same
host's row; the group's row covers hard affinity; the project's row covers quotas and the state of the owner itself
(held, moving), since every call about an owner touches its project. The key's row covers two calls with one key. Rows
are written in one fixed order (key, groups, projects, hosts, SRs), so two transactions do not wait for each other in a
circle.

Commits of several threads share a transaction: while one syncs, the others' batches gather, and the next transaction
takes all of them. Each batch is checked after those before it in the same transaction; one that is refused has written
nothing.

Rejected: READ COMMITTED (two reads see two moments: a repeated request saw no key, then the claim that the key had
made), SERIALIZABLE (it refuses transactions that only looked at the same page), `SELECT … FOR UPDATE` (rows to lock are
known only after reading which claims there are), advisory locks (the database would not know what they guard).
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy import Connection, Engine, bindparam, delete, insert, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from scheduler.claims.check import change, check_batch, check_growth, grown, moved
from scheduler.claims.claim import (
    Batch,
    Change,
    Claim,
    Guard,
    HostLimit,
    HostUsage,
    ProjectUsage,
    Quota,
    Role,
    SrLimit,
    SrUsage,
)
from scheduler.claims.rows import (
    SELECT_CLAIMS,
    USAGE_FIELDS,
    Picture,
    asked_digest,
    claims_of,
    host_of,
    parts,
    sr_of,
)
from scheduler.claims.tables import CLAIMS, HOSTS, KEYS, PROJECTS, SRS
from scheduler.claims.write import Raced, write
from scheduler.database import with_snapshots
from scheduler.errors import ClaimStateError, Conflict, KeyReused, KeySpent, SchedulerError
from scheduler.placement import reasons

T = TypeVar("T")
ATTEMPTS_MAX = 50
"""Transactions that a call begins before it gives up. Of those that race for a row one succeeds each time."""
GROUP_MAX = 64
"""Batches in one transaction: the first of them waits for the last."""
_RETRYABLE = frozenset({"40001", "40P01"})
"""PostgreSQL's SQLSTATEs of a serialization failure and of a deadlock that it resolved against us."""
_NO_QUOTA = Quota()

_INSERT_KEY = insert(KEYS)
_SELECT_KEY = select(KEYS.c.asked, KEYS.c.owners).where(KEYS.c.key == bindparam("key"))


@dataclass(slots=True)
class _Waiting:
    """A batch that a thread waits for, and what became of it."""

    batch: Batch
    guard: Guard | None = None
    answer: Change | BaseException | None = None


class SqlClaims:
    """Claims in a database; see `Claims`. Thread-safe: each call takes a connection of the engine's pool.

    now_s          gives the time for the age of idempotency keys
    default_quota  of projects that no quota was set for
    """

    def __init__(self, engine: Engine, now_s: Callable[[], float], default_quota: Quota = _NO_QUOTA) -> None:
        self._engine = with_snapshots(engine)
        self._now_s = now_s
        self._default_quota = default_quota
        self._queue: deque[_Waiting] = deque()
        self._turn = threading.Lock()

    # --------------------------------------------------------------------------------------------------------- changes

    def commit(self, batch: Batch, *, guard: Guard | None = None) -> Change:
        """Claim all of the batch, or nothing. See `Claims.commit`."""
        waiting = _Waiting(batch, guard)
        self._queue.append(waiting)
        with self._turn:
            # Whoever had the turn before may have taken this batch along.
            if waiting.answer is None:
                self._commit_waiting()
        if isinstance(waiting.answer, BaseException):
            raise waiting.answer
        assert waiting.answer is not None
        return waiting.answer

    def release(self, owners: Iterable[str], *, guard: Guard | None = None) -> Change:
        """Let go of all that these owners hold, at once. See `Claims.release`."""
        wanted = tuple(dict.fromkeys(owners))

        def work(connection: Connection) -> Change:
            picture = self._picture(connection, wanted)
            gone = [claim for owner in wanted for claim in picture.of(owner)]
            return write(connection, picture, change(gone, (), picture), gone)

        return self._transact("release", work, guard)

    def finish_move(self, owners: Iterable[str], *, guard: Guard | None = None) -> Change:
        """Make targets what is held. See `Claims.finish_move`."""
        wanted = tuple(dict.fromkeys(owners))

        def work(connection: Connection) -> Change:
            picture = self._picture(connection, wanted)
            for owner in wanted:
                if not picture.of(owner):
                    raise ClaimStateError(f"{owner} holds nothing")
            moving = [picture.of(owner) for owner in wanted if len(picture.of(owner)) == 2]
            gone = [claim for pair in moving for claim in pair]
            come = [moved(*pair) for pair in moving]
            keys = [picture.keys[target.owner, Role.TARGET] for _, target in moving]
            done = write(connection, picture, change(gone, come, picture), gone, come, keys)
            now = {claim.owner: claim for claim in come}
            claims = tuple(now.get(owner) or picture.of(owner)[0] for owner in wanted)
            return Change(claims, done.gone, done.hosts, done.srs)

        return self._transact("finish_move", work, guard)

    def abort_move(self, owners: Iterable[str], *, guard: Guard | None = None) -> Change:
        """Let go of targets. See `Claims.abort_move`."""
        wanted = tuple(dict.fromkeys(owners))

        def work(connection: Connection) -> Change:
            picture = self._picture(connection, wanted)
            gone = [claim for owner in wanted for claim in picture.of(owner) if claim.role is Role.TARGET]
            done = write(connection, picture, change(gone, (), picture), gone)
            held = tuple(picture.of(owner)[0] for owner in wanted if picture.of(owner))
            return Change(held, done.gone, done.hosts, done.srs)

        return self._transact("abort_move", work, guard)

    def grow(self, owner: str, disk_id: str, size_bytes: int, *, guard: Guard | None = None) -> Change:
        """Make a held disk that large. See `Claims.grow`."""

        def work(connection: Connection) -> Change:
            picture = self._picture(connection, (owner,))
            claims = picture.of(owner)
            if len(claims) != 1:
                raise ClaimStateError(f"{owner} " + ("is moving; wait for the move" if claims else "holds nothing"))
            new = grown(claims[0], disk_id, size_bytes)
            outcome = check_growth(claims[0], new, picture)
            key = picture.keys[owner, Role.HELD]
            return write(connection, picture, outcome, claims, (new,), (key,))

        return self._transact(owner, work, guard)

    def set_limits(self, hosts: Iterable[HostLimit] = (), srs: Iterable[SrLimit] = ()) -> None:
        """Set limits of hosts and SRs. See `Claims.set_limits`."""
        host_limits, sr_limits = tuple(hosts), tuple(srs)

        def work(connection: Connection) -> None:
            known = Picture(self._default_quota)
            known.read_usage(connection, [limit.host_id for limit in host_limits], [limit.sr_id for limit in sr_limits])
            _set_host_limits(connection, known, host_limits)
            _set_sr_limits(connection, known, sr_limits)

        self._transact("set_limits", work)

    def remove(self, resource_ids: Iterable[str]) -> None:
        """Forget limits. See `Claims.remove`."""
        ids = tuple(dict.fromkeys(resource_ids))

        def work(connection: Connection) -> None:
            for part in parts(ids):
                connection.execute(
                    update(HOSTS)
                    .where(HOSTS.c.host_id.in_(part))
                    .values(memory_limit_mib=0, vcpus_limit=0, is_open=False, generation=HOSTS.c.generation + 1)
                )
                connection.execute(
                    update(SRS)
                    .where(SRS.c.sr_id.in_(part))
                    .values(limit_bytes=0, is_open=False, generation=SRS.c.generation + 1)
                )
                connection.execute(
                    delete(HOSTS).where(HOSTS.c.host_id.in_(part), HOSTS.c.memory_mib == 0, HOSTS.c.vcpus == 0)
                )
                connection.execute(delete(SRS).where(SRS.c.sr_id.in_(part), SRS.c.size_bytes == 0))

        self._transact("remove", work)

    def set_quota(self, project: str, quota: Quota) -> None:
        """Set what a project may hold."""
        limits = {f"{name}_max": getattr(quota, name) for name in USAGE_FIELDS} | {"has_quota": True}

        def work(connection: Connection) -> None:
            done = connection.execute(
                update(PROJECTS)
                .where(PROJECTS.c.project == project)
                .values(**limits, generation=PROJECTS.c.generation + 1)
            )
            if not done.rowcount:
                usage = dict.fromkeys(USAGE_FIELDS, 0)
                connection.execute(insert(PROJECTS), [{"project": project, "generation": 1, **limits, **usage}])

        self._transact(project, work)

    def forget_keys(self, before_s: float) -> int:
        """Forget old idempotency keys that hold nothing. How many."""
        old = delete(KEYS).where(KEYS.c.used_at_s < before_s, KEYS.c.key.not_in(select(CLAIMS.c.key)))
        return self._transact("forget_keys", lambda connection: connection.execute(old).rowcount)

    # ------------------------------------------------------------------------------------------------------- questions

    def made(self, key: str) -> Change | None:
        """What was claimed under an idempotency key. See `Claims.made`."""

        def work(connection: Connection) -> Change | None:
            known = connection.execute(_SELECT_KEY, {"key": key}).one_or_none()
            return None if known is None else self._made(connection, key, json.loads(known.owners))

        return self._transact(key, work)

    def of(self, owner: str) -> tuple[Claim, ...]:
        """What an owner holds: nothing, one claim, or (moving) two, the held one first."""
        picture = Picture(self._default_quota)
        with self._engine.connect() as connection:
            picture.read_owners(connection, [owner])
        return picture.of(owner)

    def all(self) -> Iterator[Claim]:
        """Every claim, in the order of owners, the held one of an owner first."""
        with self._engine.connect() as connection:
            found = [claim for claim, _ in claims_of(connection.execute(SELECT_CLAIMS))]
        return iter(sorted(found, key=lambda claim: (claim.owner, claim.role.value)))

    def members(self, group_id: str) -> tuple[Claim, ...]:
        """The claims of a server group, both roles, in the order of owners."""
        picture = Picture(self._default_quota)
        with self._engine.connect() as connection:
            picture.read_groups(connection, [group_id])
        return tuple(sorted(picture.members(group_id), key=lambda claim: (claim.owner, claim.role.value)))

    def usage(self) -> tuple[tuple[HostUsage, ...], tuple[SrUsage, ...]]:
        """What is claimed of every host and SR that has a limit, in the order of ids."""
        with self._engine.connect() as connection:
            hosts = [host_of(row) for row in connection.execute(select(HOSTS))]
            srs = [sr_of(row) for row in connection.execute(select(SRS))]
        hosts.sort(key=lambda usage: usage.limit.host_id)
        srs.sort(key=lambda usage: usage.limit.sr_id)
        return tuple(hosts), tuple(srs)

    def usage_of(self, resource_ids: Iterable[str]) -> tuple[tuple[HostUsage, ...], tuple[SrUsage, ...]]:
        """The same, of these hosts and SRs alone."""
        ids = sorted(set(resource_ids))
        picture = Picture(self._default_quota)
        with self._engine.connect() as connection:
            picture.read_usage(connection, ids, ids)
        return (
            tuple(picture.hosts[name] for name in ids if name in picture.hosts),
            tuple(picture.srs[name] for name in ids if name in picture.srs),
        )

    def quota(self, project: str) -> tuple[Quota, ProjectUsage]:
        """What a project may hold and what it does hold."""
        picture = Picture(self._default_quota)
        with self._engine.connect() as connection:
            picture.read_projects(connection, [project])
        return picture.quota(project)

    # ------------------------------------------------------------------------------------------------------ inner works

    def _transact(self, what: str, work: Callable[[Connection], T], guard: Guard | None = None) -> T:
        """Do it in a transaction, anew each time that another transaction was there first."""
        for _ in range(ATTEMPTS_MAX):
            try:
                with self._engine.begin() as connection:
                    if guard is not None:
                        guard(connection)
                    return work(connection)
            except (Raced, IntegrityError):
                continue
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) not in _RETRYABLE:
                    raise
        raise Conflict(
            f"{what}: others changed the same rows {ATTEMPTS_MAX} times in a row; try again",
            kind=reasons.CONTENDED,
            resource=what,
        )

    def _commit_waiting(self) -> None:
        """Commit what waits, in one transaction. A batch that is refused has written nothing, so the others stand."""
        group = [self._queue.popleft() for _ in range(min(len(self._queue), GROUP_MAX))]

        def work(connection: Connection) -> list[Change | Exception]:
            answers: list[Change | Exception] = []
            for waiting in group:
                try:
                    if waiting.guard is not None:
                        waiting.guard(connection)
                except (Raced, DBAPIError):
                    raise
                except Exception as error:  # a guard's own refusal is that batch's alone
                    answers.append(error)
                    continue
                try:
                    answers.append(self._commit(connection, waiting.batch))
                except SchedulerError as error:
                    answers.append(error)
            return answers

        try:
            answers = self._transact(f"{len(group)} claims", work)
        except BaseException as error:
            for waiting in group:
                waiting.answer = error
        else:
            for waiting, answer in zip(group, answers, strict=True):
                waiting.answer = answer

    def _commit(self, connection: Connection, batch: Batch) -> Change:
        known = connection.execute(_SELECT_KEY, {"key": batch.key}).one_or_none()
        if known is not None:
            if bytes(known.asked) != asked_digest(batch):
                raise KeyReused(f"idempotency key {batch.key} was used for another claim; take a new key")
            return self._made(connection, batch.key, json.loads(known.owners))
        picture = Picture(self._default_quota)
        picture.read_projects(connection, {claim.project for claim in batch.claims})
        picture.read_groups(connection, _groups_of(batch.claims))
        picture.read_usage(connection, _hosts_of(batch.claims), _srs_of(batch.claims))
        owners = [claim.owner for claim in batch.claims]
        picture.read_owners(connection, [*owners, *batch.same_host_as, *batch.different_host_from])
        outcome = check_batch(batch, picture)
        row = {"key": batch.key, "asked": asked_digest(batch), "owners": json.dumps(owners), "used_at_s": self._now_s()}
        connection.execute(_INSERT_KEY, row)
        return write(connection, picture, outcome, (), batch.claims, [batch.key] * len(batch.claims))

    def _made(self, connection: Connection, key: str, owners: Sequence[str]) -> Change:
        picture = Picture(self._default_quota)
        picture.read_owners(connection, owners)
        claims: list[Claim] = []
        for owner in owners:
            made = [claim for claim in picture.of(owner) if picture.keys[owner, claim.role] == key]
            if not made:
                raise KeySpent(f"what idempotency key {key} claimed for {owner} was released since")
            claims.append(made[0])
        picture.read_usage(connection, _hosts_of(claims), _srs_of(claims))
        return Change(tuple(claims), (), tuple(picture.hosts.values()), tuple(picture.srs.values()))

    def _picture(self, connection: Connection, owners: Sequence[str]) -> Picture:
        """All that a change of what these owners hold touches."""
        picture = Picture(self._default_quota)
        picture.read_owners(connection, owners)
        claims = [claim for owner in owners for claim in picture.of(owner)]
        picture.read_projects(connection, {claim.project for claim in claims})
        picture.read_groups(connection, _groups_of(claims))
        picture.read_usage(connection, _hosts_of(claims), _srs_of(claims))
        return picture


def _hosts_of(claims: Iterable[Claim]) -> set[str]:
    return {claim.host.host_id for claim in claims if claim.host is not None}


def _srs_of(claims: Iterable[Claim]) -> set[str]:
    return {disk.sr_id for claim in claims for disk in claim.disks}


def _groups_of(claims: Iterable[Claim]) -> set[str]:
    return {claim.membership.group_id for claim in claims if claim.membership is not None}


def _set_host_limits(connection: Connection, known: Picture, limits: Iterable[HostLimit]) -> None:
    changed, new = [], []
    for limit in limits:
        usage = known.host(limit.host_id)
        row = {
            "memory_limit_mib": limit.memory_mib,
            "vcpus_limit": limit.vcpus,
            "is_open": limit.is_open,
        }
        if usage is None:
            new.append({**row, "host_id": limit.host_id, "memory_mib": 0, "vcpus": 0, "generation": 1})
        elif usage.limit != limit:
            changed.append({**row, "id": limit.host_id})
    if changed:
        statement = update(HOSTS).where(HOSTS.c.host_id == bindparam("id"))
        connection.execute(statement.values(generation=HOSTS.c.generation + 1), changed)
    if new:
        connection.execute(insert(HOSTS), new)


def _set_sr_limits(connection: Connection, known: Picture, limits: Iterable[SrLimit]) -> None:
    changed, new = [], []
    for limit in limits:
        usage = known.sr(limit.sr_id)
        row = {"limit_bytes": limit.size_bytes, "is_open": limit.is_open}
        if usage is None:
            new.append({**row, "sr_id": limit.sr_id, "size_bytes": 0, "generation": 1})
        elif usage.limit != limit:
            changed.append({**row, "id": limit.sr_id})
    if changed:
        statement = update(SRS).where(SRS.c.sr_id == bindparam("id"))
        connection.execute(statement.values(generation=SRS.c.generation + 1), changed)
    if new:
        connection.execute(insert(SRS), new)
