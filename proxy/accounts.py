"""Accounts: their own state, and the listing of their containers.

Idea: an account is a catalog (proxy.catalogs) that comes into being with its first container, and whose rows are its
containers.

Deleting an account only marks it: it and all that it holds are hidden at once, and the reaper (proxy.reaping) takes it apart
in its own time. Its name goes into an internal container first: there is no mark that the reaper does not find.

Invariant: a proxy takes a deleted account for alive for a few seconds at most.
"""

from __future__ import annotations

from collections.abc import Mapping

from proxy.catalogs import is_live, items_of
from proxy.cluster import Cluster
from proxy.containers import KNOWN_MAX, KNOWN_S, ContainerStore
from proxy.model import (
    AccountDeleted,
    AccountInfo,
    Consistency,
    ContainerListing,
    ListedContainer,
    ListedPrefix,
    ListQuery,
    Metadata,
    NoSuchAccount,
    NoSuchContainer,
    Unavailable,
)
from proxy.names import ACCOUNT, account_key
from storage_node.operations import Catalog, CommonPrefix
from storage_node.timestamp import microseconds

DELETED = "sys:deleted"
"""The metadata item of an account that was deleted: when, in microseconds since 1970."""
GRAVES_ACCOUNT = ".ringstead"
GRAVES = b"\x00graves"
"""The internal container whose rows are the names of deleted accounts, for the reaper."""


class AccountStore(ContainerStore):
    """Accounts and containers of one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._accounts: dict[str, tuple[float, bool]] = {}
        """When each was looked at, and whether it was deleted."""

    async def head_account(self, account: str) -> AccountInfo:
        """An account's totals and metadata. Raises NoSuchAccount, Unavailable."""
        catalog, consistency = await self.find_catalog(ACCOUNT, account_key(account))
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
            await self.put_catalog(ACCOUNT, account_key(account), metadata, create=True)
        return new

    async def update_account(self, account: str, changes: Mapping[str, str]) -> None:
        """Merge metadata; an empty value removes its item. Raises NoSuchAccount."""
        await self.head_account(account)
        if not await self.put_catalog(ACCOUNT, account_key(account), changes, create=False):
            raise NoSuchAccount(f"account {account} does not exist")

    async def ensure_account(self, account: str) -> None:
        """Raise AccountDeleted if the account was deleted more than a few seconds ago. Nothing else is asked of it.

        An account whose devices are all away is taken for what it was, so that its data does not depend on it.
        """
        now_s = self.cluster.monotonic()
        seen = self._accounts.get(account)
        if seen is None or now_s > seen[0] + KNOWN_S:
            try:
                catalog, _ = await self.find_catalog(ACCOUNT, account_key(account))
            except Unavailable:
                if seen is None:
                    return
            else:
                if len(self._accounts) >= KNOWN_MAX:
                    self._accounts.clear()
                seen = now_s, catalog is not None and is_live(catalog) and DELETED in items_of(catalog)
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
        if not await self.put_catalog(ACCOUNT, account_key(account), changes, create=False):
            raise NoSuchAccount(f"account {account} does not exist")
        self._accounts.pop(account, None)

    async def account_metadata(self, account: str) -> Metadata | None:
        """An account's metadata, also of one that is marked as deleted; None where there is none. Raises Unavailable."""
        catalog = await self.certain_catalog(ACCOUNT, account_key(account))
        return items_of(catalog) if catalog is not None and is_live(catalog) else None

    async def bury_account(self, account: str) -> bool:
        """Take away a deleted account that nothing is left in; False where something is."""
        catalog = await self.certain_catalog(ACCOUNT, account_key(account))
        if catalog is None or not is_live(catalog):
            return True
        if catalog.row_count or DELETED not in items_of(catalog):
            return False
        gone = bool(await self.delete_catalog(ACCOUNT, account_key(account), items_of(catalog)))
        self._accounts.pop(account, None)
        return gone

    async def list_containers(self, account: str, query: ListQuery) -> ContainerListing:
        """A page of an account's containers. Raises NoSuchAccount."""
        key = account_key(account)
        catalog, consistency, rows, truncated = await self.page_of(ACCOUNT, key, query)
        info = _visible_account(account, catalog, consistency)
        items = tuple(
            ListedPrefix(row.prefix)
            if isinstance(row, CommonPrefix)
            else ListedContainer(row.name, row.timestamp, row.object_count, row.size_bytes)
            for row in rows
        )
        return ContainerListing(info, items, truncated)


def _visible_account(account: str, catalog: Catalog | None, consistency: Consistency) -> AccountInfo:
    """What a client may see of an account. Raises NoSuchAccount, AccountDeleted."""
    if catalog is None or not is_live(catalog):
        if consistency.degraded:
            raise Unavailable("too few devices that should know this account answer; retry")
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
        items_of(catalog),
        consistency,
    )
