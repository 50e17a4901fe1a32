"""Preconditions, as RFC 9110 section 13 decides them."""

from __future__ import annotations

import pytest

from proxy.conditions import check_copy_source, check_read, check_write
from proxy.model import Conditions, NoSuchObject, NotModified, ObjectInfo, PreconditionFailed
from storage_node.timestamp import from_microseconds

SECOND = 1_000_000
INFO = ObjectInfo(from_microseconds(100 * SECOND + 500), 0, 3, "abc", "text/plain", {})


def test_if_match_outranks_if_unmodified_since() -> None:
    """A matching If-Match lets a read through although the object was modified since the date."""
    check_read(Conditions(if_match=("abc",), if_unmodified_since_us=1), INFO)
    with pytest.raises(PreconditionFailed):
        check_read(Conditions(if_unmodified_since_us=1), INFO)


def test_if_none_match_outranks_if_modified_since() -> None:
    """A differing If-None-Match lets a read through although nothing was modified since the date."""
    check_read(Conditions(if_none_match=("other",), if_modified_since_us=200 * SECOND), INFO)
    with pytest.raises(NotModified):
        check_read(Conditions(if_modified_since_us=200 * SECOND), INFO)


def test_times_are_compared_in_whole_seconds() -> None:
    """An object modified within the second of the date counts as not modified since it."""
    check_read(Conditions(if_unmodified_since_us=100 * SECOND), INFO)
    with pytest.raises(NotModified):
        check_read(Conditions(if_modified_since_us=100 * SECOND), INFO)


def test_a_star_matches_whatever_exists() -> None:
    """If-None-Match: * refuses to overwrite anything and allows to create."""
    with pytest.raises(PreconditionFailed):
        check_write(Conditions(if_none_match=("*",)), INFO)
    check_write(Conditions(if_none_match=("*",)), None)
    check_write(Conditions(if_match=("*",)), INFO)


def test_if_match_on_nothing_is_no_such_object() -> None:
    """An If-Match write of an object that is not there says so, not that the etag differs."""
    with pytest.raises(NoSuchObject):
        check_write(Conditions(if_match=("abc",)), None)


def test_an_unchanged_copy_source_fails_the_copy() -> None:
    """What would be 304 for a read is a failed precondition for a copy."""
    with pytest.raises(PreconditionFailed):
        check_copy_source(Conditions(if_none_match=("abc",)), INFO)
