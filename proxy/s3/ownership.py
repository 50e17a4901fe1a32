"""Who owns a bucket's name.

Problem: S3 bucket names are one name space for all users, while containers live in accounts, where two projects may use
the same name (and do, through Swift).

Idea: a claim, one object per bucket name in a reserved account, holding the owner's account, created by a conditional
write so that one of two racing creators gets it. The hot path never looks: an operation goes to the caller's own account
first, and only a bucket that is missing there is looked up here, to tell 403 from 404.

A proxy that dies between claim and container leaves a claim without a bucket. It does no harm to its owner, whose next
attempt finds it; another user may take it over once it is old and there is still no bucket behind it.

Invariants: a name has one owner at a time; a claim is released only by its owner, after the bucket is gone.
"""

from __future__ import annotations

from collections.abc import Callable

from proxy.model import (
    Conditions,
    NoSuchAccount,
    NoSuchContainer,
    NoSuchObject,
    PreconditionFailed,
    PutObjectRequest,
    Unavailable,
)
from proxy.s3.bodies import BytesBody
from proxy.s3.errors import S3Error
from proxy.store import ObjectStore
from proxy.users import User

RESERVED_ACCOUNT = ".ringstead"
CLAIMS = b"\x00buckets"
STALE_CLAIM_US = 3600 * 1_000_000
"""A claim without a bucket for so long is abandoned."""
_ATTEMPTS = 4


class BucketRegistry:
    """Claims on bucket names. `now_us` gives the wall clock in microseconds."""

    def __init__(self, store: ObjectStore, now_us: Callable[[], int]) -> None:
        self._store = store
        self._now_us = now_us

    async def owner(self, bucket: bytes) -> str | None:
        """The account that owns the name; None if nobody does. Raises Unavailable."""
        claim = await self._read(bucket)
        return claim[0] if claim else None

    async def locate(self, bucket: bytes, user: User) -> str:
        """The account of a bucket that is not in the user's own account, if the user may reach it.

        Raises S3's NoSuchBucket or AccessDenied; AccountDeleted; Unavailable.
        """
        owner = await self.owner(bucket)
        if owner is None or owner == user.account:
            raise S3Error("NoSuchBucket", fields=(("BucketName", bucket.decode()),))
        if not user.admin:
            raise S3Error("AccessDenied")
        await self._store.ensure_account(owner)
        return owner

    async def claim(self, bucket: bytes, account: str) -> str:
        """Claim the name for `account`; the account that owns it now, which may be another. Raises Unavailable."""
        for _ in range(_ATTEMPTS):
            try:
                await self._write(bucket, account, Conditions(if_none_match=("*",)))
            except NoSuchContainer:
                await self._store.create_account(RESERVED_ACCOUNT, {})
                await self._store.create_container(RESERVED_ACCOUNT, CLAIMS, {})
                continue
            except PreconditionFailed:
                pass
            else:
                return account
            claim = await self._read(bucket)
            if claim is None:
                continue  # released in between
            owner, etag, claimed_us = claim
            if owner == account or not await self._abandoned(owner, bucket, claimed_us):
                return owner
            try:
                await self._write(bucket, account, Conditions(if_match=(etag,)))
            except (PreconditionFailed, NoSuchObject):
                continue
            return account
        raise Unavailable("others claim and release this bucket's name all the time; retry")

    async def release(self, bucket: bytes, account: str) -> None:
        """Give the name up, if it is the account's."""
        claim = await self._read(bucket)
        if claim is None or claim[0] != account:
            return
        try:
            await self._store.delete_object(RESERVED_ACCOUNT, CLAIMS, bucket, Conditions(if_match=(claim[1],)))
        except (NoSuchObject, PreconditionFailed):
            return

    async def _abandoned(self, owner: str, bucket: bytes, claimed_us: int) -> bool:
        if self._now_us() - claimed_us < STALE_CLAIM_US:
            return False
        try:
            await self._store.head_container(owner, bucket)
        except (NoSuchContainer, NoSuchAccount):
            return True
        return False

    async def _read(self, bucket: bytes) -> tuple[str, str, int] | None:
        """Owner, etag and time (microseconds) of a claim."""
        try:
            opened = await self._store.open_object(RESERVED_ACCOUNT, CLAIMS, bucket)
        except (NoSuchObject, NoSuchContainer, NoSuchAccount):
            return None
        stream = opened.stream(0, opened.info.size_bytes)
        try:
            data = bytes(await stream.read())
        finally:
            await stream.aclose()
            await opened.aclose()
        return data.decode(), opened.info.etag, opened.info.modified_us

    async def _write(self, bucket: bytes, account: str, conditions: Conditions) -> None:
        request = PutObjectRequest("text/plain", {}, conditions)
        await self._store.put_object(RESERVED_ACCOUNT, CLAIMS, bucket, BytesBody(account.encode()), request)
