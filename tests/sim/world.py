"""What a simulated run is made of beside the cluster: one seed, one virtual clock, processes that can die, a trace.

Problem: the same seed must give the same run to the last byte, though the code under test sleeps, draws random numbers, asks
for the time and hands work to threads; and a process must be able to die at any instruction, though all live in one.

Idea: everything random is drawn from generators that are named after what they are for and seeded with the run's seed, so
that one more draw in the workload does not change the faults. trio runs on a MockClock, which jumps whenever nothing can
run; its choice among tasks that could run is seeded as well. What is left of the machine (threads, perf_counter, urandom) is
replaced for the duration of a run, by name, in `deterministic`; a test reads the sources for any that is not on that list.

A process is a tree of tasks with a context variable. To die is this: its doors to disk and network (disk.py, network.py)
do nothing from that moment on and raise `Killed`, and its tasks are cancelled. `Killed` is a BaseException: no handler
takes it for an error of the disk, so what runs is what a kill -9 would have let run.

Rejected: threads that run for real beside the virtual clock (no two runs the same), a process of its own for each service
(the same, and a hundred times slower).
"""

from __future__ import annotations

import math
import os
import random
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from random import Random
from types import SimpleNamespace
from typing import Any, TypeVar

import structlog
import trio
import trio.testing
from xxhash import xxh3_128

import proxy.object_puts
import replicator.repair
import replicator.transfer
import ringstead.rings.spread
import storage_node.checkpoint
import storage_node.control_session
import storage_node.device
import storage_node.group_commit
import storage_node.housekeeping
import storage_node.reader
import storage_node.server
import storage_node.stopwatch
import storage_node.timestamp
import storage_node.view

T = TypeVar("T")
BASE_US = 1_700_000_000_000_000
"""The wall clock when a run begins, microseconds since 1970."""
BASE_S = 1_000.0
"""The monotonic clocks when a run begins."""
TRACE_LINES = 400
THREAD_S = 0.005
"""How long handing something to a thread takes."""
GRID_S = 0.005
"""The clock stands at whole multiples of this, so that what happens at about the same time needs one jump of it."""


def coarse_clock() -> trio.testing.MockClock:
    """A clock that jumps whenever nothing can run, to the first multiple of GRID_S at which something can."""
    clock = trio.testing.MockClock(autojump_threshold=0)

    def jump() -> None:
        wait_s = trio.lowlevel.current_statistics().seconds_to_next_deadline
        if 0 < wait_s < math.inf:
            now_s = clock.current_time()
            # At least a nanosecond: less may be lost in a float, and the clock would stand still for good.
            clock.jump(max(wait_s, 1e-9, math.ceil((now_s + wait_s) / GRID_S - 1e-6) * GRID_S - now_s))

    clock._autojump = jump  # type: ignore[method-assign]  # it can't be subclassed
    return clock


class Killed(BaseException):
    """This process is dead: nothing it does has any effect."""


class Violation(AssertionError):
    """A promise was broken: what the run is there to find."""


class Process:
    """One process of one machine, from its start to its end."""

    def __init__(self, world: World, name: str, machine: Any) -> None:
        self.world = world
        self.name = name
        self.machine = machine
        self.alive = True
        self.scope = trio.CancelScope()
        self.done = trio.Event()
        self.random = world.stream(f"process {name} {world.next_number()}")
        self.busy_s = 0.0
        """Time that calls in place have taken: the clock stands still while code runs."""

    def __repr__(self) -> str:
        return self.name

    def random_bytes(self, count: int) -> bytes:
        """Instead of os.urandom."""
        return self.random.randbytes(count)

    def check_alive(self) -> None:
        """Raises Killed."""
        if not self.alive:
            raise Killed(self.name)


current: ContextVar[Process | None] = ContextVar("process", default=None)


