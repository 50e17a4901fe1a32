"""Rows, the relations between them, and what changed since when.

Every change takes the next number of one counter, the generation. `changes_since` walks rows from the newest change back
until it meets the generation that the caller knows, so a poll costs what changed and not what there is. Removed rows
leave a gravestone; the oldest are dropped, and who asks about a time before is told so.

A field that refers to another row (`VBD.VM`) keeps that row's listing (`VM.VBDs`) right by itself.

Rows hold only what differs from the defaults: a VM has ninety fields of which twenty are ever set.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from scheduler.xen.simulator.failure import Failure
from scheduler.xen.simulator.schema import CLASSES, INVERSES, NULL, WITHOUT_EVENTS, ClassSchema

GRAVESTONES_MAX: Final = 4096
"""Removals that a poll can still be told of."""


class Row:
    """One object. Read fields with `row["name"]`; only the database changes them."""

    __slots__ = ("created", "modified", "ref", "schema", "values")

    def __init__(self, schema: ClassSchema, ref: str, generation: int) -> None:
        self.schema = schema
        self.ref = ref
        self.values: dict[str, Any] = {}
        self.created = generation
        self.modified = generation

    def __getitem__(self, field: str) -> Any:
        value = self.values.get(field)
        return self.schema.fields[field].default if value is None else value

    def __repr__(self) -> str:
        return f"<{self.cls} {self.ref}>"

    @property
    def cls(self) -> str:
        """The name of its class."""
        return self.schema.name

    @property
    def uuid(self) -> str:
        """Its UUID."""
        uuid: str = self["uuid"]
        return uuid

    def record(self) -> dict[str, Any]:
        """All fields, as `get_record` answers."""
        return {name: self[name] for name in self.schema.fields}


@dataclass(frozen=True, slots=True)
class Gravestone:
    """A row that was removed."""

    generation: int
    cls: str
    ref: str
    created: int


@dataclass(frozen=True, slots=True)
class Changes:
    """What changed since a generation, oldest first."""

    changed: list[Row]
    removed: list[Gravestone]


class Database:
    """The rows of one pool."""

    def __init__(self, new_uuid: Callable[[], str]) -> None:
        self._new_uuid = new_uuid
        self._tables: dict[str, dict[str, Row]] = {name: {} for name in CLASSES}
        self._by_uuid: dict[str, dict[str, str]] = {name: {} for name in CLASSES}
        self._recent: OrderedDict[str, Row] = OrderedDict()
        self._removed: deque[Gravestone] = deque()
        self.generation = 0
        self.forgotten = 0
        """The newest generation whose removals are no longer all known."""
        self.touched: dict[str, Row] = {}
        """Rows changed since somebody last emptied this: their allowed operations may have changed."""

    def add(self, cls: str, /, **values: Any) -> Row:
        """A new row, with a UUID and a reference of its own unless given as `uuid` and `ref`."""
        ref = values.pop("ref", None) or f"OpaqueRef:{self._new_uuid()}"
        self.generation += 1
        row = Row(CLASSES[cls], ref, self.generation)
        values.setdefault("uuid", self._new_uuid())
        self._tables[cls][ref] = row
        if values["uuid"] in self._by_uuid[cls]:
            raise Failure("UUID_INVALID", cls, values["uuid"])
        self._by_uuid[cls][values["uuid"]] = ref
        self._write(row, values)
        return row

    def set(self, row: Row, /, **values: Any) -> bool:
        """Change fields; whether anything differs from before."""
        changed = {name: value for name, value in values.items() if row[name] != value}
        if changed:
            self._write(row, changed)
        return bool(changed)

    def touch(self, row: Row) -> None:
        """Say that a row changed though it did not."""
        self._write(row, {})

    def _write(self, row: Row, values: Mapping[str, Any]) -> None:
        relations = INVERSES.get(row.cls, {})
        for name, value in values.items():
            if name in relations:
                self._unlink(row, name)
            if value == row.schema.fields[name].default:
                row.values.pop(name, None)
            else:
                row.values[name] = value
            if name in relations:
                self._link(row, name)
        self._mark(row)

    def _mark(self, row: Row) -> None:
        if row.cls in WITHOUT_EVENTS:
            return
        self.generation += 1
        row.modified = self.generation
        self._recent[row.ref] = row
        self._recent.move_to_end(row.ref)
        self.touched[row.ref] = row

    def _referred(self, row: Row, name: str) -> Iterator[tuple[Row, str]]:
        cls, inverse = INVERSES[row.cls][name]
        value = row[name]
        for ref in value if isinstance(value, tuple) else (value,):
            target = self._tables[cls].get(ref)
            if target is not None:
                yield target, inverse

    def _link(self, row: Row, name: str) -> None:
        for target, inverse in self._referred(row, name):
            if row.ref not in target[inverse]:
                target.values[inverse] = (*target[inverse], row.ref)
                self._mark(target)

    def _unlink(self, row: Row, name: str) -> None:
        for target, inverse in self._referred(row, name):
            rest = tuple(ref for ref in target[inverse] if ref != row.ref)
            if rest:
                target.values[inverse] = rest
            else:
                target.values.pop(inverse, None)
            self._mark(target)

    def remove(self, row: Row) -> None:
        """Remove a row, from the listings that it stands in as well."""
        for name in INVERSES.get(row.cls, {}):
            self._unlink(row, name)
        del self._tables[row.cls][row.ref]
        del self._by_uuid[row.cls][row.uuid]
        self._recent.pop(row.ref, None)
        self.touched.pop(row.ref, None)
        if row.cls in WITHOUT_EVENTS:
            return
        self.generation += 1
        self._removed.append(Gravestone(self.generation, row.cls, row.ref, row.created))
        if len(self._removed) > GRAVESTONES_MAX:
            self.forgotten = self._removed.popleft().generation

    def forget_changes(self) -> None:
        """Lose the history, as a pool does that was overrun: who knows only an older generation has to start anew."""
        self.generation += 1
        self.forgotten = self.generation

    def find(self, cls: str, ref: str) -> Row | None:
        """The row, if there is one."""
        return self._tables[cls].get(ref)

    def get(self, cls: str, ref: str) -> Row:
        """The row. Raises Failure HANDLE_INVALID."""
        row = self._tables[cls].get(ref)
        if row is None:
            raise Failure("HANDLE_INVALID", cls, ref)
        return row

    def all(self, cls: str, refs: Iterable[str]) -> list[Row]:
        """Those rows of the refs that there are."""
        table = self._tables[cls]
        return [table[ref] for ref in refs if ref in table]

    def rows(self, cls: str) -> list[Row]:
        """All rows of a class, oldest first."""
        return list(self._tables[cls].values())

    def count(self, cls: str) -> int:
        """How many rows a class has."""
        return len(self._tables[cls])

    def by_uuid(self, cls: str, uuid: str) -> Row:
        """The row. Raises Failure UUID_INVALID."""
        ref = self._by_uuid[cls].get(uuid)
        if ref is None:
            raise Failure("UUID_INVALID", cls, uuid)
        return self._tables[cls][ref]

    def changes_since(self, generation: int, *, lossy: bool = False) -> Changes:
        """Rows changed or removed after a generation. Raises Failure EVENTS_LOST when removals since are forgotten.

        `lossy` is for who asks after each change, and so misses nothing whatever clients are told.
        """
        if 0 < generation < self.forgotten and not lossy:
            raise Failure("EVENTS_LOST")
        changed: list[Row] = []
        for row in reversed(self._recent.values()):
            if row.modified <= generation:
                break
            changed.append(row)
        changed.reverse()
        removed = [stone for stone in self._removed if stone.generation > generation >= stone.created]
        return Changes(changed, removed)

    def one(self, cls: str) -> Row:
        """The only row of a class, as a pool is."""
        (row,) = self._tables[cls].values()
        return row

    @property
    def null(self) -> str:
        """The reference to nothing."""
        return NULL
