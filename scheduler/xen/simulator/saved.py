"""The records of all pools in one file, so that a simulator can be stopped and started again.

Magic and version first, then JSON; written to a temporary name, synced and renamed, so there is always a whole one. What
runs in a pool outlives the simulator, as guests outlive a restart of a real pool's toolstack; operations that were on their
way do not, and their tasks are failed on loading.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import orjson

from scheduler.xen.simulator.allowed import refresh
from scheduler.xen.simulator.pool import Pool
from scheduler.xen.simulator.schema import CLASSES, check
from scheduler.xen.simulator.site import Site
from scheduler.xen.simulator.storage import key_of

MAGIC: Final = "ringstead-xensim"
VERSION: Final = 1
NAME: Final = "pools.json"
_NOT_KEPT: Final = frozenset({"session"})


class Unreadable(Exception):
    """What was saved cannot be loaded."""


def save(site: Site, folder: Path) -> None:
    """Write down all pools."""
    state = {"magic": MAGIC, "version": VERSION, "pools": [_state_of(pool, site) for pool in site.pools]}
    temporary = folder / f".{NAME}.new"
    with temporary.open("wb") as file:
        file.write(orjson.dumps(state, option=orjson.OPT_NON_STR_KEYS))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / NAME)


def _state_of(pool: Pool, site: Site) -> dict[str, Any]:
    rows = [
        {"class": cls, "ref": row.ref, "values": row.values}
        for cls in CLASSES
        if cls not in _NOT_KEPT
        for row in pool.database.rows(cls)
    ]
    return {
        "name": pool.name,
        "generation": pool.database.generation,
        "dead": sorted(pool.dead),
        "rows": rows,
    }


def load(folder: Path, new_pool: Callable[[int], Pool]) -> list[Pool]:
    """The pools that were saved; none where nothing was. Raises Unreadable."""
    path = folder / NAME
    if not path.exists():
        return []
    try:
        state = orjson.loads(path.read_bytes())
        if state["magic"] != MAGIC or state["version"] != VERSION:
            raise Unreadable(f"{path} is of version {state['version']}, this reads {VERSION}")
        return [_load_pool(new_pool(index), one) for index, one in enumerate(state["pools"])]
    except (orjson.JSONDecodeError, KeyError, TypeError, OSError) as error:
        raise Unreadable(f"{path} cannot be read: {error!r}") from None


def _load_pool(pool: Pool, state: dict[str, Any]) -> Pool:
    pool.name = state["name"]
    database = pool.database
    for saved_row in state["rows"]:
        fields = CLASSES[saved_row["class"]].fields
        values = {name: check(fields[name].type, value, name) for name, value in saved_row["values"].items()}
        database.add(saved_row["class"], ref=saved_row["ref"], **values)
    database.generation = max(database.generation, int(state["generation"])) + 1
    database.forget_changes()
    pool.dead = set(state["dead"])
    _end_operations(pool)
    _forget_lost_disks(pool)
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


def _forget_lost_disks(pool: Pool) -> None:
    """A disk made after the records were last written has no record, one removed then has one: mend both."""
    there = set(pool.disks.keys())
    for vdi in pool.database.rows("VDI"):
        if key_of(vdi) not in there:
            pool.disks.create(key_of(vdi), int(vdi["virtual_size"]))
