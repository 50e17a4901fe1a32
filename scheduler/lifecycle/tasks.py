"""Tasks in the database: submitted, taken up under a lease, carried on under a fencing token.

Problem: several controllers look for work in one table, one of them may stop for a minute in the middle of anything, and
work on one server must never overtake other work on it.

Idea: a task is taken by an UPDATE that only succeeds if it is open, due, nobody's (or its lease has run out) and the oldest
open one of its subject; the same UPDATE raises `fence`. Every later change names the fence it was taken with and changes
nothing if that has moved on. A lease is renewed while the work goes on, and given back at its end.

The clock by which leases run out is the database's where controllers share one over a network (PostgreSQL), so that skewed
clocks cannot make two believe that they hold a lease; with SQLite it is the machine's.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, and_, exists, select, text, update

from scheduler.lifecycle.machine import MACHINES
from scheduler.records import store
from scheduler.records.tables import TASKS
from scheduler.records.types import TaskRecord, TaskState


def submit(
    connection: Connection, kind: str, subject: str, project: str, data: Mapping[str, Any], now_s: float
) -> TaskRecord:
    """A new task at its first stage."""
    record = TaskRecord(0, kind, MACHINES[kind].first, subject, project, TaskState.OPEN, data, now_s)
    return store.add_task(connection, record)


def open_task(connection: Connection, subject: str) -> TaskRecord | None:
    """The oldest open task of a subject."""
    query = (
        select(TASKS)
        .where(TASKS.c.subject == subject, TASKS.c.state == TaskState.OPEN.value)
        .order_by(TASKS.c.id)
        .limit(1)
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else store.from_row(TaskRecord, row)


def cancel_open(connection: Connection, subject: str) -> None:
    """Ask whoever works on this subject to stop."""
    connection.execute(
        update(TASKS)
        .where(TASKS.c.subject == subject, TASKS.c.state == TaskState.OPEN.value)
        .values(cancelled=True, not_before_s=0.0)
    )


def database_clock(connection: Connection) -> float:
    """The time by which leases run out, in seconds since 1970: PostgreSQL's own, this machine's with SQLite."""
    if connection.dialect.name == "postgresql":
        return float(connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())
    return time.time()


def take(
    connection: Connection, owner: str, now_s: float, lease_s: float, *, lease_now_s: float | None = None
) -> TaskRecord | None:
    """Take up the oldest task that can be worked on now; None if there is none. `lease_now_s`: the time by the
    leases' clock, where that is another one."""
    lease_now_s = now_s if lease_now_s is None else lease_now_s
    earlier = TASKS.alias("earlier")
    blocked = exists().where(
        and_(
            earlier.c.subject == TASKS.c.subject,
            earlier.c.state == TaskState.OPEN.value,
            earlier.c.id < TASKS.c.id,
        )
    )
    free = and_(
        TASKS.c.state == TaskState.OPEN.value,
        TASKS.c.not_before_s <= now_s,
        TASKS.c.lease_until_s <= lease_now_s,
        ~blocked,
    )
    for number in connection.execute(select(TASKS.c.id).where(free).order_by(TASKS.c.id).limit(8)).scalars().all():
        taken = connection.execute(
            update(TASKS)
            .where(TASKS.c.id == number, TASKS.c.lease_until_s <= lease_now_s, TASKS.c.state == TaskState.OPEN.value)
            .values(lease_owner=owner, lease_until_s=lease_now_s + lease_s, fence=TASKS.c.fence + 1)
        )
        if taken.rowcount == 1:
            return store.find(connection, TaskRecord, number)
    return None


def renew(connection: Connection, task: TaskRecord, now_s: float, lease_s: float, progress: float) -> tuple[bool, bool]:
    """Hold the task for longer. Whether it is still held, and whether somebody wants it cancelled."""
    row = connection.execute(
        update(TASKS)
        .where(_held(task))
        .values(lease_until_s=now_s + lease_s, progress=progress)
        .returning(TASKS.c.cancelled)
    ).one_or_none()
    return row is not None, row is not None and bool(row.cancelled)


def carry_on(connection: Connection, held: TaskRecord, after: TaskRecord, *, keep_until_s: float) -> bool:
    """Store what comes after; False, and nothing stored, if somebody else has taken the task up meanwhile.

    `keep_until_s` is until when the lease is held further; 0 gives it back.
    """
    changes = {
        field: getattr(after, field)
        for field in ("stage", "data", "attempt", "round", "not_before_s", "progress", "error", "finished_s")
    }
    changes |= {"state": after.state.value, "data": dict(after.data), "lease_until_s": keep_until_s}
    if not keep_until_s:
        changes["lease_owner"] = ""
    return connection.execute(update(TASKS).where(_held(held)).values(changes)).rowcount == 1


def is_held(connection: Connection, task: TaskRecord) -> bool:
    """Whether the task's fence is still the one that it was taken with; until the transaction ends nobody can take it."""
    return connection.execute(select(TASKS.c.id).where(_held(task)).with_for_update()).one_or_none() is not None


def give_back_all(connection: Connection, owner: str) -> int:
    """End the leases of an owner that is known to be dead: of the process that had this name before. How many there were."""
    return connection.execute(
        update(TASKS)
        .where(TASKS.c.lease_owner == owner, TASKS.c.state == TaskState.OPEN.value)
        .values(lease_until_s=0.0)
    ).rowcount


def forget_closed(connection: Connection, before_s: float) -> int:
    """Remove tasks that ended before that time. How many."""
    from sqlalchemy import delete

    closed = and_(TASKS.c.state != TaskState.OPEN.value, TASKS.c.finished_s < before_s)
    return connection.execute(delete(TASKS).where(closed)).rowcount


def with_data(task: TaskRecord, data: Mapping[str, Any]) -> TaskRecord:
    """The task, remembering this as well."""
    return dataclasses.replace(task, data={**task.data, **data}) if data else task


def _held(task: TaskRecord) -> Any:
    return and_(TASKS.c.id == task.id, TASKS.c.fence == task.fence, TASKS.c.state == TaskState.OPEN.value)
