"""Multipart uploads: begin, upload parts, list, abort. Completing is `proxy.s3.completion`.

The life of an upload in the store, and why nothing of it can be lost or left, is in `proxy.s3.upload_store`. Here are the
requests: their parameters, their checks, their documents.

Checksums: an upload that was begun with an algorithm has it on every part. A part that comes without is given one here, so
that the completed object's can always be made; a part that brings another is refused.

Source: API_CreateMultipartUpload, API_UploadPart, API_UploadPartCopy, API_ListParts, API_ListMultipartUploads,
API_AbortMultipartUpload of the Amazon S3 API Reference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from urllib.parse import quote_from_bytes

from proxy.checksums import S3_ALGORITHMS
from proxy.http.message import HeaderList, Response
from proxy.model import BodySource, Metadata, NoSuchObject, ObjectInfo, PutObjectRequest
from proxy.s3.call import Call
from proxy.s3.concurrency import for_each
from proxy.s3.copying import Copying, checksum_elements, copy_answer, opened_copy, parse_copy_source
from proxy.s3.dates import iso_date
from proxy.s3.digests import DigestingBody, default_type, possible_types, request_algorithm
from proxy.s3.errors import S3Error, invalid_argument
from proxy.s3.headers import object_metadata
from proxy.s3.listing import count_parameter, owner_element, text_parameter, url_encoding
from proxy.s3.objects import DEGRADED, check_length, checksum_headers, part_number_parameter
from proxy.s3.ranges import parse_copy_range
from proxy.s3.settings import COPY_BYTES_MAX, PART_NUMBER_MAX, S3Settings
from proxy.s3.upload_names import initiated_us, parts_container, split_marker
from proxy.s3.upload_store import (
    ALGORITHM,
    CHECKSUM_TYPE,
    INITIATOR,
    Part,
    Upload,
    UploadStore,
    modified_us,
    newest_attempts,
)
from proxy.s3.xml import CONTENT_TYPE, document, element, escape
from proxy.store import ObjectStore
from proxy.streams import looked_up_again


class Multipart:
    """The operations on uploads in progress."""

    def __init__(self, store: ObjectStore, uploads: UploadStore, copying: Copying, settings: S3Settings) -> None:
        self._store = store
        self._uploads = uploads
        self._copying = copying
        self._settings = settings

    # --------------------------------------------------------------------------------------------------- begin and end

    async def create(self, call: Call) -> Response:
        """CreateMultipartUpload."""
        content_type, metadata = object_metadata(call.headers)
        algorithm, checksum_type = chosen_checksum(call.headers)
        if algorithm:
            metadata |= {ALGORITHM: algorithm, CHECKSUM_TYPE: checksum_type}
        metadata[INITIATOR] = f"{call.user.id} {call.user.display_name}"
        upload_id = await self._uploads.create(call.account, call.bucket, call.key, content_type, metadata)
        headers: HeaderList = [CONTENT_TYPE]
        if algorithm:
            headers.append((b"x-amz-checksum-algorithm", algorithm.upper().encode()))
            headers.append((b"x-amz-checksum-type", checksum_type.encode()))
        content = (
            f"<Bucket>{escape(call.bucket_text)}</Bucket><Key>{escape(call.key_text)}</Key>"
            f"<UploadId>{upload_id.decode()}</UploadId>"
        )
        return Response(200, headers, document("InitiateMultipartUploadResult", content))

    async def abort(self, call: Call) -> Response:
        """AbortMultipartUpload: removes the upload and its parts. A completion under way goes first."""
        upload = await self.upload_of(call)
        upload = await self._uploads.claim(upload)
        attempts = await self._uploads.attempts(upload)
        used = await self._used_by_object(upload)
        if await self._uploads.end(upload):
            await self._uploads.drop_parts(
                upload.account, upload.bucket, [part.name for part in attempts if part.name not in used]
            )
        return Response(204)

    async def _used_by_object(self, upload: Upload) -> set[bytes]:
        """The parts that the key's object consists of: not empty if a completion died just before its end."""
        try:
            info = await self._store.head_object(upload.account, upload.bucket, upload.key)
        except NoSuchObject:
            return set()
        return {segment.name for segment in info.manifest.segments} if info.manifest is not None else set()

    async def upload_of(self, call: Call) -> Upload:
        """The upload that the query names. Raises NoSuchUpload."""
        upload_id = call.parameters.get("uploadId", "")
        found = None
        if upload_id.isascii() and upload_id.isalnum():
            found = await self._uploads.find(call.account, call.bucket, call.key, upload_id.encode())
        if found is None:
            raise no_such_upload(upload_id)
        return found

    # ----------------------------------------------------------------------------------------------------------- parts

    async def upload_part(self, call: Call) -> Response:
        """UploadPart."""
        number = _part_number(call)
        check_length(call)
        md5 = call.content_md5
        upload = await self.upload_of(call)
        given = request_algorithm(call.headers)
        if given and upload.algorithm and given != upload.algorithm:
            raise S3Error(
                "InvalidRequest",
                f"Checksum Type mismatch occurred, expected checksum Type: {upload.algorithm}, actual checksum Type: "
                f"{given}",
            )
        body: BodySource = call.body
        late = call.late_metadata
        if upload.algorithm and not given:
            body = digesting = DigestingBody(body, upload.algorithm)
            late = digesting.checksum_metadata
        info = await self._store_part(upload, number, body, late, md5)
        headers: HeaderList = [(b"etag", b'"' + info.etag.encode() + b'"')]
        headers += [pair for pair in checksum_headers(info.metadata) if pair[0] != b"x-amz-checksum-type"]
        if info.consistency.degraded:
            headers.append(DEGRADED)
        return Response(200, headers)

    async def upload_part_copy(self, call: Call) -> Response:
        """UploadPartCopy: a part out of another object, or out of a range of one."""
        return await looked_up_again(partial(self._upload_part_copy, call))

    async def _upload_part_copy(self, call: Call) -> Response:
        """Copy from the source as it is now. Raises Overwritten."""
        number = _part_number(call)
        source = parse_copy_source(call.headers[b"x-amz-copy-source"])
        upload = await self.upload_of(call)
        _, opened = await self._copying.open_source(call, source)
        size_bytes = opened.info.size_bytes
        try:
            range_value = call.headers.get(b"x-amz-copy-source-range")
            start, stop = (0, size_bytes) if range_value is None else parse_copy_range(range_value, size_bytes)
            if stop - start > COPY_BYTES_MAX:
                raise S3Error("InvalidRequest", f"A part is copied from at most {COPY_BYTES_MAX} bytes.")
        except S3Error:
            await opened.aclose()
            raise
        async with opened_copy(opened, start, stop, upload.algorithm) as (body, late):
            info = await self._store_part(upload, number, body, late, None)
        return copy_answer("CopyPartResult", source, info)

    async def _store_part(
        self,
        upload: Upload,
        number: int,
        body: BodySource,
        late: Callable[[], Metadata] | None,
        md5: bytes | None,
    ) -> ObjectInfo:
        name = self._uploads.new_part_name(upload, number)
        request = PutObjectRequest(expected_md5=md5, late_metadata=late)
        info = await self._store.put_object(upload.account, parts_container(upload.bucket), name, body, request)
        if not await self._uploads.settle_part(upload, name):
            raise no_such_upload(upload.upload_id.decode())
        return info

    async def part_checksums(self, upload: Upload, parts: list[Part]) -> dict[int, Metadata]:
        """The checksum metadata of each part, by number."""
        found: dict[int, Metadata] = {}
        container = parts_container(upload.bucket)

        async def look(part: Part) -> None:
            info = await self._store.head_object(upload.account, container, part.name)
            found[part.number] = info.metadata

        await for_each([part for part in parts if part.algorithm], look, self._settings.part_concurrency)
        return found

    # -------------------------------------------------------------------------------------------------------- listings

    async def list_parts(self, call: Call) -> Response:
        """ListParts."""
        max_parts = count_parameter(call.parameters, "max-parts")
        after = count_parameter(call.parameters, "part-number-marker", PART_NUMBER_MAX)
        if not call.parameters.get("part-number-marker"):
            after = 0
        upload = await self.upload_of(call)
        parts = newest_attempts(await self._uploads.attempts(upload, after, max_parts))
        truncated = len(parts) > max_parts > 0
        parts = parts[:max_parts]
        checksums = await self.part_checksums(upload, parts)
        next_marker = parts[-1].number if parts else 0
        rows = "".join(
            f"<Part><PartNumber>{part.number}</PartNumber><LastModified>{iso_date(modified_us(part))}</LastModified>"
            f"<ETag>&quot;{part.etag}&quot;</ETag><Size>{part.size_bytes}</Size>"
            f"{checksum_elements(checksums.get(part.number, {}), with_type=False)}</Part>"
            for part in parts
        )
        content = (
            f"<Bucket>{escape(call.bucket_text)}</Bucket><Key>{escape(call.key_text)}</Key>"
            f"<UploadId>{upload.upload_id.decode()}</UploadId>{_people(upload.marker.metadata)}"
            f"<StorageClass>STANDARD</StorageClass><PartNumberMarker>{after}</PartNumberMarker>"
            f"<NextPartNumberMarker>{next_marker}</NextPartNumberMarker><MaxParts>{max_parts}</MaxParts>"
            f"<IsTruncated>{'true' if truncated else 'false'}</IsTruncated>{_checksum_choice(upload.marker.metadata)}{rows}"
        )
        return Response(200, [CONTENT_TYPE], document("ListPartsResult", content))

    async def list_uploads(self, call: Call) -> Response:
        """ListMultipartUploads."""
        request = parse_list_uploads(call.parameters)
        await self._store.head_container(call.account, call.bucket)
        entries: list[tuple[bytes, bytes] | bytes] = []
        marker, truncated = request.start(), True
        while truncated and len(entries) <= request.max_uploads:
            items, truncated = await self._uploads.list_markers(call.account, call.bucket, request.prefix, marker)
            for item in items:
                key, upload_id = split_marker(item.name)
                rolled = request.rolled_up(key)
                if rolled is None:
                    entries.append((key, upload_id))
                elif not entries or entries[-1] != rolled:
                    entries.append(rolled)
                marker = item.name if rolled is None else rolled + b"\xff"
                if len(entries) > request.max_uploads:
                    break
        page = entries[: request.max_uploads]
        described: dict[bytes, Metadata] = {}

        async def look(entry: tuple[bytes, bytes] | bytes) -> None:
            if not isinstance(entry, bytes):
                upload = await self._uploads.find(call.account, call.bucket, *entry)
                described[entry[1]] = upload.marker.metadata if upload else {}

        await for_each(page, look, self._settings.part_concurrency)
        content = _render_uploads(call, request, page, len(entries) > len(page) > 0, described)
        return Response(200, [CONTENT_TYPE], document("ListMultipartUploadsResult", content))


