"""Moments as Swift spells them: HTTP dates, decimal seconds, ISO 8601.

Problem: each response carries two or three of these and each row of a listing one; the standard library's formatting costs
microseconds apiece.

Idea: what is particular to a day is made once a day and kept (bounded); the time of day is four integers in a format.
"""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from functools import lru_cache
from time import gmtime
from typing import Final

from proxy.spelled import Spelled

_SECOND_US = 1_000_000
_DAY_S = 86_400
_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def http_date(us: int) -> bytes:
    """`Thu, 13 Jun 2019 14:21:56 GMT`: the second in which the moment lies."""
    day, second = divmod(us // _SECOND_US, _DAY_S)
    return b"%b%02d:%02d:%02d GMT" % (_http_day(day), second // 3600, second // 60 % 60, second % 60)


def decimal_seconds(us: int) -> bytes:
    """`1560435715.33848`, as X-Timestamp has it."""
    return b"%d.%05d" % (us // _SECOND_US, us % _SECOND_US // 10)


def iso_time(us: int) -> str:
    """`2019-06-13T14:21:55.123456`, as listings have it: UTC, without saying so."""
    # The last six digits are the fraction; the second that is added sees to it that there are so many.
    return iso_second(us // _SECOND_US) + str(us + _SECOND_US)[-6:]


def parse_http_date(value: bytes) -> int | None:
    """Microseconds since 1970 of an HTTP date; None for what is none (such a condition is ignored, RFC 9110)."""
    try:
        return int(parsedate_to_datetime(value.decode("ascii")).timestamp()) * _SECOND_US
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


@lru_cache(maxsize=4096)
def _http_day(day: int) -> bytes:
    date = gmtime(day * _DAY_S)
    weekday, month = _WEEKDAYS[date.tm_wday], _MONTHS[date.tm_mon - 1]
    return f"{weekday}, {date.tm_mday:02d} {month} {date.tm_year:04d} ".encode()


def iso_second(at: int) -> str:
    """`2019-06-13T14:21:55.`: what all moments of that second since 1970 begin with; six digits follow."""
    return ISO_SECONDS[at].decode()


def _iso_second(at: int) -> bytes:
    day, second = divmod(at, _DAY_S)
    return b"%b%02d:%02d:%02d." % (_iso_day(day), second // 3600, second // 60 % 60, second % 60)


@lru_cache(maxsize=4096)
def _iso_day(day: int) -> bytes:
    date = gmtime(day * _DAY_S)
    return b"%04d-%02d-%02dT" % (date.tm_year, date.tm_mon, date.tm_mday)


ISO_SECONDS: Final = Spelled(_iso_second, 16_384)
"""`iso_second` of seconds since 1970, as bytes."""
