"""Swift's own ring files, `.ring.gz`: read, and written so that Swift's Ring class loads them.

The format, as OpenStack Swift documents it ("The Rings") and its tool writes it, is a gzip of

    version 1   "R1NG" | u16 1 | u32 length | JSON | the table, row by row, 16-bit ids in the byte order that the JSON names
    version 2   "R1NG" | u16 2 | sections, each u64 length and bytes | index as JSON, with its length | u64 where the index
                begins in the plain stream | u64 where it begins in the compressed one

all integers big-endian but for the table of version 1. Version 2's sections are swift/ring/metadata and swift/ring/devices
(JSON) and swift/ring/assignments (the table, big-endian, ids of 2 or 4 bytes). Its reader seeks to a section in the
*compressed* file, so each section begins at a full flush of the compressor.

A Swift ring places a name by MD5 with a secret of the cluster; ours by xxh3. So an imported ring keeps its topology
and where its partitions lie, not which name is in which partition: moving the data over is a copy through the HTTP
interface.

Invariants: nothing of a file is believed unchecked; what is exported holds the same devices, table and part power.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ring.device_text import NOTE, REPLICATION_IP, REPLICATION_PORT, DeviceTextError, make_meta, normal_address
from ring.ring import NO_DEVICE, REPLICA_COUNT_MAX, Ring, RingError, Table
from ring.ring_file import RingFileError, check_table
from ring.topology import DEVICE_COUNT_MAX, Device, TopologyError

MAGIC = b"R1NG"
PART_POWER_MAX = 24
"""Swift's rings go to 32; at 24, with 64 replicas, the table has the 2 GiB that are enough for any file one meets."""
PLAIN_BYTES_MAX = 1 << 32
NARROW_ID_MAX = 0xFFFE
"""Ids of 2 bytes: 0xFFFF means that a replica is nowhere."""
_MTIME = struct.pack("<L", 0)
_LEVEL = 6


class SwiftFileError(ValueError):
    """The file's: it is no Swift ring or builder, damaged, or too new. The message says what is wrong with it."""


def loads(data: bytes, seed: int, epoch: int = 1) -> Ring:
    """The ring in the bytes of a `.ring.gz`, to be used with a hash seed of ours. SwiftFileError says what is wrong."""
    plain = _inflate(data)
    if plain[:4] != MAGIC or len(plain) < 6:
        raise SwiftFileError("it is gzip, but no Swift ring: it does not begin with R1NG")
    (version,) = struct.unpack_from("!H", plain, 4)
    try:
        if version == 1:
            facts, table = _read_1(plain)
        elif version == 2:
            facts, table = _read_2(plain)
        else:
            raise SwiftFileError(f"it has Swift's ring format {version}, and 1 and 2 are known: use a newer program")
        ring = Ring(
            part_power=32 - facts["part_shift"],
            seed=seed,
            epoch=epoch,
            devices=devices_of(facts["devs"]),
            table=table,
        )
        check_table(ring)
    except (KeyError, TypeError, ValueError, struct.error, RingError, TopologyError, RingFileError) as error:
        if isinstance(error, SwiftFileError):
            raise
        raise SwiftFileError(f"damaged: {error or error!r}") from error
    return ring


def dumps(ring: Ring, version: int = 1) -> bytes:
    """The ring as a `.ring.gz`. SwiftFileError if Swift's format has no room for it."""
    if version == 1:
        return _write_1(ring)
    if version == 2:
        return _write_2(ring)
    raise SwiftFileError(f"there is no ring format {version}: 1 and 2 are known")


def devices_of(rows: object) -> tuple[Device | None, ...]:
    """Swift's list of device dicts (None for a hole) as devices by id. SwiftFileError names what can't be."""
    if not isinstance(rows, list) or len(rows) > DEVICE_COUNT_MAX:
        raise SwiftFileError("its devices are no list")
    devices = [None if row is None else device_of(row) for row in rows]
    for number, device in enumerate(devices):
        if device is not None and device.id != number:
            raise SwiftFileError(f"device {device.id} stands at place {number}")
    return tuple(devices)


def device_of(row: Mapping[str, Any]) -> Device:
    """One of Swift's device dicts as a device."""
    if not isinstance(row, Mapping):
        raise SwiftFileError(f"{row!r} is no device")
    try:
        node, port = str(row["ip"]), int(row["port"])
        replication_ip = str(row.get("replication_ip") or node)
        replication_port = int(row.get("replication_port") or port)
        return Device(
            id=int(row["id"]),
            region=int(row.get("region", 1)),
            zone=int(row["zone"]),
            node=normal_address(node),
            port=port,
            name=str(row["device"]),
            weight=float(row["weight"]),
            meta=make_meta(
                replication_ip if replication_ip != node else None,
                replication_port if replication_port != port else None,
                str(row.get("meta") or ""),
            ),
        )
    except (KeyError, TypeError, ValueError, TopologyError, DeviceTextError) as error:
        raise SwiftFileError(f"device {row.get('id')}: {error}") from error


