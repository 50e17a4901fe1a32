"""What replicas of a container that do not agree should all say."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from replicator.catalog_plan import Verdict, buried, is_live, join, plan_catalog, plan_row, restored, row_version
from storage_node.join import Life, join_lives
from storage_node.operations import Catalog, Row

PRIMARIES = (0, 1, 2)
NOTHING = bytes(16)


@dataclass(frozen=True)
class Rows:
    """The rows of a catalog, as far as they matter here."""

    digest: bytes = NOTHING
    live: int = 0
    newest: int = 0


NO_ROWS = Rows()
ONE_ROW = Rows(b"r" * 16, 1, 12)


def catalog(
    created: int, deleted: int = 0, touched: int = 0, rows: Rows = NO_ROWS, **items: tuple[str, int]
) -> Catalog:
    """A catalog with these times."""
    meta = {name.encode(): (value.encode(), timestamp) for name, (value, timestamp) in items.items()}
    return Catalog(created, deleted, meta, rows.live, rows.live, 0, rows.digest, rows.newest, touched or created)


def test_agreement_wants_nothing():
    """Three equal replicas lack nothing."""
    plan = plan_catalog(dict.fromkeys(PRIMARIES, catalog(10, color=("red", 11))), PRIMARIES)
    assert plan is not None
    assert (plan.verdict, plan.lacking, plan.rows_differ, plan.surplus) == (Verdict.JOIN, (), False, ())
    assert plan_catalog(dict.fromkeys(PRIMARIES, None), PRIMARIES) is None


def test_the_earliest_creation_of_one_life_is_taken():
    """Two proxies created it at once: replicas agree on the earlier, as one device would have."""
    plan = plan_catalog({0: catalog(10), 1: catalog(12), 2: None}, PRIMARIES)
    assert plan is not None
    assert plan.joined.life == Life(10, 0, 12)
    assert plan.lacking == (1, 2)


def test_items_are_joined_one_by_one():
    """Of each metadata item the newest, whoever has it; of equal times the greater value."""
    held = {0: catalog(10, a=("1", 11), b=("1", 15)), 1: catalog(10, a=("2", 12), b=("2", 15)), 2: catalog(10)}
    plan = plan_catalog(held, PRIMARIES)
    assert plan is not None
    assert plan.joined.meta == {b"a": (b"2", 12), b"b": (b"2", 15)}
    assert plan.lacking == (0, 2)


def test_a_later_creation_wins_over_a_deletion():
    """Deleted and made anew: items of the former life do not come back."""
    plan = plan_catalog({0: catalog(10, 15), 1: catalog(20, 15), 2: catalog(10, old=("x", 11))}, PRIMARIES)
    assert plan is not None
    assert plan.verdict is Verdict.JOIN
    assert plan.joined == (Life(20, 15, 20), {})
    assert plan.lacking == (0, 2)


def test_a_use_after_the_deletion_keeps_it_alive():
    """A replica that was asked to create it again, after the deletion that another one saw, says that it is there."""
    plan = plan_catalog({0: catalog(10, 15), 1: catalog(10, 0, 20), 2: None}, PRIMARIES)
    assert plan is not None
    assert plan.joined.life == Life(20, 15, 20)


def test_a_deletion_that_a_majority_holds_stands():
    """Rows on the third replica were never acknowledged."""
    held = {0: catalog(10, 15), 1: catalog(10, 15), 2: catalog(10, rows=Rows(b"r" * 16, 1, 30))}
    plan = plan_catalog(held, PRIMARIES)
    assert plan is not None
    assert (plan.verdict, plan.opponents) == (Verdict.DELETE, (2,))


def test_a_deletion_that_only_one_holds_fails_where_it_was_used_since():
    """A row or an item later than the deletion: the catalog is restored."""
    for later in (catalog(10, rows=Rows(b"r" * 16, 1, 30)), catalog(10, item=("x", 16))):
        plan = plan_catalog({0: catalog(10, 15), 1: later, 2: catalog(10)}, PRIMARIES)
        assert plan is not None
        assert plan.verdict is Verdict.RESTORE


def test_a_deletion_in_doubt_waits_for_all_primaries():
    """With one of them away nothing is decided."""
    plan = plan_catalog({0: catalog(10, 15), 1: catalog(10, rows=ONE_ROW)}, PRIMARIES)
    assert plan is not None
    assert plan.verdict is Verdict.WAIT


def test_a_deletion_in_doubt_is_decided_by_the_rows():
    """Nothing is later than it: what counts is whether a live row is left."""
    plan = plan_catalog({0: catalog(10, 15), 1: catalog(10, rows=ONE_ROW), 2: None}, PRIMARIES)
    assert plan is not None
    assert plan.verdict is Verdict.ASK_ROWS
    assert plan.rows_differ


def test_a_restored_catalog_keeps_its_metadata():
    """Created anew, later than the deletion, so its items are stamped again."""
    state = restored([catalog(10, 15), catalog(10, color=("red", 11))], 99)
    assert state == (Life(99, 15, 99), {b"color": (b"red", 99)})
    after = plan_catalog({0: catalog(99, 15, color=("red", 99)), 1: catalog(10, color=("red", 11)), 2: None}, PRIMARIES)
    assert after is not None
    assert (after.verdict, after.joined) == (Verdict.JOIN, state)


def test_handoffs_that_hold_it_are_surplus():
    """They count in the join and are named."""
    plan = plan_catalog({0: catalog(10), 1: catalog(10), 2: catalog(10), 7: catalog(10, a=("1", 11))}, PRIMARIES)
    assert plan is not None
    assert plan.surplus == (7,)
    assert plan.lacking == (0, 1, 2)


def row(timestamp: int, sub_timestamp: int = 0, deleted: bool = False) -> Row:
    """A row of that version."""
    return Row(b"name", timestamp, sub_timestamp, deleted, 1, 1, b"")


def test_the_newest_row_goes_to_whom_lacks_it():
    """Newest by both timestamps; a handoff's copy is surplus; who did not answer gets nothing."""
    plan = plan_row({0: row(5), 1: row(5, 9), 7: row(4, 99)}, {0, 1, 7}, PRIMARIES)
    assert plan.newest == row(5, 9)
    assert plan.lacking == (0,)
    assert plan.confirmed == {1}
    assert plan.surplus == ((7, row(4, 99)),)


