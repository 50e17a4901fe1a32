"""The records of all pools on disk, so that a simulator can be stopped, or killed, and started again.

A snapshot of all records, and a journal of the rows changed since. The journal is written before a call is answered, so
whatever a client was told survives the death of the process; it is not synced, so a loss of power may cost the last
moments, as it may in a real pool. The snapshot names the journal that belongs to it, and is replaced by renaming: at every
instant there is one snapshot with its journal. A last line that was not written whole is dropped.

What runs in a pool outlives the simulator, as guests outlive a restart of a real pool's toolstack; operations that were on
their way do not, and their tasks are failed on loading. Disks and records are made to agree: bytes without a record go, a
record without bytes gets an empty disk.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson

from scheduler.xen.simulator import guest
from scheduler.xen.simulator.allowed import is_null, refresh
from scheduler.xen.simulator.database import Row
from scheduler.xen.simulator.failure import Failure
from scheduler.xen.simulator.pool import Pool
from scheduler.xen.simulator.schema import CLASSES, WITHOUT_EVENTS, check
from scheduler.xen.simulator.site import Site
from scheduler.xen.simulator.storage import key_of

MAGIC: Final = "ringstead-xensim"
VERSION: Final = 1
SNAPSHOT: Final = "pools.json"
LOCK: Final = "lock"
JOURNAL_MAX_BYTES: Final = 32 << 20
"""A longer journal is folded into a new snapshot."""


class CannotSave(Exception):
    """The disk takes no more: what clients would be told could not be kept, so nothing more is served."""


class Unreadable(Exception):
    """What was saved cannot be loaded, or is in use."""


class Keeper:
    """Writes down what changes. Holds the folder's lock until closed. Raises Unreadable when another has it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = (folder / LOCK).open("wb")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise Unreadable(f"{folder} is used by another simulator") from None
        self._number = 0
        self._journal: BinaryIO | None = None
        self._site: Site | None = None
        self._written: dict[Pool, int] = {}
        self._dead: dict[Pool, list[str]] = {}

    def load(self, new_pool: Callable[[int], Pool]) -> list[Pool]:
        """The pools that were saved; none where nothing was. Raises Unreadable."""
        path = self._folder / SNAPSHOT
        if not path.exists():
            return []
        try:
            state = orjson.loads(path.read_bytes())
            if state["magic"] != MAGIC or state["version"] != VERSION:
                raise Unreadable(f"{path} is of version {state['version']}, this reads {VERSION}")
            self._number = int(state["journal"])
            saved = {index: _Saved(one) for index, one in enumerate(state["pools"])}
            for line in _lines(self._journal_path()):
                saved[line["pool"]].apply(line)
            pools = [one.fill(new_pool(index)) for index, one in saved.items()]
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, OSError, Failure) as error:
            raise Unreadable(f"{path} cannot be read: {error!r}") from None
        _match_disks(pools)
        return pools

    def begin(self, site: Site) -> None:
        """Write a snapshot, and go on from there."""
        self._site = site
        self._snapshot()

    def note(self) -> None:
        """Write down all that changed since the last time."""
        if self._site is None or self._journal is None:
            return
        lines = [line for index, pool in enumerate(self._site.pools) for line in self._news(index, pool)]
        if not lines:
            return
        try:
            self._journal.write(b"".join(lines))
            self._journal.flush()
            if self._journal.tell() > JOURNAL_MAX_BYTES:
                self._snapshot()
        except OSError as error:
            raise CannotSave(f"cannot write to {self._folder}: {error.strerror}") from None

    def close(self) -> None:
        """Write the last snapshot and give the folder back."""
        if self._site is not None:
            self._snapshot()
        if self._journal is not None:
            self._journal.close()
        self._lock.close()

    def _journal_path(self) -> Path:
        return self._folder / f"journal-{self._number}.jsonl"

    def _news(self, index: int, pool: Pool) -> Iterator[bytes]:
        dead = sorted(pool.dead)
        if dead != self._dead[pool]:
            self._dead[pool] = dead
            yield _line({"pool": index, "dead": dead})
        generation = self._written[pool]
        if pool.database.generation == generation:
            return
        self._written[pool] = pool.database.generation
        changes = pool.database.changes_since(generation, lossy=True)
        for stone in changes.removed:
            yield _line({"pool": index, "class": stone.cls, "ref": stone.ref})
        for row in changes.changed:
            yield _line({"pool": index, **_state_of(row)})

    def _snapshot(self) -> None:
        assert self._site is not None
        before = self._journal_path()
        self._number += 1
        if self._journal is not None:
            self._journal.close()
        self._journal = self._journal_path().open("wb")
        pools = [
            {
                "name": pool.name,
                "dead": sorted(pool.dead),
                "rows": [
                    _state_of(row) for cls in CLASSES if cls not in WITHOUT_EVENTS for row in pool.database.rows(cls)
                ],
            }
            for pool in self._site.pools
        ]
        state = {"magic": MAGIC, "version": VERSION, "journal": self._number, "pools": pools}
        temporary = self._folder / f".{SNAPSHOT}.new"
        with temporary.open("wb") as file:
            file.write(orjson.dumps(state, option=orjson.OPT_NON_STR_KEYS))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._folder / SNAPSHOT)
        before.unlink(missing_ok=True)
        self._written = {pool: pool.database.generation for pool in self._site.pools}
        self._dead = {pool: sorted(pool.dead) for pool in self._site.pools}


