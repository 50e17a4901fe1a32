"""CopyObject, and the source side of UploadPartCopy.

Problem: a copy is a GET and a PUT at once, with conditions, owners and names on both sides, metadata that is taken over or
replaced, and checksums that stay right or must be made anew.

Idea: the source is opened once, and everything is decided on that one version: conditions, range, metadata, checksums,
bytes. The bytes stream through this proxy. A copy of an object onto itself with new metadata moves no bytes.

What a copy takes over with COPY: content type, standard headers, user metadata, tags (unless told otherwise), a
whole-object checksum. A checksum of parts is of parts and is replaced by one over the whole. Not taken over: the redirect
location, expiry, what an upload left behind.

Source: API_CopyObject of the Amazon S3 API Reference.

Invariant: source and copy have the same bytes of one version, or the copy fails.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from urllib.parse import unquote_to_bytes

from proxy.checksums import S3_ALGORITHMS
from proxy.conditions import check_copy_source
from proxy.dynamic import DLO
from proxy.http.message import Response
from proxy.model import (
    BodySource,
    Metadata,
    NoSuchAccount,
    NoSuchContainer,
    NoSuchObject,
    ObjectInfo,
    PreconditionFailed,
    PutObjectRequest,
)
from proxy.object_reads import OpenObject
from proxy.s3.call import Call
from proxy.s3.conditions import copy_source_conditions, write_conditions
from proxy.s3.dates import iso_date
from proxy.s3.digests import DigestingBody
from proxy.s3.errors import S3Error, invalid_argument, no_such_version
from proxy.s3.headers import REDIRECT, TAGGING, object_metadata
from proxy.s3.names import check_bucket, check_key
from proxy.s3.objects import DEGRADED
from proxy.s3.ownership import BucketRegistry
from proxy.s3.settings import COPY_BYTES_MAX
from proxy.s3.upload_store import UPLOAD_ID
from proxy.s3.xml import CONTENT_TYPE, document, element
from proxy.store import ObjectStore
from proxy.streams import StreamBody, looked_up_again

_OF_THE_BYTES = frozenset((UPLOAD_ID, DLO))
"""Metadata that says how the object is made: an object that keeps its bytes keeps it, a copy is made anew."""
_NOT_TAKEN_OVER = _OF_THE_BYTES | {REDIRECT, "delete-at"}


@dataclass(frozen=True, slots=True)
class CopySource:
    """What x-amz-copy-source names."""

    bucket: bytes
    key: bytes
    version_id: str | None = None


class Copying:
    """The operation CopyObject."""

    def __init__(self, store: ObjectStore, registry: BucketRegistry) -> None:
        self._store = store
        self._registry = registry

    async def copy_object(self, call: Call) -> Response:
        """CopyObject."""
        return await looked_up_again(partial(self._copy_object, call))

    async def _copy_object(self, call: Call) -> Response:
        """Copy the source as it is now. Raises Overwritten."""
        headers = call.headers
        source = parse_copy_source(headers[b"x-amz-copy-source"])
        replaced = _directive(headers, b"x-amz-metadata-directive")
        replace_tags = _directive(headers, b"x-amz-tagging-directive")
        algorithm = _requested_algorithm(headers)
        content_type, given = object_metadata(headers)
        conditions = write_conditions(headers)
        account, opened = await self.open_source(call, source)
        info = opened.info
        itself = (account, source.bucket, source.key) == (call.account, call.bucket, call.key)
        if itself and not (replaced or replace_tags or REDIRECT in given):
            await opened.aclose()
            raise S3Error(
                "InvalidRequest",
                "This copy request is illegal because it is trying to copy an object to itself without changing the "
                "object's metadata, storage class, website redirect location or encryption attributes.",
            )
        metadata = _merge(info.metadata, given, replaced, replace_tags)
        content_type = content_type if replaced else info.content_type
        kept = _kept_checksums(info.metadata, algorithm)
        if itself and kept is not None and not conditions:
            await opened.aclose()
            written = await self._rewrite_metadata(call, info, metadata | kept, content_type)
        else:
            request = PutObjectRequest(content_type, metadata | (kept or {}), conditions)
            algorithm = "" if kept is not None else algorithm or _source_algorithm(info.metadata)
            written = await self._copy_bytes(call, opened, request, algorithm)
        return copy_answer("CopyObjectResult", source, written)

    async def _rewrite_metadata(
        self, call: Call, info: ObjectInfo, metadata: dict[str, str], content_type: str
    ) -> ObjectInfo:
        """New metadata for an object that keeps its bytes."""
        metadata |= {name: value for name, value in info.metadata.items() if name in _OF_THE_BYTES}
        return await self._store.update_object(call.account, call.bucket, call.key, metadata, content_type)

    async def _copy_bytes(
        self, call: Call, opened: OpenObject, request: PutObjectRequest, algorithm: str
    ) -> ObjectInfo:
        size_bytes = opened.info.size_bytes
        if size_bytes > COPY_BYTES_MAX:
            await opened.aclose()
            raise S3Error(
                "InvalidRequest",
                "The specified copy source is larger than the maximum allowable size for a copy source: "
                f"{COPY_BYTES_MAX}",
            )
        async with opened_copy(opened, 0, size_bytes, algorithm) as (body, late):
            request = replace(request, late_metadata=late)
            return await self._store.put_object(call.account, call.bucket, call.key, body, request)

    async def open_source(self, call: Call, source: CopySource) -> tuple[str, OpenObject]:
        """The source's account, and the source, which exists and meets its conditions.

        Raises NoSuchKey, NoSuchVersion, NoSuchBucket, AccessDenied, PreconditionFailed, InvalidRequest (too large).
        """
        if source.version_id not in (None, "null"):
            raise no_such_version(source.key.decode(), source.version_id or "")
        account = call.user.account
        try:
            try:
                opened = await self._store.open_object(account, source.bucket, source.key)
            except (NoSuchContainer, NoSuchAccount):
                account = await self._registry.locate(source.bucket, call.user)
                opened = await self._store.open_object(account, source.bucket, source.key)
        except NoSuchObject:
            raise S3Error("NoSuchKey", fields=(("Key", source.key.decode()),)) from None
        try:
            check_copy_source(copy_source_conditions(call.headers), opened.info)
        except PreconditionFailed:
            await opened.aclose()
            raise
        return account, opened


def parse_copy_source(value: bytes) -> CopySource:
    """The bucket, key and version in x-amz-copy-source: `[/]bucket/key[?versionId=…]`, percent-encoded.

    The question mark of the version is not encoded, one in the key is. Raises InvalidArgument and errors of names.
    """
    raw, mark, version_id = value.partition(b"?versionId=")
    path = unquote_to_bytes(raw).removeprefix(b"/")
    bucket, slash, key = path.partition(b"/")
    if not (bucket and slash and key):
        raise invalid_argument(
            "x-amz-copy-source",
            value.decode("latin-1"),
            "Copy Source must mention the source bucket and key: sourcebucket/sourcekey",
        )
    version = unquote_to_bytes(version_id).decode("utf-8", "replace") if mark else None
    return CopySource(check_bucket(bucket), check_key(key), version)


@asynccontextmanager
async def opened_copy(
    opened: OpenObject, start: int, stop: int, algorithm: str
) -> AsyncIterator[tuple[BodySource, Callable[[], Metadata] | None]]:
    """Bytes start..stop of an open object as the body of a write, and their checksum if `algorithm` names one."""
    stream = await opened.begin(start, stop)
    try:
        body: BodySource = StreamBody(stream, stop - start)
        if algorithm:
            digesting = DigestingBody(body, algorithm)
            yield digesting, digesting.checksum_metadata
        else:
            yield body, None
    finally:
        await stream.aclose()
        await opened.aclose()


def copy_answer(root: str, source: CopySource, written: ObjectInfo) -> Response:
    """CopyObjectResult or CopyPartResult."""
    content = f"<ETag>&quot;{written.etag}&quot;</ETag><LastModified>{iso_date(written.modified_us)}</LastModified>"
    content += checksum_elements(written.metadata)
    headers = [CONTENT_TYPE]
    if source.version_id is not None:
        headers.append((b"x-amz-copy-source-version-id", b"null"))
    if written.consistency.degraded:
        headers.append(DEGRADED)
    return Response(200, headers, document(root, content))


def checksum_elements(metadata: Metadata, with_type: bool = True) -> str:
    """The checksums among an object's metadata as elements: ChecksumCRC32, …, ChecksumType."""
    return "".join(
        element("ChecksumType" if name == "checksum:type" else "Checksum" + name[9:].upper(), value)
        for name, value in metadata.items()
        if name[:9] == "checksum:" and (with_type or name != "checksum:type")
    )


