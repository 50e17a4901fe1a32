"""Accounts and containers: PUT, POST, GET, HEAD and DELETE.

Both are names with metadata and totals that list what is in them. A user's own account comes into being with the first
request for it, so that nobody has to create one.

Invariant: what merges into existing metadata is checked against the limits together with what is there, or a client could
add for ever.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from proxy.http.message import HeaderList, Response
from proxy.model import (
    AccountDeleted,
    AccountInfo,
    ContainerInfo,
    ContainerListing,
    ListedObject,
    ListedPrefix,
    ListQuery,
    NoSuchAccount,
    NoSuchContainer,
    NoSuchObject,
)
from proxy.swift.call import Call, Service
from proxy.swift.errors import HTML, SwiftError, page
from proxy.swift.listings import TEXT, Item, chosen_format, list_query, rendered
from proxy.swift.metadata import add_catalog_headers, catalog_changes, check_merged
from proxy.swift.reading import DEGRADED
from proxy.swift.times import decimal_seconds, http_date
from storage_node.timestamp import microseconds

T = TypeVar("T")

# -------------------------------------------------------------------------------------------------------------- accounts


async def get_account(service: Service, call: Call) -> Response:
    """GET: 200 with a page of containers, 204 for an empty page of text; 404, 406, 412."""
    media_type = chosen_format(call)
    query = list_query(call, service.settings)

    async def list_containers() -> ContainerListing:
        return await service.store.list_containers(call.account, query)

    listing = await _with_own_account(service, call, list_containers)
    headers = _account_headers(listing.account)
    return _listed(listing.items, media_type, "account", call.account, headers)


async def head_account(service: Service, call: Call) -> Response:
    """HEAD: 204; 404."""

    async def head() -> AccountInfo:
        return await service.store.head_account(call.account)

    headers = _account_headers(await _with_own_account(service, call, head))
    return Response(204, [(b"Content-Type", f"{chosen_format(call)}; charset=utf-8".encode()), *headers])


async def put_account(service: Service, call: Call) -> Response:
    """PUT: 201, 202; 403 while the reaper has not removed what a deleted one held. For administrators."""
    _administrator(call)
    changes = catalog_changes(call.headers, b"account", service.settings)
    with suppress(NoSuchAccount):
        check_merged((await service.store.head_account(call.account)).metadata, changes, service.settings)
    try:
        new = await service.store.create_account(call.account, changes)
    except AccountDeleted as error:
        message = "the account was deleted, and what it held is not removed yet"
        raise SwiftError(403, message, headers=((b"X-Account-Status", b"Deleted"),)) from error
    return Response(201, [HTML]) if new else Response(202, [HTML], page(202))


async def post_account(service: Service, call: Call) -> Response:
    """POST: merge metadata. 204; 400, 404."""
    changes = catalog_changes(call.headers, b"account", service.settings)

    async def update() -> None:
        info = await service.store.head_account(call.account)
        if changes:
            check_merged(info.metadata, changes, service.settings)
            await service.store.update_account(call.account, changes)

    await _with_own_account(service, call, update)
    return Response(204, [HTML])


async def delete_account(service: Service, call: Call) -> Response:
    """DELETE: 204; all that the account holds is gone for clients, and removed later. For administrators."""
    _administrator(call)
    await service.store.delete_account(call.account)
    return Response(204, [HTML])


def _administrator(call: Call) -> None:
    if call.user is None or not call.user.admin:
        raise SwiftError(403)


async def _with_own_account(service: Service, call: Call, ask: Callable[[], Awaitable[T]]) -> T:
    """`ask`, after making the caller's own account if there is none yet."""
    try:
        return await ask()
    except NoSuchAccount:
        if call.user is None or call.user.account != call.account:
            raise
        await service.store.create_account(call.account, {})
        return await ask()


def _account_headers(info: AccountInfo) -> HeaderList:
    headers: HeaderList = [
        (b"X-Account-Container-Count", b"%d" % info.container_count),
        (b"X-Account-Object-Count", b"%d" % info.object_count),
        (b"X-Account-Bytes-Used", b"%d" % info.size_bytes),
        (b"X-Timestamp", decimal_seconds(microseconds(info.timestamp))),
        (b"Accept-Ranges", b"bytes"),
    ]
    add_catalog_headers(headers, info.metadata, b"X-Account-Meta-", owner=True)
    if info.consistency.degraded:
        headers.append(DEGRADED)
    return headers


# ------------------------------------------------------------------------------------------------------------ containers


