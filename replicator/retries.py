"""What could not be done, and when it is tried again: less and less often.

Problem: the expirer and the reaper go through queues that others keep. What fails stays there and comes up with every look;
tried each time, one row that nobody can settle would cost as much as all those that can be.

Idea: a name that failed waits `first_s`, then twice as long each time, up to `most_s`. Nothing else is kept of it: whatever
is forgotten (a kill, `names_max` reached) is simply tried with the next look.

The clock is trio's. Memory is bounded by `names_max`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import trio

K = TypeVar("K", bound=Hashable)
DOUBLINGS_MAX: Final = 10
"""More make no difference: `most_s` is reached long before, and 2.0 ** n has an end."""


@dataclass
class _Failed:
    again_s: float
    attempts: int


class Retries(Generic[K]):
    """Names that failed. `first_s` and `most_s`: the first wait, and the longest."""

    def __init__(self, first_s: float, most_s: float, names_max: int) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._names_max = names_max
        self._failed: dict[K, _Failed] = {}

    def __iter__(self) -> Iterator[K]:
        """Those that failed and were not forgotten; a copy, which `forget` may follow."""
        return iter(list(self._failed))

    def may_try(self, name: K) -> bool:
        """Whether it has waited long enough, or never failed."""
        failed = self._failed.get(name)
        return failed is None or failed.again_s <= trio.current_time()

    def note(self, name: K) -> int:
        """It has failed; -> how often in a row, as far as is known."""
        failed = self._failed.get(name)
        if failed is None:
            if len(self._failed) >= self._names_max:
                return 1
            failed = self._failed[name] = _Failed(0.0, 0)
        failed.again_s = trio.current_time() + min(
            self._first_s * 2.0 ** min(failed.attempts, DOUBLINGS_MAX), self._most_s
        )
        failed.attempts += 1
        return failed.attempts

    def forget(self, name: K) -> None:
        """It is done, here or elsewhere. Idempotent."""
        self._failed.pop(name, None)
