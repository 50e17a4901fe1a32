"""Containers: their own state, and the listings of what is in them.

Problem: create, describe, list and delete containers with a majority of their replicas, such that a client sees at once what
it has done, whichever proxy it asks next.

Idea: a container is a catalog (proxy.catalogs) whose rows are its objects; one that exists is a live row in its account,
which is created with its first container.

Deleting a container is two steps, look, then delete, since "empty" must hold on a majority; a row that arrives in between
brings the container back.

Invariant: internal containers (proxy.names) have no row in their account, so that no listing or total shows them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import trio

from proxy.catalogs import ROW_SUCCESS, Catalogs, is_live, items_of
from proxy.cluster import Cluster, Placement
from proxy.entry import listed_objects
from proxy.model import (
    Consistency,
    ContainerInfo,
    ContainerNotEmpty,
    ListedObject,
    ListedPrefix,
    ListQuery,
    Metadata,
    NoSuchContainer,
    ObjectListing,
    Unavailable,
)
from proxy.names import ACCOUNT, CONTAINER, account_key, container_key, internal
from proxy.object_page import ObjectPage
from proxy.quorum import read, shortage, write
from storage_node.operations import (
    Catalog,
    CommonPrefix,
    FoundCatalog,
    FoundRows,
    GetCatalog,
    ListRows,
    PutCatalog,
    PutRow,
    Row,
    Status,
)
from storage_node.stored_rows import StoredRows

KNOWN_S = 5.0
"""How long a proxy takes a container that it has seen for existing. The devices check again with each row."""
KNOWN_MAX = 10_000
SETTLE_S = (0.005, 0.02, 0.05, 0.1, 0.2, 0.4)
"""Waits between looks at a container that is empty by the newest rows, but not at every replica yet."""


class ContainerStore(Catalogs):
    """Containers of one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._known: dict[tuple[str, bytes], float] = {}

    async def create_container(self, account: str, container: bytes, metadata: Metadata) -> bool:
        """Create a container, or merge metadata into it; True if it is new."""
        key = container_key(account, container)
        catalog, _ = await self.find_catalog(CONTAINER, key)
        new = catalog is None or not is_live(catalog)
        if new or metadata:
            await self.put_catalog(CONTAINER, key, metadata, create=True)
        if new:
            catalog, _ = await self.find_catalog(CONTAINER, key)
            if catalog is None or not is_live(catalog):
                raise Unavailable("the container was deleted by another client while it was created; retry")
        assert catalog is not None
        created = catalog.created_timestamp  # of several who create it at once the first one's
        if not internal(container):
            await self._put_account_row(account, container, created, deleted=False, only_if_new=not new)
        self._learn(account, container)
        return new

    async def head_container(self, account: str, container: bytes) -> ContainerInfo:
        """A container's totals and metadata. Raises NoSuchContainer, Unavailable."""
        catalog, consistency = await self.find_catalog(CONTAINER, container_key(account, container))
        info = _visible_container(catalog, consistency)
        self._learn(account, container)
        return info

    async def update_container(self, account: str, container: bytes, changes: Mapping[str, str]) -> None:
        """Merge metadata; an empty value removes its item. Raises NoSuchContainer."""
        if not await self.put_catalog(CONTAINER, container_key(account, container), changes, create=False):
            raise NoSuchContainer("the container does not exist")

    async def delete_container(self, account: str, container: bytes) -> None:
        """Delete an empty container. Raises NoSuchContainer, ContainerNotEmpty."""
        info = await self.head_container(account, container)
        await self._until_empty(account, container)
        self._known.pop((account, container), None)
        timestamp = await self.delete_catalog(CONTAINER, container_key(account, container), info.metadata)
        if not timestamp:
            raise ContainerNotEmpty("an object has just been stored in the container")
        if not internal(container):
            await self._put_account_row(account, container, timestamp, deleted=True, only_if_new=False)

    async def unlist_container(self, account: str, row: Row) -> None:
        """Take a container that is gone out of its account's listing, where whoever deleted it did not come to that."""
        catalog = await self.certain_catalog(CONTAINER, container_key(account, row.name))
        if catalog is not None and is_live(catalog):
            return
        timestamp = max(row.timestamp + 1, catalog.deleted_timestamp if catalog is not None else 0)
        await self._put_account_row(account, row.name, timestamp, deleted=True, only_if_new=False)

    async def _until_empty(self, account: str, container: bytes) -> None:
        """Until every replica at hand says that the container is empty. Raises ContainerNotEmpty if it is not, Unavailable.

        A minority's word is not enough: what was acknowledged may be in the rows of the others, and the deleter would be
        told that it is gone, until replication undoes the deletion.

        Deletions that a majority has acknowledged may be on their way to the last replica for some milliseconds; a
        replica whose device is dead stays behind, and is not waited for longer than SETTLE_S.
        """
        key = container_key(account, container)
        placement = self.cluster.place(key)
        operation = GetCatalog(CONTAINER, placement.hash, key)
        for delay_s in SETTLE_S:
            answers, degraded = await read(self.cluster, placement, lambda _: operation, everyone=True)
            if degraded:
                raise Unavailable("too few devices that should know what is in this container answer; retry")
            found = [a.catalog for _, a in answers if isinstance(a, FoundCatalog) and a.catalog is not None]
            if not any(catalog.row_count for catalog in found):
                return
            if (await self.list_objects(account, container, ListQuery(limit=1))).items:
                raise ContainerNotEmpty("the container still holds objects")
            await trio.sleep(delay_s)

    async def list_objects(self, account: str, container: bytes, query: ListQuery) -> ObjectListing:
        """A page of a container's objects. Raises NoSuchContainer."""
        key = container_key(account, container)
        catalog, consistency, rows, truncated = await self.page_of(CONTAINER, key, query)
        info = _visible_container(catalog, consistency)
        items = _listed(rows)
        last = rows[-1] if rows else None
        marker = b"" if last is None else last.prefix if isinstance(last, CommonPrefix) else last.name
        return ObjectListing(info, items, truncated, marker)

    async def ensure_container(self, account: str, container: bytes) -> None:
        """Raise NoSuchContainer unless the container exists, or was seen to exist a few seconds ago."""
        seen_s = self._known.get((account, container))
        if seen_s is None or self.cluster.monotonic() > seen_s + KNOWN_S:
            await self.head_container(account, container)

    def forget_container(self, account: str, container: bytes) -> None:
        """A device said that the container is not there: look again next time."""
        self._known.pop((account, container), None)

    async def put_row(
        self,
        account: str,
        container: bytes,
        name: bytes,
        timestamp: int,
        sub_timestamp: int,
        size_bytes: int,
        payload: bytes,
        *,
        deleted: bool = False,
    ) -> bool:
        """List an object (or its deletion) on a majority; True where handoffs were needed. Raises NoSuchContainer."""
        cluster = self.cluster
        key = container_key(account, container)
        placement = cluster.place(key)
        row = PutRow(CONTAINER, placement.hash, name, timestamp, sub_timestamp, deleted, 1, size_bytes, payload)
        result = await write(cluster, placement, row, ROW_SUCCESS)
        if result.applied >= placement.need:
            return result.degraded
        if Status.NO_CATALOG in result.statuses:
            self.forget_container(account, container)
            return await self._settle_no_catalog(account, container, placement, row)
        raise shortage(result.statuses, result.detail, result.applied, placement.need)

    async def _settle_no_catalog(self, account: str, container: bytes, placement: Placement, row: PutRow) -> bool:
        """Some device does not hold the container. If a majority does, give the container to those that lack it.

        True where handoffs were needed. Raises as `put_row`.
        """
        key = container_key(account, container)
        catalog, consistency = await self.find_catalog(CONTAINER, key)
        _visible_container(catalog, consistency)
        assert catalog is not None
        copy = PutCatalog(CONTAINER, placement.hash, key, catalog.created_timestamp, catalog.meta, True)
        await write(self.cluster, placement, copy, ROW_SUCCESS)
        result = await write(self.cluster, placement, row, ROW_SUCCESS)
        if result.applied < placement.need:
            if Status.NO_CATALOG in result.statuses:
                # Gone since, or unknown to handoffs that the copy did not reach: its own devices must say which.
                _visible_container(*await self.find_catalog(CONTAINER, key))
            raise shortage(result.statuses, result.detail, result.applied, placement.need)
        return result.degraded or consistency.degraded

    def _learn(self, account: str, container: bytes) -> None:
        if len(self._known) >= KNOWN_MAX:
            self._known.clear()
        self._known[account, container] = self.cluster.monotonic()

    async def _put_account_row(
        self, account: str, container: bytes, timestamp: int, *, deleted: bool, only_if_new: bool
    ) -> None:
        """List a container in its account, which is created if need be."""
        cluster = self.cluster
        key = account_key(account)
        placement = cluster.place(key)
        if only_if_new and await self._account_lists(placement, key, container):
            return
        row = PutRow(ACCOUNT, placement.hash, container, timestamp, 0, deleted, 0, 0, b"")
        result = await write(cluster, placement, row, ROW_SUCCESS)
        if result.applied < placement.need and Status.NO_CATALOG in result.statuses:
            await self.put_catalog(ACCOUNT, key, {}, create=True)
            result = await write(cluster, placement, row, ROW_SUCCESS)
        if result.applied < placement.need:
            raise shortage(result.statuses, result.detail, result.applied, placement.need)

    async def _account_lists(self, placement: Placement, key: bytes, container: bytes) -> bool:
        operation = ListRows(ACCOUNT, placement.hash, key, container, container + b"\x00", b"", b"", 1, False, False)
        answers, _ = await read(self.cluster, placement, lambda _: operation)
        return all(isinstance(answer, FoundRows) and answer.items for _, answer in answers)


