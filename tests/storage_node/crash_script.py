"""The workload whose every call to the disk the crash tests cut behind, and what may be seen after each of its steps.

It does everything that a device writes for: puts of small objects and of large ones, overwrites of each by each, updates of
metadata, manifests, tombstones, catalogs and rows with short and long names, deletions of catalogs; what replication asks
for (joins, copies with their metadata's time, forgetting of objects, rows and catalogs); what an audit asks for (records
written anew); filling ahead and beginning segments; checkpoints, compaction, removal of blobs, the sweep for orphans; fences
put up and taken down, a failed fdatasync with all that follows from it; closing, and dying and opening again.

Each step says how many states it may lead through: `History.states` are all that can be seen, in their order, as a naive
model has them. Events of the disk are interleaved with notes of what was begun and what was acknowledged, as indices of
states, so that a cut allows exactly the states between the two.
"""

from __future__ import annotations

import errno
from typing import Any, Final

from storage_node.device import Device, DeviceWrite, PutBlob
from storage_node.operations import (
    DeleteCatalog,
    DeleteObject,
    ForgetCatalog,
    ForgetObject,
    ForgetRow,
    Found,
    FoundCatalog,
    FoundRows,
    GetCatalog,
    GetObject,
    JoinCatalog,
    ListRows,
    LockObject,
    PutCatalog,
    PutObject,
    PutRow,
    RewriteRecord,
    Space,
    Status,
    UpdateObject,
)
from storage_node.work import drive
from tests.storage_node.crash_disk import RecordingDisk
from tests.storage_node.devices import SMALL, StillClock, die, drive_all, hash_of, open_device
from tests.storage_node.model import Model

OBJECTS: Final = [(hash_of(number), b"/a/c/%d" % number) for number in range(6)]
CATALOG: Final = (1, hash_of(20), b"/a/c")
OTHER: Final = (2, hash_of(21), b"/a")
THIRD: Final = (1, hash_of(22), b"/a/d")
CATALOGS: Final = (CATALOG, OTHER, THIRD)
LONG: Final = b"n" * 700
BEGUN, ACKNOWLEDGED = "begun", "acknowledged"

Step = list[Any]
"""Operations of one batch, ("blob", which, timestamp, size) for a PutBlob among them; or one word of what else is done."""


def script(rounds: int) -> list[Step]:
    """The steps; so many rounds of what clients do, then each of the rest once."""
    steps: list[Step] = [[PutCatalog(*CATALOG, 1, {b"m": (b"v", 1)}), PutCatalog(*OTHER, 1, {})]]
    for number in range(1, rounds + 1):
        now = number * 10
        hash_, key = OBJECTS[number % 6]
        steps += [
            [
                PutObject(hash_, key, now, b"meta", bytes((number,)) * 1200, number % 3 == 0),
                PutRow(1, CATALOG[1], b"row-%d" % (number % 4), now, 0, False, 1, 1200, b"p"),
            ],
            [UpdateObject(hash_, key, now, now + 1, b"newer meta")],
            ["prepare"],
            [("blob", (number + 1) % 6, now + 2, 3_000 + number)],
            [
                DeleteObject(*OBJECTS[(number + 3) % 6], now + 3),
                PutRow(1, CATALOG[1], LONG + b"%d" % (number % 2), now + 4, 0, number % 3 == 0, 1, 5, b""),
                PutCatalog(*CATALOG, now + 5, {b"m": (b"%d" % number, now + 5)}),
            ],
        ]
        if number % 6 in (2, 4):
            steps.append(["checkpoint"])
        if number % 6 in (3, 5):
            steps.append(["compact"])
    at = 10 * rounds
    steps += [
        # What replication asks for.
        [
            JoinCatalog(*THIRD, at + 50, at + 40, at + 50, {b"j": (b"joined", at + 50)}),
            PutRow(1, THIRD[1], b"t", at + 61, 0, True, 1, 0, b""),
        ],
        [PutObject(*OBJECTS[3], at + 70, b"copied meta", b"copy", False, None, at + 75), ("blob", 4, at + 71, 5_000)],
        [("blob", 4, at + 72, 4_000), ForgetRow(1, THIRD[1], b"t", at + 61, 0)],
        [JoinCatalog(*THIRD, at + 50, at + 62, at + 62, {})],
        [ForgetCatalog(*THIRD, at + 50, at + 62, at + 62, {}), ForgetObject(*OBJECTS[4], at + 72, at + 72)],
        ["compact"],
        # What an audit asks for.
        [DeleteObject(*OBJECTS[5], at + 76), LockObject(*OBJECTS[0], at + 77, 1_000)],
        [RewriteRecord(0, OBJECTS[5][0]), RewriteRecord(1, CATALOG[1]), RewriteRecord(1, CATALOG[1], b"row-1")],
        ["checkpoint"],
        [
            RewriteRecord(1, CATALOG[1], LONG + b"1"),
            PutObject(*OBJECTS[0], at + 77, b"", b"under the lock", False, at + 77),
        ],
        # Fences, deaths and a disk that fails.
        ["fence"],
        ["release"],
        ["die"],
        ["sync fails", PutObject(*OBJECTS[1], at + 80, b"", b"never there"), ("blob", 2, at + 81, 3_500)],
        [PutObject(*OBJECTS[1], at + 82, b"", b"after the failure"), ("blob", 2, at + 83, 3_600)],
        ["close"],
        [PutRow(1, CATALOG[1], b"row-2", at + 84, 1, True, 1, 0, b""), ForgetObject(*OBJECTS[3], at + 70, at + 75)],
        ["compact"],
        [DeleteCatalog(*OTHER, at + 100), PutObject(*OBJECTS[0], at + 101, b"", b"last")],
    ]
    return steps


