"""The expirer: sees to it that what is due is deleted, soon after its time, on whatever machine it is found first.

Problem: objects end at given moments. Each is to be deleted once that has passed, by someone, although processes die,
devices are away and several machines could do it; and finding out that nothing is due must cost next to nothing.

Idea: the queue is rows in the order of time, in a number of shards (the store keeps it; here it is a protocol). Each node
looks at the beginning of the shards that lie on its devices, every `interval_s`, and settles what is due. The node of a
shard's first device does that at once, that of its k-th device only with what is `k * takeover_s` overdue: so one node
works, and where it is down the next takes over, without an election. Doing it twice is harmless.

A look begins a little before now (`LOOK_BACK_S`), and now and then, and after a start, at the very beginning: rows that
failed, or that were written when their time was over already (the upload took longer), lie further back.

What can't be settled stays in the queue and is tried again, less and less often. Nothing is kept here that the queue does
not hold: a kill loses the figures and no more.

Invariants: whether an object may go is decided by `settle`, at the object; memory is bounded (PAGE a shard).
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, Protocol

import structlog
import trio

from replicator.daemon import Daemon, Rate
from replicator.pace import Pace
from replicator.retries import Retries
from storage_node.timestamp import wall_clock_us

PAGE: Final = 500
CONCURRENCY: Final = 16
LOOK_BACK_S: Final = 900
THOROUGH_S: Final = 600.0
"""How often a look begins at the very beginning."""
RETRY_FIRST_S: Final = 1.0
RETRY_MAX_S: Final = 300.0
FAILING_MAX: Final = 50_000
"""More rows that failed are not remembered: they are simply tried again with the next look."""

log = structlog.get_logger("replicator.expirer")


class DueRow(Protocol):
    """A row of the queue."""

    @property
    def due_s(self) -> int:
        """When its object ends. Seconds since 1970."""

    @property
    def name(self) -> bytes:
        """What orders it in its shard."""


class Queue(Protocol):
    """What is due, and how it is settled."""

    @property
    def shard_count(self) -> int:
        """Shards are numbered from 0."""

    def rank(self, shard: int) -> int | None:
        """Which of the shard's devices (0: the first) is here; None: none is."""

    async def due(self, shard: int, start_s: int, until_s: int, marker: bytes, limit: int) -> Sequence[Any] | None:
        """The first rows (DueRow) of start_s <= due <= until_s behind `marker`, in order; None: not to be had now."""

    async def settle(
        self, row: Any, take: Callable[[], Awaitable[None]]
    ) -> Literal["deleted", "dropped", "early", "failed"]:
        """Delete the row's object if it still wants that, and take the row out; "failed": to be tried again."""

    async def clear_leavings(self, take: Callable[[], Awaitable[None]]) -> int:
        """Finish what was begun and broken off; -> how many things are left to do."""


@dataclass(frozen=True)
class ExpirerSettings:
    """How soon, and how fast."""

    interval_s: float = 5.0
    """Between two looks at the queue: an object is gone at most so long after its time, and the time that the work takes."""
    objects_per_s_max: float = 200.0
    takeover_s: float = 60.0
    """How overdue a row must be before the node of the shard's second device sees to it; twice this for the third."""


class ExpirerStatistics(NamedTuple):
    """What an expirer has done since it started, and what waits."""

    backlog: int
    """Rows that were due at the last look and are not settled."""
    oldest_s: float
    """How long the oldest of them has been due."""
    looks: int
    """Looks at all shards."""
    look_s: float
    """How long the last one took, with what it found to do."""
    deleted: int
    dropped: int
    """Rows that meant nothing any more: their objects were overwritten, deleted, or given another time."""
    early: int
    """Rows that the last look left alone, because their objects may be about to be written."""
    failed: int
    """Attempts that have to be repeated."""
    leavings: int
    """Deletions that were broken off and are to be finished."""
    objects_per_s: float
    paused: bool


class _Place(NamedTuple):
    """Where a row is in the queue."""

    shard: int
    due_s: int
    name: bytes


