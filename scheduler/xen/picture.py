"""What a pool holds, kept current by its events.

`event.from` with an empty token answers with every object of the classes asked for, and a token; with that token,
with what changed since. So there is one way to read, and no moment between a full read and the first delta in which a
change could be missed. Three things make a picture worthless, and each is answered by reading everything again into a
new one: the pool says EVENTS_LOST; its counts of objects (`valid_ref_counts`) are not ours; another master, whose
tokens are its own.

`Picture` is pure: batches in, tables out. A batch belongs to the token that it was asked with, and is refused when
the picture has moved on meanwhile, so a long poll that is under way and a question for the newest state do not
disturb each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from scheduler.xen.tags import Record

CLASSES = ("pool", "host", "host_metrics", "VM", "VDI", "VBD", "VIF", "SR", "PBD", "network", "PIF", "console", "task")
"""What is followed."""
_BY_LOWER = {name.lower(): name for name in CLASSES}


class Nonsense(ValueError):
    """A batch that is none. Internal: it becomes an error that names the pool."""


class Miscounted(Exception):
    """The pool counts other objects than the picture holds: an event was lost. Internal: read everything again."""


class Picture:
    """Tables by class, then by reference, as of `token`."""

    def __init__(self) -> None:
        self.token = ""
        self.tables: dict[str, dict[str, Record]] = {name: {} for name in CLASSES}

    def table(self, name: str) -> Mapping[str, Record]:
        """The objects of a class by their references."""
        return self.tables[name]

    def record(self, name: str, ref: str) -> Record | None:
        """One object, if it exists."""
        return self.tables[name].get(ref)

    def apply(self, batch: Any, asked_with: str) -> list[tuple[str, str]] | None:
        """Take in an answer of `event.from`: (class, reference) of what changed, or None if it was asked with another
        token than the picture's. Raises Nonsense, leaving the picture as it was, and Miscounted."""
        if asked_with != self.token:
            return None
        if not isinstance(batch, Mapping) or not isinstance(batch.get("token"), str):
            raise Nonsense("an answer to event.from without token")
        changes = list(_changes(batch.get("events")))
        for name, ref, record in changes:
            if record is None:
                self.tables[name].pop(ref, None)
            else:
                self.tables[name][ref] = record
        self.token = batch["token"]
        self._count(batch.get("valid_ref_counts"))
        return [(name, ref) for name, ref, _ in changes]

    def _count(self, counts: Any) -> None:
        if not isinstance(counts, Mapping):
            return
        for key, count in counts.items():
            name = _BY_LOWER.get(str(key).lower())
            # Tasks come and go by the second, and pools do not always count them in the same instant.
            if name is not None and name != "task" and str(count).isdecimal() and int(count) != len(self.tables[name]):
                raise Miscounted(f"{count} objects of class {name} at the pool, {len(self.tables[name])} here")


def _changes(events: Any) -> Iterable[tuple[str, str, Record | None]]:
    if not isinstance(events, list):
        raise Nonsense("an answer to event.from without events")
    for event in events:
        if not isinstance(event, Mapping):
            raise Nonsense("an event that is none")
        name = _BY_LOWER.get(str(event.get("class")).lower())
        ref, operation, snapshot = event.get("ref"), event.get("operation"), event.get("snapshot")
        if name is None:
            continue
        if not isinstance(ref, str) or operation not in ("add", "mod", "del"):
            raise Nonsense("an event without reference or operation")
        if operation == "del":
            yield name, ref, None
        elif isinstance(snapshot, Mapping):
            yield name, ref, snapshot
        else:
            raise Nonsense("an event without the object's fields")
