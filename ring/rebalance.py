"""The plan of a change, and its steps.

Problem: a change of the topology is worth gigabytes on the wire and hours at risk. An operator wants to see it before, and
it must not take more than one replica of a partition away from its place at a time, or a partition could lose its
majority to a single failure while it moves.

Idea: compute the placement at the end first, with as few moves as the quotas allow, and then order the moves of each
partition: its first is in step 1, its second in step 2. What has no data to move (a replica on a removed device is lost, a
new one does not exist yet) is put right in step 1 at once, whatever min_part_hours says. A rebalance carries out one step
for the partitions that min_part_hours allows to move; the next one, hours later, computes again from where things are then.

The plan and the rebalance are the same computation with the same seed, so what the plan said is what is done.

Invariants, checked after each computation (`ring.measure.check`): the end meets every quota and bound; between any two steps
a partition differs in at most one replica that is alive; no table in between has a device twice in a partition.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ring.check import CheckError, check
from ring.measure import balance, device_counts, dispersion
from ring.memory import Memory
from ring.placement import Change, next_placement
from ring.quota import Quotas, Tree, solve_quotas
from ring.ring import NO_DEVICE, Ring, Table
from ring.shuffle import mix_one
from ring.topology import Device
from ring.topology_file import Design


class RebalanceError(ValueError):
    """The caller's: this design can't be brought about now. The message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Quality:
    """How good a placement is: balance and dispersion in percent, and replicas by device id."""

    balance: float
    dispersion: float
    counts: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Plan:
    """A change from what is to what should be.

    devices   by id: those of the design, and those gone ones that still hold replicas now
    quotas    what each domain will hold at the end
    change    the tables before and after, row by row
    steps     in which step each replica moves, 1 and up; 0: it stays. [replica, partition]
    refills   replicas that come into being without another one leaving its place, [replica, partition]
    locked    partitions that may not move yet, [partition]
    before, after   quality now (None before the first rebalance) and at the end
    """

    design: Design
    devices: tuple[Device | None, ...]
    quotas: Quotas
    change: Change
    steps: NDArray[np.uint8]
    refills: NDArray[np.bool_]
    locked: NDArray[np.bool_]
    before: Quality | None
    after: Quality

    @property
    def step_count(self) -> int:
        """In how many steps the change is done."""
        return int(self.steps.max(initial=0))

    @property
    def move_count(self) -> int:
        """Replicas that move or come into being."""
        return int(np.count_nonzero(self.steps))

    def table_after(self, step: int) -> Table:
        """The table once that many steps have been carried out."""
        return np.where(self.steps <= step, self.change.after, self.change.before)

    def due(self) -> NDArray[np.bool_]:
        """The replicas that a rebalance moves now: the first step, but for locked partitions only what is missing."""
        due: NDArray[np.bool_] = (self.steps == 1) & (~self.locked | self.refills)
        return due


@dataclass(frozen=True, slots=True)
class Rebalance:
    """What a rebalance did.

    memory    the new memory, its ring one epoch further
    moved     replicas that move now
    waiting   replicas of the plan that are left for later rebalances
    locked    partitions among these that min_part_hours holds back
    """

    memory: Memory
    moved: int
    waiting: int
    locked: int
    quality: Quality


def make_plan(design: Design, memory: Memory | None, now_min: int, seed: int | None = None) -> Plan:
    """The plan from where replicas are to where they should be. Deterministic for a seed (by default the ring's own).

    `now_min` is the time in minutes since 1970-01-01 UTC. RebalanceError if the design can't be, QuotaError if there are
    fewer devices than replicas.
    """
    settings = design.settings
    holders = design.holders()
    if not any(device.weight > 0 for device in holders):
        raise RebalanceError(f"there is no {settings.kind} device with weight: add one")
    old = memory.ring if memory is not None else None
    if old is not None:
        _check_powers(design, old)
    devices = merged_devices(design, old)
    tree = Tree.of(holders)
    held = None if old is None else device_counts(old.table, len(devices))[tree.ids]
    quotas = solve_quotas(tree, settings.part_count, settings.replica_total, settings.overload, held)
    locked = locked_partitions(design, memory, now_min)
    stream = mix_one(settings.seed if seed is None else seed)
    change = next_placement(None if old is None else old.table, quotas, locked, stream, devices)
    check(quotas, change.after)
    steps, refills = _steps(change, design)
    plan = Plan(
        design=design,
        devices=devices,
        quotas=quotas,
        change=change,
        steps=steps,
        refills=refills,
        locked=locked,
        before=None if old is None else quality_of(design, old.table),
        after=quality_of(design, change.after),
    )
    check_steps(plan)
    return plan


