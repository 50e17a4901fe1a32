"""The simulator as a server: a listener for each host, one loop that lets time pass.

All pools of the process share one event loop, so messages need no locks. After each one the pools whose rows changed wake
their pollers, and the loop that resumes operations computes anew when to come again.
"""

from __future__ import annotations

import math
import ssl
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import structlog
import trio

from scheduler.xen.simulator import control, transfer
from scheduler.xen.simulator.calls.event import Pending
from scheduler.xen.simulator.database import Row
from scheduler.xen.simulator.dispatch import Operation, serve
from scheduler.xen.simulator.failure import Failure
from scheduler.xen.simulator.http import Cut, Exchange, Refused, serve_stream
from scheduler.xen.simulator.pool import Pool
from scheduler.xen.simulator.saved import CannotSave
from scheduler.xen.simulator.site import Site
from scheduler.xen.simulator.wire import (
    BadRequest,
    MethodCall,
    read_json,
    read_xml,
    write_json_failure,
    write_json_result,
    write_xml_failure,
    write_xml_result,
)

COALESCE_S: Final = 0.02
"""How long a poll waits after a change, for those that follow at once."""
_XML_PATHS: Final = frozenset({"/RPC2", "/", "/xmlrpc"})
_JSON_PATHS: Final = frozenset({"/jsonrpc", "/json"})
_log = structlog.get_logger("xensim")


class _Wakeups:
    """Who waits for a pool to change."""

    def __init__(self) -> None:
        self._changed = trio.Event()
        self._generation = -1

    async def wait(self) -> None:
        """Until the next change."""
        await self._changed.wait()

    def tell(self, generation: int) -> None:
        """Wake who waits, if the pool has got further."""
        if generation != self._generation:
            self._generation = generation
            self._changed.set()
            self._changed = trio.Event()