class History:
    """Runs the script on a device, and keeps what may be seen. `device` is open before and after."""

    def __init__(self, device: Device, disk: RecordingDisk, clock: StillClock) -> None:
        self.device = device
        self.states: list[Any] = []
        """What is seen after each operation, the first before any."""
        self._disk = disk
        self._clock = clock
        self._model = Model()
        self._fenced = False
        self._add_state()

    def run(self, rounds: int) -> None:
        """Do it all."""
        for step in script(rounds):
            if isinstance(step[0], str) and step[0] in _WORDS:
                _WORDS[step[0]](self, step[1:])
            else:
                self._write(step)
            self._disk.note(ACKNOWLEDGED, len(self.states) - 1)

    def _add_state(self) -> None:
        self.states.append(observe_model(self._model, self._fenced))

    def _write(self, items: Step) -> None:
        operations = self._prepared(items)
        answers = self.device.apply([operation for operation, _ in operations])
        for (operation, _), answer in zip(operations, answers, strict=True):
            assert answer.status in (Status.APPLIED, Status.MISSING), (operation, answer)

    def _prepared(self, items: Step) -> list[tuple[DeviceWrite, bytes]]:
        """The operations, their blobs written; the states that they lead to are added and noted as begun."""
        operations = [prepare(self.device, item) for item in items]
        for operation, data in operations:
            self._model.apply(operation, data)
            self._add_state()
        self._disk.note(BEGUN, len(self.states) - 1)
        return operations

    def _prepare_log(self, _: Step) -> None:
        """Fill zeros in ahead of the log's writer, and make the next segment."""
        while (work := self.device.next_work()) is not None and work.name in ("prepare log", "remove blobs"):
            drive(work)

    def _checkpoint(self, _: Step) -> None:
        assert self.device.checkpoint()

    def _compact(self, _: Step) -> None:
        drive_all(self.device)

    def _fence(self, _: Step) -> None:
        self._fenced = True
        self._add_state()
        self._disk.note(BEGUN, len(self.states) - 1)
        self.device.fence("an operator took it out")

    def _release(self, _: Step) -> None:
        self._fenced = False
        self._add_state()
        self._disk.note(BEGUN, len(self.states) - 1)
        self.device.release_fence()

    def _die(self, _: Step) -> None:
        die(self.device)
        self.device = open_device(self.device.path, SMALL, self._disk, self._clock)

    def _close(self, _: Step) -> None:
        self.device.close()
        self.device = open_device(self.device.path, SMALL, self._disk, self._clock)

    def _sync_fails(self, items: Step) -> None:
        """A batch whose fdatasync fails is answered FENCED and is not there once the device was opened anew and released.

        Until the fence is on the disk a cut may leave any part of that batch: nobody was told that it is there.
        """
        before = self._model
        self._model = before.copy()
        operations = self._prepared(items)
        self._model = before
        self._fenced = True
        self._add_state()
        self._disk.note(BEGUN, len(self.states) - 1)

        def fail(kind: str, path: str) -> None:
            if kind == "sync" and "/log/" in path:
                raise OSError(errno.EIO, "the disk is failing")

        self._disk.on_call = fail
        answers = self.device.apply([operation for operation, _ in operations])
        self._disk.on_call = lambda kind, path: None
        assert {answer.status for answer in answers} == {Status.FENCED}
        self._disk.note(ACKNOWLEDGED, len(self.states) - 1)
        self._die([])
        assert self.device.fenced
        self._release([])


_WORDS = {
    "prepare": History._prepare_log,
    "checkpoint": History._checkpoint,
    "compact": History._compact,
    "fence": History._fence,
    "release": History._release,
    "die": History._die,
    "close": History._close,
    "sync fails": History._sync_fails,
}


def prepare(device: Device, item: Any) -> tuple[DeviceWrite, bytes]:
    """An operation of the script, its blob written."""
    if item[0] != "blob":
        return item, b""
    _, which, timestamp, size = item
    data = bytes((which + 65,)) * size
    writer = device.open_write()
    writer.write(data)
    writer.finish()
    hash_, key = OBJECTS[which]
    return PutBlob(hash_, key, timestamp, b"blob", writer), data


def observe(device: Device) -> list[Any]:
    """All that one can see of a device."""
    seen: list[Any] = [bool(device.fenced)]
    for hash_, key in OBJECTS:
        found = device.read(GetObject(hash_, key, True))
        assert isinstance(found, Found)
        assert found.status in (Status.FOUND, Status.MISSING), found
        seen.append((found.entry, found.data))
    for place in CATALOGS:
        catalog = device.read(GetCatalog(*place))
        rows = device.read(ListRows(*place, deleted=True))
        assert isinstance(catalog, FoundCatalog)
        assert isinstance(rows, FoundRows)
        state = catalog.catalog
        seen.append(None if state is None else (state[:3], rows.items))
    return seen


def observe_model(model: Model, fenced: bool) -> list[Any]:
    """The same of a model."""
    seen: list[Any] = [fenced]
    for hash_, _ in OBJECTS:
        item = model.objects.get(hash_)
        if item is None:
            seen.append((None, None))
            continue
        entry = (item.timestamp, item.meta_timestamp, item.deleted, len(item.data), item.meta, item.manifest)
        seen.append((entry, None if item.deleted else item.data))
    for space, hash_, _ in CATALOGS:
        catalog = model.catalogs.get((space, hash_))
        rows = () if catalog is None else tuple(catalog.rows[name] for name in sorted(catalog.rows))
        state = None if catalog is None else (catalog.created, catalog.deleted, dict(catalog.meta))
        seen.append(None if state is None else (state, rows))
    return seen


assert Space.OBJECT == 0
