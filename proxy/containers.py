"""Accounts and containers: their own state, and the listings of what is in them.

Problem: create, describe, list and delete accounts and containers with a majority of their replicas, such that a client
sees at once what it has done, whichever proxy it asks next.

Idea: both are catalogs (see storage_node.operations). State is read from a majority and merged: of two creation times the
later, of each metadata item the newer. A container that exists is a live row in its account. Accounts come into being
with their first container.

Deleting a container is two steps, since "empty" must hold on a majority and not just on one replica: look, then delete; if
a row arrived in between (a device answers NOT_EMPTY), the container is restored under a later timestamp and the deleter
is told.

Invariants:
- Containers whose names begin with NUL are internal: no row in their account, so that no listing or total shows them.
- Metadata items are merged one by one, so that two clients who set different items both succeed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import trio

from proxy.cluster import Cluster, Placement
from proxy.entry import decode_text, encode_text, listed_object
from proxy.listing import merged_page, page_request
from proxy.model import (
    CERTAIN,
    LIST_LIMIT_MAX,
    AccountDeleted,
    AccountInfo,
    Consistency,
    ContainerInfo,
    ContainerListing,
    ContainerNotEmpty,
    ListedContainer,
    ListedPrefix,
    ListQuery,
    Metadata,
    NoSuchAccount,
    NoSuchContainer,
    ObjectListing,
    Unavailable,
)
from proxy.quorum import Gather, good_ones, read, shortage, write, write_newest
from storage_node.operations import (
    Catalog,
    CommonPrefix,
    DeleteCatalog,
    FoundCatalog,
    FoundRows,
    GetCatalog,
    ListRows,
    PutCatalog,
    PutRow,
    ReadOperation,
    Row,
    Space,
    Status,
)
from storage_node.timestamp import microseconds

CONTAINER, ACCOUNT = int(Space.CONTAINER), int(Space.ACCOUNT)
"""As the wire takes them: plain numbers."""
_DEGRADED = Consistency(degraded=True)
_KNOWN_CONTAINER_S = 5.0
"""How long a proxy takes a container that it has seen for existing. The devices check again with each row."""
_KNOWN_CONTAINERS_MAX = 10_000
DELETED = "sys:deleted"
"""The metadata item of an account that was deleted: when, in microseconds since 1970."""
GRAVES_ACCOUNT = ".ringstead"
GRAVES = b"\x00graves"
"""The internal container whose rows are the names of deleted accounts, for the reaper."""
SETTLE_S = (0.005, 0.02, 0.05, 0.1, 0.2, 0.4)
"""Waits between looks at a container that is empty by the newest rows, but not at every replica yet."""

_Answer = TypeVar("_Answer")


def account_key(account: str) -> bytes:
    """The key that places an account."""
    return b"/" + account.encode()


def container_key(account: str, container: bytes) -> bytes:
    """The key that places a container."""
    return b"/" + account.encode() + b"/" + container


def split_object_key(key: bytes) -> tuple[str, bytes, bytes]:
    """The account, container and name of an object's key."""
    _, account, container, name = key.split(b"/", 3)
    return account.decode(), container, name


def internal(container: bytes) -> bool:
    """Whether the name is one of ours, that no client may use."""
    return container[:1] == b"\x00"


