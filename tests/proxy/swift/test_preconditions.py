"""Conditions out of headers."""

from __future__ import annotations

import pytest

from proxy.model import NO_CONDITIONS, Conditions
from proxy.swift.errors import SwiftError
from proxy.swift.preconditions import etags, if_range_holds, read_conditions, write_conditions

DATE = b"Thu, 13 Jun 2019 14:21:56 GMT"
DATE_US = 1_560_435_716_000_000


def test_no_headers_are_no_conditions() -> None:
    """The usual request costs nothing."""
    assert read_conditions({b"accept": b"*/*"}) is NO_CONDITIONS
    assert write_conditions({b"accept": b"*/*"}) is NO_CONDITIONS


def test_conditions_of_a_read() -> None:
    """All four, etags without their quotes."""
    assert read_conditions(
        {b"if-match": b'"a", b', b"if-none-match": b'W/"c"', b"if-modified-since": DATE, b"if-unmodified-since": b"x"}
    ) == Conditions(("a", "b"), ("c",), DATE_US, None)


def test_conditions_of_a_write() -> None:
    """If-None-Match takes nothing but *."""
    assert write_conditions({b"if-none-match": b"*"}) == Conditions(if_none_match=("*",))
    assert write_conditions({b"if-match": b"abc", b"if-unmodified-since": DATE}) == Conditions(
        ("abc",), (), None, DATE_US
    )
    with pytest.raises(SwiftError) as caught:
        write_conditions({b"if-none-match": b'"abc"'})
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, ()),
        (b"", ()),
        (b"*", ("*",)),
        (b'"*"', ("*",)),
        (b"a", ("a",)),
        (b'"a,b"', ("a,b",)),
        (b' "a" ,, "b"', ("a", "b")),
    ],
)
def test_etags(value: bytes | None, expected: tuple[str, ...]) -> None:
    """Quoted or not, one or several."""
    assert etags(value) == expected


def test_if_range() -> None:
    """A range counts only for the version that the client has: by etag, or by date to the second."""
    assert if_range_holds(None, "a", 0)
    assert if_range_holds(b'"a"', "a", 0)
    assert not if_range_holds(b'"b"', "a", 0)
    assert not if_range_holds(b'W/"a"', "a", 0)
    assert if_range_holds(DATE, "a", DATE_US + 5)
    assert not if_range_holds(DATE, "a", DATE_US + 1_000_000)
