"""Which devices' answers decide while data moves from one ring to another. Pure.

Problem: after a ring change data lies where the old ring says while the new one says otherwise, and not every proxy hears
of the new ring in the same second. A majority of the new primaries alone would miss what was written before; a majority of
the old ones alone would be missed by a proxy that has let go of the old ring.

Idea: while several rings are in force a write or read has succeeded when it has a majority *in each of them*, as consensus
protocols do while their membership changes. A device that is a primary under two rings votes in both. Whichever of the
rings two proxies follow, as long as they have one in common their majorities meet. Most partitions have the same primaries
under all rings, and nothing changes for them.

A handoff that takes a write in the place of a primary has that primary's votes, as it does without a move.

Rejected: counting answers over the union of all primaries (to meet in each ring such a count must be all but one: a zone
that goes away during a move would stop conditional writes, though a majority of both rings is there); following the new
ring alone and asking the old one where nothing was found (misses that a newer version lies there).

A read needs more than a majority of answers where a device is being *filled* (it was made anew in the place of one that
had acknowledged writes, or lost some of them): what it has is as good as any, but that it has nothing says nothing. See
`informed`.

Invariant: two sets of devices that both suffice meet in a device, in each ring.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def informed(members: int, answered: int, filled: int) -> bool:
    """Whether the answers of so many of a ring's primaries, `filled` of them filled, cover every acknowledged write.

    A write is on a majority; those of its devices that were emptied since are being filled. As long as they are fewer than a
    majority, one that was not remains, and the devices that are filled and were not asked may not be enough to hold all
    that remain: fewer than a majority of all. Where every primary has answered there is nobody left who could know more.
    """
    need = members // 2 + 1
    return answered >= need and (filled > members - need or answered == members)


class Tally:
    """Counts votes in several rings. `needs[i]` votes are needed in ring i; a vote is a bit mask of rings."""

    __slots__ = ("_left",)

    def __init__(self, needs: Sequence[int]) -> None:
        self._left = list(needs)

    def add(self, votes: int) -> None:
        """Count a device that votes in these rings."""
        left = self._left
        for index in range(len(left)):
            left[index] -= votes >> index & 1

    @property
    def lacking(self) -> int:
        """Votes that the ring lacks which lacks most; 0 once there are enough in all."""
        return max(0, *self._left)


def votes_of(members: Sequence[Iterable[int]]) -> dict[int, int]:
    """For each device the rings in which it is a primary. `members[i]`: ids of the primaries under ring i.

    In the order in which to ask: who is a primary in more rings comes first, then who is one in an older ring, since it has
    the data already. Rings are given newest first.
    """
    votes: dict[int, int] = {}
    for index, devices in enumerate(members):
        for device in devices:
            votes[device] = votes.get(device, 0) | 1 << index
    return dict(sorted(votes.items(), key=lambda item: (-item[1].bit_count(), -item[1])))
