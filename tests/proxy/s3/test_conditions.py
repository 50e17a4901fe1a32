"""Preconditions in headers."""

from __future__ import annotations

import pytest

from proxy.model import NO_CONDITIONS, Conditions
from proxy.s3.conditions import copy_source_conditions, delete_conditions, read_conditions, write_conditions
from proxy.s3.dates import http_date, iso_date, parse_http_date
from proxy.s3.errors import S3Error

DATE = b"Sun, 06 Nov 1994 08:49:37 GMT"
DATE_US = 784_111_777 * 1_000_000 + 999_999


def test_no_header_is_no_condition() -> None:
    """The usual request allocates nothing."""
    assert read_conditions({}) is NO_CONDITIONS
    assert write_conditions({}) is NO_CONDITIONS
    assert delete_conditions({}) is NO_CONDITIONS
    assert copy_source_conditions({}) is NO_CONDITIONS


@pytest.mark.parametrize(
    ("value", "tags"),
    [
        (b'"abc"', ("abc",)),
        (b"abc", ("abc",)),
        (b"*", ("*",)),
        (b'"a", "b" ,c', ("a", "b", "c")),
        (b'W/"a"', ("a",)),
        (b"", ("",)),
        (b'""', ("",)),
    ],
)
def test_etag_lists(value: bytes, tags: tuple[str, ...]) -> None:
    """Quoted, bare, weak, several and none; what is empty matches no object."""
    assert read_conditions({b"if-none-match": value}).if_none_match == tags


def test_weak_etags_never_satisfy_if_match() -> None:
    """If-Match compares strongly (RFC 9110 section 13.1.1)."""
    assert read_conditions({b"if-match": b'W/"a"'}).if_match == ("",)


def test_etags_win_over_dates() -> None:
    """RFC 9110 section 13.2.2: with an etag condition its date counterpart does not count."""
    both = {
        b"if-match": b'"a"',
        b"if-unmodified-since": DATE,
        b"if-none-match": b'"b"',
        b"if-modified-since": DATE,
    }
    assert read_conditions(both) == Conditions(("a",), ("b",), None, None)


@pytest.mark.parametrize(
    "value", [DATE, b"Sunday, 06-Nov-94 08:49:37 GMT", b"Sun Nov  6 08:49:37 1994", b"1994-11-06T08:49:37Z"]
)
def test_dates_stand_for_the_end_of_their_second(value: bytes) -> None:
    """An object is not "modified since" the date that its own Last-Modified shows."""
    assert read_conditions({b"if-modified-since": value}).if_modified_since_us == DATE_US
    assert copy_source_conditions({b"x-amz-copy-source-if-unmodified-since": value}).if_unmodified_since_us == DATE_US


@pytest.mark.parametrize("value", [b"", b"yesterday", b"\xff\xff", b"Sun, 99 Foo 1994", b"9" * 200])
def test_dates_that_are_none_are_ignored(value: bytes) -> None:
    """A date that cannot be read is no condition (RFC 9110 section 13.1.3)."""
    assert read_conditions({b"if-modified-since": value}).if_modified_since_us is None


def test_writes_take_etags_alone() -> None:
    """PUT knows If-Match and If-None-Match, one at a time, and refuses an If-None-Match that says nothing."""
    assert write_conditions({b"if-none-match": b"*"}) == Conditions(if_none_match=("*",))
    assert write_conditions({b"if-match": b'"x"'}) == Conditions(if_match=("x",))
    with pytest.raises(S3Error, match="NotImplemented"):
        write_conditions({b"if-match": b"a", b"if-none-match": b"*"})
    with pytest.raises(S3Error, match="InvalidArgument"):
        write_conditions({b"if-none-match": b""})
    assert delete_conditions({b"if-match": b'"x"'}) == Conditions(if_match=("x",))
    with pytest.raises(S3Error, match="NotImplemented"):
        delete_conditions({b"x-amz-if-match-size": b"3"})


def test_too_many_etags_are_refused() -> None:
    """A condition is not a way to make the store compare thousands of tags."""
    with pytest.raises(S3Error, match="InvalidRequest"):
        read_conditions({b"if-match": b",".join(b"%d" % i for i in range(1000))})


def test_dates_are_written_as_clients_read_them() -> None:
    """HTTP dates in headers, ISO 8601 in documents, both in whole seconds."""
    assert http_date(784_111_777_500_000) == DATE
    assert iso_date(784_111_777_500_000) == "1994-11-06T08:49:37.000Z"
    assert parse_http_date(http_date(1_700_000_000_000_000)) == 1_700_000_000
