"""Hypothesis strategies for every operation and answer of the storage node, within the limits of the wire."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from storage_node.operations import (
    Catalog,
    CommonPrefix,
    DeleteCatalog,
    DeleteObject,
    Entry,
    ForgetCatalog,
    ForgetObject,
    ForgetRow,
    Found,
    FoundCatalog,
    FoundDigests,
    FoundEntries,
    FoundRings,
    FoundRows,
    FoundStatistics,
    GetCatalog,
    GetDigests,
    GetObject,
    GetRings,
    GetStatistics,
    HeldRing,
    JoinCatalog,
    ListedEntry,
    ListEntries,
    ListRows,
    Locked,
    LockObject,
    PutCatalog,
    PutObject,
    PutRow,
    RewriteRecord,
    Row,
    Statistics,
    Status,
    UnlockObject,
    UpdateObject,
    Written,
)

timestamps = st.integers(0, (1 << 64) - 1)
hashes = st.binary(min_size=16, max_size=16)
keys = st.binary(min_size=1, max_size=60)
names = st.binary(min_size=1, max_size=40)
bounds = st.binary(max_size=40)
blobs = st.binary(max_size=200)
spaces = st.sampled_from([1, 2])
counts = st.integers(0, (1 << 63) - 1)
signed = st.integers(-(1 << 62), 1 << 62)
statuses = st.sampled_from([int(status) for status in Status])
details = st.text(max_size=30)
items = st.dictionaries(st.binary(max_size=20), st.tuples(st.binary(max_size=20), timestamps), max_size=4)
locks = st.none() | timestamps

entries = st.builds(Entry, timestamps, timestamps, st.booleans(), counts, blobs, st.booleans())
catalogs = st.builds(Catalog, timestamps, timestamps, items, signed, signed, signed, hashes, timestamps, timestamps)
rows = st.builds(Row, names, timestamps, timestamps, st.booleans(), counts, counts, blobs)
statistics = st.builds(
    Statistics,
    hashes,
    details,
    *[counts] * 3,
    *[signed] * 8,
    *[counts] * 4,
    st.floats(0, 1e9),
    *[counts] * 2,
    details,
)

operations: st.SearchStrategy[Any] = st.one_of(
    st.builds(PutObject, hashes, keys, timestamps, blobs, blobs, st.booleans(), locks, timestamps),
    st.builds(DeleteObject, hashes, keys, timestamps, locks),
    st.builds(UpdateObject, hashes, keys, timestamps, timestamps, blobs),
    st.builds(LockObject, hashes, keys, timestamps, st.integers(0, 60_000)),
    st.builds(UnlockObject, hashes, timestamps),
    st.builds(PutCatalog, spaces, hashes, keys, timestamps, items, st.booleans()),
    st.builds(DeleteCatalog, spaces, hashes, keys, timestamps),
    st.builds(
        PutRow, spaces, hashes, names, timestamps, timestamps, st.booleans(), counts, counts, blobs, st.booleans()
    ),
    st.builds(JoinCatalog, spaces, hashes, keys, timestamps, timestamps, timestamps, items),
    st.builds(ForgetObject, hashes, keys, timestamps, timestamps),
    st.builds(ForgetRow, spaces, hashes, names, timestamps, timestamps),
    st.builds(ForgetCatalog, spaces, hashes, keys, timestamps, timestamps, timestamps, items),
    st.builds(RewriteRecord, st.sampled_from([0, 1, 2]), hashes, bounds),
    st.builds(GetObject, hashes, keys, st.booleans()),
    st.builds(GetCatalog, spaces, hashes, keys),
    st.builds(
        ListRows,
        spaces,
        hashes,
        keys,
        bounds,
        st.none() | bounds,
        bounds,
        bounds,
        st.integers(0, 10_000),
        st.booleans(),
        st.booleans(),
    ),
    st.builds(GetDigests, st.sampled_from([0, 1, 2]), st.integers(0, 64), timestamps, st.integers(0, 16)),
    st.builds(ListEntries, st.sampled_from([0, 1, 2]), hashes, st.none() | hashes, st.integers(0, 10_000)),
    st.just(GetStatistics()),
    st.builds(GetRings, counts, counts, counts),
)

answers: st.SearchStrategy[Any] = st.one_of(
    st.builds(Written, statuses, timestamps, details, st.none() | blobs),
    st.builds(Locked, statuses, timestamps, st.none() | entries, details),
    st.builds(Found, statuses, st.none() | entries, st.none() | blobs, details),
    st.builds(FoundCatalog, statuses, st.none() | catalogs, details),
    st.builds(
        FoundRows,
        statuses,
        st.none() | catalogs,
        st.lists(rows | st.builds(CommonPrefix, names), max_size=5).map(tuple),
        st.booleans(),
        details,
    ),
    st.builds(FoundDigests, statuses, st.lists(hashes, max_size=5).map(tuple), details),
    st.builds(
        FoundEntries,
        statuses,
        st.lists(st.builds(ListedEntry, hashes, keys, entries | catalogs), max_size=5).map(tuple),
        st.booleans(),
        details,
    ),
    st.builds(FoundStatistics, statuses, st.none() | statistics, details),
    st.builds(
        FoundRings,
        statuses,
        st.lists(st.builds(HeldRing, counts, counts, hashes), max_size=4).map(tuple),
        blobs,
        blobs,
        details,
    ),
)

plain_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | st.binary(max_size=40)
    | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=5).map(tuple) | st.dictionaries(st.binary(max_size=5), inner, max_size=3),
    max_leaves=20,
)
"""Anything that msgpack carries."""
