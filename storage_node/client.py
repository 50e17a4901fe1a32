"""The client of one device: requests out, answers to callbacks, over one connection that is kept up.

Problem: a proxy sends each request to three or six devices at once and wants a majority of answers, thousands of times a
second. A task, a cancel scope and a lock for each costs more than the device's work; a device that died or hangs must cost
a request nothing at all.

Idea: `submit` is a plain function. It packs the request, notes who is to be called, and returns; what was submitted in one
turn of the event loop leaves with one send (see hub.py). Answers are matched by request id and handed to their callbacks
as they are read. Time-outs are found by one sweep over what waits, not by a timer for each. Everything that can go wrong
is an answer: UNREACHABLE (no connection, lost, late), BUSY (too much waits), REFUSED (beyond a limit).

A device that dies closes its connection: all that waits is answered UNREACHABLE in that moment. One that hangs (a stopped
process, a machine that is gone without a word) shows by silence: while requests wait nothing at all is heard, not even the
answer to a ping. The client then *suspects* it: what waits is answered UNREACHABLE, and what comes as well, until
something is heard. A single slow request, while other answers or pings come, makes nobody suspect.

Rejected: an asyncio-like future for each request (a callback is half the cost, and a quorum needs to count, not to wait for
each); direct sends in `submit` (a system call a request instead of one a turn); sending a request again after a
reconnect (the caller knows whether another device would do as well, and which writes may be repeated).

Whether the device is *filled* (has all that it ever acknowledged) is known from the handshake on; while it is not, it is
asked again every FILLING_LOOK_S. Answers come in order: what was answered before it was filled is heard before that.

Invariants: `on_answer` is called exactly once for each submit, with an answer of the operation's own type (see
operations.py), possibly before submit returns; the bytes and the number of waiting requests are bounded.
"""

from __future__ import annotations

import os
import random
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, overload

import outcome
import structlog
import trio

from storage_node.bulk_client import BulkFailed, BulkPool, BulkRead, BulkWrite, open_read, open_write
from storage_node.codec import ROUTES, Route, decode_answers, pack, refusal
from storage_node.connection import Connection
from storage_node.dial import Opened, Peer, dial
from storage_node.fields import OpenRead, Ping, PutBlobHeader
from storage_node.frames import ANSWER_FRAME_BYTES_MAX, ProtocolError
from storage_node.handshake import Agreed, HandshakeError, Purpose, check_key
from storage_node.hub import TICK_S, EpollHub, Hub
from storage_node.operations import (
    Answer,
    DeleteCatalog,
    DeleteObject,
    ForgetCatalog,
    ForgetObject,
    ForgetRow,
    Found,
    FoundCatalog,
    FoundDigests,
    FoundEntries,
    FoundRings,
    FoundRows,
    FoundStatistics,
    GetCatalog,
    GetDigests,
    GetObject,
    GetRings,
    GetStatistics,
    JoinCatalog,
    ListEntries,
    ListRows,
    Locked,
    LockObject,
    MarkFilled,
    Operation,
    PutCatalog,
    PutObject,
    PutRow,
    RewriteRecord,
    Status,
    UnlockObject,
    UpdateObject,
    Written,
)
from storage_node.sockets import parse_address
from storage_node.wire_settings import ClientSettings

__all__ = ["BulkFailed", "BulkRead", "BulkWrite", "DeviceClient", "PutBlobHeader"]

TIMEOUT_S = 5.0
FILLING_LOOK_S = 1.0
_STEADY_S = 1.0
"""A connection that lasted this long was no failed attempt."""

log = structlog.get_logger("storage_node")


class _Waiting(NamedTuple):
    """A request that has no answer yet."""

    on_answer: Callable[[Any], None]
    route: Route
    sent_tick: int
    deadline_tick: int
    size_bytes: int


