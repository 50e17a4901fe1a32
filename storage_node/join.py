"""Joining what replicas know of a catalog's life: the same whatever the order in which they meet. Pure.

A catalog is created, used, deleted, created again. A device decides operations as they come, so replicas that saw the same
ones in another order may hold different times of one life. The join of their states:

- It is alive if its latest use (`touched`: the latest creation that found or made it alive) is after its latest deletion.
- Its creation is the earliest that is after that deletion; if none is known, the latest use stands for it.
- Metadata items that are not after the deletion belong to a former life.

Shared by the device (JoinCatalog) and by the replicator, which must come to the same result.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Life(NamedTuple):
    """The times of a catalog, as one replica or all of them have it."""

    created: int
    deleted: int
    touched: int

    @property
    def live(self) -> bool:
        """It exists for clients."""
        return self.created > self.deleted


def join_lives(lives: Iterable[Life]) -> Life:
    """What follows from all of them together. There must be at least one."""
    known = list(lives)
    deleted = max(life.deleted for life in known)
    touched = max(max(life.touched, life.created) for life in known)
    if touched <= deleted:
        return Life(max(life.created for life in known), deleted, touched)
    created = min((life.created for life in known if life.created > deleted), default=touched)
    return Life(created, deleted, touched)
