"""Users' records in the store: read, written, changed; access keys claimed and released.

Problem: names and access keys must be unique in the whole cluster, whatever commands race or die half-way, and there is
no database but the store itself.

Idea: a record is an object `PROJECT:NAME`; an access key is another, whose content is its owner's name. Both are made
with If-None-Match: *, changed with If-Match. The user's record is the truth: a key whose owner does not list it belongs
to nobody, is refused at log-in and may be taken by the next who asks for it. So no order of two writes needs undoing.

Invariant: internal containers (names that begin with NUL) of a reserved account: no client can name them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from proxy.model import (
    Conditions,
    ListedObject,
    ListQuery,
    NoSuchContainer,
    NoSuchObject,
    PreconditionFailed,
    PutObjectRequest,
    Unavailable,
)
from proxy.users import (
    AccessKeyTaken,
    UnknownAccessKey,
    UnknownUser,
    UserExists,
    UserRecord,
    decode_record,
    encode_record,
    is_name,
)

if TYPE_CHECKING:
    from proxy.store import ObjectStore

ACCOUNT = ".ringstead"
"""The reserved account. No user's project can make its name: accounts of users begin with AUTH_."""
USERS = b"\x00users"
ACCESS_KEYS = b"\x00access-keys"
_CHANGE_ATTEMPTS = 10
_NEW = Conditions(if_none_match=("*",))


