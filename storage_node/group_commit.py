"""One device's writes, committed in groups: all that arrives while one fdatasync runs goes out with the next.

Problem: an fdatasync takes from 100 us (a good SSD) to 20 ms (a disk), whether it covers one record or a thousand.

Idea: writes queue up with whom to answer. One task takes all that wait, has the device decide and append them, syncs once,
publishes, and answers them in order. Under load the groups grow by themselves; without load a write waits for nobody.

Where the sync runs: in place while syncs are quick. A thread costs 30 to 170 us of CPU for each hop, and the interpreter's
lock must be won back; but a slow sync in place would keep every reader of the process waiting. `InlinePolicy` decides by
what the last ones took, not counting how long they waited for a processor (stopwatch.py).

Rejected: a timer that holds writes back to make groups larger (adds its delay to every write, and under load groups form
anyway); deciding the next group while one syncs (saves little: deciding is a tenth of a sync); committing right behind the
sockets that were ready, in the task that serves them (measured: a lone writer waits as long as before, and with 32 the
groups are so small that a DELETE takes 11 % more processor time: the turn of the event loop in between lets them grow).

Invariants: every accepted write is answered exactly once, in the order in which they were decided, after its group's sync;
nothing is accepted after `stop()`; what was accepted before is committed before `run()` returns, cancelled or not.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from time import perf_counter
from typing import Protocol

import trio

from storage_node.device import Batch, Device, DeviceWrite, PutBlob
from storage_node.operations import Answer, Locked, LockObject, PutObject, PutRow, Status, Written
from storage_node.stopwatch import Stopwatch
from storage_node.wire_settings import ServerSettings

_WEIGHT = 0.2
"""Of the latest duration in the moving average."""
_AT_ONCE = 10.0
"""One wait this many times over the limit is enough to move the next into a thread."""


class InlinePolicy:
    """Whether to make a blocking call in place, or in a thread: by how long the last ones took."""

    __slots__ = ("_inline_s_max", "average_s", "inline")

    def __init__(self, inline_s_max: float) -> None:
        self._inline_s_max = inline_s_max
        self.average_s = 0.0
        self.inline = inline_s_max > 0
        """What to do next."""

    def record(self, duration_s: float) -> None:
        """Take note of how long a call was blocked, wherever it ran."""
        self.average_s += _WEIGHT * (duration_s - self.average_s)
        if self.inline:
            self.inline = self.average_s < self._inline_s_max and duration_s < _AT_ONCE * self._inline_s_max
        else:
            self.inline = self.average_s < self._inline_s_max / 2


class Doorbell:
    """Wakes one waiting task, once for any number of rings since it last waited."""

    __slots__ = ("_rung", "_task")

    def __init__(self) -> None:
        self._rung = False
        self._task: trio.lowlevel.Task | None = None

    def ring(self) -> None:
        """Wake the task, or let its next wait() return at once."""
        task = self._task
        if task is None:
            self._rung = True
        else:
            self._task = None
            trio.lowlevel.reschedule(task)

    async def wait(self) -> None:
        """Until the next ring; a checkpoint in any case."""
        if self._rung:
            self._rung = False
            await trio.lowlevel.checkpoint()
            return

        def abort(_: Callable[[], None]) -> trio.lowlevel.Abort:
            self._task = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)


class Sink(Protocol):
    """Who is to be answered."""

    def answer(self, token: int, answer: Answer) -> None:
        """Take the answer to what was submitted with `token`. Must not block nor raise."""
        ...


class GroupCommit:
    """The queue of one device's writes, and the task that commits them."""

    def __init__(self, device: Device, settings: ServerSettings, inline_s_max: float | None = None) -> None:
        self._device = device
        self._settings = settings
        self._operations: list[DeviceWrite] = []
        self._sinks: list[tuple[Sink, int]] = []
        self._under_way: tuple[list[DeviceWrite], list[tuple[Sink, int]]] = [], []
        """Of the group that is being committed."""
        self._pending_bytes = 0
        self._bell = Doorbell()
        self._published = trio.lowlevel.ParkingLot()
        self._stopping = False
        self._thread_since_s = 0.0
        self._limiter = trio.CapacityLimiter(1)
        self.policy = InlinePolicy(settings.inline_s_max if inline_s_max is None else inline_s_max)
        self.group_count = 0
        """Groups committed."""
        self.operation_count = 0
        """Writes in them."""

    @property
    def pending(self) -> int:
        """Writes that wait for the next group."""
        return len(self._operations)

    def submit(self, operation: DeviceWrite, sink: Sink, token: int) -> bool:
        """Queue a write; its answer goes to `sink` with `token`. False: not taken, too much waits or the disk hangs."""
        operations = self._operations
        size_bytes = 0 if type(operation) is PutRow else _data_bytes(operation)
        if (
            len(operations) >= self._settings.pending_operations_max
            or self._pending_bytes + size_bytes > self._settings.pending_bytes_max
            or self._stopping
            or (self._thread_since_s and perf_counter() - self._thread_since_s > self._settings.stall_s_max)
        ):
            return False
        if not operations:
            self._bell.ring()
        operations.append(operation)
        self._sinks.append((sink, token))
        self._pending_bytes += size_bytes
        return True

    def nudge(self) -> None:
        """Commit even if nothing is queued: the device's background work has changes of its own."""
        self._bell.ring()

    def stop(self) -> None:
        """Take nothing more, and let run() return when all that was taken is committed."""
        self._stopping = True
        self._bell.ring()

    async def wait_published(self) -> None:
        """Until the next group is published."""
        await self._published.park()

    async def run(self) -> None:
        """Commit until stop(). Cancellation does not end it: whoever starts it calls stop()."""
        with trio.CancelScope(shield=True):
            try:
                while True:
                    if self._operations or self._device.wants_commit:
                        await self._commit()
                    elif self._stopping:
                        return
                    else:
                        await self._bell.wait()
            except BaseException:
                self._give_up()
                raise

    def _give_up(self) -> None:
        """Committing has failed for good, by a fault of ours: who waits must not wait for ever, or the server never ends."""
        self._stopping = True
        operations, sinks = self._under_way
        waiting = zip([*operations, *self._operations], [*sinks, *self._sinks], strict=True)
        self._operations, self._sinks, self._under_way = [], [], ([], [])
        for operation, (sink, token) in waiting:
            kind = Locked if type(operation) is LockObject else Written
            sink.answer(token, kind(Status.UNREACHABLE, detail="this device's commits have failed"))

    async def _commit(self) -> None:
        device = self._device
        operations, sinks = self._take()
        self._under_way = operations, sinks
        batch = device.decide(operations)
        if batch.needs_sync:
            if self.policy.inline:
                watch = Stopwatch()
                device.sync(batch)
                self.policy.record(watch.blocked_s())
            else:
                await self._sync_in_thread(batch)
        answers = device.publish(batch)
        self.group_count += 1
        self.operation_count += len(operations)
        self._under_way = [], []
        self._answer(sinks, answers)
        self._published.unpark_all()
        if self._operations:  # more than one group's worth waited: let the readers have their turn
            await trio.lowlevel.checkpoint()

    async def _sync_in_thread(self, batch: Batch) -> None:
        def sync() -> float:
            watch = Stopwatch()
            self._device.sync(batch)
            return watch.blocked_s()

        self._thread_since_s = perf_counter()
        try:
            self.policy.record(await trio.to_thread.run_sync(sync, limiter=self._limiter))
        finally:
            self._thread_since_s = 0.0

    @staticmethod
    def _answer(sinks: list[tuple[Sink, int]], answers: list[Written | Locked]) -> None:
        if len(sinks) != len(answers):
            raise AssertionError(f"{len(answers)} answers to {len(sinks)} writes")
        for (sink, token), answer in zip(sinks, answers, strict=True):
            sink.answer(token, answer)

    def _take(self) -> tuple[list[DeviceWrite], list[tuple[Sink, int]]]:
        """The next group."""
        operations, sinks = self._operations, self._sinks
        count = len(operations)
        if count > self._settings.batch_operations_max or self._pending_bytes > self._settings.batch_bytes_max:
            count = self._count_within_limits()
        self._operations, self._sinks = operations[count:], sinks[count:]
        if not self._operations:
            self._pending_bytes = 0
            return operations, sinks
        taken = operations[:count]
        self._pending_bytes -= sum(_data_bytes(operation) for operation in taken)
        return taken, sinks[:count]

    def _count_within_limits(self) -> int:
        """How many from the front make one group: at least one."""
        total_bytes = 0
        count = 0
        for operation in islice(self._operations, self._settings.batch_operations_max):
            total_bytes += _data_bytes(operation)
            if count and total_bytes > self._settings.batch_bytes_max:
                break
            count += 1
        return count


def _data_bytes(operation: DeviceWrite) -> int:
    """What it adds to the log beyond its few hundred bytes."""
    if type(operation) is PutObject:
        return len(operation.data)
    if type(operation) is PutBlob and operation.writer.in_memory:
        return operation.writer.size_bytes
    return 0
