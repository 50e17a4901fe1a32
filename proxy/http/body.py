"""Request bodies: what `Request.body` is.

Problem: a body must be read at the speed of the socket, must end exactly where its framing says, and may be left unread
by the handler at any point.

Idea: three small classes behind `BodyReader`. A body with a Content-Length is read from the socket straight into the
pieces that the handler gets; a chunked one goes through the decoder only where there is framing.

Invariants:
- A body never takes a byte beyond its end: what was read ahead goes back to the connection's buffer.
- After an error, or when it was left unread, `can_be_drained` tells whether the connection may be used again.
"""

from __future__ import annotations

from typing import Final

from proxy.http.chunked_coding import ChunkedDecoder
from proxy.http.message import BodyError, BodyTimeout, ClientDisconnected
from proxy.http.patience import Wait
from proxy.http.responses import CONTINUE
from proxy.http.wire import ClientGone, TooSlow, Wire

PIECE_BYTES_MAX: Final = 256 * 1024
FRAMED_READ_BYTES: Final = 64 * 1024


class NoBody:
    """The body of a request that has none."""

    __slots__ = ()

    @property
    def length(self) -> int | None:
        """0."""
        return 0

    async def read(self) -> bytes:
        """b""."""
        return b""

    @property
    def finished(self) -> bool:
        """True: there is nothing to read."""
        return True

    def can_be_drained(self, bytes_max: int) -> bool:
        """True: there is nothing to drain."""
        return True

    async def drain(self, bytes_max: int) -> bool:
        """Nothing to do."""
        return True


NO_BODY: Final = NoBody()


class _Body:
    """What both kinds of body share: the wire, 100 Continue, and how they fail."""

    __slots__ = ("_broken", "_must_continue", "_wire")

    def __init__(self, wire: Wire, expects_continue: bool) -> None:
        self._wire = wire
        self._must_continue = expects_continue
        self._broken = False

    async def _receive(self, size_max: int) -> bytes:
        """At least one byte, at most so many, read-ahead first."""
        wire = self._wire
        if wire.buffer:
            data = wire.buffer[:size_max]
            wire.buffer = wire.buffer[size_max:]
            self._must_continue = False
            return data
        try:
            if self._must_continue:
                self._must_continue = False
                await wire.send(CONTINUE)
            data = await wire.receive(size_max, Wait.BODY)
        except TooSlow:
            self._broken = True
            raise BodyTimeout("the body did not arrive in time") from None
        except ClientGone as error:
            self._broken = True
            raise ClientDisconnected("the connection broke before the body's end") from error
        if not data:
            self._broken = True
            raise ClientDisconnected("the connection ended before the body did")
        return data


class LengthBody(_Body):
    """A body whose Content-Length is given and not 0."""

    __slots__ = ("_left", "length")

    def __init__(self, wire: Wire, length: int, expects_continue: bool) -> None:
        super().__init__(wire, expects_continue)
        self.length: int | None = length
        self._left = length

    async def read(self) -> bytes:
        """See `BodyReader`."""
        left = self._left
        if not left:
            return b""
        data = await self._receive(left if left < PIECE_BYTES_MAX else PIECE_BYTES_MAX)
        self._left = left - len(data)
        return data

    @property
    def finished(self) -> bool:
        """All of it was read."""
        return not self._left

    def can_be_drained(self, bytes_max: int) -> bool:
        """What is left is little enough, and the client does not wait to be told to send it."""
        return not self._left or (self._left <= bytes_max and not self._must_continue and not self._broken)

    async def drain(self, bytes_max: int) -> bool:
        """Read and drop the rest. True: the connection stands where the next request begins."""
        try:
            while self._left and not self._broken:
                await self.read()
        except BodyError:
            return False
        return not self._left


class ChunkedBody(_Body):
    """A body in chunked transfer coding."""

    __slots__ = ("_decoder",)

    def __init__(self, wire: Wire, bytes_max: int, expects_continue: bool) -> None:
        super().__init__(wire, expects_continue)
        self._decoder = ChunkedDecoder(bytes_max)

    @property
    def length(self) -> int | None:
        """None: nobody knows."""
        return None

    async def read(self) -> bytes:
        """See `BodyReader`."""
        decoder = self._decoder
        while not decoder.done:
            if decoder.payload_left:
                data = await self._receive(min(decoder.payload_left, PIECE_BYTES_MAX))
                decoder.skip(len(data))
                return data
            framed = await self._receive(FRAMED_READ_BYTES)
            try:
                data = decoder.feed(framed)
            except BodyError:
                self._broken = True
                raise
            # Framing is worked on in Python: a body of tiny chunks must not keep everybody else waiting.
            self._wire.budget -= 4 * len(framed)
            if self.finished:
                self._wire.buffer = decoder.rest + self._wire.buffer
            if data:
                return data
        return b""

    @property
    def finished(self) -> bool:
        """All of it was read."""
        return self._decoder.done

    def can_be_drained(self, bytes_max: int) -> bool:
        """Perhaps: its end is not known, so it is tried."""
        return self._decoder.done or not (self._must_continue or self._broken)

    async def drain(self, bytes_max: int) -> bool:
        """Read and drop the rest, if it is not too much. True: the connection stands where the next request begins."""
        try:
            while not self._decoder.done and not self._broken and bytes_max > 0:
                bytes_max -= len(await self.read()) + 64
        except BodyError:
            return False
        return self._decoder.done
