"""A plan of moves: which server goes where, with which disks, in which order. Made first, shown, then carried out.

A plan is waves. The moves of one wave may run at the same time: none exceeds the caps, and each has room while all
servers that move in the wave still hold what they have. A wave begins when the one before it has ended, since its room
may be what that one freed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from scheduler.placement.placement import Candidate, DiskPlacement
from scheduler.placement.request import ServerRequest

STORAGE_MOVES_MAX = 3
"""Storage migrations that a pool does well at the same time (XenServer's own limit)."""


@dataclass(frozen=True, slots=True)
class PlacedServer:
    """A server as it runs now.

    request   what it would be asked with today: its disks with `sr_id`, and with `movable` those that may be copied
    host_id   where it is
    """

    request: ServerRequest
    host_id: str


@dataclass(frozen=True, slots=True)
class Move:
    """One server's move.

    to            the host and the SR of each disk there
    disks         those of its disks that are copied; empty for a migration that moves memory alone
    copied_bytes  the sum of their sizes
    pools         the pool that it leaves and the one that it enters, which may be the same
    """

    server: PlacedServer
    to: Candidate
    disks: tuple[DiskPlacement, ...]
    copied_bytes: int
    pools: tuple[str, str]

    @property
    def is_storage_move(self) -> bool:
        """Whether it counts against the cap of storage migrations: it copies disks or leaves its pool."""
        return bool(self.disks) or self.pools[0] != self.pools[1]


@dataclass(frozen=True, slots=True)
class Caps:
    """How many moves may run at the same time: on one host (in and out), and storage migrations in one pool."""

    host_moves_max: int = 2
    pool_storage_moves_max: int = STORAGE_MOVES_MAX


@dataclass(frozen=True, slots=True)
class MovePlan:
    """What to do, in waves, and what can't be done.

    waves      moves that may run at the same time, one wave after the other
    stranded   why a server that should move can't, by server id
    before, after   load (0..1) of each host that the plan is about, by host id
    """

    waves: tuple[tuple[Move, ...], ...]
    stranded: Mapping[str, str] = field(default_factory=dict)
    before: Mapping[str, float] = field(default_factory=dict)
    after: Mapping[str, float] = field(default_factory=dict)

    @property
    def moves(self) -> tuple[Move, ...]:
        """All moves, in order."""
        return tuple(move for wave in self.waves for move in wave)
