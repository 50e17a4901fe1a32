"""Where connections come in: the listening end of a transport (see transport.py)."""

from __future__ import annotations

import socket
import ssl
from typing import Protocol

import trio

from storage_node.sockets import tune
from storage_node.transport import SocketTransport, TlsTransport, Transport


class Listener(Protocol):
    """One address at which a server listens."""

    async def wait(self) -> None:
        """Until somebody has connected."""
        ...

    def try_accept(self) -> Transport | None:
        """Who has connected, or None for nobody (any more). Raises OSError, of one connection or of the process."""
        ...

    def close(self) -> None:
        """Idempotent."""
        ...


class SocketListener:
    """A listening socket of the kernel. With `ssl_context` TCP clients have to speak TLS."""

    def __init__(self, sock: socket.socket, ssl_context: ssl.SSLContext | None) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._ssl_context = ssl_context

    async def wait(self) -> None:
        """See Listener."""
        await trio.lowlevel.wait_readable(self._sock)

    def try_accept(self) -> Transport | None:
        """See Listener."""
        try:
            sock, _ = self._sock.accept()
        except BlockingIOError:
            return None
        try:
            tune(sock)
        except OSError:
            sock.close()
            raise
        if self._ssl_context is None or sock.family == socket.AF_UNIX:
            return SocketTransport(sock)
        return TlsTransport(sock, self._ssl_context, None)

    def close(self) -> None:
        """See Listener."""
        self._sock.close()
