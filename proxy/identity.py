"""Who is asking: users found by access key, by password, by token; and users made and removed.

Problem: every request names a user, by an access key (S3), a name and password (Swift's v1 auth) or a token. The answer
must cost next to nothing on the hot path, must not depend on a database beside the store, and must change within seconds
at every proxy when a user is removed or a password is changed.

Idea: users are objects of the store itself (see user_store), so they are replicated and repaired like all else. A proxy
keeps what it read for a few seconds (`KNOWN_S`), and while the store can't be read at all, for longer (see known): a
cluster that has lost a user's replicas still serves those whom it knew.

A token is stateless: version, expiry, the user's name and the user's *stamp*, under an HMAC with a key derived from the
cluster's. The stamp is random and changes when the user is made anew or the password is set, so old tokens end as soon as
the record is read again. Verified tokens are remembered, so the hot path is one dictionary look-up and one comparison.

Secrets at rest: secret keys must be known to verify S3 signatures, so they are encrypted (AES-256-GCM under a derived key,
bound to the access key); passwords are scrypt hashes, computed in a thread, one at a time, a success remembered for some
seconds, so that a client that authenticates before each request costs one hash in that time. Too many who wait for a
hash are turned away (`IdentityBusy`).

Rejected: tokens kept in the store (a replicated write at each log-in, a read at each request), bcrypt and argon2 (a
dependency more; scrypt is in the standard library), secrets in clear (whoever reads a disk could sign).

Invariants:
- A password, a secret key or a token is compared in constant time and never logged; `repr` shows none.
- Unknown user and wrong password are the same error and take the same time.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import struct
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import trio
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from proxy.known import Known, remember
from proxy.user_store import UserStore
from proxy.users import (
    STAMP_BYTES,
    AccessKeyTaken,
    BadCredentials,
    CorruptRecord,
    IdentityBusy,
    IdentityError,
    InvalidUser,
    NewUser,
    UnknownAccessKey,
    UnknownUser,
    User,
    UserExists,
    UserRecord,
    check_key_pair,
    check_new_user,
    check_password,
    is_access_key,
    with_keys,
    without_key,
)

if TYPE_CHECKING:
    from proxy.store import ObjectStore

__all__ = [
    "AccessKeyTaken",
    "BadCredentials",
    "CorruptRecord",
    "Identity",
    "IdentityBusy",
    "IdentityError",
    "InvalidUser",
    "NewUser",
    "UnknownAccessKey",
    "UnknownUser",
    "User",
    "UserExists",
]

KNOWN_S = 5.0
"""How long a proxy believes what it read of a user: the time that a removal takes to be felt everywhere."""
TOKEN_LIFE_S = 24 * 3600
PASSWORD_WAITERS_MAX = 64

_SCRYPT_N, _SCRYPT_R, _SCRYPT_P = 1 << 14, 8, 1
"""16 MiB and some 40 ms a hash: dear to guess, bearable to check."""
_SCRYPT_MEMORY_BYTES_MAX = 64 * 1024 * 1024
_TOKEN_PREFIX = b"AUTH_tk"
_TOKEN_VERSION = 1
_TOKEN_HEAD = struct.Struct(f">BQ{STAMP_BYTES}s")
_TOKEN_BYTES_MAX = 1024
_SIGNATURE_BYTES = 16


class Identity:
    """Users of one cluster, as one process knows them.

    `store` is the object store that holds them, `cluster_key` the secret that all nodes share, `clock` gives seconds since
    1970, `monotonic` seconds that never go back. Of `random_bytes` come keys, salts and stamps.
    """

    def __init__(
        self,
        store: ObjectStore,
        cluster_key: bytes,
        clock: Callable[[], float] = time.time,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        random_bytes: Callable[[int], bytes] = os.urandom,
        token_life_s: int = TOKEN_LIFE_S,
        known_s: float = KNOWN_S,
    ) -> None:
        self._users = UserStore(store)
        self._clock = clock
        self._monotonic = monotonic
        self._random_bytes = random_bytes
        self._token_life_s = token_life_s
        self._known_s = known_s
        self._token_key = _derive(cluster_key, b"tokens")
        self._cipher = AESGCM(_derive(cluster_key, b"secret keys"))
        self._password_key = random_bytes(32)
        self._hashing = trio.CapacityLimiter(1)
        self._records: Known[UserRecord] = Known(monotonic, known_s)
        self._owners: Known[str] = Known(monotonic, known_s)
        self._tokens: dict[bytes, tuple[float, User]] = {}
        self._keys: dict[str, tuple[float, User, str]] = {}
        self._passwords: dict[bytes, float] = {}

    # ------------------------------------------------------------------------------------------------- who is asking

    def known_token(self, token: bytes) -> User | None:
        """The user of a token that was verified some seconds ago at most, else None: then ask `by_token`."""
        known = self._tokens.get(token)
        if known is not None and known[0] > self._monotonic():
            return known[1]
        return None

    async def by_token(self, token: str | bytes) -> User:
        """The user of a token. Raises BadCredentials, Unavailable."""
        raw = token if isinstance(token, bytes) else token.encode("utf-8", "surrogateescape")
        user = self.known_token(raw)
        if user is not None:
            return user
        full_name, stamp, expires_s = self._open_token(raw)
        try:
            record = await self._records.get(full_name, self._users.read)
        except UnknownUser:
            raise BadCredentials("the token is not valid") from None
        left_s = expires_s - self._clock()
        if not hmac.compare_digest(record.user.stamp, stamp) or left_s <= 0:
            raise BadCredentials("the token is not valid")
        remember(self._tokens, raw, (self._monotonic() + min(self._known_s, left_s), record.user))
        return record.user

    async def by_access_key(self, access_key: str) -> tuple[User, str]:
        """The user of an access key, and the secret key. Raises UnknownAccessKey, Unavailable, CorruptRecord."""
        known = self._keys.get(access_key)
        if known is not None and known[0] > self._monotonic():
            return known[1], known[2]
        if not is_access_key(access_key):
            raise UnknownAccessKey("no user has this access key")
        owner = await self._owners.get(access_key, self._users.owner_of)
        try:
            record = await self._records.get(owner, self._users.read)
        except UnknownUser:
            raise UnknownAccessKey("no user has this access key") from None
        for key, encrypted in record.secret_keys:
            if key == access_key:
                secret = self._decrypt(access_key, encrypted)
                remember(self._keys, access_key, (self._monotonic() + self._known_s, record.user, secret))
                return record.user, secret
        raise UnknownAccessKey("no user has this access key")

    async def by_password(self, full_name: str, password: str) -> User:
        """The user of PROJECT:NAME and a password. Raises BadCredentials, IdentityBusy, Unavailable."""
        try:
            record: UserRecord | None = await self._records.get(full_name, self._users.read)
        except UnknownUser:
            record = None
        salt, expected = (record.salt, record.password_hash) if record else (b"\x00" * 16, b"")
        clear = _clear(password)
        proof = hmac.digest(self._password_key, b"\x00".join((expected, _clear(full_name), clear)), "sha256")
        if record is not None and self._passwords.get(proof, 0.0) > self._monotonic():
            return record.user
        if self._hashing.statistics().tasks_waiting >= PASSWORD_WAITERS_MAX:
            raise IdentityBusy("too many passwords are being checked; try again in a second")
        actual = await self._hash(clear, salt)
        if record is None or not hmac.compare_digest(actual, expected):
            raise BadCredentials("wrong user or password")
        remember(self._passwords, proof, self._monotonic() + self._known_s)
        return record.user

    def issue_token(self, user: User) -> tuple[str, int]:
        """A token for `user`, and for how many seconds it is good."""
        expires_s = int(self._clock()) + self._token_life_s
        body = _TOKEN_HEAD.pack(_TOKEN_VERSION, expires_s, user.stamp) + user.full_name.encode()
        text = _TOKEN_PREFIX + base64.urlsafe_b64encode(self._sign(body) + body).rstrip(b"=")
        return text.decode(), self._token_life_s

    # -------------------------------------------------------------------------------------------------- for operators

    async def add_user(
        self,
        project: str,
        name: str,
        *,
        display_name: str = "",
        email: str = "",
        admin: bool = False,
        access_key: str | None = None,
        secret_key: str | None = None,
        password: str | None = None,
    ) -> NewUser:
        """Make a user; what is None is made up. Raises UserExists, AccessKeyTaken, InvalidUser, Unavailable."""
        check_new_user(project, name, display_name, email)
        access_key, secret_key = self._key_pair(access_key, secret_key)
        password = password if password is not None else self._made_up(24)
        check_password(password)
        user = User(
            project,
            name,
            display_name or name,
            email,
            admin,
            (access_key,),
            int(self._clock() * 1_000_000),
            self._random_bytes(STAMP_BYTES),
        )
        salt = self._random_bytes(16)
        hashed = await self._hash(_clear(password), salt)
        keys = ((access_key, self._encrypt(access_key, secret_key)),)
        await self._users.create(UserRecord(user, keys, salt, hashed))
        self._forget(user.full_name, access_key)
        return NewUser(user, access_key, secret_key, password)

    async def list_users(self) -> list[User]:
        """All users, by project and name. Raises Unavailable, CorruptRecord."""
        return [record.user for record in await self._users.all()]

    async def show_user(self, full_name: str) -> User:
        """The user PROJECT:NAME, read afresh. Raises UnknownUser."""
        return (await self._users.read(full_name)).user

    async def remove_user(self, full_name: str) -> None:
        """Remove a user and free the access keys. What the project's account holds stays. Raises UnknownUser."""
        record = await self._users.remove(full_name)
        self._forget(full_name, *record.user.access_keys)

    async def set_password(self, full_name: str, password: str) -> User:
        """Set a password, and so end the user's tokens. Raises UnknownUser, InvalidUser."""
        check_password(password)
        salt = self._random_bytes(16)
        hashed = await self._hash(_clear(password), salt)
        stamp = self._random_bytes(STAMP_BYTES)
        record = await self._users.change(
            full_name,
            lambda record: replace(record, user=replace(record.user, stamp=stamp), salt=salt, password_hash=hashed),
        )
        self._forget(full_name)
        return record.user

    async def add_access_key(
        self, full_name: str, access_key: str | None = None, secret_key: str | None = None
    ) -> tuple[str, str]:
        """Give a user one more access key; -> the key and its secret. Raises UnknownUser, AccessKeyTaken, InvalidUser."""
        key, secret = self._key_pair(access_key, secret_key)
        await self._users.read(full_name)
        await self._users.claim_key(key, full_name)
        pair = (key, self._encrypt(key, secret))
        await self._users.change(full_name, lambda record: with_keys(record, (*without_key(record, key), pair)))
        self._forget(full_name, key)
        return key, secret

    async def remove_access_key(self, full_name: str, access_key: str) -> None:
        """Take an access key from a user. Raises UnknownUser, UnknownAccessKey."""
        if access_key not in (await self._users.read(full_name)).user.access_keys:
            raise UnknownAccessKey(f"{full_name} has no access key {access_key}")
        await self._users.change(full_name, lambda record: with_keys(record, without_key(record, access_key)))
        await self._users.release_key(access_key, full_name)
        self._forget(full_name, access_key)

    def _forget(self, full_name: str, *access_keys: str) -> None:
        """Drop what this process remembers of a user (others do within `known_s`)."""
        self._records.forget(full_name)
        for access_key in access_keys:
            self._owners.forget(access_key)
        self._tokens.clear()
        self._keys.clear()

    # ------------------------------------------------------------------------------------------------------- secrets

    def _sign(self, body: bytes) -> bytes:
        return hmac.digest(self._token_key, body, "sha256")[:_SIGNATURE_BYTES]

    def _open_token(self, token: bytes) -> tuple[str, bytes, int]:
        """Name, stamp and expiry of a token that we signed. Raises BadCredentials."""
        raw = b""
        if token.startswith(_TOKEN_PREFIX) and len(token) <= _TOKEN_BYTES_MAX:
            text = token[len(_TOKEN_PREFIX) :]
            try:
                raw = base64.b64decode(text + b"=" * (-len(text) % 4), b"-_", validate=True)
            except (binascii.Error, ValueError):
                raise BadCredentials("the token is not valid") from None
        signature, body = raw[:_SIGNATURE_BYTES], raw[_SIGNATURE_BYTES:]
        if len(body) <= _TOKEN_HEAD.size or not hmac.compare_digest(signature, self._sign(body)):
            raise BadCredentials("the token is not valid")
        version, expires_s, stamp = _TOKEN_HEAD.unpack_from(body)
        if version != _TOKEN_VERSION or expires_s <= self._clock():
            raise BadCredentials("the token is not valid")
        return body[_TOKEN_HEAD.size :].decode(), stamp, expires_s

    async def _hash(self, clear: bytes, salt: bytes) -> bytes:
        """A password's hash, computed beside everything else, one at a time."""
        return await trio.to_thread.run_sync(_scrypt, clear, salt, limiter=self._hashing)

    def _encrypt(self, access_key: str, secret: str) -> bytes:
        nonce = self._random_bytes(12)
        return nonce + self._cipher.encrypt(nonce, secret.encode(), access_key.encode())

    def _decrypt(self, access_key: str, encrypted: bytes) -> str:
        try:
            return self._cipher.decrypt(encrypted[:12], encrypted[12:], access_key.encode()).decode()
        except (InvalidTag, ValueError):
            raise CorruptRecord(
                f"the secret of access key {access_key} can't be decrypted with this cluster's key"
            ) from None

    def _key_pair(self, access_key: str | None, secret_key: str | None) -> tuple[str, str]:
        """The pair as given, or one that is made up."""
        if (access_key is None) != (secret_key is None):
            raise InvalidUser("give both an access key and a secret key, or neither")
        if access_key is None or secret_key is None:
            return base64.b32encode(self._random_bytes(13)).decode()[:20], self._made_up(40)
        check_key_pair(access_key, secret_key)
        return access_key, secret_key

    def _made_up(self, length: int) -> str:
        """A secret of letters and digits, about 5.9 random bits in each."""
        return base64.b64encode(self._random_bytes(length), b"Zz").decode()[:length]


def _derive(cluster_key: bytes, purpose: bytes) -> bytes:
    """A key of its own for each purpose, so that none tells of another."""
    return hmac.digest(cluster_key, b"ringstead identity 1\x00" + purpose, "sha256")


def _scrypt(password: bytes, salt: bytes) -> bytes:
    return hashlib.scrypt(
        password, salt=salt, n=_SCRYPT_N, r=_SCRYPT_R, p=_SCRYPT_P, maxmem=_SCRYPT_MEMORY_BYTES_MAX, dklen=32
    )


def _clear(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
