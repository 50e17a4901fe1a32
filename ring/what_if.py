"""What a change or a loss means: moves, bytes, time; partitions at risk; what survivors carry.

Everything here only reads plans and tables and computes numbers for people; nothing changes anything.

Bytes: all partitions are taken to be equally full, which hashing makes true within a few percent from some thousand objects
a partition on. Time: a device receives and gives at a rate each, links between zones have a rate of their own where one is
given, and the busiest of all these decides.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ring.rebalance import Plan, Quality, RebalanceError, make_plan
from ring.ring import NO_DEVICE, Ring, Table
from ring.topology import Device, Tier, Topology
from ring.topology_file import Design


@dataclass(frozen=True, slots=True)
class DeviceFlow:
    """What a plan means for one device: replicas before, coming, going, after."""

    device: Device
    before: int
    coming: int
    going: int
    after: int


@dataclass(frozen=True, slots=True)
class StepFlow:
    """One step: replicas that move, bytes, and the seconds that it takes at the given rates."""

    moves: int
    size_bytes: float
    duration_s: float


@dataclass(frozen=True, slots=True)
class Traffic:
    """A plan in numbers.

    replica_bytes  the size of one replica of one partition
    devices        by device, those that take part
    zones          replicas that are copied from one zone to another (or within one), [(from, to)]
    steps          one after the other
    steps_due      replicas that a rebalance moves now; the others wait for a later step or for min_part_hours
    """

    replica_bytes: float
    devices: list[DeviceFlow]
    zones: dict[tuple[Tier, Tier], int]
    steps: list[StepFlow]
    moves_due: int

    @property
    def moves(self) -> int:
        """Replicas that move, over all steps."""
        return sum(step.moves for step in self.steps)


@dataclass(frozen=True, slots=True)
class Rates:
    """How fast data flows, in bytes a second: into and out of one device, and from one zone to another (None: no limit)."""

    device: float
    zone: float | None = None


@dataclass(frozen=True, slots=True)
class Loss:
    """What the loss of some devices means.

    lost           the devices
    below          partitions of which less than a majority is left, without those of `gone`
    gone           partitions of which nothing is left
    fewer          partitions that lost a replica and keep a majority
    untouched      partitions that lost nothing
    carried        replicas by device id that each survivor would hold once all is repaired; None if that can't be
    obstacle       why it can't be, or ""
    repairs        replicas to make again
    """

    lost: list[Device]
    below: NDArray[np.intp]
    gone: NDArray[np.intp]
    fewer: int
    untouched: int
    counts: NDArray[np.int64]
    carried: NDArray[np.int64] | None
    quality: Quality | None
    obstacle: str
    repairs: int


def traffic_of(plan: Plan, data_bytes: float, rates: Rates) -> Traffic:
    """A plan in numbers, if the ring holds `data_bytes` of user data (each counted once)."""
    before, after = plan.change.before, plan.change.after
    replica_bytes = data_bytes / plan.design.settings.part_count
    sources = _sources(plan)
    id_count = len(plan.devices)
    coming = np.zeros(id_count, dtype=np.int64)
    going = np.zeros(id_count, dtype=np.int64)
    zones: dict[tuple[Tier, Tier], int] = {}
    steps: list[StepFlow] = []
    for step in range(1, plan.step_count + 1):
        moves = plan.steps == step
        to, source = after[moves], sources[moves]
        known = source != NO_DEVICE
        into = np.bincount(to, minlength=id_count)
        out_of = np.bincount(source[known], minlength=id_count)
        between = _between(plan.devices, source[known], to[known])
        for pair, count in between.items():
            zones[pair] = zones.get(pair, 0) + count
        coming += into
        busiest = float(max(into.max(initial=0), out_of.max(initial=0))) * replica_bytes / rates.device
        if rates.zone is not None:
            across = max((count for (one, other), count in between.items() if one != other), default=0)
            busiest = max(busiest, across * replica_bytes / rates.zone)
        steps.append(StepFlow(int(moves.sum()), int(moves.sum()) * replica_bytes, busiest))
    leaving = before[(plan.steps > 0) & (before != NO_DEVICE)]
    going += np.bincount(leaving, minlength=id_count)
    held = np.bincount(before[before != NO_DEVICE], minlength=id_count)
    flows = [
        DeviceFlow(device, int(held[i]), int(coming[i]), int(going[i]), int(held[i] + coming[i] - going[i]))
        for i, device in enumerate(plan.devices)
        if device is not None and (coming[i] or going[i])
    ]
    return Traffic(replica_bytes, flows, zones, steps, int(np.count_nonzero(plan.due())))


def loss_of(design: Design, ring: Ring, lost_ids: Iterable[int], now_min: int) -> Loss:
    """What it means if these devices are lost for good."""
    lost = set(lost_ids)
    gone_id = np.zeros(len(ring.devices) + 1, dtype=bool)
    gone_id[[number for number in lost if number < len(ring.devices)]] = True
    present = ring.table != NO_DEVICE
    hit = gone_id[np.minimum(ring.table, np.uint32(len(ring.devices)))] & present
    replicas = np.count_nonzero(present, axis=0)
    left = replicas - np.count_nonzero(hit, axis=0)
    survivors = Design(design.settings, Topology.of(d for d in design.topology if d.id not in lost))
    plan, obstacle = _repair(survivors, ring, now_min)
    return Loss(
        lost=[device for device in ring.devices if device is not None and device.id in lost],
        below=np.flatnonzero((left < replicas // 2 + 1) & (left > 0)),
        gone=np.flatnonzero(left == 0),
        fewer=int(np.count_nonzero((left < replicas) & (left >= replicas // 2 + 1))),
        untouched=int(np.count_nonzero(left == replicas)),
        counts=np.bincount(ring.table[present & ~hit], minlength=len(ring.devices)),
        carried=None if plan is None else plan.after.counts,
        quality=None if plan is None else plan.after,
        obstacle=obstacle,
        repairs=0 if plan is None else plan.move_count,
    )


def _repair(survivors: Design, ring: Ring, now_min: int) -> tuple[Plan | None, str]:
    """The plan by which the survivors take over, or why there is none."""
    from ring.memory import Memory
    from ring.quota import QuotaError

    try:
        return make_plan(survivors, Memory.of(ring), now_min), ""
    except (RebalanceError, QuotaError) as error:
        return None, str(error)


def _sources(plan: Plan) -> Table:
    """For each entry of the table the device that the replica is copied from; NO_DEVICE if there is nothing to copy yet.

    A replica that moves is copied from where it was, one that is made again from the first that is alive.
    """
    before = plan.change.before
    alive = ~plan.refills & (before != NO_DEVICE)
    first = alive.argmax(axis=0)
    other = np.where(alive.any(axis=0), np.take_along_axis(before, first[None], axis=0)[0], np.uint32(NO_DEVICE))
    return np.where(plan.refills, other[None], before)


def _between(
    devices: tuple[Device | None, ...], source: NDArray[np.uint32], to: NDArray[np.uint32]
) -> dict[tuple[Tier, Tier], int]:
    """Replicas copied from zone to zone."""
    tiers = sorted(
        {device.tiers[1] for device in devices if device is not None}, key=lambda tier: tuple(map(int, tier))
    )
    number = {tier: index for index, tier in enumerate(tiers)}
    zone_of = np.array([number[device.tiers[1]] if device is not None else -1 for device in devices], dtype=np.int64)
    pairs = np.bincount(zone_of[source] * len(tiers) + zone_of[to], minlength=len(tiers) ** 2)
    return {
        (tiers[index // len(tiers)], tiers[index % len(tiers)]): int(pairs[index]) for index in np.flatnonzero(pairs)
    }
