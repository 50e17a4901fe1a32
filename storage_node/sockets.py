"""Addresses, and the sockets that listen at them or connect to them.

An address is "unix:/path" or "ip:port" ("[v6]:port"). No names are looked up: rings hold IP addresses, and a resolver that
hangs must not take the store down.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import trio

SOCKET_BUFFER_BYTES = 1024 * 1024
"""Kernel buffer of a Unix socket, each way, as far as the system allows: fewer wake-ups for a bulk transfer."""
LISTEN_BACKLOG = 512
USER_TIMEOUT_MS = 15_000
"""TCP gives up on a peer that acknowledges nothing for this long."""
KEEPALIVE_IDLE_S = 15
_UNIX_PATH_BYTES_MAX = 100


class Address(NamedTuple):
    """Where a server listens."""

    path: str
    """Of the Unix socket; empty for TCP."""
    host: str = ""
    port: int = 0

    @property
    def is_unix(self) -> bool:
        """Whether it is on this machine by its kind."""
        return bool(self.path)


def parse_address(text: str) -> Address:
    """ "unix:/path", "ip:port" or "[v6]:port" as an Address. Raises ValueError."""
    if text.startswith("unix:"):
        if not text[5:]:
            raise ValueError("an address unix: without a path")
        return Address(text[5:])
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or not 0 <= int(port) <= 65535:
        raise ValueError(f"{text!r} is not an address: unix:/path or ip:port")
    return Address("", host.strip("[]"), int(port))


@contextmanager
def _unix_name(path: str) -> Iterator[str]:
    """A name for `path` that fits sockaddr_un's 107 bytes: long ones by way of the directory's descriptor."""
    if len(os.fsencode(path)) <= _UNIX_PATH_BYTES_MAX:
        yield path
        return
    directory, name = os.path.split(path)
    fd = os.open(directory or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{name}"
    finally:
        os.close(fd)


def listen(text: str) -> socket.socket:
    """A listening socket at an address. A Unix socket that a dead server left is replaced; only its owner may connect.

    Raises ValueError for a bad address, OSError when it is taken.
    """
    address = parse_address(text)
    if not address.is_unix:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address.host, address.port))
            listener.listen(LISTEN_BACKLOG)
        except OSError:
            listener.close()
            raise
        listener.setblocking(False)
        return listener
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _unix_name(address.path) as name:
            _remove_stale(name)
            listener.bind(name)
            os.chmod(name, 0o600)
        listener.listen(LISTEN_BACKLOG)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def _remove_stale(name: str) -> None:
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    probe.setblocking(False)
    try:
        code = probe.connect_ex(name)
    finally:
        probe.close()
    if code == errno.ECONNREFUSED:
        os.unlink(name)
    elif code != errno.ENOENT:
        raise OSError(errno.EADDRINUSE, f"another server listens at {name}")


async def connect(text: str) -> socket.socket:
    """A connected, non-blocking socket. Raises OSError; cancel it to limit its time."""
    address = parse_address(text)
    if address.is_unix:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    else:
        sock = socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if address.is_unix:
            with _unix_name(address.path) as name:
                code = sock.connect_ex(name)
        else:
            code = sock.connect_ex((address.host, address.port))
        if code == errno.EINPROGRESS:
            await trio.lowlevel.wait_writable(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code), text)
        tune(sock)
    except BaseException:
        sock.close()
        raise
    return sock


def tune(sock: socket.socket) -> None:
    """Set a connected socket up for the wire: no delays, large buffers, dead peers noticed."""
    sock.setblocking(False)
    if sock.family == socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
