"""A pool: its rows, disks, operations on their way and faults; what every message is handed.

`Pool` is the state, `Call` one message's view of it: who asked, the task that it reports to, and the two things that
messages do all the time, taking an operation on an object and taking time.

Time is told from outside (`Pool.clock`), uuids come from the random source given, disks from the store given: a pool is a
function of its calls.
"""

from __future__ import annotations

import contextlib
import datetime
import random
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from scheduler.xen.simulator.database import Database, Row
from scheduler.xen.simulator.disks import Disks
from scheduler.xen.simulator.failure import Failure
from scheduler.xen.simulator.faults import Faults
from scheduler.xen.simulator.jobs import Job, Jobs, Steps, Work
from scheduler.xen.simulator.latency import Latencies
from scheduler.xen.simulator.schema import NULL, Stamp

SLICES: Final = 10
"""Steps in which a task that takes long reports its progress."""
MESSAGES_MAX: Final = 1000
TASKS_MAX: Final = 1000
"""Finished tasks that are kept."""


def stamp(seconds: float) -> Stamp:
    """A time since 1970 as pools write it."""
    return Stamp(datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y%m%dT%H:%M:%SZ"))


@dataclass(frozen=True, slots=True)
class Account:
    """Who may log in."""

    user: str = "root"
    password: str = field(default="root", repr=False)


class Pool:
    """One pool of hosts."""

    def __init__(
        self,
        name: str,
        *,
        clock: Callable[[], float],
        disks: Disks,
        seed: str,
        latencies: Latencies,
        account: Account,
        live_lag_s: float = 600.0,
    ) -> None:
        self.name = name
        self.clock = clock
        self.disks = disks
        self.random = random.Random(seed)
        self.latencies = latencies
        self.account = account
        self.live_lag_s = live_lag_s
        """How long a dead host is still called live."""
        self.database = Database(self.new_uuid)
        self.jobs = Jobs()
        self.faults = Faults()
        self.dead: set[str] = set()
        """References of hosts that do not answer."""
        self.job_of_operation: dict[str, Job] = {}
        """By task, or by the name under which a call without one stands in `current_operations`."""
        self.storage_migrations = 0
        """Storage migrations that this pool sends now."""
        self.listeners: dict[str, tuple[tuple[str, ...], int]] = {}
        """By session, what it hears of by `event.next`, and the generation up to which it was told."""
        self.certificate_pem = ""
        self.urls: dict[str, str] = {}
        """By host reference, where it is served."""
        self.jobs.run_due(clock())

    def new_uuid(self) -> str:
        """A fresh UUID from the pool's random source."""
        return str(uuid.UUID(int=self.random.getrandbits(128), version=4))

    def now(self) -> Stamp:
        """The time, as records hold it."""
        return stamp(self.clock())

    @property
    def row(self) -> Row:
        """The pool's own record."""
        return self.database.one("pool")

    @property
    def master(self) -> Row:
        """The host that answers for the pool."""
        return self.database.get("host", self.row["master"])

    def promote(self, host: Row) -> None:
        """Make a host the master; sessions end with the old one."""
        self.database.set(self.row, master=host.ref)
        for session in self.database.rows("session"):
            self.database.remove(session)

    def is_live(self, host: Row) -> bool:
        """Whether the pool believes that a host lives."""
        metrics = self.database.find("host_metrics", host["metrics"])
        return metrics is not None and bool(metrics["live"])

    def url(self, host: Row) -> str:
        """Where a host is served, without a slash at the end."""
        return self.urls.get(host.ref) or f"http://{host['address']}"

    def reach(self, host: Row) -> None:
        """Pass a call on to a host. Raises Failure HOST_OFFLINE or CANNOT_CONTACT_HOST when it is dead."""
        if not self.is_live(host):
            raise Failure("HOST_OFFLINE", host.ref)
        if host.ref in self.dead:
            raise Failure("CANNOT_CONTACT_HOST", host.ref)

    def announce(self, name: str, cls: str, about: Row, body: str = "", priority: int = 5) -> Row:
        """A message of the pool's own to its operators."""
        messages = self.database.rows("message")
        if len(messages) >= MESSAGES_MAX:
            self.database.remove(messages[0])
        return self.database.add(
            "message", name=name, cls=cls, obj_uuid=about.uuid, body=body, priority=priority, timestamp=self.now()
        )

    def later(self, seconds: float, action: Callable[[], None]) -> Job:
        """Do something when a time has passed, on nobody's behalf."""

        def steps() -> Steps:
            yield Work(seconds)
            action()

        return self.jobs.start("later", steps(), lambda _result, _failure: None)

    def trim_tasks(self) -> None:
        """Forget the oldest finished tasks beyond what is kept."""
        tasks = self.database.rows("task")
        excess = len(tasks) - TASKS_MAX
        for task in tasks:
            if excess <= 0:
                break
            if task["status"] in ("success", "failure", "cancelled"):
                self.database.remove(task)
                excess -= 1


@dataclass(slots=True)
class Call:
    """One message on its way through a pool."""

    pool: Pool
    session: Row
    method: str
    operation: str
    """The name under which it stands in `current_operations`: its task's reference, if it has one."""
    task: Row | None = None
    reached: float = 0.0
    """Progress, 0 to 1."""
    site: Any = None
    """The other pools of this process, for migrations between them."""

    @property
    def database(self) -> Database:
        """The pool's rows."""
        return self.pool.database

    @contextlib.contextmanager
    def doing(self, row: Row, operation: str) -> Iterator[None]:
        """Hold an operation on an object from here to the end of the block.

        Raises the Failure that says why the object does not allow it.
        """
        from scheduler.xen.simulator.allowed import refusal

        refused = refusal(self.pool, row, operation)
        if refused is not None:
            raise refused
        with self.marking(row, operation):
            yield

    @contextlib.contextmanager
    def marking(self, row: Row, operation: str, database: Database | None = None) -> Iterator[None]:
        """As `doing`, where the object's consent is already had; another pool's object with its database."""
        database = database or self.database
        key = self.operation
        while key in row["current_operations"]:
            key += "+"
        database.set(row, current_operations={**row["current_operations"], key: operation})
        try:
            yield
        finally:
            if database.find(row.cls, row.ref) is row:
                rest = {name: what for name, what in row["current_operations"].items() if name != key}
                database.set(row, current_operations=rest)

    def spend(self, seconds: float, *hosts: Row, to: float | None = None, cancellable: bool = True) -> Steps:
        """Take time, in the slices in which progress is reported; `to` is the progress at its end."""
        seconds *= self.pool.latencies.factor
        references = tuple(host.ref for host in hosts)
        slices = SLICES if seconds >= 1.0 or to is not None else 1
        begin = self.reached
        for index in range(slices):
            yield Work(seconds / slices, references, cancellable)
            if to is not None:
                self.progress(begin + (to - begin) * (index + 1) / slices)

    def progress(self, fraction: float) -> None:
        """Report how far this is."""
        self.reached = fraction
        if self.task is not None and self.database.find("task", self.task.ref) is self.task:
            self.database.set(self.task, progress=round(fraction, 3))


def null_or(row: Row | None) -> str:
    """A row's reference, or the reference to nothing."""
    return NULL if row is None else row.ref
