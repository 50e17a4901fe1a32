"""Recovery: from whatever a crash left to an index that is exactly the log.

Problem: when a device is opened the index is as of its last checkpoint, at log position P; what came since is in the log,
whole, torn at its end, or damaged.

Idea: read the log from P, put each record in place by the same code that live operations use (install.py), and commit the
result to the index with the new position, in pieces of PIECE_RECORDS, so that a long log takes no more memory than a short
one and a crash in the middle begins where the last piece ended. `recent` is empty afterwards: emptied in one transaction
where it can be believed (same boot, same file), so that readers in other processes see no gap; else made anew.

Replay follows the order of the log. A record that is older than what is there is dead; one that is equal is a copy that
compaction made, and its place counts. Catalog records each hold the whole state, so the later one wins; rows whose
catalog is not there yet (in an index that is rebuilt from nothing) wait in a catalog without a record.

What is done with bytes that do not verify is decided by log.Scan: a torn end is cut off, damage is noted and kept. An index
that is gone or can't be opened is made again from the whole log.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import lmdb

from storage_node.batch import Batch
from storage_node.blob import BLOB_ID_BYTES
from storage_node.disk import WRITE, Disk
from storage_node.errors import CorruptData
from storage_node.identity import Layout
from storage_node.index import (
    FORGET_TAG,
    FORGOTTEN,
    PLACE,
    POSITION,
    POSITION_KEY,
    REMOVED,
    SPACE_TAGS,
    OpenEnvironment,
    decode_entry,
    open_index,
    unpack_row,
)
from storage_node.install import Installer
from storage_node.log import (
    SEGMENT_HEADER_BYTES,
    Position,
    Scan,
    header_reached_the_disk,
    list_segments,
    log_position,
    open_segment,
    segment_name,
)
from storage_node.record import BLOB, CATALOG, FLAG_ROW, FORGET, ROW, Record
from storage_node.rows import row_base, row_key
from storage_node.state import Damage, State, load_state

if TYPE_CHECKING:
    from storage_node.settings import DeviceSettings
    from storage_node.view import View

PIECE_RECORDS = 20_000


class NoTransaction:
    """Stands for an environment that holds nothing."""

    def get(self, key: bytes) -> None:
        """Nothing."""


class Recovered(NamedTuple):
    """What recovery hands to the device."""

    index_env: OpenEnvironment
    state: State
    next_segment: int
    replayed: int
    """Records read from the log."""
    notes: list[str]
    """What was found that an operator should know."""


def record_key(record: Record) -> bytes:
    """The index key that a record is the state of."""
    if record.kind == FORGET:
        return FORGET_TAG + forgotten_key(record)
    if record.kind == ROW:
        return row_key(row_base(record.space, record.hash), record.key)
    if record.kind == CATALOG:
        return SPACE_TAGS[record.space] + record.hash
    return b"\x00" + record.hash


def forgotten_key(record: Record) -> bytes:
    """The index key of what a FORGET record is about. Raises IndexError for a space that there is not."""
    if record.flags & FLAG_ROW:
        return row_key(row_base(record.space, record.hash), record.key)
    return SPACE_TAGS[record.space] + record.hash


class Replayer(Installer):
    """Puts records in place."""

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self.forgotten: dict[bytes, int] = {}
        """Where an index is made again from the whole log: the positions before which names do not count."""

    def replay(self, segment: int, record: Record) -> None:
        """One record of the log, in the log's order. Raises CorruptData for one that verifies and makes no sense."""
        if self.forgotten and _before(self.forgotten.get(record_key(record), 0), segment, record.offset):
            return
        place = (segment, record.offset, record.length)
        if record.kind == ROW:
            self._replay_row(place, record)
        elif record.kind == CATALOG:
            self._replay_catalog(place, record)
        elif record.kind == FORGET:
            self._replay_forget(place, record)
        else:
            self._replay_entry(place, record)

    def _replay_entry(self, place: tuple[int, int, int], record: Record) -> None:
        old = self.lookup(b"\x00" + record.hash)
        if old is not None:
            item = decode_entry(old)
            versions = (record.timestamp, record.timestamp_2)
            if (item.timestamp, item.meta_timestamp) > versions:
                return
        blob_id, checksum = b"", 0
        if record.kind == BLOB:
            blob_id, checksum = record.data, record.extra
            if len(blob_id) != BLOB_ID_BYTES:
                raise CorruptData(f"a blob id of {len(blob_id)} bytes")
        self.install_entry(
            record.hash,
            old,
            place,
            record.kind,
            record.flags,
            record.timestamp,
            record.timestamp_2,
            record.size,
            record.key,
            record.meta,
            blob_id,
            checksum,
        )

    def _replay_catalog(self, place: tuple[int, int, int], record: Record) -> None:
        if record.space not in (1, 2):
            raise CorruptData(f"a catalog in space {record.space}")
        loaded = self.load_catalog(record.space, record.hash)
        if loaded is None:
            loaded = self.new_catalog(record.space, record.hash, record.key)
        loaded.catalog.key = record.key
        self.install_catalog(loaded, place, record.timestamp, record.timestamp_2, record.size, record.meta)

    def _replay_row(self, place: tuple[int, int, int], record: Record) -> None:
        if record.space not in (1, 2):
            raise CorruptData(f"a row in space {record.space}")
        loaded = self.load_catalog(record.space, record.hash)
        if loaded is None:
            loaded = self.new_catalog(record.space, record.hash, b"")
        index_key = row_key(row_base(record.space, record.hash), record.key)
        old = self.lookup(index_key)
        if old is not None:
            _, _, _, _, timestamp, sub_timestamp, _, _ = unpack_row(old)
            if (timestamp, sub_timestamp) > (record.timestamp, record.timestamp_2):
                return
        self.install_row(
            loaded,
            index_key,
            old,
            place,
            record.flags & 1,
            record.key,
            record.timestamp,
            record.timestamp_2,
            record.extra,
            record.size,
            record.meta,
        )

    def _replay_forget(self, place: tuple[int, int, int], record: Record) -> None:
        """What was written under the name before the record's position goes, if it is still there."""
        index_key = forgotten_key(record)
        known = self.lookup(FORGET_TAG + index_key)
        if known is not None and FORGOTTEN.unpack(known)[3] > record.extra:
            return
        if record.space and not record.flags & FLAG_ROW:
            loaded = self.load_catalog(record.space, record.hash)
            found = loaded.catalog if loaded is not None else None
            # One without a record is there for rows that were replayed; its own record is still to come.
            if loaded is not None and found and found.length and _before(record.extra, found.segment, found.offset):
                self.remove_catalog(loaded)
        else:
            old = self.lookup(index_key)
            if old is not None and _before(record.extra, *PLACE.unpack_from(old)[:2]):
                self._remove(index_key, old, record)
        self.install_forget(index_key, place, record.extra)

    def _remove(self, index_key: bytes, old: bytes, record: Record) -> None:
        if not record.flags & FLAG_ROW:
            self.remove_entry(record.hash, old)
            return
        loaded = self.load_catalog(record.space, record.hash)
        if loaded is not None:
            self.remove_row(loaded, index_key, old, record.key)


