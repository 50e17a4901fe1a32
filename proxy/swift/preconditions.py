"""If-Match and its relatives, out of a request's headers.

Reads take all four (RFC 9110, section 13). Writes take If-Match, If-Unmodified-Since and `If-None-Match: *`, the one form
of If-None-Match that Swift knows for them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from proxy.model import NO_CONDITIONS, Conditions
from proxy.swift.errors import SwiftError
from proxy.swift.times import parse_http_date

_ETAG = re.compile(rb'(?:W/)?"([^"]*)"|([^\s,"]+)')


def read_conditions(headers: Mapping[bytes, bytes]) -> Conditions:
    """The conditions of a GET or HEAD."""
    if (
        b"if-none-match" not in headers
        and b"if-modified-since" not in headers
        and b"if-match" not in headers
        and b"if-unmodified-since" not in headers
    ):
        return NO_CONDITIONS
    return Conditions(
        etags(headers.get(b"if-match")),
        etags(headers.get(b"if-none-match")),
        _date(headers.get(b"if-modified-since")),
        _date(headers.get(b"if-unmodified-since")),
    )


def write_conditions(headers: Mapping[bytes, bytes]) -> Conditions:
    """The conditions of a PUT or DELETE. Raises SwiftError 400."""
    if b"if-none-match" not in headers and b"if-match" not in headers and b"if-unmodified-since" not in headers:
        return NO_CONDITIONS
    none_match = etags(headers.get(b"if-none-match"))
    if none_match and "*" not in none_match:
        raise SwiftError(400, "If-None-Match only supports *")
    return Conditions(
        etags(headers.get(b"if-match")),
        ("*",) if none_match else (),
        None,
        _date(headers.get(b"if-unmodified-since")),
    )


def etags(value: bytes | None) -> tuple[str, ...]:
    """The etags of a condition, without quotes and weakness; ("*",) for any."""
    if not value:
        return ()
    return tuple((quoted or bare).decode("latin-1") for quoted, bare in _ETAG.findall(value))


def if_range_holds(value: bytes | None, etag: str, modified_us: int) -> bool:
    """Whether a Range header counts (RFC 9110, section 13.1.5): the object is still the one that the client has."""
    if value is None:
        return True
    moment_us = parse_http_date(value)
    if moment_us is not None:
        return moment_us // 1_000_000 == modified_us // 1_000_000
    return not value.startswith(b"W/") and etag in etags(value)


def _date(value: bytes | None) -> int | None:
    return parse_http_date(value) if value else None
