"""What actions work with, and what they answer.

Each action (`scheduler.lifecycle.actions`) is a function of these tools and a task. Everything that is not pure comes from
here: the database, the claims, the pools, the choice of hosts, the images, the clock. So the same actions run in the
controller and, on a pool in memory with a clock that a test turns, in a history of faults.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from scheduler.booking import Booked
from scheduler.claims.claim import Change as ClaimsChange
from scheduler.claims.claim import Claim, Claims, Guard, Role
from scheduler.errors import (
    ClaimStateError,
    Conflict,
    KeyReused,
    KeySpent,
    NoValidHost,
    SchedulerError,
)
from scheduler.hypervisor import (
    HypervisorError,
    ImageSource,
    MigrationFailed,
    NextHost,
    NextSr,
    Superseded,
    TryAgain,
    Unreachable,
)
from scheduler.lifecycle import tasks
from scheduler.lifecycle.database import Database
from scheduler.lifecycle.machine import Event
from scheduler.lifecycle.pools import Pools
from scheduler.placement.moves import Move, MovePlan
from scheduler.placement.placement import Explanation
from scheduler.placement.request import ServerRequest, VolumeRequest
from scheduler.records.types import ImageRecord, TaskRecord

Change = Callable[[Connection], object]
"""A change of records, made in the transaction in which the task goes on."""


class LostLease(Exception):
    """Another controller has taken the task up: stop, and touch nothing more."""


class ImageUnreadable(SchedulerError):
    """The store's: an image cannot be read or written now."""


class Chooser(Protocol):
    """Who chooses hosts and SRs, by what is there and what is claimed now. Calls may block."""

    def book(self, request: ServerRequest, key: str, role: Role = Role.HELD, *, guard: Guard | None = None) -> Booked:
        """Choose where a server goes and claim it. NoValidHost, QuotaExceeded and what else `Booking.book` raises."""
        ...

    def book_volume(self, request: VolumeRequest, key: str, *, guard: Guard | None = None) -> Booked:
        """Choose where a volume goes and claim it. NoValidSr, and as above."""
        ...

    def book_together(self, moves: Sequence[Move], key: str, *, guard: Guard | None = None) -> ClaimsChange:
        """Claim where servers that move together go, for all of them or for none. Conflict, ClaimStateError."""
        ...

    def explain(self, request: ServerRequest) -> Explanation:
        """The same with a verdict on every host."""
        ...

    def plan_evacuation(self, host_ids: Sequence[str], servers: Mapping[str, ServerRequest]) -> MovePlan:
        """How to empty these hosts of the servers on them; `servers` has what each server would be asked with today."""
        ...

    def plan_rebalance(self, host_ids: Sequence[str], servers: Mapping[str, ServerRequest]) -> MovePlan:
        """How to level the load of these hosts by moving some of these servers among them."""
        ...

    def note_failure(self, host_id: str) -> None:
        """A build failed there: weigh it down for a while."""
        ...


class ImageLibrary(Protocol):
    """Images in the object store."""

    def source(self, image: ImageRecord) -> ImageSource:
        """The bytes of an image."""
        ...

    async def save(self, object_name: str, pieces: AsyncIterator[bytes]) -> tuple[int, str]:
        """Store the pieces under that name; size and MD5 (hex). ImageUnreadable."""
        ...

    async def delete(self, object_name: str) -> None:
        """Remove it; content when it is gone. ImageUnreadable."""
        ...


@dataclass(frozen=True)
class Tools:
    """Everything that actions need. `lease_clock` tells the time by which leases run out; None: `now_s` does."""

    database: Database
    claims: Claims
    pools: Pools
    chooser: Chooser
    images: ImageLibrary
    now_s: Callable[[], float]
    new_id: Callable[[], str]
    lease_clock: Callable[[Connection], float] | None = None


@dataclass(frozen=True)
class Outcome:
    """How an action ended.

    data      what the task remembers from now on
    changes   changes of records, committed together with the task's next stage
    """

    event: Event = Event.OK
    reason: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    changes: Sequence[Change] = ()


@dataclass(frozen=True)
class Job:
    """What an action is performed with."""

    tools: Tools
    task: TaskRecord
    progress: Callable[[float], None]

    @property
    def build(self) -> int:
        """The fencing token that a pool sees: later tasks, and later holders of one task, have higher ones."""
        return (self.task.id << 20) | min(self.task.fence, (1 << 20) - 1)

    @property
    def claim_key(self) -> str:
        """The idempotency key of what this attempt claims. Whoever performs the same attempt again has the same one."""
        return f"task{self.task.id}.{self.task.round}.{self.task.attempt}"

    async def holds(self, owner: str) -> tuple[Claim | None, Claim | None]:
        """What an owner holds, and what it moves to."""
        claims = await self.tools.database.block(lambda: self.tools.claims.of(owner))
        held = next((claim for claim in claims if claim.role is Role.HELD), None)
        return held, next((claim for claim in claims if claim.role is Role.TARGET), None)

    def fenced(self, connection: Connection | None) -> None:
        """A guard of changes of claims: LostLease where another controller has taken the task up, however long this one was
        stopped just before. Looked up in the change's own transaction, where claims have one."""
        if connection is None:
            with self.tools.database.engine.begin() as own:
                self.fenced(own)
        elif not tasks.is_held(connection, self.task):
            raise LostLease(f"task {self.task.id} has another fence than {self.task.fence}")


_EVENTS: tuple[tuple[type[Exception], Event], ...] = (
    (TryAgain, Event.AGAIN),
    (Unreachable, Event.AGAIN),
    (NextHost, Event.NEXT),
    (NextSr, Event.NEXT),
    (MigrationFailed, Event.NEXT),
    (HypervisorError, Event.IMPOSSIBLE),
    (NoValidHost, Event.NO_ROOM),
    (KeyReused, Event.AGAIN),
    (KeySpent, Event.AGAIN),
    (ClaimStateError, Event.AGAIN),
    (ImageUnreadable, Event.AGAIN),
    (DBAPIError, Event.AGAIN),
    (SchedulerError, Event.IMPOSSIBLE),
)


def outcome_of(error: Exception) -> Outcome | LostLease | None:
    """What a failure means for the task; None for one that nobody foresaw."""
    if isinstance(error, Superseded):
        return LostLease(str(error))
    if isinstance(error, Conflict):
        return Outcome(Event.AGAIN if error.retry else Event.NO_ROOM, str(error))
    for kind, event in _EVENTS:
        if isinstance(error, kind):
            text = str(error.orig) if isinstance(error, DBAPIError) else str(error)
            return Outcome(event, " ".join(text.split())[:1000])
    return None


def mac_of(server_id: str, index: int) -> str:
    """A MAC for a server's interface: locally administered, the same whenever it is asked for."""
    digest = hashlib.sha256(f"{server_id}/{index}".encode()).digest()
    return "02:" + ":".join(f"{byte:02x}" for byte in digest[:5])
