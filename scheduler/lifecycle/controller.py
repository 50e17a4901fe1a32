"""A controller: pools followed, work carried on, requests taken. Any number of them share one database.

Problem: an operator's request must be on disk before it is answered, and be carried out even if this process dies right
then; and one pool that hangs must not hold up another.

Idea: three things run side by side: the executor, a look at every pool every few seconds, and a look at the list of pools
itself (another controller may have added one). Requests are transactions: they write records and tasks and wake the
executor. Nothing that matters is in memory.

Start: leases that this controller's name still holds are given back, for they were a process's that is dead. Then the
pools are looked at, for so long as it takes each to answer or fail, before the first task is taken up: a task that
finds its pool "not seen yet" would only wait.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

import structlog
import trio
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from ring.topology import Device
from scheduler.errors import SchedulerError
from scheduler.hypervisor import Hypervisor, HypervisorError
from scheduler.lifecycle import tasks
from scheduler.lifecycle.chooser import RingChooser
from scheduler.lifecycle.executor import Executor, ExecutorSettings
from scheduler.lifecycle.machine import MACHINES
from scheduler.lifecycle.operations import Desk
from scheduler.lifecycle.pools import PoolLink
from scheduler.lifecycle.refresh import Refresher
from scheduler.lifecycle.tools import Tools
from scheduler.placement.resources import VCPU_RATIO
from scheduler.records import store
from scheduler.records.types import PoolRecord, TaskRecord, TaskState

T = TypeVar("T")

log = structlog.get_logger("scheduler.controller")

FIRST_LOOK_S: Final = 8.0
KEEP_TASKS_S: Final = 30 * 86400.0
"""How long ended tasks, and idempotency keys, are kept."""
HOUSEKEEPING_S: Final = 3600.0


@dataclass(frozen=True)
class ControllerSettings:
    """How a controller works: `look_s` is how often pools are looked at, `executor` how it works on tasks, `vcpu_ratio` how
    many vCPUs a host without a ratio of its own gives out per processor."""

    look_s: float = 2.0
    executor: ExecutorSettings = field(default_factory=ExecutorSettings)
    vcpu_ratio: float = VCPU_RATIO


class Controller:
    """One controller. `connect` makes the connection to a pool from its record (it knows the password); `enter` brings hosts
    and SRs into the ring's topology, where there is one to be written here."""

    def __init__(
        self,
        name: str,
        tools: Tools,
        chooser: RingChooser,
        connect: Callable[[PoolRecord], Hypervisor],
        settings: ControllerSettings | None = None,
        *,
        enter: Callable[[list[Device]], Mapping[str, int]] | None = None,
    ) -> None:
        self.name = name
        self.tools = tools
        self.chooser = chooser
        self._connect = connect
        self._settings = settings or ControllerSettings()
        self.executor = Executor(tools, name, self._settings.executor)
        self.refresher = Refresher(
            tools.database, tools.claims, tools.pools, chooser, enter, vcpu_ratio=self._settings.vcpu_ratio
        )
        self._scopes: dict[str, trio.CancelScope] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work until cancelled; started as soon as requests can be taken."""
        database = self.tools.database
        await database.transact(lambda connection: tasks.give_back_all(connection, self.name))
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await self.sync_pools()
            task_status.started()
            with trio.move_on_after(FIRST_LOOK_S):
                await self.refresher.look()
            await nursery.start(self.executor.run)
            nursery.start_soon(self._keep_looking)
            nursery.start_soon(self._keep_house)

    async def _keep_looking(self) -> None:
        while True:
            try:
                await self.sync_pools()
                await self.refresher.look()
            except (DBAPIError, SchedulerError) as error:
                log.warning("the pools could not be looked at", reason=str(error))
            except Exception:  # a defect that one pool's words bring out must not end the work on all others
                log.exception("looking at the pools failed unforeseen")
            await trio.sleep(self._settings.look_s)

    async def _keep_house(self) -> None:
        while True:
            before_s = self.tools.now_s() - KEEP_TASKS_S
            try:
                await self.tools.database.transact(lambda c: tasks.forget_closed(c, before_s))  # noqa: B023
                await self.tools.database.block(lambda: self.tools.claims.forget_keys(before_s))  # noqa: B023
            except (DBAPIError, SchedulerError) as error:
                log.warning("old tasks could not be removed", reason=str(error))
            await trio.sleep(HOUSEKEEPING_S)

    # --------------------------------------------------------------------------------------------------------------- pools

    async def sync_pools(self) -> None:
        """Connect to pools that were added, and let go of those that were removed, by whichever controller."""
        records = {r.id: r for r in await self.tools.database.transact(lambda c: store.all_of(c, PoolRecord))}
        links = self.tools.pools.links
        for pool_id in [pool_id for pool_id, link in links.items() if records.get(pool_id) != link.record]:
            await self.unlink(pool_id)
        for pool_id, record in records.items():
            if pool_id not in links:
                try:
                    self.link(record, self._connect(record))
                except (SchedulerError, HypervisorError, ValueError) as error:
                    log.warning("a pool cannot be used", pool=record.name, reason=str(error))

    def link(self, record: PoolRecord, hypervisor: Hypervisor) -> None:
        """Follow a pool from now on."""
        assert self._nursery is not None
        self.tools.pools.links[record.id] = PoolLink(record, hypervisor)
        scope = self._scopes[record.id] = trio.CancelScope()
        self._nursery.start_soon(self._follow, scope, record, hypervisor)

    async def unlink(self, pool_id: str) -> None:
        """Follow it no longer."""
        self.tools.pools.links.pop(pool_id, None)
        scope = self._scopes.pop(pool_id, None)
        if scope is not None:
            scope.cancel()

    async def _follow(self, scope: trio.CancelScope, record: PoolRecord, hypervisor: Hypervisor) -> None:
        with scope:
            try:
                await hypervisor.run()
            except HypervisorError as error:
                log.warning("a pool is not followed any more", pool=record.name, reason=str(error))
            finally:
                with trio.CancelScope(shield=True), trio.move_on_after(5):
                    await hypervisor.close()

    # ------------------------------------------------------------------------------------------------------------ requests

    async def request(self, work: Callable[[Desk], T]) -> T:
        """Carry out a request in one transaction, and wake the executor."""
        zones = frozenset((link.record.region, link.record.zone) for link in self.tools.pools.links.values())

        def carry_out(connection: Connection) -> T:
            return work(Desk(connection, self.tools.now_s(), self.tools.new_id, zones))

        answer = await self.tools.database.transact(carry_out)
        self.executor.wake()
        return answer

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Look something up."""
        return await self.tools.database.transact(work)

    async def await_task(self, task_id: int, within_s: float) -> TaskRecord:
        """The task, once it has ended or the time is over. NoSuchRecord."""
        with trio.move_on_after(within_s):
            while True:
                task = await self._task(task_id)
                if task.state is not TaskState.OPEN:
                    return task
                await trio.sleep(0.1)
        return await self._task(task_id)

    async def await_place(self, task_id: int, within_s: float) -> TaskRecord:
        """The task, once it has left its first stage, in which it finds a place and claims it, or the time is over."""
        pause_s = 0.02
        with trio.move_on_after(within_s):
            while True:
                task = await self._task(task_id)
                if task.state is not TaskState.OPEN or task.stage != MACHINES[task.kind].first:
                    return task
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, 0.2)
        return await self._task(task_id)

    async def _task(self, task_id: int) -> TaskRecord:
        task = await self.read(lambda connection: store.find(connection, TaskRecord, task_id))
        if task is None:
            raise store.NoSuchRecord(f"there is no task {task_id}")
        return task
