"""The Range header."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.s3.errors import S3Error
from proxy.s3.ranges import parse_copy_range, parse_range


@pytest.mark.parametrize(
    ("value", "size", "expected"),
    [
        (b"bytes=0-0", 11, (0, 1)),
        (b"bytes=4-7", 11, (4, 8)),
        (b"bytes=4-", 11, (4, 11)),
        (b"bytes=4-99", 11, (4, 11)),
        (b"bytes=-7", 11, (4, 11)),
        (b"bytes=-99", 11, (0, 11)),
        (b"BYTES=1-2", 11, (1, 3)),
        (b"bytes=10-", 11, (10, 11)),
    ],
)
def test_single_ranges(value: bytes, size: int, expected: tuple[int, int]) -> None:
    """The three forms, cut at the object's end."""
    assert parse_range(value, size) == expected


@pytest.mark.parametrize(
    "value",
    [
        b"bytes=0-1,3-4",
        b"bytes=5-2",
        b"bytes=",
        b"bytes=-",
        b"bytes=a-b",
        b"bytes=1-b",
        b"bytes=--5",
        b"bytes=1",
        b"items=0-5",
        b"bytes=0x1-5",
        b"bytes=" + b"9" * 5000 + b"-",
        b"",
    ],
)
def test_several_ranges_and_nonsense_give_the_whole_object(value: bytes) -> None:
    """What is no single range is ignored, as RFC 9110 allows and AWS does."""
    assert parse_range(value, 11) is None


@pytest.mark.parametrize(
    ("value", "size"),
    [(b"bytes=11-", 11), (b"bytes=40-50", 11), (b"bytes=-0", 11), (b"bytes=0-0", 0), (b"bytes=-5", 0)],
)
def test_ranges_outside_are_416(value: bytes, size: int) -> None:
    """A range of which nothing lies in the object cannot be satisfied; the answer says how long the object is."""
    with pytest.raises(S3Error) as caught:
        parse_range(value, size)
    assert (caught.value.code, caught.value.status) == ("InvalidRange", 416)
    assert (b"content-range", b"bytes */%d" % size) in caught.value.headers


@given(st.binary(max_size=40), st.integers(0, 100))
def test_a_range_always_lies_within_the_object(value: bytes, size: int) -> None:
    """Whatever the header says, the answer is nothing, an error, or bytes that exist."""
    try:
        bounds = parse_range(b"bytes=" + value, size)
    except S3Error:
        return
    assert bounds is None or 0 <= bounds[0] < bounds[1] <= size


def test_copy_ranges_are_strict() -> None:
    """A copy takes one whole range and nothing else: a mistake must not copy the wrong bytes."""
    assert parse_copy_range(b"bytes=0-4", 5) == (0, 5)
    for value in (
        b"0-2",
        b"bytes=0",
        b"bytes=hello-world",
        b"bytes=0-bar",
        b"bytes=hello-",
        b"bytes=0-2,3-5",
        b"bytes=-3",
    ):
        with pytest.raises(S3Error, match="InvalidArgument"):
            parse_copy_range(value, 5)
    with pytest.raises(S3Error, match="InvalidRange"):
        parse_copy_range(b"bytes=0-5", 5)
