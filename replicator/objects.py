"""Settling a range of hashes in which devices differ: every primary gets the newest of each object, handoffs are emptied.

The range is small when it comes here (see rounds.py). It is listed on all devices concerned, side by side, and for each
object that is not everywhere the same the plan of versions.py is carried out.

What was written within the last seconds is left alone: its writer is probably still sending it to the others, and a
comparison of devices that are being written to is a comparison of different moments. It is looked at again next round.

Who does what, where several nodes run replicators: the node of the first device that holds the newest entry. If nothing has
come of it by the time the difference is old, the nodes of the devices that lack it fetch it. All of it may be done twice
without harm.

Invariants: a handoff's copy is removed only as exactly the version that was listed, and only after every primary has
confirmed the newest one in this very pass, by listing it or by writing it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import trio

from replicator.differences import Concerned, HashRange
from replicator.listing import list_entries
from replicator.peers import Peers
from replicator.transfer import Moved, Transfer
from replicator.versions import ObjectPlan, plan_object
from storage_node.operations import Entry, ForgetObject, ListedEntry, Space, Status
from storage_node.timestamp import from_microseconds

CONCURRENCY: Final = 32
"""Objects of one range that are copied at a time."""


class Outcome(NamedTuple):
    """What became of a range."""

    settled: int = 0
    """Names that differed and do not any more."""
    young: int = 0
    """Names that were left alone because they were written just now."""
    left: int = 0
    """Names that still differ: a device is away, a copy failed, another node is to do it."""

    def __add__(self, other: object) -> Outcome:
        assert isinstance(other, Outcome)
        return Outcome(self.settled + other.settled, self.young + other.young, self.left + other.left)


@dataclass(frozen=True)
class Manner:
    """How to go about a pass."""

    before: int
    """Timestamps from here on are too young to be looked at."""
    patient: bool
    """Leave to other nodes what they can do themselves."""

    @classmethod
    def at(cls, now_us: int, settle_s: float, *, patient: bool) -> Manner:
        """For a pass that begins now."""
        return cls(from_microseconds(max(0, now_us - int(settle_s * 1_000_000))), patient)


class ObjectSettler:
    """Makes the devices of `peers` agree on objects."""

    def __init__(self, peers: Peers, transfer: Transfer, moved: Moved) -> None:
        self._peers = peers
        self._transfer = transfer
        self._moved = moved

    async def settle(self, within: HashRange, concerned: Concerned, manner: Manner) -> Outcome:
        """Settle everything in a range. Does not raise for what devices do."""
        outcome = Outcome()
        async for beside, answered in list_entries(self._peers, Space.OBJECT, within, concerned.everyone):
            outcome += await self._settle_portion(beside, answered, concerned.primaries, manner)
        return outcome

    async def _settle_portion(
        self,
        beside: Mapping[bytes, Mapping[int, ListedEntry]],
        answered: tuple[int, ...],
        primaries: tuple[int, ...],
        manner: Manner,
    ) -> Outcome:
        outcomes: list[Outcome] = []
        limit = trio.CapacityLimiter(CONCURRENCY)

        async def settle_one(hash_: bytes, key: bytes, plan: ObjectPlan) -> None:
            async with limit:
                outcomes.append(await self.settle_object(hash_, key, plan, primaries, manner))

        async with trio.open_nursery() as nursery:
            for hash_, listed in beside.items():
                held: dict[int, Entry | None] = dict.fromkeys(answered)
                for device, item in listed.items():
                    if isinstance(item.entry, Entry):
                        held[device] = item.entry
                plan = plan_object(held, primaries)
                if plan is None or plan.settled:
                    continue
                if max(plan.newest.timestamp, plan.newest.meta_timestamp) >= manner.before:
                    outcomes.append(Outcome(young=1))
                    continue
                key = next(iter(listed.values())).key
                nursery.start_soon(settle_one, hash_, key, plan)
        return sum(outcomes, Outcome())

    async def settle_object(
        self, hash_: bytes, key: bytes, plan: ObjectPlan, primaries: tuple[int, ...], manner: Manner
    ) -> Outcome:
        """Carry out the plan for one object, as far as it is this node's to do."""
        copies = [copy for copy in plan.copies if self.is_mine(plan.holders, copy.target, manner)]
        confirmed = plan.confirmed
        if copies:
            confirmed |= await self._transfer.give(hash_, key, plan, copies)
        home = confirmed.issuperset(primaries)
        if not plan.surplus:
            return Outcome(settled=1) if home else Outcome(left=1)
        forgotten = 0
        for device, entry in plan.surplus:
            if home and (self._is_local(device) or not manner.patient):
                forgotten += await self._forget(device, hash_, key, entry)
        self._moved.forgotten += forgotten
        return Outcome(settled=1) if forgotten == len(plan.surplus) else Outcome(left=1)

    async def _forget(self, device: int, hash_: bytes, key: bytes, entry: Entry) -> bool:
        forget = ForgetObject(hash_, key, entry.timestamp, entry.meta_timestamp)
        answer = await self._peers.by_id[device].call(forget)
        return answer.status in (Status.APPLIED, Status.MISSING)

    def is_mine(self, holders: tuple[int, ...], target: int, manner: Manner) -> bool:
        """Whether this node is to give `target` what `holders` have."""
        if holders and self._is_local(holders[0]):
            return True
        return not manner.patient and (self._is_local(target) or any(map(self._is_local, holders)))

    def _is_local(self, device: int) -> bool:
        peer = self._peers.by_id.get(device)
        return peer is not None and peer.reader is not None
