"""One client's socket: non-blocking calls first, waiting only where they would block, and accounts kept of both.

Problem: a socket layer that checks for cancellation and schedules around every call costs more than the calls do.

Idea: try the call; only when the kernel says that it would block, note for what we wait (the sweep of the server reads
the note, see `patience`) and ask trio to wake us. As a call that never blocks never yields either, a budget of bytes and
requests makes a busy connection step back now and then.

Rejected: trio.SocketStream (two checkpoints a call), cancel scopes with deadlines around reads (three microseconds each).

Invariants:
- Once `expire` was called, nothing waits for this client again: every wait raises `TooSlow`.
- What is kept of a client that sends faster than it is served is one read's worth (`buffer`); the rest stays in the kernel.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import Final

import trio

from proxy.http.crew import Waits, park
from proxy.http.patience import Patience, Wait

HEAD_READ_BYTES: Final = 64 * 1024
"""One read while a head is expected: enough for the largest, and for a small object's body behind it."""
BUDGET_BYTES: Final = 1024 * 1024
"""Moved without yielding to other tasks."""

RESET_AT_CLOSE: Final = struct.pack("ii", 1, 0)


class TooSlow(Exception):
    """The client was waited for until its time was up (or the server stops)."""


class ClientGone(Exception):
    """The connection is broken. Not an OSError, so that one of a handler is never taken for it."""


class ReadsTooSlowly(TooSlow):
    """The client did not take what was sent to it."""


class Wire:
    """The socket, what was read ahead from it, and what the sweep wants to know."""

    __slots__ = (
        "_closed", "_fd", "_recv", "_send", "_sendmsg", "_socket", "_waits_before", "budget", "buffer", "client",
        "expired", "patience", "received_bytes", "requests", "sent_bytes", "waits", "waits_for",
    )  # fmt: skip

    def __init__(self, connected: socket.socket, client: str) -> None:
        self._closed = False
        self._socket = connected
        self._fd = connected.fileno()
        self._sendmsg = connected.sendmsg
        self._recv = connected.recv
        self._send = connected.send
        self.client = client
        self.buffer = b""
        """Received and not yet used: what belongs to the next head, or to the body."""
        self.received_bytes = 0
        self.sent_bytes = 0
        self.requests = 0
        self.budget = BUDGET_BYTES
        self.waits = Waits()
        self._waits_before = 0
        """Waits before the request that is being served: one that had none is followed by a rest in the crew's care."""
        self.waits_for = Wait.NOTHING
        self.expired = False
        self.patience = Patience()

    async def wait_request(self) -> None:
        """Until the next request begins, or the end. Raises `TooSlow`."""
        waits = self.waits
        if waits.count != self._waits_before:
            await self.wait_readable(Wait.REQUEST)
        else:
            if self.expired:
                raise TooSlow
            self.waits_for = Wait.REQUEST
            await park()
            self.waits_for = Wait.NOTHING
            if self.expired:
                raise TooSlow
            self.budget = BUDGET_BYTES
        self._waits_before = waits.count

    async def wait_readable(self, wait: Wait) -> None:
        """Until there is something to read, or the end. Raises `TooSlow`."""
        if self.expired:
            raise TooSlow
        self.waits_for = wait
        try:
            await trio.lowlevel.wait_readable(self._fd)
        except trio.ClosedResourceError:
            raise TooSlow from None
        finally:
            self.waits_for = Wait.NOTHING
        self.budget = BUDGET_BYTES

    async def _wait_writable(self) -> None:
        if self.expired:
            raise ReadsTooSlowly
        self.waits_for = Wait.SEND
        try:
            await trio.lowlevel.wait_writable(self._fd)
        except trio.ClosedResourceError:
            raise ReadsTooSlowly from None
        finally:
            self.waits_for = Wait.NOTHING
        self.budget = BUDGET_BYTES

    def take(self, size_max: int) -> bytes:
        """What is there, up to so many bytes; b"" at the end. Raises BlockingIOError for nothing yet, `ClientGone`."""
        try:
            data = self._recv(size_max)
        except BlockingIOError:
            raise
        except OSError as error:
            raise ClientGone(str(error)) from error
        self.received_bytes += len(data)
        self.budget -= len(data)
        return data

    async def receive(self, size_max: int, wait: Wait) -> bytes:
        """Up to so many bytes from the socket; b"" at the end. Raises `TooSlow`, `ClientGone`."""
        if self.budget < 0:
            await self.step_back()
        while True:
            try:
                return self.take(size_max)
            except BlockingIOError:
                await self.wait_readable(wait)

    async def step_back(self) -> None:
        """Let other tasks run."""
        self.budget = BUDGET_BYTES
        await trio.lowlevel.checkpoint()

    def give(self, data: bytes | memoryview) -> int:
        """As much of it as there is room for: how many bytes. Raises `ClientGone`."""
        try:
            sent = self._send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise ClientGone(str(error)) from error
        self.sent_bytes += sent
        self.budget -= sent
        return sent

    async def send(self, data: bytes | memoryview) -> None:
        """All of it. Raises `ReadsTooSlowly`, `ClientGone`."""
        if self.budget < 0:
            await self.step_back()
        sent = self.give(data)
        if sent < len(data):
            await self.send_rest(data, sent)

    async def send_parts(self, *parts: bytes | memoryview) -> None:
        """All of them, in order, in one call where the kernel takes them. Raises `ReadsTooSlowly`, `ClientGone`."""
        if self.budget < 0:
            await self.step_back()
        try:
            sent = self._sendmsg(parts)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise ClientGone(str(error)) from error
        self.sent_bytes += sent
        self.budget -= sent
        for part in parts:
            if sent >= len(part):
                sent -= len(part)
            else:
                await self.send_rest(part, sent)
                sent = 0

    async def send_rest(self, data: bytes | memoryview, done: int) -> None:
        """All of it but the first `done` bytes. Raises `ReadsTooSlowly`, `ClientGone`."""
        with memoryview(data) as view:
            while done < len(view):
                sent = self.give(view[done:])
                if not sent:
                    await self._wait_writable()
                done += sent

    def expire(self) -> None:
        """The client's time is up: whoever waits for it gets `TooSlow`, now and ever after."""
        self.expired = True
        trio.lowlevel.notify_closing(self._fd)
        if self.at_rest:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RD)  # so that who is parked is called

    @property
    def at_rest(self) -> bool:
        """Nothing of a request has come, nor of a response is left to be sent."""
        return self.waits_for is Wait.REQUEST or (self.waits_for is Wait.HEAD and not self.buffer)

    @property
    def has_come(self) -> bool:
        """Something to be read lies in the kernel: whoever is at rest is about to be served."""
        try:
            return bool(self._socket.recv(1, socket.MSG_PEEK))
        except OSError:  # nothing, or it is broken
            return False

    async def linger(self, bytes_max: int) -> None:
        """Say that we are done, then read and drop what the client is still sending, within bounds.

        Closing at once, with bytes unread, would make the kernel reset the connection, and the client's might drop our
        last response before the client has read it.
        """
        with contextlib.suppress(OSError, ClientGone, TooSlow):
            self._socket.shutdown(socket.SHUT_WR)
            while bytes_max > 0:
                data = await self.receive(HEAD_READ_BYTES, Wait.LINGER)
                if not data:
                    return
                bytes_max -= len(data)

    def close(self, reset: bool = False) -> None:
        """Close the socket; with `reset` so that the client sees an error, not an end. Idempotent."""
        if self._closed:
            return
        self._closed = True
        trio.lowlevel.notify_closing(self._fd)
        if reset:
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
        self._socket.close()
