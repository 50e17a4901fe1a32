"""What an operator may turn about placement.

Each weigher gives a host a value in 0..1 that depends on that host alone (not on who else is a candidate), and a host's
score is the sum of multiplier times value. So a multiplier of 2 means the same today and tomorrow, a score can be
explained by itself, and the scores of hosts that nothing happened to stay as they are.

Rejected: scaling each weigher over the candidates, as OpenStack does: with two candidates a difference of 1 MiB weighs
as much as one of 1 TiB, and every host's score changes whenever a candidate comes or goes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from scheduler.errors import RequestError

RING_POSITIONS = 16
"""How many hosts of a walk the ring speaks for: the first gets 1, each further one 1/16 less."""


@dataclass(frozen=True, slots=True)
class PlacementSettings:
    """Multipliers of the weighers, and how the choice is made. Checked when made (RequestError).

    spread           times the share of memory and vCPUs that is free (their mean); negative packs servers on few hosts
    ring             times how early the host comes in the ring's walk for the server
    image            times 1 if the host reaches an SR that has the image
    volume           times the share of the disks that are there already which the host reaches
    failure          times 1 - 1 / (1 + recent build failures); taken off
    soft_affinity    times the share of the group's members that are on the host; taken off for soft anti-affinity
    choice_count     the best so many hosts are drawn from, by the seed, so that schedulers working at once seldom collide
    choice_margin    but only those whose score is less than this below the best
    alternate_count  hosts named to be tried next
    sr_spread        True puts a disk on the SR with most free bytes, False on the one with least that has room
    """

    spread: float = 1.0
    ring: float = 1.0
    image: float = 0.25
    volume: float = 0.5
    failure: float = 1.0
    soft_affinity: float = 2.0
    choice_count: int = 4
    choice_margin: float = 0.03
    alternate_count: int = 3
    sr_spread: bool = True

    def __post_init__(self) -> None:
        for setting in fields(self):
            value = getattr(self, setting.name)
            if not math.isfinite(value) or abs(value) > 1e6:
                raise RequestError(f"placement setting {setting.name}: {value} is not a number within 1,000,000")
        if not 1 <= self.choice_count <= 16:
            raise RequestError(f"placement setting choice_count: {self.choice_count} is outside 1..16")
        if not 0 <= self.alternate_count <= 16:
            raise RequestError(f"placement setting alternate_count: {self.alternate_count} is outside 0..16")
        if self.choice_margin < 0:
            raise RequestError(f"placement setting choice_margin: {self.choice_margin} is negative")
