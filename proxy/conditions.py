"""Preconditions of reads and writes, decided.

RFC 9110 section 13.2.2 gives the order: If-Match, else If-Unmodified-Since; then If-None-Match, else If-Modified-Since.
Both dialects bring `Conditions`; both get the same decision. Times are compared in whole seconds, as headers carry them.

Invariant: pure; raises `PreconditionFailed`, `NotModified` or `NoSuchObject`, or returns.
"""

from __future__ import annotations

from proxy.model import Conditions, NoSuchObject, NotModified, ObjectInfo, PreconditionFailed

_SECOND_US = 1_000_000


def check_read(conditions: Conditions, info: ObjectInfo) -> None:
    """Whether a read of an existing object goes ahead."""
    modified_s = info.modified_us // _SECOND_US
    if conditions.if_match:
        if not matches(conditions.if_match, info.etag):
            raise PreconditionFailed("the object's ETag is not among those of If-Match", "If-Match")
    elif conditions.if_unmodified_since_us is not None and modified_s > conditions.if_unmodified_since_us // _SECOND_US:
        raise PreconditionFailed("the object was modified since", "If-Unmodified-Since")
    if conditions.if_none_match:
        if matches(conditions.if_none_match, info.etag):
            raise NotModified(info)
    elif conditions.if_modified_since_us is not None and modified_s <= conditions.if_modified_since_us // _SECOND_US:
        raise NotModified(info)


def check_write(conditions: Conditions, info: ObjectInfo | None) -> None:
    """Whether a write over `info` (None: nothing is there) goes ahead."""
    if conditions.if_match:
        if info is None:
            raise NoSuchObject("If-Match, but there is no such object")
        if not matches(conditions.if_match, info.etag):
            raise PreconditionFailed("the object's ETag is not among those of If-Match", "If-Match")
    if info is None:
        return
    modified_s = info.modified_us // _SECOND_US
    if conditions.if_unmodified_since_us is not None and modified_s > conditions.if_unmodified_since_us // _SECOND_US:
        raise PreconditionFailed("the object was modified since", "If-Unmodified-Since")
    if conditions.if_none_match and matches(conditions.if_none_match, info.etag):
        raise PreconditionFailed("an object with an ETag of If-None-Match exists", "If-None-Match")


def check_copy_source(conditions: Conditions, info: ObjectInfo) -> None:
    """Whether the source of a copy qualifies; what would be "not modified" for a read fails a copy."""
    try:
        check_read(conditions, info)
    except NotModified:
        name = "If-None-Match" if conditions.if_none_match else "If-Modified-Since"
        raise PreconditionFailed("the copy's source does not meet its condition", name) from None


def matches(etags: tuple[str, ...], etag: str) -> bool:
    """Whether an object's etag is among those of a condition."""
    return "*" in etags or etag in etags
