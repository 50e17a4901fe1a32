"""The database as asynchronous code uses it: a function of a connection, run in a transaction, off the event loop.

A transaction that waits for a disk or for PostgreSQL must not stop the timers by which leases are renewed, so it runs in a
worker thread. Tests run it in place: with every transaction a single step of the schedule, a history of two controllers is
repeated from its seed.

Cancelling waits for the transaction to end: one that was begun is either committed or not, and never forgotten half-way.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

import trio
from sqlalchemy import Connection, Engine

T = TypeVar("T")

THREADS_MAX: Final = 8


class Database:
    """Transactions on one engine. `in_threads` False runs them in place, for tests on SQLite."""

    def __init__(self, engine: Engine, *, in_threads: bool = True) -> None:
        self.engine = engine
        self._limiter = trio.CapacityLimiter(THREADS_MAX) if in_threads else None

    async def transact(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in one transaction, committed when it returns, rolled back when it raises."""
        return await self.block(partial(self._transact, work))

    async def block(self, work: Callable[[], T]) -> T:
        """Run something that blocks on a database of its own accord, such as a commit of claims."""
        if self._limiter is None:
            await trio.lowlevel.checkpoint()
            return work()
        return await trio.to_thread.run_sync(work, limiter=self._limiter)

    def _transact(self, work: Callable[[Connection], T]) -> T:
        with self.engine.begin() as connection:
            return work(connection)
