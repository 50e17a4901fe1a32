"""Doing one thing to many names, several at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import trio

T = TypeVar("T")


async def for_each(items: Iterable[T], action: Callable[[T], Awaitable[None]], width: int) -> None:
    """`action` for every item, `width` at once, begun in order.

    The first error ends it: the others are cancelled and that error is raised as it is, in no group.
    """
    waiting = iter(items)
    raised: list[Exception] = []

    async def work() -> None:
        try:
            for item in waiting:
                await action(item)
        except Exception as error:  # handed on below: a nursery would wrap it
            raised.append(error)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for _ in range(width):
            nursery.start_soon(work)
    if raised:
        raise raised[0]
