"""A real server on a real socket, and a client that sends exactly what it is told to."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from proxy.http.limits import HttpLimits
from proxy.http.listeners import open_listeners
from proxy.http.message import BodyError, Handler, Request, Response
from proxy.http.server import HttpServer
from proxy.http.service import AccessLog

ANSWER_S = 10
"""A test that waits longer for an answer has failed."""


@dataclass
class Answer:
    """One parsed response."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


class Client:
    """One connection to a server."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._buffer = b""

    async def send(self, data: bytes) -> None:
        """All of it."""
        await self.stream.send_all(data)

    async def send_if_wanted(self, data: bytes) -> None:
        """As much as the server takes before it has enough of it."""
        try:
            await self.stream.send_all(data)
        except trio.BrokenResourceError:
            return

    async def _more(self) -> bool:
        data = await self.stream.receive_some(65536)
        self._buffer += data
        return bool(data)

    async def answer(self, method: str = "GET") -> Answer:
        """The next response, its body by its framing."""
        with trio.fail_after(ANSWER_S):
            while b"\r\n\r\n" not in self._buffer:
                assert await self._more(), f"closed within a head: {self._buffer!r}"
            head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
            status_line, *lines = head.split(b"\r\n")
            version, status, _ = status_line.split(b" ", 2)
            assert version == b"HTTP/1.1"
            headers: dict[bytes, bytes] = {}
            for line in lines:
                name, _, value = line.partition(b": ")
                assert name.lower() not in headers, f"twice: {name!r}"
                headers[name.lower()] = value
            return Answer(int(status), headers, await self._body(int(status), headers, method))

    async def _body(self, status: int, headers: dict[bytes, bytes], method: str) -> bytes:
        if method == "HEAD" or status in (204, 304) or status < 200:
            return b""
        if b"transfer-encoding" in headers:
            assert b"content-length" not in headers
            body = b""
            while True:
                while b"\r\n" not in self._buffer:
                    assert await self._more()
                size, _, self._buffer = self._buffer.partition(b"\r\n")
                chunk = await self._take(int(size, 16) + 2)
                assert chunk.endswith(b"\r\n")
                if chunk == b"\r\n":
                    return body
                body += chunk[:-2]
        if b"content-length" in headers:
            return await self._take(int(headers[b"content-length"]))
        return await self.rest()

    async def _take(self, size_bytes: int) -> bytes:
        while len(self._buffer) < size_bytes:
            assert await self._more(), "closed within a body"
        taken, self._buffer = self._buffer[:size_bytes], self._buffer[size_bytes:]
        return taken

    async def rest(self) -> bytes:
        """All until the server closes."""
        with trio.fail_after(ANSWER_S):
            while await self._more():
                pass
        rest, self._buffer = self._buffer, b""
        return rest

    async def is_closed(self) -> bool:
        """Wait for the server's close; False if it sends something instead."""
        if self._buffer:
            return False
        with trio.fail_after(ANSWER_S):
            try:
                return not await self._more()
            except trio.BrokenResourceError:
                return True


class Serving:
    """A running server."""

    def __init__(self, server: HttpServer, address: tuple[str, int]) -> None:
        self.server = server
        self.address = address

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """A new connection."""
        stream = await trio.open_tcp_stream(*self.address)
        async with stream:
            yield Client(stream)

    def small_client_socket(self) -> trio.socket.SocketType:
        """A socket with the smallest of receive buffers, not yet connected."""
        slow = trio.socket.socket()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        return slow

    async def ask(self, data: bytes, method: str = "GET") -> Answer:
        """One request on a connection of its own."""
        async with self.client() as client:
            await client.send_if_wanted(data)
            return await client.answer(method)

    async def is_idle(self) -> None:
        """Wait until no connection is open."""
        with trio.fail_after(ANSWER_S):
            while self.server.statistics().connections:
                await trio.lowlevel.checkpoint()


@asynccontextmanager
async def serving(
    handler: Handler, limits: HttpLimits | None = None, access_log: AccessLog | None = None
) -> AsyncIterator[Serving]:
    """A server for the length of a block."""
    listeners = open_listeners("127.0.0.1", 0)
    server = HttpServer(handler, limits or HttpLimits(), access_log=access_log)
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: server.serve(listeners, task_status=task_status))
        yield Serving(server, listeners[0].getsockname())
        server.stop(5)


class Pieces:
    """A response stream of given pieces; counts its closes."""

    def __init__(
        self, pieces: list[bytes], error: Exception | None = None, close_error: Exception | None = None
    ) -> None:
        self._pieces = pieces
        self._error = error
        self._close_error = close_error
        self.closed = 0

    async def read(self) -> bytes:
        """The next piece; at the end the error, if there is one."""
        if self._pieces:
            return self._pieces.pop(0)
        if self._error is not None:
            raise self._error
        return b""

    async def aclose(self) -> None:
        """Count."""
        self.closed += 1
        if self._close_error is not None:
            raise self._close_error


async def echo(request: Request) -> Response:
    """What came, as a body: method, target, headers, body."""
    body = b""
    while piece := await request.body.read():
        body += piece
    lines = [request.method.encode() + b" " + request.target]
    lines += [name + b"=" + value for name, value in sorted(request.headers.items())]
    return Response(200, [(b"content-type", b"text/plain")], b"\n".join((*lines, body)))


async def ignore_body(request: Request) -> Response:
    """An answer that does not wait for the body."""
    return Response(403, [], b"no")


async def swallow(request: Request) -> Response:
    """Takes whatever body there is and turns its errors into answers of its own, as dialects do."""
    size_bytes = 0
    try:
        while piece := await request.body.read():
            size_bytes += len(piece)
    except BodyError as error:
        return Response(400, [(b"x-kind", type(error).__name__.encode())], b"bad body")
    return Response(200, [], b"%d" % size_bytes)