class Expirer:
    """One node's expirer. `now_us` is the wall clock in microseconds."""

    def __init__(
        self,
        queue: Queue,
        settings: ExpirerSettings = ExpirerSettings(),
        *,
        now_us: Callable[[], int] = wall_clock_us,
    ) -> None:
        self.settings = settings
        self.pace = Pace(settings.objects_per_s_max)
        self._queue = queue
        self._now_us = now_us
        self._retries: Retries[_Place] = Retries(RETRY_FIRST_S, RETRY_MAX_S, FAILING_MAX)
        self._working: dict[bytes, int] = {}
        """Rows of the present page that are not settled yet: name -> due."""
        self._thorough_at_s = -math.inf
        self._looks = self._deleted = self._dropped = self._early = self._failed = self._leavings = 0
        self._look_s = 0.0

    def statistics(self) -> ExpirerStatistics:
        """As of now."""
        waiting = {**{place.name: place.due_s for place in self._retries}, **self._working}
        oldest_s = max(0.0, self._now_us() / 1e6 - min(waiting.values())) if waiting else 0.0
        return ExpirerStatistics(
            len(waiting),
            oldest_s,
            self._looks,
            self._look_s,
            self._deleted,
            self._dropped,
            self._early,
            self._failed,
            self._leavings,
            self.pace.rate_per_s,
            self.pace.paused,
        )

    def pause(self) -> None:
        """Delete nothing more until `resume`."""
        self.pace.pause()

    def resume(self) -> None:
        """Go on."""
        self.pace.resume()

    def daemon(self) -> Daemon:
        """As a service runs it."""
        pace = self.pace
        return Daemon(
            "expirer",
            "Deletes objects whose time (X-Delete-At) is over.",
            "objects whose time is over",
            self.run,
            self.statistics,
            frozenset(("looks", "deleted", "dropped", "failed")),
            self.pause,
            self.resume,
            (Rate.of(pace, "objects_per_s", "Objects looked at, and parts of objects deleted."),),
        )

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work until cancelled."""
        task_status.started()
        while True:
            await self.look()
            await trio.sleep(self.settings.interval_s)

    async def look(self) -> None:
        """Settle what is due in the shards that are this node's to see to."""
        began_s = trio.current_time()
        thorough = began_s >= self._thorough_at_s
        complete = True
        self._early = 0
        for shard in range(self._queue.shard_count):
            rank = self._queue.rank(shard)
            if rank is not None:
                complete &= await self._look_at(shard, rank, thorough)
        self._leavings = await self._queue.clear_leavings(self.pace.take)
        if thorough and complete:
            self._thorough_at_s = began_s + THOROUGH_S
        self._looks += 1
        self._look_s = trio.current_time() - began_s

    async def _look_at(self, shard: int, rank: int, thorough: bool) -> bool:
        """Settle what is due in a shard; False where it can't be read."""
        now_s = self._now_us() // 1_000_000
        until_s = now_s - math.ceil(rank * self.settings.takeover_s)
        start_s = 0 if thorough else max(0, until_s - LOOK_BACK_S)
        marker = b""
        missed = {place for place in self._retries if place.shard == shard and place.due_s >= start_s}
        while True:
            rows = await self._queue.due(shard, start_s, until_s, marker, PAGE)
            if rows is None:
                return False
            places = [(_Place(shard, row.due_s, row.name), row) for row in rows]
            missed.difference_update(place for place, _ in places)
            await self._settle_all([each for each in places if self._retries.may_try(each[0])])
            if len(rows) < PAGE:
                break
            marker = rows[-1].name
        for place in missed:
            self._retries.forget(place)  # another node has settled it
        return True

    async def _settle_all(self, rows: Sequence[tuple[_Place, DueRow]]) -> None:
        self._working.update((place.name, place.due_s) for place, _ in rows)
        limit = trio.CapacityLimiter(CONCURRENCY)
        try:
            async with trio.open_nursery() as nursery:
                for place, row in rows:
                    nursery.start_soon(self._settle, place, row, limit)
        finally:
            self._working.clear()

    async def _settle(self, place: _Place, row: DueRow, limit: trio.CapacityLimiter) -> None:
        async with limit:
            await self.pace.take()
            outcome = await self._queue.settle(row, self.pace.take)
            self._working.pop(place.name, None)
        if outcome == "failed":
            self._failed += 1
            if self._retries.note(place) == 3:
                log.warning("an expired object cannot be deleted yet", row=place.name.decode("utf-8", "replace"))
            return
        self._retries.forget(place)
        self._deleted += outcome == "deleted"
        self._dropped += outcome == "dropped"
        self._early += outcome == "early"
