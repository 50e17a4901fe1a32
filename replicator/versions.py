"""Which replica of an object lacks what: the decision, from what each device says that it holds. Pure.

Rules:
- Of two entries the one with the later data (or deletion) is newer, of equal ones the tombstone, then the one with the later
  metadata. This is the order in which reads choose, so replication changes no answer, it only makes it certain.
- Every primary shall hold the newest entry. One that has its data and older metadata gets the metadata alone.
- What a device holds that is no primary is *surplus*. It goes once every primary has confirmed that it holds the newest
  entry, and not before: a primary that did not answer confirms nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import Enum
from typing import NamedTuple, TypeAlias

from storage_node.operations import Entry

Version: TypeAlias = tuple[int, bool, int]
"""(timestamp, deleted, meta_timestamp): compares as entries do."""


def version_of(entry: Entry) -> Version:
    """What compares one entry with another."""
    return (entry.timestamp, entry.deleted, entry.meta_timestamp)


class Lack(Enum):
    """What a device must be given."""

    DATA = "data"
    """The whole object."""
    METADATA = "metadata"
    """It has the data, its metadata is old."""
    TOMBSTONE = "tombstone"


class Copy(NamedTuple):
    """One thing to be done for one device."""

    target: int
    lack: Lack


class ObjectPlan(NamedTuple):
    """What to do about one object."""

    newest: Entry
    holders: tuple[int, ...]
    """Devices that hold exactly that entry."""
    sources: tuple[int, ...]
    """Devices that hold the newest data, and so can give it; those with the newest metadata first. None of a tombstone."""
    copies: tuple[Copy, ...]
    """In the order of the primaries."""
    confirmed: frozenset[int]
    """Primaries that hold the newest entry already."""
    surplus: tuple[tuple[int, Entry], ...]
    """Devices that are no primaries, and what they hold."""

    @property
    def settled(self) -> bool:
        """Nothing is to be done."""
        return not self.copies and not self.surplus


def plan_object(held: Mapping[int, Entry | None], primaries: Collection[int]) -> ObjectPlan | None:
    """What to do about an object that the devices hold like this; None if none of them holds it.

    `held` has every device that answered (None: it holds nothing); `primaries` also names those that did not.
    """
    newest = max((entry for entry in held.values() if entry is not None), key=version_of, default=None)
    if newest is None:
        return None
    wanted = version_of(newest)
    copies = []
    confirmed = []
    for device in dict.fromkeys(primaries):
        if device not in held:
            continue
        lack = _lack(held[device], newest, wanted)
        if lack is None:
            confirmed.append(device)
        else:
            copies.append(Copy(device, lack))
    return ObjectPlan(
        newest,
        tuple(device for device, entry in held.items() if entry is not None and version_of(entry) == wanted),
        _sources(held, newest),
        tuple(copies),
        frozenset(confirmed),
        tuple((device, entry) for device, entry in held.items() if entry is not None and device not in primaries),
    )


def _lack(entry: Entry | None, newest: Entry, wanted: Version) -> Lack | None:
    if entry is not None:
        if version_of(entry) == wanted:
            return None
        if entry.timestamp == newest.timestamp and not newest.deleted:
            return Lack.METADATA
    return Lack.TOMBSTONE if newest.deleted else Lack.DATA


def _sources(held: Mapping[int, Entry | None], newest: Entry) -> tuple[int, ...]:
    if newest.deleted:
        return ()
    holders = [
        (entry.meta_timestamp, device)
        for device, entry in held.items()
        if entry is not None and entry.timestamp == newest.timestamp and not entry.deleted
    ]
    holders.sort(key=lambda holder: -holder[0])
    return tuple(device for _, device in holders)
