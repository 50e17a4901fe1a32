"""Checkpoint: what is in `recent` goes into `index`, durably, together with the log position that it stands for.

Problem: the index must be exactly the state at one position of the log (totals are sums: replaying a row twice would count
it twice if it were not), while writes go on.

Idea: hold a read transaction of `recent`: its snapshot is the state at the position P of the last published batch; what the
device keeps in memory (digests, counters, live bytes) is copied in the same moment. Fill one write transaction of `index`
from the snapshot, in slices, commit it with sync, and only then take out of `recent` what has not changed since the
snapshot. A reader that looks into `recent` first and `index` second sees each value at least once at all times.

Then what only the old index referred to may go: segments without a live byte, of numbers below P's.

Crash at any point: before the commit the old index and its P hold; after it the new ones do; `recent` is rebuilt anyway.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Protocol, TypeVar

import lmdb

from storage_node.index import POSITION, POSITION_KEY, REMOVED, STATE_KEY, STATISTICS_KEY, OpenEnvironment
from storage_node.log import Position
from storage_node.work import Progress, SteppedWork, Steps, Worker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from storage_node.state import State

FIRST_DEVICE_KEY = STATE_KEY
"""Keys from here on are the device's own, not entries."""

T = TypeVar("T")


class CheckpointOwner(Protocol):
    """What a checkpoint needs of its device."""

    @property
    def recent_env(self) -> OpenEnvironment: ...

    @property
    def index_env(self) -> OpenEnvironment: ...

    @property
    def state(self) -> State: ...

    def checkpoint_committed(self, position: Position, dead_segments: list[int]) -> None:
        """The index stands for everything before `position`; these segments hold nothing that it refers to."""
        ...

    def checkpoint_failed(self, error: Exception) -> None:
        """The index is as it was."""
        ...


class Checkpoint(SteppedWork):
    """One checkpoint. Its snapshot is of the moment when it is made: not between the parts of a publish."""

    name = "checkpoint"

    def __init__(self, owner: CheckpointOwner, slice_entries: int, at_once: bool = False) -> None:
        """`at_once`: all steps follow each other with no publish in between, and need no thread."""
        super().__init__()
        self._owner = owner
        self._slice_entries = slice_entries
        self._at_once = at_once
        self._worker = None if at_once else Worker("checkpoint")
        self._snapshot = owner.recent_env.env.begin()
        state = owner.state
        self._position = state.position
        self._state_items = state.snapshot()
        self._dead = [
            number for number in state.size if number < self._position.segment and not state.live.get(number, 0)
        ]
        self._txn: lmdb.Transaction[bytes] | None = None
        self._error: Exception | None = None
        self._committed = False

    def _call(self, function: Callable[[], T]) -> T:
        """In the thread that owns the index's write transaction."""
        return function() if self._worker is None else self._worker.call(function)

    def _run(self) -> Steps:
        try:
            yield from self._fill()
            if self._error is None:
                self._blocking = self._commit
                yield Progress.BLOCK
            if not self._committed:
                self._owner.state.changed_all()
                self._owner.checkpoint_failed(self._error or RuntimeError("block() was not called"))
                return
            self._owner.checkpoint_committed(self._position, self._dead)
            yield Progress.MORE
            try:
                if self._at_once:
                    self._wipe()
                else:
                    yield from self._trim()
            except lmdb.MapFullError:
                # Taking out needs room as well. What stays is what the index has, and goes with the next checkpoint.
                return
        finally:
            if self._txn is not None:
                self._call(self._abort)
                self._owner.state.changed_all()
            self._snapshot.abort()
            if self._worker is not None:
                self._worker.close()

    def _entries(self) -> Iterator[tuple[bytes, bytes]]:
        """The snapshot's entries, in order."""
        for key, value in self._snapshot.cursor().iternext():
            if key >= FIRST_DEVICE_KEY:
                return
            yield key, value

    def _fill(self) -> Steps:
        entries = self._entries()
        more = True
        while more:
            try:
                more = self._call(lambda: self._fill_slice(entries))
            except lmdb.Error as error:
                self._error = error
                return
            yield Progress.MORE

    def _fill_slice(self, entries: Iterator[tuple[bytes, bytes]]) -> bool:
        """Some more entries; False when there are no more."""
        if self._txn is None:
            self._txn = self._owner.index_env.env.begin(write=True)
        txn = self._txn
        count = 0
        for key, value in islice(entries, self._slice_entries):
            if value == REMOVED:
                txn.delete(key)
            else:
                txn.put(key, value)
            count += 1
        return count == self._slice_entries

    def _commit(self) -> None:
        """Write the state and commit: what waits for the disk."""

        def commit() -> None:
            assert self._txn is not None
            for key, value in self._state_items:
                self._txn.put(key, value)
            self._txn.put(POSITION_KEY, POSITION.pack(*self._position))
            self._txn.commit()
            self._txn = None

        try:
            self._call(commit)
            self._committed = True
        except lmdb.Error as error:
            self._error = error

    def _abort(self) -> None:
        if self._txn is not None:
            self._txn.abort()
            self._txn = None

    def _wipe(self) -> None:
        """The index has all of `recent`: empty it, which needs next to no room."""
        self._snapshot.abort()
        env = self._owner.recent_env.env
        with env.begin(write=True) as txn:
            statistics = txn.get(STATISTICS_KEY)
            txn.drop(env.open_db(None, txn=txn), delete=False)
            txn.put(POSITION_KEY, POSITION.pack(*self._position))
            if statistics is not None:
                txn.put(STATISTICS_KEY, statistics)

    def _trim(self) -> Steps:
        """Take out of `recent` what the index has now."""
        entries = self._entries()
        while slice_ := list(islice(entries, self._slice_entries)):
            with self._owner.recent_env.env.begin(write=True) as txn:
                for key, value in slice_:
                    if txn.get(key) == value:
                        txn.delete(key)
            yield Progress.MORE
