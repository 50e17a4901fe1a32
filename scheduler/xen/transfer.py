"""Disks' bytes, in and out of a pool: PUT `/import_raw_vdi`, GET `/export_raw_vdi`.

These are plain HTTP beside XenAPI, with habits of their own. A host that does not reach the SR answers 302 with one
that does, before it has read the body. A host that takes the body answers 200 *at once*, before it has read it
either, so the status says nothing about the outcome: that is in a task, made beforehand and named in the query. An
export that breaks off simply ends; there, too, the task tells, and for raw disks the length.

So an import sends the head, then pieces, and looks before each piece whether an answer is there: a redirect starts
again at the other host (an image can be opened again), an error ends it, a 200 is taken for what it is worth.
Redirects are followed only to hosts of the pool, and never from https to http: the query carries the session.

One piece is in memory at a time. Each read or write has STALL_S; a cancelled transfer shuts its connection down and
cancels its task.
"""

from __future__ import annotations

import http.client
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit

import trio

from scheduler.hypervisor import HypervisorError, ImageFormat, ImageSource, Progress, Refused, Unreachable
from scheduler.xen.connection import HostConnection
from scheduler.xen.context import Context
from scheduler.xen.errors import CallFailed, NoAnswer, NotPermitted, failure, without_secrets
from scheduler.xen.facts import text
from scheduler.xen.settings import Address, BadPoolSettings
from scheduler.xen.tasks import nothing

Result = TypeVar("Result")
PIECE_BYTES = 1 << 20
STALL_S = 60.0
GRACE_S = 2.0
"""What a step gets beyond STALL_S before its connection is shut down from outside."""
SLOWEST_BYTES_PER_S = 256 << 10
START_S_MAX = 600.0
"""A transfer as a whole may take START_S_MAX and its size at SLOWEST_BYTES_PER_S: a trickle is a stall, too."""
REDIRECTS_MAX = 3
VERDICT_S_MAX = 300.0
"""How long a pool may take to finish its task after the last byte: it flushes to the SR."""
BROKEN_S_MAX = 5.0
"""How long to wait for its word on a transfer that broke off."""
VERDICT_POLL_S = 0.2


class _Redirected(Exception):
    def __init__(self, location: str) -> None:
        super().__init__("redirected")
        self.location = location


