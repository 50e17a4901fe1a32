"""What the hardware and the kernel can do, so that a rate can be held against a limit and not only against a rival."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import select
import socket
import threading
import time
from multiprocessing.connection import Connection
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


def bare_http_per_s(connections: int = 32, seconds: float = 3.0) -> float:
    """4 KiB answers by a server that does nothing but recv and send: what the generator and the loopback allow.

    One process, one epoll loop, in Python: whatever a store of ours answers is less than this for each of its processes.
    """
    from bench.load import run_plan
    from bench.plan import Plan

    context = multiprocessing.get_context("spawn")
    ready, ours = context.Pipe(duplex=False)
    process = context.Process(target=_serve_bare, args=(ours,), daemon=True)
    process.start()
    try:
        port = ready.recv()
        head = b"GET /v1/AUTH_bench/read/o00000000 HTTP/1.1\r\nHost: bench\r\nX-Auth-Token: 0123456789abcdef\r\n\r\n"
        plan = Plan([head], [False], 0, once=False)
        return run_plan(f"http://127.0.0.1:{port}", plan, connections=connections, seconds=seconds).rate
    finally:
        process.kill()
        process.join()


def _serve_bare(ready: Connection) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4096\r\n\r\n" + b"x" * 4096
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener, select.epoll() as poll:
        poll.register(listener, select.EPOLLIN)
        ready.send(listener.getsockname()[1])
        connections: dict[int, socket.socket] = {}
        while True:
            for number, _ in poll.poll():
                if number == listener.fileno():
                    connection, _address = listener.accept()
                    connections[connection.fileno()] = connection
                    poll.register(connection, select.EPOLLIN)
                elif not _answered(connections[number], answer):
                    poll.unregister(number)
                    connections.pop(number).close()


def _answered(connection: socket.socket, answer: bytes) -> bool:
    """Answer a request; False once the client has gone."""
    try:
        return bool(connection.recv(65536)) and bool(connection.send(answer))
    except ConnectionError:
        return False


def all_limits(folder: Path) -> dict[str, float]:
    """Everything above, as it is now."""
    return {
        "fdatasync_per_s": fdatasync_per_s(folder),
        "md5_mb_per_s": md5_mb_per_s(),
        "device_write_mb_per_s": device_write_mb_per_s(folder),
        "loopback_sendfile_mb_per_s": loopback_sendfile_mb_per_s(folder),
        "bare_http_per_s": bare_http_per_s(),
    }
