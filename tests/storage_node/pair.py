"""A device and its model, side by side: every answer and every read of the one must be the other's."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from storage_node.device import Device, DeviceWrite, PutBlob
from storage_node.operations import (
    Found,
    FoundCatalog,
    FoundRows,
    GetCatalog,
    GetObject,
    ListRows,
    Locked,
    PutCatalog,
    Status,
)
from storage_node.reader import LocalReader
from storage_node.work import Progress, Work
from tests.storage_node.devices import SMALL, StillClock, die, hash_of, open_device
from tests.storage_node.model import Model, list_naively

OBJECTS = [(hash_of(number), b"/a/c/object-%d" % number) for number in range(4)]
CATALOGS = [(1, hash_of(10), b"/a/c"), (1, hash_of(11), b"/a/d"), (2, hash_of(12), b"/a")]
LONG = b"x" * 459
"""One byte less than fits a key."""
NAMES = [b"a", b"b", b"a/b", b"a/b/c", b"\x00", b"\xff", b"\xff\xff", LONG, LONG + b"x", LONG + b"x\x00", LONG + b"xy"]
NAMES += [LONG * 2 + b"x", LONG * 3, LONG + b"y", LONG[:-1] + b"z"]
PREFIXES = [b"", b"a", b"a/", LONG, LONG + b"x", b"\xff"]
RESTARTS = ["stop", "kill", "lose the index"]
DELIMITERS = [b"", b"/", b"x", b"b/"]


class Pair:
    """What one can do to a device, done to both."""

    def __init__(self) -> None:
        # In memory where there is such a place: what a sync costs does not matter here.
        memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
        self._directory = Path(tempfile.mkdtemp(prefix="device-model-", dir=memory))
        self.path = self._directory / "device"
        self.model = Model()
        self.clock = StillClock()
        self.work: Work | None = None
        Device.create(self.path, "model")
        self.device = open_device(self.path, now=self.clock)
        self.reader = LocalReader(self.path, settings=SMALL, now_ms=self.clock)
        self.write([PutCatalog(*place, 1, {}) for place in CATALOGS])

    def close(self) -> None:
        """Remove everything."""
        self.reader.close()
        self.device.close()
        shutil.rmtree(self._directory)

    def write(self, batch: Sequence[DeviceWrite]) -> None:
        """A batch of operations has the model's answers."""
        answers = self.device.apply(batch)
        expected = [self.model.apply(operation) for operation in batch]
        for operation, answer, wanted in zip(batch, answers, expected, strict=True):
            plain = answer._replace(entry=None) if isinstance(answer, Locked) else answer
            assert plain == wanted, operation

    def write_blob(self, which: int, timestamp: int, data: bytes) -> None:
        """The same for an object whose data comes through a writer."""
        writer = self.device.open_write()
        writer.write(data[:100])
        writer.write(data[100:])
        writer.finish()
        operation = PutBlob(*OBJECTS[which], timestamp, b"blob", writer)
        assert self.device.apply([operation]) == [self.model.apply(operation, data)]

    def restart(self, how: str) -> None:
        """A stop, a kill, or a kill after which the index is gone: nothing changes but that locks are forgotten."""
        if how == "stop":
            self.device.close()
        else:
            die(self.device)
        if how == "lose the index":
            self.reader.close()
            shutil.rmtree(self.path / "index")
        self.device = open_device(self.path, now=self.clock)
        self.model.locks.clear()
        self.work = None
        assert self.device.notes == []

    def pass_time(self) -> None:
        """A checkpoint is due, and no lock is held any more."""
        self.clock.now += SMALL.checkpoint_interval_ms
        self.model.locks.clear()

    def background(self, steps: int) -> None:
        """Some steps of whatever is due."""
        for _ in range(steps):
            self.work = self.work or self.device.next_work()
            if self.work is None:
                return
            progress = self.work.step()
            if progress is Progress.BLOCK:
                self.work.block()
            elif progress is Progress.WAIT:
                assert self.device.apply([]) == []
            elif progress is Progress.DONE:
                self.work = None

    def checkpoint(self) -> None:
        """A whole checkpoint."""
        assert self.device.checkpoint()

    def list_rows(self, query: ListRows) -> None:
        """A listing is what sorting all rows would give, for the device and for a reader."""
        found = self.model.catalogs.get((query.space, query.hash))
        for answer in (self.device.read(query), self.reader.read(query)):
            assert isinstance(answer, FoundRows)
            if found is None or (query.deleted and query.delimiter):
                assert answer.status == (Status.MISSING if found is None else Status.REFUSED)
                continue
            assert (list(answer.items), answer.truncated) == list_naively(list(found.rows.values()), query)

    def verify(self) -> None:
        """Objects and totals read back as the model has them, here and in a reader; check() finds nothing."""
        for side in (self.device, self.reader):
            for hash_, key in OBJECTS:
                self._object_agrees(side, hash_, key)
            for space, hash_, key in CATALOGS:
                self._catalog_agrees(side, space, hash_, key)
        found = self.device.check(deep=True)
        assert found == [], found

    def _object_agrees(self, side: Device | LocalReader, hash_: bytes, key: bytes) -> None:
        answer = side.read(GetObject(hash_, key, True))
        assert isinstance(answer, Found)
        wanted = self.model.objects.get(hash_)
        if wanted is None:
            assert answer.status == Status.MISSING
            return
        assert answer.entry is not None
        assert answer.entry[:3] == (wanted.timestamp, wanted.meta_timestamp, wanted.deleted)
        assert answer.entry[3:] == (len(wanted.data), wanted.meta, wanted.manifest)
        reader = side.open_read(hash_, key, wanted.timestamp)
        if wanted.deleted:
            assert reader == Status.MISSING
            return
        assert not isinstance(reader, Status)
        assert reader.read(0, len(wanted.data)) == wanted.data
        reader.close()
        assert answer.data == (wanted.data if len(wanted.data) < 100_000 else None)

    def _catalog_agrees(self, side: Device | LocalReader, space: int, hash_: bytes, key: bytes) -> None:
        answer = side.read(GetCatalog(space, hash_, key))
        assert isinstance(answer, FoundCatalog)
        wanted = self.model.catalogs[space, hash_]
        found = answer.catalog
        assert found is not None
        assert (found.created_timestamp, found.deleted_timestamp) == (wanted.created, wanted.deleted)
        assert found.meta == wanted.meta
        live = wanted.live_rows
        assert found.row_count == len(live)
        assert found.object_count == sum(row.object_count for row in live)
        assert found.size_bytes == sum(row.size_bytes for row in live)
