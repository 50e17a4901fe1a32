"""The picture of a pool is what its events say, whatever the order in which answers come."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.xen.picture import Miscounted, Nonsense, Picture


def event(operation: str, ref: str, **snapshot: Any) -> dict[str, Any]:
    """An event of a VM."""
    made: dict[str, Any] = {"class": "vm", "operation": operation, "ref": ref, "id": 1}
    return made if operation == "del" else {**made, "snapshot": snapshot}


def batch(token: str, *events: dict[str, Any], vm: int | None = None) -> dict[str, Any]:
    """An answer of event.from."""
    counts = {} if vm is None else {"vm": vm}
    return {"token": token, "events": list(events), "valid_ref_counts": counts}


def test_a_batch_for_another_token_is_refused() -> None:
    """A slow answer to an old question does not undo what a newer one brought."""
    picture = Picture()
    assert picture.apply(batch("1", event("add", "a", name="old")), "") == [("VM", "a")]
    assert picture.apply(batch("2", event("mod", "a", name="new")), "1") == [("VM", "a")]
    assert picture.apply(batch("1b", event("mod", "a", name="stale")), "1") is None
    assert picture.record("VM", "a") == {"name": "new"}


def test_counts_that_differ_are_told() -> None:
    """An event that was lost on the way shows in the pool's own counts."""
    picture = Picture()
    picture.apply(batch("1", event("add", "a"), vm=1), "")
    with pytest.raises(Miscounted):
        picture.apply(batch("2", event("add", "b"), vm=3), "1")


@pytest.mark.parametrize(
    "answer",
    [
        None,
        "<html>",
        {},
        {"token": 7, "events": []},
        {"token": "t"},
        {"token": "t", "events": ["x"]},
        {"token": "t", "events": [{"class": "vm", "operation": "add", "ref": 1, "snapshot": {}}]},
        {"token": "t", "events": [{"class": "vm", "operation": "explode", "ref": "a", "snapshot": {}}]},
        {"token": "t", "events": [{"class": "vm", "operation": "add", "ref": "a"}]},
    ],
)
def test_nonsense_changes_nothing(answer: Any) -> None:
    """A batch that is none is refused whole."""
    picture = Picture()
    picture.apply(batch("1", event("add", "a")), "")
    with pytest.raises(Nonsense):
        picture.apply(answer, "1")
    assert picture.token == "1"
    assert list(picture.table("VM")) == ["a"]


@given(st.integers(0, 2**32), st.integers(1, 40))
def test_deltas_and_full_reads_agree(seed: int, steps: int) -> None:
    """Invariant: following a pool by deltas, in batches of any length, gives what a full read gives."""
    dice = random.Random(seed)
    pool: dict[str, dict[str, Any]] = {}
    log: list[dict[str, Any]] = []
    followed, read_up_to = Picture(), 0
    for step in range(steps):
        ref = f"r{dice.randrange(6)}"
        if ref in pool and dice.random() < 0.4:
            del pool[ref]
            log.append(event("del", ref))
        else:
            log.append(event("mod" if ref in pool else "add", ref, step=step))
            pool[ref] = {"step": step}
        if dice.random() < 0.5 or step == steps - 1:
            followed.apply(batch(str(step), *log[read_up_to:], vm=len(pool)), followed.token)
            read_up_to = len(log)
    whole = Picture()
    whole.apply(batch("t", *(event("add", ref, **record) for ref, record in pool.items())), "")
    assert followed.table("VM") == whole.table("VM") == pool
