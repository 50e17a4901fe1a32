"""A domain that holds more than one replica of some partition: which child gets which.

Problem: such a domain's children must each hold their quota, and of each partition between floor and ceil of quota/P.
What is there now meets neither, and as little of it as possible should move.

Idea: a handful of passes over whole arrays, whose rows are the partitions' replicas here and whose columns are partitions:

  trim      a partition with too many replicas in a child gives some up;
  free      a partition with too few in a child gives up one elsewhere; a child above its quota gives up what is too much, on
            devices that are above theirs, in partitions that don't move already and are not locked;
  fill      what was given up goes where it must, then where there is need, the partitions with the fewest choices first;
  settle    what did not fit goes where it may, and chains of exchanges between children make the sums right.

The chains are shortest paths of the residual graph, first through what moves anyway, then through what rests. They end with
every sum right: the rules make the constraint matrix totally unimodular, a fractional solution exists (an equal part of each
partition everywhere), hence a whole one does, hence an augmenting chain does as long as a sum is wrong.

Invariants: after `settle_all` every replica has a child, and every quota and bound of the children holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ring.quota import DEVICE_LEVEL, Quotas
from ring.selection import Budget, pick
from ring.shuffle import Shuffler

Bools: TypeAlias = NDArray[np.bool_]
Numbers: TypeAlias = NDArray[np.int64]

NOWHERE = -1
"""In a placement: this replica has no device yet."""
ABSENT = -2
"""In a placement: there is no such replica (the last one, of a fractional count)."""

_FEW = 16
"""Children in need up to this many are filled one after the other, choosing rows well; more are filled by lot."""
_LOT_ROUNDS = 12
"""A lot rarely fails for a row; what twelve left over goes to settle()."""


@dataclass(slots=True)
class Work:
    """What all domains share while a reassignment runs.

    home     where each replica was, [replica, partition], as a number of a device of the tree
    devices  where it is now, flat; NOWHERE once it was given up
    held     how many replicas each device has kept
    moving   how many replicas of each partition were given up
    locked   partitions that should not move if others can
    """

    quotas: Quotas
    home: NDArray[np.int32]
    devices: NDArray[np.int32]
    held: Numbers
    moving: Numbers
    locked: Bools
    shuffler: Shuffler

    def surplus(self) -> Numbers:
        """How many replicas each device has above its quota."""
        surplus: Numbers = np.maximum(self.held - self.quotas.counts[DEVICE_LEVEL], 0)
        return surplus

    def free(self, slots: NDArray[np.intp], partitions: NDArray[np.intp]) -> None:
        """Take these replicas, at most one of a partition, from their devices (if they have any)."""
        devices = self.devices[slots]
        kept = devices >= 0
        self.held -= np.bincount(devices[kept], minlength=len(self.held))
        self.moving[partitions[kept]] += 1
        self.devices[slots] = NOWHERE


@dataclass(frozen=True, slots=True)
class _View:
    """Some partitions (columns), and which of their replicas may be exchanged."""

    columns: NDArray[np.intp]
    may: Bools


class WideDomain:
    """One domain whose children may hold more than one replica of a partition together, while it is visited.

    slots     replicas that are in the domain, [row, partition], as flat numbers; -1: no replica
    child     the child that each is in; NOWHERE: not placed yet; ABSENT: no replica
    """

    def __init__(self, work: Work, level: int, children: NDArray[np.intp], slots: Numbers) -> None:
        self.work = work
        self.slots = slots
        self.first_child = int(children[0])
        self.quota = work.quotas.counts[level + 1][children]
        low, high = work.quotas.bounds(level + 1)
        # One more entry at each end of the child numbers' range: NOWHERE and ABSENT index from the back.
        self.low = np.r_[low[children], 0, 0]
        self.high = np.r_[high[children], 0, 0]
        self.count = len(children)
        number = np.r_[work.quotas.tree.domains[level + 1], 0] - self.first_child
        devices = work.devices[slots]
        self.child = np.where(slots < 0, ABSENT, np.where(devices < 0, NOWHERE, number[devices])).astype(np.int32)

    def settle_all(self) -> None:
        """Put each replica into a child, all quotas and bounds met."""
        self._trim()
        self._free_for_need()
        self._free_excess()
        self._fill_need()
        if self._need().max(initial=0) > 0 and np.count_nonzero(self._need() > 0) <= _FEW:
            self._fill_few()
        else:
            self._fill_by_lot()
        self._fill_anywhere()
        self._settle()

    def slots_of(self, child: int) -> Numbers:
        """The replicas of a child, [row, partition], without empty rows."""
        rows = int(self.high[child])
        slots = np.full((rows, self.slots.shape[1]), -1, dtype=np.int64)
        fill = np.zeros(self.slots.shape[1], dtype=np.intp)
        for row, held in zip(self.slots, self.child == child, strict=True):
            columns = np.flatnonzero(held)
            slots[fill[columns], columns] = row[columns]
            fill[columns] += 1
        return slots

    # What a column (a child) and a row (a partition) hold.

    def _totals(self) -> Numbers:
        return np.bincount(self.child[self.child >= 0], minlength=self.count)

    def _need(self) -> Numbers:
        return self.quota - self._totals()

    def _held_of(self, child: int) -> Numbers:
        """How many replicas each partition has in a child."""
        held: Numbers = np.count_nonzero(self.child == child, axis=0)
        return held

    def _unplaced(self) -> Numbers:
        unplaced: Numbers = np.count_nonzero(self.child == NOWHERE, axis=0)
        return unplaced

    def _alike(self) -> Numbers:
        """For each replica how many of its partition are in the same child, itself included."""
        alike = np.zeros(self.child.shape, dtype=np.int64)
        for row in self.child:
            alike += self.child == row
        return alike

    # The passes.

    def _free(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> None:
        """Take these replicas, one of a partition, out of their children."""
        self.work.free(self.slots[rows, columns], columns)
        self.child[rows, columns] = NOWHERE

    def _trim(self) -> None:
        """Take out of each row what is above a child's bound, from devices above their quota if possible."""
        while True:
            over = (self.child >= 0) & (self._alike() > self.high[self.child])
            if not over.any():
                return
            rows, columns = pick(over, self._dear(over), self.work.shuffler, ())
            self._free(rows, columns)

    def _free_for_need(self) -> None:
        """Make each row give up as many replicas as it lacks in children that must have some of each partition."""
        must = [int(child) for child in np.flatnonzero(self.low[: self.count])]
        if not must:
            return
        while True:
            lack = sum(
                (np.maximum(self.low[child] - self._held_of(child), 0) for child in must),
                start=np.zeros(self.child.shape[1], dtype=np.int64),
            )
            short = lack > self._unplaced()
            if not short.any():
                return
            may = (self.child >= 0) & (self._alike() > self.low[self.child]) & short
            # First within what children and devices have too much, so that others need not give up more later.
            rows, columns = pick(may, self._dear(may), self.work.shuffler, self._budgets())
            if not len(columns):
                rows, columns = pick(may, self._dear(may), self.work.shuffler, ())
            assert len(columns), "a row that lacks a replica in one child has one to spare in another"
            self._free(rows, columns)

    def _free_excess(self) -> None:
        """Make each child that is above its quota give up what is too much."""
        for from_surplus in (True, False):
            while True:
                excess = -self._need()
                if excess.max(initial=0) <= 0:
                    return
                above = np.r_[excess > 0, False, False]
                may = (self.child >= 0) & above[self.child] & (self._alike() > self.low[self.child])
                budgets = self._budgets() if from_surplus else self._budgets()[1:]
                rows, columns = pick(may, self._dear(may), self.work.shuffler, budgets)
                if not len(columns):
                    break
                self._free(rows, columns)

    def _budgets(self) -> tuple[Budget, ...]:
        """How much each device, and each child, has above its quota."""
        devices = np.where(self.child >= 0, self.work.devices[self.slots], 0)
        children = np.maximum(self.child, 0)
        return (
            Budget(devices, self.work.surplus()),
            Budget(children, np.maximum(-self._need(), 0)),
        )

    def _dear(self, may: Bools) -> NDArray[np.uint8]:
        """How reluctantly each replica is given up: less than others if its partition is idle and free to move, a child
        in need would take it, and its device has too many."""
        needy = [int(child) for child in np.flatnonzero(self._need() > 0)]
        if 0 < len(needy) <= _FEW:
            fits = np.zeros(self.child.shape[1], dtype=bool)
            for child in needy:
                fits |= self._held_of(child) < self.high[child]
        else:
            fits = np.ones(self.child.shape[1], dtype=bool)
        partition = (np.minimum(self.work.moving, 7) * 8 + self.work.locked * np.uint8(4) + ~fits * np.uint8(2)).astype(
            np.uint8
        )
        fits_device = np.r_[self.work.surplus() > 0, False][np.where(may, self.work.devices[self.slots], -1)]
        dear: NDArray[np.uint8] = partition + ~fits_device
        return dear

    def _place(self, columns: NDArray[np.intp], child: int | NDArray[np.int32]) -> None:
        """Put one unplaced replica of each of these partitions into a child."""
        rows = (self.child[:, columns] == NOWHERE).argmax(axis=0)
        self.child[rows, columns] = child

    def _fill_need(self) -> None:
        """Give each child that must have some of each partition what it lacks."""
        for child in map(int, np.flatnonzero(self.low[: self.count])):
            for _ in range(int(self.low[child])):
                lacking = (self._held_of(child) < self.low[child]) & (self._unplaced() > 0)
                self._place(np.flatnonzero(lacking), child)

    def _fill_few(self) -> None:
        """Fill children in need one after the other, from the partitions with the fewest choices."""
        while True:
            before = int(self._unplaced().sum())
            need = self._need()
            needy = [int(child) for child in np.argsort(-need, kind="stable") if need[child] > 0]
            fits = {child: self._held_of(child) < self.high[child] for child in needy}
            choices = sum(fits.values(), start=np.zeros(self.child.shape[1], dtype=np.int64))
            for child in needy:
                columns = np.flatnonzero(fits[child] & (self._unplaced() > 0))
                lot = self.work.shuffler.words(len(columns))
                chosen = columns[np.lexsort((lot, choices[columns]))[: need[child]]]
                self._place(chosen, child)
            if int(self._unplaced().sum()) == before:
                return

    def _fill_by_lot(self) -> None:
        """Match unplaced replicas and places by lot, again and again for those that drew what they may not have."""
        for _ in range(_LOT_ROUNDS):
            columns = np.flatnonzero(self._unplaced())
            need = np.maximum(self._need(), 0)
            places = np.repeat(np.arange(self.count, dtype=np.int32), need)
            if not len(columns) or not len(places):
                return
            columns = columns[self.work.shuffler.permutation(len(columns))][: len(places)]
            places = places[self.work.shuffler.permutation(len(places))][: len(columns)]
            fits = np.count_nonzero(self.child[:, columns] == places, axis=0) < self.high[places]
            self._place(columns[fits], places[fits])

    def _fill_anywhere(self) -> None:
        """Place what is left where the bounds allow it, whatever the quotas say."""
        for child in map(int, np.argsort(-self._need(), kind="stable")):
            while True:
                columns = np.flatnonzero((self._unplaced() > 0) & (self._held_of(child) < self.high[child]))
                if not len(columns):
                    break
                self._place(columns, child)
        assert not self._unplaced().any(), "the children's bounds add up to at least what the domain holds"

    def _settle(self) -> None:
        """Exchange replicas along shortest chains of children until all quotas are met; at first only what moves anyway."""
        while True:
            need = self._need()
            if not need.any():
                return
            for view in (self._movers(), self._all()):
                chain = self._chain(need, view)
                if chain:
                    break
            else:
                raise AssertionError("the quotas of a domain's children cannot be met, though they add up")
            amount = min(int(-need[chain[0]]), int(need[chain[-1]]))
            for giver, taker in pairwise(chain):
                self._exchange(giver, taker, amount, view)

    def _movers(self) -> _View:
        """The partitions of which a replica moves anyway, and those replicas."""
        moves = (self.slots >= 0) & (self.work.devices[self.slots] < 0)
        columns = np.flatnonzero(moves.any(axis=0))
        return _View(columns, moves[:, columns])

    def _all(self) -> _View:
        """All partitions and replicas."""
        return _View(np.arange(self.slots.shape[1]), self.slots >= 0)

    def _passable(self, taker: int, view: _View) -> Bools:
        """The replicas of a view that could go over into a child."""
        child = self.child[:, view.columns]
        open_to = np.count_nonzero(child == taker, axis=0) < self.high[taker]
        alike = np.zeros(child.shape, dtype=np.int64)
        for row in child:
            alike += child == row
        may: Bools = view.may & (child >= 0) & (child != taker) & (alike > self.low[child]) & open_to
        return may

    def _chain(self, need: Numbers, view: _View) -> list[int]:
        """The children of a shortest chain from one above its quota to one below; empty if there is none."""
        following: dict[int, int] = {}
        front = [int(child) for child in np.flatnonzero(need > 0)]
        seen = set(front)
        while front:
            reached: list[int] = []
            for taker in front:
                givers = np.unique(self.child[:, view.columns][self._passable(taker, view)])
                fresh = [int(giver) for giver in givers if int(giver) not in seen]
                seen.update(fresh)
                following.update(dict.fromkeys(fresh, taker))
                reached += fresh
                over = [giver for giver in fresh if need[giver] < 0]
                if over:
                    chain = [over[0]]
                    while chain[-1] in following:
                        chain.append(following[chain[-1]])
                    return chain
            front = reached
        return []

    def _exchange(self, giver: int, taker: int, amount: int, view: _View) -> None:
        """Let up to `amount` partitions give one replica over, those that move anyway first."""
        may = self._passable(taker, view) & (self.child[:, view.columns] == giver)
        at_rest = self.work.devices[self.slots[:, view.columns]] >= 0
        dear = np.where(at_rest, np.uint8(64) + self._dear(self.slots >= 0)[:, view.columns], np.uint8(0))
        budget = Budget(np.zeros(may.shape, dtype=np.int64), np.array([amount]))
        rows, columns = pick(may, dear.astype(np.uint8), self.work.shuffler, (budget,))
        columns = view.columns[columns]
        self._free(rows, columns)
        self.child[rows, columns] = taker