class Server:
    """Serves a site's pools until cancelled."""

    def __init__(
        self, site: Site, *, clock: Callable[[], float] = time.time, note: Callable[[], None] = lambda: None
    ) -> None:
        self.site = site
        self._note = note
        """Called after each change, before anybody is told of it."""
        self._clock = clock
        self._wakeups = {pool: _Wakeups() for pool in site.pools}
        self._tick = trio.Event()

    async def run(
        self,
        listeners: Sequence[tuple[Pool, Row, trio.SocketListener]],
        context: ssl.SSLContext | None = None,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve each host at its listener."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._let_time_pass)
            for pool, host, listener in listeners:
                handler = partial(self._connection, pool, host, context)
                nursery.start_soon(partial(trio.serve_listeners, handler, [listener]))
            task_status.started()

    async def _connection(
        self, pool: Pool, host: Row, context: ssl.SSLContext | None, socket_stream: trio.SocketStream
    ) -> None:
        stream: trio.abc.Stream = socket_stream
        if context is not None:
            stream = trio.SSLStream(socket_stream, context, server_side=True, https_compatible=True)
        try:
            await serve_stream(stream, partial(self._handle, pool, host))
        except CannotSave:
            raise
        except Exception:
            _log.exception("connection ended by an error of the simulator")

    async def _handle(self, pool: Pool, host: Row, exchange: Exchange) -> None:
        if exchange.path.startswith(control.PREFIX):
            await control.handle(self.site, self, exchange)
            self.settle()
            return
        if host.ref in pool.dead:
            raise Cut
        if host.ref in self.site.hung:
            await exchange.wait_closed()
            raise Cut
        if exchange.method == "POST" and exchange.path in _XML_PATHS:
            await self._xml(pool, host, exchange)
        elif exchange.method == "POST" and exchange.path in _JSON_PATHS:
            await self._json(pool, host, exchange)
        else:
            await self._fault_of_transfer(pool, exchange)
            await transfer.handle(self, pool, host, exchange)
        if host.ref in pool.dead:
            raise Cut

    async def _fault_of_transfer(self, pool: Pool, exchange: Exchange) -> None:
        name = f"http.{exchange.path.lstrip('/')}"
        failure = await self._fault(pool, exchange, name, [exchange.target])
        if failure is not None:
            raise Refused(500, str(failure))

    async def _xml(self, pool: Pool, host: Row, exchange: Exchange) -> None:
        try:
            call = read_xml(await exchange.whole_body())
        except BadRequest as error:
            raise Refused(400, str(error)) from None
        try:
            body = write_xml_result(await self.call(pool, host, call, exchange))
        except Failure as failure:
            body = write_xml_failure(failure)
        await exchange.answer(200, body, "text/xml")

    async def _json(self, pool: Pool, host: Row, exchange: Exchange) -> None:
        try:
            call = read_json(await exchange.whole_body())
        except BadRequest as error:
            raise Refused(400, str(error)) from None
        try:
            body = write_json_result(await self.call(pool, host, call, exchange), call.number)
        except Failure as failure:
            body = write_json_failure(failure, call.number)
        await exchange.answer(200, body, "application/json")

    async def call(self, pool: Pool, host: Row, call: MethodCall, exchange: Exchange) -> Any:
        """Serve one call, to its end. Raises the Failure that it ends in."""
        name = call.method.removeprefix("Async.")
        ordered = await self._fault(pool, exchange, name, call.arguments)
        if pool.latencies.call_s > 0:
            await trio.sleep(pool.latencies.call_s * pool.latencies.factor)
        answer = self._serve(pool, host, call, ordered)
        if isinstance(answer, Pending):
            answer = await self._poll(pool, host, call, answer, exchange)
        elif isinstance(answer, Operation):
            answer = await self._finish(answer)
        return answer

    def _serve(self, pool: Pool, host: Row, call: MethodCall, ordered: Failure | None = None) -> Any:
        try:
            return serve(pool, host, call.method, call.arguments, self.site, ordered)
        except Failure:
            raise
        except Exception as error:
            _log.exception("message crashed", method=call.method)
            raise Failure("INTERNAL_ERROR", repr(error)) from None
        finally:
            self.settle()

    async def _finish(self, operation: Operation) -> Any:
        done = trio.Event()
        operation.notify = done.set
        if not operation.done:
            await done.wait()
        return operation.answer()

    async def _poll(self, pool: Pool, host: Row, call: MethodCall, pending: Pending, exchange: Exchange) -> Any:
        """Ask again after each change, until there is an answer, the time is over or the client has gone."""
        answer: Any = pending
        with trio.move_on_after(pending.timeout_s):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._end_when_closed, exchange, nursery.cancel_scope)
                while isinstance(answer, Pending):
                    await self._wakeups[pool].wait()
                    await trio.sleep(COALESCE_S)
                    try:
                        answer = self._serve(pool, host, call)
                    except Failure as failure:
                        answer = failure
                nursery.cancel_scope.cancel()
        if isinstance(answer, Failure):
            raise answer
        return pending.empty if isinstance(answer, Pending) else answer

    async def _end_when_closed(self, exchange: Exchange, scope: trio.CancelScope) -> None:
        await exchange.wait_closed()
        scope.cancel()

    async def _fault(self, pool: Pool, exchange: Exchange, name: str, arguments: Sequence[Any]) -> Failure | None:
        """Carry out the fault ordered for a call; the failure to answer with, if it is one. Raises Cut."""
        rule = pool.faults.take(name, arguments)
        if rule is None:
            return None
        if rule.delay_s:
            await trio.sleep(rule.delay_s)
        if rule.hang:
            await exchange.wait_closed()
            raise Cut
        if rule.cut == "before":
            raise Cut
        exchange.cut_after = rule.cut == "after"
        exchange.cut_body = rule.cut == "during"
        return Failure(rule.error[0], *rule.error[1:]) if rule.error else None

    def settle(self) -> None:
        """After anything that may have changed a pool: write it down and wake who waits for it."""
        self.site.refresh()
        self._tell()
        self._tick.set()

    def _tell(self) -> None:
        self._note()
        for pool, wakeups in self._wakeups.items():
            wakeups.tell(pool.database.generation)

    async def _let_time_pass(self) -> None:
        """Resume what is due, forever."""
        while True:
            self.site.run_due(self._clock())
            self._tell()
            due = self.site.next_due()
            self._tick = trio.Event()
            with trio.move_on_after(max(0.0, due - self._clock()) if due is not None else math.inf):
                await self._tick.wait()
