"""GET and HEAD of objects.

The hot path of the dialect: a small object, no conditions, no range. It does one call of the store, builds ten headers and
hands the bytes on; everything else hangs off tests that are false for it.

What else there is: an expired object is gone, though its bytes may still be there; a dynamic large object becomes the list
of its segments; a caller who is not the owner must be allowed to read the segments' containers too, or a writer of one
container could read all others through a manifest.

Invariants: conditions are decided on the etag and time that the client is shown; whatever is opened is closed, with the
answer's stream or before the answer.
"""

from __future__ import annotations

from functools import partial

from proxy.conditions import check_read as check_conditions
from proxy.dynamic import DLO, parse_dlo
from proxy.http.message import HeaderList, Response, ResponseStream
from proxy.model import NotModified, ObjectInfo, ObjectStream
from proxy.names import ObjectName
from proxy.object_reads import OpenObject, ended
from proxy.streams import looked_up_again
from proxy.swift.call import Call, Service, check_read
from proxy.swift.errors import SwiftError
from proxy.swift.metadata import add_object_headers, expired, header_value, truthy
from proxy.swift.preconditions import if_range_holds, read_conditions
from proxy.swift.ranges import ByteRange, MultipartRanges, parse_ranges
from proxy.swift.static_large import manifest_document, shown, shown_etag
from proxy.swift.times import decimal_seconds, http_date

DEGRADED = (b"X-Ringstead-Consistency", b"degraded")
_ACCEPT_RANGES = (b"Accept-Ranges", b"bytes")
_STATIC_LARGE_OBJECT = (b"X-Static-Large-Object", b"True")


async def get_object(service: Service, call: Call) -> Response:
    """GET: 200, 206, 304; 404, 412, 416."""
    if call.parameters.get("multipart-manifest") == "get":
        return await looked_up_again(partial(_get_manifest, service, call))
    return await looked_up_again(partial(_get_object, service, call))


async def _get_object(service: Service, call: Call) -> Response:
    """The object as it is now. Raises Overwritten."""
    target = ObjectName(call.account, call.container, call.name)
    opened = await open_readable(service, call, target)
    info = opened.info
    streaming = False
    try:
        conditions = read_conditions(call.headers)
        if conditions:
            check_conditions(conditions, shown(info))
        headers = object_headers(info)
        ranges = _ranges(call, info)
        if ranges is not None:
            response = await _partial(call, opened, ranges, headers)
        elif opened.small is not None:
            response = Response(200, headers, opened.small)
        else:
            response = Response(200, headers, await opened.begin(0, info.size_bytes), info.size_bytes)
        if not isinstance(response.body, (bytes, memoryview)):
            response.body = _ClosingStream(response.body, opened)
            streaming = True
        return response
    except NotModified:
        return not_modified(info)
    finally:
        if not streaming:
            await opened.aclose()


async def head_object(service: Service, call: Call) -> Response:
    """HEAD: 200, 304; 404, 412."""
    if call.parameters.get("multipart-manifest") == "get":
        response = await _get_manifest(service, call)
        response.body = b""
        return response
    info = await describe(service, call, ObjectName(call.account, call.container, call.name))
    conditions = read_conditions(call.headers)
    try:
        if conditions:
            check_conditions(conditions, shown(info))
    except NotModified:
        return not_modified(info)
    return Response(200, object_headers(info), b"", info.size_bytes)


async def open_readable(service: Service, call: Call, name: ObjectName, *, raw: bool = False) -> OpenObject:
    """An object to be read; `raw`: a large object's own bytes, not its segments'.

    Raises NoSuchObject for one that has expired, SwiftError 401 or 403 where its segments may not be read.
    """
    newest = truthy(call.headers.get(b"x-newest"))
    opened = await service.store.open_object(*name, newest=newest, raw_manifest=raw)
    info = opened.info
    if info.metadata or info.manifest is not None:
        try:
            await _check(service, call, name.account, info)
        except BaseException:
            await opened.aclose()
            raise
    return opened


async def describe(service: Service, call: Call, name: ObjectName, *, raw: bool = False) -> ObjectInfo:
    """What HEAD says of an object. Raises as `open_readable`."""
    newest = truthy(call.headers.get(b"x-newest"))
    info = await service.store.head_object(*name, newest=newest, raw_manifest=raw)
    if info.metadata or info.manifest is not None:
        await _check(service, call, name.account, info)
    return info


