"""Swift's builder files, `.builder`: read without trusting them.

Problem: a builder file is a Python pickle, and loading a pickle runs whatever its maker liked. An operator who is
sent one must be able to look into it.

Idea: a builder holds numbers, strings, lists, dicts and arrays of numbers. The reader admits the names of the array
type alone and puts a function of our own in its place, which takes a type code of two dozen bits and numbers. Every
other name, and every persistent id, ends the reading. What comes out is then checked field by field.

Rejected: `pickle.load` with a warning; executing the file in a sandbox process (heavier than the whole builder).
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np

from ring.memory import Memory
from ring.ring import Ring, RingError
from ring.ring_file import RingFileError, check_table
from ring.swift_ring_file import PART_POWER_MAX, SwiftFileError, devices_of, table_of
from ring.topology import Topology, TopologyError
from ring.topology_file import HOURS_MAX, Design, Settings

FILE_BYTES_MAX = 1 << 31
_WIDTHS = {"B": np.uint8, "H": np.uint16, "I": np.uint32, "L": np.uint32}


def loads(data: bytes, seed: int) -> tuple[Design, Memory | None]:
    """The design and memory of a builder file, with a hash seed of ours. SwiftFileError says what is wrong.

    Devices that are marked for removal are not in the design; the memory knows them as long as they hold replicas.
    """
    if len(data) > FILE_BYTES_MAX:
        raise SwiftFileError(f"{len(data)} bytes are more than any builder file has")
    builder = _read(data)
    try:
        return _convert(builder, seed)
    except (KeyError, TypeError, ValueError, OverflowError, TopologyError, RingError, RingFileError) as error:
        if isinstance(error, SwiftFileError):
            raise
        raise SwiftFileError(f"it is no builder of a version that is known: {error!r}") from error


def _convert(builder: dict[str, Any], seed: int) -> tuple[Design, Memory | None]:
    part_power = _whole(builder["part_power"], PART_POWER_MAX, "part power")
    if builder.get("next_part_power") is not None:
        raise SwiftFileError("a part power increase is under way in it: finish that with Swift's tools first")
    settings = Settings(
        part_power=part_power,
        replicas=float(builder["replicas"]),
        min_part_hours=min(_whole(builder["min_part_hours"], 1 << 20, "min_part_hours"), HOURS_MAX),
        overload=float(builder.get("overload") or 0.0),
        seed=seed,
    )
    devices = devices_of(builder["devs"])
    removed = {int(row["id"]) for row in builder.get("_remove_devs") or []}
    topology = Topology.of(device for device in devices if device is not None and device.id not in removed)
    design = Design(settings, topology)
    rows = builder.get("_replica2part2dev")
    if not rows:
        return design, None
    if not all(isinstance(row, np.ndarray) for row in rows):
        raise SwiftFileError("its table is not made of arrays")
    none_id = (1 << (8 * rows[0].itemsize)) - 1
    table = table_of(rows, none_id, settings.part_count)
    ring = Ring(part_power=part_power, seed=seed, epoch=1, devices=devices, table=table)
    check_table(ring)
    return design, Memory(ring, _moved_min(builder, settings.part_count))


def _moved_min(builder: dict[str, Any], part_count: int) -> np.ndarray[Any, np.dtype[np.uint32]]:
    """When each partition moved: Swift keeps whole hours before a moment."""
    hours = builder.get("_last_part_moves")
    if not isinstance(hours, np.ndarray) or len(hours) != part_count:
        return np.zeros(part_count, dtype=np.uint32)
    moment_min = int(builder.get("_last_part_moves_epoch") or 0) // 60
    # 255 hours is "long ago", as far as a byte goes.
    moved = np.where(hours == 255, 0, np.maximum(moment_min - hours.astype(np.int64) * 60, 0))
    return moved.astype(np.uint32)


def _whole(value: object, value_max: int, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= value_max:
        raise SwiftFileError(f"its {what} {value!r} is outside 0..{value_max}")
    return value


def _read(data: bytes) -> dict[str, Any]:
    try:
        builder = _PlainReader(io.BytesIO(data), encoding="latin-1").load()
    except SwiftFileError:
        raise
    # A pickle is a small program; a damaged one fails in every way that programs do.
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise SwiftFileError(f"it is no pickle, or damaged: {error}") from error
    except (MemoryError, OverflowError, RecursionError) as error:
        raise SwiftFileError("it is damaged: it asks for more memory than there is") from error
    if not isinstance(builder, dict):
        raise SwiftFileError("it is a pickle, but no builder")
    return builder


class _PlainReader(pickle.Unpickler):
    """Reads a pickle of plain data: no name but the array's is known, and that stands for a function of ours."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("array", "array"):
            return _array
        if (module, name) == ("array", "_array_reconstructor"):
            return _array_of_bytes
        raise SwiftFileError(f"it wants to run {module}.{name}: no builder needs that, so it is not read")

    def persistent_load(self, pid: object) -> Any:
        raise SwiftFileError("it refers to something outside itself: no builder needs that, so it is not read")


def _array(code: object, values: object = b"") -> np.ndarray[Any, Any]:
    """array.array(code, values) as a numpy array."""
    width = _WIDTHS.get(code) if isinstance(code, str) else None
    if width is None:
        raise SwiftFileError(f"it holds an array of the kind {code!r}")
    if isinstance(values, str):
        # Python 2 wrote the content as a string, in the byte order of the machine.
        values = values.encode("latin-1")
    if isinstance(values, bytes):
        return np.frombuffer(values, dtype=width)
    if isinstance(values, list):
        return np.array(values, dtype=width)
    raise SwiftFileError(f"it holds an array made of {type(values).__name__}")


def _array_of_bytes(kind: object, code: object, machine_format: object, values: object) -> np.ndarray[Any, Any]:
    """What newer pickles write: the bytes and a number that says how they are laid out."""
    layouts = {0: ">u1", 1: "<u1", 2: "<u2", 3: ">u2", 6: "<u4", 7: ">u4"}
    layout = layouts.get(machine_format) if isinstance(machine_format, int) else None
    if layout is None or not isinstance(values, bytes) or code not in _WIDTHS:
        raise SwiftFileError(f"it holds an array of the kind {code!r} in the format {machine_format!r}")
    array = np.frombuffer(values, dtype=layout)
    return array.astype(array.dtype.newbyteorder("="))