@dataclass(frozen=True, slots=True)
class ListUploadsRequest:
    """A listing of uploads as a client asked for it."""

    prefix: bytes
    delimiter: bytes
    key_marker: bytes
    upload_id_marker: str
    max_uploads: int
    url: bool

    def rolled_up(self, key: bytes) -> bytes | None:
        """The common prefix that the key is listed under; None where it is listed itself."""
        if not self.delimiter:
            return None
        at = key.find(self.delimiter, len(self.prefix))
        return None if at < 0 else key[: at + len(self.delimiter)]

    def start(self) -> bytes:
        """The marker's name behind which the page begins."""
        if not self.key_marker:
            return b""
        if self.rolled_up(self.key_marker) == self.key_marker:
            return self.key_marker + b"\xff"  # behind all that the prefix covers: no key holds that byte
        return self.key_marker + b"\x00" + (self.upload_id_marker.encode() if self.upload_id_marker else b"\xff")


def parse_list_uploads(parameters: Mapping[str, str]) -> ListUploadsRequest:
    """ListMultipartUploads. An upload-id-marker without a key-marker is ignored. Raises InvalidArgument."""
    key_marker = text_parameter(parameters, "key-marker")
    upload_id_marker = parameters.get("upload-id-marker", "") if key_marker else ""
    if not upload_id_marker.isascii():
        raise invalid_argument("upload-id-marker", upload_id_marker.encode("utf-8", "replace").decode())
    return ListUploadsRequest(
        text_parameter(parameters, "prefix"),
        text_parameter(parameters, "delimiter"),
        key_marker,
        upload_id_marker,
        count_parameter(parameters, "max-uploads"),
        url_encoding(parameters),
    )


