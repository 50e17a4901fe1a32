"""Removing what a deleted account held: every object of every container, and what the dialects keep beside them.

Problem: an account may hold millions of objects; removing them takes hours, may be broken off at any point, and must in the
end leave nothing: neither rows nor multipart uploads in progress nor claims on bucket names.

Idea: the account's own listing is the list of what is left to do. A container leaves it last, after its objects, the
internal containers of its multipart uploads and its claim; the account itself after all its containers, and then the row
that told of its deletion. So whoever begins again goes on where the last one stopped, without anything written down.

Objects are deleted as a client would delete them, so that listings and totals stay right on the way. A row without an object
(its deletion was broken off long ago) is removed as the row that was read: the account's deletion is the order to do so.

Invariant: nothing is removed of an account that is not marked as deleted, and the mark is read from a majority each time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import trio

from proxy.accounts import DELETED, GRAVES, GRAVES_ACCOUNT
from proxy.expiry_queue import rank_of
from proxy.leavings import Take
from proxy.model import ContainerNotEmpty, ListQuery, NoSuchContainer, NoSuchObject, StoreError
from proxy.names import ACCOUNT, CONTAINER, account_key, container_key
from proxy.s3.ownership import BucketRegistry
from proxy.s3.upload_names import parts_container, uploads_container
from proxy.store import ObjectStore
from storage_node.operations import Row
from storage_node.timestamp import microseconds, wall_clock_us

PAGE: Final = 500
CONCURRENCY: Final = 8
STALE_US: Final = 3_600_000_000
"""A row of this age for an account that is not marked: whoever wrote it died before the mark."""

Note = Callable[[int, int], None]
"""Told of each progress: so many objects, so many containers."""


class Grave(NamedTuple):
    """A deleted account."""

    account: str
    timestamp: int
    sub_timestamp: int

    @property
    def name(self) -> bytes:
        """The row's name."""
        return self.account.encode()

    @property
    def deleted_us(self) -> int:
        """When it was deleted. Microseconds since 1970."""
        return microseconds(self.timestamp)


class Reaping:
    """Deleted accounts of one cluster. `now_us` is the wall clock, in microseconds."""

    def __init__(self, store: ObjectStore, now_us: Callable[[], int] = wall_clock_us) -> None:
        self._store = store
        self._now_us = now_us
        self._registry = BucketRegistry(store, now_us)

    def rank(self) -> int | None:
        """How near the list of deleted accounts is to this machine (see `rank_of`)."""
        return rank_of(self._store, container_key(GRAVES_ACCOUNT, GRAVES))

    async def graves(self) -> Sequence[Grave]:
        """Deleted accounts that are not removed yet. Raises Unavailable."""
        found: list[Grave] = []
        marker = b""
        while True:
            query = ListQuery(marker=marker, limit=PAGE)
            rows = await self._store.list_rows(CONTAINER, container_key(GRAVES_ACCOUNT, GRAVES), query)
            found += [Grave(row.name.decode(), row.timestamp, row.sub_timestamp) for row in rows]
            if len(rows) < PAGE:
                return found
            marker = rows[-1].name

    async def reap(self, grave: Grave, take: Take, note: Note) -> bool:
        """Remove a deleted account and all that it holds; False where something is left. Raises StoreError.

        `take` is waited for before each deletion.
        """
        store = self._store
        marked = await self._is_marked(grave.account)
        if marked is False and self._now_us() - grave.deleted_us < STALE_US:
            return False
        if marked:
            while rows := await store.list_rows(ACCOUNT, account_key(grave.account), ListQuery(limit=PAGE)):
                for row in rows:
                    if not await self._reap_container(grave.account, row, take, note):
                        return False
                    note(0, 1)
            if not await store.bury_account(grave.account):
                return False
        await store.put_row(
            GRAVES_ACCOUNT, GRAVES, grave.name, grave.timestamp, grave.sub_timestamp + 1, 0, b"", deleted=True
        )
        return True

    async def _is_marked(self, account: str) -> bool | None:
        """Whether the account is marked as deleted; None where there is no account any more."""
        items = await self._store.account_metadata(account)
        return None if items is None else DELETED in items

    async def _reap_container(self, account: str, row: Row, take: Take, note: Note) -> bool:
        """Remove a container of a deleted account; False where something is left."""
        container = row.name
        for internal in (uploads_container(container), parts_container(container)):
            if not await self._remove(account, internal, take, note):
                return False
        await self._empty(account, container, take, note)
        await self._registry.release(container, account)
        if not await self._remove(account, container, take, note):
            return False
        await self._store.unlist_container(account, row)
        return True

    async def _remove(self, account: str, container: bytes, take: Take, note: Note) -> bool:
        """Empty a container and delete it; False where something was put into it meanwhile."""
        await self._empty(account, container, take, note)
        try:
            await self._store.delete_container(account, container)
        except NoSuchContainer:
            return True
        except ContainerNotEmpty:
            return False
        return True

    async def _empty(self, account: str, container: bytes, take: Take, note: Note) -> None:
        """Delete every object of a container. Raises StoreError where one could not be deleted."""
        limit = trio.CapacityLimiter(CONCURRENCY)
        key = container_key(account, container)
        marker = b""
        failures: list[StoreError] = []

        async def delete(row: Row) -> None:
            async with limit:
                try:
                    await self._delete(account, container, row)
                except StoreError as error:
                    failures.append(error)
                else:
                    note(1, 0)

        while rows := await self._store.list_rows(CONTAINER, key, ListQuery(marker=marker, limit=PAGE)):
            async with trio.open_nursery() as nursery:
                for row in rows:
                    await take()
                    nursery.start_soon(delete, row)
            if failures:
                raise failures[0]
            marker = rows[-1].name

    async def _delete(self, account: str, container: bytes, row: Row) -> None:
        try:
            await self._store.delete_object(account, container, row.name)
        except NoSuchContainer:
            return
        except NoSuchObject:
            version = row.timestamp, row.sub_timestamp + 1
            await self._store.put_row(account, container, row.name, *version, 0, b"", deleted=True)
