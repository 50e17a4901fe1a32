"""COPY, and PUT with X-Copy-From: one object's bytes under another name, without passing through the client.

    COPY /v1/AUTH_science/c/o          Destination: other/name [Destination-Account: AUTH_art]
    PUT /v1/AUTH_art/other/name        X-Copy-From: c/o [X-Copy-From-Account: AUTH_science]

The copy has the source's metadata, changed by what the request says (`X-Fresh-Metadata: true`: only what the request says).
A large object is copied as the one object that its segments make, up to the size of one upload; with
`?multipart-manifest=get` its manifest is copied instead, and both share the segments. A Range copies a piece.

Invariants: bytes and metadata are of one version of the source; the caller may read the one and write the other; conditions
are the source's, but `If-None-Match: *` on a PUT, which is about the target.
"""

from __future__ import annotations

from functools import partial

from proxy.conditions import check_copy_source
from proxy.dynamic import DLO
from proxy.http.message import HeaderList, Response
from proxy.model import NO_CONDITIONS, Conditions, NoSuchObject, ObjectInfo, PutObjectRequest
from proxy.names import ObjectName
from proxy.object_reads import OpenObject
from proxy.streams import StreamBody, looked_up_again
from proxy.swift.call import Call, Service, check_read, check_write
from proxy.swift.errors import SwiftError
from proxy.swift.metadata import add_object_headers, object_metadata, truthy
from proxy.swift.paths import parse_account, parse_object_path, quote_name
from proxy.swift.preconditions import read_conditions
from proxy.swift.ranges import ByteRange, parse_ranges
from proxy.swift.reading import open_readable
from proxy.swift.static_large import shown
from proxy.swift.times import http_date
from proxy.swift.writing import created, given_content_type, unmatched

_LARGE_METADATA = "checksum:"


async def copy_object(service: Service, call: Call) -> Response:
    """COPY: 201; 404, 412, 413, 416."""
    destination = call.headers.get(b"destination")
    if not destination:
        raise SwiftError(412, "Destination header required")
    container, name = parse_object_path(destination, service.settings, "Destination")
    account = call.account
    if b"destination-account" in call.headers:
        account = parse_account(call.headers[b"destination-account"])
    source = ObjectName(call.account, call.container, call.name)
    return await _copy(service, call, source, ObjectName(account, container, name), read_conditions(call.headers))


async def put_copy(service: Service, call: Call) -> Response:
    """PUT with X-Copy-From: 201; 400, 404, 412, 413, 416."""
    if call.request.body.length != 0:
        raise SwiftError(400, "Copy requests require a zero byte body")
    container, name = parse_object_path(call.headers[b"x-copy-from"], service.settings, "X-Copy-From")
    account = call.account
    if b"x-copy-from-account" in call.headers:
        account = parse_account(call.headers[b"x-copy-from-account"])
    target = ObjectName(call.account, call.container, call.name)
    conditions = read_conditions(call.headers)
    on_target = NO_CONDITIONS
    if "*" in conditions.if_none_match:
        on_target = Conditions(if_none_match=("*",))
        conditions = Conditions(conditions.if_match, (), None, conditions.if_unmodified_since_us)
    return await _copy(service, call, ObjectName(account, container, name), target, conditions, on_target)


async def _copy(
    service: Service,
    call: Call,
    source: ObjectName,
    target: ObjectName,
    conditions: Conditions,
    on_target: Conditions = NO_CONDITIONS,
) -> Response:
    await check_read(service, call, source.account, source.container)
    await check_write(service, call, target.account, target.container)
    return await looked_up_again(partial(_copy_object, service, call, source, target, conditions, on_target))


async def _copy_object(
    service: Service, call: Call, source: ObjectName, target: ObjectName, conditions: Conditions, on_target: Conditions
) -> Response:
    """Copy the source as it is now. Raises Overwritten."""
    as_manifest = call.parameters.get("multipart-manifest") == "get"
    opened = await open_readable(service, call, source)
    if as_manifest and DLO in opened.info.metadata:
        await opened.aclose()
        opened = await open_readable(service, call, source, raw=True)
    try:
        info = opened.info
        if conditions:
            check_copy_source(conditions, shown(info))
        request = _put_request(service, call, info, on_target, as_manifest=as_manifest)
        try:
            if as_manifest and info.manifest is not None and not info.manifest.owned:
                copied = await service.store.put_manifest(*target, info.manifest, info.etag, info.size_bytes, request)
            else:
                copied = await _copy_bytes(service, call, opened, target, request)
        except NoSuchObject as error:
            raise unmatched(on_target) from error
    finally:
        await opened.aclose()
    extra: HeaderList = [
        (b"X-Copied-From", quote_name(source.container + b"/" + source.name).encode()),
        (b"X-Copied-From-Account", quote_name(source.account.encode()).encode()),
        (b"X-Copied-From-Last-Modified", http_date(info.modified_us)),
    ]
    add_object_headers(extra, request.metadata)
    return created(copied, extra)


async def _copy_bytes(
    service: Service, call: Call, opened: OpenObject, target: ObjectName, request: PutObjectRequest
) -> ObjectInfo:
    start, stop = _range(call, opened.info.size_bytes)
    if stop - start > service.settings.file_size_bytes_max:
        raise SwiftError(413, "the copy would be larger than one object may be; copy its manifest")
    stream = await opened.begin(start, stop)
    try:
        return await service.store.put_object(*target, StreamBody(stream, stop - start), request)
    finally:
        await stream.aclose()


def _range(call: Call, size_bytes: int) -> ByteRange:
    value = call.headers.get(b"range")
    ranges = parse_ranges(value, size_bytes) if value is not None else None
    if ranges is None:
        return ByteRange(0, size_bytes)
    if not ranges:
        raise SwiftError(416, headers=((b"Content-Range", b"bytes */%d" % size_bytes),))
    if len(ranges) > 1:
        raise SwiftError(400, "a copy takes one range")
    return ranges[0]


def _put_request(
    service: Service, call: Call, info: ObjectInfo, conditions: Conditions, *, as_manifest: bool
) -> PutObjectRequest:
    """What the copy's metadata will be."""
    metadata: dict[str, str] = {}
    if not truthy(call.headers.get(b"x-fresh-metadata")):
        metadata.update(info.metadata)
        if not as_manifest:
            metadata.pop(DLO, None)
        if info.manifest is not None or b"range" in call.headers:
            # A checksum of the source's parts, or of bytes that the copy has not.
            metadata = {name: value for name, value in metadata.items() if not name.startswith(_LARGE_METADATA)}
    elif as_manifest and DLO in info.metadata:
        metadata[DLO] = info.metadata[DLO]
    metadata.update(object_metadata(call.headers, service.settings, service.clock()))
    return PutObjectRequest(given_content_type(call) or info.content_type, metadata, conditions)
