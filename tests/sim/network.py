"""A network in memory: transports, listeners and hubs for the processes of one simulated run.

Fault model. Bytes of one connection arrive in order, after a delay that each send draws anew, so connections overtake each
other. A link (from one machine to another: one way) may be cut: what is under way waits, as TCP retransmits, and arrives
when the link is whole again; after USER_TIMEOUT_S without an acknowledgement the sender's kernel gives up, though the other
end learns nothing of it. Connections may be reset at any moment, and lose what was under way. A process that dies has
its connections closed by its kernel, in order or with a reset; a machine that loses power says nothing, and answers with
resets once it runs again. A machine's connections with itself are never cut.

Cost: deliveries at the same moment share one jump of the clock, so delays lie on a grid.
"""

from __future__ import annotations

import errno
import heapq
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import trio

from storage_node.dial import Opened, Peer, prove
from storage_node.handshake import Purpose
from storage_node.hub import READABLE, TICK_S, WRITABLE, Handler
from tests.sim.world import Process, World, grid

WINDOW_BYTES = 256 * 1024
"""What a sender may have under way, and unread at the other end."""
USER_TIMEOUT_S = 15.0
SYN_RETRY_S = 1.0
HUB_TICK_S = 0.5
"""How often time-outs are looked for; time in ticks goes by the clock all the same."""


