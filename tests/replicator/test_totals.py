"""What an account's row should say of a container."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from replicator.totals import RowUpdate, decide_update
from storage_node.operations import Catalog, Row


def catalog(created: int = 10, deleted: int = 0, count: int = 0, size: int = 0, newest_row: int = 0) -> Catalog:
    """A container's replica."""
    return Catalog(created, deleted, {}, count, count, size, bytes(16), newest_row)


def row(timestamp: int = 10, sub: int = 0, deleted: bool = False, count: int = 0, size: int = 0) -> Row:
    """An account replica's row."""
    return Row(b"box", timestamp, sub, deleted, count, size, b"")


def test_what_is_right_is_left_alone() -> None:
    """Rows that agree with the container are not written again."""
    assert decide_update([catalog(count=2, size=5)] * 3, [row(sub=7, count=2, size=5)] * 3) is None


def test_new_totals_are_written() -> None:
    """Objects and bytes go into the row, which keeps the container's creation as its time."""
    assert decide_update([catalog(count=2, size=5)] * 3, [row()] * 3) == RowUpdate(10, False, 2, 5)


def test_one_stale_row_is_enough() -> None:
    """A replica of the account that missed an update gets it."""
    good = row(sub=7, count=2, size=5)
    assert decide_update([catalog(count=2, size=5)] * 2, [good, good, row()]) == RowUpdate(10, False, 2, 5)


def test_a_container_that_no_account_lists_is_listed() -> None:
    """A proxy died between the container and its row: the row is made."""
    assert decide_update([catalog(count=1, size=1)] * 2, [None, None]) == RowUpdate(10, False, 1, 1)


def test_the_replica_with_the_latest_row_counts() -> None:
    """A replica that is behind does not take totals back."""
    behind, ahead = catalog(count=1, size=1, newest_row=20), catalog(count=9, size=9, newest_row=30)
    assert decide_update([behind, ahead, behind], [row()]) == RowUpdate(10, False, 9, 9)


def test_a_deleted_container_is_unlisted() -> None:
    """A proxy died after deleting the container: its row goes."""
    gone = catalog(created=10, deleted=50)
    assert decide_update([gone] * 2, [row(sub=7, count=1, size=1)]) == RowUpdate(50, True, 0, 0)
    assert decide_update([gone] * 2, [None]) is None
    assert decide_update([gone] * 2, [row(50, 0, deleted=True)]) is None


def test_a_late_report_brings_nothing_back() -> None:
    """A replica that has not heard of the deletion does not list the container again."""
    assert decide_update([catalog(count=3)], [row(50, 0, deleted=True)]) is None


def test_a_container_made_again_is_listed_again() -> None:
    """A creation after the deletion wins over it."""
    assert decide_update([catalog(60, 50)], [row(50, 0, deleted=True)]) == RowUpdate(60, False, 0, 0)


def test_a_row_stamped_later_than_the_container_still_gets_totals() -> None:
    """Two clients created it at once; the row bears the later time, and totals go in under it."""
    assert decide_update([catalog(10, count=1)], [row(12)]) == RowUpdate(12, False, 1, 0)
    assert decide_update([catalog(10, count=1)], [row(12, 5, count=1)]) is None


def test_nothing_known_is_nothing_done() -> None:
    """Without a replica of the container no row is touched."""
    assert decide_update([], [row()]) is None


creations = st.integers(1, 5).map(lambda number: 2 * number)
deletions = st.integers(0, 5).map(lambda number: 2 * number + 1)
"""No two events have one timestamp: even ones create here, odd ones delete."""
catalogs = st.builds(catalog, creations, deletions, st.integers(0, 3), st.integers(0, 3), st.integers(0, 5))
rows = st.one_of(
    st.none(),
    st.builds(row, creations, st.integers(0, 5), st.just(False), st.integers(0, 3), st.integers(0, 3)),
    st.builds(row, deletions, st.just(0), st.just(True)),
)


@given(st.lists(catalogs, max_size=3), st.lists(rows, min_size=1, max_size=3))
def test_an_update_settles_it(replicas: list[Catalog], held: list[Row | None]) -> None:
    """Once every replica of the account has taken the update, there is nothing more to do, in whatever order it came."""
    update = decide_update(replicas, held)
    if update is None:
        return
    newest = max((old.timestamp, old.sub_timestamp) for old in held if old is not None) if any(held) else (0, 0)
    written = Row(b"box", update.timestamp, 0 if update.deleted else 1000, update.deleted, *update[2:], b"")
    assert (written.timestamp, written.sub_timestamp) > newest or update.deleted
    after = [written if old is None or (old.timestamp, old.sub_timestamp) < written[1:3] else old for old in held]
    assert decide_update(replicas, after) is None
    assert decide_update(replicas[::-1], after[::-1]) is None
