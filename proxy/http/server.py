"""The HTTP/1.1 server: listeners, connections, the sweep of slow clients, and an orderly end.

Problem: the face of the store must answer tens of thousands of small requests a second and move gigabytes a second from
one Python process, and must not be harmed by clients that are broken, slow or hostile.

Idea: one coroutine per connection, which blocks only where the socket does (`wire`), run by whichever task of the `crew` has
its turn; heads parsed by llhttp (`head`); one sweep per server instead of a timer per read (`patience`). Several processes
share a port (`listeners`).

Invariants:
- At most `connection_count_max` connections; each holds bounded memory.
- A stopped server finishes what runs, up to its deadline, and leaves no socket open.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog
import trio

from proxy.http.connection import Connection
from proxy.http.crew import Crew
from proxy.http.head import HeadParser, HttpError
from proxy.http.limits import HttpLimits
from proxy.http.message import Handler, Response
from proxy.http.patience import Wait
from proxy.http.responses import Stamps, render_last
from proxy.http.service import AccessLog, Counters, ErrorRenderer, Service
from proxy.http.wire import Wire

log = structlog.get_logger("proxy.http")

ACCEPT_BATCH: Final = 64
ACCEPT_PAUSE_S: Final = 0.1
STOP_S: Final = 30.0
OUT_OF_RESOURCES: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


@dataclass(frozen=True, slots=True)
class HttpStatistics:
    """What a server has done since it was made, and what it holds."""

    connections: int
    """Open now."""
    requests: int
    """Whose heads were parsed."""
    refused: int
    """Answered with an error by the HTTP layer: malformed, too long, too late."""
    failed: int
    """Handlers and response streams that raised."""
    expired: int
    """Connections whose client was too slow, or idle for too long."""
    turned_away: int
    """Connections beyond the limit."""


def plain_error(error: HttpError, transaction_id: str) -> Response:
    """The response to an error when the server's owner has no better: a line of text."""
    return Response(error.status, [(b"Content-Type", b"text/plain; charset=utf-8")], f"{error.message}\n".encode())


