"""CompleteMultipartUpload: from parts to an object.

Problem: the client names parts and etags; the answer must be an object of exactly those, once, also when the client asks
twice because the first answer was lost, when two clients ask at once, and when this proxy dies at any line.

Idea: claim the upload, choose the parts (pure), make the manifest, write it, remove the marker, delete what was not chosen.
Until the manifest is written nothing has changed and a failure gives the claim back. After it the object exists and says
which upload it came from, so a repeated request finds it and gets the same answer.

The etag is the MD5 of the parts' MD5s, "-", and their number. The checksum is either of the parts' checksums likewise
(COMPOSITE) or that of the whole object, combined from the parts' without reading them (FULL_OBJECT).

Source: API_CompleteMultipartUpload of the Amazon S3 API Reference; "Checking object integrity" of the User Guide.

Invariants:
- The object's parts are attempts that were stored whole and that the request named, in ascending order of their numbers.
- A part is deleted only after the marker of this very claim was.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element

from proxy.http.message import HeaderList, Response
from proxy.model import Conditions, Manifest, NoSuchObject, ObjectInfo, PutObjectRequest, Segment, StoreError
from proxy.s3.call import Call
from proxy.s3.conditions import write_conditions
from proxy.s3.copying import checksum_elements
from proxy.s3.digests import combined_checksum, given_checksums
from proxy.s3.errors import S3Error, invalid_argument
from proxy.s3.multipart import Multipart, no_such_upload
from proxy.s3.objects import DEGRADED
from proxy.s3.settings import (
    PART_BYTES_MIN,
    PART_NUMBER_MAX,
    UPLOAD_SIZE_BYTES_MAX,
    XML_LONG_BODY_BYTES_MAX,
)
from proxy.s3.upload_names import parts_container
from proxy.s3.upload_store import UPLOAD_ID, Part, Upload, UploadStore
from proxy.s3.xml import CONTENT_TYPE, child_text, children, document, escape
from proxy.store import ObjectStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@dataclass(frozen=True, slots=True)
class NamedPart:
    """A part as the request names it."""

    number: int
    etag: str
    checksums: Mapping[str, str] = field(default_factory=dict)
    """By algorithm ("crc32"), in base64."""


class Completion:
    """The operation CompleteMultipartUpload."""

    def __init__(self, store: ObjectStore, uploads: UploadStore, multipart: Multipart) -> None:
        self._store = store
        self._uploads = uploads
        self._multipart = multipart

    async def complete(self, call: Call) -> Response:
        """CompleteMultipartUpload."""
        named = parse_parts(await self._document(call))
        conditions = write_conditions(call.headers)
        try:
            info = await self._complete(call, named, conditions)
        except S3Error as error:
            if error.code != "NoSuchUpload":
                raise
            info = await self._completed_before(call, named)
        return _answer(call, info)

    async def _document(self, call: Call) -> Element:
        try:
            return await call.document("CompleteMultipartUpload", XML_LONG_BODY_BYTES_MAX)
        except S3Error as error:
            if error.code == "MissingRequestBodyError":
                raise S3Error("MalformedXML", "You must specify at least one part") from None
            raise

    async def _complete(self, call: Call, named: Sequence[NamedPart], conditions: Conditions) -> ObjectInfo:
        """Complete an upload that is in progress. Raises NoSuchUpload where it is not."""
        upload = await self._multipart.upload_of(call)
        if upload.claimed:
            with suppress(S3Error):  # the object may be there already, and only the marker be left
                info = await self._completed_before(call, named)
                await self._uploads.end(upload)
                return info
        async with self._claimed(upload) as claimed:
            attempts = await self._uploads.attempts(claimed)
            parts = choose_parts(named, attempts)
            size_bytes = sum(part.size_bytes for part in parts)
            check_size(call.headers.get(b"x-amz-mp-object-size"), size_bytes)
            metadata = claimed.object_metadata
            metadata |= await self._checksum(call, claimed, named, parts)
            metadata[UPLOAD_ID] = claimed.upload_id.decode()
            info = await self._store.put_manifest(
                call.account,
                call.bucket,
                call.key,
                _manifest(claimed, parts),
                etag_of_parts([part.etag for part in parts]),
                size_bytes,
                PutObjectRequest(claimed.marker.content_type, metadata, conditions),
            )
        chosen = {part.name for part in parts}
        with suppress(StoreError):  # the object is there; what cannot be tidied up now is found by the next request
            if await self._uploads.end(claimed):
                left = [part.name for part in attempts if part.name not in chosen]
                await self._uploads.drop_parts(call.account, call.bucket, left)
        return info

    @asynccontextmanager
    async def _claimed(self, upload: Upload) -> AsyncIterator[Upload]:
        """The upload, claimed; given back if what is done with it fails."""
        claimed = await self._uploads.claim(upload)
        try:
            yield claimed
        except BaseException:
            await self._uploads.give_back(claimed)
            raise

    async def _completed_before(self, call: Call, named: Sequence[NamedPart]) -> ObjectInfo:
        """The object that this upload became already. Raises NoSuchUpload."""
        upload_id = call.parameters["uploadId"]
        try:
            info = await self._store.head_object(call.account, call.bucket, call.key)
        except NoSuchObject:
            raise no_such_upload(upload_id) from None
        if info.metadata.get(UPLOAD_ID) != upload_id:
            raise no_such_upload(upload_id)
        if info.etag != etag_of_parts([part.etag for part in named]):
            raise S3Error("InvalidPart", fields=(("UploadId", upload_id),))
        return info

    async def _checksum(
        self, call: Call, upload: Upload, named: Sequence[NamedPart], parts: Sequence[Part]
    ) -> dict[str, str]:
        """The object's checksum metadata. Raises BadDigest and InvalidPart where the request says otherwise."""
        given = given_checksums(call.headers)
        kind = call.headers.get(b"x-amz-checksum-type")
        algorithm = upload.algorithm
        if not algorithm:
            if given:
                raise S3Error("InvalidRequest", "The upload was created without a checksum algorithm.")
            return {}
        if kind is not None and kind.decode("latin-1").upper() != upload.checksum_type:
            raise S3Error(
                "InvalidRequest",
                f"The upload was created using the {upload.checksum_type} checksum mode. The complete request must use the "
                "same checksum mode.",
            )
        stored = await self._multipart.part_checksums(upload, list(parts))
        values: list[tuple[str, int]] = []
        for wanted, part in zip(named, parts, strict=True):
            value = stored.get(part.number, {}).get(f"checksum:{algorithm}")
            if value is None or wanted.checksums.get(algorithm, value) != value:
                raise _invalid_part(upload, part.number, part.etag)
            values.append((value, part.size_bytes))
        whole = combined_checksum(algorithm, upload.checksum_type, values)
        if given.get(algorithm, whole) != whole:
            raise S3Error("BadDigest", f"The {algorithm} you specified did not match the calculated checksum.")
        return {f"checksum:{algorithm}": whole, "checksum:type": upload.checksum_type}


