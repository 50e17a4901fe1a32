"""kill -9 on a process that writes, again and again: what it said was done is there, and nothing else is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

from storage_node.device import Device, PutBlob
from storage_node.operations import (
    Found,
    FoundRows,
    FoundStatistics,
    GetObject,
    GetStatistics,
    ListRows,
    Status,
)
from storage_node.reader import LocalReader
from tests.storage_node.devices import SMALL, die, make_device, open_device
from tests.storage_node.model import Model
from tests.storage_node.writing_child import CATALOG, OBJECTS, blob_place, operation

KILLS = 8
SEED = 20_240_817


def start(path: Path, first: int) -> subprocess.Popen[bytes]:
    """A writing process."""
    command = [sys.executable, "-m", "tests.storage_node.writing_child", str(path), str(first)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])


def kill_after(child: subprocess.Popen[bytes], batches: int) -> int:
    """Kill it when it has said so many numbers; the last one that it said."""
    assert child.stdout is not None
    said = 0
    for _ in range(batches):
        said = int(child.stdout.readline())
    child.kill()
    rest = child.stdout.read().split(b"\n")
    child.wait()
    # The last line may be cut off in the middle.
    return max([said, *(int(line) for line in rest[:-1])])


def advance(model: Model, number: int) -> None:
    """Do one operation to the model."""
    done, data = operation(number)
    if done is None:
        hash_, key = blob_place(number)
        done = PutBlob(hash_, key, number, b"blob", None)  # type: ignore[arg-type]  # the model needs no writer
    model.apply(done, data)


def observe(side: Device | LocalReader) -> list[Any]:
    """Objects and rows."""
    seen: list[Any] = []
    for hash_, key in OBJECTS:
        found = side.read(GetObject(hash_, key, True))
        assert isinstance(found, Found)
        assert found.status in (Status.FOUND, Status.MISSING), found
        seen.append(found.entry and (found.entry.timestamp, found.entry.meta_timestamp, found.entry.meta, found.data))
    rows = side.read(ListRows(*CATALOG, deleted=True))
    assert isinstance(rows, FoundRows)
    return [*seen, rows.items]


def observe_model(model: Model) -> list[Any]:
    """The same of the model."""
    seen: list[Any] = []
    for hash_, _ in OBJECTS:
        item = model.objects.get(hash_)
        data = None if item is None or item.deleted else item.data
        seen.append(item and (item.timestamp, item.meta_timestamp, item.meta, data))
    catalog = model.catalogs.get(CATALOG[:2])
    return [*seen, () if catalog is None else tuple(sorted(catalog.rows.values()))]


def test_what_was_acknowledged_survives_every_kill(memory_path: Path) -> None:
    """The device is the model after some operation at or behind the last one that was acknowledged."""
    random = Random(SEED)
    path = memory_path / "d"
    make_device(path).close()
    model, done = Model(), 0
    for _ in range(KILLS):
        acknowledged = kill_after(start(path, done), random.randint(2, 150))
        for number in range(done, acknowledged):
            advance(model, number)
        done = acknowledged
        device = open_device(path)
        seen = observe(device)
        for _ in range(9):  # the batch in which it died may be there in part
            if seen == observe_model(model):
                break
            advance(model, done)
            done += 1
        assert seen == observe_model(model), f"killed behind operation {acknowledged}"
        assert device.notes == []
        assert device.check(deep=True) == []
        die(device)


def test_a_reader_follows_a_device_through_kills_and_restarts(memory_path: Path) -> None:
    """What another process acknowledged is what a reader here sees, while it lives, when it is dead, when it is back."""
    path = memory_path / "d"
    make_device(path).close()
    reader = LocalReader(path, settings=SMALL)
    model, done = Model(), 0
    for _ in range(3):
        child = start(path, done)
        assert child.stdout is not None
        for _ in range(60):
            acknowledged = int(child.stdout.readline())
            for number in range(done, acknowledged):
                advance(model, number)
            done = acknowledged
            for hash_, key in OBJECTS:
                found = reader.read(GetObject(hash_, key, True))
                assert isinstance(found, Found)
                wanted = model.objects.get(hash_)
                if wanted is not None:
                    assert found.entry is not None
                    assert found.entry.timestamp >= wanted.timestamp
        child.kill()
        child.stdout.read()
        child.wait()
        device = open_device(path)
        assert observe(reader) == observe(device)
        while observe(reader) != observe_model(model):
            advance(model, done)
            done += 1
        device.close()
        assert observe(reader) == observe_model(model)
    statistics = reader.read(GetStatistics())
    assert isinstance(statistics, FoundStatistics)
    assert statistics.status == Status.FOUND
    reader.close()
