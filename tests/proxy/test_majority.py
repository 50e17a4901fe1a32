"""Majorities while data moves: whoever has a ring in common with another meets it in a device."""

from __future__ import annotations

from itertools import combinations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.majority import Tally, informed, votes_of

members_lists = st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=5, unique=True), min_size=1, max_size=4)


def needs_of(members: list[list[int]]) -> list[int]:
    """A majority of each ring."""
    return [len(ids) // 2 + 1 for ids in members]


def suffices(members: list[list[int]], devices: set[int]) -> bool:
    """What `Tally` counts."""
    votes = votes_of(members)
    tally = Tally(needs_of(members))
    for device in devices:
        tally.add(votes.get(device, 0))
    return not tally.lacking


@given(members_lists, st.sets(st.integers(0, 7)))
def test_a_tally_is_a_majority_in_each_ring(members: list[list[int]], devices: set[int]) -> None:
    """The count agrees with counting each ring by itself."""
    naive = all(len(devices.intersection(ids)) >= len(ids) // 2 + 1 for ids in members)
    assert suffices(members, devices) == naive


@given(members_lists, members_lists, st.sets(st.integers(0, 7)), st.sets(st.integers(0, 7)))
def test_two_majorities_with_a_ring_in_common_meet(
    mine: list[list[int]], theirs: list[list[int]], written: set[int], read: set[int]
) -> None:
    """One proxy follows some rings, another some others and one of the first's: a read meets the write."""
    theirs = [*theirs, mine[0]]
    if suffices(mine, written) and suffices(theirs, read):
        assert written & read & set(mine[0])


@given(members_lists)
def test_all_primaries_vote_and_the_oldest_hands_come_first(members: list[list[int]]) -> None:
    """Every primary of every ring is asked once; who is one in all rings is asked before who is one in fewer."""
    votes = votes_of(members)
    assert set(votes) == {device for ids in members for device in ids}
    for index, ids in enumerate(members):
        assert {device for device, rings in votes.items() if rings >> index & 1} == set(ids)
    counts = [rings.bit_count() for rings in votes.values()]
    assert counts == sorted(counts, reverse=True)


def test_a_device_that_stayed_is_asked_before_one_that_left_before_one_that_came() -> None:
    """The data is surely where the old ring wants it."""
    assert list(votes_of([[1, 2, 9], [1, 2, 3]])) == [1, 2, 3, 9]


@pytest.mark.parametrize("members", [1, 2, 3, 4])
def test_an_informed_read_covers_every_acknowledged_write(members: int) -> None:
    """Fewer than a majority were emptied since: whoever reads enough meets a device that has the write. All cases."""
    everyone = range(members)
    subsets = [set(some) for count in range(members + 1) for some in combinations(everyone, count)]
    need = members // 2 + 1
    for emptied, answered in product(subsets, subsets):
        if len(emptied) >= need:
            continue
        enough = informed(members, len(answered), len(answered - emptied))
        missed = [written for written in subsets if len(written) >= need and not answered & (written - emptied)]
        if enough:
            assert not missed
        else:  # no stricter than it has to be
            assert missed or len(answered) < need


@pytest.mark.parametrize("members", [1, 2, 3, 4, 5])
def test_without_emptied_devices_a_majority_is_enough(members: int) -> None:
    """As long as all are filled nothing is asked beyond a majority."""
    for answered in range(members + 1):
        assert informed(members, answered, answered) == (answered >= members // 2 + 1)