def parse_parts(root: Element) -> list[NamedPart]:
    """The parts that a CompleteMultipartUpload document names. Raises MalformedXML, InvalidPartOrder.

    A client that sent a part twice may name it twice in a row: the last one counts.
    """
    named: list[NamedPart] = []
    for node in children(root, "Part"):
        number, etag = child_text(node, "PartNumber"), child_text(node, "ETag")
        number = (number or "").strip()
        if not (number.isascii() and number.isdigit() and len(number) <= 5) or etag is None:
            raise S3Error("MalformedXML")
        if not 1 <= int(number) <= PART_NUMBER_MAX:
            raise invalid_argument("PartNumber", number, f"PartNumber must be between 1 and {PART_NUMBER_MAX}")
        checksums = {
            child.tag.rpartition("}")[2][8:].lower(): (child.text or "").strip()
            for child in node
            if isinstance(child.tag, str) and child.tag.rpartition("}")[2].startswith("Checksum")
        }
        part = NamedPart(int(number), etag.strip().strip('"').lower(), checksums)
        if named and named[-1].number == part.number:
            named[-1] = part
        else:
            named.append(part)
    if not named or len(named) > PART_NUMBER_MAX:
        raise S3Error("MalformedXML")
    if any(one.number > other.number for one, other in itertools.pairwise(named)):
        raise S3Error("InvalidPartOrder")
    return named


