"""The object model that both dialects speak: accounts, containers, objects; queries, conditions, errors.

Problem: S3 and Swift are two spellings of nearly one thing. If each had its own rules for what an object is, what one
wrote the other could not read.

Idea: one vocabulary, below both and free of HTTP. A bucket is a container. Metadata is one map of str to str with
reserved first letters, which each dialect translates at its edge:

    content-type, content-encoding, content-language, content-disposition, cache-control, expires
                      the standard headers, under their own lower-case names
    meta:NAME         user metadata (x-amz-meta-NAME, X-Object-Meta-NAME, X-Container-Meta-NAME), NAME in lower case
    checksum:ALGO     base64 of a whole-object checksum (crc32, crc32c, crc64nvme, sha1, sha256);
                      checksum:type is FULL_OBJECT or COMPOSITE
    delete-at         seconds since 1970, for the expirer
    dlo               container/prefix of a dynamic large object
    sys:deleted       of an account: when it was deleted, in microseconds since 1970, for the reaper
    sys:NAME          anything else that one dialect must remember and the other may ignore

Invariants:
- Names are UTF-8 bytes here, decoded text nowhere: what a client stores is what it gets back.
- Sizes are in bytes, times are microseconds since 1970 (or a timestamp where the name says so).
- Errors are about the model (`NoSuchContainer`), never about HTTP; each dialect maps them in one place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeAlias

from storage_node.timestamp import microseconds

Metadata: TypeAlias = Mapping[str, str]

ACCOUNT_NAME_BYTES_MAX = 256
CONTAINER_NAME_BYTES_MAX = 256
OBJECT_NAME_BYTES_MAX = 1024
OBJECT_SIZE_BYTES_MAX = 5 * 1024**3
"""Of one PUT or one part. Larger objects are manifests."""
LIST_LIMIT_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Consistency:
    """How sure an answer is: what the header says when a majority of primaries could not be asked."""

    degraded: bool = False
    """True: handoffs took the write, or fewer than a majority of primaries answered the read."""


CERTAIN = Consistency()
DEGRADED = Consistency(degraded=True)


@dataclass(frozen=True, slots=True)
class AccountInfo:
    """An account's totals and metadata."""

    timestamp: int
    container_count: int
    object_count: int
    size_bytes: int
    metadata: Metadata
    consistency: Consistency = CERTAIN


@dataclass(frozen=True, slots=True)
class ContainerInfo:
    """A container's totals and metadata."""

    timestamp: int
    """When it was created."""
    object_count: int
    size_bytes: int
    metadata: Metadata
    consistency: Consistency = CERTAIN


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What HEAD says of an object."""

    timestamp: int
    """Of its data: what Last-Modified and X-Timestamp show is `microseconds(meta_timestamp)`."""
    meta_timestamp: int
    size_bytes: int
    """Of what GET gives: for a manifest the sum of its segments."""
    etag: str
    """MD5 in hex; "…-N" for a multipart upload; for an SLO the MD5 of its segments' etags."""
    content_type: str
    metadata: Metadata
    manifest: Manifest | None = None
    consistency: Consistency = CERTAIN

    @property
    def modified_us(self) -> int:
        """When data or metadata last changed, microseconds since 1970."""
        return microseconds(max(self.timestamp, self.meta_timestamp))


@dataclass(frozen=True, slots=True)
class Segment:
    """One piece of a manifest: a whole object, or a range of it."""

    account: str
    container: bytes
    name: bytes
    size_bytes: int
    """Of what this segment contributes (the range's length if there is a range)."""
    etag: str
    start: int = 0
    """First byte of the object that belongs to it."""
    whole: bool = True


@dataclass(frozen=True, slots=True)
class Manifest:
    """An object made of other objects: an S3 multipart upload (owned), or a Swift SLO (not owned)."""

    segments: tuple[Segment, ...]
    owned: bool
    """The segments belong to this object alone and go when it goes."""


@dataclass(frozen=True, slots=True)
class ListQuery:
    """Which names, in which order. All names are bytes; the listing is in the order of their bytes."""

    prefix: bytes = b""
    delimiter: bytes = b""
    marker: bytes = b""
    """Begin after this name (exclusive); with `reverse`, below it. b"" is no bound."""
    end_marker: bytes = b""
    """End before this name (exclusive). b"" is no bound."""
    limit: int = LIST_LIMIT_MAX
    reverse: bool = False


class ListedObject(NamedTuple):
    """One object's line in a container's listing.

    A tuple, since a page makes a thousand: a frozen class costs five times it.
    """

    name: bytes
    timestamp: int
    """Of the last change of data or metadata."""
    size_bytes: int
    etag: str
    content_type: str
    checksum_algorithm: str = ""
    """"CRC32" and so on where the writer gave one; S3 listings show it."""


