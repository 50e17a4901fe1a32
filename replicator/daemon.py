"""A daemon: background work that an operator can look at, slow down and hold, whatever it does.

Problem: replicator, auditor, updater and the others each have their own figures and their own idea of speed; an operator
wants one way to ask what waits and since when, one way to say "slower" and "not now", and the same in the metrics.

Idea: each of them describes itself as a `Daemon`: its name, how to run it, its statistics, its rates and its pause. Whoever
runs them (a service, the simulator) needs to know nothing else, and a new one is added by describing it.

Rejected: a base class (the five have nothing in common but this), rates as attributes found by name (what is a rate and what
a figure has to be said by whoever knows).

Invariants: `statistics()` is a NamedTuple with `backlog`, `oldest_s` and `paused` among its fields; rates are above 0; pause
and rate take effect on work that waits, and survive nothing: keeping them is the service's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import isfinite
from typing import Any, Protocol

from replicator.pace import Pace


class DaemonStatistics(Protocol):
    """What all daemons tell, among other things."""

    @property
    def backlog(self) -> int:
        """How much is known to wait."""

    @property
    def oldest_s(self) -> float:
        """How long the oldest of it has waited; 0 while nothing does."""

    @property
    def paused(self) -> bool:
        """Whether it is held."""

    def _asdict(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Rate:
    """How fast a daemon may go, in one respect."""

    name: str
    """With its unit: `bytes_per_s`."""
    text: str
    get: Callable[[], float]
    set: Callable[[float], None]

    @classmethod
    def of(cls, pace: Pace, name: str, text: str) -> Rate:
        """The rate of a pace."""
        return cls(name, text, lambda: pace.rate_per_s, lambda value: setattr(pace, "rate_per_s", value))


@dataclass(frozen=True)
class Daemon:
    """One daemon, as the service that runs it, its commands and its metrics see it."""

    name: str
    text: str
    """What it does, in a line."""
    waits: str
    """What its backlog counts."""
    run: Callable[[], Awaitable[None]]
    """Until cancelled."""
    statistics: Callable[[], DaemonStatistics]
    counters: frozenset[str]
    """Those fields of its statistics that only grow while it lives. The other numbers are gauges."""
    pause: Callable[[], None]
    resume: Callable[[], None]
    rates: tuple[Rate, ...]
    """The first is the one that is meant when none is named."""

    def rate(self, name: str = "") -> Rate:
        """The rate of that name; the first, if none is given. Raises ValueError that names those there are."""
        for rate in self.rates:
            if name in ("", rate.name):
                return rate
        raise ValueError(f"the {self.name} has no rate {name!r}; it has {', '.join(rate.name for rate in self.rates)}")

    @staticmethod
    def check_rate(value: float) -> None:
        """Raises ValueError for a value that no rate can have."""
        if not (isinstance(value, (int, float)) and isfinite(value) and value > 0):
            raise ValueError(f"a rate must be above 0, not {value!r}; to hold a daemon, pause it")