def _render_uploads(
    call: Call,
    request: ListUploadsRequest,
    page: list[tuple[bytes, bytes] | bytes],
    truncated: bool,
    described: Mapping[bytes, Metadata],
) -> str:
    def name(raw: bytes) -> str:
        return quote_from_bytes(raw, safe="/") if request.url else escape(raw.decode())

    parts = [
        (
            f"<Bucket>{escape(call.bucket_text)}</Bucket><KeyMarker>{name(request.key_marker)}</KeyMarker>"
            f"{element('UploadIdMarker', request.upload_id_marker)}<Prefix>{name(request.prefix)}</Prefix>"
        )
    ]
    if request.delimiter:
        parts.append(f"<Delimiter>{name(request.delimiter)}</Delimiter>")
    if request.url:
        parts.append("<EncodingType>url</EncodingType>")
    if truncated and page:
        last = page[-1]
        key, upload_id = (last, b"") if isinstance(last, bytes) else last
        parts.append(f"<NextKeyMarker>{name(key)}</NextKeyMarker>")
        parts.append(f"<NextUploadIdMarker>{upload_id.decode()}</NextUploadIdMarker>")
    parts.append(f"<MaxUploads>{request.max_uploads}</MaxUploads>")
    parts.append(f"<IsTruncated>{'true' if truncated else 'false'}</IsTruncated>")
    for entry in page:
        if isinstance(entry, bytes):
            continue
        key, upload_id = entry
        metadata = described.get(upload_id, {})
        parts.append(
            f"<Upload><Key>{name(key)}</Key><UploadId>{upload_id.decode()}</UploadId>{_people(metadata)}"
            f"<StorageClass>STANDARD</StorageClass><Initiated>{iso_date(initiated_us(upload_id))}</Initiated>"
            f"{_checksum_choice(metadata)}</Upload>"
        )
    parts += [
        f"<CommonPrefixes><Prefix>{name(entry)}</Prefix></CommonPrefixes>" for entry in page if isinstance(entry, bytes)
    ]
    return "".join(parts)


