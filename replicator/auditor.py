"""The auditor: reads everything on this machine's devices again and again, and sees that what is wrong is mended.

Problem: disks return wrong bytes, and what nobody reads rots until the last good replica is gone. A proxy that dies between
the two writes of a PUT leaves an object that no listing shows. Both are found only by looking at everything, and looking
at everything must not take the disks from the clients.

Idea: a scrub for each device goes through it in the order of hashes, at a pace in entries and bytes a second, remembers
where it is, and begins anew some time after it began the last time. Each value of the index is held against its record
(storage_node.audit), each large object is read whole. What is rotten goes to Repairer.

What a read found rotten meanwhile is in the device's suspects file; that is looked at every second, before anything else.
What could not be mended is tried again, less and less often.

Objects and their rows: the device that is an object's first primary looks whether a row lists it. If a majority of the
container's replicas says that none does, and the object is older than a PUT can take, `relist` is asked to write it; it is
the store's own code, which reads object and container by majority and knows what a row says. A row that is a later deletion
counts as a row. A row that shows what a tombstone says is deleted is mended in the same way. Nothing is ever removed
because a listing does not have it, nor from a listing because there is no object.

Invariants: no entry, row or object is removed for want of anything; memory is bounded (UNMENDED_MAX).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NamedTuple

import structlog
import trio

from replicator.audit_position import AuditPosition, load_position, save_position
from replicator.daemon import Daemon, Rate
from replicator.listing import gather
from replicator.pace import Pace
from replicator.peers import Peer, Peers
from replicator.repair import Repairer, Verdict
from replicator.throttle import Throttle
from storage_node.audit import Audited, AuditEntries, AuditRows, Finding
from storage_node.operations import (
    HASH_BYTES,
    Entry,
    FoundRows,
    ListedEntry,
    ListRows,
    Row,
    Space,
)
from storage_node.suspects import forget_suspects, take_suspects
from storage_node.timestamp import from_microseconds, wall_clock_us

PAGE: Final = 64
PAGE_BYTES: Final = 1024 * 1024
ROWS_PAGE: Final = 500
SUSPECTS_LOOK_S: Final = 1.0
SAVE_S: Final = 10.0
RETRY_FIRST_S: Final = 5.0
RETRY_MAX_S: Final = 600.0
UNMENDED_MAX: Final = 10_000
"""More than so many are not remembered: the next pass finds them again."""
MIB: Final = 1024 * 1024

Relist = Callable[[bytes], Awaitable[bool]]
"""Given an object's key: let its container's listing say what is so. True if that was done, False if it can't be."""

log = structlog.get_logger("replicator.auditor")


@dataclass(frozen=True)
class AuditorSettings:
    """How fast, and how often."""

    entries_per_s: float = 2_000.0
    """Objects, tombstones, rows and catalogs looked at, over all devices."""
    bytes_per_s: float = 32.0 * MIB
    """Read, over all devices."""
    interval_s: float = 7 * 86_400.0
    """From the beginning of one pass over a device to that of the next."""
    unlisted_s: float = 300.0
    """An object without a row is not looked at before it is so old: its row may be on its way."""


class AuditorStatistics(NamedTuple):
    """What an auditor has done since it started, and what waits."""

    backlog: int
    """Things known to be rotten and not mended."""
    oldest_s: float
    """How long the oldest of them has been known."""
    passes: int
    """Passes over devices that were finished, since each was made."""
    done_part: dict[str, float]
    """By device: how much of the present pass is done, 0..1; 1: it waits for the next."""
    entries: int
    """Looked at."""
    bytes: int
    """Read."""
    suspects: int
    """Looked at because a read had met them."""
    rotten: int
    """Found, looked at twice."""
    mended: int
    relisted: int
    """Objects that no listing had, and that were listed; deleted ones that a listing had, and that were taken out."""
    entries_per_s: float
    bytes_per_s: float
    paused: bool


@dataclass
class _Unmended:
    peer: Peer
    finding: Finding
    since_s: float
    due_s: float
    attempts: int = 1