def _directive(headers: Mapping[bytes, bytes], name: bytes) -> bool:
    """Whether a directive says REPLACE. Raises InvalidArgument."""
    value = headers.get(name, b"COPY")
    if value not in (b"COPY", b"REPLACE"):
        raise invalid_argument(name.decode(), value.decode("latin-1"), "Unknown metadata directive.")
    return value == b"REPLACE"


def _requested_algorithm(headers: Mapping[bytes, bytes]) -> str:
    """The checksum that the copy is to have: "crc32" and so on; "" where nothing is said."""
    value = headers.get(b"x-amz-checksum-algorithm")
    if value is None:
        return ""
    name = value.decode("latin-1").lower()
    if name not in S3_ALGORITHMS:
        raise invalid_argument(
            "x-amz-checksum-algorithm", value.decode("latin-1"), "Checksum algorithm provided is unsupported."
        )
    return name


def _merge(source: Metadata, given: Metadata, replace: bool, replace_tags: bool) -> dict[str, str]:
    """The metadata of the copy, without checksums."""
    if replace:
        merged = dict(given)
    else:
        merged = {
            name: value
            for name, value in source.items()
            if name not in _NOT_TAKEN_OVER and not name.startswith("checksum:")
        }
        if REDIRECT in given:
            merged[REDIRECT] = given[REDIRECT]
    tags = given.get(TAGGING) if replace_tags else source.get(TAGGING)
    merged.pop(TAGGING, None)
    if tags:
        merged[TAGGING] = tags
    return merged


def _kept_checksums(metadata: Metadata, algorithm: str) -> dict[str, str] | None:
    """The source's checksums if they are right for a copy that wants `algorithm` ("": whatever there is); else None."""
    kept = {name: value for name, value in metadata.items() if name.startswith("checksum:")}
    if kept.get("checksum:type") == "COMPOSITE" or (algorithm and f"checksum:{algorithm}" not in kept):
        return None
    return kept


def _source_algorithm(metadata: Metadata) -> str:
    """The algorithm of the source's checksum."""
    return next((name[9:] for name in metadata if name[:9] == "checksum:" and name != "checksum:type"), "")
