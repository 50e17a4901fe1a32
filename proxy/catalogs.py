"""Catalogs: what a majority of the replicas says of an account or a container, and of the rows in it.

Problem: an account and a container are the same thing to a device (see storage_node.operations): a name with items and rows.
Their state must be what was acknowledged, whichever devices answer.

Idea: state is read from a majority and merged: of two creation times the later, of each item the newer. A page of rows comes
from one replica where the digests of a majority agree, and is merged of all where they do not (proxy.listing).

Deleting is one step here and two for whoever calls: "empty" must hold on a majority and not just on one replica. Where a row
arrived in between (a device answers NOT_EMPTY) the catalog is restored under a later timestamp and the deleter is told.

Invariant: items are merged one by one, so that two clients who set different items both succeed.
"""

from __future__ import annotations

from collections.abc import Sequence

from proxy.cluster import Cluster, Replica
from proxy.entry import decode_text, encode_text
from proxy.listing import merged_page, page_request
from proxy.model import CERTAIN, DEGRADED, LIST_LIMIT_MAX, Consistency, ListQuery, Metadata, Unavailable
from proxy.quorum import Gather, good_ones, read, write_newest
from storage_node.operations import (
    Answer,
    Catalog,
    CommonPrefix,
    DeleteCatalog,
    FoundCatalog,
    FoundRows,
    GetCatalog,
    ListRows,
    PutCatalog,
    ReadOperation,
    Row,
    Status,
)

ROW_SUCCESS = frozenset((Status.APPLIED, Status.NEWER))
"""A row that a device has in a newer version has been overtaken by a later write, which is as good."""


class Catalogs:
    """The catalogs of one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    async def find_catalog(self, space: int, key: bytes) -> tuple[Catalog | None, Consistency]:
        placement = self.cluster.place(key)
        operation = GetCatalog(space, placement.hash, key)

        def same(_: int) -> ReadOperation:
            return operation

        answers, degraded = await read(self.cluster, placement, same)
        found = catalogs_in(answers)
        if found and not any(is_live(catalog) for catalog in found) and len(answers) < len(placement.primaries):
            answers, degraded = await read(self.cluster, placement, same, everyone=True)
            found = catalogs_in(answers)
        return merge_catalogs(found), DEGRADED if degraded else CERTAIN

    async def certain_catalog(self, space: int, key: bytes) -> Catalog | None:
        """A catalog for whoever removes something because of what it says: raises Unavailable without a majority."""
        catalog, consistency = await self.find_catalog(space, key)
        if consistency.degraded:
            raise Unavailable("too few devices that should know this name answer; retry")
        return catalog

    async def put_catalog(self, space: int, key: bytes, metadata: Metadata, *, create: bool) -> int:
        """Create or update a catalog; its timestamp, or 0 if it is missing and is not to be created."""
        cluster = self.cluster
        placement = cluster.place(key)

        def make(timestamp: int) -> PutCatalog:
            items = {encode_text(name): (encode_text(value), timestamp) for name, value in metadata.items()}
            return PutCatalog(space, placement.hash, key, timestamp, items, create)

        if not create:
            catalog, consistency = await self.find_catalog(space, key)
            if catalog is None or not is_live(catalog):
                if consistency.degraded:
                    raise Unavailable("too few devices that should know this name answer; retry")
                return 0
        timestamp, result = await write_newest(cluster, placement, make, also_final=frozenset((Status.MISSING,)))
        return timestamp if result.applied >= placement.need else 0

    async def delete_catalog(self, space: int, key: bytes, metadata: Metadata) -> int:
        """Delete a catalog that was seen empty; the deletion's timestamp, or 0 if a row was there after all."""
        cluster = self.cluster
        placement = cluster.place(key)
        timestamp, result = await write_newest(
            cluster,
            placement,
            lambda stamp: DeleteCatalog(space, placement.hash, key, stamp),
            frozenset((Status.APPLIED, Status.MISSING)),
            also_final=frozenset((Status.NOT_EMPTY,)),
        )
        if Status.NOT_EMPTY not in result.statuses:
            return timestamp
        await self.put_catalog(space, key, metadata, create=True)
        return 0

    async def list_rows(self, space: int, key: bytes, query: ListQuery) -> Sequence[Row]:
        """The plain rows of a page of a catalog's listing; none where there is no such catalog. Raises Unavailable."""
        catalog, _, rows, _ = await self.page_of(space, key, query)
        if catalog is None or not is_live(catalog):
            return ()
        return [row for row in rows if isinstance(row, Row)]

    async def page_of(
        self, space: int, key: bytes, query: ListQuery
    ) -> tuple[Catalog | None, Consistency, Sequence[Row | CommonPrefix], bool]:
        """A page of a catalog's rows as a majority has them, with the catalog."""
        placement = self.cluster.place(key)
        limit = max(0, min(query.limit, LIST_LIMIT_MAX))
        page = page_request(space, placement.hash, key, query, max(limit, 1))
        describe = GetCatalog(space, placement.hash, key)
        answers, degraded = await read(self.cluster, placement, lambda i: page if i == 0 else describe)
        consistency = DEGRADED if degraded else CERTAIN
        catalogs = catalogs_in(answers)
        merged = merge_catalogs(catalogs)
        if merged is None or not is_live(merged) or not limit:
            return merged, consistency, (), False
        rows = next((a for _, a in answers if isinstance(a, FoundRows) and a.status == Status.FOUND), None)
        agreed = len(catalogs) == len(answers) and len({catalog.digest for catalog in catalogs}) == 1
        if rows is not None and agreed:
            return merged, consistency, rows.items, rows.truncated

        async def fetch(request: ListRows) -> Sequence[FoundRows]:
            gather = Gather(len(placement.primaries))
            for replica in placement.primaries:
                gather.ask(replica, request)
            await gather.wait()
            found = [answer for _, answer in gather.answers if isinstance(answer, FoundRows)]
            if not degraded and not placement.informed(list(good_ones(gather.answers)), gather.filling):
                raise Unavailable("too few replicas of the listing answer; retry")
            return found

        items, truncated = await merged_page(fetch, space, placement.hash, key, query, limit)
        return merged, consistency, items, truncated