class HttpServer:
    """Serves HTTP/1.0 and 1.1 on listening sockets.

    `handler` is awaited once per request. `render_error` makes the responses to requests that
    never reach it and to its failures; `access_log` is called once per response. `clock` gives seconds since 1970.
    """

    def __init__(
        self,
        handler: Handler,
        limits: HttpLimits = HttpLimits(),  # noqa: B008 (frozen)
        *,
        render_error: ErrorRenderer = plain_error,
        access_log: AccessLog | None = None,
        clock: Callable[[], float] = time.time,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._limits = limits
        self._connections: set[Connection] = set()
        self._counters = Counters()
        self._stop = trio.Event()
        self._stop_s = STOP_S
        self._service = Service(
            handler=handler,
            limits=limits,
            stamps=Stamps(clock, random_bytes),
            parser=HeadParser(limits),
            render_error=render_error,
            access_log=access_log,
            counters=self._counters,
        )

    def statistics(self) -> HttpStatistics:
        """As of now."""
        counters = self._counters
        return HttpStatistics(
            connections=len(self._connections),
            requests=counters.requests + sum(connection.wire.requests for connection in self._connections),
            refused=counters.refused,
            failed=counters.failed,
            expired=counters.expired,
            turned_away=counters.turned_away,
        )

    def stop(self, deadline_s: float = STOP_S) -> None:
        """Take no more connections, let running requests finish for so many seconds, then make `serve` return."""
        self._stop_s = deadline_s
        self._service.stopping = True
        self._stop.set()

    async def serve(
        self,
        listeners: Sequence[socket.socket],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until `stop`, or cancelled (which breaks connections off). Owns the listeners, and closes them."""
        crew: Crew | None = None
        try:
            async with trio.open_nursery() as clients:
                crew = Crew(clients)
                async with trio.open_nursery() as keepers:
                    for listener in listeners:
                        listener.setblocking(False)
                        keepers.start_soon(self._accept, listener, crew)
                    keepers.start_soon(self._sweep)
                    task_status.started()
                    await self._stop.wait()
                    keepers.cancel_scope.cancel()
                for listener in listeners:
                    # Who is in the queue was told that it is connected: it gets its answer.
                    self._accept_all(listener, crew, self._limits.connection_count_max)
                    listener.close()
                clients.start_soon(self._finish, clients.cancel_scope)
                clients.cancel_scope.deadline = trio.current_time() + self._stop_s
        finally:
            if crew is not None:
                crew.close()
            for connection in tuple(self._connections):  # that never said anything
                connection.wire.close(reset=True)
                self._connections.discard(connection)
            for listener in listeners:
                listener.close()

    async def _finish(self, serving: trio.CancelScope) -> None:
        """Keep closing idle connections, and sweeping slow ones, until all have gone; then send the crew home."""
        while self._connections:
            for connection in tuple(self._connections):
                wire = connection.wire
                if wire.at_rest and not wire.expired and not wire.has_come:
                    wire.expire()
            self._sweep_once(0.05)
            await trio.sleep(0.05)
        serving.cancel()

    async def _accept(self, listener: socket.socket, crew: Crew) -> None:
        """Take connections off one listener's queue for ever."""
        while True:
            try:
                if self._accept_all(listener, crew, ACCEPT_BATCH):
                    await trio.lowlevel.checkpoint()
                else:
                    await trio.lowlevel.wait_readable(listener)
            except OSError as error:
                if error.errno not in OUT_OF_RESOURCES:
                    raise
                log.warning("out of file descriptors or memory: no new connections for a moment", error=str(error))
                await trio.sleep(ACCEPT_PAUSE_S)

    def _accept_all(self, listener: socket.socket, crew: Crew, count_max: int) -> bool:
        """Accept up to so many. True: there may be more."""
        for _ in range(count_max):
            try:
                connected, address = listener.accept()
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno in OUT_OF_RESOURCES:
                    raise
                continue  # that client has gone again: the errors of a connection come out of accept, too
            connected.setblocking(False)
            if len(self._connections) >= self._limits.connection_count_max:
                self._turn_away(connected)
                continue
            if connected.family != socket.AF_UNIX:
                with contextlib.suppress(OSError):
                    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(self._service, Wire(connected, client_name(address)))
            connection.wire.waits_for = Wait.HEAD
            self._connections.add(connection)
            crew.take(connected.fileno(), connection.wire.waits, self._serve_client(connection))
        return True

    async def _serve_client(self, connection: Connection) -> None:
        connection.wire.waits_for = Wait.NOTHING
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)

    def _turn_away(self, connected: socket.socket) -> None:
        """Say 503 to a client that is one too many, as far as the kernel takes it at once."""
        self._counters.turned_away += 1
        transaction_id = self._service.stamps.transaction_id()
        response = self._service.render_error(HttpError(503, "too many connections; try again"), transaction_id)
        with connected, contextlib.suppress(OSError):
            connected.send(render_last(response, self._service.stamps, transaction_id))
            connected.shutdown(socket.SHUT_WR)
            connected.recv(65536)  # what came already would turn the close into a reset

    async def _sweep(self) -> None:
        """Find the clients that are too slow, once an interval."""
        interval_s = self._limits.sweep_interval_s
        before_s = trio.current_time()
        while True:
            await trio.sleep(interval_s)
            now_s = trio.current_time()
            # A process that was stopped for a while (a debugger, a suspended machine) does not blame its clients.
            self._sweep_once(min(now_s - before_s, 2 * interval_s))
            before_s = now_s

    def _sweep_once(self, elapsed_s: float) -> None:
        limits = self._limits
        for connection in self._connections:
            wire = connection.wire
            moved_bytes = wire.received_bytes + wire.sent_bytes
            if (
                wire.patience.is_over(wire.waits_for, wire.requests, moved_bytes, elapsed_s, limits)
                and not wire.expired
                and not (wire.at_rest and wire.has_come)
            ):
                self._counters.expired += 1
                wire.expire()


def client_name(address: object) -> str:
    """A peer's address as logs show it."""
    if isinstance(address, tuple) and len(address) >= 2:
        return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"
    return "unix"