class DeviceClient:
    """One device, wherever it is. Start `run` in a nursery; use it from the same thread.

    `address` is "unix:/path" or "ip:port"; `ssl_context` is used for the latter. Clients of one process should share a
    `hub` (which its owner runs): without one, run() makes its own. `device_uuid`, where known, makes sure that it is that
    very device. `random` gives floats in 0..1 for the back-off, `random_bytes` nonces,
    `dial` opens connections; time is trio's clock.
    """

    def __init__(
        self,
        address: str,
        device_name: str,
        cluster_key: bytes,
        *,
        hub: Hub | None = None,
        settings: ClientSettings | None = None,
        ssl_context: ssl.SSLContext | None = None,
        device_uuid: bytes = b"",
        ring_epoch: Callable[[], int] = lambda: 0,
        random_bytes: Callable[[int], bytes] = os.urandom,
        random: Callable[[], float] = random.random,
        dial: Callable[[Peer, Purpose], Awaitable[Opened]] = dial,
    ) -> None:
        parse_address(address)
        self._peer = Peer(
            address, device_name, check_key(cluster_key), device_uuid, ssl_context, ring_epoch, random_bytes
        )
        self._settings = settings or ClientSettings()
        self._own_hub = hub is None
        self._hub = hub or EpollHub()
        self._random = random
        self._connection: Connection | None = None
        self._usable: Connection | None = None
        """The connection, unless it is suspected."""
        self._lost = trio.Event()
        self._waiting: dict[int, _Waiting] = {}
        self._waiting_bytes = 0
        self._next_id = 1
        self._next_deadline_tick = 0
        self._heard_tick = 0
        self._pinged = False
        self._suspected_tick = 0
        self._dial = dial
        self._pool = BulkPool(self._peer, self._settings, dial)
        self.agreed: Agreed | None = None
        """What the last handshake agreed on."""
        self.filled = False
        """Whether what the device does not have may count as not being there: see MarkFilled."""
        self._look_tick = 0
        """When to ask it again."""
        self.last_error = "not connected yet"
        """Why it is not connected, if it is not."""

    def __repr__(self) -> str:
        state = "connected" if self.connected else self.last_error
        return f"<DeviceClient {self._peer.device_name} at {self._peer.address}: {state}>"

    @property
    def address(self) -> str:
        """Where the device's server is."""
        return self._peer.address

    @property
    def device_name(self) -> str:
        """Which of the server's devices it is."""
        return self._peer.device_name

    @property
    def connected(self) -> bool:
        """Whether a request sent now has a good chance: there is a connection, and the device is not suspected."""
        return self._usable is not None

    @property
    def peer_ring_epoch(self) -> int:
        """Epoch of the newest ring that the device's server had when it last connected; 0 if unknown."""
        return self.agreed.peer_ring_epoch if self.agreed is not None else 0

    @property
    def in_flight(self) -> int:
        """Requests that wait for their answers."""
        return len(self._waiting)

    # ---------------------------------------------------------------------------------------------------------- requests

    def submit(
        self, operation: Operation | Ping | GetRings, on_answer: Callable[[Any], None], timeout_s: float = TIMEOUT_S
    ) -> None:
        """Send a request; never blocks. `on_answer` gets its answer, once, perhaps before this returns.

        It must not raise (that would end `run`), and may submit. Time-outs are kept to about 0.1 s.
        """
        route = ROUTES[type(operation)]
        connection = self._usable
        if connection is None:
            on_answer(route.answer(Status.UNREACHABLE, detail=self.last_error))
            return
        if not route.valid(operation):
            on_answer(route.answer(Status.REFUSED, detail=refusal(operation)))
            return
        self._send(connection, route, operation, on_answer, int(timeout_s / TICK_S) + 2)

    def _send(
        self,
        connection: Connection,
        route: Route,
        operation: Operation | Ping | GetRings,
        on_answer: Callable[[Any], None],
        timeout_ticks: int,
    ) -> None:
        request_id = self._next_id
        message = pack((request_id, route.opcode, operation))
        size_bytes = len(message)
        waiting, settings = self._waiting, self._settings
        if len(waiting) >= settings.in_flight_max or self._waiting_bytes + size_bytes > settings.in_flight_bytes_max:
            on_answer(route.answer(Status.BUSY, detail="too many requests to this device wait for an answer"))
            return
        self._next_id = request_id + 1
        self._waiting_bytes += size_bytes
        now_tick = self._hub.ticks
        deadline_tick = now_tick + timeout_ticks
        if not waiting or deadline_tick < self._next_deadline_tick:
            self._next_deadline_tick = deadline_tick
        waiting[request_id] = _Waiting(on_answer, route, now_tick, deadline_tick, size_bytes)
        connection.queue(message)

    @overload
    async def call(
        self,
        operation: PutObject
        | DeleteObject
        | UpdateObject
        | UnlockObject
        | PutCatalog
        | DeleteCatalog
        | PutRow
        | JoinCatalog
        | ForgetObject
        | ForgetRow
        | ForgetCatalog
        | RewriteRecord
        | MarkFilled
        | Ping,
        timeout_s: float = TIMEOUT_S,
    ) -> Written: ...
    @overload
    async def call(self, operation: LockObject, timeout_s: float = TIMEOUT_S) -> Locked: ...
    @overload
    async def call(self, operation: GetObject, timeout_s: float = TIMEOUT_S) -> Found: ...
    @overload
    async def call(self, operation: GetCatalog, timeout_s: float = TIMEOUT_S) -> FoundCatalog: ...
    @overload
    async def call(self, operation: ListRows, timeout_s: float = TIMEOUT_S) -> FoundRows: ...
    @overload
    async def call(self, operation: GetDigests, timeout_s: float = TIMEOUT_S) -> FoundDigests: ...
    @overload
    async def call(self, operation: ListEntries, timeout_s: float = TIMEOUT_S) -> FoundEntries: ...
    @overload
    async def call(self, operation: GetStatistics, timeout_s: float = TIMEOUT_S) -> FoundStatistics: ...
    @overload
    async def call(self, operation: GetRings, timeout_s: float = TIMEOUT_S) -> FoundRings: ...

    async def call(self, operation: Operation | Ping | GetRings, timeout_s: float = TIMEOUT_S) -> Answer:
        """Send a request and wait for its answer. When it is cancelled, a write may or may not be done."""
        await trio.lowlevel.checkpoint_if_cancelled()
        answered: list[Answer] = []
        task: trio.lowlevel.Task | None = None

        def on_answer(answer: Answer) -> None:
            nonlocal task
            if task is None:
                answered.append(answer)
            else:
                waiting_task, task = task, None
                trio.lowlevel.reschedule(waiting_task, outcome.Value(answer))

        def abort(_: Callable[[], None]) -> trio.lowlevel.Abort:
            nonlocal task
            task = None
            return trio.lowlevel.Abort.SUCCEEDED

        self.submit(operation, on_answer, timeout_s)
        if answered:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return answered[0]
        task = trio.lowlevel.current_task()
        answer: Answer = await trio.lowlevel.wait_task_rescheduled(abort)
        return answer

    # --------------------------------------------------------------------------------------------------------- transfers

    async def open_write(self) -> BulkWrite:
        """Begin to send a large object's data. Raises BulkFailed at once when the device is not connected."""
        if self._usable is None:
            await trio.lowlevel.checkpoint()
            raise BulkFailed(Status.UNREACHABLE, self.last_error)
        return await open_write(self._pool)

    async def open_read(
        self, hash_: bytes, key: bytes, timestamp: int | None = None, start: int = 0, stop: int | None = None
    ) -> BulkRead | Status:
        """Begin to read bytes start..stop (None: the end) of an object, of that very version if a timestamp is given.

        A Status says why not: MISSING, CORRUPT, UNREACHABLE, BUSY ...
        """
        if self._usable is None:
            await trio.lowlevel.checkpoint()
            return Status.UNREACHABLE
        return await open_read(self._pool, OpenRead(hash_, key, timestamp, start, stop))

    # ------------------------------------------------------------------------------------------------------- connection

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the connection up until cancelled. Started when the first attempt has succeeded or failed."""
        async with trio.open_nursery() as nursery:
            if self._own_hub:
                await nursery.start(self._hub.run)
            self._hub.add_tick(self._on_tick)
            try:
                await self._keep_connected(task_status)
            finally:
                self._hub.remove_tick(self._on_tick)
                if self._connection is not None:
                    self._connection.close()
                self._end("the client is closed")
                self._pool.close_idle()

    async def _keep_connected(self, task_status: trio.TaskStatus[None]) -> None:
        started = False
        failures = 0
        while True:
            opened = await self._connect()
            if opened is not None:
                self._begin(opened)
            if not started:
                started = True
                task_status.started()
            began_s = trio.current_time()
            if opened is not None:
                await self._lost.wait()
            failures = 0 if trio.current_time() - began_s >= _STEADY_S else failures + 1
            delay_s = min(self._settings.retry_s_max, self._settings.retry_s_min * 2 ** min(failures, 16))
            await trio.sleep(delay_s * (0.5 + self._random() / 2))

    async def _connect(self) -> Opened | None:
        try:
            with trio.fail_after(self._settings.connect_timeout_s):
                return await self._dial(self._peer, Purpose.CONTROL)
        except trio.TooSlowError:
            self._note(f"{self._peer.address} does not answer")
        except HandshakeError as error:
            self._note(f"{self._peer.address}: {error}")
        except (OSError, ProtocolError) as error:
            self._note(f"{self._peer.address}: {error}")
        return None

    def _note(self, reason: str) -> None:
        if reason != self.last_error:
            log.warning("a device is not reachable", device=self._peer.device_name, reason=reason)
        self.last_error = reason

    def _begin(self, opened: Opened) -> None:
        self._lost = trio.Event()
        self.agreed = opened.agreed
        self.filled = not opened.agreed.filling
        self._look_tick = self._hub.ticks
        self._heard_tick = self._hub.ticks
        self._pinged = False
        self._connection = Connection(
            self._hub, opened.transport, ANSWER_FRAME_BYTES_MAX, self._on_payload, self._on_lost
        )
        self._usable = self._connection
        self._connection.start()

    def _on_payload(self, payload: memoryview) -> None:
        self._heard_tick = self._hub.ticks
        waiting = self._waiting
        for request_id, fields in decode_answers(payload):
            request = waiting.get(request_id)
            if request is None:
                if not 0 < request_id < self._next_id:
                    raise ProtocolError(f"an answer to request {request_id}, which was never sent")
                continue  # it came too late
            answer = request.route.decode_answer(fields)
            del waiting[request_id]
            self._waiting_bytes -= request.size_bytes
            request.on_answer(answer)
        if self._usable is None and self._connection is not None and not self._connection.closed:
            self._usable = self._connection

    def _on_lost(self, error: Exception) -> None:
        self._note(f"{self._peer.address}: {error}")
        self._end(self.last_error)

    def _end(self, reason: str) -> None:
        """The connection is gone: answer all that waits."""
        self._connection = self._usable = None
        self.last_error = reason
        waiting, self._waiting = self._waiting, {}
        self._waiting_bytes = 0
        self._lost.set()
        for request in waiting.values():
            request.on_answer(request.route.answer(Status.UNREACHABLE, detail=reason))

    # -------------------------------------------------------------------------------------------------------- time-outs

    def _on_tick(self) -> None:
        now_tick = self._hub.ticks
        if self._waiting and now_tick >= self._next_deadline_tick:
            self._sweep(now_tick)
        connection = self._connection
        if connection is None:
            return
        silent_s = (now_tick - self._heard_tick) * TICK_S
        if self._usable is not None and self._waiting:
            self._look_for_hang(connection, now_tick)
        if self._usable is None:
            if (now_tick - self._suspected_tick) * TICK_S > self._settings.suspect_s_max:
                connection.close()
                self._on_lost(TimeoutError(f"nothing heard for {silent_s:.1f} s"))
        elif silent_s > self._settings.ping_s and not self._pinged:
            self._ping(connection)
        elif not self.filled and (now_tick - self._look_tick) * TICK_S >= FILLING_LOOK_S:
            self._look_whether_filled(connection, now_tick)
        self._pool.close_idle(self._settings.bulk_idle_s)

    def _look_whether_filled(self, connection: Connection, now_tick: int) -> None:
        self._look_tick = now_tick

        def on_answer(answer: FoundStatistics) -> None:
            if connection is self._connection and answer.statistics is not None:
                self.filled = not answer.statistics.filling

        timeout_ticks = int(self._settings.ping_timeout_s / TICK_S) + 1
        self._send(connection, ROUTES[GetStatistics], GetStatistics(), on_answer, timeout_ticks)

    def _look_for_hang(self, connection: Connection, now_tick: int) -> None:
        """Requests wait: has anything been heard since the oldest of them was sent?"""
        oldest = next(iter(self._waiting.values()))
        silent_s = (now_tick - max(self._heard_tick, oldest.sent_tick)) * TICK_S
        if silent_s <= self._settings.hang_s / 2:
            return
        if silent_s <= self._settings.hang_s:
            if not self._pinged:
                self._ping(connection)
            return
        waiting, self._waiting = self._waiting, {}
        self._waiting_bytes = 0
        self._suspect(now_tick)
        for request in waiting.values():
            request.on_answer(request.route.answer(Status.UNREACHABLE, detail=f"nothing heard for {silent_s:.1f} s"))

    def _sweep(self, now_tick: int) -> None:
        """Answer what is late, and find when to look again."""
        late: list[_Waiting] = []
        next_deadline_tick = now_tick + (1 << 30)
        for request_id, request in list(self._waiting.items()):
            if request.deadline_tick <= now_tick:
                del self._waiting[request_id]
                self._waiting_bytes -= request.size_bytes
                late.append(request)
            elif request.deadline_tick < next_deadline_tick:
                next_deadline_tick = request.deadline_tick
        self._next_deadline_tick = next_deadline_tick
        if any(request.sent_tick >= self._heard_tick for request in late):
            self._suspect(now_tick)
        for request in late:
            request.on_answer(request.route.answer(Status.UNREACHABLE, detail="no answer in time"))

    def _suspect(self, now_tick: int) -> None:
        """Nothing was heard since a request that is now late was sent."""
        if self._usable is None or self._connection is None:
            return
        self._usable = None
        self._suspected_tick = now_tick
        self._note(f"{self._peer.address}: no answer in time")
        if not self._pinged:
            self._ping(self._connection)

    def _ping(self, connection: Connection) -> None:
        self._pinged = True

        def on_answer(answer: Written) -> None:
            self._pinged = False

        self._send(connection, ROUTES[Ping], Ping(), on_answer, int(self._settings.ping_timeout_s / TICK_S) + 1)
