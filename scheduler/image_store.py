"""Images in the object store: streamed in, streamed out, with bounded memory.

An image is an object in a container of a store that speaks Swift, which is the only way in that a scheduler apart
from the store has: an address, a user and a key, as every client. (`ringstead`, which runs both, reads and writes
with the store's own quorums instead.) Images are larger than one object may be, so one is written in segments of
SEGMENT_BYTES, and a manifest (SLO) last: until then there is no image, and an upload that breaks off leaves none. A
name is written once: images do not change.

urllib3 does the HTTP, in worker threads, since it knows all there is to know about connections that broke while idle,
and enforces lengths. The thread that uploads asks the event loop for each next piece, so no more than one is in
memory; a body is never sent twice by itself.

What goes wrong is one of the hypervisor's errors, since it surfaces through its verbs: a store that is away is
TryAgain, an image that is not there or not permitted is Refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import quote, urlsplit

import trio
import urllib3

from scheduler.hypervisor import ImageFormat, Refused, TryAgain

PIECE_BYTES = 1 << 20
SEGMENT_BYTES = 1 << 30
UNDO_S_MAX = 30.0
TIMEOUT = urllib3.Timeout(connect=5.0, read=60.0)
RETRIES = urllib3.Retry(connect=2, read=False, redirect=False, status=False, other=False, backoff_factor=0.1)
"""A connection that was refused is tried again; what was sent is not."""


class StoreAway(TryAgain):
    """The object store does not answer, or broke off. The same call, later."""


class NoSuchImage(Refused):
    """There is no image of that name."""


class StoreRefused(Refused):
    """The object store does not take the key, or what was sent. An operator's to mend."""


@dataclass(frozen=True)
class StoreSettings:
    """Where images are kept."""

    auth_url: str
    """Swift's v1 authentication: http://HOST:PORT/auth/v1.0"""
    user: str
    key: str = field(repr=False)
    container: str = "images"
    ca_file: str | None = None
    """Authorities to trust if the store speaks https; None for the system's."""


