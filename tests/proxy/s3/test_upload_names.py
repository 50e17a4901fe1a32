"""Names of uploads and parts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.s3.upload_names import (
    initiated_us,
    marker_name,
    new_upload_id,
    part_bound,
    part_name,
    part_number_of,
    part_prefix,
    split_marker,
    split_part,
)

KEYS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=20).map(
    str.encode
)
TIMES = st.integers(0, 2**52 - 1)


@given(KEYS, TIMES, st.integers(1, 10_000), TIMES)
def test_names_can_be_taken_apart(key: bytes, began_us: int, number: int, now_us: int) -> None:
    """Key, upload, number and time come back out of a name."""
    upload_id = new_upload_id(began_us, bytes(9))
    assert len(upload_id) == 32
    assert initiated_us(upload_id) == began_us
    assert split_marker(marker_name(key, upload_id)) == (key, upload_id)
    part = split_part(part_name(key, upload_id, number, now_us, bytes(4)))
    assert part is not None
    assert part[:3] == (key, upload_id, number)


@given(KEYS, KEYS, TIMES, TIMES)
def test_markers_sort_by_key_and_then_by_age(one: bytes, other: bytes, earlier: int, later: int) -> None:
    """The order of the names is the order of ListMultipartUploads."""
    first = ((one, earlier), marker_name(one, new_upload_id(earlier, bytes(9))))
    second = ((other, later), marker_name(other, new_upload_id(later, bytes(9))))
    assert sorted([first, second])[0][1] == min(first[1], second[1])


def test_parts_sort_by_number_and_are_bounded() -> None:
    """All attempts at a part lie between the bounds of the part before and its own."""
    upload_id = new_upload_id(5, bytes(9))
    names = [part_name(b"k", upload_id, number, 2**52 - 1, b"\xff" * 4) for number in (1, 2, 9, 10, 10_000)]
    assert names == sorted(names)
    assert all(name.startswith(part_prefix(b"k", upload_id)) for name in names)
    assert part_bound(b"k", upload_id, 1) < names[1] < part_bound(b"k", upload_id, 2) < names[2]


def test_what_is_no_part_has_its_position_for_a_number() -> None:
    """Segments that Swift made count from one."""
    assert split_part(b"segments/0001") is None
    assert part_number_of(b"segments/0001", 4) == 5
    assert part_number_of(part_name(b"k", b"u", 77, 1, bytes(4)), 4) == 77