def catalogs_in(answers: Sequence[tuple[Replica, Answer]]) -> list[Catalog]:
    """The catalogs that came with these answers."""
    return [a.catalog for _, a in answers if isinstance(a, (FoundRows, FoundCatalog)) and a.catalog is not None]


def merge_catalogs(catalogs: Sequence[Catalog]) -> Catalog | None:
    """What several replicas say of one catalog, as one.

    The latest deletion, the earliest creation after it (as the devices themselves keep it), the newest of each item, and
    the totals of the replica that has the latest row (of several the fullest: one that is being filled has fewer).
    """
    if not catalogs:
        return None
    if len(catalogs) == 1 or all(catalog == catalogs[0] for catalog in catalogs[1:]):
        return catalogs[0]
    meta: dict[bytes, tuple[bytes, int]] = {}
    for catalog in catalogs:
        for name, item in catalog.meta.items():
            held = meta.get(name)
            if held is None or (item[1], item[0]) > (held[1], held[0]):
                meta[name] = (item[0], item[1])
    deleted = max(catalog.deleted_timestamp for catalog in catalogs)
    created = [catalog.created_timestamp for catalog in catalogs]
    live = [timestamp for timestamp in created if timestamp > deleted]
    fullest = max(
        catalogs,
        key=lambda catalog: (catalog.created_timestamp > deleted, catalog.newest_row_timestamp, catalog.row_count),
    )
    return fullest._replace(created_timestamp=min(live) if live else max(created), deleted_timestamp=deleted, meta=meta)


def is_live(catalog: Catalog) -> bool:
    return catalog.created_timestamp > catalog.deleted_timestamp


def items_of(catalog: Catalog) -> Metadata:
    """The items that are set; what an earlier account or container of this name had does not come back with the name."""
    created = catalog.created_timestamp
    return {
        decode_text(name): decode_text(value)
        for name, (value, set_at) in catalog.meta.items()
        if value and set_at >= created
    }
