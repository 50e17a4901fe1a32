"""From one placement to the next: the quotas met exactly, with the fewest moves.

Problem: devices came, went or changed their weight, so the quotas changed. Which replicas must move, and where to, so that
every domain holds its quota, every partition has between floor and ceil of quota/P replicas in each domain, and as little
as possible moves? As a minimum-cost flow it has a node for each (partition, domain): exact, and hopeless at 2**20.

Idea: go down the tree as the first placement does. Only a domain that holds more than one replica of some partition
restricts what its children may have of which partition; there are fewer of these at a level than there are replicas,
so they are visited one by one (`ring.wide_domain`). A domain with at most one replica of each partition is free in
what goes where: all such domains are then settled at once, devices above their quota giving up what is too much,
devices below taking it.

What a device gives up is what it has above its quota, which nobody can avoid; all choices are made among such replicas as
long as there are any. So the moves are the fewest, but for the rare chains through replicas that could have stayed;
`ring.polish` removes these where the ring is small enough, and `tests/ring` holds the result against a minimum-cost flow.

Rejected: Swift's gather and reassign, a loop over replicas in random order, which moves up to 2.9 times what it must and
needs several rounds; simulated annealing, which is never done.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ring.quota import DEVICE_LEVEL, Quotas
from ring.selection import Budget, pick, rank_within
from ring.shuffle import Shuffler
from ring.wide_domain import ABSENT, NOWHERE, Bools, Numbers, WideDomain, Work


def reassign(quotas: Quotas, home: NDArray[np.int32], locked: Bools, seed: int) -> NDArray[np.int32]:
    """A placement that meets the quotas, near to `home`.

    home     [replica, partition]: the device, numbered as in `quotas.tree`, NOWHERE or ABSENT; no device twice in a column
    locked   [partition]: prefer to move others

    Returns an array like `home` without NOWHERE. Deterministic.
    """
    flat = home.ravel().copy()
    work = Work(
        quotas=quotas,
        home=home.ravel(),
        devices=flat,
        held=np.bincount(flat[flat >= 0], minlength=len(quotas.tree)),
        moving=np.count_nonzero(home == NOWHERE, axis=0),
        locked=locked,
        shuffler=Shuffler(seed),
    )
    slots = np.where(home == ABSENT, -1, np.arange(home.size, dtype=np.int64).reshape(home.shape))
    leaf_of_slot = np.full(home.size, -1, dtype=np.int64)
    leaf_of_device = np.zeros(len(quotas.tree), dtype=np.int64)
    leaf_count = 0
    todo = [(0, 0, slots)]
    while todo:
        level, domain, slots = todo.pop()
        if quotas.counts[level][domain] <= quotas.part_count:
            leaf_of_slot[slots[slots >= 0]] = leaf_count
            leaf_of_device[quotas.tree.domains[level] == domain] = leaf_count
            leaf_count += 1
            continue
        children = np.flatnonzero(quotas.tree.parents[level + 1] == domain)
        if len(children) == 1:
            todo.append((level + 1, int(children[0]), slots))
            continue
        visit = WideDomain(work, level, children, slots)
        visit.settle_all()
        todo += [(level + 1, int(child), visit.slots_of(index)) for index, child in enumerate(children)]
    _settle_leaves(work, home.shape, leaf_of_slot, leaf_of_device)
    return work.devices.reshape(home.shape)


def _settle_leaves(work: Work, shape: tuple[int, ...], leaf_of_slot: Numbers, leaf_of_device: Numbers) -> None:
    """Within domains that hold no partition twice: devices above their quota give, those below take."""
    slots = np.arange(work.devices.size, dtype=np.int64).reshape(shape)
    _send_home(work, leaf_of_slot, leaf_of_device)
    while True:
        surplus = work.surplus()
        if not surplus.any():
            break
        devices = work.devices.reshape(shape)
        may = (devices >= 0) & np.r_[surplus > 0, False, False][devices]
        dear = np.broadcast_to(np.minimum(work.moving, 30) * 2 + work.locked, shape).astype(np.uint8)
        rows, columns = pick(may, dear, work.shuffler, (Budget(np.maximum(devices, 0), surplus),))
        work.free(slots[rows, columns], columns)
    unplaced = np.flatnonzero((work.devices == NOWHERE) & (leaf_of_slot >= 0))
    lack = work.quotas.counts[DEVICE_LEVEL] - work.held
    assert lack.min(initial=0) >= 0
    # Leaves are numbered in the order of the visits, and devices in that of the tree: bring both into the leaves' order.
    takers = np.argsort(leaf_of_device, kind="stable")
    order = np.lexsort((work.shuffler.words(len(unplaced)), leaf_of_slot[unplaced]))
    places = np.repeat(takers, lack[takers])
    assert len(places) == len(unplaced)
    work.devices[unplaced[order]] = places
    work.held += lack


def _send_home(work: Work, leaf_of_slot: Numbers, leaf_of_device: Numbers) -> None:
    """What was given up and came back to its domain goes to its own device again, if that has room."""
    lack = np.maximum(work.quotas.counts[DEVICE_LEVEL] - work.held, 0)
    astray = np.flatnonzero((work.devices == NOWHERE) & (work.home >= 0))
    astray = astray[leaf_of_device[work.home[astray]] == leaf_of_slot[astray]]
    if not len(astray):
        return
    home = work.home[astray]
    fits = rank_within(home, np.arange(len(home), dtype=np.uint64)) < lack[home]
    work.devices[astray[fits]] = home[fits]
    work.held += np.bincount(home[fits], minlength=len(work.held))