@dataclass(frozen=True, slots=True)
class ListedContainer:
    """One container's line in an account's listing."""

    name: bytes
    timestamp: int
    """Of its creation."""
    object_count: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ListedPrefix:
    """Names that were rolled up at the delimiter."""

    prefix: bytes


@dataclass(frozen=True, slots=True)
class ObjectListing:
    """A page of a container."""

    container: ContainerInfo
    items: Sequence[ListedObject | ListedPrefix]
    truncated: bool
    next_marker: bytes
    """The marker that continues behind the last item: its name, or for a prefix one that skips all it covers."""


@dataclass(frozen=True, slots=True)
class ContainerListing:
    """A page of an account."""

    account: AccountInfo
    items: tuple[ListedContainer | ListedPrefix, ...]
    truncated: bool


@dataclass(frozen=True, slots=True)
class Conditions:
    """Preconditions of a read or write, as RFC 9110 section 13 has them. Etags without quotes; ("*",) is any."""

    if_match: tuple[str, ...] = ()
    if_none_match: tuple[str, ...] = ()
    if_modified_since_us: int | None = None
    if_unmodified_since_us: int | None = None

    def __bool__(self) -> bool:
        return bool(
            self.if_match
            or self.if_none_match
            or self.if_modified_since_us is not None
            or self.if_unmodified_since_us is not None
        )


NO_CONDITIONS = Conditions()


class BodySource(Protocol):
    """Where an object's bytes come from."""

    @property
    def length(self) -> int | None:
        """Bytes to come, if that is known beforehand."""

    async def read(self) -> bytes:
        """The next piece; b"" at the end.

        Whatever it raises (a bad digest found at the end, a client that went away) aborts the write with nothing stored.
        """


class ObjectStream(Protocol):
    """An object's bytes on their way to a client (a `ResponseStream`)."""

    async def read(self) -> bytes | memoryview:
        """The next piece, verified against its checksum; empty at the end."""

    async def aclose(self) -> None:
        """Let go of what it holds."""


@dataclass(frozen=True, slots=True)
class PutObjectRequest:
    """Everything of a PUT but its bytes."""

    content_type: str = "application/octet-stream"
    metadata: Metadata = field(default_factory=dict)
    conditions: Conditions = NO_CONDITIONS
    expected_md5: bytes | None = None
    """Content-MD5 or Swift's ETag header, 16 bytes: `BadDigest` where the body's differs."""
    late_metadata: Callable[[], Metadata] | None = None
    """Called after the body's end: what only the body tells (checksums in trailers)."""


# ---------------------------------------------------------------------------------------------------------------- errors


class StoreError(Exception):
    """Something the object model could not do. The message is fit for a client."""


class NoSuchAccount(StoreError):
    """The account does not exist."""


class AccountDeleted(NoSuchAccount):
    """The account was deleted, and what was in it is about to be removed: till then it can't be made again."""


class NoSuchContainer(StoreError):
    """The container does not exist."""


class NoSuchObject(StoreError):
    """The object does not exist."""

    def __init__(self, message: str = "", deleted_timestamp: int = 0) -> None:
        super().__init__(message)
        self.deleted_timestamp = deleted_timestamp


class ContainerExists(StoreError):
    """Someone else holds the name."""


class ContainerNotEmpty(StoreError):
    """Only empty containers are deleted."""


class PreconditionFailed(StoreError):
    """A condition of the request does not hold (412; for a racing conditional write 409 in S3)."""

    def __init__(self, message: str, condition: str, racing: bool = False) -> None:
        super().__init__(message)
        self.condition = condition
        """The header's name: "If-Match", "If-None-Match", …"""
        self.racing = racing
        """Another conditional write of the same object was under way."""


class NotModified(StoreError):
    """A conditional read of something that did not change (304)."""

    def __init__(self, info: ObjectInfo) -> None:
        super().__init__("not modified")
        self.info = info


class BadDigest(StoreError):
    """The body's MD5 is not the one that the client announced."""


class EntityTooLarge(StoreError):
    """The body is longer than an object may be."""


class NameInvalid(StoreError):
    """A name that is too long, empty where it must not be, or holds what it must not."""


class InsufficientStorage(StoreError):
    """Too many devices are full (507 in Swift, 503 in S3)."""


class Unavailable(StoreError):
    """Too few devices answered in time. The write may or may not have been done: retry (503)."""


class Overwritten(Unavailable):
    """The version that was looked up is gone from its devices: look the object up again (503 if that never ends)."""


class SegmentMissing(StoreError):
    """A manifest names a segment that is gone or has changed (409)."""
