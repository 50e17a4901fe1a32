"""Power is cut after every call to the disk of a scripted workload, and anything unsynced is kept, lost or torn.

Whatever is left, the device opens without finding damage, holds every acknowledged operation, and is in a state that it
went through: the operations up to some point at or behind the last acknowledged one, in their order.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from storage_node.device import Device, DeviceWrite, PutBlob
from storage_node.operations import (
    DeleteCatalog,
    DeleteObject,
    Found,
    FoundCatalog,
    FoundRows,
    GetCatalog,
    GetObject,
    ListRows,
    PutCatalog,
    PutObject,
    PutRow,
    Status,
    UpdateObject,
)
from storage_node.work import drive
from tests.storage_node.crash_disk import SURVIVALS, RecordingDisk, read_tree, write_survivors
from tests.storage_node.devices import SMALL, StillClock, die, drive_all, hash_of, make_device, open_device
from tests.storage_node.model import Model

OBJECTS = [(hash_of(number), b"/a/c/%d" % number) for number in range(6)]
CATALOG = (1, hash_of(20), b"/a/c")
OTHER = (2, hash_of(21), b"/a")
LONG = b"n" * 700


@pytest.fixture
def directory() -> Iterator[Path]:
    """In memory where there is such a place."""
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    made = Path(tempfile.mkdtemp(prefix="crash-", dir=memory))
    yield made
    shutil.rmtree(made)


def script() -> list[list[Any]]:
    """Batches; a ("blob", which, timestamp, size) stands for a PutBlob, a word for background work."""
    batches: list[list[Any]] = [[PutCatalog(*CATALOG, 1, {b"m": (b"v", 1)}), PutCatalog(*OTHER, 1, {})]]
    for number in range(1, 7):
        now = number * 10
        hash_, key = OBJECTS[number % 6]
        batches += [
            [
                PutObject(hash_, key, now, b"meta", bytes((number,)) * 1200),
                PutRow(1, CATALOG[1], b"row-%d" % (number % 4), now, 0, False, 1, 1200, b"p"),
            ],
            [UpdateObject(hash_, key, now, now + 1, b"newer meta")],
            [("blob", (number + 1) % 6, now + 2, 3_000 + number)],
            [
                DeleteObject(*OBJECTS[(number + 3) % 6], now + 3),
                PutRow(1, CATALOG[1], LONG + b"%d" % (number % 2), now + 4, 0, number % 3 == 0, 1, 5, b""),
                PutCatalog(*CATALOG, now + 5, {b"m": (b"%d" % number, now + 5)}),
            ],
        ]
        batches.insert(-2, ["prepare"])
        if number in (2, 4):
            batches.append(["checkpoint"])
        if number in (3, 5):
            batches.append(["compact"])
    batches.append([DeleteCatalog(*OTHER, 100), PutObject(*OBJECTS[0], 101, b"", b"last")])
    return batches


def run_script(device: Device, disk: RecordingDisk) -> list[tuple[DeviceWrite, bytes]]:
    """Do it all; gives the operations in order, with the data of PutBlobs."""
    done: list[tuple[DeviceWrite, bytes]] = []
    for batch in script():
        if batch == ["checkpoint"]:
            assert device.checkpoint()
        elif batch == ["prepare"]:
            prepare_log(device)
        elif batch == ["compact"]:
            drive_all(device)
        else:
            operations = [prepare(device, item) for item in batch]
            done += operations
            device.apply([operation for operation, _ in operations])
        disk.note_acknowledged(len(done))
    return done


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


def prepare_log(device: Device) -> None:
    """Fill zeros in ahead of the log's writer, and make the next segment."""
    while (work := device.next_work()) is not None and work.name in ("prepare log", "remove blobs"):
        drive(work)


