"""Background work of a device: how a checkpoint or a compaction is done in small steps beside the requests.

Problem: moving 50,000 entries or 64 MiB takes a second, and requests want their answers in a millisecond; LMDB ties a write
transaction to the thread that began it, and its commit waits for the disk.

Idea: a piece of work is a generator of `Progress`; each step is about a millisecond in the device's thread. Where a
transaction needs a thread of its own, a `Worker` is that thread: the device's thread hands it a slice and *waits*, so
the two never fight for the interpreter's lock (a thread that runs beside a busy event loop gets it every 5 ms); only the
commit runs by itself, in C and without the lock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from enum import Enum
from queue import SimpleQueue
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Enum):
    """What a step of background work asks for next."""

    MORE = "more"
    """Call step() again when there is time."""
    BLOCK = "block"
    """Call block() in any thread (it waits for the disk, not for the interpreter), then step() again."""
    WAIT = "wait"
    """Call step() again after the next publish() (see Device.wants_commit), or in a few milliseconds."""
    DONE = "done"


class Work(Protocol):
    """A piece of background work: a checkpoint, a compaction, clearing away. step() takes about a millisecond."""

    @property
    def name(self) -> str: ...

    def step(self) -> Progress:
        """In the device's thread."""
        ...

    def block(self) -> None:
        """In any thread."""
        ...

    def cancel(self) -> None:
        """Leave off, undoing what is half done. In the device's thread, not while block() runs."""
        ...


Steps = Generator[Progress, None, None]


class SteppedWork:
    """Work as a generator: it yields what it asks for; before a BLOCK it has put into `_blocking` what shall block."""

    name = "work"

    def __init__(self) -> None:
        self._steps = self._run()
        self._blocking: Callable[[], object] | None = None
        self.done = False

    def _run(self) -> Steps:
        raise NotImplementedError

    def step(self) -> Progress:
        """See Work."""
        progress = next(self._steps, Progress.DONE)
        self.done = progress is Progress.DONE
        return progress

    def block(self) -> None:
        """See Work."""
        blocking, self._blocking = self._blocking, None
        if blocking is not None:
            blocking()

    def cancel(self) -> None:
        """See Work."""
        self._steps.close()
        self.done = True


def drive(work: Work) -> None:
    """Do a piece of work that never waits for a publish, here and now."""
    while (progress := work.step()) is not Progress.DONE:
        assert progress is not Progress.WAIT
        if progress is Progress.BLOCK:
            work.block()


class Worker:
    """One thread that does as it is told, one thing after the other."""

    def __init__(self, name: str) -> None:
        self._orders: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._obey, name=name, daemon=True)
        self._thread.start()

    def _obey(self) -> None:
        while (order := self._orders.get()) is not None:
            order()

    def call(self, function: Callable[[], T]) -> T:
        """Run `function` in the worker's thread, wait for it, and return or raise what it does."""
        results: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()

        def order() -> None:
            try:
                results.put((function(), None))
            except BaseException as error:  # carried over to the caller, whatever it is
                results.put((None, error))

        self._orders.put(order)
        result, error = results.get()
        if error is not None:
            raise error
        return result  # type: ignore[return-value]  # what the function returned, None included

    def close(self) -> None:
        """End the thread. Idempotent."""
        self._orders.put(None)
        self._thread.join()
