"""The client's end of bulk connections: transfers, and the pool of connections that they use. The conversation: bulk.py.

Problem: a connection costs two round trips of handshake, so it is kept for the next transfer; but one that is kept may have
died meanwhile, or hold bytes of a transfer that was given up.

Idea: only a transfer that came to its end in order gives its connection back; every other way out closes it, which tells
the server all that it needs to know. Before a kept connection is used it is asked, without waiting, whether it has
anything to say: a live one has not.

Invariants: a transfer owns its connection alone; after `commit`, `abort`, `aclose`, a failure or a cancellation it owns
none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import trio

from storage_node.bulk import ANSWERS, CHUNK_BYTES, Block, BulkReader, Kind, as_bytes_view, make_block, message
from storage_node.codec import decode_message
from storage_node.dial import Opened, Peer, dial
from storage_node.fields import VALIDATORS, BeginWrite, OpenRead, PutBlobHeader, TransferEnd, wrong
from storage_node.frames import ANSWER_FRAME_BYTES_MAX, Buffer, FrameReader, ProtocolError
from storage_node.handshake import HandshakeError, Purpose
from storage_node.operations import Entry, Found, Status, Written
from storage_node.transport import Transport, receive, send_all, send_frame
from storage_node.wire_settings import ClientSettings

_RECEIVE_BYTES = 64 * 1024


class BulkFailed(Exception):
    """A transfer cannot go on. `status`: UNREACHABLE, FULL, FENCED, BUSY, CORRUPT ..."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f"{Status(status).name}: {detail}")
        self.status = status
        self.detail = detail


class _BulkConnection:
    """An open bulk connection, between transfers or in one."""

    __slots__ = ("idle_since_s", "next_id", "transport", "used")

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.next_id = 0
        self.used = False
        """It has served a transfer before."""
        self.idle_since_s = 0.0

    def begin(self) -> int:
        """The id of its next transfer."""
        self.next_id += 1
        return self.next_id

    @property
    def alive(self) -> bool:
        """False if it was closed, or says something unasked."""
        try:
            return self.transport.try_receive(1) is None
        except OSError:
            return False


class BulkPool:
    """Bulk connections to one device: some idle, a bounded number in use."""

    def __init__(
        self, peer: Peer, settings: ClientSettings, dial: Callable[[Peer, Purpose], Awaitable[Opened]] = dial
    ) -> None:
        self._dial = dial
        self.peer = peer
        self.settings = settings
        self._idle: deque[_BulkConnection] = deque()
        self._places = trio.Semaphore(settings.bulk_connections_max)

    @property
    def idle_count(self) -> int:
        """Connections kept for the next transfer."""
        return len(self._idle)

    async def acquire(self, fresh: bool = False) -> _BulkConnection:
        """A connection of one's own; `fresh`: not one that was kept. Give it back by release() or discard().

        Raises BulkFailed: UNREACHABLE, or BUSY when all are in use for long.
        """
        try:
            with trio.fail_after(self.settings.bulk_stall_s):
                await self._places.acquire()
        except trio.TooSlowError:
            raise BulkFailed(Status.BUSY, "too many transfers to this device") from None
        try:
            while self._idle and not fresh:
                connection = self._idle.pop()
                if connection.alive:
                    return connection
                connection.transport.close()
            return await self._connect()
        except BaseException:
            self._places.release()
            raise

    async def _connect(self) -> _BulkConnection:
        try:
            with trio.fail_after(self.settings.connect_timeout_s):
                opened = await self._dial(self.peer, Purpose.BULK)
        except trio.TooSlowError:
            raise BulkFailed(Status.UNREACHABLE, f"{self.peer.address} does not answer") from None
        except (OSError, HandshakeError, ProtocolError) as error:
            raise BulkFailed(Status.UNREACHABLE, f"{self.peer.address}: {error}") from None
        return _BulkConnection(opened.transport)

    def release(self, connection: _BulkConnection) -> None:
        """Keep it for the next transfer: the last one came to its end in order."""
        connection.used = True
        connection.idle_since_s = trio.current_time()
        self._idle.append(connection)
        self._places.release()

    def discard(self, connection: _BulkConnection) -> None:
        """Close it."""
        connection.transport.close()
        self._places.release()

    def close_idle(self, older_than_s: float = 0.0) -> None:
        """Close what was not used for so long."""
        now_s = trio.current_time()
        while self._idle and now_s - self._idle[0].idle_since_s >= older_than_s:
            self._idle.popleft().transport.close()


