"""Who a directory says it is: `device.json`, the lock, and the files that say what happened.

device.json   magic, version, uuid, name, checksum: written once
lock          flock'ed by the writer
fence.json    there while the device takes no writes: why, and where the log stood that can be believed
recent.json   for which boot and which file `recent` may be believed
filling.json  there while the device may lack what it once acknowledged: made anew, or its log was damaged
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from xxhash import xxh3_64_hexdigest

from storage_node.disk import WRITE, WRITE_NEW, Disk, read_file, write_file
from storage_node.errors import DeviceDamaged, DeviceInUse, NotADevice
from storage_node.log import Position

MAGIC = "ringstead-device"
VERSION = 1
NAME_BYTES_MAX = 255
FILLING_BYTES = 8
"""Random bytes that tell one filling of a device from the next."""
UNREADABLE = "unreadable"
"""What a filling is called whose mark has rotted."""


class Identity(NamedTuple):
    """What device.json says."""

    uuid: bytes
    name: str


class Layout(NamedTuple):
    """The paths of a device's parts."""

    root: str

    @property
    def log(self) -> str:
        """Segments."""
        return f"{self.root}/log"

    @property
    def blobs(self) -> str:
        """Large objects, in 256 directories."""
        return f"{self.root}/blobs"

    @property
    def incoming(self) -> str:
        """Large objects that are not finished."""
        return f"{self.root}/incoming"

    @property
    def index_env(self) -> str:
        """The LMDB environment of the last checkpoint."""
        return f"{self.root}/index"

    @property
    def recent_env(self) -> str:
        """The LMDB environment of what came since."""
        return f"{self.root}/recent"


def _sealed(content: dict[str, Any]) -> bytes:
    body = json.dumps(content, sort_keys=True)
    return json.dumps({**content, "checksum": xxh3_64_hexdigest(body.encode())}, sort_keys=True, indent=1).encode()


def _unsealed(raw: bytes, what: str) -> dict[str, Any]:
    try:
        content = json.loads(raw)
        checksum = content.pop("checksum")
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise DeviceDamaged(f"{what} can't be read: {error}") from error
    if checksum != xxh3_64_hexdigest(json.dumps(content, sort_keys=True).encode()):
        raise DeviceDamaged(f"{what} has a wrong checksum")
    assert isinstance(content, dict)
    return content


def create_directories(
    disk: Disk, path: str, name: str, random_bytes: Callable[[int], bytes] = os.urandom, *, filling: bool = False
) -> bytes:
    """Make an empty device; gives its uuid. Raises NotADevice where the directory is not empty, OSError.

    `filling`: one of its name may have acknowledged writes before.
    """
    if not 0 < len(name.encode()) <= NAME_BYTES_MAX:
        raise NotADevice(f"a device's name has 1 to {NAME_BYTES_MAX} bytes, not {name!r}")
    Path(path).mkdir(parents=True, exist_ok=True)
    if disk.listdir(path):
        raise NotADevice(f"{path} is not empty: a device is made in a directory of its own")
    layout = Layout(path)
    for directory in (layout.log, layout.blobs, layout.incoming):
        disk.mkdir(directory)
    for number in range(256):
        disk.mkdir(f"{layout.blobs}/{number:02x}")
    disk.sync_directory(layout.blobs)
    disk.close(disk.open(f"{path}/lock", WRITE_NEW))
    uuid = random_bytes(16)
    if filling:
        write_filling(disk, path, random_bytes(FILLING_BYTES).hex())
    # Last: a directory with an identity is a whole device.
    content = {"magic": MAGIC, "version": VERSION, "uuid": uuid.hex(), "name": name}
    write_file(disk, path, "device.json", _sealed(content))
    disk.sync_directory(str(Path(path).absolute().parent))
    return uuid


