"""The answer: a host and an SR for each disk, what would do as well, and why each other host was not taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from scheduler.placement.request import ServerRequest, VolumeRequest


@dataclass(frozen=True, slots=True)
class DiskPlacement:
    """Where a disk goes.

    moves_from   the SR that a disk lies on now and has to be copied from; None for a new disk and for one that stays
    """

    disk_id: str
    sr_id: str
    moves_from: str | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A host that can take the server.

    score   what the weighers give it together; the higher the better
    disks   an SR for each disk of the request, in the request's order
    """

    host_id: str
    score: float
    disks: tuple[DiskPlacement, ...] = ()


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a server goes.

    chosen       the host taken
    alternates   hosts to try next, should the claim or the build fail, best first
    """

    request: ServerRequest
    chosen: Candidate
    alternates: tuple[Candidate, ...] = ()


@dataclass(frozen=True, slots=True)
class VolumePlacement:
    """Where a volume goes: an SR, and SRs to try next."""

    request: VolumeRequest
    sr_id: str
    alternates: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a host was chosen or was not.

    kind      `chosen`, `outweighed`, or one of the words of `scheduler.placement.reasons`
    reason    a sentence with figures, without a full stop: `needs 4096 MiB of memory, 1024 MiB free`
    score     of a host that could have taken the server, None for one that could not
    weights   what each weigher added to the score
    """

    host_id: str
    kind: str
    reason: str
    score: float | None = None
    weights: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Explanation:
    """A verdict on every host, in the order of the ring's device ids; `placement` is None where no host can."""

    placement: Placement | None
    verdicts: tuple[Verdict, ...]
