"""Objects: get, describe, put, delete. The hot path.

Problem: a 4 KiB GET has some tens of microseconds for everything that S3 is: conditions, ranges, parts, checksums,
overrides.

Idea: what is rare is found by one look into the headers or by "the query is empty", and costs nothing when it is not
there. Small objects come as bytes that go out as they are; larger ones as the store's stream, which the server drains and
closes.

Which bytes a request wants is one pure decision (`select`) for GET and HEAD: all, a range, or a part. Checksums are
shown only with the bytes that they are of: of the whole object with all of it, of a part with that part.

Invariants:
- A body that fails any check it announced (MD5, checksum, signature, length) stores nothing; the store sees to that.
- HEAD says what GET would, without bytes.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from proxy.http.message import HeaderList, Response
from proxy.model import (
    OBJECT_SIZE_BYTES_MAX,
    Metadata,
    NoSuchObject,
    ObjectInfo,
    PutObjectRequest,
    StoreError,
)
from proxy.s3.call import Call
from proxy.s3.conditions import delete_conditions, read_conditions, write_conditions
from proxy.s3.errors import S3Error, invalid_argument, no_such_version
from proxy.s3.headers import object_headers, object_metadata, override_headers
from proxy.s3.ranges import parse_range
from proxy.s3.settings import PART_NUMBER_MAX
from proxy.s3.upload_names import part_number_of
from proxy.store import ObjectStore
from proxy.streams import looked_up_again

DEGRADED = (b"x-ringstead-consistency", b"degraded")
"""Says that fewer than a majority of a name's own devices took part: the answer may be older than the newest write, the
write lies on stand-ins until its devices are back."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The bytes that a GET or HEAD is about."""

    start: int
    stop: int
    partial: bool
    """Answered with 206 and Content-Range."""
    part_index: int | None = None
    """Index of the manifest's segment that was asked for by part number."""


def select(info: ObjectInfo, range_value: bytes | None, part_number: int | None) -> Selection:
    """Which bytes are wanted. Raises InvalidRange, InvalidPart, InvalidRequest."""
    if part_number is None:
        if range_value is None:
            return Selection(0, info.size_bytes, False)
        bounds = parse_range(range_value, info.size_bytes)
        return Selection(0, info.size_bytes, False) if bounds is None else Selection(*bounds, True)
    if range_value is not None:
        raise S3Error("InvalidRequest", "Cannot specify both Range header and partNumber query parameter.")
    if info.manifest is None:
        if part_number != 1:
            raise S3Error("InvalidPart")
        return Selection(0, info.size_bytes, info.size_bytes > 0)
    offset = 0
    for index, segment in enumerate(info.manifest.segments):
        if part_number_of(segment.name, index) == part_number:
            return Selection(offset, offset + segment.size_bytes, segment.size_bytes > 0, index)
        offset += segment.size_bytes
    raise S3Error("InvalidPart")


