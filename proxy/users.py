"""Users as values: what is known of one, how it is written down, and what can be wrong with it.

Problem: a user's record is read by every proxy on behalf of every request, holds secrets, and may have been written by
another version or damaged.

Idea: `User` is what the dialects see and has nothing secret in it that they could print; `UserRecord` is the user with the
encrypted secret keys and the password's hash. A record is JSON with a version, so that an operator can read one.

Invariants:
- `decode_record` gives a whole, checked record or raises `CorruptRecord`; nothing half-believed leaves this file.
- Names hold no character that a URL, an HTTP header or an ACL gives a meaning to.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field, replace
from typing import Any

NAME_BYTES_MAX = 120
"""Of a project, a user's name and an access key, so that an account's name and a token stay short."""
STAMP_BYTES = 8
PASSWORD_SCHEME = "scrypt-14-8-1"

_NAME = re.compile(r"[^\x00-\x20\x7f:/,\\\"'<>%&?#]+")
_ACCESS_KEY = re.compile(r"[A-Za-z0-9._~+=-]{3,120}")
_SECRET_KEY_LENGTH_MIN = 8
_TEXT_BYTES_MAX = 1024
_RECORD_VERSION = 1


class IdentityError(Exception):
    """Something about users that can't be. The message is fit for an operator."""


class UnknownUser(IdentityError):
    """No such user."""


class UnknownAccessKey(UnknownUser):
    """No user has this access key."""


class BadCredentials(IdentityError):
    """Wrong user, password or token, or one that has expired. It does not say which."""


class UserExists(IdentityError):
    """The name is taken."""


class AccessKeyTaken(IdentityError):
    """Another user has this access key."""


class InvalidUser(IdentityError):
    """A name, key or password that can't be: too long, empty, or with characters that no client could send."""


class IdentityBusy(IdentityError):
    """Too many passwords wait to be checked: try again in a second."""


class CorruptRecord(IdentityError):
    """A user's record is not what was written: another cluster's key, or damage that every replica shares."""


@dataclass(frozen=True, slots=True)
class User:
    """One who may use the store. What is secret of them is elsewhere."""

    project: str
    name: str
    display_name: str = ""
    email: str = ""
    admin: bool = False
    """May act on any account."""
    access_keys: tuple[str, ...] = ()
    created_us: int = 0
    """Microseconds since 1970."""
    stamp: bytes = field(default=b"", repr=False)
    """Changes when tokens must end."""
    account: str = field(init=False, repr=False, compare=False)
    """The account that is theirs: AUTH_PROJECT."""
    id: str = field(init=False, repr=False, compare=False)
    """64 hexadecimal digits, the same for the same PROJECT:NAME for ever: S3's canonical id."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "account", f"AUTH_{self.project}")
        digest = hashlib.sha256(b"ringstead user\x00" + self.full_name.encode()).hexdigest()
        object.__setattr__(self, "id", digest)

    @property
    def full_name(self) -> str:
        """PROJECT:NAME, as Swift's v1 auth has it."""
        return f"{self.project}:{self.name}"


@dataclass(frozen=True, slots=True)
class NewUser:
    """A user just made, with the secrets in clear, for the only time."""

    user: User
    access_key: str
    secret_key: str = field(repr=False)
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class UserRecord:
    """A user as stored."""

    user: User
    secret_keys: tuple[tuple[str, bytes], ...] = field(repr=False)
    """Access key and encrypted secret."""
    salt: bytes = field(repr=False)
    password_hash: bytes = field(repr=False)
    etag: str = ""
    """Of the stored object, for conditional replacement."""


def is_name(name: str) -> bool:
    """Whether a project or a user may be called so."""
    return _NAME.fullmatch(name) is not None and _encodable(name) and len(name.encode()) <= NAME_BYTES_MAX


def is_access_key(access_key: str) -> bool:
    """Whether an access key may look so."""
    return _ACCESS_KEY.fullmatch(access_key) is not None


def check_new_user(project: str, name: str, display_name: str, email: str) -> None:
    """Raises InvalidUser."""
    for value, what in ((project, "project"), (name, "user name")):
        if not is_name(value):
            raise InvalidUser(
                f"the {what} {value!r} must be 1 to {NAME_BYTES_MAX} bytes without spaces, control characters or any of "
                ": / , \\ \" ' < > % & ? #"
            )
    for value, what in ((display_name, "display name"), (email, "email")):
        if not _encodable(value) or len(value.encode()) > _TEXT_BYTES_MAX or any(c < " " for c in value):
            raise InvalidUser(f"the {what} must be at most {_TEXT_BYTES_MAX} bytes without control characters")


def check_key_pair(access_key: str, secret_key: str) -> None:
    """Raises InvalidUser."""
    if not is_access_key(access_key):
        raise InvalidUser(f"the access key {access_key!r} must be 3 to 120 letters, digits or . _ ~ + = -")
    if not _encodable(secret_key) or not _SECRET_KEY_LENGTH_MIN <= len(secret_key) <= _TEXT_BYTES_MAX:
        raise InvalidUser(f"the secret key must have {_SECRET_KEY_LENGTH_MIN} to {_TEXT_BYTES_MAX} characters")


def check_password(password: str) -> None:
    """Raises InvalidUser."""
    if not password or not _encodable(password) or len(password) > _TEXT_BYTES_MAX:
        raise InvalidUser(f"the password must have 1 to {_TEXT_BYTES_MAX} characters")


def with_keys(record: UserRecord, keys: tuple[tuple[str, bytes], ...]) -> UserRecord:
    """The record with these secret keys and no others."""
    return replace(record, user=replace(record.user, access_keys=tuple(key for key, _ in keys)), secret_keys=keys)


def without_key(record: UserRecord, access_key: str) -> tuple[tuple[str, bytes], ...]:
    """The record's secret keys but one."""
    return tuple(pair for pair in record.secret_keys if pair[0] != access_key)


def encode_record(record: UserRecord) -> bytes:
    """A record as it is stored."""
    user = record.user
    return json.dumps(
        {
            "version": _RECORD_VERSION,
            "project": user.project,
            "name": user.name,
            "display_name": user.display_name,
            "email": user.email,
            "admin": user.admin,
            "created_us": user.created_us,
            "stamp": user.stamp.hex(),
            "keys": [{"access_key": key, "secret": secret.hex()} for key, secret in record.secret_keys],
            "password": {"scheme": PASSWORD_SCHEME, "salt": record.salt.hex(), "hash": record.password_hash.hex()},
        }
    ).encode()


def decode_record(full_name: str, data: bytes, etag: str = "") -> UserRecord:
    """The reverse of `encode_record`. Raises CorruptRecord."""
    try:
        stored: Any = json.loads(data)
        if stored["version"] != _RECORD_VERSION or stored["password"]["scheme"] != PASSWORD_SCHEME:
            raise ValueError("written by another version")
        keys = tuple((str(key["access_key"]), bytes.fromhex(key["secret"])) for key in stored["keys"])
        user = User(
            str(stored["project"]),
            str(stored["name"]),
            str(stored["display_name"]),
            str(stored["email"]),
            stored["admin"] is True,
            tuple(key for key, _ in keys),
            int(stored["created_us"]),
            bytes.fromhex(stored["stamp"]),
        )
        if user.full_name != full_name or len(user.stamp) != STAMP_BYTES:
            raise ValueError("not this user's")
        password = stored["password"]
        return UserRecord(user, keys, bytes.fromhex(password["salt"]), bytes.fromhex(password["hash"]), etag)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptRecord(f"the record of user {full_name} makes no sense: {error}") from error


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