def dict_of(device: Device) -> dict[str, Any]:
    """A device as one of Swift's device dicts."""
    return {
        "id": device.id,
        "region": device.region,
        "zone": device.zone,
        "ip": device.node,
        "port": device.port,
        "replication_ip": device.meta.get(REPLICATION_IP, device.node),
        "replication_port": int(device.meta.get(REPLICATION_PORT, device.port)),
        "device": device.name,
        "weight": device.weight,
        "meta": device.meta.get(NOTE, ""),
    }


def table_of(rows: Sequence[np.ndarray[Any, Any]], none_id: int, part_count: int) -> Table:
    """Swift's rows of ids, the last of which may be short, as a table."""
    if not 1 <= len(rows) <= REPLICA_COUNT_MAX:
        raise SwiftFileError(f"it has {len(rows)} rows of replicas")
    table = np.full((len(rows), part_count), NO_DEVICE, dtype=np.uint32)
    for index, row in enumerate(rows):
        if len(row) > part_count or (len(row) < part_count and (index < len(rows) - 1 or index == 0)):
            raise SwiftFileError(f"replica {index} has {len(row)} partitions instead of {part_count}")
        if np.any(row == none_id):
            raise SwiftFileError(f"a partition's replica {index} is on no device: rebalance it with Swift's tool first")
        table[index, : len(row)] = row
    return table


def _inflate(data: bytes) -> bytes:
    inflater = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        plain = inflater.decompress(data, PLAIN_BYTES_MAX)
    except zlib.error as error:
        raise SwiftFileError(f"it is no gzip, or damaged: {error}") from error
    if not inflater.eof:
        raise SwiftFileError("truncated: the gzip stream has no end")
    return plain


def _part_count(facts: Mapping[str, Any]) -> int:
    part_power = 32 - facts["part_shift"]
    if not isinstance(part_power, int) or not 0 <= part_power <= PART_POWER_MAX:
        raise SwiftFileError(f"its part power {part_power} is outside 0..{PART_POWER_MAX}")
    if facts.get("next_part_power") is not None:
        raise SwiftFileError("a part power increase is under way in it: finish that with Swift's tools first")
    return 1 << part_power


def _read_1(plain: bytes) -> tuple[dict[str, Any], Table]:
    (length,) = struct.unpack_from("!I", plain, 6)
    facts = json.loads(plain[10 : 10 + length])
    part_count = _part_count(facts)
    order = ">" if facts.get("byteorder", "little") == "big" else "<"
    ids = np.frombuffer(plain, dtype=f"{order}u2", offset=10 + length)
    return facts, table_of(_rows(ids, part_count, facts["replica_count"]), 0xFFFF, part_count)


