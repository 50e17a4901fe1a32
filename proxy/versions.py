"""Finding the newest version of an object.

Problem: a read returns the newest of a majority, and on the hot path (every device on this machine, all well) that must
cost two look-ups and one `pread`, not two tasks.

Idea: the quick way asks two local readers directly, the data from the first; if they agree, that is the answer. All else
(a replica behind the wire, a disagreement, nothing found, a checksum that fails) takes the general way through
`quorum.read`, and where nothing is found, or devices were away lately, on to the remaining primaries and the handoffs,
where a write may have landed when they were.

Invariants: the version given is at least as new as any write that was acknowledged undegraded; `sources` lists the replicas
known to hold exactly that version, the best first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from proxy.cluster import Cluster, Placement, Replica
from proxy.model import Unavailable
from proxy.quorum import Gather, read
from storage_node.operations import Answer, Entry, Found, GetObject, ReadOperation, Status


@dataclass(slots=True)
class Version:
    """The newest version of an object, a tombstone perhaps."""

    placement: Placement
    key: bytes
    entry: Entry | None
    data: bytes | None
    sources: tuple[Replica, ...]
    degraded: bool

    @property
    def live(self) -> bool:
        """Whether there is an object."""
        return self.entry is not None and not self.entry.deleted


async def find_version(cluster: Cluster, key: bytes, *, data: bool, newest: bool = False) -> Version:
    """The newest version of the object with this key; `newest` asks every primary and handoff that can be reached.

    Raises Unavailable if no device answers.
    """
    placement = cluster.place(key)
    if cluster.all_local and not newest and not cluster.cautious and not placement.moving:
        quick = _find_locally(placement, key, data, len(placement.primaries) if cluster.thorough else placement.need)
        if quick is not None:
            return quick
    return await _find_anywhere(cluster, placement, key, data, newest)


async def find_certainly(cluster: Cluster, key: bytes) -> Version:
    """The newest version on any device that can be reached, its data included, for whoever is going to delete.

    Raises Unavailable where less than a majority of the primaries answers: then what is not found may be there.
    """
    version = await find_version(cluster, key, data=True, newest=True)
    if version.degraded:
        raise Unavailable("too few devices that should have this object answer; retry")
    return version


def _find_locally(placement: Placement, key: bytes, data: bool, ask: int) -> Version | None:
    """The answer of the first `ask` primaries if all are local, have the object and agree; else None."""
    primaries = placement.primaries
    reader = primaries[0].reader
    assert reader is not None
    first = reader.read(GetObject(placement.hash, key, data))
    if not isinstance(first, Found) or first.status != Status.FOUND:
        return None
    entry = first.entry
    if entry is None or reader.filling:
        return None
    versions = GetObject(placement.hash, key, False)
    for replica in primaries[1:ask]:
        assert replica.reader is not None
        other = replica.reader.read(versions)
        if (
            not isinstance(other, Found)
            or other.status != Status.FOUND
            or other.entry is None
            or replica.reader.filling
            or other.entry.timestamp != entry.timestamp
            or other.entry.meta_timestamp != entry.meta_timestamp
        ):
            return None
    return Version(placement, key, entry, first.data, primaries, False)


async def _find_anywhere(cluster: Cluster, placement: Placement, key: bytes, data: bool, newest: bool) -> Version:
    with_data = GetObject(placement.hash, key, data)
    version_only = GetObject(placement.hash, key, False)

    def operation(index: int) -> ReadOperation:
        return with_data if index == 0 else version_only

    answers, degraded = await read(cluster, placement, operation, everyone=newest)
    found = _found(answers)
    if newest or cluster.cautious or not any(not answer.entry.deleted for _, answer in found if answer.entry):
        asked = {replica for replica, _ in answers}
        found += await _ask_others(placement, version_only, asked, handoffs=newest or cluster.cautious or not found)
    return choose(placement, key, found, degraded)


async def _ask_others(
    placement: Placement, operation: GetObject, asked: set[Replica], *, handoffs: bool
) -> list[tuple[Replica, Found]]:
    """The primaries that were not asked yet and as many handoffs as there are primaries."""
    others = [replica for replica in placement.primaries if replica not in asked]
    if handoffs:
        for replica in placement.handoffs():
            if len(others) >= 2 * len(placement.primaries):
                break
            if replica not in asked:
                others.append(replica)
    gather = Gather(len(others) + 1)
    for replica in others:
        if replica.reader is not None or replica.reachable:
            gather.ask(replica, operation)
    await gather.wait()
    return _found(gather.answers)


def _found(answers: Sequence[tuple[Replica, Answer]]) -> list[tuple[Replica, Found]]:
    return [
        (replica, answer)
        for replica, answer in answers
        if isinstance(answer, Found) and answer.status == Status.FOUND and answer.entry is not None
    ]


def choose(placement: Placement, key: bytes, found: list[tuple[Replica, Found]], degraded: bool) -> Version:
    """The newest of what was found: newest data (of equal times the tombstone), then newest metadata."""
    best: Entry | None = None
    for _, answer in found:
        entry = answer.entry
        assert entry is not None
        if best is None or _version(entry) > _version(best):
            best = entry
    if best is None:
        return Version(placement, key, None, None, (), degraded)
    holders = [
        (replica, answer)
        for replica, answer in found
        if answer.entry is not None and answer.entry.timestamp == best.timestamp and not answer.entry.deleted
    ]
    data = next((answer.data for _, answer in holders if answer.data is not None), None)
    return Version(placement, key, best, data, tuple(replica for replica, _ in holders), degraded)


def _version(entry: Entry) -> tuple[int, bool, int]:
    return entry.timestamp, entry.deleted, entry.meta_timestamp
