"""The model refuses what no store may answer: one wrong answer a test, beside the right one."""

from __future__ import annotations

import pytest

from tests.sim.model import SOME, Name, Seen, Write
from tests.sim.world import Violation


def name_with(*values: bytes | None) -> Name:
    """A name to which these were written, one a second, with the timestamps 100, 200 and so on."""
    name = Name("c/n", skew_s=5.0)
    for at_s, value in enumerate(values, 1):
        write = name.begin(value, float(at_s))
        name.acknowledged(write, at_s + 0.5, at_s * 100, at_s * 100, degraded=False)
    return name


def test_a_read_gives_the_newest() -> None:
    """The last acknowledged value is right, the one before it is not, and neither are bytes that nobody wrote."""
    name = name_with(b"one", b"two")
    name.read(Seen(b"two", 200), 5.0, 5.0)
    with pytest.raises(Violation, match="is read where 200 is acknowledged"):
        name.read(Seen(b"one", 100), 5.0, 5.0)
    with pytest.raises(Violation, match="nobody wrote"):
        name.read(Seen(b"three", 300), 5.0, 5.0)
    with pytest.raises(Violation, match="nothing there"):
        name.read(Seen(None, 0), 5.0, 5.0)


def test_new_metadata_is_read_until_newer_comes() -> None:
    """Who reads a version after its metadata was changed sees that change."""
    name = name_with(b"one")
    update = name.begin_update()
    update.data, update.stamp, update.done_s = 100, 150, 2.0
    name.read(Seen(b"one", 100, update=0, changed=150), 3.0, 3.0)
    with pytest.raises(Violation, match="without update 0"):
        name.read(Seen(b"one", 100, number=0, changed=100), 3.0, 3.0)
    name.read(Seen(b"one", 100, number=0, changed=100), 1.9, 3.0)
    with pytest.raises(Violation, match="metadata that nobody wrote"):
        name.read(Seen(b"one", 100, update=7, changed=170), 3.0, 3.0)


def test_what_has_an_end_is_there_until_then_by_every_clock() -> None:
    """Clocks that are up to five seconds wrong: gone from five before the end on, and read until five after it."""
    name = name_with(b"one")
    name.writes[0].end_s = 20.0
    with pytest.raises(Violation, match="nothing there"):
        name.read(Seen(None, 0), 10.0, 14.0)
    with pytest.raises(Violation, match="not listed"):
        name.listed(None, 10.0, 14.0)
    name.read(Seen(None, 0), 10.0, 15.0)
    name.read(Seen(b"one", 100), 25.0, 25.0)
    with pytest.raises(Violation, match="was to be gone"):
        name.read(Seen(b"one", 100), 25.1, 25.2)


def test_a_later_write_that_has_ended_leaves_nothing() -> None:
    """Also one that only handoffs took: what was before it is over, and does not come back when it ends."""
    name = name_with(b"one", b"two")
    name.writes[1].degraded, name.writes[1].end_s = True, 20.0
    assert not name.is_gone(100, 14.0)
    assert name.is_gone(100, 15.0)
    assert not name.is_gone(name.writes[1].high + 1, 30.0)


def test_a_copy_has_a_value_of_its_source() -> None:
    """Which one is known by the first read; it must not be older than what was acknowledged before the copy began."""
    source = name_with(b"one", b"two")
    target = Name("c/k")
    copy: Write = target.begin(SOME, 5.0)
    copy.source = source
    with pytest.raises(Violation, match="nobody wrote"):
        target.read(Seen(b"three", 500), 6.0, 6.0)
    target.read(Seen(b"two", 500, number=0), 6.0, 6.0)
    with pytest.raises(Violation, match="nobody wrote"):
        target.read(Seen(b"one", 500, number=0), 6.0, 6.0)
    source.copied(b"two", 5.0, degraded=False)
    with pytest.raises(Violation, match="older than 200"):
        source.copied(b"one", 5.0, degraded=False)
