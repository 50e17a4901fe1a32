"""Examining a device that no process serves: recover it as its next start would, then hold all its parts against each other.

Problem: an operator wants to know whether a device is sound, after a crash too, when the index still lags behind the log.

Idea: what recovery does is what the next start of the device does anyway, so it is done first (file systems' own checkers
replay the journal first, too); what it finds is part of the report. Before it, `recent` is read if it can be believed:
everything that readers were shown must be what the log says as well. Then comes check().

Nothing is repaired here that recovery does not do by itself: what is damaged on one device is whole on its peers.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lmdb

from storage_node.check import Checker, Finding
from storage_node.clearing import RemoveBlobs, SweepOrphans
from storage_node.disk import Disk, RealDisk
from storage_node.errors import DeviceDamaged
from storage_node.identity import Layout, read_identity, recent_is_believable
from storage_node.index import LONG_ROW_TAG, PLACE, ROW_TAG, open_index
from storage_node.parts import Parts
from storage_node.rows import POINTER_KEY_BYTES
from storage_node.settings import DeviceSettings
from storage_node.work import drive

if TYPE_CHECKING:
    from storage_node.view import View

_LAST_ROW_TAG = LONG_ROW_TAG + 2


@dataclass(frozen=True, slots=True)
class Report:
    """What an examination found."""

    path: str
    uuid: str
    name: str
    fenced: str
    """Why the device takes no writes; empty if it does."""
    notes: list[str] = field(default_factory=list)
    """What recovery did: no fault by itself."""
    findings: list[Finding] = field(default_factory=list)
    """What is wrong."""
    figures: dict[str, int] = field(default_factory=dict)
    """How much of what was looked at."""

    @property
    def clean(self) -> bool:
        """Nothing is wrong."""
        return not self.findings

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        found = asdict(self)
        found["findings"] = [finding._asdict() for finding in self.findings]
        return {"clean": self.clean, **found}


def examine(
    path: Path | str, *, deep: bool = False, disk: Disk | None = None, settings: DeviceSettings | None = None
) -> Report:
    """Recover and check a device. With `deep` every byte of every large object is read as well.

    Raises NotADevice, DeviceInUse (it is being served), DeviceDamaged (its identity or index can't be read), OSError.
    """
    path = str(path)
    disk = disk or RealDisk()
    settings = settings or DeviceSettings()
    shown = _what_readers_saw(disk, path, settings)
    try:
        parts = Parts(path, disk, settings, os.urandom)
    except lmdb.Error as error:
        raise DeviceDamaged(f"{path}: the index can't be opened: {error}") from error
    try:
        orphans = 0 if parts.state.damage else _remove_orphans(parts)
        checker = Checker(parts, deep=deep)
        view = parts.fresh_view()
        findings = checker.run() + [Finding("recent", what) for what in _compare(shown, view)]
        counters = parts.state.counters
        return Report(
            path,
            parts.identity.uuid.hex(),
            parts.identity.name,
            parts.fence.reason if parts.fence else "",
            parts.notes,
            findings,
            {
                "log_records": checker.records,
                "index_entries": checker.entries,
                "objects": counters.objects,
                "tombstones": counters.tombstones,
                "containers": counters.containers,
                "accounts": counters.accounts,
                "rows": counters.rows,
                "blobs": counters.blobs,
                "blob_bytes": counters.blob_bytes,
                "recent_entries": len(shown),
                "orphans_removed": orphans,
            },
        )
    except lmdb.CorruptedError as error:
        raise DeviceDamaged(f"{path}: the index is damaged: {error}") from error
    finally:
        parts.close()


def _remove_orphans(parts: Parts) -> int:
    """As the device's own sweep after opening: how many there were."""
    queue: list[bytes] = []
    drive(SweepOrphans(parts.disk, parts.layout.blobs, b"\0" * 8, parts.fresh_view, queue))
    count = len(queue)
    drive(RemoveBlobs(parts.disk, parts.layout.blobs, queue))
    return count


def _what_readers_saw(disk: Disk, path: str, settings: DeviceSettings) -> dict[bytes, bytes]:
    """Entries and rows of `recent`, where it is of this boot: what was published and may not be in the index yet."""
    read_identity(disk, path)
    shown: dict[bytes, bytes] = {}
    if not recent_is_believable(disk, path):
        return shown
    with suppress(lmdb.Error, OSError):
        env = open_index(Layout(path).recent_env, settings.recent_map_bytes, writable=False, durable=False)
        try:
            with env.env.begin() as txn:
                for key, value in txn.cursor().iternext():
                    tag = key[0]
                    if (tag <= 2 or ROW_TAG <= tag <= _LAST_ROW_TAG) and len(key) != POINTER_KEY_BYTES:
                        shown[key] = value
        finally:
            env.close()
    return shown


def _compare(shown: dict[bytes, bytes], view: View) -> list[str]:
    """What readers were shown must be in the index, as it was or as a later record made it."""
    problems = []
    for key, value in shown.items():
        found = view.value(key)
        if found == (value or None):
            continue
        if value and (found is None or _place(found) < _place(value)):
            problems.append(f"{key.hex()} was published, and the log knows only an older state")
    return problems


def _place(value: bytes) -> tuple[int, int]:
    segment, offset, _ = PLACE.unpack_from(value)
    return segment, offset
