"""A process that dies at its work, without a process: what it waits for before each step ends it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio


class Killed(BaseException):
    """The process is gone: nothing that it runs hears of it and could tidy up."""


def dying_at(step: int) -> Callable[[], Awaitable[None]]:
    """To be waited for before each step: at that step (the first is 1) it raises Killed."""
    count = 0

    async def take() -> None:
        nonlocal count
        count += 1
        if count == step:
            raise Killed
        await trio.lowlevel.checkpoint()

    return take
