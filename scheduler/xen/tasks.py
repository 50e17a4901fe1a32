"""Calls that take long, as tasks: begin, watch, cancel, clear away.

XenAPI runs any message as `Async.<message>` and gives a task. Watching is polling, at first often, then once a
second; an event that the picture of the pool receives for the task wakes the watcher earlier. (An `event.from` for
each task was left: it would hold a worker for each.)

The task is the memory of whether the call was done, so losing it is `NoAnswer`: the pool was restarted, or has a new
master, and only a look at the objects tells. A poll without an answer is not that: the watcher asks again until the
pool has been away too long.

When the caller is cancelled or the time is over, the task is cancelled and *waited for*: what a migration leaves is
known only when it ended.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from scheduler.hypervisor import Gone, HypervisorError, Progress, Unreachable
from scheduler.xen.errors import CallFailed, Cancelled, NoAnswer, failure
from scheduler.xen.session import PoolSession, Value

FIRST_POLL_S = 0.05
SLOWEST_POLL_S = 1.0
AWAY_S_MAX = 60.0
"""How long a pool may not answer the question for a task before its outcome is called unknown."""
CANCEL_S_MAX = 60.0
"""How long a cancelled task may take to end."""
VALUE = re.compile(r"<value>(?:<string>)?(.*?)(?:</string>)?</value>", re.DOTALL)

Wait = Callable[[str, float], Awaitable[None]]
"""Wait for news of a task, at most so many seconds."""


async def sleep(_task: str, seconds: float) -> None:
    """Waiting without events."""
    await trio.sleep(seconds)


def nothing(_done: float) -> None:
    """Progress that nobody looks at."""


def plain_result(text: str) -> str:
    """What a task's `result` holds: XML-RPC's own wrapping taken off."""
    found = VALUE.fullmatch(text.strip())
    return found[1] if found is not None else text


class Tasks:
    """Runs messages as tasks on one pool."""

    def __init__(self, session: PoolSession, wait: Wait = sleep) -> None:
        self._session = session
        self._wait = wait

    async def run(self, method: str, *args: Value, progress: Progress = nothing, timeout_s: float | None = None) -> str:
        """Run `method` to its end; its result (a reference, mostly).

        Raises what the message raises; Cancelled when somebody cancelled the task, or `timeout_s` was over and the
        cancelling worked; NoAnswer when nobody knows the outcome. Cancelling the caller cancels the task.
        """
        timeout_s = timeout_s or self._session.settings.task_timeout_s
        task = str(await self._session.call(f"Async.{method}", *args))
        try:
            with trio.move_on_after(timeout_s):
                return await self._watch(task, method, progress)
            return await self._cancelled(task, method, timeout_s)
        except trio.Cancelled:
            with trio.CancelScope(deadline=trio.current_time() + CANCEL_S_MAX, shield=True):
                await self._cancel(task)
                with contextlib.suppress(
                    HypervisorError
                ):  # cancelled, as wished; or unknown: whoever looks next finds out
                    await self._watch(task, method, nothing)
            raise
        finally:
            with trio.CancelScope(deadline=trio.current_time() + 5, shield=True):
                await self._clear(task)

    async def _cancelled(self, task: str, method: str, timeout_s: float) -> str:
        await self._cancel(task)
        with trio.move_on_after(CANCEL_S_MAX):
            return await self._watch(task, method, nothing)  # done after all, or Cancelled
        raise NoAnswer(
            f"pool {self._session.settings.name}: {method} took longer than {timeout_s:.0f} s and cannot be cancelled"
        )

    async def _watch(self, task: str, method: str, progress: Progress) -> str:
        interval_s, shown = FIRST_POLL_S, 0.0
        away_since: float | None = None
        while True:
            try:
                record = await self._session.call("task.get_record", task)
                away_since = None
            except Gone:
                raise NoAnswer(
                    f"pool {self._session.settings.name}: lost the task of {method}; it may be done or not"
                ) from None
            except Unreachable as error:
                away_since = away_since or trio.current_time()
                if trio.current_time() - away_since > AWAY_S_MAX:
                    raise NoAnswer(f"{error}; {method} may be done or not") from None
                record = {}
            status = record.get("status")
            if status == "success":
                progress(1.0)
                return plain_result(str(record.get("result", "")))
            if status in ("failure", "cancelled"):
                raise self._failed(record, method)
            done = _fraction(record.get("progress"))
            if done > shown:
                shown = done
                progress(done)
            await self._wait(task, interval_s)
            interval_s = min(interval_s * 1.5, SLOWEST_POLL_S)

    def _failed(self, record: dict[str, Any], method: str) -> HypervisorError:
        pool = self._session.settings.name
        info = record.get("error_info")
        if isinstance(info, list) and info:
            return failure(info, pool)
        if record.get("status") == "cancelled":
            return Cancelled(f"pool {pool}: {method} was cancelled", "TASK_CANCELLED")
        return CallFailed(f"pool {pool}: {method} failed without saying why")

    async def _cancel(self, task: str) -> None:
        try:
            await self._session.call("task.cancel", task)
        except HypervisorError:
            return  # it ended, or it does not let itself be cancelled: the watcher sees which

    async def _clear(self, task: str) -> None:
        try:
            await self._session.call("task.destroy", task, timeout_s=5)
        except HypervisorError:
            return  # pools clear finished tasks away by themselves, a day later


def _fraction(value: Any) -> float:
    return min(max(float(value), 0.0), 1.0) if isinstance(value, int | float) else 0.0
