"""One device's durable store: the single writer of one directory.

Signatures first; the rest follows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias

from storage_node.operations import (
    Answer,
    Entry,
    Locked,
    ReadOperation,
    Statistics,
    Status,
    WriteOperation,
    Written,
)
from storage_node.settings import DeviceSettings


class BlobWriter:
    """An object's data on its way in, of a length that need not be known.

    Not thread-safe, but may move between threads between calls: `write` is short (page cache), `finish` syncs.
    """

    size_bytes: int

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes. Raises DeviceFull, DeviceFenced."""
        raise NotImplementedError

    def finish(self) -> None:
        """Put what was written on stable storage, without a name yet. Blocks on fdatasync: run it in a thread.

        After it the writer goes into a PutBlob, or `abort`. Small totals stay in memory: `finish` is then quick.
        """
        raise NotImplementedError

    @property
    def in_memory(self) -> bool:
        """True while all of it fits the log: finish() then does no I/O and needs no thread."""
        raise NotImplementedError

    def abort(self) -> None:
        """Throw it away; does nothing after a PutBlob has taken it. Idempotent."""
        raise NotImplementedError


class PutBlob(NamedTuple):
    """Store an object whose data is a finished BlobWriter. -> Written; the writer is used up whatever the answer is."""

    hash: bytes
    key: bytes
    timestamp: int
    meta: bytes
    writer: BlobWriter
    manifest: bool = False
    lock: int | None = None


DeviceWrite: TypeAlias = WriteOperation | PutBlob


class Batch:
    """Decided writes between decide() and publish(): opaque to callers."""

    @property
    def needs_sync(self) -> bool:
        """False when nothing was appended (only locks, or all refused): sync() then returns at once."""
        raise NotImplementedError


class ObjectReader:
    """One version of one object, open for reading. Stays readable while it is open, even when overwritten."""

    entry: Entry

    def read(self, start: int, stop: int) -> bytes | memoryview:
        """Bytes start <= i < stop (at most READ_BYTES_MAX of them, all inside the object), verified.

        Cheapest where start is a multiple of CHUNK_BYTES. Raises CorruptData. May block on the disk.
        """
        raise NotImplementedError

    def try_read(self, start: int, stop: int) -> bytes | memoryview | None:
        """The same from the page cache alone; None: it would block, call read() in a thread."""
        raise NotImplementedError

    def close(self) -> None:
        """Idempotent."""
        raise NotImplementedError


class Progress(Enum):
    """What a step of background work asks for next."""

    MORE = "more"
    """Call step() again when there is time."""
    BLOCK = "block"
    """Call block() in any thread (it waits for the disk, not for the interpreter), then step() again."""
    WAIT = "wait"
    """Call step() again after the next publish() (see Device.wants_commit)."""
    DONE = "done"


class Work(Protocol):
    """A piece of background work: a checkpoint, a compaction, clearing away. step() takes about a millisecond."""

    @property
    def name(self) -> str: ...

    def step(self) -> Progress:
        """In the device's thread."""
        ...

    def block(self) -> None:
        """In any thread."""
        ...


class Device:
    """All calls but Batch syncs, BlobWriter and ObjectReader methods and Work.block in one thread."""

    path: Path
    name: str
    uuid: bytes
    settings: DeviceSettings

    @staticmethod
    def create(path: Path | str, name: str) -> bytes:
        """Make an empty device in `path` (created if missing; must be empty) and give its uuid (16 bytes)."""
        raise NotImplementedError

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        settings: DeviceSettings | None = None,
        now_ms: Callable[[], int] | None = None,
    ) -> Device:
        """Become the writer: lock, verify, recover. Raises NotADevice, DeviceInUse, DeviceDamaged."""
        raise NotImplementedError

    def close(self) -> None:
        """Checkpoint, unless fenced, and let go of everything. Idempotent."""
        raise NotImplementedError

    # ------------------------------------------------------------------------------------------------------------ writes

    def decide(self, operations: Sequence[DeviceWrite]) -> Batch:
        """Decide each operation in order and append the records to the log, not yet durable nor visible.

        Never raises for an operation's sake. Several batches may be under way; sync and publish them in order.
        Call it with no operations when `wants_commit` says so.
        """
        raise NotImplementedError

    def sync(self, batch: Batch) -> None:
        """fdatasync: the only slow part, may run in any thread. Does not raise: a failure fences the device."""
        raise NotImplementedError

    def publish(self, batch: Batch) -> list[Written | Locked]:
        """Make a synced batch visible to all readers and give the answers in the order of the operations.

        After a failed sync every answer is FENCED.
        """
        raise NotImplementedError

    def apply(self, operations: Sequence[DeviceWrite]) -> list[Written | Locked]:
        """decide, sync and publish."""
        raise NotImplementedError

    @property
    def wants_commit(self) -> bool:
        """Background work has queued changes: run a batch soon even if no operation waits."""
        raise NotImplementedError

    def open_write(self) -> BlobWriter:
        """Begin an object's data. Raises DeviceFull, DeviceFenced."""
        raise NotImplementedError

    # ------------------------------------------------------------------------------------------------------------- reads

    def read(self, operation: ReadOperation) -> Answer:
        """Answer a read from what is published. Never raises for the operation's sake."""
        raise NotImplementedError

    def open_read(self, hash_: bytes, key: bytes, timestamp: int | None = None) -> ObjectReader | Status:
        """Open an object's data (that version only, if a timestamp is given), or say why not."""
        raise NotImplementedError

    def statistics(self) -> Statistics:
        """The device's figures."""
        raise NotImplementedError

    # -------------------------------------------------------------------------------------------------------- background

    def next_work(self) -> Work | None:
        """What is due: at most one piece at a time; ask again when it is DONE. Cheap: ask every 100 ms or so.

        Drive it in a task of its own, beside the commit loop:

            while (work := device.next_work()) is not None:
                while (progress := work.step()) is not Progress.DONE:
                    if progress is Progress.BLOCK: await trio.to_thread.run_sync(work.block)
                    elif progress is Progress.WAIT: await a publish or a few milliseconds
                    else: await trio.lowlevel.checkpoint()
        """
        raise NotImplementedError

    def checkpoint(self) -> None:
        """Bring the index up to date, in one blocking call."""
        raise NotImplementedError

    def fence(self, reason: str) -> None:
        """Take no more writes, across restarts, until release_fence(). Reads go on."""
        raise NotImplementedError

    def release_fence(self) -> None:
        """Take writes again: after the cause was mended, and only on a device opened since."""
        raise NotImplementedError

    @property
    def fenced(self) -> str:
        """Why the device takes no writes; empty while it does."""
        raise NotImplementedError

    def check(self) -> list[str]:
        """Hold log, blobs, index, digests and totals against each other; a sentence for each problem. Slow."""
        raise NotImplementedError
