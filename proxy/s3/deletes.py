"""DeleteObjects: up to 1,000 keys in one request.

Each key has its own outcome, in the order asked for; a key that was not there counts as deleted. Only what concerns the
request as a whole (a bad document, a missing bucket, a body without a digest) fails the request.

Source: API_DeleteObjects of the Amazon S3 API Reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree.ElementTree import Element

from proxy.http.message import Response
from proxy.model import NO_CONDITIONS, Conditions, NoSuchObject, StoreError
from proxy.s3.call import Call
from proxy.s3.concurrency import for_each
from proxy.s3.errors import S3Error, from_store_error, no_such_version
from proxy.s3.names import check_key
from proxy.s3.payload import Payload
from proxy.s3.settings import DELETE_KEYS_MAX, XML_LONG_BODY_BYTES_MAX, S3Settings
from proxy.s3.xml import (
    CONTENT_TYPE,
    DocumentTooLong,
    MalformedDocument,
    child_text,
    children,
    document,
    element,
    parse_async,
    read_body,
)
from proxy.store import ObjectStore


@dataclass(frozen=True, slots=True)
class Deletion:
    """One key to delete, as it was written."""

    key: str
    version_id: str | None = None
    etag: str | None = None
    unsupported: str = ""
    """A condition on the key that this store does not know."""


class Deletes:
    """The operation DeleteObjects."""

    def __init__(self, store: ObjectStore, settings: S3Settings) -> None:
        self._store = store
        self._settings = settings

    async def delete_objects(self, call: Call) -> Response:
        """DeleteObjects."""
        text = await _verified_body(call)
        try:
            quiet, deletions = parse_delete(await parse_async(text, "Delete"))
        except MalformedDocument as error:
            raise S3Error("MalformedXML") from error
        await self._store.ensure_container(call.account, call.bucket)
        outcomes: list[S3Error | None] = [None] * len(deletions)

        async def delete(index: int) -> None:
            outcomes[index] = await self._delete(call, deletions[index])

        await for_each(range(len(deletions)), delete, self._settings.delete_concurrency)
        rows = "".join(_row(deletion, outcome, quiet) for deletion, outcome in zip(deletions, outcomes, strict=True))
        return Response(200, [CONTENT_TYPE], document("DeleteResult", rows))

    async def _delete(self, call: Call, deletion: Deletion) -> S3Error | None:
        """Delete one key; the error that it met."""
        try:
            if deletion.unsupported:
                return S3Error("NotImplemented", f"{deletion.unsupported} is not implemented.")
            key = check_key(deletion.key.encode())
            if deletion.version_id not in (None, "null"):
                return no_such_version(deletion.key, deletion.version_id or "")
            conditions = NO_CONDITIONS
            if deletion.etag is not None:
                conditions = Conditions(if_match=(deletion.etag.strip().strip('"'),))
            await self._store.delete_object(call.account, call.bucket, key, conditions)
        except NoSuchObject:
            return None
        except StoreError as error:
            return from_store_error(error, call.bucket_text, deletion.key)
        except S3Error as error:
            return error
        return None


def parse_delete(root: Element) -> tuple[bool, list[Deletion]]:
    """Whether to be quiet, and what to delete. Raises MalformedDocument."""
    quiet = (child_text(root, "Quiet") or "").strip().lower() == "true"
    deletions: list[Deletion] = []
    for node in children(root, "Object"):
        key = child_text(node, "Key")
        if not key:
            raise MalformedDocument("an Object has no Key")
        unsupported = next((name for name in ("LastModifiedTime", "Size") if child_text(node, name) is not None), "")
        deletions.append(Deletion(key, child_text(node, "VersionId"), child_text(node, "ETag"), unsupported))
    if not 1 <= len(deletions) <= DELETE_KEYS_MAX:
        raise MalformedDocument(f"{len(deletions)} objects; 1 to {DELETE_KEYS_MAX} are allowed")
    return quiet, deletions


async def _verified_body(call: Call) -> bytes:
    """The body, which must carry a digest: what it says cannot be undone."""
    if call.content_md5 is None and not _has_checksum(call):
        raise S3Error(
            "InvalidRequest", "Missing required header for this request: Content-MD5 OR x-amz-checksum-*", close=True
        )
    try:
        text = await read_body(call.body, XML_LONG_BODY_BYTES_MAX)
    except DocumentTooLong:
        raise S3Error("MaxMessageLengthExceeded", close=True) from None
    if not text:
        raise S3Error("MissingRequestBodyError")
    return text


def _has_checksum(call: Call) -> bool:
    return isinstance(call.body, Payload) and call.body.announced.algorithm != ""


def _row(deletion: Deletion, error: S3Error | None, quiet: bool) -> str:
    version = element("VersionId", deletion.version_id) if deletion.version_id else ""
    if error is None:
        return "" if quiet else f"<Deleted>{element('Key', deletion.key)}{version}</Deleted>"
    return (
        f"<Error>{element('Key', deletion.key)}{version}<Code>{error.code}</Code>"
        f"{element('Message', error.message)}</Error>"
    )