def _listed(rows: Sequence[Row | CommonPrefix]) -> Sequence[ListedObject | ListedPrefix]:
    """A page as a listing shows it: whatever is rolled up keeps its place among the objects."""
    if isinstance(rows, StoredRows):
        return ObjectPage(rows)
    plain = [row for row in rows if isinstance(row, Row)]
    objects = listed_objects(plain)
    if len(plain) == len(rows):
        return objects
    waiting = iter(objects)
    return tuple(ListedPrefix(row.prefix) if isinstance(row, CommonPrefix) else next(waiting) for row in rows)


def _visible_container(catalog: Catalog | None, consistency: Consistency) -> ContainerInfo:
    """What a client may see of a container. Raises NoSuchContainer, Unavailable.

    That nobody has heard of it says that it is not there only where a majority of its own devices was asked: a write that
    is refused because of handoffs that know nothing would take with it what it replaced.
    """
    if catalog is None or not is_live(catalog):
        if consistency.degraded:
            raise Unavailable("too few devices that should know this container answer; retry")
        raise NoSuchContainer("the container does not exist")
    return _container_info(catalog, consistency)


def _container_info(catalog: Catalog, consistency: Consistency) -> ContainerInfo:
    return ContainerInfo(
        catalog.created_timestamp, catalog.row_count, catalog.size_bytes, items_of(catalog), consistency
    )
