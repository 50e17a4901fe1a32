"""Texts that are made when they are first met."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.spelled import Spelled


@given(st.lists(st.integers(0, 9)), st.integers(1, 5))
def test_each_is_what_is_made_of_its_key(keys: list[int], count_max: int) -> None:
    """Made once while it is kept, right however often they are dropped, and never more than so many."""
    made: list[int] = []

    def spell(key: int) -> bytes:
        made.append(key)
        return b"%d" % key

    spelled = Spelled(spell, count_max)
    for key in keys:
        kept, made_before = key in spelled, len(made)
        assert spelled[key] == b"%d" % key
        assert len(made) == made_before + (not kept)
        assert key in spelled
        assert len(spelled) <= count_max