def observe(device: Device) -> list[Any]:
    """All that one can see of a device."""
    seen: list[Any] = []
    for hash_, key in OBJECTS:
        found = device.read(GetObject(hash_, key, True))
        assert isinstance(found, Found)
        assert found.status in (Status.FOUND, Status.MISSING), found
        seen.append((found.entry, found.data))
    for place in (CATALOG, OTHER):
        catalog = device.read(GetCatalog(*place))
        rows = device.read(ListRows(*place, deleted=True))
        assert isinstance(catalog, FoundCatalog)
        assert isinstance(rows, FoundRows)
        state = catalog.catalog
        seen.append(None if state is None else (state[:3], rows.items))
    return seen


def observe_model(model: Model) -> list[Any]:
    """The same of a model."""
    seen: list[Any] = []
    for hash_, _ in OBJECTS:
        item = model.objects.get(hash_)
        if item is None:
            seen.append((None, None))
            continue
        entry = (item.timestamp, item.meta_timestamp, item.deleted, len(item.data), item.meta, item.manifest)
        seen.append((entry, None if item.deleted else item.data))
    for space, hash_, _ in (CATALOG, OTHER):
        catalog = model.catalogs.get((space, hash_))
        rows = () if catalog is None else tuple(sorted(catalog.rows.values()))
        state = None if catalog is None else (catalog.created, catalog.deleted, catalog.meta)
        seen.append(None if state is None else (state, rows))
    return seen


def states_of(operations: list[tuple[DeviceWrite, bytes]]) -> list[list[Any]]:
    """What is seen after each operation, the first before any."""
    model = Model()
    states = [observe_model(model)]
    for operation, data in operations:
        model.apply(operation, data)
        states.append(observe_model(model))
    return states


def test_a_cut_after_any_call_loses_nothing_acknowledged(directory: Path) -> None:
    """Every crash point of the script, with nothing, all and a random part of the unsynced kept."""
    path = directory / "device"
    disk = RecordingDisk(str(path))
    clock = StillClock()
    device = make_device(path, SMALL, disk, clock)
    device.close()
    base = read_tree(path)
    disk.events.clear()
    device = open_device(path, SMALL, disk, clock)
    committed = device._upkeep.checkpoint_committed

    def note_and_commit(*arguments: Any) -> None:
        disk.note_index()
        committed(*arguments)

    device._upkeep.checkpoint_committed = note_and_commit  # type: ignore[assignment, method-assign]
    operations = run_script(device, disk)
    device.close()
    states = states_of(operations)
    points = 0
    for cut in range(1, len(disk.events) + 1):
        if disk.events[cut - 1].kind == "acknowledged":
            continue
        acknowledged = max((event.offset for event in disk.events[:cut] if event.kind == "acknowledged"), default=0)
        for number, survival in enumerate(SURVIVALS):
            points += 1
            verify_survivor(directory / "after", base, disk, cut, survival, number, states[acknowledged:])
    assert points > 400


def verify_survivor(
    target: Path, base: dict[str, bytes], disk: RecordingDisk, cut: int, survival: str, number: int, states: list[Any]
) -> None:
    """Open what one cut left, twice, and look at it."""
    write_survivors(target, base, disk.events[:cut], Random(cut * 10 + number), survival)
    for number_of_blobs in range(256):
        (target / "blobs" / f"{number_of_blobs:02x}").mkdir(parents=True, exist_ok=True)
    for directory in ("incoming", "log"):
        (target / directory).mkdir(exist_ok=True)
    where = f"cut behind event {cut} {disk.events[cut - 1][:3]}, {survival} of the unsynced kept"
    after = RecordingDisk(str(target), boot_id="another boot")
    device = open_device(target, SMALL, after)
    seen = observe(device)
    assert device._parts.state.damage == [], where
    assert seen in states, where
    found = device.check(deep=True)
    assert found == [], (where, found)
    device.apply([PutObject(*OBJECTS[5], 1000, b"", b"life goes on")])
    die(device)
    # What was cut off must stay so, now that there is more behind it.
    after.boot = "a third boot"
    device = open_device(target, SMALL, after)
    assert observe(device)[:5] == seen[:5], where
    assert device.notes == [], where
    device.close()
    shutil.rmtree(target)
