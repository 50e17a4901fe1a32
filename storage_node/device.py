"""One device's durable store: the single writer of one directory.

Problem: tens of thousands of small writes a second must each be on stable storage before they are answered, visible to every
process of the machine right after, and never lost or half there, whatever dies when.

Idea: the log is the truth, the index is derived. A batch of operations is *decided* against the newest state, which makes
log records of them and one write at the log's end; *synced* with one fdatasync; and *published*: one commit of the LMDB
environment `recent`, without sync, whose map all readers share. A checkpoint carries `recent` into `index` from time to
time, durably; after a crash the log's tail is replayed over it.

    decide.py      what an operation does           log.py, record.py   segments and records
    install.py     how state replaces state         index.py, rows.py   keys and values of LMDB
    view.py        every read                       blob.py             large objects
    recovery.py    from a crash to an open device   checkpoint.py, compaction.py, clearing.py, upkeep.py   background work

Invariants:
- An answer APPLIED leaves publish() only after the fdatasync that covers its record returned without an error.
- A failed sync is never retried: what the page cache shows may not be on the disk. The batch comes to nothing, the device is
  fenced (across restarts), the log is cut at the last published batch when it is opened the next time.
- One batch at a time: decide, sync, publish. Readers see only what is published.

Rejected: an LMDB commit with sync for each batch (three fdatasyncs instead of one), deciding a batch while the one before
syncs (a decision is a tenth of a sync, and every lookup would have one more place to look).
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, TypeAlias

import lmdb
import msgpack

from storage_node.batch import Batch
from storage_node.blob import (
    CHUNK_BYTES,
    READ_BYTES_MAX,
    BlobWriter,
    ObjectReader,
    PutBlob,
)
from storage_node.check import Checker
from storage_node.decide import ROOM_FOR_ALL, ROOM_FOR_DELETES, ROOM_FOR_NOTHING, Decider
from storage_node.disk import Disk, RealDisk
from storage_node.errors import DeviceDamaged, DeviceFenced, DeviceFull
from storage_node.identity import Fence, create_directories, write_fence
from storage_node.index import BLOB_TAG, POSITION, POSITION_KEY, STATISTICS_KEY
from storage_node.log import PlaceGone, Position, log_position
from storage_node.log_writer import AppendStuck
from storage_node.operations import (
    Answer,
    Found,
    FoundDigests,
    FoundStatistics,
    GetDigests,
    GetObject,
    GetStatistics,
    Locked,
    LockObject,
    MarkFilled,
    ReadOperation,
    Statistics,
    Status,
    WriteOperation,
    Written,
)
from storage_node.parts import Parts
from storage_node.record import FORGET, ROW, moved
from storage_node.rows import PIECE_BYTES
from storage_node.settings import DeviceSettings
from storage_node.upkeep import Upkeep
from storage_node.view import digests_refused, is_coarse
from storage_node.work import Progress, Work

__all__ = [
    "CHUNK_BYTES",
    "READ_BYTES_MAX",
    "Batch",
    "BlobWriter",
    "Device",
    "DeviceWrite",
    "ObjectReader",
    "Progress",
    "PutBlob",
    "Work",
]

DeviceWrite: TypeAlias = WriteOperation | PutBlob

ROOM_CHECK_MS = 250
ROOM_CHECK_BYTES = 8 << 20
STATISTICS_MS = 1_000
TURNED_AWAY_MS = 60_000
TURNED_AWAY_MS_MIN = 5_000
MOVES_RETRY_MS = 1_000
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def monotonic_ms() -> int:
    """Milliseconds of a clock that never goes back."""
    return time.monotonic_ns() // 1_000_000


class Device:
    """All calls in one thread, but sync(), BlobWriter and ObjectReader methods and Work.block()."""

    def __init__(
        self, parts: Parts, now_ms: Callable[[], int], random_bytes: Callable[[int], bytes], replayed_notes: list[str]
    ) -> None:
        """Use Device.open."""
        self.path = Path(parts.layout.root)
        self.name = parts.identity.name
        self.uuid = parts.identity.uuid
        self.settings = parts.settings
        self.notes = replayed_notes
        """What recovery found that an operator should know."""
        self._parts = parts
        self._disk = parts.disk
        self._now_ms = now_ms
        self._random_bytes = random_bytes
        self._token = random_bytes(8)
        """The second half of the blob ids of this opening."""
        self._decider = Decider(parts.view, parts.settings, now_ms)
        self._decider.handlers[MarkFilled] = self._mark_filled
        self._upkeep = Upkeep(parts, now_ms, self._room, self._token)
        self._batch: Batch | None = None
        self._closed = False
        self._room_now = ROOM_FOR_ALL
        self._room_at_ms = -ROOM_CHECK_MS
        self._room_bytes = 0
        self._turned_away_at_ms = -TURNED_AWAY_MS
        """When something was last too large for the room that there was: for a while it counts as full, see _full."""
        self._turned_away_bytes = 0
        """Free bytes that would have been enough for it, its own part that is given back included."""
        self._moves_at_ms = 0
        """Not before then is what background work has queued tried again."""
        self._statistics_at_ms = now_ms()
        self._writes = self._syncs = 0
        self._sync_seconds = 0.0
        self._store_statistics()

    @staticmethod
    def create(
        path: Path | str,
        name: str,
        *,
        disk: Disk | None = None,
        random_bytes: Callable[[int], bytes] = os.urandom,
        filling: bool = False,
    ) -> bytes:
        """Make an empty device in `path` (created if missing; must be empty) and give its uuid (16 bytes).

        `filling`: a device of this name may have held data before, and what this one answers does not count until it was
        held against the other replicas (see MarkFilled).

        Raises NotADevice, OSError.
        """
        return create_directories(disk or RealDisk(), str(path), name, random_bytes, filling=filling)

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        disk: Disk | None = None,
        settings: DeviceSettings | None = None,
        now_ms: Callable[[], int] = monotonic_ms,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> Device:
        """Become the writer: lock, verify, recover. Raises NotADevice, DeviceInUse, DeviceDamaged, OSError."""
        try:
            parts = Parts(str(path), disk or RealDisk(), settings or DeviceSettings(), random_bytes)
        except lmdb.Error as error:
            raise DeviceDamaged(f"{path}: the index can't be opened: {error}") from error
        return cls(parts, now_ms, random_bytes, parts.notes)

    def close(self) -> None:
        """Checkpoint, unless fenced, and let go of everything. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._upkeep.cancel()
        self._upkeep.clear_away()
        if self._batch is None and self._parts.fence is None:
            self._upkeep.checkpoint_now()
        self._parts.close()

    # ----------------------------------------------------------------------------------------------------------- writes

    def decide(self, operations: Sequence[DeviceWrite]) -> Batch:
        """Decide each operation in order and append the records to the log, not yet durable nor visible.

        Never raises for an operation's sake. One batch at a time: publish it before the next is decided. Call it with no
        operations when `wants_commit` says so.
        """
        if self._batch is not None:
            raise ValueError("the batch before is not published")
        parts, decider = self._parts, self._decider
        batch = decider.batch = self._batch = Batch(self._room())
        if parts.fence is not None:
            batch.failure = Written(Status.FENCED, detail=parts.fence.reason)
            return self._refuse(operations)
        if not self._begin_records(batch):
            self._moves_at_ms = self._now_ms() + MOVES_RETRY_MS
            return self._refuse(operations)
        parts.fresh_view()
        handlers, answers = decider.handlers, batch.answers
        for operation in operations:
            answers.append(handlers[type(operation)](operation))
        decider.finish_catalogs()
        if self._upkeep.moves:
            self._copy_moves(batch)
        if batch.records:
            self._append(batch)
        return batch

    def _begin_records(self, batch: Batch) -> bool:
        """Point the batch at the log's end; False if there is none to be had."""
        log = self._parts.log
        try:
            log.prepare()
        except OSError as error:
            self._append_failed(batch, error)
            return False
        batch.segment, batch.fd, batch.seed = log.number, log.fd, log.seed
        batch.start = batch.offset = log.offset
        batch.durable = log.durable
        return True

    def _refuse(self, operations: Sequence[DeviceWrite]) -> Batch:
        """Answer all of them with the batch's failure."""
        batch = self._decider.batch
        assert batch.failure is not None
        for operation in operations:
            if type(operation) is PutBlob:
                batch.writers.append(operation.writer)
            lock = type(operation) is LockObject
            batch.answers.append(Locked(batch.failure.status, detail=batch.failure.detail) if lock else batch.failure)
        return batch

    def _copy_moves(self, batch: Batch) -> None:
        """Copy the records that compaction found live, where they still are."""
        decider = self._decider
        moves = self._upkeep.moves
        for index_key, segment, record in moves:
            value = decider.lookup(index_key)
            if value is None or int.from_bytes(value[:4], "little") != segment:
                continue
            if int.from_bytes(value[4:8], "little") != record.offset:
                continue
            if record.kind == FORGET and not self._may_hold(record.extra, segment):
                decider.drop_forget(index_key[1:])
                continue
            raw = moved(record, batch.seed, batch.offset, batch.durable)
            batch.records.append(raw)
            decider.install_copy(index_key, value, (batch.segment, batch.offset, len(raw)))
            if record.kind == ROW and len(record.key) > PIECE_BYTES:
                decider.write_pointers(record.space, record.hash, record.key)
            batch.offset += len(raw)
        moves.clear()

    def _may_hold(self, position: int, leaving: int) -> bool:
        """Whether a segment beside the one that is emptied holds anything from before a position of the log."""
        return any(log_position(number, 0) < position for number in self._parts.state.size if number != leaving)

    def _append(self, batch: Batch) -> None:
        try:
            self._parts.log.append(batch.records, batch.offset - batch.start)
        except OSError as error:
            self._append_failed(batch, error)
        except AppendStuck as error:
            self._fence_at_published(str(error))
            batch.failure = Written(Status.FENCED, detail=str(error))

    def _append_failed(self, batch: Batch, error: OSError) -> None:
        """Nothing of the batch is in the log."""
        if error.errno in NO_ROOM:
            self._room_at_ms = self._now_ms() - ROOM_CHECK_MS
            self._note_turned_away(batch.offset - batch.start)
            batch.failure = Written(Status.FULL, detail=str(error))
        else:
            self._fence_at_published(f"the log can't be written: {error}")
            batch.failure = Written(Status.FENCED, detail=str(error))

    def _fence_at_published(self, reason: str) -> None:
        self._parts.put_up_fence(Fence(reason, self._parts.state.position))

    def sync(self, batch: Batch) -> None:
        """fdatasync: the only slow part, may run in any thread. Does not raise: a failure fences the device."""
        if not batch.records or batch.synced or batch.failure is not None:
            return
        started = time.perf_counter()
        try:
            self._disk.fdatasync(batch.fd)
        except OSError as error:
            self._fence_at_published(f"fdatasync of the log failed: {error}")
            batch.failure = Written(Status.FENCED, detail=str(error))
            return
        batch.synced = True
        self._syncs += 1
        self._sync_seconds += time.perf_counter() - started

    def publish(self, batch: Batch) -> list[Written | Locked]:
        """Make a synced batch visible to all readers and give the answers in the order of the operations.

        After a failed sync every answer is FENCED.
        """
        if batch is not self._batch or (batch.needs_sync and batch.failure is None):
            raise ValueError("not the batch under way, or not synced")
        self._batch = None
        if batch.records:
            if batch.failure is None:
                self._parts.log.durable = batch.offset
                self._commit(batch)
            if batch.failure is not None:
                self._fail(batch)
        if batch.writers:
            self._settle_writers(batch)
        self._writes += len(batch.answers)
        return batch.answers

    def _commit(self, batch: Batch) -> None:
        """Put a durable batch into `recent`, and into what is kept in memory."""
        parts, upkeep = self._parts, self._upkeep
        writes = batch.writes
        writes[POSITION_KEY] = POSITION.pack(batch.segment, batch.offset)
        now = self._now_ms()
        parts.let_go_of_recent()
        if now - self._statistics_at_ms >= STATISTICS_MS:
            self._statistics_at_ms = now
            writes[STATISTICS_KEY] = self._packed_statistics()
        try:
            self._put_recent(writes)
        except (lmdb.Error, OSError) as error:
            if not isinstance(error, lmdb.MapFullError) or not self._put_after_all(writes):
                self._cannot_publish(batch, error)
                return
        parts.state.apply(batch)
        upkeep.changed_at_ms = upkeep.changed_at_ms or now
        upkeep.log_bytes += batch.offset - batch.start
        upkeep.recent_bytes += sum(map(len, writes.values())) + 32 * len(writes)
        upkeep.removals += batch.freed_blobs

    def _put_recent(self, writes: dict[bytes, bytes]) -> None:
        txn = self._parts.recent_env.env.begin(write=True)
        try:
            with txn.cursor() as cursor:
                cursor.putmulti(writes.items())
        except BaseException:
            txn.abort()
            raise
        txn.commit()

    def _put_after_all(self, writes: dict[bytes, bytes]) -> bool:
        """Checkpoints did not keep up, and `recent` is full. What is in `writes` is durable and must become visible."""
        for make_room in (self._upkeep.checkpoint_now, self._parts.grow_recent):
            try:
                make_room()
                self._put_recent(writes)
                return True
            except (lmdb.MapFullError, OSError):
                continue
        return False

    def _cannot_publish(self, batch: Batch, error: Exception) -> None:
        """Durable, but not visible: the next opening replays it. Until then nobody may be told that it is done."""
        self._parts.put_up_fence(Fence(f"`recent` can't be written: {error}", None))
        batch.failure = Written(Status.FENCED, detail=str(error))

    def _fail(self, batch: Batch) -> None:
        assert batch.failure is not None
        failure = batch.failure
        self._decider.drop_locks(batch.locked)
        batch.answers = [
            Locked(failure.status, detail=failure.detail) if isinstance(answer, Locked) else failure
            for answer in batch.answers
        ]

    def _settle_writers(self, batch: Batch) -> None:
        """Blobs that no record names now are thrown away."""
        view = self._parts.fresh_view()
        for writer in batch.writers:
            if not writer.in_memory and view.value(BLOB_TAG + writer.blob_id) is None:
                self._upkeep.removals.append(writer.blob_id)
            writer.used()

    def apply(self, operations: Sequence[DeviceWrite]) -> list[Written | Locked]:
        """decide, sync and publish."""
        batch = self.decide(operations)
        self.sync(batch)
        return self.publish(batch)

    @property
    def wants_commit(self) -> bool:
        """Background work has queued changes: run a batch soon even if no operation waits.

        Not while a batch would come to nothing (no room, a fence): who commits for as long as this is true would never
        come to an end.
        """
        return bool(self._upkeep.moves) and self._parts.fence is None and self._now_ms() >= self._moves_at_ms

    # ------------------------------------------------------------------------------------------------------------- room

    def _room(self) -> int:
        """What there is room for, looked up now and then."""
        now = self._now_ms()
        written = self._upkeep.log_bytes
        if now - self._room_at_ms >= ROOM_CHECK_MS or abs(written - self._room_bytes) >= ROOM_CHECK_BYTES:
            self._room_at_ms, self._room_bytes = now, written
            self._room_now = self._measure_room()
        return self._room_now

    def _measure_room(self) -> int:
        try:
            total, free = self._disk.free_bytes(str(self.path))
        except OSError:
            return ROOM_FOR_NOTHING
        kept_back, kept_back_delete = self.settings.kept_back_bytes(total)
        if free < kept_back_delete:
            return ROOM_FOR_NOTHING
        return ROOM_FOR_DELETES if free < kept_back else ROOM_FOR_ALL

    def _note_turned_away(self, given_back_bytes: int) -> None:
        """Something met the end of the file system, and gives back what it had."""
        try:
            _, free = self._disk.free_bytes(str(self.path))
        except OSError:
            free = 0
        self._turned_away(free + given_back_bytes + self.settings.fallocate_bytes)

    def _turned_away(self, enough_bytes: int) -> None:
        self._turned_away_at_ms, self._turned_away_bytes = self._now_ms(), enough_bytes

    def _make_room(self, length: int, held_bytes: int = 0) -> None:
        """For a BlobWriter that holds so many bytes already: raises DeviceFull, DeviceFenced."""
        fence = self._parts.fence
        if fence is not None:
            raise DeviceFenced(fence.reason)
        total, free = self._disk.free_bytes(str(self.path))
        kept_back, _ = self.settings.kept_back_bytes(total)
        if free - length < kept_back:
            self._turned_away(kept_back + held_bytes + length)
            raise DeviceFull(f"{free} bytes are free, {kept_back} of them are kept back")

    def _blob_failed(self, error: OSError, held_bytes: int) -> NoReturn:
        """For a BlobWriter. Want of room is no fault of the disk; anything else is."""
        if error.errno in NO_ROOM:
            self._note_turned_away(held_bytes)
            raise DeviceFull(str(error)) from error
        reason = f"a blob can't be written: {error}"
        self._parts.put_up_fence(Fence(reason, None))
        raise DeviceFenced(reason) from error

    def open_write(self) -> BlobWriter:
        """Begin an object's data. Raises DeviceFull, DeviceFenced."""
        self._make_room(0)
        return BlobWriter(
            self._disk,
            self._parts.layout.incoming,
            self._parts.layout.blobs,
            self._random_bytes(8) + self._token,
            self.settings.inline_bytes_max,
            self.settings.fallocate_bytes,
            self._make_room,
            self._blob_failed,
        )

    # ------------------------------------------------------------------------------------------------------------ reads

    def read(self, operation: ReadOperation) -> Answer:
        """Answer a read from what is published. Never raises for the operation's sake."""
        if type(operation) is GetStatistics:
            return FoundStatistics(Status.FOUND, self.statistics())
        if type(operation) is GetDigests and is_coarse(operation):
            return self._coarse_digests(operation)
        view = self._parts.fresh_view()
        try:
            return view.read(operation)
        except PlaceGone as error:
            # Nobody removes files behind the writer's back: the index names one that is lost.
            assert type(operation) is GetObject
            view.note_rot(operation.hash, operation.key)
            return Found(Status.CORRUPT, detail=f"a file is missing: {error}")

    def _coarse_digests(self, operation: GetDigests) -> FoundDigests:
        problem = digests_refused(operation)
        if problem:
            return FoundDigests(Status.REFUSED, detail=problem)
        table = self._parts.state.digests[operation.space]
        return FoundDigests(Status.FOUND, table.fold(operation.bits, operation.prefix, operation.fan_out_bits))

    def open_read(self, hash_: bytes, key: bytes, timestamp: int | None = None) -> ObjectReader | Status:
        """Open an object's data (that version only, if a timestamp is given), or say why not."""
        view = self._parts.fresh_view()
        try:
            return view.open_read(hash_, key, timestamp)
        except PlaceGone:
            view.note_rot(hash_, key)
            return Status.CORRUPT

    def statistics(self) -> Statistics:
        """The device's figures."""
        parts = self._parts
        state, counters = parts.state, parts.state.counters
        try:
            total, free = self._disk.free_bytes(str(self.path))
        except OSError:
            total = free = 0
        return Statistics(
            uuid=self.uuid,
            name=self.name,
            total_bytes=total,
            free_bytes=free,
            log_bytes=sum(state.size.values()),
            log_live_bytes=sum(state.live.values()),
            blob_bytes=counters.blob_bytes,
            blob_count=counters.blobs,
            object_count=counters.objects,
            tombstone_count=counters.tombstones,
            container_count=counters.containers,
            account_count=counters.accounts,
            row_count=counters.rows,
            segment_count=len(state.size),
            recent_count=parts.recent_env.env.stat()["entries"],
            writes=self._writes,
            syncs=self._syncs,
            sync_seconds=self._sync_seconds,
            reads=parts.view.reads,
            corrupt=parts.view.corrupt,
            fenced=self.fenced,
            full=self._full(total, free),
            filling=self.filling,
        )

    def _full(self, total: int, free: int) -> str:
        """What there is no room for, in words."""
        kept_back, kept_back_delete = self.settings.kept_back_bytes(total)
        if free < kept_back_delete:
            what = "it takes neither data nor deletions"
        elif free < kept_back:
            what = "it takes no data"
        elif self._turns_away(free):
            what = "it turned writes away"
        else:
            return ""
        return f"{what}: {free} bytes are free, {kept_back} are kept back"

    def _turns_away(self, free: int) -> bool:
        """Whether it counts as full for what it turned away, though the file system has room for less than that.

        Not by the figure alone: what is turned away gives its part back, several at once give back more than each
        needed, and a quota shows in no figure.
        """
        ago_ms = self._now_ms() - self._turned_away_at_ms
        return ago_ms < (TURNED_AWAY_MS_MIN if free >= self._turned_away_bytes else TURNED_AWAY_MS)

    def _packed_statistics(self) -> bytes:
        return bytes(msgpack.packb(tuple(self.statistics())))

    def _store_statistics(self) -> None:
        """Where readers in other processes find them."""
        if self._closed:
            return
        self._parts.let_go_of_recent()
        self._put_recent({STATISTICS_KEY: self._packed_statistics()})

    # ------------------------------------------------------------------------------------------------------- background

    def next_work(self) -> Work | None:
        """What is due: at most one piece at a time; ask again when it is DONE. Cheap: ask every 100 ms or so.

        Drive it in a task of its own, beside the commit loop:

            while (work := device.next_work()) is not None:
                while (progress := work.step()) is not Progress.DONE:
                    if progress is Progress.BLOCK: await trio.to_thread.run_sync(work.block)
                    elif progress is Progress.WAIT: await a publish or a few milliseconds
                    else: await trio.lowlevel.checkpoint()
        """
        now = self._now_ms()
        if now - self._statistics_at_ms >= STATISTICS_MS and self._batch is None:
            self._statistics_at_ms = now
            self._store_statistics()
        return self._upkeep.next_work()

    def checkpoint(self) -> bool:
        """Bring the index up to date, in one blocking call; whether that went well. Not with a batch under way."""
        if self._batch is not None or self._parts.fence is not None:
            return False
        return self._upkeep.checkpoint_now()

    def fence(self, reason: str) -> None:
        """Take no more writes, across restarts, until release_fence(). Reads go on."""
        self._parts.put_up_fence(Fence(reason or "taken out of service", None))

    def keep_fence(self) -> None:
        """Write the fence down once more: a disk that had just failed may not have taken it. Raises OSError.

        To be called before a fenced device is closed to be opened anew, which otherwise would believe what the page cache
        shows of the batch whose sync failed.
        """
        if self._parts.fence is not None:
            write_fence(self._disk, self._parts.layout.root, self._parts.fence)

    def release_fence(self) -> None:
        """Take writes again. After a failed sync the device must have been opened since: raises DeviceFenced if not."""
        fence = self._parts.fence
        if fence is None:
            return
        if fence.position is not None and not self._parts.opened_fenced:
            raise DeviceFenced(f"open the device anew first: {fence.reason}")
        self._parts.take_down_fence()

    @property
    def fenced(self) -> str:
        """Why the device takes no writes; empty while it does."""
        return self._parts.fence.reason if self._parts.fence is not None else ""

    @property
    def filling(self) -> str:
        """What this filling is called, while the device may lack what it once acknowledged; empty once it is filled."""
        return self._parts.filling

    def _mark_filled(self, operation: MarkFilled) -> Written:
        if operation.filling != self._parts.filling:
            return Written(Status.NEWER, detail="another filling than that is under way, or none")
        if self._parts.filling:
            try:
                self._parts.end_filling()
            except OSError as error:
                return Written(Status.BUSY, detail=f"the mark can't be removed: {error}")
        return Written(Status.APPLIED)

    def check(self, *, deep: bool = False) -> list[str]:
        """Hold log, blobs, index, digests and totals against each other; a sentence for each problem.

        Slow, and blocking: it reads the whole log (with `deep` every blob too). Not with a batch under way.
        """
        if self._batch is not None:
            raise ValueError("a batch is under way")
        self._upkeep.clear_away()
        found = Checker(self._parts, self._token, deep).run()
        return [f"{finding.part}: {finding.what}" for finding in found]

    @property
    def position(self) -> Position:
        """The log position of all that is published."""
        return self._parts.state.position
