"""Messages about events: what changed, told to who asks.

`event.from` answers with the changes since a token: many changes of one object are one event, with the object as it is
now. With none it waits, which is the server's to do: the message returns `Pending` and is asked again when something
changed or the time is over. `event.register` and `event.next`, the older way, keep the token in the session for the client.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from scheduler.xen.simulator.database import Database, Row
from scheduler.xen.simulator.failure import Failure
from scheduler.xen.simulator.messages import message
from scheduler.xen.simulator.pool import Call
from scheduler.xen.simulator.schema import CLASS_BY_LOWER, WITHOUT_EVENTS, SmallInt

TIMEOUT_MAX_S: Final = 3600.0
NEXT_TIMEOUT_S: Final = 30.0
"""How long `event.next` waits before it answers with no events."""


@dataclass(frozen=True, slots=True)
class Pending:
    """Nothing to tell yet: ask again on a change, at the latest after this time, when `empty` is the answer."""

    timeout_s: float
    empty: Any


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a client wants to hear of."""

    everything: bool
    classes: frozenset[str]
    """In lower case."""
    objects: frozenset[tuple[str, str]]

    def wants(self, cls: str, ref: str) -> bool:
        """Whether changes of an object are to be told."""
        if cls in WITHOUT_EVENTS:
            return False
        return self.everything or cls.lower() in self.classes or (cls.lower(), ref) in self.objects

    def wants_class(self, cls: str) -> bool:
        """Whether a class is of interest at all."""
        lower = cls.lower()
        return self.everything or lower in self.classes or any(lower == wanted for wanted, _ in self.objects)


def subscription(words: Sequence[str]) -> Subscription:
    """What `*`, `vm` and `vm/OpaqueRef:…` ask for. Raises Failure EVENT_SUBSCRIPTION_PARSE_FAILURE."""
    classes, objects = set(), set()
    for word in words:
        cls, slash, ref = word.partition("/")
        if word == "*":
            continue
        if not cls or (slash and not ref):
            raise Failure("EVENT_SUBSCRIPTION_PARSE_FAILURE", word)
        if slash:
            objects.add((cls.lower(), ref))
        else:
            classes.add(cls.lower())
    return Subscription("*" in words, frozenset(classes), frozenset(objects))


def make_token(generation: int) -> str:
    """The token of a generation, in the form that pools give: two numbers, the second unused here."""
    return f"{generation:020d},{0:020d}"


def read_token(token: str) -> int:
    """The generation of a token; the empty one is the time before all. Raises Failure EVENT_FROM_TOKEN_PARSE_FAILURE."""
    if token == "":
        return 0
    parts = token.split(",")
    if len(parts) != 2 or not all(part.isascii() and part.isdecimal() for part in parts):
        raise Failure("EVENT_FROM_TOKEN_PARSE_FAILURE", token)
    return int(parts[0])


def events_since(database: Database, wanted: Subscription, generation: int, clock: float) -> list[dict[str, Any]]:
    """The events after a generation, oldest first. Raises Failure EVENTS_LOST."""
    changes = database.changes_since(generation)
    events = [
        _event(row.modified, row.cls, "add" if row.created > generation else "mod", row.ref, clock, row)
        for row in changes.changed
        if wanted.wants(row.cls, row.ref)
    ]
    events += [
        _event(stone.generation, stone.cls, "del", stone.ref, clock)
        for stone in changes.removed
        if wanted.wants(stone.cls, stone.ref)
    ]
    events.sort(key=lambda event: int(event["id"]))
    return events


def _event(number: int, cls: str, operation: str, ref: str, clock: float, row: Row | None = None) -> dict[str, Any]:
    event: dict[str, Any] = {
        "id": number,
        "timestamp": f"{clock:.1f}",
        "class": cls.lower(),
        "operation": operation,
        "ref": ref,
        "obj_uuid": "" if row is None else row.uuid,
    }
    if row is not None:
        event["snapshot"] = row.record()
    return event


def _counts(database: Database, wanted: Subscription) -> Mapping[str, int]:
    return {
        lower: SmallInt(database.count(cls))
        for lower, cls in CLASS_BY_LOWER.items()
        if cls not in WITHOUT_EVENTS and wanted.wants_class(cls)
    }


@message("event.from(classes: string set, token: string, timeout: float) -> an event batch", asynchronous=False)
def from_(call: Call, classes: Sequence[str], token: str, timeout: float) -> Any:
    """What changed since a token."""
    wanted = subscription(classes)
    generation = read_token(token)
    if generation > call.database.generation:
        raise Failure("EVENTS_LOST")
    events = events_since(call.database, wanted, generation, call.pool.clock())
    batch = {
        "events": events,
        "valid_ref_counts": _counts(call.database, wanted),
        "token": make_token(call.database.generation),
    }
    if events or timeout <= 0 or generation == 0:
        return batch
    return Pending(min(timeout, TIMEOUT_MAX_S), batch)


@message("event.inject(class: string, ref: string) -> string", asynchronous=False)
def inject(call: Call, cls: str, ref: str) -> str:
    """Have an object reported as changed; the token after which that is seen."""
    name = CLASS_BY_LOWER.get(cls.lower())
    if name is None:
        raise Failure("EVENT_SUBSCRIPTION_PARSE_FAILURE", cls)
    call.database.touch(call.database.get(name, ref))
    return make_token(call.database.generation)


@message("event.get_current_id() -> int", asynchronous=False)
def get_current_id(call: Call) -> int:
    """The number of the newest change."""
    return call.database.generation


@message("event.register(classes: string set) -> void")
def register(call: Call, classes: Sequence[str]) -> None:
    """Begin to hear of classes, by `event.next`."""
    subscription(classes)
    heard = call.pool.listeners.get(call.session.ref)
    known = heard[0] if heard is not None else ()
    since = heard[1] if heard is not None else call.database.generation
    call.pool.listeners[call.session.ref] = (tuple(dict.fromkeys([*known, *classes])), since)


@message("event.unregister(classes: string set) -> void")
def unregister(call: Call, classes: Sequence[str]) -> None:
    """Hear of classes no more."""
    heard = call.pool.listeners.get(call.session.ref)
    if heard is not None:
        rest = tuple(word for word in heard[0] if word not in classes)
        call.pool.listeners[call.session.ref] = (rest, heard[1])


@message("event.next() -> event record set", asynchronous=False)
def next_(call: Call) -> Any:
    """What changed since the last time."""
    heard = call.pool.listeners.get(call.session.ref)
    if heard is None or not heard[0]:
        raise Failure("SESSION_NOT_REGISTERED", call.session.ref)
    words, generation = heard
    call.pool.listeners[call.session.ref] = (words, call.database.generation)
    events = events_since(call.database, subscription(words), generation, call.pool.clock())
    return events or Pending(NEXT_TIMEOUT_S, [])
