"""Records read and written: one function for each thing that is done to a table, whichever it is.

Every function works in the caller's transaction, so that what belongs together (a server's state and its task's stage) is
committed together. None of them decides anything.

Names are looked up exactly; an id is as good as a name, and an id's beginning of at least eight characters, too, as long as
it is the only one.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from enum import Enum
from functools import cache
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Row, Table, delete, func, insert, or_, select, update

from scheduler.errors import SchedulerError
from scheduler.records import tables
from scheduler.records.types import (
    FlavorRecord,
    GroupRecord,
    HostRecord,
    ImageRecord,
    PoolRecord,
    ServerRecord,
    SnapshotRecord,
    SrRecord,
    TaskRecord,
    VolumeRecord,
)

R = TypeVar("R")
"""One of the classes of `scheduler.records.types`."""

TABLES: Final[Mapping[type[Any], Table]] = {
    FlavorRecord: tables.FLAVORS,
    GroupRecord: tables.GROUPS,
    HostRecord: tables.HOSTS,
    ImageRecord: tables.IMAGES,
    PoolRecord: tables.POOLS,
    ServerRecord: tables.SERVERS,
    SnapshotRecord: tables.SNAPSHOTS,
    SrRecord: tables.SRS,
    TaskRecord: tables.TASKS,
    VolumeRecord: tables.VOLUMES,
}
NOUNS: Final[Mapping[type[Any], str]] = {
    FlavorRecord: "flavor",
    GroupRecord: "server group",
    HostRecord: "host",
    ImageRecord: "image",
    PoolRecord: "pool",
    ServerRecord: "server",
    SnapshotRecord: "snapshot",
    SrRecord: "SR",
    TaskRecord: "task",
    VolumeRecord: "volume",
}
PREFIX_CHARACTERS_MIN: Final = 8


class NoSuchRecord(SchedulerError):
    """The caller's: nothing is called that."""


class AmbiguousName(SchedulerError):
    """The caller's: several things are called that; their ids tell them apart."""


class NameTaken(SchedulerError):
    """The caller's: something is called that already."""


def add(connection: Connection, record: R) -> None:
    """Insert it. NameTaken where its name or id is in use."""
    from sqlalchemy.exc import IntegrityError

    try:
        with connection.begin_nested():
            connection.execute(insert(TABLES[type(record)]).values(_columns(record)))
    except IntegrityError:
        name = getattr(record, "name", "") or getattr(record, "id", "")
        raise NameTaken(f"there is a {NOUNS[type(record)]} {name!r} already") from None


def add_task(connection: Connection, record: TaskRecord) -> TaskRecord:
    """Insert a task; it comes back with its number."""
    values = _columns(record)
    del values["id"]
    key = connection.execute(insert(tables.TASKS).values(values)).inserted_primary_key
    assert key is not None
    return dataclasses.replace(record, id=int(key[0]))


def change(connection: Connection, kind: type[R], record_id: str | int, **changes: Any) -> bool:
    """Update these columns of a row; whether there is one."""
    table = TABLES[kind]
    values = {name: _plain(value) for name, value in changes.items()}
    return bool(connection.execute(update(table).where(table.c.id == record_id).values(values)).rowcount)


def remove(connection: Connection, kind: type[R], record_id: str | int) -> bool:
    """Delete a row; whether there was one."""
    table = TABLES[kind]
    return bool(connection.execute(delete(table).where(table.c.id == record_id)).rowcount)


def find(connection: Connection, kind: type[R], record_id: str | int, *, lock: bool = False) -> R | None:
    """The record of that id, or None. With `lock` nobody else changes it in this transaction's time."""
    table = TABLES[kind]
    query = select(table).where(table.c.id == record_id)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    return None if row is None else from_row(kind, row)


def all_of(connection: Connection, kind: type[R], **where: Any) -> list[R]:
    """All records of a kind (with these values in these columns), in the order of names or ids."""
    table = TABLES[kind]
    query = select(table).where(*(table.c[name] == _plain(value) for name, value in where.items()))
    order = [table.c.name, table.c.id] if "name" in table.c else [table.c.id]
    return [from_row(kind, row) for row in connection.execute(query.order_by(*order))]


def count_of(connection: Connection, kind: type[R], **where: Any) -> int:
    """How many there are."""
    table = TABLES[kind]
    query = select(func.count()).select_from(table)
    query = query.where(*(table.c[name] == _plain(value) for name, value in where.items()))
    return int(connection.execute(query).scalar_one())


def named(connection: Connection, kind: type[R], name: str, project: str = "", *, lock: bool = False) -> R:
    """The record that is called so, or has that id, or whose id begins so. NoSuchRecord, AmbiguousName."""
    table, noun = TABLES[kind], NOUNS[kind]
    if not name or len(name) > 255 or "\x00" in name or not name.isprintable():
        raise NoSuchRecord(f"there is no {noun} {name[:60]!r}")
    conditions = [table.c.id == name]
    if "name" in table.c:
        conditions.append(table.c.name == name)
    if len(name) >= PREFIX_CHARACTERS_MIN:
        conditions.append(func.substr(table.c.id, 1, len(name)) == name)
    query = select(table).where(or_(*conditions))
    if project and "project" in table.c:
        query = query.where(table.c.project == project)
    rows = [from_row(kind, row) for row in connection.execute(query.with_for_update() if lock else query)]
    exact = [row for row in rows if name in (getattr(row, "id", None), getattr(row, "name", None))]
    found = exact or rows
    if not found:
        raise NoSuchRecord(f"there is no {noun} {name!r}")
    if len(found) > 1:
        ids = ", ".join(str(getattr(row, "id", "")) for row in found)
        raise AmbiguousName(f"{len(found)} {noun}s are called {name!r}; use the id: {ids}")
    return found[0]


def from_row(kind: type[R], row: Row[Any]) -> R:
    """The row as a value."""
    values = dict(row._mapping)
    for name, convert in _converters(typing.cast("Any", kind)):
        values[name] = convert(values[name])
    return kind(**values)


@cache
def _converters(kind: Any) -> tuple[tuple[str, Any], ...]:
    hints = typing.get_type_hints(kind)
    found: list[tuple[str, Any]] = []
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if isinstance(hint, type) and issubclass(hint, Enum):
            found.append((field.name, hint))
        elif typing.get_origin(hint) is tuple:
            found.append((field.name, tuple))
    return tuple(found)


def _columns(record: Any) -> dict[str, Any]:
    return {field.name: _plain(getattr(record, field.name)) for field in dataclasses.fields(record)}


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, Mapping):
        return dict(value)
    return value
