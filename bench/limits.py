"""What the hardware and the kernel can do, so that a rate can be held against a limit and not only against a rival."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from pathlib import Path

MIB = 1024 * 1024


def fdatasync_per_s(folder: Path, seconds: float = 1.0) -> float:
    """4 KiB appended and synced, one after the other."""
    path = folder / "sync"
    file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    try:
        block, count = b"x" * 4096, 0
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            os.write(file, block)
            os.fdatasync(file)
            count += 1
        return count / seconds
    finally:
        os.close(file)
        path.unlink()


def md5_mb_per_s(seconds: float = 0.5) -> float:
    """MD5 on one core: every PUT's ETag costs this."""
    block, count = b"x" * MIB, 0
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds:
        hashlib.md5(block, usedforsecurity=False)
        count += 1
    return count * MIB / 1e6 / (time.perf_counter() - begin)


def device_write_mb_per_s(folder: Path, total: int = 512 * MIB) -> float:
    """Sequential writes with one fdatasync at the end."""
    path = folder / "write"
    file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    try:
        block = os.urandom(MIB)
        begin = time.perf_counter()
        for _ in range(total // MIB):
            os.write(file, block)
        os.fdatasync(file)
        return total / 1e6 / (time.perf_counter() - begin)
    finally:
        os.close(file)
        path.unlink()


def loopback_sendfile_mb_per_s(folder: Path, total: int = 2048 * MIB) -> float:
    """A cached 64 MiB file sent over TCP by sendfile to a thread that reads and drops it."""
    path = folder / "sendfile"
    path.write_bytes(b"x" * (64 * MIB))
    listener = socket.create_server(("127.0.0.1", 0))

    def reader() -> None:
        with socket.create_connection(listener.getsockname()) as connection:
            buffer = bytearray(MIB)
            while connection.recv_into(buffer):
                pass

    thread = threading.Thread(target=reader)
    thread.start()
    connection, _ = listener.accept()
    with path.open("rb") as file, connection, listener:
        begin, sent = time.perf_counter(), 0
        while sent < total:
            offset = sent % (64 * MIB)
            sent += os.sendfile(connection.fileno(), file.fileno(), offset, 64 * MIB - offset)
        connection.shutdown(socket.SHUT_WR)
        thread.join()
        rate = total / 1e6 / (time.perf_counter() - begin)
    path.unlink()
    return rate