class Objects:
    """The operations on single objects."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    async def get_object(self, call: Call) -> Response:
        """GetObject."""
        return await looked_up_again(partial(self._get_object, call))

    async def _get_object(self, call: Call) -> Response:
        """The object as it is now. Raises Overwritten."""
        headers = call.headers
        part_number = _read_parameters(call) if call.parameters else None
        opened = await self._store.open_object(call.account, call.bucket, call.key, read_conditions(headers))
        info = opened.info
        small = opened.small
        range_value = headers.get(b"range")
        if small is not None and range_value is None and not call.parameters:
            return Response(200, _describe(info, headers.get(b"x-amz-checksum-mode") is not None), small)
        try:
            selection = select(info, _honoured_range(call, info), part_number)
            answer = await self._headers(call, info, selection)
        except (S3Error, StoreError):
            await opened.aclose()
            raise
        status = 206 if selection.partial else 200
        start, stop = selection.start, selection.stop
        if small is not None:
            return Response(status, answer, memoryview(small)[start:stop])
        return Response(status, answer, await opened.begin(start, stop), stop - start)

    async def head_object(self, call: Call) -> Response:
        """HeadObject."""
        headers = call.headers
        part_number = _read_parameters(call) if call.parameters else None
        info = await self._store.head_object(call.account, call.bucket, call.key, read_conditions(headers))
        selection = select(info, _honoured_range(call, info), part_number)
        answer = await self._headers(call, info, selection)
        answer.append((b"content-length", b"%d" % (selection.stop - selection.start)))
        return Response(206 if selection.partial else 200, answer)

    async def _headers(self, call: Call, info: ObjectInfo, selection: Selection) -> HeaderList:
        """The headers of a GET or HEAD, but for the length."""
        wants_checksum = call.headers.get(b"x-amz-checksum-mode") is not None
        whole = selection.stop - selection.start == info.size_bytes and selection.part_index is None
        answer = _describe(info, wants_checksum and whole)
        if selection.partial:
            span = b"bytes %d-%d/%d" % (selection.start, selection.stop - 1, info.size_bytes)
            answer.append((b"content-range", span))
        if selection.part_index is not None and info.manifest is not None:
            answer.append((b"x-amz-mp-parts-count", b"%d" % len(info.manifest.segments)))
            if wants_checksum:
                segment = info.manifest.segments[selection.part_index]
                part = await self._store.head_object(segment.account, segment.container, segment.name)
                answer += checksum_headers(part.metadata)
                if kind := info.metadata.get("checksum:type"):
                    answer = [pair for pair in answer if pair[0] != b"x-amz-checksum-type"]
                    answer.append((b"x-amz-checksum-type", kind.encode()))
        return override_headers(answer, call.parameters) if call.parameters else answer

    async def put_object(self, call: Call) -> Response:
        """PutObject."""
        headers = call.headers
        content_type, metadata = object_metadata(headers)
        check_length(call)
        request = PutObjectRequest(
            content_type,
            metadata,
            write_conditions(headers),
            call.content_md5,
            call.late_metadata,
        )
        info = await self._store.put_object(call.account, call.bucket, call.key, call.body, request)
        answer: HeaderList = [(b"etag", b'"' + info.etag.encode() + b'"')]
        if info.metadata:
            answer += checksum_headers(info.metadata)
        if info.consistency.degraded:
            answer.append(DEGRADED)
        return Response(200, answer)

    async def delete_object(self, call: Call) -> Response:
        """DeleteObject: succeeds where there is nothing to delete."""
        if call.parameters:
            check_version(call)
        conditions = delete_conditions(call.headers)
        with suppress(NoSuchObject):
            info = await self._store.delete_object(call.account, call.bucket, call.key, conditions)
            if info.consistency.degraded:
                return Response(204, [DEGRADED])
        return Response(204)


def _describe(info: ObjectInfo, with_checksums: bool) -> HeaderList:
    answer = object_headers(info, with_checksums)
    if info.consistency.degraded:
        answer.append(DEGRADED)
    return answer


def _read_parameters(call: Call) -> int | None:
    """Checks the query of a GET or HEAD; the part number that it asks for."""
    check_version(call)
    text = call.parameters.get("partNumber")
    return None if text is None else part_number_parameter(text)


def part_number_parameter(text: str) -> int:
    """A part number in a query. Raises InvalidArgument."""
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= PART_NUMBER_MAX):
        raise invalid_argument(
            "partNumber",
            text.encode("utf-8", "replace").decode(),
            f"Part number must be an integer between 1 and {PART_NUMBER_MAX}, inclusive",
        )
    return int(text)


def check_version(call: Call) -> None:
    """Raises NoSuchVersion unless the version asked for is the one there is."""
    version_id = call.parameters.get("versionId")
    if version_id is not None and version_id != "null":
        if not version_id:
            raise invalid_argument("versionId", "", "Version id cannot be the empty string")
        raise no_such_version(call.key_text, version_id.encode("utf-8", "replace").decode())


def _honoured_range(call: Call, info: ObjectInfo) -> bytes | None:
    """The Range header; None where If-Range says that the object has changed."""
    value = call.headers.get(b"range")
    if value is None:
        return None
    if_range = call.headers.get(b"if-range")
    if if_range is not None and if_range.strip(b'"') != info.etag.encode():
        return None
    return value


def check_length(call: Call) -> None:
    """Raises MissingContentLength or EntityTooLarge before anything of the body is read."""
    length = call.body.length
    if length is None:
        if b"transfer-encoding" not in call.headers:
            raise S3Error("MissingContentLength", close=True)
    elif length > OBJECT_SIZE_BYTES_MAX:
        raise S3Error(
            "EntityTooLarge",
            fields=(("ProposedSize", str(length)), ("MaxSizeAllowed", str(OBJECT_SIZE_BYTES_MAX))),
            close=True,
        )


def checksum_headers(metadata: Metadata) -> HeaderList:
    """x-amz-checksum-… of an object's metadata."""
    return [
        (b"x-amz-checksum-" + name[9:].encode(), value.encode())
        for name, value in metadata.items()
        if name[:9] == "checksum:"
    ]
