"""Preconditions: If-Match and its relatives, for reads, for writes and for the source of a copy.

Problem: two headers compare etags, two compare dates, and RFC 9110 says which wins. The store evaluates them (for writes
only the devices can, atomically); the dialect reads them.

Idea: one `Conditions` per request. The precedence of RFC 9110 section 13.2.2 is already applied here: with If-Match there
is no If-Unmodified-Since, with If-None-Match no If-Modified-Since. Dates have whole seconds while objects have
microseconds: each date stands for the end of its second, so that an object counts as modified after the date that its
own Last-Modified shows only if that second is over.

Invariant: a header that cannot be read as what it must be never makes a write unconditional: it is refused or matches
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from proxy.model import NO_CONDITIONS, Conditions
from proxy.s3.dates import parse_http_date
from proxy.s3.errors import S3Error, invalid_argument, not_implemented

_ETAGS_MAX = 64
_NEVER = ("",)
"""An etag list that no object matches."""


def read_conditions(headers: Mapping[bytes, bytes]) -> Conditions:
    """The conditions of a GET or HEAD."""
    # One look at each name is cheaper than one regular expression over all of them, and nearly always all are absent.
    return _conditions(
        headers.get(b"if-match"),
        headers.get(b"if-none-match"),
        headers.get(b"if-modified-since"),
        headers.get(b"if-unmodified-since"),
    )


def copy_source_conditions(headers: Mapping[bytes, bytes]) -> Conditions:
    """The conditions on the source of CopyObject and UploadPartCopy."""
    return _conditions(
        headers.get(b"x-amz-copy-source-if-match"),
        headers.get(b"x-amz-copy-source-if-none-match"),
        headers.get(b"x-amz-copy-source-if-modified-since"),
        headers.get(b"x-amz-copy-source-if-unmodified-since"),
    )


def write_conditions(headers: Mapping[bytes, bytes]) -> Conditions:
    """The conditions of a PUT or of CompleteMultipartUpload: If-Match, If-None-Match."""
    match = headers.get(b"if-match")
    none_match = headers.get(b"if-none-match")
    if match is None and none_match is None:
        return NO_CONDITIONS
    if match is not None and none_match is not None:
        raise not_implemented("If-None-Match", "If-Match and If-None-Match together are not implemented.")
    if match is not None:
        return Conditions(if_match=_etags(match, strong=True))
    tags = _etags(none_match or b"")
    if tags == _NEVER:
        raise invalid_argument(
            "If-None-Match", (none_match or b"").decode("latin-1"), "No entity tag in If-None-Match."
        )
    return Conditions(if_none_match=tags)


def delete_conditions(headers: Mapping[bytes, bytes]) -> Conditions:
    """The conditions of a DELETE: If-Match."""
    for name in (b"x-amz-if-match-last-modified-time", b"x-amz-if-match-size"):
        if name in headers:
            raise not_implemented(name.decode())
    match = headers.get(b"if-match")
    return NO_CONDITIONS if match is None else Conditions(if_match=_etags(match, strong=True))


def _conditions(
    match: bytes | None, none_match: bytes | None, modified: bytes | None, unmodified: bytes | None
) -> Conditions:
    if match is None and none_match is None and modified is None and unmodified is None:
        return NO_CONDITIONS
    return Conditions(
        if_match=_etags(match, strong=True) if match is not None else (),
        if_none_match=_etags(none_match) if none_match is not None else (),
        if_modified_since_us=_end_of_second(modified) if none_match is None else None,
        if_unmodified_since_us=_end_of_second(unmodified) if match is None else None,
    )


def _end_of_second(value: bytes | None) -> int | None:
    second = parse_http_date(value) if value is not None else None
    return None if second is None else second * 1_000_000 + 999_999


def _etags(value: bytes, strong: bool = False) -> tuple[str, ...]:
    """The etags of a list, without quotes. A weak one matches nothing where the comparison must be strong."""
    tags: list[str] = []
    for raw in value.split(b",", _ETAGS_MAX):
        tag = raw.strip()
        if tag[:2] == b"W/":
            if strong:
                continue
            tag = tag[2:]
        text = tag.strip(b'"').decode("latin-1")
        if text:
            tags.append(text)
    if len(tags) > _ETAGS_MAX:
        raise S3Error("InvalidRequest", f"More than {_ETAGS_MAX} entity tags in one condition.")
    return tuple(tags) or _NEVER
