"""A window: memory that a sender of object data shares with the devices of its own machine.

Problem: a body that goes to three devices through sockets is copied into each socket and out of it again, in as many
portions as the kernel's buffers are small, and each portion wakes an event loop at either end. For a large PUT that was
most of what the processors did.

Idea: the sender puts a round of the body into a memfd once, hands its descriptor over the Unix socket when a transfer begins
(SCM_RIGHTS), and then sends only the frames' headers: what lies in the window, and its checksums. The device reads each
frame's payload from the window into memory of its own, checks it there, stores it, and says that it has taken it. Only then
may the sender put something else there. A device on another machine is sent the same frames, with their payloads.

The two need not trust each other: what was checked is the device's own copy, so nothing that is written to the window
meanwhile, and no length that it is cut to, can bring a wrong byte onto the disk.

Rejected: sealing the memfd and checking a map of it (a sealed one serves once: new pages for each round cost more than
the copy); a map in the device (SIGBUS where the sender cuts it short); moving pages by splice or copy_file_range
(between tmpfs and a disk's file system the kernel copies them as well, and the device has to see the bytes for their
checksums in any case); larger socket buffers (the kernel's limit for them is an administrator's).

Invariants: a window belongs to one upload at a time; it is kept for the next one only if every device that it was
shared with has taken all that was announced and no transfer was given up."""

from __future__ import annotations

import mmap
import os

from storage_node.bulk import CHUNK_BYTES, Block, make_block

WINDOW_BYTES = 1280 * 1024
"""A round of an upload (1 MiB), and what the last piece read may be longer."""
_IDLE_MAX = 2
"""Windows kept for later uploads: their pages are there already, and count as the process's memory."""


class Window:
    """WINDOW_BYTES of memory, with a descriptor to share it by where the system has memfds (else `fd` is -1)."""

    __slots__ = ("_map", "fd", "length", "view")

    def __init__(self) -> None:
        self.fd = _make_memfd()
        self._map = mmap.mmap(self.fd, WINDOW_BYTES)
        self.view = memoryview(self._map)
        self.length = 0
        """Bytes of the round that it holds."""

    @property
    def room_bytes(self) -> int:
        """What still fits."""
        return WINDOW_BYTES - self.length

    def add(self, piece: bytes | memoryview) -> None:
        """Put a piece behind the others. The caller has seen that there is room."""
        end = self.length + len(piece)
        self.view[self.length : end] = piece
        self.length = end

    def blocks(self) -> list[Block]:
        """All that it holds as frames, the first from its start; they are views of it."""
        data = self.view[: self.length]
        return [make_block(data[start : start + CHUNK_BYTES]) for start in range(0, self.length, CHUNK_BYTES)]

    def close(self) -> None:
        """Let go of the memory, as soon as nothing looks at it any more. Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        self.view = memoryview(b"")


def _make_memfd() -> int:
    """Memory with a descriptor, -1 where it can't be had (no such kernel, too many open files): sockets do as well."""
    if not hasattr(os, "memfd_create"):
        return -1
    try:
        fd = os.memfd_create("ringstead-window", os.MFD_CLOEXEC)
    except OSError:
        return -1
    os.ftruncate(fd, WINDOW_BYTES)
    return fd


class WindowPool:
    """Windows of one process, a few of them kept."""

    def __init__(self) -> None:
        self._idle: list[Window] = []

    @property
    def idle_count(self) -> int:
        """Windows kept for the next upload."""
        return len(self._idle)

    def take(self) -> Window:
        """A window of one's own, empty."""
        window = self._idle.pop() if self._idle else Window()
        window.length = 0
        return window

    def give_back(self, window: Window) -> None:
        """Nobody uses it any more."""
        if len(self._idle) < _IDLE_MAX:
            self._idle.append(window)
        else:
            window.close()

    def close(self) -> None:
        """Let go of those that are idle."""
        while self._idle:
            self._idle.pop().close()