async def _check(service: Service, call: Call, account: str, info: ObjectInfo) -> None:
    """Whether the object is still there, and the caller may read what it is made of."""
    if expired(info.metadata, service.clock()):
        raise ended(info)
    if info.manifest is None or info.manifest.owned:
        return
    places = {(segment.account, segment.container) for segment in info.manifest.segments}
    dynamic = parse_dlo(info.metadata[DLO]) if DLO in info.metadata else None
    if dynamic is not None:
        places.add((account, dynamic[0]))
    for segment_account, container in places:
        await check_read(service, call, segment_account, container)


def object_headers(info: ObjectInfo) -> HeaderList:
    """What GET and HEAD say of an object."""
    modified_us = info.modified_us
    metadata = info.metadata
    large = info.manifest is not None
    etag = shown_etag(info).encode("latin-1", "replace")
    headers: HeaderList = [
        (b"Content-Type", header_value(info.content_type)),
        (b"Etag", b'"%b"' % etag if large else etag),
        (b"Last-Modified", http_date(modified_us)),
        (b"X-Timestamp", decimal_seconds(modified_us)),
        _ACCEPT_RANGES,
    ]
    if metadata:
        add_object_headers(headers, metadata)
    if large and DLO not in metadata:
        headers.append(_STATIC_LARGE_OBJECT)
    if info.consistency.degraded:
        headers.append(DEGRADED)
    return headers


def not_modified(info: ObjectInfo) -> Response:
    """304, with what a cache wants to know."""
    kept = (b"Etag", b"Last-Modified", b"X-Timestamp", b"Cache-Control", b"Expires")
    return Response(304, [header for header in object_headers(info) if header[0] in kept])


def _ranges(call: Call, info: ObjectInfo) -> list[ByteRange] | None:
    value = call.headers.get(b"range")
    if value is None or not if_range_holds(call.headers.get(b"if-range"), shown_etag(info), info.modified_us):
        return None
    ranges = parse_ranges(value, info.size_bytes)
    if ranges == []:
        raise SwiftError(416, headers=((b"Content-Range", b"bytes */%d" % info.size_bytes), _ACCEPT_RANGES))
    if ranges is not None and info.size_bytes == 0:
        return None
    return ranges


async def _partial(call: Call, opened: OpenObject, ranges: list[ByteRange], headers: HeaderList) -> Response:
    """206: one range as it is, several as multipart/byteranges."""
    size_bytes = opened.info.size_bytes
    if len(ranges) == 1:
        start, stop = ranges[0]
        headers.append((b"Content-Range", b"bytes %d-%d/%d" % (start, stop - 1, size_bytes)))
        if opened.small is not None:
            return Response(206, headers, memoryview(opened.small)[start:stop])
        return Response(206, headers, await opened.begin(start, stop), stop - start)
    boundary = b"ringstead-%b" % call.request.transaction_id.encode("ascii", "replace")
    body = MultipartRanges(ranges, size_bytes, headers[0][1], boundary, opened.stream)
    headers[0] = (b"Content-Type", b"multipart/byteranges;boundary=" + boundary)
    return Response(206, headers, body, body.length)


async def _get_manifest(service: Service, call: Call) -> Response:
    """The manifest itself: an SLO's as JSON, a dynamic one's own bytes; any other object as it is."""
    name = ObjectName(call.account, call.container, call.name)
    info = await describe(service, call, name)
    static = info.manifest is not None and DLO not in info.metadata
    if not static:
        info = await describe(service, call, name, raw=True)
    conditions = read_conditions(call.headers)
    try:
        if conditions:
            check_conditions(conditions, shown(info))
    except NotModified:
        return not_modified(info)
    headers = object_headers(info)
    if static:
        body, etag = manifest_document(info, raw=call.parameters.get("format") == "raw")
        headers[0] = (b"Content-Type", b"application/json; charset=utf-8")
        headers[1] = (b"Etag", etag)
        return Response(200, headers, body)
    if call.request.method == "HEAD":
        return Response(200, headers, b"", info.size_bytes)
    opened = await open_readable(service, call, name, raw=True)
    size_bytes = opened.info.size_bytes
    return Response(
        200, object_headers(opened.info), _ClosingStream(await opened.begin(0, size_bytes), opened), size_bytes
    )


class _ClosingStream:
    """A stream that lets go of its object when it is closed."""

    __slots__ = ("_opened", "_stream", "read")

    def __init__(self, stream: ObjectStream | ResponseStream, opened: OpenObject) -> None:
        self._stream = stream
        self._opened = opened
        self.read = stream.read

    async def aclose(self) -> None:
        """Close both."""
        try:
            await self._stream.aclose()
        finally:
            await self._opened.aclose()
