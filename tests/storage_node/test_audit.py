"""An audit finds what is rotten, says which it is, and finds nothing where all is well."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage_node.audit import Audited, AuditEntries, AuditRows, Finding
from storage_node.device import Device, PutBlob
from storage_node.operations import (
    DeleteObject,
    PutCatalog,
    PutObject,
    PutRow,
    RewriteRecord,
    Status,
)
from storage_node.reader import LocalReader
from tests.storage_node.devices import SMALL, hash_of, make_device
from tests.storage_node.test_suspects import rot

CATALOG = hash_of(9)
MIB = 1 << 20


def filled(path: Path) -> Device:
    """A device with some of everything."""
    device = make_device(path)
    device.apply([PutObject(hash_of(n), b"/a/c/%d" % n, 5, b"meta-%d" % n, b"data-%d-" % n * 9) for n in range(8)])
    device.apply([DeleteObject(hash_of(8), b"/a/c/gone", 5)])
    device.apply([PutCatalog(1, CATALOG, b"/a/c", 5, {b"item": (b"the item", 5)})])
    device.apply([PutRow(1, CATALOG, b"row-%d" % n, 5, 0, n == 3, 1, 1, b"payload-%d" % n) for n in range(5)])
    writer = device.open_write()
    writer.write(b"blob" * 100_000)
    writer.finish()
    device.apply([PutBlob(hash_of(20), b"/a/c/blob", 5, b"", writer)])
    return device


def audit(reader: LocalReader, *, limit: int = 3) -> tuple[int, list[Finding]]:
    """Everything, page by page: how many values there were, and the findings."""
    count, findings = 0, []
    for space in (0, 1, 2):
        start: bytes | None = bytes(16)
        while start is not None:
            page = reader.audit(AuditEntries(space, start, limit, MIB))
            assert isinstance(page, Audited)
            count += page.value_count
            findings += page.findings
            assert all(entry.key == b"/a/c/blob" for entry in page.files)
            start = page.next_start
            for entry in page.entries if space else ():
                name: bytes | None = b""
                while name is not None:
                    rows = reader.audit(AuditRows(space, entry.hash, name, limit))
                    assert isinstance(rows, Audited)
                    count += rows.value_count
                    findings += rows.findings
                    name = rows.next_start
    return count, findings


@pytest.mark.parametrize("checkpointed", [True, False])
def test_a_sound_device_has_no_findings(tmp_path: Path, checkpointed: bool):
    """Objects, a blob, a tombstone, a catalog, rows: all are looked at."""
    device = filled(tmp_path / "d")
    if checkpointed:
        device.checkpoint()
    reader = LocalReader(tmp_path / "d", settings=SMALL)
    assert audit(reader) == (8 + 1 + 1 + 1 + 5, [])
    reader.close()
    device.close()


@pytest.mark.parametrize(
    ("what", "space", "hash_", "name"),
    [
        (b"data-3-", 0, hash_of(3), b""),
        (b"meta-4", 0, hash_of(4), b""),
        (b"/a/c/gone", 0, hash_of(8), b""),
        (b"the item", 1, CATALOG, b""),
        (b"payload-2", 1, CATALOG, b"row-2"),
        (b"row-3", 1, CATALOG, b"row-3"),
    ],
)
def test_what_is_rotten_is_named(tmp_path: Path, what: bytes, space: int, hash_: bytes, name: bytes):
    """One changed byte: one finding."""
    device = filled(tmp_path / "d")
    rot(tmp_path / "d", what)
    reader = LocalReader(tmp_path / "d", settings=SMALL)
    count, (finding,) = audit(reader)
    assert count == 16
    assert (finding.space, finding.hash, finding.name) == (space, hash_, name)
    assert "wrong checksum" in finding.what
    reader.close()
    device.close()


def test_a_lost_blob_is_found(tmp_path: Path):
    """Its file is gone."""
    device = filled(tmp_path / "d")
    next(path for path in (tmp_path / "d" / "blobs").rglob("*") if path.is_file()).unlink()
    reader = LocalReader(tmp_path / "d", settings=SMALL)
    _, (finding,) = audit(reader)
    assert finding.key == b"/a/c/blob"
    reader.close()
    device.close()


def test_records_of_what_the_index_knows_whole_are_written_anew(tmp_path: Path):
    """Tombstones, catalogs and rows: afterwards nothing is found, and nothing has changed."""
    device = filled(tmp_path / "d")
    for what in (b"/a/c/gone", b"the item", b"payload-2"):
        rot(tmp_path / "d", what)
    reader = LocalReader(tmp_path / "d", settings=SMALL)
    before = [device.read(question) for question in _questions()]
    _, findings = audit(reader)
    assert len(findings) == 3
    answers = device.apply([RewriteRecord(finding.space, finding.hash, finding.name) for finding in findings])
    assert [answer.status for answer in answers] == [Status.APPLIED] * 3
    assert audit(reader)[1] == []
    assert [device.read(question) for question in _questions()] == before
    (refused,) = device.apply([RewriteRecord(0, hash_of(1))])
    assert refused.status == Status.REFUSED
    reader.close()
    device.close()


def _questions() -> list[object]:
    from storage_node.operations import GetCatalog, GetDigests, GetObject, ListRows

    return [
        GetObject(hash_of(8), b"/a/c/gone", False),
        GetCatalog(1, CATALOG, b"/a/c"),
        ListRows(1, CATALOG, b"/a/c", deleted=True),
        *(GetDigests(space, 0, 0, 0) for space in (0, 1, 2)),
    ]


def test_pages_keep_to_their_limits(tmp_path: Path):
    """In values and in bytes; a page always gets on."""
    device = filled(tmp_path / "d")
    reader = LocalReader(tmp_path / "d", settings=SMALL)
    page = reader.audit(AuditEntries(0, bytes(16), 100, 1))
    assert isinstance(page, Audited)
    assert page.value_count == 1
    assert page.next_start is not None
    assert reader.audit(AuditRows(1, hash_of(77), b"", 5)) == Audited(0, 0, (), (), (), None)
    reader.close()
    device.close()
    assert LocalReader(tmp_path / "nowhere").audit(AuditEntries(0, b"", 1, 1)) == Status.UNREACHABLE
