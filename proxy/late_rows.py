"""The rows of objects: written with them, and where that could not be, tried again until they are.

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
from typing import Final, NamedTuple

import structlog
import trio

from proxy.containers import ContainerStore
from proxy.entry import CorruptEntry, object_info, row_payload
from proxy.model import Metadata, NoSuchContainer, StoreError
from proxy.names import ObjectName, split_object_key
from proxy.versions import find_version

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

    def __init__(self, store: ContainerStore) -> None:
        self._store = store
        self._late: dict[bytes, _Late] = {}
        self._running = False
        self._written = self._left = 0

    def statistics(self) -> LateRowsStatistics:
        """As of now. To be called inside trio."""
        now_s = trio.current_time()
        oldest_s = max((now_s - late.since_s for late in self._late.values()), default=0.0)
        return LateRowsStatistics(len(self._late), oldest_s, self._written, self._left)

    async def write(
        self,
        target: ObjectName,
        timestamp: int,
        changed: int,
        size_bytes: int,
        payload: bytes,
        *,
        deleted: bool = False,
    ) -> bool:
        """The row of what has just been written, whatever becomes of the request; raises as `put_row`.

        One that can't be written now is tried again behind the answer.
        """
        degraded = False
        with trio.CancelScope(shield=True):
            try:
                degraded = await self._store.put_row(*target, timestamp, changed, size_bytes, payload, deleted=deleted)
            except NoSuchContainer:
                raise
            except StoreError:
                self.add(target.key)
                raise
        return degraded

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
            done = await list_again(self._store, key)
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


async def list_again(store: ContainerStore, key: bytes) -> bool:
    """Let its container's listing say of the object with that key what is so; whether anything was done.

    For the auditor: a proxy died between the object and its row, or between the tombstone and the row's. Nothing is done
    for what is not there, or not in a live container. Raises Unavailable.
    """
    target = ObjectName(*split_object_key(key))
    version = await find_version(store.cluster, key, data=False, newest=True)
    entry = version.entry
    if entry is None or version.degraded:
        return False
    try:
        await store.head_container(target.account, target.container)
        if entry.deleted:
            await store.put_row(*target, entry.timestamp, 0, 0, b"", deleted=True)
            return True
        info = object_info(entry)
        payload = row_payload(info.etag, info.content_type, checksum_algorithm(info.metadata))
        changed = entry.meta_timestamp if entry.meta_timestamp > entry.timestamp else 0
        await store.put_row(*target, entry.timestamp, changed, info.size_bytes, payload)
    except NoSuchContainer:
        return False
    return True


def checksum_algorithm(metadata: Metadata) -> str:
    """The algorithm of the checksum that an object keeps, as its row names it; empty for none."""
    for name in metadata:
        if name.startswith("checksum:") and name != "checksum:type":
            return name[9:].upper()
    return ""
