"""Rows of a listing that could not be written with their objects: tried again, less and less often, until they are.

Problem: an object is on its devices, and then too few devices of its container take the row. The client is told to try
again; if it does not, the object is stored and no listing shows it (or one that is deleted is still shown).

Idea: the object itself, on a majority of its devices, is the durable note that there is a row to be written: its version
says whether there should be one and what it says. So here only names are kept, each is asked for again what the row should
say, and a proxy that dies loses nothing but promptness: the auditor finds what is left (replicator.auditor).

Rejected: a file of rows beside the proxy (one that is not started again keeps them for ever; what it holds is overtaken).

Invariants: memory is bounded (NAMES_MAX; more are left to the auditor); a row is never written from memory, only from what
the object says at that moment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog
import trio

from proxy.entry import CorruptEntry
from proxy.model import StoreError

if TYPE_CHECKING:
    from proxy.store import ObjectStore

NAMES_MAX: Final = 10_000
RETRY_FIRST_S: Final = 1.0
RETRY_MAX_S: Final = 60.0
ATTEMPTS_MAX: Final = 60
"""After about an hour of failures a name is left to the auditor."""

log = structlog.get_logger("proxy.late_rows")


class LateRowsStatistics(NamedTuple):
    """What waits."""

    backlog: int
    """Objects whose rows are to be written."""
    oldest_s: float
    """How long the oldest of them has waited."""
    written: int
    """Since the start."""
    left: int
    """Left to the auditor since the start."""


@dataclass
class _Late:
    since_s: float
    due_s: float
    attempts: int = 0


class LateRows:
    """Those of one process. Work is done while the cluster is connected."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._late: dict[bytes, _Late] = {}
        self._running = False
        self._written = self._left = 0

    def statistics(self) -> LateRowsStatistics:
        """As of now. To be called inside trio."""
        now_s = trio.current_time()
        oldest_s = max((now_s - late.since_s for late in self._late.values()), default=0.0)
        return LateRowsStatistics(len(self._late), oldest_s, self._written, self._left)

    def add(self, key: bytes) -> None:
        """The row of the object with this key could not be written."""
        if key in self._late or len(self._late) >= NAMES_MAX:
            self._left += key not in self._late
            return
        now_s = trio.current_time()
        self._late[key] = _Late(now_s, now_s + RETRY_FIRST_S)
        if not self._running:
            self._running = True
            self._store.cluster.start_soon(self._run)

    async def _run(self) -> None:
        try:
            while self._late:
                await trio.sleep_until(min(late.due_s for late in self._late.values()))
                now_s = trio.current_time()
                for key in [key for key, late in self._late.items() if late.due_s <= now_s]:
                    await self._try(key)
        finally:
            self._running = False

    async def _try(self, key: bytes) -> None:
        late = self._late[key]
        late.attempts += 1
        try:
            done = await self._store.list_again(key)
        except (StoreError, CorruptEntry):
            done = False
        if done:
            self._written += 1
            del self._late[key]
        elif late.attempts >= ATTEMPTS_MAX:
            self._left += 1
            del self._late[key]
            log.error("a row can't be written: the auditor will find it", key=key.decode("utf-8", "replace"))
        else:
            late.due_s = trio.current_time() + min(RETRY_FIRST_S * 2.0 ** min(late.attempts, 10), RETRY_MAX_S)
