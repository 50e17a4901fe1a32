"""A control connection: frames in both directions over one socket, served by the hub. Both ends use it.

Problem: messages are queued by many, one at a time, and must leave together; a peer that does not take what it is sent must
not fill our memory; a broken connection must be noticed once, by one.

Idea: `queue` collects packed messages; the first of a turn asks the hub for a call at the turn's end, which sends all of
them with one system call. What the socket does not take waits for it to become writable, and is counted in
`unsent_bytes`, by which the owner decides to stop reading or to take no more.

Invariants: `on_payload` gets verified payloads only, in order, and none after `on_lost`; `on_lost` is called exactly once
unless the owner closed the connection itself, and never from within `queue` or `flush`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from storage_node.frames import FrameReader, Outbox, ProtocolError
from storage_node.hub import READABLE, WRITABLE, Hub
from storage_node.transport import Transport

RECEIVE_BYTES = 256 * 1024
"""Most that one system call reads: a batch of thousands of answers."""


class Connection:
    """See the module. Constructed after the handshake, `start()` begins to serve it."""

    __slots__ = (
        "_backlog",
        "_backlog_bytes",
        "_events",
        "_fd",
        "_flush_asked",
        "_hub",
        "_on_drained",
        "_on_lost",
        "_on_payload",
        "_outbox",
        "_reader",
        "_reading",
        "_receive_bytes",
        "_transport",
        "closed",
        "received_bytes",
        "sent_bytes",
    )

    def __init__(
        self,
        hub: Hub,
        transport: Transport,
        payload_bytes_max: int,
        on_payload: Callable[[memoryview], None],
        on_lost: Callable[[Exception], None],
        on_drained: Callable[[], None] = lambda: None,
        receive_bytes: int = RECEIVE_BYTES,
    ) -> None:
        """`on_payload` may raise ProtocolError: the connection is then closed and `on_lost` gets that error.

        `on_drained` is called when the peer has taken all that it had not taken at once. `receive_bytes` is the most that
        is read before others get their turn.
        """
        self._hub = hub
        self._transport = transport
        self._reader = FrameReader(payload_bytes_max)
        self._outbox = Outbox()
        self._backlog: deque[memoryview] = deque()
        self._backlog_bytes = 0
        self._on_payload = on_payload
        self._on_lost = on_lost
        self._on_drained = on_drained
        self._events = READABLE
        self._flush_asked = False
        self._receive_bytes = receive_bytes
        self._reading = True
        self._fd = transport.fileno()
        self.closed = False
        self.received_bytes = 0
        """Since the start: changes when the peer is alive."""
        self.sent_bytes = 0
        """Since the start: changes when the peer takes what it is sent."""

    def start(self) -> None:
        """Begin to serve."""
        self._hub.register(self._fd, self)
        self.on_ready(READABLE)  # TLS may hold something already, of which epoll knows nothing

    @property
    def unsent_bytes(self) -> int:
        """What the peer has not taken, and what is queued for it."""
        return self._outbox.waiting_bytes + self._backlog_bytes

    def queue(self, message: bytes) -> None:
        """Send a packed message at the end of this turn."""
        self._outbox.add(message)
        if not self._flush_asked:
            self._flush_asked = True
            self._hub.call_later(self.flush)

    def flush(self) -> None:
        """Send what is queued now, as far as the socket takes it."""
        self._flush_asked = False
        if self.closed:
            return
        data = self._outbox.take()
        if not data:
            return
        if not self._backlog:
            try:
                count = self._transport.try_send(data)
            except OSError:
                self._transport.shut_down()  # epoll then reports it as readable, and on_ready finds it broken
                return
            self.sent_bytes += count
            if count == len(data) and not self._transport.holds_output:
                if not self._reading:
                    self._on_drained()
                return
            self._backlog.append(memoryview(data)[count:])
            self._backlog_bytes += len(data) - count
        else:
            self._backlog.append(memoryview(data))
            self._backlog_bytes += len(data)
        self._wait_for(self._events | WRITABLE)

    def pause_reading(self) -> None:
        """Read no more for now: what the peer sends piles up at the peer."""
        self._reading = False
        self._wait_for(self._events & ~READABLE)

    def resume_reading(self) -> None:
        """Read again."""
        self._reading = True
        self._wait_for(self._events | READABLE)

    @property
    def reading(self) -> bool:
        """False between pause_reading and resume_reading."""
        return self._reading

    def close(self) -> None:
        """Send what the socket takes at once, then close. Idempotent; `on_lost` is not called."""
        if not self.closed:
            self.flush()
            self._shut()

    def on_ready(self, events: int) -> None:
        """The hub's call."""
        if events & WRITABLE:
            self._send_backlog()
        if events & READABLE and not self.closed:
            try:
                data = self._transport.try_receive(self._receive_bytes)
            except OSError as error:
                self._lost(error)
                return
            if data:
                self._feed(data)
            elif data is not None:
                self._lost(ConnectionResetError("the peer closed the connection"))

    def _feed(self, data: bytes) -> None:
        self.received_bytes += len(data)
        try:
            for payload in self._reader.feed(data):
                self._on_payload(payload)
                if self.closed:
                    return
        except ProtocolError as error:
            self._lost(error)

    def _send_backlog(self) -> None:
        try:
            while self._backlog:
                data = self._backlog[0]
                count = self._transport.try_send(data)
                self.sent_bytes += count
                self._backlog_bytes -= count
                if count < len(data):
                    self._backlog[0] = data[count:]
                    return
                self._backlog.popleft()
            if self._transport.holds_output:
                self._transport.try_send(b"")
        except OSError as error:
            self._lost(error)
            return
        if not self._transport.holds_output:
            self._wait_for(self._events & ~WRITABLE)
            self._on_drained()

    def _wait_for(self, events: int) -> None:
        if events != self._events and not self.closed:
            self._events = events
            self._hub.change(self._fd, events)

    def _lost(self, error: Exception) -> None:
        if not self.closed:
            self._shut()
            self._on_lost(error)

    def _shut(self) -> None:
        self.closed = True
        self._hub.unregister(self._fd)
        self._transport.close()
        self._backlog.clear()
        self._backlog_bytes = 0
