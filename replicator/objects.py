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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from replicator.differences import Concerned, HashRange
from replicator.listing import list_entries
from replicator.peers import Peers, submit_all
from replicator.transfer import Errand, Moved, Transfer
from replicator.versions import plan_object
from storage_node.operations import Entry, ForgetObject, ListedEntry, Space, Status
from storage_node.timestamp import from_microseconds


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

    async def settle(
        self, within: HashRange, concerned: Concerned, manner: Manner, expected: frozenset[int] = frozenset()
    ) -> Outcome:
        """Settle everything in a range. Does not raise for what devices do.

        Something is left where one of the `expected` devices does not answer, whatever the others say.
        """
        outcome = Outcome()
        async for beside, answered in list_entries(self._peers, Space.OBJECT, within, concerned.everyone):
            if not expected.issubset(answered):
                outcome += Outcome(left=1)
            outcome += await self._settle_portion(beside, answered, concerned.primaries, manner)
        return outcome

    async def _settle_portion(
        self,
        beside: Mapping[bytes, Mapping[int, ListedEntry]],
        answered: tuple[int, ...],
        primaries: tuple[int, ...],
        manner: Manner,
    ) -> Outcome:
        outcome = Outcome()
        errands: list[Errand] = []
        for hash_, listed in beside.items():
            held: dict[int, Entry | None] = dict.fromkeys(answered)
            for device, item in listed.items():
                if isinstance(item.entry, Entry):
                    held[device] = item.entry
            plan = plan_object(held, primaries)
            if plan is None or plan.settled:
                continue
            if max(plan.newest.timestamp, plan.newest.meta_timestamp) >= manner.before:
                outcome += Outcome(young=1)
                continue
            copies = tuple(copy for copy in plan.copies if self.is_mine(plan.holders, copy.target, manner))
            errands.append(Errand(hash_, next(iter(listed.values())).key, plan, copies))
        return outcome + await self.settle_objects(errands, primaries, manner) if errands else outcome

    async def settle_objects(self, errands: Sequence[Errand], primaries: tuple[int, ...], manner: Manner) -> Outcome:
        """Carry out plans: make the copies, then remove what has gone home."""
        confirmed = await self._transfer.give(errands)
        left = 0
        forgets: list[tuple[int, int, ForgetObject]] = []
        for index, (errand, done) in enumerate(zip(errands, confirmed, strict=True)):
            home = errand.plan.confirmed.union(done).issuperset(primaries)
            ours = [
                (device, entry)
                for device, entry in errand.plan.surplus
                if home and (self._is_local(device) or not manner.patient)
            ]
            left += not home or len(ours) < len(errand.plan.surplus)
            for device, entry in ours:
                forget = ForgetObject(errand.hash, errand.key, entry.timestamp, entry.meta_timestamp)
                forgets.append((index, device, forget))
        kept = await self._forget(forgets)
        return Outcome(settled=len(errands) - left - kept, left=left + kept)

    async def _forget(self, forgets: Sequence[tuple[int, int, ForgetObject]]) -> int:
        """Remove copies that have gone home; of how many objects one was kept."""
        answers = await submit_all([(self._peers.by_id[device], forget) for _, device, forget in forgets])
        kept = set()
        for (index, _, _), answer in zip(forgets, answers, strict=True):
            if answer.status in (Status.APPLIED, Status.MISSING):
                self._moved.forgotten += 1
            else:
                kept.add(index)
        return len(kept)

    def is_mine(self, holders: tuple[int, ...], target: int, manner: Manner) -> bool:
        """Whether this node is to give `target` what `holders` have."""
        if holders and self._is_local(holders[0]):
            return True
        return not manner.patient and (self._is_local(target) or any(map(self._is_local, holders)))

    def _is_local(self, device: int) -> bool:
        peer = self._peers.by_id.get(device)
        return peer is not None and peer.reader is not None
