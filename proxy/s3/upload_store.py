"""Multipart uploads in progress, as objects of the store.

Problem: an upload lives for minutes to weeks, is driven by several connections at once, and ends in exactly one of two
ways. Its parts, once the upload is completed, are the object; deleting one of them then is data loss.

Idea: the upload *is* its marker (names in `proxy.s3.upload_names`): its metadata is what the object will have, its body
who is completing it. Completing begins by claiming the marker with a conditional write, so of two completions, or of a
completion and an abort, one proceeds and the other is told to try again. A claim whose proxy died is taken over after
`completion_s_max`. Whatever fails gives the claim back.

Parts that nobody will need (attempts that were not chosen, all parts of an aborted upload) are deleted by whoever ended
the upload, and only while the marker is held or gone.

Invariants:
- A part is deleted only by one who holds the upload's claim, or found the upload gone and the part in no manifest.
- Nothing of an upload is visible outside these containers until its manifest is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import trio

from proxy.model import (
    Conditions,
    ListedObject,
    ListQuery,
    Metadata,
    NoSuchContainer,
    NoSuchObject,
    ObjectInfo,
    PreconditionFailed,
    PutObjectRequest,
    StoreError,
)
from proxy.s3.bodies import BytesBody
from proxy.s3.concurrency import for_each
from proxy.s3.errors import S3Error
from proxy.s3.settings import S3Settings
from proxy.s3.upload_names import (
    PartName,
    attempt_random_bytes,
    marker_name,
    new_upload_id,
    part_bound,
    part_name,
    part_prefix,
    parts_container,
    split_part,
    upload_random_bytes,
    uploads_container,
)
from proxy.store import ObjectStore
from storage_node.timestamp import microseconds

ALGORITHM = "sys:upload-algorithm"
CHECKSUM_TYPE = "sys:upload-checksum-type"
INITIATOR = "sys:upload-initiator"
UPLOAD_ID = "sys:upload-id"
"""On the completed object: which upload made it, so that a repeated completion is recognised."""
_OF_THE_UPLOAD = frozenset((ALGORITHM, CHECKSUM_TYPE, INITIATOR))

_PAGE = 1000
_OPEN = b""
_CLAIM_RANDOM_BYTES = 16
_GIVE_BACK_S = 5.0


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload in progress."""

    account: str
    bucket: bytes
    key: bytes
    upload_id: bytes
    marker: ObjectInfo

    @property
    def algorithm(self) -> str:
        """The checksum that its parts have ("crc32"); "" where none was chosen."""
        return self.marker.metadata.get(ALGORITHM, "")

    @property
    def checksum_type(self) -> str:
        """FULL_OBJECT or COMPOSITE; "" where there is no checksum."""
        return self.marker.metadata.get(CHECKSUM_TYPE, "")

    @property
    def object_metadata(self) -> dict[str, str]:
        """What the completed object will have."""
        return {name: value for name, value in self.marker.metadata.items() if name not in _OF_THE_UPLOAD}

    @property
    def claimed(self) -> bool:
        """Whether somebody is completing it, or was."""
        return self.marker.size_bytes > 0


@dataclass(frozen=True, slots=True)
class Part:
    """One attempt at a part that was stored whole."""

    number: int
    name: bytes
    etag: str
    size_bytes: int
    timestamp: int
    algorithm: str
    """Of its checksum, in capitals as listings have it; "" for none."""


