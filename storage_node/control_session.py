"""The server's end of a control connection: requests in, answers out, in whatever order they are ready.

Reads are answered in place: what they need is nearly always in memory. Where a device's reads turn out slow (a cold disk)
the data of objects is read in a thread instead, decided by the same policy as where to sync; what else is read comes from
the index, which is small enough to be in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import trio

from storage_node.codec import READS, decode_requests, encode_answer
from storage_node.connection import Connection
from storage_node.device import Device, ObjectReader
from storage_node.errors import CorruptData
from storage_node.fields import Ping
from storage_node.frames import REQUEST_FRAME_BYTES_MAX
from storage_node.group_commit import GroupCommit, InlinePolicy
from storage_node.hub import Hub
from storage_node.operations import (
    SMALL_BYTES_MAX,
    Answer,
    Found,
    GetObject,
    Locked,
    LockObject,
    ReadOperation,
    Status,
    Written,
)
from storage_node.transport import Transport
from storage_node.wire_settings import ServerSettings

_ALIVE = Written(Status.APPLIED)
_BUSY = "too many requests wait for this device"


class ControlSession:
    """Serves one client of one device."""

    def __init__(
        self,
        device: Device,
        committer: GroupCommit,
        hub: Hub,
        transport: Transport,
        settings: ServerSettings,
        nursery: trio.Nursery,
        on_lost: Callable[[ControlSession, Exception], None],
    ) -> None:
        """`nursery` takes reads that have to wait for the disk."""
        self._device = device
        self._committer = committer
        self._settings = settings
        self._nursery = nursery
        self._on_lost = on_lost
        self._connection = Connection(
            hub, transport, REQUEST_FRAME_BYTES_MAX, self._on_payload, self._lost, self._on_drained
        )
        self._read_policy = InlinePolicy(settings.inline_s_max)
        self._slow_reads = 0
        self._writes = 0
        self._quiet = False
        self._received_bytes = -1
        self._sent_bytes = -1
        self._heard_s = 0.0
        self._taken_s = 0.0

    def start(self) -> None:
        """Begin to serve."""
        self._connection.start()

    @property
    def unanswered(self) -> bool:
        """Whether requests wait for their answers, or answers to be sent."""
        return bool(self._writes or self._slow_reads or self._connection.unsent_bytes) and not self._connection.closed

    def quiesce(self) -> None:
        """Read nothing more."""
        self._quiet = True
        if not self._connection.closed:
            self._connection.pause_reading()

    def close(self) -> None:
        """Idempotent."""
        self._connection.close()

    def is_dead(self, now_s: float) -> bool:
        """Whether the peer has been silent, or has taken nothing of what waits for it, for too long. Ask regularly."""
        connection = self._connection
        if connection.received_bytes != self._received_bytes or not connection.reading:
            self._received_bytes = connection.received_bytes
            self._heard_s = now_s
        if connection.sent_bytes != self._sent_bytes or not connection.unsent_bytes:
            self._sent_bytes = connection.sent_bytes
            self._taken_s = now_s
        return (
            now_s - self._heard_s > self._settings.silence_s_max
            or now_s - self._taken_s > self._settings.transfer_stall_s_max
        )

    def answer(self, token: int, answer: Answer) -> None:
        """Answer a write (called by the group commit)."""
        self._writes -= 1
        self._connection.queue(encode_answer(token, answer))

    def _lost(self, error: Exception) -> None:
        self._on_lost(self, error)

    def _on_payload(self, payload: memoryview) -> None:
        submit, queue = self._committer.submit, self._connection.queue
        for request_id, operation in decode_requests(payload):
            kind = type(operation)
            if kind is Ping:
                queue(encode_answer(request_id, _ALIVE))
            elif kind in READS:
                self._read(request_id, operation)
            elif submit(operation, self, request_id):
                self._writes += 1
            else:
                queue(encode_answer(request_id, (Locked if kind is LockObject else Written)(Status.BUSY, detail=_BUSY)))
        if self._connection.unsent_bytes > self._settings.unsent_bytes_max:
            self._connection.pause_reading()

    def _on_drained(self) -> None:
        if not self._connection.reading and not self._quiet:
            self._connection.resume_reading()

    # ------------------------------------------------------------------------------------------------------------- reads

    def _read(self, request_id: int, operation: ReadOperation) -> None:
        if type(operation) is not GetObject or not operation.data:
            self._connection.queue(encode_answer(request_id, self._device.read(operation)))
        elif self._read_policy.inline:
            started_s = perf_counter()
            answer = self._device.read(operation)
            self._read_policy.record(perf_counter() - started_s)
            self._connection.queue(encode_answer(request_id, answer))
        elif self._slow_reads < self._settings.slow_reads_max:
            self._slow_reads += 1
            self._nursery.start_soon(self._read_in_thread, request_id, operation)
        else:
            self._connection.queue(encode_answer(request_id, Found(Status.BUSY, detail=_BUSY)))

    async def _read_in_thread(self, request_id: int, operation: GetObject) -> None:
        """The same as Device.read, but for the data: from the page cache if it is there, else in a thread."""
        try:
            answer = await self._found(operation)
        finally:
            self._slow_reads -= 1
        if not self._connection.closed:
            self._connection.queue(encode_answer(request_id, answer))

    async def _found(self, operation: GetObject) -> Answer:
        answer = self._device.read(operation._replace(data=False))
        entry = answer.entry if isinstance(answer, Found) else None
        if entry is None or entry.deleted or entry.size_bytes > SMALL_BYTES_MAX:
            return answer
        reader = self._device.open_read(operation.hash, operation.key, entry.timestamp)
        if isinstance(reader, Status):
            return Found(reader)
        try:
            started_s = perf_counter()
            data = reader.try_read(0, entry.size_bytes)
            took_s = perf_counter() - started_s
            if data is None:
                data, took_s = await trio.to_thread.run_sync(_read_timed, reader, entry.size_bytes)
                assert data is not None
            self._read_policy.record(took_s)
            return Found(Status.FOUND, entry, bytes(data))
        except CorruptData as error:
            return Found(Status.CORRUPT, detail=str(error)[:1000])
        finally:
            reader.close()


def _read_timed(reader: ObjectReader, size_bytes: int) -> tuple[bytes | memoryview, float]:
    """The data, and the seconds that it took."""
    started_s = perf_counter()
    data = reader.read(0, size_bytes)
    return data, perf_counter() - started_s