def read_identity(disk: Disk, path: str) -> Identity:
    """Who this is. Raises NotADevice, DeviceDamaged."""
    try:
        raw = read_file(disk, f"{path}/device.json")
    except (FileNotFoundError, NotADirectoryError):
        raise NotADevice(f"{path} holds no device (no device.json)") from None
    content = _unsealed(raw, f"{path}/device.json")
    if content.get("magic") != MAGIC or content.get("version") != VERSION:
        raise NotADevice(f"{path} is of format {content.get('magic')} {content.get('version')}, not {MAGIC} {VERSION}")
    try:
        return Identity(bytes.fromhex(content["uuid"]), str(content["name"]))
    except (KeyError, ValueError, TypeError) as error:
        raise DeviceDamaged(f"{path}/device.json: {error}") from error


def take_lock(disk: Disk, path: str) -> int:
    """Become the only writer; gives the lock's file. Raises DeviceInUse."""
    fd = disk.open(f"{path}/lock", WRITE)
    try:
        disk.lock(fd)
    except BlockingIOError:
        disk.close(fd)
        raise DeviceInUse(f"{path} is in use by another process: one device has one writer") from None
    return fd


class Fence(NamedTuple):
    """Why a device takes no writes."""

    reason: str
    position: Position | None
    """After a failed sync: the end of what is certain. What the page cache shows behind it may not be on the disk."""


def read_fence(disk: Disk, path: str) -> Fence | None:
    """The fence that stands, None if there is none. One that can't be read stands as well."""
    try:
        raw = read_file(disk, f"{path}/fence.json")
    except FileNotFoundError:
        return None
    try:
        content = _unsealed(raw, "fence.json")
        position = content["position"]
        return Fence(str(content["reason"]), None if position is None else Position(*position))
    except (DeviceDamaged, KeyError, TypeError) as error:
        return Fence(f"fenced, for a reason that can't be read: {error}", None)


def write_fence(disk: Disk, path: str, fence: Fence) -> None:
    """Put up a fence that outlives the process. Raises OSError."""
    write_file(disk, path, "fence.json", _sealed({"reason": fence.reason, "position": fence.position}))


def remove_fence(disk: Disk, path: str) -> None:
    """Take the fence down. Raises OSError."""
    with suppress(FileNotFoundError):
        disk.unlink(f"{path}/fence.json")
    disk.sync_directory(path)


def read_filling(disk: Disk, path: str) -> str:
    """What this filling is called, empty if the device is filled. A mark that can't be read stands as well."""
    try:
        raw = read_file(disk, f"{path}/filling.json")
    except FileNotFoundError:
        return ""
    try:
        return str(_unsealed(raw, "filling.json")["id"]) or UNREADABLE
    except (DeviceDamaged, KeyError):
        return UNREADABLE


def write_filling(disk: Disk, path: str, identifier: str) -> None:
    """Note that the device may lack what it once acknowledged. Raises OSError."""
    write_file(disk, path, "filling.json", _sealed({"id": identifier}))


def remove_filling(disk: Disk, path: str) -> None:
    """Note that it has all of that again. Raises OSError."""
    with suppress(FileNotFoundError):
        disk.unlink(f"{path}/filling.json")
    disk.sync_directory(path)


def recent_is_believable(disk: Disk, path: str) -> bool:
    """Whether `recent` is of this boot of the machine, hence as its last commit left it."""
    try:
        content = _unsealed(read_file(disk, f"{path}/recent.json"), "recent.json")
        found = os.stat(f"{path}/recent/data.mdb")
    except (OSError, DeviceDamaged):
        return False
    return bool(content.get("boot_id") == disk.boot_id() and content.get("inode") == found.st_ino)


def note_recent(disk: Disk, path: str) -> None:
    """Note for which boot and which file `recent` may be believed. Raises OSError."""
    inode = os.stat(f"{path}/recent/data.mdb").st_ino
    write_file(disk, path, "recent.json", _sealed({"boot_id": disk.boot_id(), "inode": inode}))
