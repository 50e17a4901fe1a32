"""Twice as many partitions, in place.

Problem: a cluster that has grown a hundredfold has too few partitions to balance; a new ring would move everything.

Idea: a partition is a prefix of a name's hash, so partition p under the old power is 2p and 2p+1 under the next, on the same
devices. Nothing moves. In Swift the partition is a directory, so every file has to be linked into its new one first and
unlinked from the old one afterwards; our devices keep things by their hash and need neither (see docs/decisions).

What is left is that not all nodes learn of a ring at the same moment, and that they speak to each other of partitions by
number. So the change goes in epochs, as Swift's does, and between prepare and finish both numberings are valid everywhere:

    prepare    the ring names the next power beside its own          epoch + 1
    increase   it goes over to it and names the one before           epoch + 1
    finish     every node has it: only the new one is left           epoch + 1
    cancel     instead of increase: back to where it was             epoch + 1

`Ring.part_powers` are the powers in force and `Ring.primaries_under` looks a partition up under either; handoffs are
the same under both until the end.

Invariants: at no step does any hash change its primaries; a ring in transition is not rebalanced.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ring.memory import Memory
from ring.ring import PART_POWER_MAX, Ring
from ring.topology_file import Design


class PartPowerError(ValueError):
    """The caller's: this step is not the next one. The message says which is."""


def prepare_increase(design: Design, memory: Memory) -> tuple[Design, Memory]:
    """Name the next part power beside the present one."""
    ring = memory.ring
    if ring.transition_power is not None:
        raise PartPowerError("the ring is prepared for a part power increase already: increase it, or cancel")
    if ring.part_power >= PART_POWER_MAX:
        raise PartPowerError(f"part power {ring.part_power} is the largest there is")
    return design, replace(memory, ring=_ring(ring, transition_power=ring.part_power + 1))


def increase(design: Design, memory: Memory) -> tuple[Design, Memory]:
    """Go over to the next part power, with the present one still valid."""
    ring = memory.ring
    if ring.transition_power != ring.part_power + 1:
        raise PartPowerError("the ring is not prepared for a part power increase: prepare it first")
    grown = Ring(
        part_power=ring.part_power + 1,
        seed=ring.seed,
        epoch=ring.epoch + 1,
        devices=ring.devices,
        table=np.repeat(ring.table, 2, axis=1),
        transition_power=ring.part_power,
    )
    settings = replace(design.settings, part_power=grown.part_power)
    return replace(design, settings=settings), Memory(grown, np.repeat(memory.moved_min, 2))


def finish_increase(design: Design, memory: Memory) -> tuple[Design, Memory]:
    """Leave the old part power behind."""
    ring = memory.ring
    if ring.transition_power is None or ring.transition_power > ring.part_power:
        raise PartPowerError("the part power has not been increased: there is nothing to finish")
    return design, replace(memory, ring=_ring(ring, transition_power=None))


def cancel_increase(design: Design, memory: Memory) -> tuple[Design, Memory]:
    """Leave the next part power behind, before the ring went over to it."""
    ring = memory.ring
    if ring.transition_power is None or ring.transition_power < ring.part_power:
        raise PartPowerError("no part power increase is prepared: there is nothing to cancel")
    return design, replace(memory, ring=_ring(ring, transition_power=None))


def _ring(ring: Ring, transition_power: int | None) -> Ring:
    """The same ring, one epoch further, in another transition."""
    return Ring(
        part_power=ring.part_power,
        seed=ring.seed,
        epoch=ring.epoch + 1,
        devices=ring.devices,
        table=ring.table,
        transition_power=transition_power,
    )
