"""What an account's row should say of a container, from what the container's replicas and the row's replicas say. Pure.

Rules:
- A container is as its latest replica has it: latest creation and deletion; totals of the replica with the latest row.
- A row is never brought back by a late report: a deletion that is later than the container's creation stays.
- A row may be stamped later than the container (two clients created it at once): totals go into the row as it is stamped.
- What already says the right thing is not written again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from storage_node.operations import Catalog, Row


class RowUpdate(NamedTuple):
    """What the account's row is to say."""

    timestamp: int
    deleted: bool
    object_count: int
    size_bytes: int


def decide_update(catalogs: Sequence[Catalog], rows: Sequence[Row | None]) -> RowUpdate | None:
    """The row to write, or None when nothing is amiss.

    `catalogs` are the container's replicas that answered, `rows` what each account replica that answered has (None: none).
    """
    wanted = wanted_row(catalogs)
    if wanted is None:
        return None
    held = [row for row in rows if row is not None]
    newest = max(held, key=lambda row: (row.timestamp, row.sub_timestamp), default=None)
    if newest is not None and newest.timestamp > wanted.timestamp:
        if newest.deleted or wanted.deleted:
            return None
        wanted = wanted._replace(timestamp=newest.timestamp)
    if wanted.deleted:
        stale = any(not row.deleted for row in held)
    else:
        stale = any(row is None or says(row) != wanted for row in rows)
    return wanted if stale else None


def wanted_row(catalogs: Sequence[Catalog]) -> RowUpdate | None:
    """What a container's replicas together say; None where none of them has it."""
    if not catalogs:
        return None
    created = max(catalog.created_timestamp for catalog in catalogs)
    deleted = max(catalog.deleted_timestamp for catalog in catalogs)
    if created <= deleted:
        return RowUpdate(deleted, True, 0, 0)
    fullest = max(catalogs, key=_fullness)
    return RowUpdate(created, False, fullest.object_count, fullest.size_bytes)


def says(row: Row) -> RowUpdate:
    """A row in the words of an update."""
    return RowUpdate(row.timestamp, row.deleted, row.object_count, row.size_bytes)


def _fullness(catalog: Catalog) -> tuple[int, int, int, int]:
    """Later rows first; between equals any order that all updaters share."""
    return (catalog.created_timestamp, catalog.newest_row_timestamp, catalog.object_count, catalog.size_bytes)
