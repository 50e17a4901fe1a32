"""One client's connection: requests one after the other, each answered before the next is looked at.

Problem: in order, bounded, correct in every corner of RFC 9112 that clients visit, and some ten microseconds a request.

Idea: a plain loop. Read a head, parse it, call the handler, send the response, see to what the handler left unread.
Everything rare (errors, streams, lingering) is in functions of its own, so that the loop's way is short. Pipelined
requests simply wait in the buffer and in the kernel; nothing is read while a request is being served.

Rejected: a reader task and a writer task per connection, with queues between: two wake-ups a request, and unbounded
buffers or flow control to write.

Invariants:
- Every request that was parsed gets exactly one response, or the connection is closed.
- A response stream is closed exactly once, whatever happens.
- After anything doubtful (malformed framing, an unread body, a response that broke) the connection is not used again.
- No client sees a trace-back; every 500 is logged with the transaction id that the client got.
"""

from __future__ import annotations

import time
from typing import Final, TypeAlias

import structlog
import trio

from proxy.http.body import NO_BODY, ChunkedBody, LengthBody, NoBody
from proxy.http.head import HEAD_END, HttpError, RequestHead, check_partial
from proxy.http.message import (
    BodyError,
    BodyTimeout,
    BodyTooLarge,
    ClientDisconnected,
    Request,
    Response,
    ResponseStream,
)
from proxy.http.patience import Wait
from proxy.http.responses import BODILESS, CHUNKED_END, framing, render_head, render_last, sends_body
from proxy.http.service import Service
from proxy.http.wire import HEAD_READ_BYTES, ClientGone, ReadsTooSlowly, TooSlow, Wire

log = structlog.get_logger("proxy.http")

JOIN_BYTES_MAX: Final = 32 * 1024
"""Up to this a body is copied behind its head and sent with it; above, the kernel gathers the two."""
REQUEST_BUDGET_BYTES: Final = 32 * 1024
"""What one request counts as, in the budget that makes busy connections step back."""
CLOSE_S: Final = 5.0
"""For a response stream's `aclose` when the connection's task is being cancelled."""
CLIENT_GONE: Final = 499
"""In the access log: nobody was there to answer."""

AnyBody: TypeAlias = LengthBody | ChunkedBody | NoBody


class ResponseBroken(Exception):
    """A response could not be sent to its end; its client must not take it for whole."""


