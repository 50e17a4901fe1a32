"""The server's end of a control connection: requests in, answers out, in whatever order they are ready.

Reads are answered in place: what they need is nearly always in memory, a thread would cost more than the read, and a cold
one waits for one access to the disk. (Bulk reads, which are long, go to a thread where they would wait.)

A client may send a thousand listings in one frame: after SLICE_S of answering reads the rest waits, unread input with it,
until the other connections had their turn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Any

import trio

from storage_node.codec import READS, decode_requests, encode_answer
from storage_node.connection import Connection
from storage_node.device import Device
from storage_node.fields import Ping
from storage_node.frames import REQUEST_FRAME_BYTES_MAX
from storage_node.group_commit import GroupCommit
from storage_node.hub import Hub
from storage_node.operations import (
    Answer,
    FoundRings,
    GetRings,
    Locked,
    LockObject,
    Status,
    Written,
)
from storage_node.transport import Transport
from storage_node.wire_settings import ServerSettings

RECEIVE_BYTES = 64 * 1024
"""Requests that are taken in at a time: some hundreds of rows, a dozen small objects."""
SLICE_S = 0.005
"""How long reads of one client are answered before others get their turn."""
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
        rings: Callable[[GetRings], FoundRings],
    ) -> None:
        """`nursery` is where requests are served that had to wait for their turn; `rings` answers GetRings."""
        self.device = device
        self._committer = committer
        self._settings = settings
        self._nursery = nursery
        self._on_lost = on_lost
        self._rings = rings
        self._connection = Connection(
            hub, transport, REQUEST_FRAME_BYTES_MAX, self._on_payload, self._lost, self._go_on, RECEIVE_BYTES
        )
        self._requests: deque[tuple[int, Any]] = deque()
        """What came and was not looked at yet."""
        self._working_off = False
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
        waiting = self._requests or self._writes or self._connection.unsent_bytes
        return bool(waiting) and not self._connection.closed

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
        self._requests.extend(decode_requests(payload))
        if not self._working_off and self._connection.unsent_bytes <= self._settings.unsent_bytes_max:
            self._serve_some()
            self._go_on()

    def _serve_some(self) -> None:
        """Serve what came, for about SLICE_S and up to the limit on what waits to be sent."""
        read, submit = self.device.read, self._committer.submit
        connection, requests = self._connection, self._requests
        unsent_bytes_max = self._settings.unsent_bytes_max
        stop_s = perf_counter() + SLICE_S
        while requests:
            request_id, operation = requests.popleft()
            kind = type(operation)
            if kind in READS:
                connection.queue(encode_answer(request_id, read(operation)))
                if perf_counter() > stop_s or connection.unsent_bytes > unsent_bytes_max:
                    return
            elif kind is Ping:
                connection.queue(encode_answer(request_id, _ALIVE))
            elif kind is GetRings:
                connection.queue(encode_answer(request_id, self._rings(operation)))
            elif submit(operation, self, request_id):
                self._writes += 1
            else:
                busy = (Locked if kind is LockObject else Written)(Status.BUSY, detail=_BUSY)
                connection.queue(encode_answer(request_id, busy))

    def _go_on(self) -> None:
        """After a slice, and when the peer has taken its answers: read on, serve on, or wait for the peer."""
        connection = self._connection
        if connection.closed or self._working_off:
            return
        too_much = connection.unsent_bytes > self._settings.unsent_bytes_max
        if not too_much and not self._requests:
            if not connection.reading and not self._quiet:
                connection.resume_reading()
            return
        if connection.reading:
            connection.pause_reading()
        if not too_much:
            self._working_off = True
            self._nursery.start_soon(self._work_off)

    async def _work_off(self) -> None:
        """Serve what is left, in turn with the others."""
        connection, unsent_bytes_max = self._connection, self._settings.unsent_bytes_max
        while self._requests and not connection.closed and connection.unsent_bytes <= unsent_bytes_max:
            await trio.lowlevel.checkpoint()
            self._serve_some()
        self._working_off = False
        self._go_on()
