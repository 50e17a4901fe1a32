"""What the replicas of an account or container should all say: the decision, from what each of them says. Pure.

A catalog's state is joined piece by piece: its life (see storage_node.join), of each metadata item the newest, of each row
the newest. Joins give the same whatever their order, so replicators on several nodes may all do them.

One case is no join: some replicas hold the catalog as deleted, none a later creation, and others have it alive. Deletion is
refused by a replica with live rows, so this is either a deletion that succeeded while a replica was away, or one that failed
half-way. What tells them apart:

- A majority holds the deletion: it was acknowledged, and no acknowledged row can be on the rest (a row needs a majority
  too). It stands; rows that are alive on the rest were never acknowledged and are deleted.
- No majority holds it, and something in the living replicas is later than it (an item of metadata, a row): it failed. The
  catalog is restored, under a later creation.
- No majority holds it (it was lost with a disk, or never had one) and nothing is later: what decides is whether a live row
  is left when the rows of all replicas have been joined. With none the deletion stands, with one the catalog is restored:
  what is in doubt is not deleted.

The last two need the word of every primary; until then such a catalog stays as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import Enum
from typing import NamedTuple

from storage_node.join import Life, join_lives
from storage_node.operations import Catalog, PutRow, Row
from storage_node.timestamp import WRITER_COUNT

Items = dict[bytes, tuple[bytes, int]]


class Verdict(Enum):
    """What becomes of a catalog on which replicas do not agree."""

    JOIN = "join"
    """Nothing is in doubt: all get the joined state."""
    DELETE = "delete"
    """The deletion stands: what is alive is deleted with it."""
    RESTORE = "restore"
    """It stays, as created anew."""
    ASK_ROWS = "ask rows"
    """Restored if a live row is left once the rows are joined, deleted if not."""
    WAIT = "wait"
    """Not to be decided before all primaries have answered."""


class CatalogState(NamedTuple):
    """The state that all replicas should have, without the rows."""

    life: Life
    meta: Items


class CatalogPlan(NamedTuple):
    """What to do about one catalog."""

    verdict: Verdict
    joined: CatalogState
    lacking: tuple[int, ...]
    """Primaries that answered and do not have the joined state."""
    opponents: tuple[int, ...]
    """Devices that have it alive while the joined state is deleted."""
    rows_differ: bool
    """The rows of two devices are not the same."""
    surplus: tuple[int, ...]
    """Devices that hold it and are no primaries."""


def is_live(catalog: Catalog) -> bool:
    """Whether it exists for clients."""
    return catalog.created_timestamp > catalog.deleted_timestamp


def life_of(catalog: Catalog) -> Life:
    """A replica's times."""
    return Life(catalog.created_timestamp, catalog.deleted_timestamp, catalog.touched_timestamp)


def join(catalogs: Collection[Catalog]) -> CatalogState:
    """What follows from all replicas together."""
    life = join_lives(map(life_of, catalogs))
    return CatalogState(life, newest_items(catalogs, life.deleted) if life.live else {})


def newest_items(catalogs: Collection[Catalog], newer_than: int) -> Items:
    """Of each metadata item the newest, of equal times the greater value, unless a deletion was later."""
    meta: Items = {}
    for catalog in catalogs:
        for name, (value, timestamp) in catalog.meta.items():
            there = meta.get(name)
            if timestamp > newer_than and (there is None or (timestamp, value) > (there[1], there[0])):
                meta[name] = (value, timestamp)
    return meta


def latest_change(catalog: Catalog) -> int:
    """The latest sign of use of a replica."""
    items = (timestamp for _, timestamp in catalog.meta.values())
    latest: int = max(catalog.created_timestamp, catalog.touched_timestamp, catalog.newest_row_timestamp, *items)
    return latest


