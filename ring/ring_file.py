"""The ring file: what every node of a cluster holds a copy of.

Problem: every service loads it at the start and whenever it changes, so it must load in a few milliseconds at 2**18
partitions; and a wrong one would send data to wrong places, so nothing in it is believed unchecked.

Idea: a sealed file (`ring.durable`) with a section of settings and one of devices (JSON, since they are few and
someone will want to read them with a hex viewer), and the table in *planes*: the low bytes of all ids, then each
further bit that the largest id needs, eight replicas to a byte. Ids are as good as random, so this is as small as it
gets (11 bits a replica with 2,000 devices), and it is loaded in a millisecond, where inflating takes several.

Invariants: after a load, each number in the table is the id of a device that is there, no partition has a device twice,
and only the last replica may be missing from partitions.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray

from ring.durable import FILE_BYTES_MAX, SealError, peek_epoch, replace_file, seal, unseal
from ring.ring import NO_DEVICE, PART_POWER_MAX, REPLICA_COUNT_MAX, Ring, RingError, Table
from ring.topology import Device, TopologyError

MAGIC = b"RINGSTD\n"
"""Ends in a newline, so that a transfer that translates line ends is found out at once."""
VERSION = 1


class RingFileError(ValueError):
    """The file's: it is damaged, truncated, too new or no ring file. The message says what, where, and in which file."""


def load(path: str | Path) -> Ring:
    """The ring in that file. RingFileError if it isn't one or isn't whole; OSError if it can't be read."""
    path = Path(path)
    if path.stat().st_size > FILE_BYTES_MAX:
        raise RingFileError(f"{path}: larger than any ring file, {path.stat().st_size} bytes")
    try:
        return loads(path.read_bytes())
    except RingFileError as error:
        raise RingFileError(f"{path}: {error}") from error


def save(path: str | Path, ring: Ring) -> None:
    """Write the ring file, whole and durably, in the place of what is there."""
    replace_file(Path(path), dumps(ring))


def epoch_of(head: bytes) -> int:
    """The epoch from the first 32 bytes of a ring file; the rest is not checked. RingFileError if it is none."""
    try:
        return peek_epoch(head, MAGIC)
    except SealError as error:
        raise RingFileError(str(error)) from error


def dumps(ring: Ring) -> bytes:
    """The ring as the content of a ring file; the same ring gives the same bytes."""
    settings = {
        "part_power": ring.part_power,
        "transition_power": ring.transition_power,
        "rows": len(ring.table),
        "seed": ring.seed,
    }
    table = dump_table(ring.table)
    sections = {"settings": orjson.dumps(settings), "devices": dump_devices(ring.devices), **table}
    # Where all ids fit a byte, that byte isn't random in all its bits.
    return seal(MAGIC, VERSION, ring.epoch, sections, raw=table.keys() if len(ring.devices) > 256 else ())


def loads(data: bytes) -> Ring:
    """The ring in these bytes. RingFileError says what is wrong with them, and where."""
    try:
        sealed = unseal(data, MAGIC, VERSION)
        settings = orjson.loads(sealed.sections["settings"])
        devices = load_devices(sealed.sections["devices"])
        rows, part_power = int(settings["rows"]), int(settings["part_power"])
        if not 1 <= rows <= REPLICA_COUNT_MAX or not 0 <= part_power <= PART_POWER_MAX:
            raise RingFileError(f"{rows} replicas of 2**{part_power} partitions are beyond every limit")
        table = load_table(sealed.sections, rows, 1 << part_power)
        ring = Ring(
            part_power=part_power,
            seed=int(settings["seed"]),
            epoch=sealed.epoch,
            devices=devices,
            table=table,
            transition_power=settings["transition_power"],
        )
    except (SealError, RingError, TopologyError) as error:
        raise RingFileError(str(error)) from error
    except (KeyError, TypeError, ValueError) as error:
        raise RingFileError(f"sound, but not as a ring is written: {error!r}") from error
    check_table(ring)
    return ring


def check_table(ring: Ring) -> None:
    """Verify every number of the table. RingFileError names the first partition that is wrong."""
    known = np.array([*(device is not None for device in ring.devices), False])
    holes = not known[:-1].all()
    for replica, row in enumerate(ring.table):
        last = replica == len(ring.table) - 1
        # Without holes among the ids the largest number tells; a table look-up costs as much as all the rest of a load.
        if holes or int(row.max()) >= len(ring.devices):
            good = known[np.minimum(row, len(ring.devices))] | (last & (row == NO_DEVICE))
            if not good.all():
                partition = int(np.argmin(good))
                raise RingFileError(f"partition {partition}, replica {replica}: there is no device {row[partition]}")
        for other in range(replica):
            twice = row == ring.table[other]
            if twice.any():
                partition = int(np.argmax(twice))
                raise RingFileError(
                    f"partition {partition} has device {row[partition]} as replica {other} and {replica}"
                )


def dump_devices(devices: tuple[Device | None, ...]) -> bytes:
    """Devices as JSON: a list of rows, in the order of Device's fields."""
    rows = [
        [d.id, d.region, d.zone, d.node, d.port, d.name, d.weight, d.kind, d.meta] for d in devices if d is not None
    ]
    return orjson.dumps(rows)


def load_devices(data: bytes) -> tuple[Device | None, ...]:
    """What `dump_devices` wrote, by id. TopologyError, ValueError or TypeError if it is no such thing."""
    devices = [Device(*row) for row in orjson.loads(data)]
    by_id: list[Device | None] = [None] * (max((device.id for device in devices), default=-1) + 1)
    for device in devices:
        if by_id[device.id] is not None:
            raise TopologyError(f"device id {device.id} occurs twice")
        by_id[device.id] = device
    return tuple(by_id)


def dump_table(table: Table) -> dict[str, bytes]:
    """The table as planes, by section name. NO_DEVICE becomes one more than the largest id."""
    absent = table == NO_DEVICE
    id_max = int(np.max(table, where=~absent, initial=0))
    packed = np.where(absent, np.uint32(id_max + 1), table)
    sections = {"absent": str(id_max + 1).encode(), "low": packed.astype(np.uint8).tobytes()}
    for bit in range(8, (id_max + 1).bit_length()):
        sections[f"bit{bit}"] = np.packbits((packed >> np.uint32(bit)).astype(np.uint8) & np.uint8(1)).tobytes()
    return sections


def load_table(sections: dict[str, bytes], rows: int, part_count: int) -> Table:
    """What `dump_table` wrote. RingFileError if it is of another size."""
    size = rows * part_count
    absent = int(sections["absent"])
    table = _plane(sections, "low", size).astype(np.uint32)
    for first in range(8, absent.bit_length(), 8):
        byte = np.zeros(size, dtype=np.uint8)
        for bit in range(first, min(first + 8, absent.bit_length())):
            byte |= np.unpackbits(_plane(sections, f"bit{bit}", -(-size // 8)), count=size) << np.uint8(bit - first)
        table |= byte.astype(np.uint32) << np.uint32(first)
    table[table == absent] = NO_DEVICE
    return table.reshape(rows, part_count)


def _plane(sections: dict[str, bytes], name: str, size_bytes: int) -> NDArray[np.uint8]:
    plane = np.frombuffer(sections[name], dtype=np.uint8)
    if len(plane) != size_bytes:
        raise RingFileError(f"plane {name!r} of the table has {len(plane)} bytes instead of {size_bytes}")
    return plane
