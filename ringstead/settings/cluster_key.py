"""The cluster key: the one secret that makes a node part of a cluster.

It is a file of hexadecimal digits, so that it can be copied to another machine by hand, and only its owner may read it:
a key file that others can read is refused, since whoever has the key can read and write every device.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

from ringstead.errors import ConfigError

KEY_BYTES: Final = 32
KEY_BYTES_MAX: Final = 1024


def make_cluster_key(path: Path) -> None:
    """Write a new random key, durably and for the owner only."""
    write_private(path, secrets.token_hex(KEY_BYTES) + "\n")


def load_cluster_key(path: Path) -> bytes:
    """The key. Raises ConfigError when it is missing, too short, no key, or readable by others."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(KEY_BYTES_MAX + 1).strip()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; it must hold the cluster's key") from error
    if mode & 0o077:
        raise ConfigError(
            f"{path}: others may read it (mode {mode & 0o777:o}); chmod 600 it, or better, make a new key"
        )
    try:
        key = bytes.fromhex(content.decode("ascii"))
    except ValueError as error:
        raise ConfigError(f"{path}: a cluster key is written in hexadecimal digits") from error
    if not KEY_BYTES <= len(key) <= KEY_BYTES_MAX:
        raise ConfigError(f"{path}: the key has {len(key)} bytes; at least {KEY_BYTES} are needed")
    return key


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read: whole, durable, or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
        os.write(descriptor, text.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(temporary, path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