class ContainerStore:
    """Accounts and containers of one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._known: dict[tuple[str, bytes], float] = {}
        self._accounts: dict[str, tuple[float, bool]] = {}
        """When each was looked at, and whether it was deleted."""

    # ------------------------------------------------------------------------------------------------------- accounts

    async def head_account(self, account: str) -> AccountInfo:
        """An account's totals and metadata. Raises NoSuchAccount, Unavailable."""
        catalog, consistency = await self._catalog(ACCOUNT, account_key(account))
        return _visible_account(account, catalog, consistency)

    async def create_account(self, account: str, metadata: Metadata) -> bool:
        """Create an account, or merge metadata into it; True if it is new. Cheap when there is nothing to do.

        Raises AccountDeleted while what an earlier one held is not removed yet.
        """
        try:
            await self.head_account(account)
            new = False
        except AccountDeleted:
            raise
        except NoSuchAccount:
            new = True
        if new or metadata:
            await self._put_catalog(ACCOUNT, account_key(account), metadata, create=True)
        return new

    async def update_account(self, account: str, changes: Mapping[str, str]) -> None:
        """Merge metadata; an empty value removes its item. Raises NoSuchAccount."""
        await self.head_account(account)
        if not await self._put_catalog(ACCOUNT, account_key(account), changes, create=False):
            raise NoSuchAccount(f"account {account} does not exist")

    async def ensure_account(self, account: str) -> None:
        """Raise AccountDeleted if the account was deleted more than a few seconds ago. Nothing else is asked of it.

        An account whose devices are all away is taken for what it was, so that its data does not depend on it.
        """
        now_s = self.cluster.monotonic()
        seen = self._accounts.get(account)
        if seen is None or now_s > seen[0] + _KNOWN_CONTAINER_S:
            try:
                catalog, _ = await self._catalog(ACCOUNT, account_key(account))
            except Unavailable:
                if seen is None:
                    return
            else:
                if len(self._accounts) >= _KNOWN_CONTAINERS_MAX:
                    self._accounts.clear()
                seen = now_s, catalog is not None and _live(catalog) and DELETED in _metadata(catalog)
                self._accounts[account] = seen
        if seen is not None and seen[1]:
            raise AccountDeleted(f"account {account} was deleted")

    async def delete_account(self, account: str) -> None:
        """Delete an account: it and all that it holds are hidden, and the reaper removes them. Raises NoSuchAccount.

        A row for the reaper comes first; where this process dies before the mark, the row means nothing.
        """
        await self.head_account(account)
        timestamp = self.cluster.clock.stamp()
        name = account.encode()
        try:
            await self.put_row(GRAVES_ACCOUNT, GRAVES, name, timestamp, 0, 0, b"")
        except NoSuchContainer:
            await self.create_container(GRAVES_ACCOUNT, GRAVES, {})
            await self.put_row(GRAVES_ACCOUNT, GRAVES, name, timestamp, 0, 0, b"")
        changes = {DELETED: str(microseconds(timestamp))}
        if not await self._put_catalog(ACCOUNT, account_key(account), changes, create=False):
            raise NoSuchAccount(f"account {account} does not exist")
        self._accounts.pop(account, None)

    async def account_metadata(self, account: str) -> Metadata | None:
        """An account's metadata, also of one that is marked as deleted; None where there is none. Raises Unavailable."""
        catalog = await self._certain_catalog(ACCOUNT, account_key(account))
        return _metadata(catalog) if catalog is not None and _live(catalog) else None

    async def bury_account(self, account: str) -> bool:
        """Take away a deleted account that nothing is left in; False where something is."""
        catalog = await self._certain_catalog(ACCOUNT, account_key(account))
        if catalog is None or not _live(catalog):
            return True
        if catalog.row_count or DELETED not in _metadata(catalog):
            return False
        gone = bool(await self._delete_catalog(ACCOUNT, account_key(account), _metadata(catalog)))
        self._accounts.pop(account, None)
        return gone

    async def list_containers(self, account: str, query: ListQuery) -> ContainerListing:
        """A page of an account's containers. Raises NoSuchAccount."""
        key = account_key(account)
        catalog, consistency, rows, truncated = await self._rows(ACCOUNT, key, query)
        info = _visible_account(account, catalog, consistency)
        items = tuple(
            ListedPrefix(row.prefix)
            if isinstance(row, CommonPrefix)
            else ListedContainer(row.name, row.timestamp, row.object_count, row.size_bytes)
            for row in rows
        )
        return ContainerListing(info, items, truncated)

    # ----------------------------------------------------------------------------------------------------- containers

    async def create_container(self, account: str, container: bytes, metadata: Metadata) -> bool:
        """Create a container, or merge metadata into it; True if it is new."""
        key = container_key(account, container)
        catalog, _ = await self._catalog(CONTAINER, key)
        new = catalog is None or not _live(catalog)
        if new or metadata:
            await self._put_catalog(CONTAINER, key, metadata, create=True)
        if new:
            catalog, _ = await self._catalog(CONTAINER, key)
            if catalog is None or not _live(catalog):
                raise Unavailable("the container was deleted by another client while it was created; retry")
        assert catalog is not None
        created = catalog.created_timestamp  # of several who create it at once the first one's
        if not internal(container):
            await self._put_account_row(account, container, created, deleted=False, only_if_new=not new)
        self._learn(account, container)
        return new

    async def head_container(self, account: str, container: bytes) -> ContainerInfo:
        """A container's totals and metadata. Raises NoSuchContainer, Unavailable."""
        catalog, consistency = await self._catalog(CONTAINER, container_key(account, container))
        info = _visible_container(catalog, consistency)
        self._learn(account, container)
        return info

    async def update_container(self, account: str, container: bytes, changes: Mapping[str, str]) -> None:
        """Merge metadata; an empty value removes its item. Raises NoSuchContainer."""
        if not await self._put_catalog(CONTAINER, container_key(account, container), changes, create=False):
            raise NoSuchContainer("the container does not exist")

    async def delete_container(self, account: str, container: bytes) -> None:
        """Delete an empty container. Raises NoSuchContainer, ContainerNotEmpty."""
        info = await self.head_container(account, container)
        await self._until_empty(account, container)
        self._known.pop((account, container), None)
        timestamp = await self._delete_catalog(CONTAINER, container_key(account, container), info.metadata)
        if not timestamp:
            raise ContainerNotEmpty("an object has just been stored in the container")
        if not internal(container):
            await self._put_account_row(account, container, timestamp, deleted=True, only_if_new=False)

    async def unlist_container(self, account: str, row: Row) -> None:
        """Take a container that is gone out of its account's listing, where whoever deleted it did not come to that."""
        catalog = await self._certain_catalog(CONTAINER, container_key(account, row.name))
        if catalog is not None and _live(catalog):
            return
        timestamp = max(row.timestamp + 1, catalog.deleted_timestamp if catalog is not None else 0)
        await self._put_account_row(account, row.name, timestamp, deleted=True, only_if_new=False)

    async def _until_empty(self, account: str, container: bytes) -> None:
        """Until every replica at hand says that the container is empty. Raises ContainerNotEmpty if it is not.

        Deletions that a majority has acknowledged may be on their way to the last replica for some milliseconds; a
        replica whose device is dead stays behind, and is not waited for longer than SETTLE_S.
        """
        key = container_key(account, container)
        placement = self.cluster.place(key)
        operation = GetCatalog(CONTAINER, placement.hash, key)
        for delay_s in SETTLE_S:
            answers, _ = await read(self.cluster, placement, lambda _: operation, everyone=True)
            found = [a.catalog for _, a in answers if isinstance(a, FoundCatalog) and a.catalog is not None]
            if not any(catalog.row_count for catalog in found):
                return
            if (await self.list_objects(account, container, ListQuery(limit=1))).items:
                raise ContainerNotEmpty("the container still holds objects")
            await trio.sleep(delay_s)

    async def list_objects(self, account: str, container: bytes, query: ListQuery) -> ObjectListing:
        """A page of a container's objects. Raises NoSuchContainer."""
        key = container_key(account, container)
        catalog, consistency, rows, truncated = await self._rows(CONTAINER, key, query)
        info = _visible_container(catalog, consistency)
        items = tuple(ListedPrefix(row.prefix) if isinstance(row, CommonPrefix) else listed_object(row) for row in rows)
        last = rows[-1] if rows else None
        marker = b"" if last is None else last.prefix if isinstance(last, CommonPrefix) else last.name
        return ObjectListing(info, items, truncated, marker)

    async def list_rows(self, space: int, key: bytes, query: ListQuery) -> Sequence[Row]:
        """The plain rows of a page of a catalog's listing; none where there is no such catalog. Raises Unavailable."""
        catalog, _, rows, _ = await self._rows(space, key, query)
        if catalog is None or not _live(catalog):
            return ()
        return [row for row in rows if isinstance(row, Row)]

    async def ensure_container(self, account: str, container: bytes) -> None:
        """Raise NoSuchContainer unless the container exists, or was seen to exist a few seconds ago."""
        seen_s = self._known.get((account, container))
        if seen_s is None or self.cluster.monotonic() > seen_s + _KNOWN_CONTAINER_S:
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
        result = await write(cluster, placement, row, _ROW_SUCCESS)
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
        catalog, consistency = await self._catalog(CONTAINER, key)
        _visible_container(catalog, consistency)
        assert catalog is not None
        copy = PutCatalog(CONTAINER, placement.hash, key, catalog.created_timestamp, catalog.meta, True)
        await write(self.cluster, placement, copy, _ROW_SUCCESS)
        result = await write(self.cluster, placement, row, _ROW_SUCCESS)
        if result.applied < placement.need:
            if Status.NO_CATALOG in result.statuses and not consistency.degraded:
                raise NoSuchContainer("the container does not exist")
            raise shortage(result.statuses, result.detail, result.applied, placement.need)
        return result.degraded or consistency.degraded

    # ------------------------------------------------------------------------------------------------------- catalogs

    def _learn(self, account: str, container: bytes) -> None:
        if len(self._known) >= _KNOWN_CONTAINERS_MAX:
            self._known.clear()
        self._known[account, container] = self.cluster.monotonic()

    async def _catalog(self, space: int, key: bytes) -> tuple[Catalog | None, Consistency]:
        placement = self.cluster.place(key)
        operation = GetCatalog(space, placement.hash, key)

        def same(_: int) -> ReadOperation:
            return operation

        answers, degraded = await read(self.cluster, placement, same)
        found = [a.catalog for _, a in answers if isinstance(a, FoundCatalog) and a.catalog is not None]
        if found and not any(_live(catalog) for catalog in found) and len(answers) < len(placement.primaries):
            answers, degraded = await read(self.cluster, placement, same, everyone=True)
            found = [a.catalog for _, a in answers if isinstance(a, FoundCatalog) and a.catalog is not None]
        return merge_catalogs(found), _DEGRADED if degraded else CERTAIN

    async def _certain_catalog(self, space: int, key: bytes) -> Catalog | None:
        """A catalog for whoever removes something because of what it says: raises Unavailable without a majority."""
        catalog, consistency = await self._catalog(space, key)
        if consistency.degraded:
            raise Unavailable("too few devices that should know this name answer; retry")
        return catalog

    async def _put_catalog(self, space: int, key: bytes, metadata: Metadata, *, create: bool) -> int:
        """Create or update a catalog; its timestamp, or 0 if it is missing and is not to be created."""
        cluster = self.cluster
        placement = cluster.place(key)

        def make(timestamp: int) -> PutCatalog:
            items = {encode_text(name): (encode_text(value), timestamp) for name, value in metadata.items()}
            return PutCatalog(space, placement.hash, key, timestamp, items, create)

        if not create:
            catalog, _ = await self._catalog(space, key)
            if catalog is None or not _live(catalog):
                return 0
        timestamp, result = await write_newest(cluster, placement, make, also_final=frozenset((Status.MISSING,)))
        return timestamp if result.applied >= placement.need else 0

    async def _delete_catalog(self, space: int, key: bytes, metadata: Metadata) -> int:
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
        await self._put_catalog(space, key, metadata, create=True)
        return 0

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
        result = await write(cluster, placement, row, _ROW_SUCCESS)
        if result.applied < placement.need and Status.NO_CATALOG in result.statuses:
            await self._put_catalog(ACCOUNT, key, {}, create=True)
            result = await write(cluster, placement, row, _ROW_SUCCESS)
        if result.applied < placement.need:
            raise shortage(result.statuses, result.detail, result.applied, placement.need)

    async def _account_lists(self, placement: Placement, key: bytes, container: bytes) -> bool:
        operation = ListRows(ACCOUNT, placement.hash, key, container, container + b"\x00", b"", b"", 1, False, False)
        answers, _ = await read(self.cluster, placement, lambda _: operation)
        return all(isinstance(answer, FoundRows) and answer.items for _, answer in answers)

    async def _rows(
        self, space: int, key: bytes, query: ListQuery
    ) -> tuple[Catalog | None, Consistency, Sequence[Row | CommonPrefix], bool]:
        """A page of a catalog's rows as a majority has them, with the catalog."""
        placement = self.cluster.place(key)
        limit = max(0, min(query.limit, LIST_LIMIT_MAX))
        page = page_request(space, placement.hash, key, query, max(limit, 1))
        describe = GetCatalog(space, placement.hash, key)
        answers, degraded = await read(self.cluster, placement, lambda i: page if i == 0 else describe)
        consistency = _DEGRADED if degraded else CERTAIN
        catalogs = [a.catalog for _, a in answers if isinstance(a, (FoundRows, FoundCatalog)) and a.catalog is not None]
        merged = merge_catalogs(catalogs)
        if merged is None or not _live(merged) or not limit:
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
            if not degraded and not placement.suffices(good_ones(gather.answers)):
                raise Unavailable("too few replicas of the listing answer; retry")
            return found

        items, truncated = await merged_page(fetch, space, placement.hash, key, query, limit)
        return merged, consistency, items, truncated