class Auditor:
    """One node's auditor. `relist` lists an object; without it nothing is. `now_us` is the wall clock."""

    def __init__(
        self,
        peers: Peers,
        settings: AuditorSettings = AuditorSettings(),
        *,
        relist: Relist | None = None,
        now_us: Callable[[], int] = wall_clock_us,
    ) -> None:
        self._peers = peers
        self.settings = settings
        self.entries_pace = Pace(settings.entries_per_s)
        self.throttle = Throttle(settings.bytes_per_s, settings.bytes_per_s)
        self._repairer = Repairer(peers, self.throttle)
        self._relist = relist
        self._now_us = now_us
        self._positions: dict[str, AuditPosition] = {}
        self._unmended: dict[tuple[int, int, bytes, bytes], _Unmended] = {}
        self._entries = self._bytes = self._suspects = self._rotten = self._mended = self._relisted = 0

    def statistics(self) -> AuditorStatistics:
        """As of now. To be called inside trio."""
        now_s = trio.current_time()
        return AuditorStatistics(
            len(self._unmended),
            max((now_s - one.since_s for one in self._unmended.values()), default=0.0),
            sum(position.passes for position in self._positions.values()),
            {name: round(self._done_part(position), 4) for name, position in sorted(self._positions.items())},
            self._entries,
            self._bytes,
            self._suspects,
            self._rotten,
            self._mended,
            self._relisted,
            self.entries_pace.rate_per_s,
            self.throttle.bytes_per_s,
            self.entries_pace.paused,
        )

    @staticmethod
    def _done_part(position: AuditPosition) -> float:
        return position.done_part if position.began_us else 1.0

    def pause(self) -> None:
        """Hold the scrub; suspects are mended all the same."""
        self.entries_pace.pause()

    def resume(self) -> None:
        """Let it go on."""
        self.entries_pace.resume()

    def daemon(self) -> Daemon:
        """As a service runs it."""
        pace, throttle = self.entries_pace, self.throttle
        return Daemon(
            "auditor",
            "Reads everything on this machine's devices again and again, and mends what is rotten.",
            "rotten things that could not be mended",
            self.run,
            self.statistics,
            frozenset(("passes", "entries", "bytes", "suspects", "rotten", "mended", "relisted")),
            self.pause,
            self.resume,
            (
                Rate(
                    "bytes_per_s",
                    "Read, over all devices.",
                    lambda: throttle.bytes_per_s,
                    lambda value: throttle.set_rates(value, value),
                ),
                Rate.of(pace, "entries_per_s", "Objects, tombstones, rows and catalogs looked at, over all devices."),
            ),
        )

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work until cancelled, on whatever devices this machine has in the rings in force."""
        async with trio.open_nursery() as nursery:
            task_status.started()
            scrubs: dict[int, tuple[Peer, trio.CancelScope]] = {}
            while True:
                local = {peer.device.id: peer for peer in self._peers.local}
                for number, (peer, scope) in list(scrubs.items()):
                    if local.get(number) is not peer:
                        scope.cancel()
                        del scrubs[number]
                        self._positions.pop(peer.device.name, None)
                for number, peer in local.items():
                    if number not in scrubs:
                        scrubs[number] = (peer, trio.CancelScope())
                        nursery.start_soon(self._scrub_for_ever, peer, scrubs[number][1])
                    await self.look_at_suspects(peer)
                await self.retry()
                await trio.sleep(SUSPECTS_LOOK_S)

    # ------------------------------------------------------------------------------------------------- what was met

    async def look_at_suspects(self, peer: Peer) -> None:
        """Mend what reads of a device have found rotten since the last look."""
        assert peer.path is not None
        with suppress(OSError):
            suspects = take_suspects(str(peer.path))
            for hash_, key in suspects:
                self._suspects += 1
                await self._mend(peer, Finding(Space.OBJECT, hash_, key, b"", "met by a read"))
            if suspects:
                forget_suspects(str(peer.path))

    async def retry(self) -> None:
        """Try again to mend what could not be mended, as far as its time has come."""
        now_s = trio.current_time()
        for one in [one for one in self._unmended.values() if one.due_s <= now_s]:
            await self._mend(one.peer, one.finding)

    async def _mend(self, peer: Peer, finding: Finding) -> None:
        name = (peer.device.id, finding.space, finding.hash, finding.name)
        known = self._unmended.get(name)
        verdict = await self._repairer.mend(peer, finding)
        if known is None and verdict is not Verdict.SOUND:
            self._rotten += 1
        self._mended += verdict is Verdict.MENDED
        if verdict is not Verdict.UNMENDED:
            self._unmended.pop(name, None)
            return
        now_s = trio.current_time()
        if known is None:
            if len(self._unmended) < UNMENDED_MAX:
                self._unmended[name] = _Unmended(peer, finding, now_s, now_s + RETRY_FIRST_S)
        else:
            known.due_s = now_s + min(RETRY_MAX_S, RETRY_FIRST_S * 2.0 ** min(known.attempts, 10))
            known.attempts += 1

    # --------------------------------------------------------------------------------------------------------- the scrub

    async def _scrub_for_ever(self, peer: Peer, scope: trio.CancelScope) -> None:
        with scope:
            while True:
                await self.scrub(peer)
                position = self._positions[peer.device.name]
                since_s = max(0.0, (self._now_us() - position.began_us) / 1e6)
                self._positions[peer.device.name] = position._replace(began_us=0)
                await trio.sleep(max(1.0, self.settings.interval_s - since_s))

    async def scrub(self, peer: Peer) -> None:
        """One pass over a device, from where it was left to the end."""
        assert peer.path is not None
        position = load_position(peer.path)
        if not position.began_us:
            position = position._replace(began_us=self._now_us())
        saved_s = trio.current_time()
        while position.space <= Space.ACCOUNT:
            self._positions[peer.device.name] = position
            if trio.current_time() - saved_s >= SAVE_S:
                saved_s = trio.current_time()
                self._save(peer, position)
            next_start = await self._scrub_page(peer, position.space, position.start)
            if next_start is None:
                position = position._replace(space=position.space + 1, start=bytes(HASH_BYTES))
            else:
                position = position._replace(start=next_start)
        finished = AuditPosition(passes=position.passes + 1)
        self._positions[peer.device.name] = finished._replace(began_us=position.began_us)
        self._save(peer, finished)
        log.info("pass", device=peer.device.name, **self.statistics()._asdict())

    def _save(self, peer: Peer, position: AuditPosition) -> None:
        assert peer.path is not None
        with suppress(OSError):  # a disk that is full or away: the pass begins anew after a restart
            save_position(peer.path, position)

    async def _scrub_page(self, peer: Peer, space: int, start: bytes) -> bytes | None:
        """Some objects or catalogs; where to go on, or None."""
        assert peer.reader is not None
        page = peer.reader.audit(AuditEntries(space, start, PAGE, PAGE_BYTES))
        if not isinstance(page, Audited):
            await trio.sleep(SUSPECTS_LOOK_S)  # the device is being made, or is gone
            return start
        await self._account(peer, page)
        for listed in page.files:
            await self._scrub_file(peer, listed)
        for listed in page.entries:
            if space != Space.OBJECT:
                await self._scrub_rows(peer, space, listed.hash)
            elif self._relist is not None:
                await self._look_for_row(peer, listed)
        return page.next_start

    async def _account(self, peer: Peer, page: Audited) -> None:
        self._entries += page.value_count
        self._bytes += page.read_bytes
        await self.entries_pace.take(page.value_count)
        await self.throttle.take(peer.device.id, page.read_bytes)
        for finding in page.findings:
            await self._mend(peer, finding)

    async def _scrub_file(self, peer: Peer, listed: ListedEntry) -> None:
        entry = listed.entry
        assert isinstance(entry, Entry)
        await self.entries_pace.take(0)
        if not await self._repairer.reads_whole(peer, listed.hash, listed.key, entry):
            await self._mend(peer, Finding(Space.OBJECT, listed.hash, listed.key, b"", "a large object's bytes"))
        self._bytes += entry.size_bytes

    async def _scrub_rows(self, peer: Peer, space: int, hash_: bytes) -> None:
        assert peer.reader is not None
        start: bytes | None = b""
        while start is not None:
            page = peer.reader.audit(AuditRows(space, hash_, start, ROWS_PAGE))
            if not isinstance(page, Audited):
                return
            await self._account(peer, page)
            start = page.next_start

    # ------------------------------------------------------------------------------------------------------ missing rows

    async def _look_for_row(self, peer: Peer, listed: ListedEntry) -> None:
        """Mend what the listing says of an object, or of a deleted one, if it is this device's to see to."""
        entry = listed.entry
        if (
            self._relist is None
            or not isinstance(entry, Entry)
            or self._peers.members(listed.hash)[0] != peer.device.id
        ):
            return
        old_us = self._now_us() - int(self.settings.unlisted_s * 1_000_000)
        if max(entry.timestamp, entry.meta_timestamp) >= from_microseconds(max(0, old_us)):
            return
        if await self._is_listed_right(listed.key, entry):
            return
        if await self._relist(listed.key):
            self._relisted += 1
            what = "a deleted object that a listing showed" if entry.deleted else "an object that no listing showed"
            log.warning(f"{what} is mended", key=listed.key.decode("utf-8", "replace"))

    async def _is_listed_right(self, key: bytes, entry: Entry) -> bool:
        """Whether a majority has a row as late as the object, or none shows one that is deleted; also if too few answer."""
        parts = split_object_key(key)
        if parts is None:
            return True
        container, name = parts
        container_hash, peers = self._peers.primaries(container)
        question = ListRows(Space.CONTAINER, container_hash, container, name, name + b"\x00", limit=1, deleted=True)
        answers = await gather(self._peers, [peer.device.id for peer in peers], question)
        if not self._peers.is_majority(container_hash, answers):
            return True
        rows = {
            device: answer.items[0]
            for device, answer in answers.items()
            if isinstance(answer, FoundRows) and answer.items and isinstance(answer.items[0], Row)
        }
        if entry.deleted:
            return all(row.deleted or row.timestamp > entry.timestamp for row in rows.values() if isinstance(row, Row))
        listing = [device for device, row in rows.items() if isinstance(row, Row) and lists(row, entry)]
        return self._peers.is_majority(container_hash, listing)


def lists(row: Row, entry: Entry) -> bool:
    """Whether a row is as late as an object's data and metadata, or later; a deletion is as good."""
    if row.timestamp != entry.timestamp:
        return row.timestamp > entry.timestamp
    return max(row.timestamp, row.sub_timestamp) >= entry.meta_timestamp


def split_object_key(key: bytes) -> tuple[bytes, bytes] | None:
    """b"/account/container/object" -> (b"/account/container", b"object"); None for what is no object's key."""
    parts = key.split(b"/", 3)
    if len(parts) < 4 or parts[0] or not parts[1] or not parts[2] or not parts[3]:
        return None
    return b"/" + parts[1] + b"/" + parts[2], parts[3]