class World:
    """One run."""

    def __init__(self, seed: int, echo: bool = False) -> None:
        self.seed = seed
        self.clock = coarse_clock()
        self.counts: Counter[str] = Counter()
        """Operations and faults, by kind."""
        self.failure: BaseException | None = None
        self.nursery: trio.Nursery
        self._echo = echo
        self._hash = xxh3_128()
        self._lines: deque[str] = deque(maxlen=TRACE_LINES)
        self._number = 0
        self._urandom = self.stream("urandom")

    def stream(self, purpose: str) -> Random:
        """A generator of its own for each purpose."""
        return Random(f"{self.seed} {purpose}")

    def next_number(self) -> int:
        """Counts what was begun."""
        self._number += 1
        return self._number

    # ------------------------------------------------------------------------------------------------------------- time

    @property
    def now_s(self) -> float:
        """Virtual seconds since the run began."""
        return self.clock.current_time()

    def monotonic_ms(self) -> int:
        """What devices and readers take for the monotonic clock."""
        return int((BASE_S + self.now_s) * 1000)

    def perf_counter(self) -> float:
        """The virtual clock and what calls in place have taken."""
        process = current.get()
        return BASE_S + self.now_s + (process.busy_s if process is not None else 0.0)

    # ------------------------------------------------------------------------------------------------------------ trace

    def note(self, text: str) -> None:
        """Add a line to the trace; runs of one seed have the same lines."""
        line = f"{self.now_s:12.4f}  {text}"
        self._hash.update(line.encode())
        self._lines.append(line)
        if self._echo:
            print(line, flush=True)

    @property
    def trace(self) -> list[str]:
        """The last lines."""
        return list(self._lines)

    @property
    def trace_hash(self) -> str:
        """Of all lines."""
        return self._hash.hexdigest()

    def fail(self, error: BaseException) -> None:
        """Something is wrong: end the run."""
        if self.failure is None:
            self.failure = error
            self.nursery.cancel_scope.cancel()

    # --------------------------------------------------------------------------------------------------------- processes

    def start(self, process: Process, body: Callable[[], Awaitable[None]]) -> None:
        """Let a process run until its body ends or it is killed. What it raises while it lives is a fault of the product."""
        self.nursery.start_soon(self._run, process, body)

    async def _run(self, process: Process, body: Callable[[], Awaitable[None]]) -> None:
        current.set(process)
        try:
            with process.scope:
                await body()
        except BaseException as error:
            if isinstance(error, trio.Cancelled):
                raise
            if process.alive and not _only_cancelled(error):
                self.fail(error)
            elif _has_cancelled(error) and self.nursery.cancel_scope.cancel_called:
                raise
        finally:
            process.alive = False
            process.done.set()

    # ------------------------------------------------------------------------------------------------------- determinism

    async def _run_in_thread(
        self, function: Callable[..., T], *arguments: Any, limiter: Any = None, **_options: Any
    ) -> T:
        """Instead of trio.to_thread.run_sync: some time passes, then it is done in one piece."""
        process = current.get()
        wait_s = THREAD_S
        if process is not None:
            wait_s += process.machine.thread_s()
        with trio.CancelScope(shield=True):
            await trio.sleep(wait_s)
        if process is not None:
            process.check_alive()
        return function(*arguments)

    @contextmanager
    def deterministic(self) -> Iterator[None]:
        """Replace what would make two runs differ."""
        perf = self.perf_counter
        a_clock = SimpleNamespace(
            perf_counter=perf,
            monotonic_ns=lambda: self.monotonic_ms() * 1_000_000,
            time_ns=lambda: BASE_US * 1000 + int(self.now_s * 1e9),
            time=lambda: BASE_US / 1e6 + self.now_s,
            monotonic=lambda: BASE_S + self.now_s,
        )
        replaced: list[tuple[Any, str, Any]] = [
            (trio.to_thread, "run_sync", self._run_in_thread),
            (trio._core._run, "_ALLOW_DETERMINISTIC_SCHEDULING", True),
            (os, "urandom", self._urandom.randbytes),
            (storage_node.checkpoint, "Worker", InlineWorker),
            (storage_node.stopwatch, "run_delay_s", _no_delay),
            *((module, name, value) for module, name, value in REPLACED_NUMBERS),
            *((module, "perf_counter", perf) for module in PERF_COUNTERS),
            *((module, "time", a_clock) for module in CLOCKS),
        ]
        before = [(owner, name, getattr(owner, name)) for owner, name, _ in replaced]
        state = random.getstate()
        random.seed(f"{self.seed} global")
        trio._core._run._r.seed(f"{self.seed} trio")
        for owner, name, value in replaced:
            setattr(owner, name, value)
        logging = structlog.get_config()
        structlog.configure(processors=[_drop])
        try:
            yield
        finally:
            structlog.configure(**logging)
            for owner, name, value in before:
                setattr(owner, name, value)
            random.setstate(state)


PERF_COUNTERS = (
    storage_node.control_session,
    storage_node.group_commit,
    storage_node.housekeeping,
    storage_node.stopwatch,
)
"""Modules that import perf_counter by name."""
CLOCKS = (storage_node.device, storage_node.reader, storage_node.timestamp)
"""Modules that import time."""
SMALL_BYTES_MAX = 8 * 1024
REPLACED_NUMBERS = (
    # How often something looks whether there is anything to do: often enough here, and ten times cheaper.
    (storage_node.housekeeping, "IDLE_S", 1.0),
    (storage_node.server, "_WATCH_S", 5.0),
    (ringstead.rings.spread, "ASK_S", 8.0),
    (ringstead.rings.spread, "LOOK_S", 1.0),
    # What is large, and so goes by bulk transfers and into blobs.
    (proxy.object_puts, "SMALL_BYTES_MAX", SMALL_BYTES_MAX),
    (replicator.repair, "SMALL_BYTES_MAX", SMALL_BYTES_MAX),
    (replicator.transfer, "SMALL_BYTES_MAX", SMALL_BYTES_MAX),
    (storage_node.view, "SMALL_BYTES_MAX", SMALL_BYTES_MAX),
)
"""Constants that are smaller or larger in a run."""


def _no_delay() -> float:
    """Instead of storage_node.stopwatch.run_delay_s: here nobody waits for a processor."""
    return 0.0


class InlineWorker:
    """Instead of storage_node.work.Worker: the same, without the thread."""

    def __init__(self, name: str) -> None:
        pass

    def call(self, function: Callable[[], T]) -> T:
        """Here and now."""
        return function()

    def close(self) -> None:
        """Nothing to end."""


def _drop(_logger: object, _name: str, _event: object) -> Any:
    raise structlog.DropEvent


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _only_cancelled(error: BaseException) -> bool:
    return all(isinstance(leaf, (trio.Cancelled, Killed)) for leaf in _leaves(error))


def _has_cancelled(error: BaseException) -> bool:
    return any(isinstance(leaf, trio.Cancelled) for leaf in _leaves(error))


def grid(seconds: float) -> float:
    """A wait, rounded to the grid."""
    return round(seconds / GRID_S) * GRID_S


def wall_clock(world: World, skew_us: Callable[[], int]) -> Callable[[], int]:
    """A machine's wall clock in microseconds."""
    return lambda: BASE_US + int(world.now_s * 1e6) + skew_us()


__all__ = ["BASE_US", "Killed", "Process", "Violation", "World", "current", "grid", "time", "wall_clock"]