class _Transfer:
    """One transfer, for as long as it owns its connection."""

    def __init__(self, pool: BulkPool, connection: _BulkConnection) -> None:
        self._pool = pool
        self._connection: _BulkConnection | None = connection
        self._transport = connection.transport
        self._id = connection.begin()

    @contextmanager
    def _guard(self, timeout_s: float) -> Iterator[None]:
        """Whatever goes wrong inside ends the transfer. Raises BulkFailed for what the peer or the network did."""
        if self._connection is None:
            raise BulkFailed(Status.REFUSED, "this transfer is over")
        try:
            with trio.fail_after(timeout_s):
                yield
        except trio.TooSlowError:
            self._discard()
            raise BulkFailed(Status.UNREACHABLE, f"{self._pool.peer.address} does not move") from None
        except (OSError, ProtocolError) as error:
            self._discard()
            raise BulkFailed(Status.UNREACHABLE, f"{self._pool.peer.address}: {error}") from None
        except trio.ClosedResourceError:  # another task aborted it
            raise BulkFailed(Status.REFUSED, "this transfer is over") from None
        except BaseException:
            self._discard()
            raise

    def _discard(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.discard(connection)

    def _release(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.release(connection)

    def _read_message(self, payload: Buffer, expected: tuple[Kind, ...]) -> tuple[Kind, Any]:
        transfer_id, kind, value = decode_message(payload, ANSWERS)
        if transfer_id != self._id or kind not in expected:
            raise ProtocolError(f"message {kind} of transfer {transfer_id} is out of place")
        return Kind(kind), value


class BulkWrite(_Transfer):
    """An object's data on its way to one device. Ends with commit() or abort()."""

    def __init__(self, pool: BulkPool, connection: _BulkConnection) -> None:
        super().__init__(pool, connection)
        self._answers = FrameReader(ANSWER_FRAME_BYTES_MAX)

    async def begin(self) -> None:
        """Announce the transfer. Called by open_write."""
        with self._guard(self._pool.settings.bulk_stall_s):
            await send_all(self._transport, message(self._id, Kind.BEGIN_WRITE, BeginWrite()))

    async def send(self, data: Buffer) -> None:
        """Send the next bytes; waits while the device does not keep up. `data` is not kept.

        Raises BulkFailed as soon as the device has refused the write or cannot be reached; the transfer is over then.
        """
        view = as_bytes_view(data)
        for start in range(0, len(view), CHUNK_BYTES):
            await self.send_block(make_block(view[start : start + CHUNK_BYTES]))

    async def send_block(self, block: Block) -> None:
        """The same for data that was made a block, so that several devices share its checksum. Raises BulkFailed."""
        with self._guard(self._pool.settings.bulk_stall_s):
            self._look_for_failure()
            await send_frame(self._transport, block.header, block.data)

    async def commit(self, header: PutBlobHeader) -> Written:
        """Make what was sent the object. APPLIED when it is on stable storage. Raises BulkFailed.

        After UNREACHABLE, or when it is cancelled, the object may or may not have been stored.
        """
        with self._guard(self._pool.settings.bulk_commit_timeout_s):
            if not VALIDATORS[PutBlobHeader](header):
                raise BulkFailed(Status.REFUSED, str(wrong("PutBlobHeader", tuple(header))))
            await send_all(self._transport, message(self._id, Kind.COMMIT, header))
            while True:
                data = await receive(self._transport, _RECEIVE_BYTES)
                written = self._take_answer(data)
                if written is not None:
                    break
        self._release()
        return written

    async def abort(self) -> None:
        """Give it up: the device keeps nothing. Idempotent; does nothing after commit()."""
        self._discard()
        await trio.lowlevel.checkpoint()

    def _look_for_failure(self) -> None:
        """See, without waiting, whether the device has given up on the transfer."""
        data = self._transport.try_receive(_RECEIVE_BYTES)
        if data is not None:
            written = self._take_answer(data)
            if written is not None:
                raise BulkFailed(written.status, written.detail)

    def _take_answer(self, data: bytes) -> Written | None:
        if not data:
            raise ConnectionResetError("the server closed the connection")
        payloads = self._answers.feed(data)
        if not payloads:
            return None
        if len(payloads) > 1 or self._answers.held_bytes:
            raise ProtocolError("more than one answer to a write")
        written: Written = self._read_message(payloads[0], (Kind.WRITTEN,))[1]
        return written


class BulkRead(_Transfer):
    """Bytes of one version of an object on their way from one device. Ends with its last byte, or aclose()."""

    def __init__(self, pool: BulkPool, connection: _BulkConnection) -> None:
        super().__init__(pool, connection)
        self._reader = BulkReader(self._transport, keep=True)
        self._left_bytes = 0
        self.entry: Entry = _NOTHING
        """What is being read."""

    async def begin(self, request: OpenRead) -> Status:
        """Ask for it: FOUND, or why not, and then the transfer is over. Called by open_read. Raises BulkFailed."""
        with self._guard(self._pool.settings.bulk_stall_s):
            await send_all(self._transport, message(self._id, Kind.READ, request))
            payload = await self._next(is_data=False)
            found: Found = self._read_message(payload, (Kind.OPENED,))[1]
            if found.status == Status.FOUND:
                if found.entry is None:
                    raise ProtocolError("found, but no entry")
                self.entry = found.entry
                stop = self.entry.size_bytes if request.stop is None else min(request.stop, self.entry.size_bytes)
                self._left_bytes = max(0, stop - request.start)
                if not self._left_bytes:
                    await self._take_end()
        if not self._left_bytes:
            self._finish()
        return Status(found.status)

    async def read(self) -> bytes | memoryview:
        """The next bytes, verified, at most CHUNK_BYTES of them; b"" at the end. They stay valid.

        Raises BulkFailed: CORRUPT when the device cannot give the rest, UNREACHABLE when it is gone.
        """
        if not self._left_bytes:
            await trio.lowlevel.checkpoint()
            return b""
        with self._guard(self._pool.settings.bulk_stall_s):
            data = await self._next(is_data=True)
            if not 0 < len(data) <= self._left_bytes:
                raise ProtocolError(f"{len(data)} bytes where {self._left_bytes} are left")
            self._left_bytes -= len(data)
            if not self._left_bytes:
                await self._take_end()
        if not self._left_bytes:
            self._finish()
        return data

    async def aclose(self) -> None:
        """Ask for no more. Idempotent."""
        self._discard()
        await trio.lowlevel.checkpoint()

    async def _next(self, is_data: bool) -> memoryview:
        """The payload of the next frame, which has to be of that kind. Raises BulkFailed when the transfer ends early."""
        received = await self._reader.next()
        if received is None:
            raise ConnectionResetError("the server closed the connection")
        got_data, payload = received
        if got_data and not is_data:
            raise ProtocolError("object data where a message was expected")
        if is_data and not got_data:
            end: TransferEnd = self._read_message(payload, (Kind.END,))[1]
            raise BulkFailed(end.status, end.detail)
        return payload

    async def _take_end(self) -> None:
        """After the last byte the server says that it was the last."""
        end: TransferEnd = self._read_message(await self._next(is_data=False), (Kind.END,))[1]
        if end.status != Status.FOUND:
            raise BulkFailed(end.status, end.detail)

    def _finish(self) -> None:
        if self._reader.idle:
            self._release()
        else:
            self._discard()


_NOTHING = Entry(0, 0, True, 0, b"")


async def open_write(pool: BulkPool) -> BulkWrite:
    """Begin to send an object's data. Raises BulkFailed."""
    for fresh in (False, True):
        connection = await pool.acquire(fresh)
        kept = connection.used
        write = BulkWrite(pool, connection)
        try:
            await write.begin()
            return write
        except BulkFailed:
            if not kept:
                raise
    raise AssertionError("a fresh connection was kept")


async def open_read(pool: BulkPool, request: OpenRead) -> BulkRead | Status:
    """Begin to read an object's data, or say why not."""
    if not VALIDATORS[OpenRead](request):
        return Status.REFUSED
    for fresh in (False, True):
        kept = False
        try:
            connection = await pool.acquire(fresh)
            kept = connection.used
            read = BulkRead(pool, connection)
            status = await read.begin(request)
            return read if status == Status.FOUND else status
        except BulkFailed as error:
            if not kept:  # one that was kept may have died meanwhile: that says nothing of the server
                return Status(error.status)
    return Status.UNREACHABLE
