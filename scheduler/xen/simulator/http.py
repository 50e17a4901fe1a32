"""HTTP/1.1 on a trio stream by h11: one request after the other, bodies streamed both ways.

An answer of known length goes out as head and body in one write; clients of pools have been seen to take the body from the
first read. When a request is answered before its body was read (a redirect of an upload), the connection is closed in
order: the writing half first, then what still comes is read and dropped for a while, so that the answer is not lost to a
reset.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

import h11
import trio

RECEIVE_BYTES: Final = 256 << 10
BODY_MAX_BYTES: Final = 16 << 20
"""Of a call; uploads of disks are streams."""
LINGER_S: Final = 2.0
LINGER_BYTES: Final = 64 << 20
HEAD_TIMEOUT_S: Final = 600.0
"""Idle time after which a connection is closed."""


class Cut(Exception):
    """Close the connection now, whatever was to be said."""


class Refused(Exception):
    """Answer with a status and a line of text."""

    def __init__(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.headers = dict(headers or {})


@dataclass(slots=True)
class Exchange:
    """One request, and the way to answer it."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    """Names in lower case."""
    target: str
    _link: _Link
    cut_body: bool = False
    """Close in the middle, of an upload or of the answer: a fault that was ordered."""
    begun: bool = False
    """Whether the head of the answer is out."""
    cut_after: bool = False
    """Do what is asked and close without an answer."""

    async def body(self) -> AsyncIterator[bytes]:
        """The request's body as it comes."""
        async for part in self._link.body():
            yield part
            if self.cut_body:
                raise Cut

    async def whole_body(self) -> bytes:
        """The request's body. Raises Refused when it is larger than a call may be."""
        parts, length = [], 0
        async for part in self.body():
            parts.append(part)
            length += len(part)
            if length > BODY_MAX_BYTES:
                raise Refused(413, "too large for a call")
        return b"".join(parts)

    async def answer(
        self, status: int, body: bytes, content_type: str, headers: Mapping[str, str] | None = None
    ) -> None:
        """Head and body in one write."""
        head = {"content-type": content_type, "content-length": str(len(body)), **(headers or {})}
        if self.cut_after:
            raise Cut
        if self.method == "HEAD":
            body = b""
        data = self._link.head(status, head) + self._link.part(body) + self._link.end()
        if self.cut_body:
            await self._link.stream.send_all(data[: len(data) // 2])
            raise Cut
        await self._link.stream.send_all(data)

    async def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """The head of an answer whose body follows by `write`."""
        self.begun = True
        await self._link.stream.send_all(self._link.head(status, headers))

    async def write(self, data: bytes) -> None:
        """A part of the body."""
        if self.cut_body:
            await self._link.stream.send_all(self._link.part(data)[: len(data) // 2])
            raise Cut
        await self._link.stream.send_all(self._link.part(data))

    async def finish(self) -> None:
        """The end of the body."""
        if self.cut_after:
            raise Cut
        data = self._link.end()
        if data:
            await self._link.stream.send_all(data)

    async def wait_closed(self) -> None:
        """Until the client has gone; forever if it says something instead."""
        await self._link.wait_closed()


Handle = Callable[[Exchange], Awaitable[None]]


class _Link:
    """An h11 connection and its stream."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.connection = h11.Connection(h11.SERVER, max_incomplete_event_size=64 << 10)

    async def next_event(self) -> h11.Event | type[h11.PAUSED]:
        while True:
            event = self.connection.next_event()
            if event is not h11.NEED_DATA:
                return event  # type: ignore[return-value]
            if self.connection.they_are_waiting_for_100_continue:
                go_on = h11.InformationalResponse(status_code=100, headers=[])
                await self.stream.send_all(self.connection.send(go_on) or b"")
            self.connection.receive_data(bytes(await self.stream.receive_some(RECEIVE_BYTES)))

    async def body(self) -> AsyncIterator[bytes]:
        while True:
            event = await self.next_event()
            if isinstance(event, h11.Data):
                yield bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return
            else:
                raise Cut

    def head(self, status: int, headers: Mapping[str, str]) -> bytes:
        pairs = [(name, value) for name, value in headers.items()]
        return self.connection.send(h11.Response(status_code=status, headers=pairs)) or b""

    def part(self, data: bytes) -> bytes:
        return self.connection.send(h11.Data(data=data)) or b""

    def end(self) -> bytes:
        return self.connection.send(h11.EndOfMessage()) or b""

    async def wait_closed(self) -> None:
        inner = self.stream
        while isinstance(inner, trio.SSLStream):
            inner = inner.transport_stream
        if isinstance(inner, trio.SocketStream):
            await trio.lowlevel.wait_readable(inner.socket.fileno())
            with trio.move_on_after(0):
                if await inner.socket.recv(1, trio.socket.MSG_PEEK) == b"":
                    return
        await trio.sleep_forever()


async def serve_stream(stream: trio.abc.Stream, handle: Handle) -> None:
    """Answer the requests of one connection until it ends."""
    link = _Link(stream)
    try:
        while await _one_exchange(link, handle):
            link.connection.start_next_cycle()
    except (trio.BrokenResourceError, trio.ClosedResourceError, Cut, OSError):
        pass
    except h11.RemoteProtocolError as error:
        with trio.move_on_after(LINGER_S):
            await _say_bad(link, error)
    finally:
        with trio.move_on_after(LINGER_S) as scope:
            scope.shield = True
            await trio.aclose_forcefully(stream)


async def _say_bad(link: _Link, error: h11.RemoteProtocolError) -> None:
    if link.connection.our_state is h11.IDLE or link.connection.our_state is h11.SEND_RESPONSE:
        body = f"{error}\n".encode()
        head = link.head(error.error_status_hint, {"content-length": str(len(body)), "connection": "close"})
        try:
            await link.stream.send_all(head + link.part(body) + link.end())
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return


async def _one_exchange(link: _Link, handle: Handle) -> bool:
    """Serve one request; whether the connection can carry another."""
    with trio.move_on_after(HEAD_TIMEOUT_S) as idle:
        event = await link.next_event()
    if idle.cancelled_caught or not isinstance(event, h11.Request):
        return False
    exchange = _exchange(event, link)
    try:
        await handle(exchange)
    except Refused as refused:
        body = f"{refused.text}\n".encode()
        headers = dict(refused.headers or {})
        if _has_body(event) and link.connection.their_state is h11.SEND_BODY:
            headers["connection"] = "close"  # what comes of it still is no next request
        await exchange.answer(refused.status, body, "text/plain", headers)
    if not _has_body(event) and link.connection.their_state is h11.SEND_BODY:
        link.connection.next_event()  # its end, which is there already: nobody has asked for a body
    if link.connection.our_state is h11.DONE and link.connection.their_state is h11.DONE:
        return True
    await _linger(link)
    return False


def _has_body(event: h11.Request) -> bool:
    return any(name.lower() in (b"content-length", b"transfer-encoding") for name, _ in event.headers)


def _exchange(event: h11.Request, link: _Link) -> Exchange:
    target = event.target.decode("ascii", "replace")
    path, _, query = target.partition("?")
    headers = {name.decode().lower(): value.decode("latin-1") for name, value in event.headers}
    return Exchange(
        event.method.decode(),
        urllib.parse.unquote(path),
        dict(urllib.parse.parse_qsl(query, keep_blank_values=True)),
        headers,
        target,
        link,
    )


async def _linger(link: _Link) -> None:
    """Read on for a while, so that a client that still sends gets to read the answer."""
    if link.connection.our_state is h11.SEND_BODY:
        return
    with trio.move_on_after(LINGER_S):
        if isinstance(link.stream, trio.SocketStream):
            await link.stream.send_eof()
        left = LINGER_BYTES
        while left > 0:
            data = await link.stream.receive_some(RECEIVE_BYTES)
            if not data:
                return
            left -= len(data)