def test_a_buried_row_is_later_than_row_and_deletion():
    """So that it replaces the row everywhere."""
    for alive in (row(5, 9), row(5000), row(5, 9000)):
        tombstone = buried(alive, 1000)
        assert tombstone.deleted
        assert row_version(tombstone) > max(row_version(alive), (1000, 0))


lives = st.builds(
    lambda created, deleted, later: Life(created, deleted, created + later),
    st.integers(0, 6),
    st.integers(0, 6),
    st.integers(0, 3),
)


@given(st.lists(lives, min_size=1, max_size=4))
def test_joining_lives_settles(known):
    """The join of all, joined with any of them again, stays as it is; the order does not matter."""
    joined = join_lives(known)
    assert joined == join_lives(list(reversed(known)))
    assert join_lives([joined, joined]) == joined
    assert all(join_lives([joined, life]).live == joined.live for life in known)


catalogs = st.builds(
    lambda created, deleted, items: catalog(
        created, deleted, 0, NO_ROWS, **{name: (value, timestamp) for name, value, timestamp in items}
    ),
    st.integers(0, 6),
    st.integers(0, 6),
    st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xy"), st.integers(1, 8)), max_size=2),
)


@given(st.dictionaries(st.integers(0, 4), st.none() | catalogs, min_size=1))
def test_after_the_join_nobody_lacks_anything(held):
    """Giving the joined state to those who lack it ends in agreement."""
    plan = plan_catalog(held, PRIMARIES)
    if plan is None:
        return
    life, meta = plan.joined
    after = dict(held)
    for device in plan.lacking:
        after[device] = Catalog(life.created, life.deleted, meta, 0, 0, 0, NOTHING, 0, life.touched)
    again = plan_catalog(after, PRIMARIES)
    assert again is not None
    if is_live(Catalog(life.created, life.deleted, meta, 0, 0, 0, NOTHING)) or not plan.surplus:
        assert again.lacking == ()
        assert again.joined == join([c for c in after.values() if c is not None])
