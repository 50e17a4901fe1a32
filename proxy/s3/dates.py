"""Dates as S3 writes and reads them.

Problem: every answer has a date or two, every line of a listing one, and the standard library's formatting takes longer
than the rest of a HEAD.

Idea: format by hand from `time.gmtime`, and remember the last seconds formatted. S3 shows whole seconds everywhere
(listings end in ".000Z"), so that a date from a listing equals the one from HEAD.

Source: RFC 9110 section 5.6.7 (HTTP dates, all three forms on reading).
"""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from time import gmtime
from typing import Final

from proxy.spelled import Spelled

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@lru_cache(maxsize=2048)
def _http(second: int) -> bytes:
    year, month, day, hour, minute, sec, weekday, _, _ = gmtime(second)
    text = f"{_DAYS[weekday]}, {day:02d} {_MONTHS[month - 1]} {year:04d} {hour:02d}:{minute:02d}:{sec:02d} GMT"
    return text.encode()


def _iso(second: int) -> bytes:
    year, month, day, hour, minute, sec, _, _, _ = gmtime(second)
    return b"%04d-%02d-%02dT%02d:%02d:%02d.000Z" % (year, month, day, hour, minute, sec)


ISO_SECONDS: Final = Spelled(_iso, 16_384)
"""Seconds since 1970 as documents have them."""


def http_date(us: int) -> bytes:
    """A moment (microseconds since 1970) as headers have it."""
    return _http(us // 1_000_000)


def iso_date(us: int) -> str:
    """A moment (microseconds since 1970) as documents have it."""
    return ISO_SECONDS[us // 1_000_000].decode()


def parse_http_date(value: bytes) -> int | None:
    """Seconds since 1970 of a date header; None where it is none (RFC 9110: such a header is ignored).

    ISO 8601, which some clients send, is understood too.
    """
    text = value.decode("latin-1").strip()
    if not text or len(text) > 64:
        return None
    try:
        moment = datetime.fromisoformat(text) if text[0].isdigit() else parsedate_to_datetime(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return int(moment.timestamp())
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
