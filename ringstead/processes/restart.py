"""When a service that died is started again. Pure.

A process that died once is started at once: clients wait for it. One that keeps dying is started less and less often,
so that it does not eat a processor and fill the logs. Having lived well for a while makes it new again.
"""

from __future__ import annotations

from typing import Final

DELAY_FIRST_S: Final = 0.05
DELAY_MAX_S: Final = 10.0
HEALTHY_S: Final = 20.0
"""A service that lived for this long after it was ready has earned a fresh start."""
HOPELESS_DEATHS: Final = 6
"""Deaths in a row, never having been ready, that end the start of a whole cluster: about three seconds."""


class RestartPolicy:
    """The delays before the restarts of one service."""

    __slots__ = ("deaths",)

    def __init__(self) -> None:
        self.deaths = 0
        """In a row, without a healthy time between them."""

    def delay_s(self, ready_for_s: float) -> float:
        """The service died after having been ready for so long (0: never); how long to wait. Seconds."""
        if ready_for_s >= HEALTHY_S:
            self.deaths = 0
        delay = DELAY_FIRST_S * 2.0 ** min(self.deaths, 16)
        self.deaths += 1
        return min(delay, DELAY_MAX_S)
