"""Which replica lacks what: the plan for one object."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from replicator.versions import Copy, Lack, plan_object, version_of
from storage_node.operations import Entry

PRIMARIES = (0, 1, 2)


def data(timestamp: int, meta_timestamp: int = 0) -> Entry:
    """An object with that version."""
    return Entry(timestamp, max(timestamp, meta_timestamp), False, 1, b"m")


def tombstone(timestamp: int) -> Entry:
    """A deletion."""
    return Entry(timestamp, timestamp, True, 0, b"")


def test_agreement_is_settled():
    """Three equal entries, or equal tombstones, want nothing."""
    for entry in (data(5), data(5, 8), tombstone(5)):
        plan = plan_object(dict.fromkeys(PRIMARIES, entry), PRIMARIES)
        assert plan is not None
        assert plan.settled
        assert plan.confirmed == {0, 1, 2}


def test_nothing_anywhere_is_no_plan():
    """Devices that hold nothing agree."""
    assert plan_object(dict.fromkeys(PRIMARIES, None), PRIMARIES) is None


def test_missing_and_stale_primaries_get_the_newest():
    """One lacks it, one has an older one: both get the data, from whom has it."""
    plan = plan_object({0: None, 1: data(9), 2: data(5)}, PRIMARIES)
    assert plan is not None
    assert plan.copies == (Copy(0, Lack.DATA), Copy(2, Lack.DATA))
    assert plan.sources == (1,)
    assert plan.confirmed == {1}


def test_a_tombstone_beats_older_data_and_newer_data_a_tombstone():
    """Deletions travel as data does."""
    plan = plan_object({0: data(5), 1: tombstone(6), 2: None}, PRIMARIES)
    assert plan is not None
    assert plan.copies == (Copy(0, Lack.TOMBSTONE), Copy(2, Lack.TOMBSTONE))
    plan = plan_object({0: data(7), 1: tombstone(6), 2: tombstone(6)}, PRIMARIES)
    assert plan is not None
    assert plan.copies == (Copy(1, Lack.DATA), Copy(2, Lack.DATA))


def test_metadata_goes_alone_to_whom_has_the_data():
    """An update of the same data is sent as such; later data does not care for it."""
    plan = plan_object({0: data(5, 8), 1: data(5), 2: None}, PRIMARIES)
    assert plan is not None
    assert plan.copies == (Copy(1, Lack.METADATA), Copy(2, Lack.DATA))
    assert plan.sources == (0, 1)
    plan = plan_object({0: data(5, 8), 1: data(6), 2: data(6)}, PRIMARIES)
    assert plan is not None
    assert plan.copies == (Copy(0, Lack.DATA),)


def test_an_absent_primary_confirms_nothing():
    """Whoever did not answer is neither given anything nor counted."""
    plan = plan_object({0: data(5), 2: data(5), 7: data(5)}, PRIMARIES)
    assert plan is not None
    assert plan.copies == ()
    assert plan.confirmed == {0, 2}
    assert plan.surplus == ((7, data(5)),)


entries = st.none() | st.builds(data, st.integers(1, 4), st.integers(1, 6)) | st.builds(tombstone, st.integers(1, 4))


@given(st.dictionaries(st.integers(0, 5), entries))
def test_after_the_plan_all_primaries_that_answered_hold_the_newest(held):
    """Doing what the plan says gives every primary the newest entry, from a source that has its data."""
    plan = plan_object(held, PRIMARIES)
    known = [entry for entry in held.values() if entry is not None]
    if plan is None:
        assert not known
        return
    assert version_of(plan.newest) == max(map(version_of, known))
    after = dict(held)
    for copy in plan.copies:
        there = held[copy.target]
        if copy.lack is Lack.METADATA:
            assert there is not None
            assert (there.timestamp, there.deleted) == (plan.newest.timestamp, False)
        elif copy.lack is Lack.DATA:
            assert all((entry := held[device]) and entry.timestamp == plan.newest.timestamp for device in plan.sources)
            assert plan.sources
        after[copy.target] = plan.newest
    answered = [device for device in PRIMARIES if device in held]
    assert all(
        after[device] is not None and version_of(after[device]) == version_of(plan.newest) for device in answered
    )
    assert plan.confirmed == {device for device in answered if held[device] and after[device] == held[device]}
    assert {device for device, _ in plan.surplus} == {
        d for d, e in held.items() if e is not None and d not in PRIMARIES
    }