def _before(position: int, segment: int, offset: int) -> bool:
    return log_position(segment, offset) < position


class Recovery:
    """One recovery: `run` once."""

    def __init__(
        self,
        disk: Disk,
        layout: Layout,
        uuid: bytes,
        settings: DeviceSettings,
        view: View,
        on_loss: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_loss` is called when damage is found that was not known, before the index knows of it."""
        self._disk = disk
        self._on_loss = on_loss
        self._layout = layout
        self._uuid = uuid
        self._settings = settings
        self._view = view
        self._replayer = Replayer(view)
        self._state = State()
        self._index_env: OpenEnvironment | None = None
        self._replayed = 0
        self._in_piece = 0
        self._damaged = False
        """Damage was noted that the index does not know of yet."""
        self._rebuilding = False
        """There is no checkpoint to begin from: segments that compaction removed are no gaps."""
        self._notes: list[str] = []

    def run(self, durable: Position | None, cut: Position | None) -> Recovered:
        """Bring the index up to the log.

        `durable`: a position up to which the log is known to have been synced. `cut`: after a failed sync, the end of
        what may be believed. Raises DeviceDamaged, OSError, lmdb.Error.
        """
        env = self._open_index()
        try:
            self._view.recent = NoTransaction()  # type: ignore[assignment]
            self._view.index = env.env.begin()
            self._replay_all(durable, cut)
            self._commit_piece(last=True)
        except BaseException:
            env.close()
            raise
        finally:
            self._view.index.abort()
        numbers = list_segments(self._disk, self._layout.log)
        position = self._state.position
        next_segment = max([position.segment, *numbers, *self._state.size], default=-1) + 1
        return Recovered(env, self._state, next_segment, self._replayed, self._notes)

    def _open_index(self) -> OpenEnvironment:
        path = self._layout.index_env
        known = Path(path, "data.mdb").exists()
        try:
            env = open_index(path, self._settings.index_map_bytes, writable=True, durable=True)
        except lmdb.Error as error:
            if not known or isinstance(error, (lmdb.MapFullError, lmdb.ReadersFullError, lmdb.LockError)):
                raise
            self._notes.append(f"the index can't be opened ({error}): made again from the log")
            shutil.rmtree(path)
            env = open_index(path, self._settings.index_map_bytes, writable=True, durable=True)
        self._disk.sync_directory(path)
        self._disk.sync_directory(self._layout.root)
        self._index_env = env
        try:
            with env.env.begin() as txn:
                found = load_state(txn)
                self._state = found or State()
                self._rebuilding = found is None
            if found is None:
                # A rebuild that a crash cut short has left entries that no state counts.
                with env.env.begin(write=True) as txn:
                    txn.drop(env.env.open_db(None, txn=txn), delete=False)
        except BaseException:
            env.close()
            raise
        return env

    # -------------------------------------------------------------------------------------------------------- the log

    def _replay_all(self, durable: Position | None, cut: Position | None) -> None:
        position = self._state.position
        numbers = list_segments(self._disk, self._layout.log)
        self._drop_leftovers([number for number in numbers if number < position.segment])
        numbers = [number for number in numbers if number >= position.segment]
        if self._state.size.get(position.segment) and position.segment not in numbers:
            self._note_damage(position.segment, position.offset, position.offset, "the segment is missing")
        with_records = [number for number in numbers if self._has_records(number)]
        if self._rebuilding:
            self._find_forgotten(numbers)
        for number in numbers:
            self._note_gap_before(number, position, numbers)
            start = position.offset if number == position.segment else SEGMENT_HEADER_BYTES
            followed = any(later > number for later in with_records)
            known = durable.offset if durable is not None and durable.segment == number else 0
            if durable is not None and durable.segment > number:
                followed = True
            stop = cut.offset if cut is not None and cut.segment == number else None
            if cut is not None and number > cut.segment:
                stop = SEGMENT_HEADER_BYTES
            self._replay_segment(number, start, followed, known, stop)

    def _drop_leftovers(self, numbers: list[int]) -> None:
        """Segments that were given up before the last checkpoint, and whose removal a crash undid."""
        for number in numbers:
            if number not in self._state.size:
                self._disk.unlink(f"{self._layout.log}/{segment_name(number)}")

    def _note_gap_before(self, number: int, position: Position, numbers: list[int]) -> None:
        if not self._rebuilding and number - 1 > position.segment and number - 1 not in numbers:
            self._note_damage(number - 1, 0, 0, "the segment is missing")

    def _find_forgotten(self, numbers: list[int]) -> None:
        """Compaction may have moved a FORGET behind what was written after it: find all of them first."""
        forgotten = self._replayer.forgotten
        for number in numbers:
            try:
                segment = open_segment(self._disk, self._layout.log, number, self._uuid)
            except CorruptData:
                continue
            try:
                scan = Scan(self._disk, segment)
                while scan.position < scan.size:
                    for record in scan.records():
                        if record.kind == FORGET:
                            key = forgotten_key(record)
                            forgotten[key] = max(record.extra, forgotten.get(key, 0))
                    following = scan.next_record()
                    scan.position = scan.size if following is None else following.offset
            finally:
                self._disk.close(segment.fd)

    def _has_records(self, number: int) -> bool:
        try:
            segment = open_segment(self._disk, self._layout.log, number, self._uuid)
        except CorruptData:
            return False
        try:
            scan = Scan(self._disk, segment)
            return scan.record_at(scan.position) is not None or scan.next_record() is not None
        finally:
            self._disk.close(segment.fd)

    def _replay_segment(self, number: int, start: int, followed: bool, known: int, stop: int | None) -> None:
        """Replay one segment. `followed`: a later one holds records, so this one was synced to its end."""
        try:
            segment = open_segment(self._disk, self._layout.log, number, self._uuid)
        except CorruptData as error:
            if followed or known or header_reached_the_disk(self._disk, self._layout.log, number):
                self._note_damage(number, 0, 0, str(error))
            else:
                # Made, but its header never reached the disk: nothing can have been written behind it.
                self._disk.unlink(f"{self._layout.log}/{segment_name(number)}")
            return
        try:
            scan = Scan(self._disk, segment, start)
            while True:
                for record in scan.records():
                    if stop is not None and record.offset + record.length > stop:
                        scan.position = record.offset
                        break
                    self._replay_record(number, record)
                if stop is not None and scan.position >= stop:
                    self._cut(number, scan.position)
                    return
                if scan.position >= scan.size or (scan.only_zeros_left() and not followed and known <= scan.position):
                    self._cut(number, scan.position)
                    return
                gap = scan.find_end(scan.size if followed else known)
                if not gap.damaged:
                    self._notes.append(f"segment {number}: {gap.stop - gap.start} bytes of an unfinished write cut off")
                    self._cut(number, gap.start)
                    return
                self._note_damage(number, gap.start, gap.stop, "bytes that were durable do not verify")
                scan.position = gap.stop
        finally:
            self._disk.close(segment.fd)

    def _cut(self, number: int, offset: int) -> None:
        """End a segment here for good, also where it ends here already: whoever cut it may have died before the sync.

        One without records is removed.
        """
        path = f"{self._layout.log}/{segment_name(number)}"
        if offset <= SEGMENT_HEADER_BYTES:
            self._disk.unlink(path)
            self._disk.sync_directory(self._layout.log)
            return
        fd = self._disk.open(path, WRITE)
        try:
            if self._disk.size(fd) > offset:
                self._disk.ftruncate(fd, offset)
            self._disk.fdatasync(fd)
        finally:
            self._disk.close(fd)
        self._at(number, offset)

    def _note_damage(self, number: int, start: int, stop: int, what: str) -> None:
        damage = Damage(number, start, stop)
        self._notes.append(f"segment {number}, bytes {start}..{stop}: {what}")
        if damage not in self._state.damage:
            self._on_loss()
            self._state.damage.append(damage)
            self._damaged = True
        self._at(number, max(stop, SEGMENT_HEADER_BYTES))

    def _at(self, number: int, offset: int) -> None:
        """Everything before this is in place, or noted."""
        batch = self._replayer.batch
        batch.segment, batch.offset = number, offset
        self._state.size[number] = offset

    # ------------------------------------------------------------------------------------------------------- the index

    def _replay_record(self, number: int, record: Record) -> None:
        self._replayed += 1
        self._in_piece += 1
        try:
            self._replayer.replay(number, record)
        except (CorruptData, IndexError) as error:
            self._note_damage(number, record.offset, record.offset + record.length, str(error))
        self._at(number, record.offset + record.length)
        if self._in_piece >= PIECE_RECORDS:
            self._commit_piece()

    def _commit_piece(self, last: bool = False) -> None:
        """Commit what was replayed since the last piece, with the position that it stands for.

        A rebuilt index gets its state with the last piece: a rebuild that is cut short begins again.
        """
        replayer, env = self._replayer, self._index_env
        assert env is not None
        replayer.finish_catalogs()
        batch = replayer.batch
        unchanged = batch.segment < 0 or Position(batch.segment, batch.offset) == self._state.position
        if unchanged and not batch.writes and not self._damaged and not self._rebuilding:
            return
        self._damaged = False
        self._state.apply(batch)
        self._view.index.abort()
        with env.env.begin(write=True) as txn:
            for key, value in sorted(batch.writes.items()):
                if value == REMOVED:
                    txn.delete(key)
                else:
                    txn.put(key, value)
            if last or not self._rebuilding:
                for key, value in self._state.snapshot():
                    txn.put(key, value)
                txn.put(POSITION_KEY, POSITION.pack(*self._state.position))
        self._view.index = env.env.begin()
        self._in_piece = 0
        replayer.batch = Batch(0)