class UploadStore:
    """Uploads and their parts. `now_us` is the wall clock, `random_bytes` gives so many random bytes."""

    def __init__(
        self,
        store: ObjectStore,
        settings: S3Settings,
        now_us: Callable[[], int],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._store = store
        self._settings = settings
        self._now_us = now_us
        self._random_bytes = random_bytes

    # -------------------------------------------------------------------------------------------------------- uploads

    async def create(self, account: str, bucket: bytes, key: bytes, content_type: str, metadata: Metadata) -> bytes:
        """Begin an upload; its id. Raises NoSuchContainer if the bucket is not there."""
        await self._store.head_container(account, bucket)
        upload_id = new_upload_id(self._now_us(), self._random_bytes(upload_random_bytes()))
        container = uploads_container(bucket)
        request = PutObjectRequest(content_type, metadata)
        try:
            await self._store.put_object(account, container, marker_name(key, upload_id), BytesBody(_OPEN), request)
        except NoSuchContainer:
            await self._store.create_container(account, container, {})
            await self._store.create_container(account, parts_container(bucket), {})
            await self._store.put_object(account, container, marker_name(key, upload_id), BytesBody(_OPEN), request)
        return upload_id

    async def find(self, account: str, bucket: bytes, key: bytes, upload_id: bytes) -> Upload | None:
        """The upload; None where it is not in progress. Raises NoSuchContainer if the bucket is not there."""
        try:
            marker = await self._store.head_object(account, uploads_container(bucket), marker_name(key, upload_id))
        except (NoSuchObject, NoSuchContainer):
            await self._store.head_container(account, bucket)
            return None
        return Upload(account, bucket, key, upload_id, marker)

    async def claim(self, upload: Upload) -> Upload:
        """Take the upload for ending it. Raises SlowDown while another holds it, NoSuchUpload if it is over."""
        age_us = self._now_us() - upload.marker.modified_us
        if upload.claimed and age_us < self._settings.completion_s_max * 1_000_000:
            raise S3Error("SlowDown", "Another request is completing this upload. Please try again.")
        return await self._rewrite(upload, self._random_bytes(_CLAIM_RANDOM_BYTES))

    async def give_back(self, upload: Upload) -> None:
        """Let go of a claim after a failure; what cannot be let go of is taken over later."""
        with trio.move_on_after(_GIVE_BACK_S) as scope:
            scope.shield = True
            try:
                await self._rewrite(upload, _OPEN)
            except (S3Error, StoreError):
                return

    async def _rewrite(self, upload: Upload, body: bytes) -> Upload:
        """The marker with another body, if it is still the one that `upload` was read from."""
        marker = upload.marker
        request = PutObjectRequest(marker.content_type, marker.metadata, Conditions(if_match=(marker.etag,)))
        name = marker_name(upload.key, upload.upload_id)
        try:
            written = await self._store.put_object(
                upload.account, uploads_container(upload.bucket), name, BytesBody(body), request
            )
        except NoSuchObject:
            raise S3Error("NoSuchUpload", fields=(("UploadId", upload.upload_id.decode()),)) from None
        except PreconditionFailed:
            raise S3Error("SlowDown", "Another request is completing this upload. Please try again.") from None
        return Upload(upload.account, upload.bucket, upload.key, upload.upload_id, written)

    async def end(self, upload: Upload) -> bool:
        """Remove the marker of an upload that is claimed; False if the claim was lost to another."""
        try:
            await self._store.delete_object(
                upload.account,
                uploads_container(upload.bucket),
                marker_name(upload.key, upload.upload_id),
                Conditions(if_match=(upload.marker.etag,)),
            )
        except (PreconditionFailed, NoSuchObject, NoSuchContainer):
            return False
        return True

    # ---------------------------------------------------------------------------------------------------------- parts

    def new_part_name(self, upload: Upload, number: int) -> bytes:
        """A name for a new attempt at a part."""
        random = self._random_bytes(attempt_random_bytes())
        return part_name(upload.key, upload.upload_id, number, self._now_us(), random)

    async def attempts(self, upload: Upload, after_number: int = 0, number_count: int | None = None) -> list[Part]:
        """The attempts at the parts behind number `after_number`, by number and then by age.

        With `number_count` no more than are needed to know so many numbers in full, and whether there are others.
        """
        container = parts_container(upload.bucket)
        prefix = part_prefix(upload.key, upload.upload_id)
        marker = part_bound(upload.key, upload.upload_id, after_number) if after_number else b""
        found: list[Part] = []
        numbers: set[int] = set()
        truncated = True
        while truncated and (number_count is None or len(numbers) <= number_count):
            query = ListQuery(prefix=prefix, marker=marker, limit=_PAGE)
            try:
                page = await self._store.list_objects(upload.account, container, query)
            except NoSuchContainer:
                break
            for item in page.items:
                name = split_part(item.name) if isinstance(item, ListedObject) else None
                if isinstance(item, ListedObject) and name is not None:
                    found.append(_part(item, name))
                    numbers.add(name.number)
            truncated, marker = page.truncated, page.next_marker
        return found

    async def settle_part(self, upload: Upload, part: bytes) -> bool:
        """After a part was stored: whether its upload is still there, or was completed with it.

        If not, the part is deleted: nobody would ever do it again.
        """
        if await self.find(upload.account, upload.bucket, upload.key, upload.upload_id) is not None:
            return True
        try:
            info = await self._store.head_object(upload.account, upload.bucket, upload.key)
            manifest = info.manifest
        except NoSuchObject:
            manifest = None
        if manifest is not None and any(segment.name == part for segment in manifest.segments):
            return True
        await self.drop_parts(upload.account, upload.bucket, (part,))
        return False

    async def drop_parts(self, account: str, bucket: bytes, names: Iterable[bytes]) -> None:
        """Delete these attempts."""
        container = parts_container(bucket)
        await for_each(names, lambda name: self._drop(account, container, name), self._settings.part_concurrency)

    async def drop_all(self, account: str, bucket: bytes) -> None:
        """Delete everything of a bucket that is gone: uploads in progress and parts that were left."""
        for container in (uploads_container(bucket), parts_container(bucket)):
            await self._drop_container(account, container)

    async def _drop_container(self, account: str, container: bytes) -> None:
        while True:
            try:
                page = await self._store.list_objects(account, container, ListQuery(limit=_PAGE))
            except NoSuchContainer:
                return
            names = [item.name for item in page.items if isinstance(item, ListedObject)]
            if not names:
                break
            await for_each(names, lambda name: self._drop(account, container, name), self._settings.part_concurrency)
        try:
            await self._store.delete_container(account, container)
        except StoreError:
            return  # a part that was still under way; whoever creates this bucket again cleans up

    async def _drop(self, account: str, container: bytes, name: bytes) -> None:
        try:
            await self._store.delete_object(account, container, name)
        except (NoSuchObject, NoSuchContainer):
            return

    async def list_markers(
        self, account: str, bucket: bytes, prefix: bytes, marker: bytes
    ) -> tuple[list[ListedObject], bool]:
        """The next markers behind `marker`, by key and then by age, and whether there are more behind them."""
        try:
            query = ListQuery(prefix=prefix, marker=marker, limit=_PAGE)
            page = await self._store.list_objects(account, uploads_container(bucket), query)
        except NoSuchContainer:
            return [], False
        return [item for item in page.items if isinstance(item, ListedObject)], page.truncated


def newest_attempts(parts: Iterable[Part]) -> list[Part]:
    """Of each number the attempt that was stored last, by number."""
    newest: dict[int, Part] = {}
    for part in parts:
        held = newest.get(part.number)
        if held is None or part.timestamp > held.timestamp:
            newest[part.number] = part
    return [newest[number] for number in sorted(newest)]


def modified_us(part: Part) -> int:
    """When the part was stored, microseconds since 1970."""
    return microseconds(part.timestamp)


def _part(item: ListedObject, name: PartName) -> Part:
    return Part(name.number, item.name, item.etag, item.size_bytes, item.timestamp, item.checksum_algorithm)