class ImageStore(Protocol):
    """Bytes by name."""

    async def save(self, name: str, pieces: AsyncIterator[bytes]) -> tuple[int, str]:
        """Store the pieces under that name, replacing what is there once they are complete; size and MD5 (hex) of
        all."""
        ...

    def open(self, name: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The bytes, in pieces of at most PIECE_BYTES. Raises NoSuchImage; StoreAway if they break off."""
        ...

    async def size_bytes(self, name: str) -> int:
        """Raises NoSuchImage."""
        ...

    async def delete(self, name: str) -> None:
        """Remove it; content when it is gone."""
        ...


@dataclass(frozen=True)
class StoredImage:
    """An image in a store, as the hypervisor's `ImageSource`."""

    store: ImageStore
    name: str
    size_bytes: int
    format: ImageFormat

    def open(self) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The file's bytes."""
        return self.store.open(self.name)


class SwiftImageStore:
    """An `ImageStore` in a container of an object store that speaks Swift."""

    def __init__(self, settings: StoreSettings, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._settings = settings
        self._segment_bytes = segment_bytes
        self._http = urllib3.PoolManager(
            maxsize=8, timeout=TIMEOUT, retries=RETRIES, cert_reqs="CERT_REQUIRED", ca_certs=settings.ca_file
        )
        self._limit = trio.CapacityLimiter(8)
        self._login: tuple[str, str] | None = None
        self._has_containers = False

    def __repr__(self) -> str:
        return f"SwiftImageStore({self._settings.auth_url!r}, {self._settings.container!r})"

    async def save(self, name: str, pieces: AsyncIterator[bytes]) -> tuple[int, str]:
        """See `ImageStore.save`."""
        await self._make_containers()
        reader = _Segments(pieces, self._segment_bytes)
        segments: list[dict[str, object]] = []
        written: list[str] = []
        try:
            while await reader.has_more():
                segment = f"{name}/{len(segments):06d}"
                written.append(segment)
                before = reader.total
                etag = await self._upload(segment, reader)
                path = f"/{self._segments}/{segment}"
                segments.append({"path": path, "etag": etag, "size_bytes": reader.total - before})
            if not segments:
                raise StoreRefused("the image is empty")
            body = json.dumps(segments).encode()
            await self._call("PUT", self._settings.container, name, body=body, query="?multipart-manifest=put")
        except BaseException:
            with trio.move_on_after(UNDO_S_MAX) as scope:
                scope.shield = True
                for segment in written:
                    await self._forget(segment)
            raise
        return reader.total, reader.md5.hexdigest()

    @asynccontextmanager
    async def _opened(self, name: str) -> AsyncIterator[AsyncIterator[bytes]]:
        response = await self._call("GET", self._settings.container, name, stream=True)
        try:
            async with aclosing(self._pieces(response)) as pieces:
                yield pieces
        finally:
            response.close()  # in the middle of a body nothing else can be done with the connection

    def open(self, name: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """See `ImageStore.open`."""
        return self._opened(name)

    async def size_bytes(self, name: str) -> int:
        """See `ImageStore.size_bytes`."""
        response = await self._call("HEAD", self._settings.container, name)
        return int(response.headers.get("Content-Length") or 0)

    async def delete(self, name: str) -> None:
        """See `ImageStore.delete`."""
        try:
            await self._call("DELETE", self._settings.container, name, query="?multipart-manifest=delete")
        except NoSuchImage:
            return

    @property
    def _segments(self) -> str:
        return f"{self._settings.container}_segments"

    async def _forget(self, segment: str) -> None:
        try:
            await self._call("DELETE", self._segments, segment)
        except (NoSuchImage, StoreAway, StoreRefused):
            return  # a segment without manifest costs room, nothing else

    async def _make_containers(self) -> None:
        if not self._has_containers:
            await self._call("PUT", self._settings.container)
            await self._call("PUT", self._segments)
            self._has_containers = True

    async def _upload(self, segment: str, reader: _Segments) -> str:
        """Upload one segment, chunked, since nobody knows where the image ends; its ETag."""
        await self._call("HEAD", self._segments)  # a token that has aged is found here, where it costs no data
        reader.begin()
        response = await self._call("PUT", self._segments, segment, segment=reader)
        etag = response.headers.get("Etag", "").strip('"')
        if etag != reader.segment_md5.hexdigest():
            raise StoreAway(f"the object store has something else than was sent of {segment}")
        return etag

    async def _pieces(self, response: urllib3.BaseHTTPResponse) -> AsyncGenerator[bytes, None]:
        while True:
            try:
                piece = await trio.to_thread.run_sync(response.read, PIECE_BYTES, limiter=self._limit)
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise StoreAway(f"the object store broke off: {error}") from None
            if not piece:
                return
            yield piece

    async def _authenticate(self, *, again: bool = False) -> tuple[str, str]:
        if self._login is None or again:
            settings = self._settings
            response = await self._request(
                "GET", settings.auth_url, {"X-Auth-User": settings.user, "X-Auth-Key": settings.key}
            )
            url, token = response.headers.get("X-Storage-Url"), response.headers.get("X-Auth-Token")
            if response.status not in (200, 204) or not url or not token:
                raise StoreRefused(
                    f"{settings.auth_url} does not let user {settings.user!r} in (HTTP status {response.status})"
                )
            self._login = url, token
        return self._login

    async def _call(
        self,
        method: str,
        container: str,
        name: str = "",
        *,
        query: str = "",
        body: bytes | None = None,
        segment: _Segments | None = None,
        stream: bool = False,
    ) -> urllib3.BaseHTTPResponse:
        """A request for an object or container, logging in again once if the token has aged."""
        path = f"/{quote(container, safe='')}" + (f"/{quote(name)}" if name else "")
        for attempt in range(2):
            url, token = await self._authenticate(again=attempt > 0)
            response = await self._request(
                method, f"{url}{path}{query}", {"X-Auth-Token": token}, body=body, segment=segment, stream=stream
            )
            if response.status != 401 or (segment is not None and segment.began):
                break
        if response.status == 404:
            raise NoSuchImage(f"{container}/{name} is not in the object store")
        if response.status >= 500 or response.status in (408, 409, 429, 498):
            raise StoreAway(f"the object store answers {method} {container}/{name} with HTTP status {response.status}")
        if response.status >= 300:
            raise StoreRefused(
                f"the object store answers {method} {container}/{name} with HTTP status {response.status}"
            )
        return response

    async def _request(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        *,
        body: bytes | None = None,
        segment: _Segments | None = None,
        stream: bool = False,
    ) -> urllib3.BaseHTTPResponse:
        def work() -> urllib3.BaseHTTPResponse:
            return self._http.request(
                method,
                url,
                headers=headers,
                body=segment.blocking() if segment is not None else body,
                chunked=segment is not None,
                preload_content=not stream,
                decode_content=False,
            )

        where = urlsplit(url).netloc
        try:
            return await trio.to_thread.run_sync(work, limiter=self._limit)
        except urllib3.exceptions.SSLError as error:
            raise StoreRefused(f"the certificate of {where} is not trusted: {error}") from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise StoreAway(f"the object store at {where} does not answer: {type(error).__name__}") from None


class _Segments:
    """Pieces cut into segments, for a thread that asks for them one by one."""

    def __init__(self, pieces: AsyncIterator[bytes], segment_bytes: int) -> None:
        self._pieces = pieces
        self._segment_bytes = segment_bytes
        self._rest = b""
        self._left = 0
        self.total = 0
        self.md5 = hashlib.md5(usedforsecurity=False)
        self.segment_md5 = hashlib.md5(usedforsecurity=False)
        self.began = False

    async def has_more(self) -> bool:
        """Whether anything is left for another segment."""
        while not self._rest:
            try:
                self._rest = await anext(self._pieces)
            except StopAsyncIteration:
                return False
        return True

    def begin(self) -> None:
        """A new segment."""
        self._left = self._segment_bytes
        self.segment_md5 = hashlib.md5(usedforsecurity=False)
        self.began = False

    def blocking(self) -> Iterator[bytes]:
        """The segment's pieces, in a worker thread of trio's."""
        self.began = True
        while self._left > 0 and (piece := trio.from_thread.run(self._next)):
            yield piece

    async def _next(self) -> bytes:
        if not await self.has_more():
            return b""
        room = min(self._left, PIECE_BYTES)
        piece, self._rest = self._rest[:room], self._rest[room:]
        self._left -= len(piece)
        self.total += len(piece)
        self.md5.update(piece)
        self.segment_md5.update(piece)
        return piece