async def get_container(service: Service, call: Call) -> Response:
    """GET: 200 with a page of objects, 204 for an empty page of text; 404, 406, 412."""
    media_type = chosen_format(call)
    query = list_query(call, service.settings)
    if "path" in call.parameters:
        info, items = await _directory(service, call, query)
    else:
        listing = await service.store.list_objects(call.account, call.container, query)
        info, items = listing.container, listing.items
    name = call.container.decode()
    return _listed(items, media_type, "container", name, _container_headers(info, owner=call.owner))


async def head_container(service: Service, call: Call) -> Response:
    """HEAD: 204; 404."""
    info = await service.store.head_container(call.account, call.container)
    content_type = f"{chosen_format(call)}; charset=utf-8".encode()
    return Response(204, [(b"Content-Type", content_type), *_container_headers(info, owner=call.owner)])


async def put_container(service: Service, call: Call) -> Response:
    """PUT: 201 for a new container, 202 for one that was there; 400."""
    policy = call.headers.get(b"x-storage-policy")
    if policy and policy.lower() != b"default":
        raise SwiftError(400, "Invalid X-Storage-Policy: there is one policy, called default")
    changes = catalog_changes(call.headers, b"container", service.settings)
    if changes:
        try:
            info = await service.store.head_container(call.account, call.container)
            check_merged(info.metadata, changes, service.settings)
        except (NoSuchContainer, NoSuchAccount):
            changes = {name: value for name, value in changes.items() if value}
    new = await service.store.create_container(call.account, call.container, changes)
    return Response(201, [HTML]) if new else Response(202, [HTML], page(202))


async def post_container(service: Service, call: Call) -> Response:
    """POST: merge metadata and ACLs. 204; 400, 404."""
    changes = catalog_changes(call.headers, b"container", service.settings)
    info = await service.store.head_container(call.account, call.container)
    if changes:
        check_merged(info.metadata, changes, service.settings)
        await service.store.update_container(call.account, call.container, changes)
    return Response(204, [HTML])


async def delete_container(service: Service, call: Call) -> Response:
    """DELETE: 204; 404, 409 while there are objects."""
    await service.store.delete_container(call.account, call.container)
    return Response(204, [HTML])


async def _directory(service: Service, call: Call, query: ListQuery) -> tuple[ContainerInfo, Sequence[Item]]:
    """`path=`: the objects directly in a pseudo-directory, those that stand for its subdirectories included.

    A delimiter rolls `photos/` (an object that is a directory's marker) up into a prefix of that name, so prefixes are
    looked up; and pages are fetched until `limit` objects are found, since prefixes are not shown.
    """
    path = call.parameter("path").rstrip(b"/")
    prefix = path + b"/" if path else b""
    found: list[Item] = []
    marker = query.marker
    while True:
        left = query.limit - len(found)
        page_query = ListQuery(prefix, b"/", marker, query.end_marker, left, query.reverse)
        listing = await service.store.list_objects(call.account, call.container, page_query)
        for item in listing.items:
            if isinstance(item, ListedPrefix):
                listed = await _marker_object(service, call, item.prefix)
                if listed is not None:
                    found.append(listed)
            elif isinstance(item, ListedObject) and item.name != prefix:
                found.append(item)
        if not listing.truncated or len(found) >= query.limit:
            return listing.container, found
        marker = listing.next_marker


async def _marker_object(service: Service, call: Call, name: bytes) -> ListedObject | None:
    try:
        info = await service.store.head_object(call.account, call.container, name, raw_manifest=True)
    except NoSuchObject:
        return None
    timestamp = max(info.timestamp, info.meta_timestamp)
    return ListedObject(name, timestamp, info.size_bytes, info.etag, info.content_type)


def _container_headers(info: ContainerInfo, *, owner: bool) -> HeaderList:
    created_us = microseconds(info.timestamp)
    headers: HeaderList = [
        (b"X-Container-Object-Count", b"%d" % info.object_count),
        (b"X-Container-Bytes-Used", b"%d" % info.size_bytes),
        (b"X-Timestamp", decimal_seconds(created_us)),
        (b"Last-Modified", http_date(created_us)),
        (b"X-Storage-Policy", b"default"),
        (b"Accept-Ranges", b"bytes"),
    ]
    add_catalog_headers(headers, info.metadata, b"X-Container-Meta-", owner=owner)
    if info.consistency.degraded:
        headers.append(DEGRADED)
    return headers


def _listed(items: Sequence[Item], media_type: str, root: str, name: str, headers: HeaderList) -> Response:
    headers.insert(0, (b"Content-Type", f"{media_type}; charset=utf-8".encode()))
    if not items and media_type == TEXT:
        return Response(204, headers)
    return Response(200, headers, rendered(items, media_type, root, name))