def _read_2(plain: bytes) -> tuple[dict[str, Any], Table]:
    if len(plain) < 22:
        raise SwiftFileError("truncated: it has no index")
    (index_at,) = struct.unpack_from("!Q", plain, len(plain) - 16)
    index = json.loads(_blob(plain, index_at))

    def section(name: str) -> bytes:
        _, start, _, stop, method, checksum = index[name]
        whole = plain[start:stop]
        if method not in ("md5", "sha1", "sha256", "sha512"):
            raise SwiftFileError(f"section {name} has a checksum of an unknown kind, {method!r}")
        if hashlib.new(method, whole, usedforsecurity=False).hexdigest() != checksum:
            raise SwiftFileError(f"section {name} (bytes {start}..{stop} of the plain stream) is damaged")
        return _blob(plain, start)

    facts = json.loads(section("swift/ring/metadata"))
    facts["devs"] = json.loads(section("swift/ring/devices"))
    part_count = _part_count(facts)
    width = facts["dev_id_bytes"]
    if width not in (2, 4):
        raise SwiftFileError(f"its device ids have {width} bytes")
    ids = np.frombuffer(section("swift/ring/assignments"), dtype=f">u{width}")
    row_count = -(-len(ids) // part_count)
    return facts, table_of(_rows(ids, part_count, row_count), (1 << (8 * width)) - 1, part_count)


def _rows(ids: np.ndarray[Any, Any], part_count: int, row_count: int) -> list[np.ndarray[Any, Any]]:
    if row_count != -(-len(ids) // part_count):
        raise SwiftFileError(f"truncated: it has {len(ids)} entries instead of {row_count} rows of {part_count}")
    return [ids[start : start + part_count] for start in range(0, len(ids), part_count)]


def _blob(plain: bytes, start: int) -> bytes:
    (length,) = struct.unpack_from("!Q", plain, start)
    if start + 8 + length > len(plain):
        raise SwiftFileError(f"truncated: a section at byte {start} has {length} bytes")
    return plain[start + 8 : start + 8 + length]


def _table_bytes(table: Table, dtype: str) -> bytes:
    """The table row by row, without what is absent at the end of the last one."""
    return b"".join(row[row != NO_DEVICE].astype(dtype).tobytes() for row in table)


def _id_bytes(ring: Ring) -> int:
    return 2 if len(ring.devices) <= NARROW_ID_MAX else 4


def _facts(ring: Ring) -> dict[str, Any]:
    if ring.transition_power is not None:
        raise SwiftFileError("a part power increase is under way: finish it, then export")
    return {"part_shift": 32 - ring.part_power, "version": ring.epoch}


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=True).encode("ascii")


def _dicts(ring: Ring) -> list[dict[str, Any] | None]:
    return [None if device is None else dict_of(device) for device in ring.devices]


def _write_1(ring: Ring) -> bytes:
    if _id_bytes(ring) > 2:
        raise SwiftFileError(f"format 1 has no room for device ids above {NARROW_ID_MAX}: export format 2")
    facts = {**_facts(ring), "devs": _dicts(ring), "replica_count": len(ring.table), "byteorder": "little"}
    text = _json(facts)
    plain = MAGIC + struct.pack("!HI", 1, len(text)) + text + _table_bytes(ring.table, "<u2")
    deflater = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    return _gzip(deflater.compress(plain) + deflater.flush(), plain)


def _write_2(ring: Ring) -> bytes:
    width = _id_bytes(ring)
    metadata = {**_facts(ring), "dev_id_bytes": width, "replica_count": ring.replica_count}
    writer = _Writer()
    writer.raw(MAGIC + struct.pack("!H", 2))
    writer.section("swift/ring/metadata", _json(metadata))
    writer.section("swift/ring/devices", _json(_dicts(ring)))
    writer.section("swift/ring/assignments", _table_bytes(ring.table, f">u{width}"))
    return writer.finish()


class _Writer:
    """Writes a version 2 stream: every piece ends in a full flush, so that a reader may begin at the next one."""

    def __init__(self) -> None:
        self.plain = io.BytesIO()
        self.packed = io.BytesIO()
        self.index: dict[str, tuple[int, int, int, int, str, str]] = {}

    def places(self) -> tuple[int, int]:
        """Where the next piece begins: in the file, and in the plain stream."""
        return len(_GZIP_HEAD) + self.packed.tell(), self.plain.tell()

    def piece(self, data: bytes) -> None:
        """Write compressed."""
        deflater = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
        self.plain.write(data)
        self.packed.write(deflater.compress(data) + deflater.flush(zlib.Z_FULL_FLUSH))

    def raw(self, data: bytes) -> None:
        """Write as a stored block and an empty one, of known length in the file: 5 + n + 5 bytes."""
        self.plain.write(data)
        self.packed.write(struct.pack("<BHH", 0, len(data), len(data) ^ 0xFFFF) + data + b"\x00\x00\x00\xff\xff")

    def section(self, name: str, data: bytes) -> None:
        """Write a section with its length, and remember where it is."""
        whole = struct.pack("!Q", len(data)) + data
        packed_start, plain_start = self.places()
        self.piece(whole)
        packed_stop, plain_stop = self.places()
        checksum = hashlib.sha256(whole).hexdigest()
        self.index[name] = (packed_start, plain_start, packed_stop, plain_stop, "sha256", checksum)

    def finish(self) -> bytes:
        """Write the index and where it is; the reader finds the latter 31 bytes before the end of the file."""
        packed_start, plain_start = self.places()
        text = _json(self.index)
        self.piece(struct.pack("!Q", len(text)) + text)
        self.raw(struct.pack("!Q", plain_start))
        self.raw(struct.pack("!Q", packed_start))
        # The end of the stream: an empty stored block that is the last, 5 bytes.
        return _gzip(self.packed.getvalue() + b"\x01\x00\x00\xff\xff", self.plain.getvalue())


_GZIP_HEAD = b"\x1f\x8b\x08\x00" + _MTIME + b"\x02\xff"


def _gzip(packed: bytes, plain: bytes) -> bytes:
    """A gzip file of a deflated stream; without a time, so that equal rings give equal files."""
    return _GZIP_HEAD + packed + struct.pack("<LL", zlib.crc32(plain), len(plain) & 0xFFFFFFFF)
