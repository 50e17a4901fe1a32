"""Another process's read-only view of a device that lives. Signatures first; the rest follows."""

from __future__ import annotations

from pathlib import Path

from storage_node.device import ObjectReader
from storage_node.operations import Answer, ReadOperation, Status


class LocalReader:
    """Reads a device of this machine without its server: the very same code as Device.read.

    Several readers and a Device of one directory may live in one process. One thread at a time.
    """

    def __init__(self, path: Path | str) -> None:
        """Opens lazily: raises nothing, whatever is or is not at `path`."""
        raise NotImplementedError

    def read(self, operation: ReadOperation) -> Answer:
        """Answer as the device would; UNREACHABLE when there is no readable device (made, wiped or being re-created).

        GetDigests is REFUSED here: ask the server.
        """
        raise NotImplementedError

    def open_read(self, hash_: bytes, key: bytes, timestamp: int | None = None) -> ObjectReader | Status:
        """As Device.open_read; Status.UNREACHABLE as in read()."""
        raise NotImplementedError

    def close(self) -> None:
        """Idempotent."""
        raise NotImplementedError