def chosen_checksum(headers: Mapping[bytes, bytes]) -> tuple[str, str]:
    """The algorithm ("crc32") and type of an upload that is begun; "" for none. Raises InvalidRequest."""
    value = headers.get(b"x-amz-checksum-algorithm")
    kind = headers.get(b"x-amz-checksum-type", b"").decode("latin-1").upper()
    if value is None:
        if kind:
            raise S3Error(
                "InvalidRequest",
                "The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header.",
            )
        return "", ""
    algorithm = value.decode("latin-1").lower()
    if algorithm not in S3_ALGORITHMS:
        raise S3Error(
            "InvalidRequest",
            "Checksum algorithm provided is unsupported. Please try again with any of the valid types.",
        )
    if not kind:
        return algorithm, default_type(algorithm)
    if kind not in ("FULL_OBJECT", "COMPOSITE"):
        raise S3Error("InvalidRequest", "Value for x-amz-checksum-type header is invalid.")
    if kind not in possible_types(algorithm):
        raise S3Error(
            "InvalidRequest", f"The {kind} checksum type cannot be used with the {algorithm} checksum algorithm."
        )
    return algorithm, kind


def no_such_upload(upload_id: str) -> S3Error:
    """There is no such upload (any more)."""
    return S3Error("NoSuchUpload", fields=(("UploadId", upload_id.encode("utf-8", "replace").decode()),))


def _part_number(call: Call) -> int:
    number, upload_id = call.parameters.get("partNumber"), call.parameters.get("uploadId")
    if number is None or not upload_id:
        missing = "partNumber" if number is None else "uploadId"
        raise invalid_argument(missing, "", f"This operation does not accept a request without {missing}")
    return part_number_parameter(number)


def _people(metadata: Metadata) -> str:
    """Initiator and Owner."""
    user_id, _, display_name = metadata.get(INITIATOR, "").partition(" ")
    return owner_element(user_id, display_name, "Initiator") + owner_element(user_id, display_name)


def _checksum_choice(metadata: Metadata) -> str:
    algorithm = metadata.get(ALGORITHM)
    if not algorithm:
        return ""
    kind = metadata.get(CHECKSUM_TYPE, "")
    return f"<ChecksumAlgorithm>{algorithm.upper()}</ChecksumAlgorithm><ChecksumType>{kind}</ChecksumType>"