def rebalance(plan: Plan, memory: Memory | None, now_min: int, epoch: int) -> Rebalance:
    """Carry out what is due of a plan; the new ring has that epoch, which must be above all before it."""
    due = plan.due()
    table = np.where(due, plan.change.after, plan.change.before)
    moved_min = np.zeros(table.shape[1], dtype=np.uint32) if memory is None else memory.moved_min.copy()
    if memory is not None:
        # A first placement moves nothing: there is no data yet that would have to rest.
        moved_min[due.any(axis=0)] = now_min
    ring = Ring(
        part_power=plan.design.settings.part_power,
        seed=plan.design.settings.seed,
        epoch=epoch,
        devices=_without_unused(plan, table),
        table=table,
    )
    left = (plan.steps > 0) & ~due
    return Rebalance(
        memory=Memory(ring, moved_min),
        moved=int(np.count_nonzero(due)),
        waiting=int(np.count_nonzero(left)),
        locked=int(np.count_nonzero(left.any(axis=0) & plan.locked)),
        quality=plan.after if not left.any() else quality_of(plan.design, table),
    )


def locked_partitions(design: Design, memory: Memory | None, now_min: int) -> NDArray[np.bool_]:
    """The partitions that moved less than min_part_hours ago."""
    if memory is None:
        return np.zeros(design.settings.part_count, dtype=bool)
    rest_min = design.settings.min_part_hours * 60
    locked: NDArray[np.bool_] = memory.moved_min.astype(np.int64) + rest_min > now_min
    return locked


def merged_devices(design: Design, old: Ring | None) -> tuple[Device | None, ...]:
    """By id: the devices of the design, and those of the old ring that are gone but hold replicas."""
    devices = {device.id: device for device in design.topology}
    if old is not None:
        counts = device_counts(old.table, len(old.devices))
        for device in old.devices:
            if device is not None and counts[device.id]:
                devices.setdefault(device.id, device)
    return tuple(devices.get(number) for number in range(max(devices, default=-1) + 1))


def quality_of(design: Design, table: Table) -> Quality:
    """Balance and dispersion of a table for the devices of a design."""
    holders = design.holders()
    id_count = max((device.id for device in holders), default=-1) + 1
    return Quality(balance(holders, table), dispersion(holders, table), device_counts(table, id_count))


def check_steps(plan: Plan) -> None:
    """Verify the steps of a plan from nothing. CheckError says what is wrong."""
    previous = plan.change.before
    if plan.refills.all():
        # A first placement: one step, in which nothing moves; the end has been checked.
        return
    for step in range(1, plan.step_count + 1):
        table = plan.table_after(step)
        moving = np.count_nonzero((table != previous) & ~plan.refills, axis=0)
        if moving.max(initial=0) > 1:
            raise CheckError(f"step {step} moves two live replicas of partition {int(moving.argmax())}")
        for row in range(len(table)):
            for other in range(row):
                if np.any((table[row] == table[other]) & (table[row] != NO_DEVICE)):
                    raise CheckError(f"after step {step} a partition has a device twice")
        previous = table
    if not np.array_equal(previous, plan.change.after):
        raise CheckError("the steps don't lead to the end")


def _check_powers(design: Design, old: Ring) -> None:
    if old.transition_power is not None:
        raise RebalanceError(
            "a part power increase is under way: finish it (finish_increase_partition_power) or cancel it, then rebalance"
        )
    if old.part_power != design.settings.part_power:
        raise RebalanceError(
            f"part_power is {design.settings.part_power} in the topology file and {old.part_power} in the ring: it changes "
            "by prepare_increase_partition_power alone, so set it back"
        )
    if old.seed != design.settings.seed:
        raise RebalanceError(
            f"seed is {design.settings.seed} in the topology file and {old.seed} in the ring: every name would move to "
            "another partition, so set it back"
        )


def _steps(change: Change, design: Design) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """In which step each replica moves, and which of them are refills."""
    moved = change.moved
    here = {device.id for device in design.topology if device.kind == design.settings.kind}
    id_max = int(np.max(change.before, where=change.before != NO_DEVICE, initial=0))
    gone = np.array([number not in here for number in range(id_max + 1)] + [True])
    refills = moved & gone[np.minimum(change.before, np.uint32(id_max + 1))]
    # Each further live move of a partition waits for the one before, the first for the refills.
    live = moved & ~refills
    turn = np.cumsum(live, axis=0) + refills.any(axis=0)
    return np.where(refills, 1, np.where(live, turn, 0)).astype(np.uint8), refills


def _without_unused(plan: Plan, table: Table) -> tuple[Device | None, ...]:
    """The devices of the design, and gone ones only while they hold something."""
    here = {device.id for device in plan.design.topology}
    counts = device_counts(table, len(plan.devices))
    kept = [device if device and (device.id in here or counts[device.id]) else None for device in plan.devices]
    while kept and kept[-1] is None:
        kept.pop()
    return tuple(kept)
