"""Addresses on one machine: where a device's Unix socket is, and whether a port is free.

Convention: the service that serves the device at IP:PORT also listens at SOCKET_DIR/IP_PORT.sock, and whoever shares the
machine connects there. A Unix socket costs half of what loopback TCP does per message.

A socket's path may have 107 bytes, which a deep data directory exceeds. `reachable` then goes through /proc/self/fd, as
the storage node does: the directory is opened, and its number stands for its path.
"""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import Final

from ringstead.errors import ClusterBusy, ConfigError
from storage_node import sockets

SOCKET_PATH_BYTES_MAX: Final = 107
STORAGE_PORT_FIRST: Final = 10_000
STORAGE_PORT_LAST: Final = 29_999
"""Below the range that kernels hand out for outgoing connections (32768 and up)."""

_directories: dict[Path, int] = {}


def socket_path(socket_dir: Path, node: str, port: int) -> Path:
    """Where the Unix socket of the service at this address is."""
    return socket_dir / f"{node.replace('/', '_')}_{port}.sock"


def tcp_address(node: str, port: int) -> str:
    """IP:PORT, or [IP]:PORT where the address has colons itself."""
    return f"[{node}]:{port}" if ":" in node else f"{node}:{port}"


def reachable(path: Path) -> str:
    """The path, or another spelling of it that fits a socket address."""
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX:
        return str(path)
    directory = path.parent.resolve()
    number = _directories.get(directory)
    if number is None:
        number = _directories[directory] = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return f"/proc/self/fd/{number}/{path.name}"


def listen(address: str) -> socket.socket:
    """A listening socket at "unix:PATH" or "IP:PORT". Raises ClusterBusy when it is taken, ConfigError for no address."""
    try:
        if address.startswith("unix:"):
            Path(address[5:]).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return sockets.listen(address)
    except OSError as error:
        raise ClusterBusy(f"cannot listen at {address}: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(str(error)) from error


def is_port_free(host: str, port: int) -> bool:
    """Whether one could listen at host and port now. Raises OSError where the host is none of ours."""
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, kind, protocol, _, address in found:
        try:
            probe = socket.socket(family, kind, protocol)
        except OSError:
            continue
        with probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind(address)
                probe.listen(1)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    return False
                if family == socket.AF_INET6 and len(found) > 1:
                    continue
                raise
    return True


def free_port_range(host: str, near: int, count: int) -> int:
    """The first of `count` free ports in a row, derived from `near` so that neighbours rarely meet. Raises ClusterBusy."""
    span = STORAGE_PORT_LAST - STORAGE_PORT_FIRST - count
    start = (near - STORAGE_PORT_FIRST + 10_000) % span if span > 0 else 0
    offset = 0
    while offset < span:
        base = STORAGE_PORT_FIRST + (start + offset) % span
        taken = next((i for i in range(count - 1, -1, -1) if not is_port_free(host, base + i)), None)
        if taken is None:
            return base
        offset += taken + 1
    raise ClusterBusy(f"there are no {count} free ports in a row in {STORAGE_PORT_FIRST}..{STORAGE_PORT_LAST}")