class UserStore:
    """The records of one cluster's users."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    async def prepare(self) -> None:
        """Make what users are kept in, where it is not there yet."""
        await self._store.create_account(ACCOUNT, {})
        for container in (USERS, ACCESS_KEYS):
            await self._store.create_container(ACCOUNT, container, {})

    async def read(self, full_name: str) -> UserRecord:
        """The record of PROJECT:NAME. Raises UnknownUser, CorruptRecord, Unavailable."""
        project, _, name = full_name.partition(":")
        if not is_name(project) or not is_name(name):
            raise UnknownUser(f"there is no user {full_name!r}")
        try:
            data, etag = await self._read(USERS, full_name.encode())
        except (NoSuchObject, NoSuchContainer):
            raise UnknownUser(f"there is no user {full_name}") from None
        return decode_record(full_name, data, etag)

    async def find(self, full_name: str) -> UserRecord | None:
        """The record of PROJECT:NAME, or None."""
        try:
            return await self.read(full_name)
        except UnknownUser:
            return None

    async def all(self) -> list[UserRecord]:
        """Every user's record, by project and name."""
        records: list[UserRecord] = []
        marker = b""
        while True:
            try:
                page = await self._store.list_objects(ACCOUNT, USERS, ListQuery(marker=marker))
            except NoSuchContainer:
                return []
            for item in page.items:
                # One that was removed since the listing was read is no user any more.
                record = await self.find(item.name.decode()) if isinstance(item, ListedObject) else None
                if record is not None:
                    records.append(record)
            if not page.truncated:
                return records
            marker = page.next_marker

    async def create(self, record: UserRecord) -> None:
        """Store a new user with the access keys. Raises UserExists, AccessKeyTaken."""
        full_name = record.user.full_name
        await self.prepare()
        if await self.find(full_name) is not None:
            raise UserExists(f"there is a user {full_name} already")
        claimed: list[str] = []
        try:
            for access_key, _ in record.secret_keys:
                await self.claim_key(access_key, full_name)
                claimed.append(access_key)
            await self._write(USERS, full_name.encode(), encode_record(record), _NEW)
            await self._still_own(claimed, full_name)
        except (PreconditionFailed, AccessKeyTaken) as error:
            for access_key in claimed:
                await self.release_key(access_key, full_name)
            if isinstance(error, AccessKeyTaken):
                raise
            raise UserExists(f"there is a user {full_name} already") from None

    async def _still_own(self, access_keys: list[str], full_name: str) -> None:
        """Make sure that nobody took a key for an orphan before the record that lists it was there."""
        for access_key in access_keys:
            if await self.owner_of(access_key) != full_name:
                await self._store.delete_object(ACCOUNT, USERS, full_name.encode())
                raise AccessKeyTaken(f"the access key {access_key} is taken")

    async def change(self, full_name: str, change: Callable[[UserRecord], UserRecord]) -> UserRecord:
        """Replace a record by a changed one, again where another process was quicker. Raises UnknownUser."""
        for _ in range(_CHANGE_ATTEMPTS):
            record = await self.read(full_name)
            changed = change(record)
            try:
                await self._write(
                    USERS, full_name.encode(), encode_record(changed), Conditions(if_match=(record.etag,))
                )
            except (PreconditionFailed, NoSuchObject):
                continue
            return changed
        raise Unavailable(f"the record of {full_name} is being changed by others; retry")

    async def remove(self, full_name: str) -> UserRecord:
        """Remove a user and free the access keys. Raises UnknownUser."""
        record = await self.read(full_name)
        try:
            await self._store.delete_object(ACCOUNT, USERS, full_name.encode())
        except NoSuchObject:
            raise UnknownUser(f"there is no user {full_name}") from None
        for access_key, _ in record.secret_keys:
            await self.release_key(access_key, full_name)
        return record

    async def owner_of(self, access_key: str) -> str:
        """PROJECT:NAME that an access key is said to be of. Raises UnknownAccessKey."""
        try:
            data, _ = await self._read(ACCESS_KEYS, access_key.encode())
        except (NoSuchObject, NoSuchContainer):
            raise UnknownAccessKey("no user has this access key") from None
        return data.decode("utf-8", "replace")

    async def claim_key(self, access_key: str, full_name: str) -> None:
        """Take an access key for a user who is about to list it. Raises AccessKeyTaken."""
        conditions = _NEW
        for _ in range(2):
            try:
                await self._write(ACCESS_KEYS, access_key.encode(), full_name.encode(), conditions)
                return
            except (PreconditionFailed, NoSuchObject):
                try:
                    data, etag = await self._read(ACCESS_KEYS, access_key.encode())
                except NoSuchObject:
                    continue
            owner = await self.find(data.decode("utf-8", "replace"))
            if owner is not None and access_key in owner.user.access_keys:
                break
            conditions = Conditions(if_match=(etag,))
        raise AccessKeyTaken(f"the access key {access_key} is taken")

    async def release_key(self, access_key: str, full_name: str) -> None:
        """Free an access key, if it is this user's."""
        try:
            data, etag = await self._read(ACCESS_KEYS, access_key.encode())
            if data == full_name.encode():
                await self._store.delete_object(ACCOUNT, ACCESS_KEYS, access_key.encode(), Conditions(if_match=(etag,)))
        except (NoSuchObject, PreconditionFailed):
            pass  # gone already, or another's by now: either way it is not this user's any more

    async def _read(self, container: bytes, name: bytes) -> tuple[bytes, str]:
        """A small object's bytes and etag."""
        opened = await self._store.open_object(ACCOUNT, container, name)
        stream = opened.stream(0, opened.info.size_bytes)
        try:
            pieces = []
            while piece := bytes(await stream.read()):
                pieces.append(piece)
            return b"".join(pieces), opened.info.etag
        finally:
            await stream.aclose()
            await opened.aclose()

    async def _write(self, container: bytes, name: bytes, data: bytes, conditions: Conditions) -> None:
        request = PutObjectRequest(content_type="application/json", conditions=conditions)
        await self._store.put_object(ACCOUNT, container, name, BytesBody(data), request)


class BytesBody:
    """A body that is at hand."""

    __slots__ = ("_data", "_length")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._length = len(data)

    @property
    def length(self) -> int | None:
        """Bytes in all."""
        return self._length

    async def read(self) -> bytes:
        """All of it; then b""."""
        data, self._data = self._data, b""
        return data
