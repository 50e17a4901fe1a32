"""The updater: what containers hold, brought into the rows that list them in their accounts.

Problem: an account shows for each container how many objects and bytes it holds. Writing that with every PUT would make
one account row the bottleneck of all its containers; and a proxy that dies between a container and its account's row
leaves a container that no listing shows.

Idea: each node looks over the containers of its own devices, again and again, at a pace, and notes those whose state changed
since it last looked (`replicator.container_watch`). For each of those it asks a majority of the container's replicas what it
holds, a majority of the account's what its row says, and writes the row where the two differ (`replicator.totals` decides).
All three nodes that hold a container may do so at once: they read the same and write the same.

After a start everything counts as changed, which costs reads but no writes where the rows are right: so what was missed
while the updater was down is found. And once in `again_s` every container does: a row that replication brought home from
where a cut-off proxy had left it may be newer than the right one, and no container changes by that.

Rejected: pushing totals from the device's process (it knows no ring), a queue of changes on disk (the state itself is the
queue), stamping rows with the container's own last change (a replica that catches up changes its totals without a later
change, and its report would be taken for an old one).

Invariants:
- A row is written only on the word of a majority of the container's replicas.
- What failed is tried again, less and less often, until it succeeds or is overtaken; memory for it is bounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import structlog
import trio

from replicator.container_watch import ContainerWatch, split_container_key
from replicator.daemon import Daemon, Rate
from replicator.pace import Pace
from replicator.peers import Peer, Peers, ask_all
from replicator.totals import RowUpdate, decide_update
from storage_node.operations import (
    Answer,
    Catalog,
    FoundCatalog,
    FoundRows,
    GetCatalog,
    ListRows,
    PutCatalog,
    PutRow,
    Row,
    Space,
    Status,
    Written,
)
from storage_node.timestamp import Clock

CONCURRENCY: Final = 16
RETRY_FIRST_S: Final = 1.0
RETRY_MAX_S: Final = 60.0
DEVICES_LOOK_S: Final = 1.0
"""How often to look which devices this machine has."""
PENDING_MAX: Final = 100_000
"""Beyond, changes are not noted but found again by the next look."""

log = structlog.get_logger("replicator.updater")


@dataclass(frozen=True)
class UpdaterSettings:
    """How often, and how much at a time."""

    interval_s: float = 1.0
    """Between two looks at the same device."""
    again_s: float = 3_600.0
    """Each container is compared with its row at least once in this time, whether or not it changed."""
    containers_per_s_max: float = 5_000.0
    updates_per_s_max: float = 1_000.0


class UpdaterStatistics(NamedTuple):
    """What an updater has done since it started, and what waits."""

    backlog: int
    """Containers whose account rows are not known to be right."""
    oldest_s: float
    """How long the oldest of them has waited."""
    looks: int
    """Devices looked over."""
    look_s: float
    """How long the last look took: a change is noticed after at most this and the interval."""
    compared: int
    """Containers compared."""
    updated: int
    """Rows written."""
    failed: int
    """Attempts that have to be repeated."""
    containers_per_s: float
    updates_per_s: float
    paused: bool


@dataclass
class _Pending:
    since_s: float
    due_s: float
    attempts: int = 0


class Updater:
    """One node's updater, over devices that `peers` keeps connected; `clock` stamps what it writes."""

    def __init__(self, peers: Peers, clock: Clock, settings: UpdaterSettings = UpdaterSettings()) -> None:
        self.peers = peers
        self.look_pace = Pace(settings.containers_per_s_max)
        self.update_pace = Pace(settings.updates_per_s_max)
        self._clock = clock
        self._settings = settings
        self._watches: dict[Peer, tuple[ContainerWatch, trio.CancelScope]] = {}
        self._pending: dict[bytes, _Pending] = {}
        self._work = trio.Event()
        self._looks = self._compared = self._updated = self._failed = 0
        self._look_s = 0.0

    def statistics(self) -> UpdaterStatistics:
        """As of now. To be called inside trio."""
        now_s = trio.current_time()
        oldest_s = max((now_s - pending.since_s for pending in self._pending.values()), default=0.0)
        return UpdaterStatistics(
            len(self._pending),
            oldest_s,
            self._looks,
            self._look_s,
            self._compared + sum(watch.compared for watch, _ in self._watches.values()),
            self._updated,
            self._failed,
            self.look_pace.rate_per_s,
            self.update_pace.rate_per_s,
            self.look_pace.paused,
        )

    def daemon(self) -> Daemon:
        """As a service runs it."""
        look, update = self.look_pace, self.update_pace
        return Daemon(
            "updater",
            "Brings what containers hold into their accounts' listings and totals.",
            "containers whose account does not show what they hold",
            self.run,
            self.statistics,
            frozenset(("looks", "compared", "updated", "failed")),
            self.pause,
            self.resume,
            (
                Rate.of(update, "updates_per_s", "Account rows written."),
                Rate.of(look, "containers_per_s", "Containers compared, over all devices."),
            ),
        )

    def pause(self) -> None:
        """Hold looking and writing."""
        self.look_pace.pause()
        self.update_pace.pause()

    def resume(self) -> None:
        """Let both go on."""
        self.look_pace.resume()
        self.update_pace.resume()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work until cancelled."""
        self._watches = {}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._update_for_ever)
            task_status.started()
            while True:
                self._follow_devices(nursery)
                await trio.sleep(DEVICES_LOOK_S)

    # -------------------------------------------------------------------------------------------------------- looking

    def _follow_devices(self, nursery: trio.Nursery) -> None:
        """Watch the devices that this machine has in the rings in force, and no others."""
        local = self.peers.local
        for peer in [peer for peer in self._watches if peer not in local]:
            watch, scope = self._watches.pop(peer)
            self._compared += watch.compared
            scope.cancel()
        for peer in local:
            if peer not in self._watches:
                watch = ContainerWatch(peer, self.look_pace, self._note, self._settings.again_s)
                scope = trio.CancelScope()
                self._watches[peer] = watch, scope
                nursery.start_soon(self._look_for_ever, watch, scope)

    async def _look_for_ever(self, watch: ContainerWatch, scope: trio.CancelScope) -> None:
        with scope:
            while True:
                began_s = trio.current_time()
                await watch.look()
                self._looks += 1
                self._look_s = trio.current_time() - began_s
                await trio.sleep(self._settings.interval_s)

    def _note(self, key: bytes) -> bool:
        """Put a container on the list; False when the list is full."""
        pending = self._pending.get(key)
        now_s = trio.current_time()
        if pending is not None:
            pending.due_s = min(pending.due_s, now_s + RETRY_FIRST_S)
            return True
        if len(self._pending) >= PENDING_MAX:
            return False
        self._pending[key] = _Pending(now_s, now_s)
        self._work.set()
        return True

    # ------------------------------------------------------------------------------------------------------- updating

    async def _update_for_ever(self) -> None:
        while True:
            now_s = trio.current_time()
            due = [key for key, pending in self._pending.items() if pending.due_s <= now_s][: CONCURRENCY * 8]
            if not due:
                self._work = trio.Event()
                next_s = min((pending.due_s for pending in self._pending.values()), default=now_s + RETRY_MAX_S)
                with trio.move_on_at(next_s):
                    await self._work.wait()
                continue
            limit = trio.CapacityLimiter(CONCURRENCY)
            async with trio.open_nursery() as nursery:
                for key in due:
                    nursery.start_soon(self._update_one, key, limit)

    async def _update_one(self, key: bytes, limit: trio.CapacityLimiter) -> None:
        async with limit:
            pending = self._pending.pop(key)
            await self.update_pace.take()
            if await self._settle(key):
                return
            self._failed += 1
            pending.attempts += 1
            wait_s = min(RETRY_FIRST_S * 2.0 ** min(pending.attempts - 1, 10), RETRY_MAX_S)
            pending.due_s = trio.current_time() + wait_s
            noted = self._pending.setdefault(key, pending)
            noted.since_s = min(noted.since_s, pending.since_s)
            if pending.attempts == 3:
                log.warning("an account's row cannot be brought up to date", container=key.decode("utf-8", "replace"))

    async def _settle(self, key: bytes) -> bool:
        """Make the account's row of a container right; False: try again later."""
        account_key, name = split_container_key(key)
        catalogs = await self._catalogs(key)
        if catalogs is None:
            return False
        account_hash, account_peers = self.peers.primaries(account_key)
        rows = await self._rows(account_key, name)
        if rows is None:
            return False
        update = decide_update(catalogs, rows)
        if update is None:
            return True
        for row_held in rows:
            if row_held is not None:
                # A report of an updater whose clock is ahead must not outlive what it reported.
                self._clock.observe(row_held.sub_timestamp)
        row = PutRow(
            Space.ACCOUNT,
            account_hash,
            name,
            update.timestamp,
            0 if update.deleted else self._clock.stamp(),
            update.deleted,
            update.object_count,
            update.size_bytes,
            b"",
        )
        written = await self._write(account_peers, row)
        if written is None and not update.deleted:
            await self._make_account(account_key, account_hash, account_peers, update)
            written = await self._write(account_peers, row)
        if written:
            self._updated += 1
        return bool(written)

    async def _catalogs(self, key: bytes) -> list[Catalog] | None:
        """What a majority of the container's replicas say, or None."""
        name_hash, peers = self.peers.primaries(key)
        answers = await ask_all(peers, GetCatalog(Space.CONTAINER, name_hash, key))
        if not self._is_majority(name_hash, peers, answers, _ANSWERED):
            return None
        return [a.catalog for a in answers if isinstance(a, FoundCatalog) and a.catalog is not None]

    async def _rows(self, account_key: bytes, name: bytes) -> list[Row | None] | None:
        """What a majority of the account's replicas have as the container's row, or None."""
        name_hash, peers = self.peers.primaries(account_key)
        one_row = ListRows(Space.ACCOUNT, name_hash, account_key, name, name + b"\x00", limit=1, deleted=True)
        answers = await ask_all(peers, one_row)
        if not self._is_majority(name_hash, peers, answers, _ANSWERED):
            return None
        return [
            next((item for item in answer.items if isinstance(item, Row)), None)
            for answer in answers
            if isinstance(answer, FoundRows) and answer.status in _ANSWERED
        ]

    async def _write(self, peers: tuple[Peer, ...], row: PutRow) -> bool | None:
        """Whether a majority took the row; None where devices lack the account.

        One that has a later report has not: whether that one is right is seen when it is read again.
        """
        answers = await ask_all(peers, row)
        for answer in answers:
            if isinstance(answer, Written) and answer.status == Status.NEWER:
                self._clock.observe(answer.timestamp)
        if self._is_majority(row.hash, peers, answers, _APPLIED):
            return True
        return None if any(answer.status == Status.NO_CATALOG for answer in answers) else False

    async def _make_account(
        self, account_key: bytes, account_hash: bytes, peers: tuple[Peer, ...], update: RowUpdate
    ) -> None:
        """A container without an account: its maker died between the two. One that was deleted later stays deleted."""
        await ask_all(peers, PutCatalog(Space.ACCOUNT, account_hash, account_key, update.timestamp, {}, True))

    def _is_majority(
        self, name_hash: bytes, peers: tuple[Peer, ...], answers: list[Answer], good: tuple[Status, ...]
    ) -> bool:
        answered = zip(peers, answers, strict=True)
        return self.peers.is_majority(name_hash, (peer.device.id for peer, a in answered if a.status in good))


_ANSWERED: Final = (Status.FOUND, Status.MISSING)
_APPLIED: Final = (Status.APPLIED,)
