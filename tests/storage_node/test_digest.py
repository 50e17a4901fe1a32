"""Digests: XORs that follow every write, and agree with what reading the range gives."""

from __future__ import annotations

from functools import reduce
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage_node.device import Device
from storage_node.digest import (
    BUCKET_BITS,
    CHUNK_COUNT,
    DigestTable,
    bucket_of,
    catalog_digest,
    entry_digest,
    row_digest,
)
from storage_node.operations import FoundDigests, GetDigests, PutCatalog, PutObject, PutRow, Status
from storage_node.view import is_coarse
from tests.storage_node.devices import make_device, open_device


def digests(device: Device, *query: int) -> tuple[bytes, ...]:
    """The answer to a GetDigests."""
    answer = device.read(GetDigests(*query))
    assert isinstance(answer, FoundDigests)
    assert answer.status == Status.FOUND, answer
    return answer.digests


def test_equal_contents_are_equal_digests_whatever_the_order(memory_path: Path) -> None:
    """Two devices that were written to in opposite orders agree at every depth; one more write and they differ."""
    hashes = [bytes((number * 37 % 256, number)) + bytes(14) for number in range(40)]
    writes = [PutObject(hash_, hash_, 5, b"", b"data") for hash_ in hashes]
    writes += [PutObject(hash_, hash_, 3, b"", b"older") for hash_ in hashes[::3]]
    devices = [make_device(memory_path / name) for name in "ab"]
    for write in writes:
        devices[0].apply([write])
    devices[1].apply(writes[::-1])
    queries = [(0, 0, 0, 8), (0, 0, 0, 16), (0, 0, 0, 0), (0, 8, 37, 8), (0, 12, 0, 12), (0, 16, 37 << 8 | 1, 8)]
    for query in queries:
        first, second = (digests(device, *query) for device in devices)
        assert first == second
        assert len(first) == 1 << query[3]
    devices[0].apply([PutObject(hashes[1], hashes[1], 9, b"", b"")])
    for query in [(0, 0, 0, 0), (0, 8, 37, 8), (0, 16, 37 << 8 | 1, 8)]:
        assert digests(devices[0], *query) != digests(devices[1], *query)
    assert digests(devices[0], 0, 8, 38, 8) == digests(devices[1], 0, 8, 38, 8)
    for device in devices:
        device.close()


def test_coarse_digests_are_the_xor_of_finer_ones(memory_path: Path) -> None:
    """What the buckets say is what reading the index says, before and after a checkpoint and a restart."""
    device = make_device(memory_path / "d")
    for number in range(60):
        hash_ = bytes((number % 5, number * 11 % 256, number)) + bytes(13)
        device.apply([PutObject(hash_, hash_, 5, b"", b""), PutCatalog(1, hash_, hash_, 1, {b"a": (b"b", 1)})])
        device.apply([PutRow(1, hash_, b"row", number + 1, 0, False, 1, 1, b"")])
    for space in (0, 1, 2):
        coarse = digests(device, space, 0, 0, 12)
        finer = device._parts.fresh_view().get_digests(GetDigests(space, 0, 0, 12)).digests
        assert coarse == finer
        xored = [
            reduce(lambda a, b: a ^ b, (int.from_bytes(x, "big") for x in coarse[i : i + 64]))
            for i in range(0, 4096, 64)
        ]
        assert tuple(x.to_bytes(16, "big") for x in xored) == digests(device, space, 0, 0, 6)
    before = digests(device, 1, 0, 0, 16)
    device.close()
    device = open_device(memory_path / "d")
    assert digests(device, 1, 0, 0, 16) == before
    assert digests(device, 2, 0, 0, 16) == (bytes(16),) * 65536
    device.close()


@pytest.mark.parametrize(
    "query", [(3, 0, 0, 0), (0, 129, 0, 0), (0, 0, 0, 17), (0, 4, 16, 4), (0, 120, 0, 9), (0, -1, 0, 0)]
)
def test_what_makes_no_sense_is_refused(memory_path: Path, query: tuple[int, int, int, int]) -> None:
    """A space that is none, more bits than a hash has, a prefix that does not fit, too many answers."""
    device = make_device(memory_path / "d")
    assert device.read(GetDigests(*query)).status == Status.REFUSED
    device.close()


@settings(max_examples=50, deadline=None)
@given(
    toggles=st.lists(st.tuples(st.integers(0, 65535), st.integers(0, (1 << 128) - 1)), max_size=20),
    bits=st.integers(0, 16),
    prefix=st.integers(0, 65535),
)
def test_a_table_folds_to_what_was_put_in(toggles: list[tuple[int, int]], bits: int, prefix: int) -> None:
    """The XOR of the digests whose buckets begin with the prefix; a snapshot that is loaded is the same table."""
    table = DigestTable()
    for bucket, digest in toggles:
        table.toggle(bucket, digest)
    prefix >>= 16 - bits
    wanted = reduce(lambda a, b: a ^ b, (d for bucket, d in toggles if bucket >> 16 - bits == prefix), 0)
    assert table.fold(bits, prefix, 0) == (wanted.to_bytes(16, "big"),)
    copy = DigestTable()
    for chunk, stored in table.snapshot():
        copy.load_chunk(chunk, stored)
    assert copy.words == table.words
    assert table.snapshot() == []


def test_a_chunk_that_is_none_is_refused() -> None:
    """What the index holds is checked before it is believed."""
    for chunk, stored in ((CHUNK_COUNT, bytes(1024)), (0, bytes(1023)), (-1, bytes(1024))):
        with pytest.raises(ValueError, match="chunk"):
            DigestTable().load_chunk(chunk, stored)


def test_every_part_of_a_version_counts() -> None:
    """Timestamps, deletion, metadata, rows and names each change the digest."""
    hash_ = bytes(16)
    entries = {entry_digest(hash_, *version) for version in [(1, 1, 0), (2, 1, 0), (1, 2, 0), (1, 1, 1)]}
    rows = {
        row_digest(*row)
        for row in [(b"a", 1, 1, 0), (b"b", 1, 1, 0), (b"a", 2, 1, 0), (b"a", 1, 2, 0), (b"a", 1, 1, 1)]
    }
    catalogs = {
        catalog_digest(hash_, *c)
        for c in [(1, 1, 1, b""), (2, 1, 1, b""), (1, 2, 1, b""), (1, 1, 2, b""), (1, 1, 1, b"m")]
    }
    assert (len(entries), len(rows), len(catalogs)) == (4, 5, 5)
    assert bucket_of(b"\x12\x34" + bytes(14)) == 0x1234
    assert is_coarse(GetDigests(0, 8, 0, BUCKET_BITS - 8))
    assert not is_coarse(GetDigests(0, 8, 0, BUCKET_BITS - 7))
