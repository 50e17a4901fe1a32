"""What an operator may set of the S3 dialect, and the limits that S3 itself sets.

Every default is AWS's own number where AWS documents one: clients are written against it.
"""

from __future__ import annotations

from dataclasses import dataclass

KEY_BYTES_MAX = 1024
LIST_KEYS_MAX = 1000
"""Keys, uploads, versions or parts in one page; more asked for is clamped to it."""
LIST_BUCKETS_MAX = 10_000
DELETE_KEYS_MAX = 1000
"""Keys of one DeleteObjects."""
USER_METADATA_BYTES_MAX = 2048
"""Names (without x-amz-meta-) and values of one object together."""
PART_NUMBER_MAX = 10_000
PART_BYTES_MIN = 5 * 1024**2
"""Of every part but the last."""
UPLOAD_SIZE_BYTES_MAX = 5 * 1024**4
"""Of one object, however it was uploaded."""
COPY_BYTES_MAX = 5 * 1024**3
"""Of the source of one CopyObject or UploadPartCopy."""
TAG_COUNT_MAX = 10
TAG_KEY_CHARS_MAX = 128
TAG_VALUE_CHARS_MAX = 256

XML_BODY_BYTES_MAX = 1024**2
"""Of most request documents."""
XML_LONG_BODY_BYTES_MAX = 4 * 1024**2
"""Of DeleteObjects (1,000 keys of 1,024 bytes) and CompleteMultipartUpload (10,000 parts with checksums), which are
longer than that when a client uses all that the protocol lets it."""
XML_THREAD_BYTES_MIN = 64 * 1024
"""Documents from this length on are parsed in a thread, so that other requests do not wait for them."""


@dataclass(frozen=True, slots=True)
class S3Settings:
    """Settings of the S3 dialect."""

    region: str = "us-east-1"
    """The region that this cluster says it is."""
    host_suffixes: tuple[str, ...] = ("localhost",)
    """Host names of the service: `bucket.SUFFIX` addresses a bucket by host, SUFFIX itself and every other host by path."""
    host_id: str = "ringstead"
    """What x-amz-id-2 and HostId say."""
    delete_concurrency: int = 16
    """Deletes of one DeleteObjects that are under way at once."""
    part_concurrency: int = 16
    """Parts that one request looks up or removes at once."""
    completion_s_max: float = 60.0
    """For so long a CompleteMultipartUpload that another one began is waited for; then it counts as dead."""

    def __post_init__(self) -> None:
        for suffix in self.host_suffixes:
            if not suffix or suffix != suffix.lower() or suffix.startswith(".") or suffix.endswith("."):
                raise ValueError(f"host suffix {suffix!r}: give a lower-case host name without dots at its ends")
        if min(self.delete_concurrency, self.part_concurrency) < 1:
            raise ValueError("concurrency must be at least 1")
