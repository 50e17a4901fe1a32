"""Sockets, plain and TLS, as the wire uses them: try first, wait only when it would block.

Problem: a system call that succeeds at once costs a microsecond; asking the event loop to wait for it first costs ten.
And the hot path runs in callbacks (see hub.py), which cannot wait at all.

Idea: a `Transport` has `try_` calls that never wait and say when they would have to, and two `wait_` calls for tasks. TLS is
the same behind the same calls: OpenSSL on memory buffers (`ssl.SSLObject`), so that there is no second code path above.

Rejected: trio.SocketStream (a checkpoint and a lock for each call); trio.SSLStream (async only: it could not be driven from
a callback).

Errors: OSError (ssl.SSLError is one) when the connection is broken; end of file is b"" or 0.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

import trio

from storage_node.frames import Buffer

_TLS_READ_BYTES = 64 * 1024
_TLS_WRITE_BYTES = 64 * 1024


class Transport(Protocol):
    """One connection. Not for several tasks at once. Call `handshake()` first."""

    async def handshake(self) -> None:
        """Agree on keys, where there are any to agree on. Raises ssl.SSLError, OSError; cancel it to limit its time."""
        ...

    def fileno(self) -> int:
        """For epoll."""
        ...

    def try_receive(self, bytes_max: int) -> bytes | None:
        """What has come; b"" at the end of the stream; None if nothing has. Raises OSError."""
        ...

    def try_receive_into(self, buffers: Sequence[memoryview]) -> int | None:
        """The same into buffers, filled in order: the number of bytes, 0 at the end. Raises OSError."""
        ...

    def try_send(self, data: Buffer) -> int:
        """Send what can be sent at once: the number of bytes taken, perhaps 0. Raises OSError."""
        ...

    def try_send_vector(self, buffers: Sequence[Buffer]) -> int:
        """The same for several buffers in one go."""
        ...

    @property
    def holds_output(self) -> bool:
        """Bytes that were taken wait to be sent: call try_send (with nothing, if need be) when it is writable."""
        ...

    async def wait_readable(self) -> None:
        """Until try_receive would give something."""
        ...

    async def wait_writable(self) -> None:
        """Until try_send would take something."""
        ...

    def shut_down(self) -> None:
        """Let both ends find the connection broken, without closing the descriptor."""
        ...

    def close(self) -> None:
        """Idempotent."""
        ...


class SocketTransport:
    """A plain socket."""

    __slots__ = ("_sock",)

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    async def handshake(self) -> None:
        """Nothing to agree on."""

    def fileno(self) -> int:
        """For epoll."""
        return self._sock.fileno()

    def try_receive(self, bytes_max: int) -> bytes | None:
        """See Transport."""
        try:
            return self._sock.recv(bytes_max)
        except BlockingIOError:
            return None

    def try_receive_into(self, buffers: Sequence[memoryview]) -> int | None:
        """See Transport."""
        try:
            return self._sock.recvmsg_into(buffers)[0]
        except BlockingIOError:
            return None

    def try_send(self, data: Buffer) -> int:
        """See Transport."""
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0

    def try_send_vector(self, buffers: Sequence[Buffer]) -> int:
        """See Transport."""
        try:
            return self._sock.sendmsg(buffers)
        except BlockingIOError:
            return 0

    @property
    def holds_output(self) -> bool:
        """Never."""
        return False

    async def wait_readable(self) -> None:
        """See Transport."""
        await trio.lowlevel.wait_readable(self._sock)

    async def wait_writable(self) -> None:
        """See Transport."""
        await trio.lowlevel.wait_writable(self._sock)

    def shut_down(self) -> None:
        """See Transport."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Idempotent."""
        if self._sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()


