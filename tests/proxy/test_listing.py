"""Listings merged from replicas, held against a sorted dictionary."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from proxy.listing import bounds_of, merged_page, rolled_up, successor, version_of
from proxy.model import ListQuery
from storage_node.operations import CommonPrefix, FoundRows, ListRows, Row, Status

NAMES = st.text(alphabet="ab/\xff", min_size=1, max_size=5).map(lambda text: text.encode("latin-1"))
ROWS = st.lists(st.tuples(NAMES, st.integers(1, 4), st.booleans()), max_size=25)
QUERIES = st.builds(
    ListQuery,
    prefix=st.sampled_from([b"", b"a", b"a/", b"\xff"]),
    delimiter=st.sampled_from([b"", b"/", b"b"]),
    marker=st.one_of(st.just(b""), NAMES),
    end_marker=st.one_of(st.just(b""), NAMES),
    limit=st.integers(1, 6),
    reverse=st.booleans(),
)


def replica_of(rows: list[tuple[bytes, int, bool]]) -> dict[bytes, Row]:
    """A replica that saw these versions: the newest of each name."""
    held: dict[bytes, Row] = {}
    for name, timestamp, deleted in rows:
        row = Row(name, timestamp, 0, deleted, 1, 10, b"")
        if name not in held or version_of(row) > version_of(held[name]):
            held[name] = row
    return held


def answer(held: dict[bytes, Row], request: ListRows, chunk: int) -> FoundRows:
    """What a device that holds these rows says, a few at a time so that horizons matter."""
    names = sorted(
        (
            name
            for name in held
            if name >= request.start
            and (request.end is None or name < request.end)
            and name.startswith(request.prefix)
            and (request.deleted or not held[name].deleted)
        ),
        reverse=request.reverse,
    )
    taken = names[: min(request.limit, chunk)]
    return FoundRows(Status.FOUND, None, tuple(held[name] for name in taken), len(taken) < len(names))


def naive(held: dict[bytes, Row], query: ListQuery) -> tuple[list[bytes], bool]:
    """The whole listing, computed the plain way."""
    low, high = (query.end_marker, query.marker) if query.reverse else (query.marker, query.end_marker)
    skipped = low if not query.reverse and rolled_up(low, query.prefix, query.delimiter) == low else None
    shown: list[bytes] = []
    for name in sorted(held, reverse=query.reverse):
        if held[name].deleted or not name.startswith(query.prefix):
            continue
        if (low and name <= low) or (high and name >= high) or (skipped and name.startswith(skipped)):
            continue
        item = rolled_up(name, query.prefix, query.delimiter) or name
        if not shown or shown[-1] != item:
            shown.append(item)
    return shown[: query.limit], len(shown) > query.limit


@given(st.lists(ROWS, min_size=1, max_size=3), QUERIES, st.integers(1, 7))
async def test_merged_listing_is_the_listing_of_the_newest_rows(
    replicas: list[list[tuple[bytes, int, bool]]], query: ListQuery, chunk: int
) -> None:
    """Whatever each replica missed, the merged page shows the newest version of each name, in order, and nothing else."""
    held = [replica_of(rows) for rows in replicas]
    everything = replica_of([row for rows in replicas for row in rows])

    async def fetch(request: ListRows) -> Sequence[FoundRows]:
        return [answer(rows, request, chunk) for rows in held]

    items, truncated = await merged_page(fetch, 1, b"h" * 16, b"/a/c", query, query.limit)
    shown = [item.prefix if isinstance(item, CommonPrefix) else item.name for item in items]
    assert (shown, truncated) == naive(everything, query)


@given(NAMES)
def test_successor_is_behind_all_that_begins_with_the_prefix(prefix: bytes) -> None:
    """Every name with the prefix sorts before its successor, and the successor does not have the prefix."""
    after = successor(prefix)
    if after is None:
        assert prefix == b"\xff" * len(prefix)
    else:
        assert prefix + b"\xff" * 8 < after
        assert not after.startswith(prefix)


def test_a_rolled_up_prefix_as_marker_skips_what_it_covers() -> None:
    """Continuing from a common prefix does not list the same prefix again."""
    assert bounds_of(ListQuery(marker=b"dir/", delimiter=b"/")).start == b"dir0"
    assert bounds_of(ListQuery(marker=b"dir/a", delimiter=b"/")).start == b"dir/a\x00"