class End:
    """One end of a connection: a Transport."""

    __slots__ = (
        "_changed",
        "acknowledged",
        "closed",
        "eof",
        "error",
        "held",
        "hub",
        "inbox",
        "interest",
        "last_arrival_s",
        "net",
        "number",
        "peer",
        "process",
        "stuck_since_s",
        "under_way",
    )

    def __init__(self, net: Network, process: Process) -> None:
        self.net = net
        self.process = process
        self.number = net.new_number(self)
        self.peer: End = self
        self.inbox = bytearray()
        self.eof = False
        self.error: OSError | None = None
        self.closed = False
        self.hub: SimHub | None = None
        self.interest = 0
        self.under_way = 0
        self.last_arrival_s = 0.0
        self.held: deque[bytes | None] = deque()
        """Arrived at a link that is cut; None is the end of the stream."""
        self.stuck_since_s: float | None = None
        self._changed: trio.Event | None = None

    # --------------------------------------------------------------------------------------------------------- Transport

    async def handshake(self) -> None:
        """See Transport."""

    def fileno(self) -> int:
        """See Transport."""
        return self.number

    def try_receive(self, bytes_max: int) -> bytes | None:
        """See Transport."""
        self._check()
        if not self.process.alive:
            return None
        if self.inbox:
            data = bytes(self.inbox[:bytes_max])
            del self.inbox[:bytes_max]
            self.peer.wake()  # there is room in its window
            return data
        if self.error is not None:
            raise self.error
        return b"" if self.eof else None

    def try_receive_into(self, buffers: Sequence[memoryview]) -> int | None:
        """See Transport."""
        data = self.try_receive(sum(map(len, buffers)))
        if not data:
            return None if data is None else 0
        start = 0
        for buffer in buffers:
            part = data[start : start + len(buffer)]
            buffer[: len(part)] = part
            start += len(part)
        return len(data)

    def try_send(self, data: bytes | bytearray | memoryview) -> int:
        """See Transport."""
        self._check()
        if not self.process.alive:
            return len(data)  # the dead may say what they like: so what runs at the end of their tasks comes to its end
        if self.error is not None:
            raise self.error
        count = min(len(data), self.room)
        if count:
            self.net.send(self, bytes(data[:count]))
        return count

    def try_send_vector(self, buffers: Sequence[bytes | bytearray | memoryview]) -> int:
        """See Transport."""
        return self.try_send(b"".join(buffers))

    @property
    def holds_output(self) -> bool:
        """Never."""
        return False

    async def wait_readable(self) -> None:
        """See Transport."""
        await self._wait(lambda: self.readable)

    async def wait_writable(self) -> None:
        """See Transport."""
        await self._wait(lambda: self.writable)

    async def _wait(self, ready: Callable[[], bool]) -> None:
        await trio.lowlevel.checkpoint()
        while not ready():
            if self.closed:
                raise trio.ClosedResourceError("another task closed this connection")
            self._changed = self._changed or trio.Event()
            await self._changed.wait()

    def shut_down(self) -> None:
        """See Transport."""
        if not self.closed and not self.eof:
            self.eof = True
            if self.process.alive:
                self.net.send(self, None)
            self.wake()

    def close(self) -> None:
        """See Transport."""
        if not self.closed:
            self.closed = True
            if self.process.alive:
                self.net.send(self, None)
            self.net.forget(self)
            self.wake()

    # ------------------------------------------------------------------------------------------------------------ inside

    def _check(self) -> None:
        if self.closed:
            raise OSError(errno.EBADF, "closed")

    @property
    def room(self) -> int:
        """Bytes that a send would take now."""
        return max(0, WINDOW_BYTES - self.under_way - len(self.peer.inbox))

    @property
    def readable(self) -> bool:
        """try_receive would give something."""
        return bool(self.inbox) or self.eof or self.error is not None

    @property
    def writable(self) -> bool:
        """try_send would take something."""
        return self.room > 0 or self.error is not None

    def wake(self) -> None:
        """Something has changed."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None
        if self.hub is not None:
            self.hub.mark(self)

    def break_off(self, error: OSError) -> None:
        """The connection is no more, as seen from here."""
        if not self.closed and self.error is None:
            self.error = error
            self.wake()


class Doorway:
    """A Listener."""

    def __init__(self, net: Network, process: Process, address: str) -> None:
        self._net = net
        self.process = process
        self.address = address
        self.queue: deque[End] = deque()
        self.called = trio.Event()

    async def wait(self) -> None:
        """See Listener."""
        await self.called.wait()

    def try_accept(self) -> End | None:
        """See Listener."""
        self.process.check_alive()
        if not self.queue:
            self.called = trio.Event()
            return None
        return self.queue.popleft()

    def close(self) -> None:
        """See Listener."""
        if self._net.doors.get(self.address) is self:
            del self._net.doors[self.address]


class SimHub:
    """Serves the ends of one process: a Hub."""

    def __init__(self, net: Network, process: Process) -> None:
        self._net = net
        self._process = process
        self._handlers: dict[int, Handler] = {}
        self._ready: dict[int, None] = {}
        self._bell = trio.Event()
        self._later: list[Callable[[], None]] = []
        self._on_tick: dict[Callable[[], None], None] = {}
        self._failure: BaseException | None = None
        self.running = False

    @property
    def ticks(self) -> int:
        """See Hub."""
        return int(self._net.world.now_s / TICK_S) + 1

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """See Hub."""
        self.running = True
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._serve)
                nursery.start_soon(self._tick)
                task_status.started()
        finally:
            self.running = False
            if self._process.alive:
                self.run_later()

    def close(self) -> None:
        """See Hub."""
        self._handlers.clear()

    def register(self, fd: int, handler: Handler, events: int = READABLE) -> None:
        """See Hub."""
        self._handlers[fd] = handler
        end = self._net.ends[fd]
        end.hub, end.interest = self, events
        self.mark(end)

    def change(self, fd: int, events: int) -> None:
        """See Hub."""
        end = self._net.ends.get(fd)
        if end is not None:  # else its process is dead
            end.interest = events
            self.mark(end)

    def unregister(self, fd: int) -> None:
        """See Hub."""
        del self._handlers[fd]
        end = self._net.ends.get(fd)
        if end is not None:
            end.hub = None

    def call_later(self, function: Callable[[], None]) -> None:
        """See Hub."""
        if not self._later:
            self._net.later.append(self)
        self._later.append(function)

    def add_tick(self, function: Callable[[], None]) -> None:
        """See Hub."""
        self._on_tick[function] = None

    def remove_tick(self, function: Callable[[], None]) -> None:
        """See Hub."""
        self._on_tick.pop(function, None)

    def run_later(self) -> None:
        """What was asked for, at the end of a turn."""
        later, self._later = self._later, []
        if not self._process.alive:
            return
        try:
            for function in later:
                function()
        except BaseException as error:
            self._failure = error
            self._bell.set()

    def mark(self, end: End) -> None:
        """Look at this end soon, if it is one that somebody waits for."""
        if end.number in self._handlers and self._events(end):
            self._ready[end.number] = None
            self._bell.set()

    @staticmethod
    def _events(end: End) -> int:
        events = 0
        if end.interest & READABLE and end.readable:
            events |= READABLE
        if end.interest & WRITABLE and end.writable:
            events |= WRITABLE
        if end.error is not None:
            events |= READABLE
        return events

    async def _serve(self) -> None:
        while True:
            await self._bell.wait()
            self._bell = trio.Event()
            if self._failure is not None:
                raise self._failure
            ready, self._ready = self._ready, {}
            for number in ready:
                handler, end = self._handlers.get(number), self._net.ends.get(number)
                if handler is None or end is None:
                    continue
                events = self._events(end)
                if events:
                    handler.on_ready(events)
                    self.mark(end)

    async def _tick(self) -> None:
        while True:
            now_s = trio.current_time()
            await trio.sleep_until((now_s // HUB_TICK_S + 1) * HUB_TICK_S)
            for function in list(self._on_tick):
                function()


class Network(trio.abc.Instrument):
    """All connections of a run. `machine_of` values have `.up` and `.name`."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.ends: dict[int, End] = {}
        self.doors: dict[str, Doorway] = {}
        self.later: list[SimHub] = []
        self.cut: set[tuple[str, str]] = set()
        """Links (from, to) that carry nothing."""
        self.delay_s_max = 0.02
        self.slow: dict[str, float] = {}
        """Machines with a delay of their own."""
        self._random = world.stream("network")
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._sequence = 0
        self._next_number = 0
        self._bell = trio.Event()

    def new_number(self, end: End) -> int:
        """A descriptor."""
        self._next_number += 1
        self.ends[self._next_number] = end
        return self._next_number

    def forget(self, end: End) -> None:
        """It is closed: its descriptor means nothing."""
        self.ends.pop(end.number, None)

    # ----------------------------------------------------------------------------------------------------------- running

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Deliver until cancelled."""
        trio.lowlevel.add_instrument(self)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._give_up)
                task_status.started()
                await self._deliver_for_ever()
        finally:
            trio.lowlevel.remove_instrument(self)

    async def _deliver_for_ever(self) -> None:
        while True:
            now_s = trio.current_time()
            while self._events and self._events[0][0] <= now_s:
                _, _, function, arguments = heapq.heappop(self._events)
                function(*arguments)
            self._bell = trio.Event()
            next_s = self._events[0][0] if self._events else float("inf")
            with trio.move_on_at(next_s):
                await self._bell.wait()

    def before_io_wait(self, timeout: float) -> None:
        """trio's hook at the end of each turn: what hubs were asked to call then."""
        while self.later:
            later, self.later = self.later, []
            for hub in later:
                hub.run_later()

    def _at(self, when_s: float, function: Callable[..., None], *arguments: Any) -> None:
        self._sequence += 1
        heapq.heappush(self._events, (when_s, self._sequence, function, arguments))
        if self._events[0][0] == when_s:
            self._bell.set()

    def _delay_s(self, source: Any, target: Any) -> float:
        if source is target:
            return 0.0
        slow_s = self.slow.get(source.name, 0.0) + self.slow.get(target.name, 0.0)
        return grid(self._random.random() * (self.delay_s_max + slow_s))

    def is_cut(self, source: Any, target: Any) -> bool:
        """Whether nothing passes from one machine to the other."""
        return source is not target and (source.name, target.name) in self.cut

    # -------------------------------------------------------------------------------------------------------- connections

    def hub(self, process: Process) -> SimHub:
        """A hub for one process."""
        return SimHub(self, process)

    def listen(self, process: Process, address: str) -> Doorway:
        """Raises OSError when somebody listens there."""
        if address in self.doors:
            raise OSError(errno.EADDRINUSE, address)
        self.doors[address] = Doorway(self, process, address)
        return self.doors[address]

    async def connect(self, process: Process, address: str, machine: Any) -> End:
        """Connect to what listens at the address, which is `machine`'s. Raises OSError; cancel it to limit its time."""
        here = process.machine
        while True:
            await trio.sleep(self._delay_s(here, machine) + self._delay_s(machine, here))
            process.check_alive()
            if machine.up and not self.is_cut(here, machine) and not self.is_cut(machine, here):
                break
            await trio.sleep(SYN_RETRY_S)
        door = self.doors.get(address)
        if door is None:
            raise ConnectionRefusedError(errno.ECONNREFUSED, f"nobody listens at {address}")
        ours, theirs = End(self, process), End(self, door.process)
        ours.peer, theirs.peer = theirs, ours
        door.queue.append(theirs)
        door.called.set()
        return ours

    def dialler(self, process: Process, machine_at: Callable[[str], Any]) -> Callable[[Peer, Purpose], Any]:
        """`dial` for the clients of a process."""

        async def dial(peer: Peer, purpose: Purpose) -> Opened:
            end = await self.connect(process, peer.address, machine_at(peer.address))
            return await prove(end, peer, purpose)

        return dial

    def send(self, end: End, data: bytes | None) -> None:
        """Put bytes on their way; None is the end of the stream."""
        arrival_s = self.world.now_s + self._delay_s(end.process.machine, end.peer.process.machine)
        end.last_arrival_s = max(end.last_arrival_s, arrival_s)
        if data is not None:
            end.under_way += len(data)
        self._at(end.last_arrival_s, self._arrive, end, data)

    def _arrive(self, source: End, data: bytes | None) -> None:
        if source.held or self.is_cut(source.process.machine, source.peer.process.machine):
            source.held.append(data)
            self._stick(source)
            return
        self._hand_over(source, data)

    def _hand_over(self, source: End, data: bytes | None) -> None:
        target = source.peer
        if data is not None:
            source.under_way -= len(data)
        machine = target.process.machine
        if not machine.up or (target.process.alive is False and not target.closed):
            if machine.up and not self.is_cut(machine, source.process.machine):
                source.break_off(ConnectionResetError(errno.ECONNRESET, "reset by peer"))
            else:
                self._stick(source)
            return
        if target.closed or target.error is not None:
            if data is not None:
                source.break_off(ConnectionResetError(errno.ECONNRESET, "reset by peer"))
            return
        if data is None:
            target.eof = True
        else:
            target.inbox += data
            if self.is_cut(machine, source.process.machine):
                self._stick(source)  # it has arrived, but the sender does not hear of it
        target.wake()

    def _stick(self, source: End) -> None:
        if source.stuck_since_s is None:
            source.stuck_since_s = self.world.now_s

    async def _give_up(self) -> None:
        """Break off connections whose other end has acknowledged nothing for too long."""
        while True:
            await trio.sleep(1.0)
            now_s = trio.current_time()
            for end in list(self.ends.values()):
                since_s = end.stuck_since_s
                if since_s is not None and now_s - since_s >= USER_TIMEOUT_S:
                    end.held.clear()
                    end.stuck_since_s = None
                    end.break_off(TimeoutError(errno.ETIMEDOUT, "timed out"))

    # ------------------------------------------------------------------------------------------------------------ faults

    def cut_link(self, source: Any, target: Any) -> None:
        """Let nothing pass from one machine to another."""
        self.cut.add((source.name, target.name))

    def mend(self) -> None:
        """All links are whole; what was held goes on."""
        self.cut.clear()
        self.slow.clear()
        self.look_again()

    def look_again(self) -> None:
        """After links were mended or machines came up: try again what is stuck."""
        for end in list(self.ends.values()):
            machine, other = end.process.machine, end.peer.process.machine
            if end.stuck_since_s is None or self.is_cut(machine, other) or self.is_cut(other, machine):
                continue
            if not other.up:
                continue
            end.stuck_since_s = None
            if not end.peer.process.alive and not end.peer.closed:
                end.held.clear()
                end.break_off(ConnectionResetError(errno.ECONNRESET, "reset by peer"))
                continue
            held, end.held = end.held, deque()
            for data in held:
                arrival_s = self.world.now_s + self._delay_s(machine, other)
                end.last_arrival_s = max(end.last_arrival_s, arrival_s)
                self._at(end.last_arrival_s, self._arrive, end, data)

    def reset_some(self, count: int) -> int:
        """Reset connections between machines at random; what is under way is lost."""
        candidates = [end for end in self.ends.values() if end.process.machine is not end.peer.process.machine]
        chosen = self._random.sample(candidates, min(count, len(candidates)))
        for end in chosen:
            for side in (end, end.peer):
                side.inbox.clear()
                side.held.clear()
                side.break_off(ConnectionResetError(errno.ECONNRESET, "reset"))
        return len(chosen)

    def end_of(self, process: Process, *, silent: bool) -> None:
        """A process has died: its kernel closes what it had open, unless power has gone too."""
        for door in [door for door in self.doors.values() if door.process is process]:
            door.close()
        for end in [end for end in self.ends.values() if end.process is process]:
            self.forget(end)
            end.hub = None
            if silent:
                if end.peer.under_way or end.peer.held:
                    self._stick(end.peer)
                continue
            end.closed = True
            if end.inbox or self._random.random() < 0.5:
                self._at(self.world.now_s, self._reset_from, end)
            else:
                self.send(end, None)

    def _reset_from(self, end: End) -> None:
        if self.is_cut(end.process.machine, end.peer.process.machine):
            return
        end.peer.break_off(ConnectionResetError(errno.ECONNRESET, "reset by peer"))