def plan_catalog(held: Mapping[int, Catalog | None], primaries: Collection[int]) -> CatalogPlan | None:
    """What to do about a catalog that the devices hold like this; None if none of them holds it.

    `held` has every device that answered; `primaries` also names those that did not.
    """
    found = {device: catalog for device, catalog in held.items() if catalog is not None}
    if not found:
        return None
    joined = join(found.values())
    opponents = () if joined.life.live else tuple(device for device, catalog in found.items() if is_live(catalog))
    lacking = tuple(
        device
        for device in dict.fromkeys(primaries)
        if device in held and ((there := held[device]) is None or _differs(there, joined))
    )
    rows = {catalog.digest for catalog in found.values()}
    if any(held[device] is None for device in held if device in primaries):
        rows.add(bytes(16))
    return CatalogPlan(
        _judge(found, joined, opponents, held, primaries) if opponents else Verdict.JOIN,
        joined,
        lacking,
        opponents,
        len(rows) > 1,
        tuple(device for device in found if device not in primaries),
    )


def _judge(
    found: Mapping[int, Catalog],
    joined: CatalogState,
    opponents: Collection[int],
    held: Mapping[int, Catalog | None],
    primaries: Collection[int],
) -> Verdict:
    deletion = joined.life.deleted
    votes = sum(catalog.deleted_timestamp == deletion for catalog in found.values())
    if votes >= len(set(primaries)) // 2 + 1:
        return Verdict.DELETE
    if any(device not in held for device in primaries):
        return Verdict.WAIT
    if any(latest_change(found[device]) > deletion for device in opponents):
        return Verdict.RESTORE
    return Verdict.ASK_ROWS


def _differs(catalog: Catalog, joined: CatalogState) -> bool:
    """Whether a replica lacks something that digests show. When it was last touched they do not."""
    life = joined.life
    return (catalog.created_timestamp, catalog.deleted_timestamp) != (life.created, life.deleted) or (
        dict(catalog.meta) != joined.meta
    )


def restored(found: Collection[Catalog], timestamp: int) -> CatalogState:
    """The state of a catalog that stays although some replicas deleted it: created anew, with the metadata of the living."""
    alive = [catalog for catalog in found if is_live(catalog)]
    items = newest_items(alive, 0)
    life = Life(timestamp, max(catalog.deleted_timestamp for catalog in found), timestamp)
    return CatalogState(life, {name: (value, timestamp) for name, (value, _) in items.items()})


# ------------------------------------------------------------------------------------------------------------------ rows


class RowPlan(NamedTuple):
    """What to do about one row."""

    newest: Row
    lacking: tuple[int, ...]
    """Primaries that answered and have it older or not at all."""
    confirmed: frozenset[int]
    """Primaries that hold the newest."""
    surplus: tuple[tuple[int, Row], ...]
    """Devices that are no primaries, and what they hold."""


def row_version(row: Row) -> tuple[int, int]:
    """What compares one row with another of the same name."""
    return (row.timestamp, row.sub_timestamp)


def plan_row(held: Mapping[int, Row], answered: Collection[int], primaries: Collection[int]) -> RowPlan:
    """What to do about a row that the devices hold like this. `held` has at least one."""
    newest = max(held.values(), key=row_version)
    wanted = row_version(newest)
    lacking: list[int] = []
    confirmed: list[int] = []
    for device in dict.fromkeys(primaries):
        if device in answered:
            there = held.get(device)
            (confirmed if there is not None and row_version(there) == wanted else lacking).append(device)
    surplus = tuple((device, row) for device, row in held.items() if device not in primaries)
    return RowPlan(newest, tuple(lacking), frozenset(confirmed), surplus)


def buried(row: Row, deletion: int) -> Row:
    """The tombstone of a row that went with its catalog: later than both, and the same for whoever makes it."""
    timestamp = max(row.timestamp, row.sub_timestamp, deletion) + WRITER_COUNT
    return Row(row.name, timestamp, 0, True, 0, 0, b"")


def put_row(space: int, hash_: bytes, row: Row) -> PutRow:
    """The operation that gives a replica a row as another one has it."""
    return PutRow(space, hash_, *row, replica=True)
