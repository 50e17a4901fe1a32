"""One listing out of several replicas' rows.

Problem: a listing must contain what the client has written, so it is read from a majority of the catalog's replicas; but
to fetch, compare and roll up the rows of two replicas for every page costs more than twice the work, and nearly always
they are the same.

Idea: each replica keeps a digest over all rows of a catalog. One replica is asked for the page, the others of the
majority for their digests, each from one snapshot. Equal digests: equal rows, and the page is exact. Otherwise the rows
themselves, tombstones included, are fetched from all and merged name by name, the newest version winning; the roll-up at
a delimiter is then done here, seeking past each prefix that was rolled up.

Rejected: merging rolled-up pages (a prefix that one replica still lists may hold nothing but names deleted at another).

Invariants: names come in the order of their bytes (reversed if asked), each at most once; a page is cut only where
`truncated` says so; the merge never asks for a page beyond its horizon, the last name that every replica has told.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

from proxy.model import ListQuery, Unavailable
from storage_node.operations import CommonPrefix, FoundRows, ListRows, Row, Status

MERGE_CHUNK_ROWS = 1_000


@dataclass(frozen=True, slots=True)
class Bounds:
    """A range of names, start <= name < end, as devices understand it."""

    start: bytes
    end: bytes | None


def bounds_of(query: ListQuery) -> Bounds:
    """The range that a query's markers mean.

    A marker that is itself a rolled-up prefix means: behind everything that the prefix covers.
    """
    low, high = (query.end_marker, query.marker) if query.reverse else (query.marker, query.end_marker)
    start = b""
    if low:
        start = low + b"\x00"
        if not query.reverse and rolled_up(low, query.prefix, query.delimiter) == low:
            start = successor(low) or low + b"\x00"
    return Bounds(max(start, query.prefix), high or None)


def rolled_up(name: bytes, prefix: bytes, delimiter: bytes) -> bytes | None:
    """The common prefix that `name` is listed under, or None if it is listed itself."""
    if not delimiter or not name.startswith(prefix):
        return None
    at = name.find(delimiter, len(prefix))
    return None if at < 0 else name[: at + len(delimiter)]


def successor(prefix: bytes) -> bytes | None:
    """The first name behind all names that begin with `prefix`; None if there is none."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes((stripped[-1] + 1,)) if stripped else None


def page_request(space: int, name_hash: bytes, key: bytes, query: ListQuery, limit: int) -> ListRows:
    """The rows of one page from one replica, rolled up there."""
    bounds = bounds_of(query)
    return ListRows(
        space, name_hash, key, bounds.start, bounds.end, query.prefix, query.delimiter, limit, query.reverse, False
    )


Fetch = Callable[[ListRows], Awaitable[Sequence[FoundRows]]]
"""Asks every replica of the majority for the same rows."""


async def merged_page(
    fetch: Fetch, space: int, name_hash: bytes, key: bytes, query: ListQuery, limit: int
) -> tuple[list[Row | CommonPrefix], bool]:
    """A page merged from several replicas' rows: the items, and whether there are more behind them."""
    bounds = bounds_of(query)
    start, end = bounds.start, bounds.end
    items: list[Row | CommonPrefix] = []
    while True:
        request = ListRows(space, name_hash, key, start, end, query.prefix, b"", MERGE_CHUNK_ROWS, query.reverse, True)
        pages = [page for page in await fetch(request) if page.status == Status.FOUND]
        if not pages:
            raise Unavailable("no replica of the listing answers; retry")
        skip_to: bytes | None = None
        for row in merge_pages(pages, query.reverse):
            if row.deleted:
                continue
            prefix = rolled_up(row.name, query.prefix, query.delimiter)
            if len(items) == limit:
                return items, True
            if prefix is None:
                items.append(row)
            else:
                items.append(CommonPrefix(prefix))
                skip_to = prefix
                break
        horizon = horizon_of(pages, query.reverse)
        if skip_to is not None:
            if query.reverse:
                end = skip_to
            else:
                after = successor(skip_to)
                if after is None:
                    return items, False
                start = after
        elif horizon is None:
            return items, False
        elif query.reverse:
            end = horizon
        else:
            start = horizon + b"\x00"


def horizon_of(pages: Sequence[FoundRows], reverse: bool) -> bytes | None:
    """The last name up to which every replica has told what it has; None if all told all."""
    ends = [_name(page.items[-1]) for page in pages if page.truncated and page.items]
    if not ends:
        return None
    return max(ends) if reverse else min(ends)


def merge_pages(pages: Sequence[FoundRows], reverse: bool) -> Iterator[Row]:
    """The newest version of each name up to the horizon, in order."""
    newest: dict[bytes, Row] = {}
    for page in pages:
        for item in page.items:
            if isinstance(item, Row):
                held = newest.get(item.name)
                if held is None or version_of(item) > version_of(held):
                    newest[item.name] = item
    horizon = horizon_of(pages, reverse)
    for name in sorted(newest, reverse=reverse):
        if horizon is not None and (name < horizon if reverse else name > horizon):
            return
        yield newest[name]


def version_of(row: Row) -> tuple[int, int, bool]:
    """What decides which of two rows of one name is the newer; of equal times the deletion."""
    return row.timestamp, row.sub_timestamp, row.deleted


def _name(item: Row | CommonPrefix) -> bytes:
    return item.name if isinstance(item, Row) else item.prefix
