"""PUT and DELETE of static large objects: the part of static_large.py that asks the store.

Segments are looked up several at a time; whatever is wrong with any of them is in the one answer. A caller who is not the
owner must be allowed to read each segment's container, else a manifest would be a way around ACLs.

Deleting with `?multipart-manifest=delete` deletes the segments first (those of nested manifests before the manifests) and
the object last, so that what is left after a failure can still be deleted by the same request.
"""

from __future__ import annotations

import hashlib

import trio

from proxy.dynamic import DLO
from proxy.http.message import Response
from proxy.model import Manifest, NoSuchContainer, NoSuchObject, PutObjectRequest, Segment
from proxy.names import ObjectName
from proxy.swift.bulk import Tally, delete_all, summary
from proxy.swift.call import Call, Service, check_read, read_whole
from proxy.swift.errors import SwiftError, reason
from proxy.swift.metadata import object_metadata
from proxy.swift.paths import quote_name
from proxy.swift.reading import describe
from proxy.swift.static_large import ManifestEntry, checked_segment, manifest_etag, parse_manifest, stored_etag
from proxy.swift.writing import conditions_of, content_type_of, created, unmatched

_DEPTH_MAX = 10
"""Manifests within manifests."""
_NAMES_MAX = 20_000
"""Objects that one request deletes."""


async def put_manifest(service: Service, call: Call) -> Response:
    """PUT ?multipart-manifest=put: 201; 400 with the segments that are wrong, 409, 413, 422."""
    settings = service.settings
    data = await read_whole(call.request.body, settings.slo_manifest_bytes_max)
    entries = parse_manifest(data, settings)
    if any((entry.container, entry.name) == (call.container, call.name) for entry in entries):
        raise SwiftError(409, "A manifest cannot name the object that it is the manifest of")
    metadata = object_metadata(call.headers, settings, service.clock())
    metadata.pop(DLO, None)
    for container in {entry.container for entry in entries}:
        await check_read(service, call, call.account, container)
    segments, problems = await _look_up(service, call, entries)
    if problems:
        return summary(call, Tally(errors=problems), "400 Bad Request", upload=True)
    etag = manifest_etag(segments)
    promised = call.headers.get(b"etag")
    if promised and promised.strip().strip(b'"').decode("latin-1") not in (etag, _md5(data)):
        raise SwiftError(422)
    conditions = await conditions_of(service, call)
    request = PutObjectRequest(content_type_of(call), metadata, conditions)
    size_bytes = sum(segment.size_bytes for segment in segments)
    manifest = Manifest(tuple(segments), owned=False)
    try:
        info = await service.store.put_manifest(
            call.account, call.container, call.name, manifest, stored_etag(etag, segments), size_bytes, request
        )
    except NoSuchObject as error:
        raise unmatched(conditions) from error
    return created(info)


async def _look_up(
    service: Service, call: Call, entries: list[ManifestEntry]
) -> tuple[list[Segment], list[tuple[str, str]]]:
    """The segments that the entries mean, and what is wrong with which of them, both in the entries' order."""
    found: dict[int, Segment | str | Exception] = {}
    limit = trio.CapacityLimiter(service.settings.slo_concurrency)

    async def look_up(index: int, entry: ManifestEntry) -> None:
        async with limit:
            try:
                info = await describe(service, call, ObjectName(call.account, entry.container, entry.name))
                found[index] = checked_segment(entry, call.account, info)
            except (NoSuchObject, NoSuchContainer):
                found[index] = f"404 {reason(404)}"
            except Exception as error:
                found[index] = error

    async with trio.open_nursery() as nursery:
        for index, entry in enumerate(entries):
            nursery.start_soon(look_up, index, entry)
    segments: list[Segment] = []
    problems: list[tuple[str, str]] = []
    for index, entry in enumerate(entries):
        result = found[index]
        if isinstance(result, Exception):
            raise result
        if isinstance(result, str):
            problems.append((quote_name(entry.path.encode()), result))
        else:
            segments.append(result)
    return segments, problems


async def delete_manifest(service: Service, call: Call) -> Response:
    """DELETE ?multipart-manifest=delete: 200 with a summary, as bulk deletes have it."""
    name = ObjectName(call.account, call.container, call.name)
    quoted = quote_name(b"/%b/%b" % (call.container, call.name))
    try:
        info = await service.store.head_object(*name)
    except (NoSuchObject, NoSuchContainer):
        return summary(call, Tally(missing=1), "404 Not Found")
    if info.manifest is None or DLO in info.metadata:
        return summary(call, Tally(errors=[(quoted, "Not an SLO manifest")]), "400 Bad Request")
    names: list[ObjectName] = []
    if not info.manifest.owned:
        await _collect(service, info.manifest, names, 1)
    tally = await delete_all(service, call, names)
    if not tally.errors:
        last = await delete_all(service, call, [name])
        tally = Tally(tally.deleted + last.deleted, tally.missing + last.missing, last.errors)
    return summary(call, tally, "400 Bad Request" if tally.errors else "200 OK")


async def _collect(service: Service, manifest: Manifest, names: list[ObjectName], depth: int) -> None:
    """The objects that a manifest is made of, what nested ones are made of before themselves, each once."""
    if depth > _DEPTH_MAX or len(names) > _NAMES_MAX:
        raise SwiftError(413, "the manifest names too much to be deleted at once")
    seen = set(names)
    for segment in manifest.segments:
        name = ObjectName(segment.account, segment.container, segment.name)
        if name in seen:
            continue
        seen.add(name)
        try:
            info = await service.store.head_object(*name)
        except (NoSuchObject, NoSuchContainer):
            names.append(name)
            continue
        if info.manifest is not None and not info.manifest.owned and DLO not in info.metadata:
            await _collect(service, info.manifest, names, depth + 1)
            seen.update(names)
        names.append(name)


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
