"""A process that writes to a device until it is killed, and says on its standard output how far it has come.

`python -m tests.storage_node.writing_child PATH FIRST` does operation FIRST, the next, and so on, in batches; after each
batch it prints the number of the next operation. Operations depend on their number alone, so whoever reads the
output knows what the device must hold.
"""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random

from storage_node.device import Device, DeviceWrite, PutBlob
from storage_node.operations import DeleteObject, PutCatalog, PutObject, PutRow, UpdateObject
from storage_node.work import Progress
from tests.storage_node.devices import SMALL, hash_of, open_device

OBJECTS = [(hash_of(number), b"/a/c/%d" % number) for number in range(12)]
CATALOG = (1, hash_of(20), b"/a/c")
OTHER = (2, hash_of(21), b"/a")
BLOB_EVERY = 13


def operation(number: int) -> tuple[DeviceWrite | None, bytes]:
    """The operation of that number; None: a PutBlob of the data given."""
    if number < 2:
        return PutCatalog(*(CATALOG, OTHER)[number], 1, {}), b""
    random = Random(number)
    hash_, key = random.choice(OBJECTS)
    if number % BLOB_EVERY == 0:
        return None, bytes((number % 256,)) * 5_000
    pick = random.random()
    if pick < 0.4:
        return PutObject(hash_, key, number, b"meta", random.randbytes(random.randint(0, 1500))), b""
    if pick < 0.55:
        return DeleteObject(hash_, key, number), b""
    if pick < 0.65:
        return UpdateObject(hash_, key, number - random.randint(1, 8), number, b"update"), b""
    name = random.choice([b"a", b"b", b"c" * 600, b"d" * 461])
    return PutRow(1, CATALOG[1], name, number, 0, random.random() < 0.3, 1, number, b"payload"), b""


def blob_place(number: int) -> tuple[bytes, bytes]:
    """Which object a PutBlob of that number writes."""
    return OBJECTS[number // BLOB_EVERY % len(OBJECTS)]


def prepared(device: Device, number: int) -> DeviceWrite:
    """The operation, its blob written."""
    found, data = operation(number)
    if found is not None:
        return found
    writer = device.open_write()
    writer.write(data)
    writer.finish()
    hash_, key = blob_place(number)
    return PutBlob(hash_, key, number, b"blob", writer)


def run(path: Path, first: int) -> None:
    """Write for ever."""
    clock_ms = [0]

    def now_ms() -> int:
        clock_ms[0] += SMALL.checkpoint_interval_ms // 20
        return clock_ms[0]

    device = open_device(path, now=now_ms)
    sizes = Random(first)
    print(first, flush=True)
    while True:
        count = sizes.choice([1, 1, 3, 8])
        device.apply([prepared(device, number) for number in range(first, first + count)])
        first += count
        print(first, flush=True)
        work = device.next_work()
        if work is not None:
            for _ in range(20):
                progress = work.step()
                if progress is Progress.BLOCK:
                    work.block()
                elif progress is Progress.WAIT:
                    device.apply([])
                elif progress is Progress.DONE:
                    break


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]))
