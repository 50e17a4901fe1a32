"""Suspects: what a read found rotten, written down for the auditor of that device.

Problem: bytes that do not have their checksum are met by whoever reads: the device's own process, or a proxy on the same
machine that reads the disk directly. The client gets another replica's; but somebody must mend this one, soon, and that is
neither the proxy's business nor the device's alone.

Idea: one line appended to the file `suspects` in the device's directory, by the process that met it: an append of a few
bytes in one write, no message, no daemon that has to be up. The auditor takes the file (renames it, reads it, removes it
when what it names has been looked at) and finds out for itself whether it is true: a line is a hint, never a verdict.

What the disk itself refused to read (EIO) is written down in the same way, in `disk-errors`, for the device's own process,
whoever met it: that process takes its device out of service for writing (`take_disk_error`).

Invariants: noting never fails a read; the file never outgrows FILE_BYTES_MAX; a line that is not whole is passed over.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from storage_node.operations import HASH_BYTES

if TYPE_CHECKING:
    from storage_node.disk import Disk

FILE_NAME: Final = "suspects"
TAKEN_NAME: Final = "suspects.taken"
ERRORS_NAME: Final = "disk-errors"
ERRORS_BYTES_MAX: Final = 64 * 1024
FILE_BYTES_MAX: Final = 4 * 1024 * 1024
"""Some ten thousand names: with more, the whole device is suspect, and the scrub finds the rest."""
NOTED_MAX: Final = 1024
"""Names that one process remembers to have noted, so that a hot rotten object is not noted a thousand times."""


class Suspect(NamedTuple):
    """An object that could not be read right."""

    hash: bytes
    key: bytes


class Suspects:
    """Writes suspects down, for one device and one process."""

    __slots__ = ("_disk", "_errors_path", "_noted", "_path")

    def __init__(self, disk: Disk, root: str) -> None:
        self._disk = disk
        self._path = f"{root}/{FILE_NAME}"
        self._errors_path = f"{root}/{ERRORS_NAME}"
        self._noted: set[bytes] = set()

    def note(self, hash_: bytes, key: bytes) -> None:
        """Note an object. From any thread; never raises."""
        if hash_ in self._noted:
            return
        if len(self._noted) >= NOTED_MAX:
            self._noted.clear()
        self._noted.add(hash_)
        with suppress(OSError):
            self._disk.append(self._path, f"{hash_.hex()} {key.hex()}\n".encode(), FILE_BYTES_MAX)

    def note_disk_error(self, reason: str) -> None:
        """Note that the disk failed a read. From any thread; never raises."""
        with suppress(OSError):
            self._disk.append(self._errors_path, f"{reason}\n".encode(), ERRORS_BYTES_MAX)


def take_disk_error(root: str) -> str:
    """The first error of the disk that was noted since the last time; "" if none was. Raises OSError."""
    path = f"{root}/{ERRORS_NAME}"
    try:
        with open(path, "rb") as file:
            lines = file.read(ERRORS_BYTES_MAX).decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return ""
    os.unlink(path)
    return lines[0] if lines else "an error that could not be written down"


def take_suspects(root: str) -> list[Suspect]:
    """What was noted since the last time, and what was taken then and not `forget_suspects`. Raises OSError."""
    taken = f"{root}/{TAKEN_NAME}"
    with suppress(FileNotFoundError):
        os.rename(f"{root}/{FILE_NAME}", taken if not os.path.exists(taken) else f"{taken}.2")
    found: dict[bytes, Suspect] = {}
    for path in (taken, f"{taken}.2"):
        with suppress(FileNotFoundError), open(path, "rb") as file:
            for line in file.read(2 * FILE_BYTES_MAX).splitlines():
                suspect = _parse(line)
                if suspect is not None:
                    found[suspect.hash] = suspect
    return list(found.values())


def forget_suspects(root: str) -> None:
    """All that was taken has been looked at. Raises OSError."""
    for path in (f"{root}/{TAKEN_NAME}", f"{root}/{TAKEN_NAME}.2"):
        with suppress(FileNotFoundError):
            os.unlink(path)


def _parse(line: bytes) -> Suspect | None:
    try:
        hash_, key = (bytes.fromhex(part.decode("ascii")) for part in line.split(b" "))
    except ValueError:
        return None
    return Suspect(hash_, key) if len(hash_) == HASH_BYTES and key else None