def _line(state: dict[str, Any]) -> bytes:
    return orjson.dumps(state, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_APPEND_NEWLINE)


def _state_of(row: Row) -> dict[str, Any]:
    return {"class": row.cls, "ref": row.ref, "values": row.values}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    for line in path.read_bytes().splitlines(keepends=True):
        if not line.endswith(b"\n"):
            return
        yield orjson.loads(line)


class _Saved:
    """A pool as it was saved."""

    def __init__(self, state: dict[str, Any]) -> None:
        self.name: str = state["name"]
        self.dead: list[str] = state["dead"]
        self.rows: dict[tuple[str, str], dict[str, Any]] = {
            (row["class"], row["ref"]): row["values"] for row in state["rows"]
        }

    def apply(self, line: dict[str, Any]) -> None:
        """One line of the journal."""
        if "dead" in line:
            self.dead = line["dead"]
        elif "values" in line:
            self.rows[line["class"], line["ref"]] = line["values"]
        else:
            self.rows.pop((line["class"], line["ref"]), None)

    def fill(self, pool: Pool) -> Pool:
        """Make an empty pool this one."""
        pool.name = self.name
        pool.dead = set(self.dead)
        for (cls, ref), values in self.rows.items():
            fields = CLASSES[cls].fields
            pool.database.add(
                cls, ref=ref, **{name: check(fields[name].type, value, name) for name, value in values.items()}
            )
        pool.database.forget_changes()
        _end_operations(pool)
        refresh(pool)
        return pool


def _end_operations(pool: Pool) -> None:
    for cls, schema in CLASSES.items():
        if "current_operations" in schema.fields:
            for row in pool.database.rows(cls):
                pool.database.set(row, current_operations={})
    for task in pool.database.rows("task"):
        if task["status"] in ("pending", "cancelling"):
            failure = ("INTERNAL_ERROR", "the toolstack was restarted")
            pool.database.set(task, status="failure", error_info=failure, finished=pool.now())
    for vm in pool.database.rows("VM"):
        pool.database.set(vm, scheduled_to_be_resident_on=pool.database.null)
        if vm["power_state"] == "Running" and not vm["is_control_domain"] and is_null(vm["guest_metrics"]):
            guest.boot(pool, vm)


def _match_disks(pools: list[Pool]) -> None:
    """Bytes for each record, and none without: a process that died may have come between the two."""
    wanted = {key_of(vdi): (pool, vdi) for pool in pools for vdi in pool.database.rows("VDI")}
    there = {key for pool in pools for key in pool.disks.stored()}
    for key in there - wanted.keys():
        pools[0].disks.remove(key)
    for key in wanted.keys() - there:
        pool, vdi = wanted[key]
        pool.disks.create(key, int(vdi["virtual_size"]))
