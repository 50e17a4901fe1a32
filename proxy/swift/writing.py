"""PUT, POST and DELETE of objects.

A PUT is a stream into the store with what the headers say of it; a copy (`X-Copy-From`) and a static manifest
(`?multipart-manifest=put`) are PUTs too and go their own ways. A POST replaces what a client may say of an object; what
belongs to its bytes stays.

Invariant: everything that can be refused is refused before the first byte of the body is read.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from mimetypes import MimeTypes
from os.path import splitext

from proxy.http.message import HeaderList, Response
from proxy.model import Conditions, NoSuchObject, ObjectInfo, PreconditionFailed, PutObjectRequest
from proxy.names import ObjectName
from proxy.swift.call import Call, Service
from proxy.swift.errors import HTML, SwiftError, page
from proxy.swift.metadata import expired, header_text, kept_metadata, object_metadata, truthy
from proxy.swift.preconditions import write_conditions
from proxy.swift.reading import DEGRADED
from proxy.swift.static_large import shown_etag
from proxy.swift.times import decimal_seconds, http_date

_UNKNOWN_TYPE = "application/octet-stream"
_CONTENT_TYPE_BYTES_MAX = 1024
_MD5_HEX_LENGTH = 32
_TYPES = MimeTypes()


async def put_object(service: Service, call: Call) -> Response:
    """PUT of a body: 201; 400, 404, 411, 412, 413, 422."""
    body = call.request.body
    length = body.length
    if length is not None:
        if length == 0 and b"content-length" not in call.headers:
            raise SwiftError(411, "Missing Content-Length header.")
        if length > service.settings.file_size_bytes_max:
            raise SwiftError(413, close=True)
    request = put_request(service, call, await conditions_of(service, call))
    try:
        info = await service.store.put_object(call.account, call.container, call.name, body, request)
    except NoSuchObject as error:
        raise unmatched(request.conditions) from error
    return created(info)


async def post_object(service: Service, call: Call) -> Response:
    """POST: new metadata for an object. 202; 400, 404."""
    headers = call.headers
    name = ObjectName(call.account, call.container, call.name)
    metadata = object_metadata(headers, service.settings, service.clock())
    info = await service.store.head_object(*name, raw_manifest=True)
    if expired(info.metadata, service.clock()):
        raise SwiftError(404)
    metadata.update(kept_metadata(info.metadata))
    content_type = given_content_type(call)
    updated = await service.store.update_object(*name, metadata, content_type)
    answer: HeaderList = [HTML, (b"X-Timestamp", decimal_seconds(updated.modified_us))]
    if updated.consistency.degraded:
        answer.append(DEGRADED)
    return Response(202, answer, page(202))


async def delete_object(service: Service, call: Call) -> Response:
    """DELETE: 204; 404, 412."""
    conditions = await conditions_of(service, call)
    try:
        info = await service.store.delete_object(call.account, call.container, call.name, conditions)
    except NoSuchObject:
        if conditions.if_match:
            raise unmatched(conditions) from None
        raise
    if expired(info.metadata, service.clock()):
        raise SwiftError(404)
    headers: HeaderList = [HTML]
    if info.consistency.degraded:
        headers.append(DEGRADED)
    return Response(204, headers)


async def conditions_of(service: Service, call: Call) -> Conditions:
    """The conditions of a write. A large object's etag is matched as it was shown. Raises SwiftError 400."""
    conditions = write_conditions(call.headers)
    if conditions.if_match and "*" not in conditions.if_match:
        with suppress(NoSuchObject):
            info = await service.store.head_object(call.account, call.container, call.name)
            if shown_etag(info) in conditions.if_match:
                return replace(conditions, if_match=(info.etag,))
    return conditions


def put_request(service: Service, call: Call, conditions: Conditions) -> PutObjectRequest:
    """All that a PUT's headers say of the object. Raises SwiftError 400, 422."""
    headers = call.headers
    etag = headers.get(b"etag")
    return PutObjectRequest(
        content_type_of(call),
        object_metadata(headers, service.settings, service.clock()),
        conditions,
        expected_md5(etag) if etag else None,
    )


def unmatched(conditions: Conditions) -> PreconditionFailed:
    """A condition on an object that is not there."""
    condition = "If-Match" if conditions.if_match else "If-None-Match"
    return PreconditionFailed(f"{condition}: there is no such object", condition)


def expected_md5(etag: bytes) -> bytes:
    """The MD5 that an ETag header promises. One that is no MD5 is one that no body has: SwiftError 422."""
    text = etag.strip().strip(b'"')
    try:
        digest = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        raise SwiftError(422) from None
    if len(text) != _MD5_HEX_LENGTH:
        raise SwiftError(422)
    return digest


def content_type_of(call: Call) -> str:
    """The content type that a PUT gives its object: as given, or guessed from the name."""
    if not truthy(call.headers.get(b"x-detect-content-type")):
        given = given_content_type(call)
        if given is not None:
            return given
    return guessed_type(call.name)


def given_content_type(call: Call) -> str | None:
    """The Content-Type header, if it says anything. Raises SwiftError 400."""
    value = call.headers.get(b"content-type")
    if not value:
        return None
    if len(value) > _CONTENT_TYPE_BYTES_MAX:
        raise SwiftError(400, f"Content-Type is longer than {_CONTENT_TYPE_BYTES_MAX} bytes")
    return header_text(b"content-type", value)


def guessed_type(name: bytes) -> str:
    """The media type that a name's ending suggests."""
    return _type_of_ending(splitext(name[-64:].decode("utf-8", "replace"))[1].lower())


@lru_cache(maxsize=1024)
def _type_of_ending(ending: str) -> str:
    return _TYPES.types_map[1].get(ending) or _TYPES.types_map[0].get(ending) or _UNKNOWN_TYPE


def created(info: ObjectInfo, extra: HeaderList | None = None) -> Response:
    """201, with what a client checks its upload against."""
    etag = shown_etag(info).encode("latin-1", "replace")
    headers: HeaderList = [
        HTML,
        (b"Etag", b'"%b"' % etag if info.manifest is not None else etag),
        (b"Last-Modified", http_date(info.modified_us)),
    ]
    if extra:
        headers.extend(extra)
    if info.consistency.degraded:
        headers.append(DEGRADED)
    return Response(201, headers)
