"""What a process has read lately: a bounded cache for records that seldom change and are asked for with every request.

Problem: a record that is forgotten after seconds is read again by all requests that come in that moment; and while the
store can't be read, none of them should wait for it to say so.

Idea: one task reads, the others wait for what it finds, error included. A value that could not be refreshed because the
store is unavailable goes on being given, for `STALE_S` in all, and is tried again only every `known_s`.

Invariant: never more than `ENTRIES_MAX` values; when it would be more, all are forgotten. Simpler than an order of use,
and it happens only under attack.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import trio

from proxy.model import Unavailable

STALE_S = 600.0
"""How long a value is given while the store can't answer."""
ENTRIES_MAX = 10_000

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")


def remember(cache: dict[K, V], key: K, value: V) -> None:
    """Add to a bounded cache."""
    if len(cache) >= ENTRIES_MAX:
        cache.clear()
    cache[key] = value


class _Load(Generic[T]):
    """A value that is being read, for all who wait for it."""

    __slots__ = ("done", "error", "value")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.value: T | None = None
        self.error: Exception | None = None


class Known(Generic[T]):
    """What was read lately. Each is read by one task even if many ask, and kept longer while the store can't be read."""

    def __init__(self, monotonic: Callable[[], float], known_s: float) -> None:
        self._monotonic = monotonic
        self._known_s = known_s
        self._values: dict[str, tuple[float, float, T]] = {}
        """Fresh until, stale from, value."""
        self._loading: dict[str, _Load[T]] = {}

    async def get(self, name: str, load: Callable[[str], Awaitable[T]]) -> T:
        """The value of `name`, by `load` where it is not known or was read too long ago."""
        while True:
            known = self._values.get(name)
            if known is not None and known[0] > self._monotonic():
                return known[2]
            loading = self._loading.get(name)
            if loading is None:
                return await self._load(name, load)
            await loading.done.wait()
            if loading.error is not None:
                raise loading.error
            if loading.value is not None:
                return loading.value

    async def _load(self, name: str, load: Callable[[str], Awaitable[T]]) -> T:
        loading = self._loading[name] = _Load[T]()
        try:
            loading.value = await load(name)
        except Unavailable as error:
            known = self._values.get(name)
            if known is None or known[1] <= self._monotonic():
                loading.error = error
                raise
            # Not asked again before `known_s` has passed, so that requests do not wait for a store that is away.
            self._values[name] = (self._monotonic() + self._known_s, known[1], known[2])
            loading.value = known[2]
        except Exception as error:
            loading.error = error
            self._values.pop(name, None)
            raise
        else:
            now_s = self._monotonic()
            remember(self._values, name, (now_s + self._known_s, now_s + STALE_S, loading.value))
        finally:
            del self._loading[name]
            loading.done.set()
        return loading.value

    def forget(self, name: str) -> None:
        """Read it afresh the next time."""
        self._values.pop(name, None)
