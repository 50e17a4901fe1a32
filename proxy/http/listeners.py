"""Listening sockets: any host and port, IPv4 and IPv6, one port shared by several processes."""

from __future__ import annotations

import contextlib
import socket

BACKLOG = 4096


def open_listeners(host: str, port: int, *, reuse_port: bool = False, backlog: int = BACKLOG) -> list[socket.socket]:
    """Non-blocking listening sockets for `host` (a name, an address, or "" for all addresses of both families).

    With `reuse_port` several processes may listen at the same port, and the kernel deals connections out among them.
    With port 0 the first socket gets a free port and the others the same one. Raises `OSError`.
    """
    found = socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=socket.AI_PASSIVE
    )
    with contextlib.ExitStack() as on_error:
        listeners: list[socket.socket] = []
        failure: OSError | None = None
        for family, kind, protocol, _, address in dict.fromkeys(found):
            if listeners and port == 0:
                address = (address[0], listeners[0].getsockname()[1], *address[2:])
            try:
                listener = socket.socket(family, kind, protocol)
            except OSError as error:  # a family that this kernel lacks
                failure = error
                continue
            on_error.callback(listener.close)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                listener.bind(address)
            except OSError as error:
                if family == socket.AF_INET6 and not host:
                    failure = error  # a machine without IPv6
                    continue
                raise
            listener.listen(backlog)
            listener.setblocking(False)
            listeners.append(listener)
        if not listeners:
            raise failure or OSError(f"no address for {host!r}")
        on_error.pop_all()
    return listeners
