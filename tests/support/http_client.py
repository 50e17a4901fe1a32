"""A small HTTP/1.1 client on trio for fault tests: one connection, kept open, no retry of its own.

Real clients hide failures behind retries; a fault test must see each of them. Raises OSError (trio.BrokenResourceError for a
broken connection) where the answer did not come whole.
"""

from __future__ import annotations

import trio


class HttpClient:
    """One client with one connection at a time."""

    def __init__(self, port: int, headers: dict[str, str], timeout_s: float = 30.0) -> None:
        self._port = port
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._timeout_s = timeout_s
        self._stream: trio.SocketStream | None = None
        self._buffer = b""

    async def request(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers (lower case) and body of the answer."""
        try:
            with trio.fail_after(self._timeout_s):
                return await self._exchange(method, path, body, headers or {})
        except BaseException:
            await self.aclose()
            raise

    async def _exchange(
        self, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, dict[str, str], bytes]:
        if self._stream is None:
            self._stream = await trio.open_tcp_stream("127.0.0.1", self._port)
            self._buffer = b""
        extra = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"{method} {path} HTTP/1.1\r\nHost: test\r\n{self._headers}{extra}Content-Length: {len(body)}\r\n\r\n"
        await self._stream.send_all(head.encode() + body)
        while b"\r\n\r\n" not in self._buffer:
            await self._more()
        raw, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *lines = raw.decode("latin-1").split("\r\n")
        answered = {}
        for line in lines:
            name, _, value = line.partition(":")
            answered[name.strip().lower()] = value.strip()
        status = int(first.split()[1])
        content = b""
        if method != "HEAD" and status not in (204, 304):
            content = await self._content(answered)
        if answered.get("connection", "").lower() == "close":
            await self.aclose()
        return status, answered, content

    async def _content(self, answered: dict[str, str]) -> bytes:
        if "content-length" in answered:
            return await self._take(int(answered["content-length"]))
        pieces: list[bytes] = []
        while True:
            while b"\r\n" not in self._buffer:
                await self._more()
            size, _, self._buffer = self._buffer.partition(b"\r\n")
            piece = await self._take(int(size, 16) + 2)
            if len(piece) == 2:
                return b"".join(pieces)
            pieces.append(piece[:-2])

    async def _take(self, count: int) -> bytes:
        pieces = [self._buffer]
        held = len(self._buffer)
        while held < count:
            self._buffer = b""
            await self._more()
            pieces.append(self._buffer)
            held += len(self._buffer)
        whole = b"".join(pieces)
        self._buffer = whole[count:]
        return whole[:count]

    async def _more(self) -> None:
        assert self._stream is not None
        piece = await self._stream.receive_some(262144)
        if not piece:
            raise trio.BrokenResourceError("the server closed the connection in the middle of an answer")
        self._buffer += piece

    async def aclose(self) -> None:
        """Close the connection; the next request opens another."""
        stream, self._stream = self._stream, None
        if stream is not None:
            await trio.aclose_forcefully(stream)
