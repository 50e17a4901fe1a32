"""Moments as Swift spells them."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import formatdate

from hypothesis import given
from hypothesis import strategies as st

from proxy.swift.times import decimal_seconds, http_date, iso_time, parse_http_date

MOMENTS = st.integers(0, 4_000_000_000_000_000)


@given(MOMENTS)
def test_dates_are_as_the_standard_library_has_them(us: int) -> None:
    """HTTP dates and ISO times agree with email.utils and datetime for every moment."""
    assert http_date(us) == formatdate(us // 1_000_000, usegmt=True).encode()
    moment = datetime.fromtimestamp(us // 1_000_000, UTC).replace(microsecond=us % 1_000_000, tzinfo=None)
    assert iso_time(us) == moment.isoformat(timespec="microseconds")


@given(MOMENTS)
def test_a_date_read_back_is_its_second(us: int) -> None:
    """What we send as Last-Modified we understand as a condition."""
    assert parse_http_date(http_date(us)) == us // 1_000_000 * 1_000_000


def test_decimal_seconds_have_five_places() -> None:
    """X-Timestamp is seconds with five decimals, not rounded up."""
    assert decimal_seconds(1_560_435_715_338_489) == b"1560435715.33848"
    assert decimal_seconds(1_560_435_715_000_010) == b"1560435715.00001"


def test_what_is_no_date_is_none() -> None:
    """A condition with a date that makes no sense is ignored, whatever it is."""
    for value in (
        b"",
        b"yesterday",
        b"\xff",
        b"Thu, 99 Foo 2019 99:99:99 GMT",
        b"0",
        b"Thu, 01 Jan 99999 00:00:00 GMT",
    ):
        assert parse_http_date(value) is None
