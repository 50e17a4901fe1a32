"""check(): every structure that lies is found out. One lie at a time, told straight to LMDB, the state or the files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from storage_node.device import Device, PutBlob
from storage_node.index import BLOB_TAG, SPACE_TAGS, decode_catalog
from storage_node.operations import DeleteObject, PutCatalog, PutObject, PutRow
from storage_node.rows import pointer_keys, row_base, row_key
from storage_node.settings import KIB
from tests.storage_node.devices import flip_byte, hash_of, make_device

CATALOG = (1, hash_of(50), b"/a/c")
BASE = row_base(1, CATALOG[1])
LONG = b"n" * 700
Lie = Callable[[Device], None]


@pytest.fixture
def device(memory_path: Path) -> Device:
    """One with everything in it, all of it in the index."""
    made = make_device(memory_path / "d")
    writer = made.open_write()
    writer.write(bytes(700 * KIB))
    writer.finish()
    made.apply([PutBlob(hash_of(1), b"/a/c/1", 5, b"m", writer), PutCatalog(*CATALOG, 1, {b"a": (b"b", 1)})])
    made.apply([PutObject(hash_of(2), b"/a/c/2", 5, b"m", b"data"), DeleteObject(hash_of(3), b"/a/c/3", 5)])
    made.apply([PutRow(1, CATALOG[1], name, 5, 0, False, 1, 7, b"p") for name in (b"a", b"b", LONG)])
    made.checkpoint()
    assert made.check(deep=True) == []
    return made


def edit(device: Device, key: bytes, change: Callable[[bytes], bytes] | None) -> None:
    """Change a value of the index, or remove it."""
    device._parts.let_go_of_index()
    with device._parts.index_env.env.begin(write=True) as txn:
        value = txn.get(key)
        if change is None:
            txn.delete(key)
        else:
            txn.put(key, change(value or b""))


def blob_file(device: Device) -> Path:
    """The one blob."""
    (found,) = (path for path in (device.path / "blobs").rglob("*") if path.is_file())
    return found


def flipped(at: int) -> Callable[[bytes], bytes]:
    """The value with another byte at one place."""
    return lambda value: value[:at] + bytes((value[at] ^ 1,)) + value[at + 1 :]


def more_rows(value: bytes) -> bytes:
    """A catalog with one row too many."""
    found = decode_catalog(value)
    found.row_count += 1
    return found.encode()


OBJECT_KEY, CATALOG_KEY = b"\x00" + hash_of(2), SPACE_TAGS[1] + CATALOG[1]

LIES: dict[str, tuple[Lie, str]] = {
    "an object is gone from the index": (lambda d: edit(d, OBJECT_KEY, None), "the index knows nothing of"),
    "an object points elsewhere": (lambda d: edit(d, OBJECT_KEY, flipped(4)), "wrong checksum"),
    "an object's metadata differ": (lambda d: edit(d, OBJECT_KEY, flipped(-1)), "its record says something else"),
    "an object's timestamp differs": (lambda d: edit(d, OBJECT_KEY, flipped(16)), "digests of space 0 are wrong"),
    "a row is gone": (lambda d: edit(d, row_key(BASE, b"a"), None), "its totals are"),
    "a row's payload differs": (lambda d: edit(d, row_key(BASE, b"a"), flipped(-1)), "its record says something else"),
    "a row has no pointer": (
        lambda d: edit(d, pointer_keys(BASE, LONG)[0], None),
        "can be reached from their catalogs",
    ),
    "a catalog's totals differ": (lambda d: edit(d, CATALOG_KEY, more_rows), "its rows make"),
    "a catalog is gone": (lambda d: edit(d, CATALOG_KEY, None), "can be reached from their catalogs"),
    "a blob is gone": (lambda d: blob_file(d).unlink(), "is missing"),
    "a blob's table is rotten": (lambda d: flip_byte(blob_file(d), 700 * KIB + 3), "table's checksum"),
    "a blob's data are rotten": (lambda d: flip_byte(blob_file(d), 300_000), "chunk 1"),
    "a blob is listed that no object has": (
        lambda d: edit(d, BLOB_TAG + bytes(16), lambda _: hash_of(9)),
        "no object has it",
    ),
    "a blob is listed as another's": (
        lambda d: edit(d, BLOB_TAG + bytes.fromhex(blob_file(d).name), lambda _: hash_of(9)),
        "listed as another's",
    ),
    "a file that nothing names": (
        lambda d: (d.path / "blobs" / "00" / ("00" * 16)).touch(),
        "a file that nothing names",
    ),
    "a record is rotten": (lambda d: flip_byte(d.path / "log" / "0000000001.seg", 200), "no record verifies"),
    "a segment is cut short": (lambda d: cut(d.path / "log" / "0000000001.seg"), "bytes long"),
    "a segment's header is rotten": (lambda d: flip_byte(d.path / "log" / "0000000001.seg", 3), "can't be read"),
    "a counter is off": (lambda d: setattr(d._parts.state.counters, "objects", 7), "the counters say"),
    "a digest is off": (lambda d: d._parts.state.digests[2].toggle(5, 1), "digests of space 2 are wrong"),
    "a segment's live bytes are off": (lambda d: d._parts.state.live.update({1: 5}), "bytes counted as live"),
}


def cut(path: Path) -> None:
    """Take the last byte off."""
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("lie", LIES)
def test_every_lie_is_found_out(device: Device, lie: str) -> None:
    """With a sentence that says what is wrong."""
    tell, sentence = LIES[lie]
    tell(device)
    device._parts.segments.close()
    found = device.check(deep=True)
    assert any(sentence in problem for problem in found), found
    device._parts.fence = None
    device.close()


def test_check_wants_a_device_at_rest(device: Device) -> None:
    """Not in the middle of a batch."""
    batch = device.decide([])
    with pytest.raises(ValueError, match="under way"):
        device.check()
    device.publish(batch)
    assert device.check() == []
    device.close()
