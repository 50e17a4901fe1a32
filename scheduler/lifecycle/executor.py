"""The executor: takes tasks up, performs their stages, stores what comes next. All thinking is in the machine.

Problem: a controller can stop at any instruction, and come back to life after another one has taken its work.

Idea: between two stages nothing is kept in memory. A stage is: perform the action, ask `advance` what comes after,
store that and the changes of records in one transaction under the task's fence. While an action runs its lease is
renewed; when that does not work in time the action is cancelled before the lease runs out, so that two controllers are
never at it at once, short of one that the kernel stops for longer than a lease; for that case pools refuse a build that
a later one has overtaken (`Superseded`), and the reconciler finds the rest.

Invariants: an action starts only with a lease of at least `MARGIN` of its length ahead; nothing is stored without the fence.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog
import trio
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from scheduler.lifecycle import tasks
from scheduler.lifecycle.actions import ACTIONS, note
from scheduler.lifecycle.machine import MACHINES, Event, advance, cancel
from scheduler.lifecycle.tools import Job, LostLease, Outcome, Tools, outcome_of
from scheduler.records.types import TaskRecord, TaskState

log = structlog.get_logger("scheduler.lifecycle")

MARGIN: Final = 0.25
"""An action is cancelled when this share of its lease is left."""


@dataclass(frozen=True)
class ExecutorSettings:
    """How a controller works.

    lease_s        how long a task is held without news; what a dead controller's work waits for
    poll_s         how often the table is looked at when nothing calls
    tasks_max      how many tasks are worked on at a time
    """

    lease_s: float = 20.0
    poll_s: float = 0.5
    tasks_max: int = 64


@dataclass(frozen=True)
class ExecutorStatistics:
    """What a controller has done.

    working     tasks at this moment
    performed   actions since it started
    lost        tasks that another controller took over
    defects     actions that failed in a way nobody foresaw
    """

    working: int
    performed: int
    lost: int
    defects: int


class Executor:
    """One controller's hands. `owner` is its name, by which it holds leases."""

    def __init__(self, tools: Tools, owner: str, settings: ExecutorSettings | None = None) -> None:
        self._tools = tools
        self._owner = owner
        self._settings = settings or ExecutorSettings()
        self._wake = trio.Event()
        self._working = 0
        self._performed = 0
        self._lost = 0
        self._defects = 0

    def statistics(self) -> ExecutorStatistics:
        """As of now."""
        return ExecutorStatistics(self._working, self._performed, self._lost, self._defects)

    def wake(self) -> None:
        """There is something new to do."""
        self._wake.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work until cancelled."""
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                self._wake = trio.Event()
                while self._working < self._settings.tasks_max and (task := await self._take()) is not None:
                    self._working += 1
                    nursery.start_soon(self._work, task)
                with trio.move_on_after(self._settings.poll_s):
                    await self._wake.wait()

    async def run_until_idle(self) -> None:
        """Work until there is nothing that can be done now; for tests."""
        while (task := await self._take()) is not None:
            self._working += 1
            await self._work(task)

    async def _take(self) -> TaskRecord | None:
        def take(connection: Connection) -> TaskRecord | None:
            now_s, lease_now_s = self._tools.now_s(), self._lease_now(connection)
            return tasks.take(connection, self._owner, now_s, self._settings.lease_s, lease_now_s=lease_now_s)

        try:
            return await self._tools.database.transact(take)
        except DBAPIError as error:
            log.warning("the database cannot be used now", reason=str(error.orig))
            await trio.sleep(self._settings.poll_s)
            return None

    async def _work(self, task: TaskRecord) -> None:
        """Stage after stage, until the task is closed, waits, or is somebody else's."""
        try:
            current: TaskRecord | None = task
            while current is not None and current.state is TaskState.OPEN:
                current = await self._stage(current)
        except LostLease as error:
            self._lost += 1
            log.warning("another controller has taken the task over", task=task.id, reason=str(error))
        except DBAPIError as error:
            log.warning("the database cannot be used now", task=task.id, reason=str(error.orig))
        finally:
            self._working -= 1
            self._wake.set()

    async def _stage(self, task: TaskRecord) -> TaskRecord | None:
        """Perform one stage; the task as it is to be carried on at once, or None."""
        if task.cancelled:
            await self._store(task, cancel(task, self._tools.now_s()), Outcome())
            return None
        outcome = await self._perform(task)
        self._performed += 1
        if outcome is None:
            await self._store(task, cancel(task, self._tools.now_s()), Outcome())
            return None
        now_s = self._tools.now_s()
        after = advance(tasks.with_data(task, outcome.data), outcome.event, outcome.reason, now_s)
        if outcome.event not in (Event.OK, Event.ARRIVED):
            log.info(
                "stage did not work out",
                task=task.id,
                kind=task.kind,
                stage=task.stage,
                subject=task.subject,
                outcome=outcome.event.value,
                reason=outcome.reason,
                attempt=task.attempt,
            )
        return await self._store(task, after, outcome)

    async def _store(self, held: TaskRecord, after: TaskRecord, outcome: Outcome) -> TaskRecord | None:
        now_s = self._tools.now_s()
        go_on = after.state is TaskState.OPEN and after.not_before_s <= now_s

        def store(connection: Connection) -> None:
            until_s = self._lease_now(connection) + self._settings.lease_s if go_on else 0.0
            if not tasks.carry_on(connection, held, after, keep_until_s=until_s):
                raise LostLease(f"task {held.id} has another fence than {held.fence}")
            for change in outcome.changes:
                change(connection)
            note(connection, after)

        await self._tools.database.transact(store)
        if after.state is not TaskState.OPEN:
            log.info("task ended", task=after.id, kind=after.kind, subject=after.subject, state=after.state.value)
        return after if go_on else None

    def _lease_now(self, connection: Connection) -> float:
        clock = self._tools.lease_clock
        return self._tools.now_s() if clock is None else clock(connection)

    async def _perform(self, task: TaskRecord) -> Outcome | None:
        """Run the action under a lease that is renewed. None when somebody cancelled the task. Raises LostLease."""
        progress = _Progress()
        ended: list[Outcome | LostLease] = []
        watch = _Watch()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_lease, task, progress, nursery.cancel_scope, watch)
            ended.append(await self._act(Job(self._tools, task, progress)))
            nursery.cancel_scope.cancel()
        if ended:
            if isinstance(ended[0], LostLease):
                raise ended[0]
            return ended[0]
        if watch.cancelled:
            return None
        raise LostLease(f"the lease of task {task.id} ran out")

    async def _act(self, job: Job) -> Outcome | LostLease:
        """Perform the action. A failure that nobody foresaw is a defect: logged, and tried again like a passing one, since
        undoing is always right and giving up never is."""
        try:
            return await ACTIONS[MACHINES[job.task.kind].stages[job.task.stage].action](job)
        except LostLease as error:
            return error
        except Exception as error:
            outcome = outcome_of(error)
            if outcome is None:
                self._defects += 1
                log.exception("an action failed unforeseen", task=job.task.id, stage=job.task.stage)
                return Outcome(Event.AGAIN, f"a defect: {type(error).__name__}: {error}"[:1000])
            return outcome

    async def _keep_lease(self, task: TaskRecord, progress: _Progress, action: trio.CancelScope, watch: _Watch) -> None:
        """Renew the lease; cancel the action when that fails in time, or when the task is cancelled."""
        lease_s = self._settings.lease_s
        good_until = trio.current_time() + lease_s * (1 - MARGIN)
        while True:
            await trio.sleep(lease_s / 8)
            with trio.move_on_at(good_until):
                try:
                    asked_at = trio.current_time()
                    held, cancelled = await self._tools.database.transact(self._renewal(task, progress))
                    watch.cancelled = cancelled
                    if not held or cancelled:
                        break
                    good_until = asked_at + lease_s * (1 - MARGIN)
                except DBAPIError as error:
                    log.warning("a lease could not be renewed", task=task.id, reason=str(error.orig))
            if trio.current_time() >= good_until:
                break
        action.cancel()

    def _renewal(self, task: TaskRecord, progress: _Progress) -> Callable[[Connection], tuple[bool, bool]]:
        return lambda connection: tasks.renew(
            connection, task, self._lease_now(connection), self._settings.lease_s, progress.done
        )


class _Progress:
    """How far an action has come."""

    def __init__(self) -> None:
        self.done = 0.0

    def __call__(self, done: float) -> None:
        if math.isfinite(done):
            self.done = min(1.0, max(self.done, done))


@dataclass
class _Watch:
    """What renewing found out."""

    cancelled: bool = False