def choose_parts(named: Sequence[NamedPart], attempts: Sequence[Part]) -> list[Part]:
    """The stored attempt for each part that was named: the newest of that number, and of that etag.

    Raises InvalidPart, EntityTooSmall, EntityTooLarge.
    """
    by_number: dict[int, Part] = {}
    wanted = {part.number: part.etag for part in named}
    for part in attempts:
        if wanted.get(part.number) == part.etag:
            held = by_number.get(part.number)
            if held is None or part.timestamp > held.timestamp:
                by_number[part.number] = part
    chosen: list[Part] = []
    for part_named in named:
        found = by_number.get(part_named.number)
        if found is None:
            fields = (("PartNumber", str(part_named.number)), ("ETag", part_named.etag))
            raise S3Error("InvalidPart", fields=fields)
        chosen.append(found)
    for part in chosen[:-1]:
        if part.size_bytes < PART_BYTES_MIN:
            raise S3Error(
                "EntityTooSmall",
                fields=(
                    ("ProposedSize", str(part.size_bytes)),
                    ("MinSizeAllowed", str(PART_BYTES_MIN)),
                    ("PartNumber", str(part.number)),
                    ("ETag", part.etag),
                ),
            )
    return chosen


def check_size(announced: bytes | None, size_bytes: int) -> None:
    """Raises EntityTooLarge, or InvalidRequest where x-amz-mp-object-size says otherwise."""
    if size_bytes > UPLOAD_SIZE_BYTES_MAX:
        raise S3Error(
            "EntityTooLarge",
            fields=(("ProposedSize", str(size_bytes)), ("MaxSizeAllowed", str(UPLOAD_SIZE_BYTES_MAX))),
        )
    if announced is None:
        return
    if not announced.isdigit() or len(announced) > 20:
        raise invalid_argument("x-amz-mp-object-size", announced.decode("latin-1"))
    if int(announced) != size_bytes:
        raise S3Error(
            "InvalidRequest",
            f"The provided 'x-amz-mp-object-size' header value {int(announced)} does not match what was computed: "
            f"{size_bytes}",
        )


def etag_of_parts(etags: Sequence[str]) -> str:
    """MD5 of the parts' MD5s and how many they are. "" where one of them is no MD5."""
    try:
        digests = b"".join(bytes.fromhex(etag) for etag in etags)
    except ValueError:
        return ""
    return f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(etags)}"


def _manifest(upload: Upload, parts: Sequence[Part]) -> Manifest:
    container = parts_container(upload.bucket)
    return Manifest(
        tuple(Segment(upload.account, container, part.name, part.size_bytes, part.etag) for part in parts), owned=True
    )


def _invalid_part(upload: Upload, number: int, etag: str) -> S3Error:
    fields = (("UploadId", upload.upload_id.decode()), ("PartNumber", str(number)), ("ETag", etag))
    return S3Error("InvalidPart", fields=fields)


def _answer(call: Call, info: ObjectInfo) -> Response:
    host = call.headers.get(b"host", b"").decode("latin-1")
    path = call.request.path.decode("latin-1")
    content = (
        f"<Location>{escape(f'{call.request.scheme}://{host}{path}')}</Location>"
        f"<Bucket>{escape(call.bucket_text)}</Bucket><Key>{escape(call.key_text)}</Key>"
        f"<ETag>&quot;{info.etag}&quot;</ETag>{checksum_elements(info.metadata)}"
    )
    headers: HeaderList = [CONTENT_TYPE]
    if info.consistency.degraded:
        headers.append(DEGRADED)
    return Response(200, headers, document("CompleteMultipartUploadResult", content))
