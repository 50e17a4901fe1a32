"""The state of moves: joined in any order it comes out the same; what is damaged is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ring.moves import (
    MoveOrders,
    MoveState,
    MoveStateError,
    change_state,
    dumps,
    give_orders,
    loads,
    merge,
    read_state,
    state_file,
)

rates = st.floats(0, 1e15)
states = st.builds(
    MoveState,
    st.integers(0, 5),
    st.builds(MoveOrders, st.integers(0, 3), rates, rates, st.booleans(), st.integers(0, 5), rates),
)


@given(states, states, states)
def test_joining_is_the_same_in_any_order(one: MoveState, two: MoveState, three: MoveState) -> None:
    """Commutative, associative, idempotent: nodes that heard the same know the same."""
    assert merge(one, two) == merge(two, one)
    assert merge(merge(one, two), three) == merge(one, merge(two, three))
    assert merge(one, one) == one


@given(states)
def test_a_state_survives_its_file(state: MoveState) -> None:
    """What was written is read."""
    assert loads(dumps(state)) == state


@given(states, st.data())
def test_a_damaged_state_is_refused(state: MoveState, data: st.DataObject) -> None:
    """Cut short or with a byte changed: an error, and never another state."""
    whole = dumps(state)
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = bytes((whole[at] ^ data.draw(st.integers(1, 255)),))
    for damaged in (whole[:at], whole[:at] + changed + whole[at + 1 :]):
        with pytest.raises(MoveStateError):
            loads(damaged)


def test_orders_are_later_than_those_before_whatever_the_clock_says(tmp_path: Path) -> None:
    """A clock that went back does not make an operator's word void."""
    path = tmp_path / "cluster.ring"
    first = give_orders(path, 1000, lambda orders: replace(orders, paused=True))
    second = give_orders(path, 10, lambda orders: replace(orders, bytes_per_s=5.0))
    assert second.version > first.version
    assert second.paused
    assert read_state(path).orders == second


def test_a_damaged_file_is_replaced_by_the_next_change(tmp_path: Path) -> None:
    """It says nothing; the operator's next word does."""
    path = tmp_path / "cluster.ring"
    give_orders(path, 1, lambda orders: replace(orders, paused=True))
    state_file(path).write_bytes(b"rubbish")
    with pytest.raises(MoveStateError):
        read_state(path)
    assert change_state(path, lambda state: replace(state, settled_epoch=3)) == MoveState(3)
    assert read_state(path) == MoveState(3)