class TlsTransport:
    """TLS over a plain socket."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, server_hostname: str | None) -> None:
        """`server_hostname` is None on the server's side."""
        self._socket = SocketTransport(sock)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_hostname is None, server_hostname=server_hostname
        )
        self._cipher = b""
        self._plain = bytearray()

    async def handshake(self) -> None:
        """See Transport."""
        while True:
            try:
                self._tls.do_handshake()
                wanted = False
            except ssl.SSLWantReadError:
                wanted = True
            self._push()
            while self._cipher:
                await self._socket.wait_writable()
                self._push()
            if not wanted:
                return
            data = self._socket.try_receive(_TLS_READ_BYTES)
            while data is None:
                await self._socket.wait_readable()
                data = self._socket.try_receive(_TLS_READ_BYTES)
            if not data:
                raise ConnectionResetError(errno.ECONNRESET, "closed in the TLS handshake")
            self._incoming.write(data)

    def fileno(self) -> int:
        """For epoll."""
        return self._socket.fileno()

    def try_receive(self, bytes_max: int) -> bytes | None:
        """See Transport. Gives all that was decrypted, so that nothing lingers where epoll does not see it."""
        if self._plain:
            plain = bytes(self._plain)
            self._plain.clear()
            return plain
        data = self._socket.try_receive(bytes_max)
        if data:
            self._incoming.write(data)
        pieces: list[bytes] = []
        with suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            while piece := self._tls.read(_TLS_READ_BYTES):
                pieces.append(piece)
        self._push()
        if pieces:
            return b"".join(pieces)
        return b"" if data == b"" else None

    def try_receive_into(self, buffers: Sequence[memoryview]) -> int | None:
        """See Transport."""
        data = self.try_receive(_TLS_READ_BYTES)
        if not data:
            return None if data is None else 0
        count = 0
        for buffer in buffers:
            part = data[count : count + len(buffer)]
            buffer[: len(part)] = part
            count += len(part)
        self._plain += data[count:]
        return count

    def try_send(self, data: Buffer) -> int:
        """See Transport."""
        self._push()
        if self._cipher or not len(data):
            return 0
        part = memoryview(data)[:_TLS_WRITE_BYTES]
        try:
            count = self._tls.write(part)
        except ssl.SSLWantReadError:
            count = 0
        self._push()
        return count

    def try_send_vector(self, buffers: Sequence[Buffer]) -> int:
        """See Transport."""
        total = 0
        for buffer in buffers:
            count = self.try_send(buffer)
            total += count
            if count < len(buffer):
                break
        return total

    @property
    def holds_output(self) -> bool:
        """Whether encrypted bytes wait."""
        return bool(self._cipher)

    def _push(self) -> None:
        """Send what is encrypted, as far as it goes."""
        if self._outgoing.pending:
            self._cipher += self._outgoing.read()
        if self._cipher:
            self._cipher = self._cipher[self._socket.try_send(self._cipher) :]

    async def wait_readable(self) -> None:
        """See Transport."""
        if self._plain:
            await trio.lowlevel.checkpoint()
            return
        await self._socket.wait_readable()

    async def wait_writable(self) -> None:
        """See Transport."""
        await self._socket.wait_writable()

    def shut_down(self) -> None:
        """See Transport."""
        self._socket.shut_down()

    def close(self) -> None:
        """Idempotent. Sends no close_notify: every frame says its own length, so a cut is never taken for an end."""
        self._socket.close()


async def receive(transport: Transport, bytes_max: int) -> bytes:
    """Wait for bytes; b"" at the end of the stream. Raises OSError."""
    while (data := transport.try_receive(bytes_max)) is None:
        await transport.wait_readable()
    return data


async def receive_into(transport: Transport, buffers: Sequence[memoryview]) -> int:
    """Wait for bytes and put them into buffers; 0 at the end of the stream. Raises OSError."""
    while (count := transport.try_receive_into(buffers)) is None:
        await transport.wait_readable()
    return count


async def send_all(transport: Transport, data: Buffer) -> None:
    """Send all of it. Raises OSError."""
    count = transport.try_send(data)
    if count < len(data) or transport.holds_output:
        rest = memoryview(data)[count:]
        while len(rest) or transport.holds_output:
            await transport.wait_writable()
            rest = rest[transport.try_send(rest) :]


async def send_frame(transport: Transport, header: bytes, data: memoryview) -> None:
    """Send a header and the data behind it, uncopied. `data` is of single bytes. Raises OSError."""
    count = transport.try_send_vector((header, data))
    if count < len(header):
        await send_all(transport, header[count:])
        count = len(header)
    count -= len(header)
    if count < len(data) or transport.holds_output:
        await send_all(transport, data[count:])