_ROW_SUCCESS = frozenset((Status.APPLIED, Status.NEWER))
"""A row that a device has in a newer version has been overtaken by a later write, which is as good."""


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


def _live(catalog: Catalog) -> bool:
    return catalog.created_timestamp > catalog.deleted_timestamp


def _metadata(catalog: Catalog) -> Metadata:
    """The items that are set; what an earlier account or container of this name had does not come back with the name."""
    created = catalog.created_timestamp
    return {
        decode_text(name): decode_text(value)
        for name, (value, set_at) in catalog.meta.items()
        if value and set_at >= created
    }


def _visible_account(account: str, catalog: Catalog | None, consistency: Consistency) -> AccountInfo:
    """What a client may see of an account. Raises NoSuchAccount, AccountDeleted."""
    if catalog is None and consistency.degraded:
        raise Unavailable("too few devices that should know this account answer; retry")
    if catalog is None or not _live(catalog):
        raise NoSuchAccount(f"account {account} does not exist")
    info = _account_info(catalog, consistency)
    if DELETED in info.metadata:
        raise AccountDeleted(f"account {account} was deleted")
    return info


def _account_info(catalog: Catalog, consistency: Consistency) -> AccountInfo:
    return AccountInfo(
        catalog.created_timestamp,
        catalog.row_count,
        catalog.object_count,
        catalog.size_bytes,
        _metadata(catalog),
        consistency,
    )


def _visible_container(catalog: Catalog | None, consistency: Consistency) -> ContainerInfo:
    """What a client may see of a container. Raises NoSuchContainer, Unavailable.

    That nobody has heard of it says that it is not there only where a majority of its own devices was asked: a write that
    is refused because of handoffs that know nothing would take with it what it replaced.
    """
    if catalog is None and consistency.degraded:
        raise Unavailable("too few devices that should know this container answer; retry")
    if catalog is None or not _live(catalog):
        raise NoSuchContainer("the container does not exist")
    return _container_info(catalog, consistency)


def _container_info(catalog: Catalog, consistency: Consistency) -> ContainerInfo:
    return ContainerInfo(
        catalog.created_timestamp, catalog.row_count, catalog.size_bytes, _metadata(catalog), consistency
    )
