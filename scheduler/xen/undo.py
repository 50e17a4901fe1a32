"""What a verb takes back when it fails half-way: the last thing done first.

A step that fails while undoing does not keep the others from being tried; what could not be taken back is found later
by its tags. Undoing is shielded from cancellation, within a limit, so that a cancelled build cleans up as a failed
one does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog
import trio

from scheduler.hypervisor import HypervisorError

UNDO_S_MAX = 120.0
LOG = structlog.get_logger("scheduler.xen")


class Undo:
    """Steps to be taken back."""

    def __init__(self) -> None:
        self._steps: list[tuple[str, Callable[[], Awaitable[object]]]] = []

    def push(self, what: str, step: Callable[[], Awaitable[object]]) -> None:
        """Remember how to take back what was, or is about to be, done. `what` is for the log."""
        self._steps.append((what, step))

    def forget(self) -> None:
        """It is done for good."""
        self._steps.clear()

    async def take_back(self) -> None:
        """Run the steps, the last first."""
        with trio.CancelScope(deadline=trio.current_time() + UNDO_S_MAX, shield=True):
            while self._steps:
                what, step = self._steps.pop()
                try:
                    await step()
                except HypervisorError as error:
                    LOG.warning("could not take back", what=what, error=str(error))


@asynccontextmanager
async def undoing() -> AsyncIterator[Undo]:
    """A block whose steps are taken back when it is left by an exception, cancellation included."""
    undo = Undo()
    try:
        yield undo
    except BaseException:
        await undo.take_back()
        raise