class Connection:
    """Serves one client until one of the two has enough."""

    __slots__ = ("_accounted_bytes", "_service", "wire")

    def __init__(self, service: Service, wire: Wire) -> None:
        self._service = service
        self._accounted_bytes = 0
        """Received, and in the access log already."""
        self.wire = wire

    async def run(self) -> None:
        """Until the connection is closed. Raises nothing but cancellation."""
        wire = self.wire
        reset = True
        try:
            try:
                await self._serve()
            except HttpError as error:
                await self._refuse(error)
            reset = False
        except ReadsTooSlowly:
            pass  # what it has not read yet is dropped
        except TooSlow:
            reset = False
        except (ClientGone, ResponseBroken):
            pass  # the client's end of it, or logged where it was found
        except Exception:
            log.exception("connection failed", client=wire.client)
        finally:
            self._service.counters.requests += wire.requests
            wire.close(reset)

    async def _serve(self) -> None:
        """One request after the other; returns when the connection is to be closed.

        This is the hot path, and it is kept flat: the usual request (its head in one piece, its response in one piece)
        passes through no other coroutine than its handler, and is parked in between (see crew). Raises `HttpError` for what
        never became a request.
        """
        wire = self.wire
        service = self._service
        parse = service.parser.parse
        handler = service.handler
        stamps = service.stamps
        has_log = service.access_log is not None
        goes_on = True
        while goes_on:
            if wire.buffer or not wire.requests:
                head_bytes = await self._read_head()
            else:
                # Who has just got a response has hardly sent the next request yet: don't ask in vain, wait.
                await wire.wait_request()
                head_bytes = self._take_head() or await self._read_head()
            if not head_bytes:
                return
            if has_log:
                started_s = time.perf_counter()
                sent_before = wire.sent_bytes
            head = parse(head_bytes)
            wire.requests += 1
            wire.budget -= REQUEST_BUDGET_BYTES
            body = self._body(head) if head.content_length or head.chunked else NO_BODY
            transaction_id = stamps.transaction_id()
            request = Request(head.method, head.target, head.headers, body, wire.client, transaction_id)
            status = CLIENT_GONE
            try:
                response = await handler(request)
                content = response.body
                status = response.status
                if (
                    head.is_plain
                    and (body is NO_BODY or body.finished)
                    and type(content) is bytes
                    and len(content) <= JOIN_BYTES_MAX
                    and status not in BODILESS
                    and not response.close
                    and not service.stopping
                ):
                    if head.method == "HEAD":
                        data = render_head(response, framing(response, "HEAD", True), b"", stamps, transaction_id)
                    else:
                        length_line = b"Content-Length: %d\r\n" % len(content)
                        data = render_head(response, length_line, b"", stamps, transaction_id) + content
                    sent = wire.give(data)
                    if sent < len(data):
                        await wire.send_rest(data, sent)
                else:
                    goes_on = await self._respond(request, head, body, response)
            except (ClientGone, TooSlow, ResponseBroken):
                raise
            except Exception as error:
                status, goes_on = await self._respond_to_failure(request, head, body, error)
            finally:
                if has_log:
                    self._log_access(head.method, head.target, status, sent_before, started_s, transaction_id)

    def _log_access(
        self, method: str, target: bytes, status: int, sent_before: int, started_s: float, transaction_id: str
    ) -> None:
        """Tell the owner of a request that is over."""
        wire = self.wire
        access_log = self._service.access_log
        assert access_log is not None
        used_bytes = wire.received_bytes - len(wire.buffer)
        received_bytes = used_bytes - self._accounted_bytes
        self._accounted_bytes = used_bytes
        duration_s = time.perf_counter() - started_s
        access_log(method, target, status, received_bytes, wire.sent_bytes - sent_before, duration_s, transaction_id)

    def _take_head(self) -> bytes:
        """What came, if it is one whole head; else b"", and what came is in the buffer."""
        wire = self.wire
        try:
            data = wire.take(HEAD_READ_BYTES)
        except BlockingIOError:
            return b""
        if data.find(HEAD_END) == len(data) - 4 > 0 and data[0] != 13:
            return data
        wire.buffer = data
        return b""

    def _body(self, head: RequestHead) -> AnyBody:
        """The body of a request that has one."""
        if head.chunked:
            return ChunkedBody(self.wire, self._service.limits.body_bytes_max, head.expects_continue)
        assert head.content_length is not None
        return LengthBody(self.wire, head.content_length, head.expects_continue)

    async def _read_head(self) -> bytes:
        """One whole head; b"" when the client has closed. Raises `HttpError`, `TooSlow` (idle), `ClientGone`."""
        wire = self.wire
        limits = self._service.limits
        if wire.budget < 0:
            await wire.step_back()
        buffer = wire.buffer
        searched = 0
        wait = Wait.REQUEST if wire.requests else Wait.HEAD
        while True:
            if buffer.startswith(b"\r\n"):
                buffer = _without_empty_lines(buffer)
                searched = 0
            if buffer:
                end = buffer.find(HEAD_END, searched)
                if end >= 0:
                    end += 4
                    wire.buffer = buffer[end:]
                    return buffer[:end] if end < len(buffer) else buffer
                if buffer != b"\r":
                    check_partial(buffer, limits)
                searched = max(0, len(buffer) - 3)
                wait = Wait.HEAD
            wire.buffer = buffer
            try:
                data = await wire.receive(HEAD_READ_BYTES, wait)
            except TooSlow:
                if not buffer:
                    raise
                raise HttpError(408, "the request's head did not arrive in time") from None
            if not data:
                if buffer:
                    raise HttpError(400, "the connection ended within a request's head")
                return b""
            buffer = buffer + data if buffer else data

    async def _respond_to_failure(
        self, request: Request, head: RequestHead, body: AnyBody, error: Exception
    ) -> tuple[int, bool]:
        """Answer a request whose handler, or whose response's beginning, raised: status, and whether to go on."""
        http_error = self._explain(error, request)
        if http_error is None:
            return CLIENT_GONE, False
        response = self._service.render_error(http_error, request.transaction_id)
        return response.status, await self._respond(request, head, body, response)

    def _explain(self, error: Exception, request: Request) -> HttpError | None:
        """What to tell the client of an error; None when it has gone. Logs what is our own fault."""
        cause = _find(error, BodyError)
        if isinstance(cause, ClientDisconnected):
            return None
        counters = self._service.counters
        if cause is not None:
            counters.refused += 1
            status = 408 if isinstance(cause, BodyTimeout) else 413 if isinstance(cause, BodyTooLarge) else 400
            return HttpError(status, str(cause))
        if isinstance(error, HttpError):
            counters.refused += 1
            return error
        counters.failed += 1
        log.error(
            "request failed", transaction_id=request.transaction_id, method=request.method,
            path=request.path.decode("latin-1"), client=request.client, exc_info=error,
        )  # fmt: skip
        return HttpError(500, "internal error; the transaction id tells us where to look")

    async def _refuse(self, error: HttpError) -> None:
        """Answer what never became a request."""
        service = self._service
        wire = self.wire
        service.counters.refused += 1
        transaction_id = service.stamps.transaction_id()
        sent_before = wire.sent_bytes
        started_s = time.perf_counter()
        wire.buffer = b""
        response = service.render_error(error, transaction_id)
        await wire.send(render_last(response, service.stamps, transaction_id))
        if service.access_log is not None:
            self._log_access("-", b"-", response.status, sent_before, started_s, transaction_id)
        await wire.linger(service.limits.linger_bytes_max)

    async def _respond(self, request: Request, head: RequestHead, body: AnyBody, response: Response) -> bool:
        """Send the response and see to the rest of the request. False: the connection is to be closed.

        Raises what the response's stream raises before anything was sent, `HeaderInjection` likewise; and `ResponseBroken`,
        `ClientGone` and `TooSlow` later.
        """
        limits = self._service.limits
        content = response.body
        if isinstance(content, (bytes, memoryview)):
            rendered, keep_alive = self._render(request, head, body, response)
            if not content or not sends_body(head.method, response.status):
                await self.wire.send(rendered)
            elif len(content) <= JOIN_BYTES_MAX:
                await self.wire.send(rendered + content)
            else:
                await self.wire.send_parts(rendered, content)
        else:
            try:
                keep_alive = await self._respond_with_stream(request, head, body, response, content)
            finally:
                await self._close_stream(content, request)
        if keep_alive and (body.finished or await body.drain(limits.drain_bytes_max)):
            return True
        if not body.finished:
            await self.wire.linger(limits.linger_bytes_max)
        return False

    def _render(self, request: Request, head: RequestHead, body: AnyBody, response: Response) -> tuple[bytes, bool]:
        """The response's head, and whether the connection goes on after it."""
        service = self._service
        framing_line = framing(response, head.method, head.is_http11)
        keep_alive = (
            head.keep_alive
            and not response.close
            and not service.stopping
            and body.can_be_drained(service.limits.drain_bytes_max)
            # Without framing, the connection's end is the body's.
            and (framing_line != b"" or not sends_body(head.method, response.status))
        )
        connection_line = b"Connection: close\r\n"
        if keep_alive:
            connection_line = b"" if head.is_http11 else b"Connection: keep-alive\r\n"
        rendered = render_head(response, framing_line, connection_line, service.stamps, request.transaction_id)
        return rendered, keep_alive

    async def _respond_with_stream(
        self, request: Request, head: RequestHead, body: AnyBody, response: Response, stream: ResponseStream
    ) -> bool:
        """A response with a streamed body: True where the connection goes on. The caller closes the stream."""
        wire = self.wire
        if not sends_body(head.method, response.status):
            rendered, keep_alive = self._render(request, head, body, response)
            await wire.send(rendered)
            return keep_alive
        # Before the head: what goes wrong with the first piece can still be told properly. And a handler that sends the
        # request's body back reads it to its end only here.
        first = await stream.read()
        rendered, keep_alive = self._render(request, head, body, response)
        try:
            await self._send_stream(rendered, first, stream, response.length, head.is_http11)
        except (ClientGone, TooSlow):
            raise
        except Exception as error:
            if _find(error, ClientDisconnected) is None:
                self._service.counters.failed += 1
                log.error(
                    "response broke off", transaction_id=request.transaction_id, method=request.method,
                    path=request.path.decode("latin-1"), client=request.client, exc_info=error,
                )  # fmt: skip
            raise ResponseBroken(str(error)) from error
        return keep_alive

    async def _close_stream(self, stream: ResponseStream, request: Request) -> None:
        """Close a response's stream, even while the connection is being cancelled. What that raises changes nothing."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_S):
            try:
                await stream.aclose()
            except Exception as error:
                log.error("a response's stream did not close", transaction_id=request.transaction_id, exc_info=error)

    async def _send_stream(
        self, head: bytes, piece: bytes | memoryview, stream: ResponseStream, length: int | None, is_http11: bool
    ) -> None:
        """The head and a streamed body, from its first piece on. Raises `ResponseBroken` where it is not whole."""
        wire = self.wire
        chunked = length is None and is_http11
        sent_bytes = 0
        while piece:
            sent_bytes += len(piece)
            if length is not None and sent_bytes > length:
                raise ResponseBroken(f"the response's stream is longer than {length} bytes")
            if chunked:
                await wire.send_parts(head, b"%x\r\n" % len(piece), piece, b"\r\n")
            elif head:
                await wire.send_parts(head, piece)
            else:
                await wire.send(piece)
            head = b""
            piece = await stream.read()
        if length is not None and sent_bytes < length:
            raise ResponseBroken(f"the response's stream ended after {sent_bytes} of {length} bytes")
        if chunked:
            await wire.send(head + CHUNKED_END)
        elif head:
            await wire.send(head)


def _find(error: BaseException, kind: type[BodyError]) -> BodyError | None:
    """The error, or the first one of that kind in a group of them."""
    if isinstance(error, kind):
        return error
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            found = _find(inner, kind)
            if found is not None:
                return found
    return None


def _without_empty_lines(buffer: bytes) -> bytes:
    """Without the empty lines that some clients send behind a body (RFC 9112, section 2.2): two are forgiven."""
    for _ in range(2):
        buffer = buffer.removeprefix(b"\r\n")
    if buffer.startswith(b"\r\n"):
        raise HttpError(400, "empty lines where a request should be")
    return buffer