class _Answered:
    """A socket's stand-in that gives `http.client` the reader which has already been looked into."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader

    def makefile(self, _mode: str) -> Any:
        return self._reader


class Wire:
    """The blocking half of one transfer: a connection whose answer can be looked for while the body is being sent."""

    def __init__(self, connection: HostConnection) -> None:
        self._connection = connection
        self._reader: Any = None
        self._response: http.client.HTTPResponse | None = None

    def abort(self) -> None:
        """From any thread."""
        self._connection.abort()

    def _time(self) -> None:
        self._connection.extend(time.monotonic() + STALL_S)

    def begin(self, method: str, target: str, length: int | None) -> None:
        """Send the head."""
        self._time()
        self._connection.putrequest(method, target, skip_accept_encoding=True)
        self._connection.putheader("User-Agent", "ringstead")
        self._connection.putheader("Connection", "close")
        if length is not None:
            self._connection.putheader("Content-Length", str(length))
        self._connection.endheaders()
        self._reader = self._connection.sock.makefile("rb")

    def send(self, piece: bytes) -> None:
        """Send a piece of the body. Raises OSError."""
        self._time()
        self._connection.sock.sendall(piece)

    def has_answer(self) -> bool:
        """Whether the other side has begun to answer, or hung up."""
        self._connection.sock.setblocking(False)
        try:
            return len(self._reader.peek(1)) > 0
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError:
            return True
        finally:
            self._time()

    def answer(self) -> http.client.HTTPResponse:
        """Wait for the head of the answer."""
        if self._response is None:
            self._time()
            self._response = http.client.HTTPResponse(_Answered(self._reader), method="GET")  # type: ignore[arg-type]
            self._response.begin()
        return self._response

    def read(self) -> bytes:
        """A piece of the answer's body; empty at its end. Raises IncompleteRead if it broke off where its end can be
        seen."""
        self._time()
        response = self.answer()
        piece = response.read1(PIECE_BYTES)
        if not piece and response.length:
            raise http.client.IncompleteRead(b"", response.length)
        return piece

    def close(self) -> None:
        """Close the connection."""
        if self._reader is not None:
            self._reader.close()
        self._connection.close()


class Transfers:
    """Imports and exports of VDIs of one pool."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._limit = trio.CapacityLimiter(8)

    async def put(self, vdi: str, source: ImageSource, progress: Progress = nothing) -> None:
        """Fill a VDI from an image.

        Raises Refused if the pool says that the image is none, NextSr if the SR fills up, NoAnswer when the outcome
        is unknown.
        """
        async with self._task("import") as task, self._in_time(source.size_bytes):
            base, query = await self._target(vdi, source.format, task)
            address, target = base, f"/import_raw_vdi?{query}"
            for _ in range(REDIRECTS_MAX + 1):
                try:
                    await self._put_at(address, target, source, progress)
                    await self._verdict(task, "import_raw_vdi", VERDICT_S_MAX)
                    return
                except Unreachable:
                    await self._verdict(task, "import_raw_vdi", BROKEN_S_MAX)  # it may know why
                    raise
                except _Redirected as to:
                    address, target = self._redirect(base, to.location)
            raise NoAnswer(f"pool {self._context.name}: its hosts send an import in a circle")

    @asynccontextmanager
    async def get(self, vdi: str, image_format: ImageFormat, length: int | None) -> AsyncIterator[AsyncIterator[bytes]]:
        """The bytes of a VDI, checked at their end to be all; `length` is what a raw disk must have."""
        async with self._task("export") as task:
            base, query = await self._target(vdi, image_format, task)
            address, target = base, f"/export_raw_vdi?{query}"
            wire: Wire | None = None
            try:
                for _ in range(REDIRECTS_MAX + 1):
                    wire = self._wire(address)
                    try:
                        await self._do(wire, wire.begin, "GET", target, None)
                        self._check(await self._do(wire, wire.answer))
                        break
                    except _Redirected as to:
                        await self._do(wire, wire.close)
                        address, target = self._redirect(base, to.location)
                else:
                    raise NoAnswer(f"pool {self._context.name}: its hosts send an export in a circle")
                async with aclosing(self._pieces(wire, task, length)) as pieces:
                    yield pieces
            finally:
                if wire is not None:
                    wire.abort()
                    await self._close(wire)

    @asynccontextmanager
    async def _in_time(self, size_bytes: int) -> AsyncIterator[None]:
        try:
            with trio.fail_after(START_S_MAX + size_bytes / SLOWEST_BYTES_PER_S):
                yield
        except trio.TooSlowError:
            raise NoAnswer(f"pool {self._context.name}: a transfer of {size_bytes} bytes is too slow") from None

    async def _pieces(self, wire: Wire, task: str, length: int | None) -> AsyncGenerator[bytes, None]:
        seen, began = 0, trio.current_time()
        while piece := await self._do(wire, wire.read):
            seen += len(piece)
            if trio.current_time() - began > START_S_MAX + seen / SLOWEST_BYTES_PER_S:
                raise NoAnswer(f"pool {self._context.name}: an export is too slow")
            yield piece
        if length is not None and seen != length:
            raise NoAnswer(f"pool {self._context.name}: an export broke off after {seen} of {length} bytes")
        await self._verdict(task, "export_raw_vdi", VERDICT_S_MAX)

    async def _put_at(self, address: Address, target: str, source: ImageSource, progress: Progress) -> None:
        wire, sent = self._wire(address), 0
        try:
            await self._do(wire, wire.begin, "PUT", target, source.size_bytes)
            try:
                async with source.open() as pieces:
                    async for piece in pieces:
                        if await self._do(wire, wire.has_answer):
                            self._check(await self._do(wire, wire.answer))
                        await self._do(wire, wire.send, piece)
                        sent += len(piece)
                        progress(sent / max(source.size_bytes, 1))
            except Unreachable:
                # Hung up in the middle: most likely there is an answer that says why, or where to.
                self._check(await self._do(wire, wire.answer))
                raise
            if sent != source.size_bytes:
                raise Refused(f"the image has {sent} bytes where {source.size_bytes} were promised")
            self._check(await self._do(wire, wire.answer))
        finally:
            wire.abort()
            await self._close(wire)

    async def _close(self, wire: Wire) -> None:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(wire.close, limiter=self._limit)

    def _wire(self, address: Address) -> Wire:
        session = self._context.session
        deadline = time.monotonic() + session.settings.connect_timeout_s
        return Wire(HostConnection(address, session.settings, session.context, deadline))

    async def _do(self, wire: Wire, step: Callable[..., Result], *args: Any) -> Result:
        """One blocking step in a thread. Raises NoAnswer, PoolUnreachable, CertificateRefused."""
        try:
            with trio.fail_after(STALL_S + GRACE_S):
                return await trio.to_thread.run_sync(step, *args, abandon_on_cancel=True, limiter=self._limit)
        except trio.TooSlowError:
            wire.abort()
            raise NoAnswer(f"pool {self._context.name}: a transfer stands still") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            what = without_secrets(f"{error!r:.200}")
            raise NoAnswer(f"pool {self._context.name}: a transfer broke off: {what}") from None
        except trio.Cancelled:
            wire.abort()
            raise

    def _check(self, response: http.client.HTTPResponse) -> None:
        status, pool = response.status, self._context.name
        if status == 200:
            return
        if status in (301, 302, 303, 307, 308):
            raise _Redirected(response.getheader("Location") or "")
        if status in (401, 403):
            raise NotPermitted(f"pool {pool}: a transfer of a disk is refused with HTTP status {status}")
        raise CallFailed(
            f"pool {pool}: a transfer of a disk failed with HTTP status {status} {str(response.reason)[:80]}"
        )

    def _redirect(self, base: Address, location: str) -> tuple[Address, str]:
        parts = urlsplit(location)
        try:
            address = base.beside(f"{parts.scheme}://{parts.netloc}" if parts.scheme else parts.netloc)
        except BadPoolSettings:
            raise NoAnswer(f"pool {self._context.name}: a redirect to nowhere") from None
        hosts = {text(host, "address") for host in self._context.follower.picture.table("host").values()}
        hosts |= {known.host for known in self._context.session.whereabouts.all()}
        names = {base.beside(host).host for host in hosts if host}
        if address.host not in names or (base.scheme == "https" and address.scheme != "https"):
            raise Refused(
                f"pool {self._context.name}: redirects a disk to {address}, which is no host of it; not followed"
            )
        return address, f"{parts.path}?{parts.query}"

    async def _target(self, vdi: str, image_format: ImageFormat, task: str) -> tuple[Address, str]:
        address, session_id = await self._context.session.login()
        return address, urlencode(
            {"session_id": session_id, "task_id": task, "vdi": vdi, "format": image_format}, safe=":"
        )

    @asynccontextmanager
    async def _task(self, what: str) -> AsyncIterator[str]:
        """A task for the pool to report to; cancelled if the block is left by an error, and cleared away."""
        task = str(await self._context.call("task.create", f"ringstead {what}", ""))
        try:
            yield task
        except BaseException:
            with trio.CancelScope(deadline=trio.current_time() + 5, shield=True):
                await self._try("task.cancel", task)
            raise
        finally:
            with trio.CancelScope(deadline=trio.current_time() + 5, shield=True):
                await self._try("task.destroy", task)

    async def _try(self, method: str, task: str) -> None:
        try:
            await self._context.call(method, task, timeout_s=5)
        except HypervisorError:
            return  # it ended by itself; pools clear it away a day later

    async def _verdict(self, task: str, what: str, seconds: float) -> None:
        """What the pool says in the end. Raises what went wrong, or NoAnswer."""
        pool = self._context.name
        with trio.move_on_after(seconds):
            while True:
                record = await self._context.call("task.get_record", task)
                status = text(record, "status")
                if status == "success":
                    return
                if status in ("failure", "cancelled"):
                    info = record.get("error_info")
                    raise failure(info if isinstance(info, list) and info else ["INTERNAL_ERROR", what], pool)
                await trio.sleep(VERDICT_POLL_S)
        raise NoAnswer(f"pool {pool}: {what} does not come to its end")
