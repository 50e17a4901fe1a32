"""The rings in force: installed, kept while data moves, finished, found again."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ring import ring_file
from ring.builder import build_ring
from ring.generations import GENERATIONS_MAX, Generations, TooManyMoves, finish, install, join
from ring.moves import MoveState, read_state, state_file
from ring.ring import Ring
from ring.topology import Device


def ring_of(epoch: int, seed: int = 1, count: int = 4) -> Ring:
    """A small ring."""
    devices = [Device(i, 1, i, f"10.0.0.{i}", 6200, "sda", 100.0) for i in range(count)]
    return build_ring(devices, 4, 3, seed, epoch=epoch)


def epochs(generations: Generations) -> list[int]:
    """Of the rings in force."""
    return [ring.epoch for ring in generations.rings]


def test_a_new_ring_leaves_the_one_before_in_force(tmp_path: Path):
    """Until the move is finished both are, and a service that starts in the middle knows it."""
    path = tmp_path / "cluster.ring"
    install(path, ring_of(1))
    generations = Generations(path)
    assert epochs(generations) == [1]
    assert not generations.look()
    install(path, ring_of(2, count=5))
    assert generations.look()
    assert generations.moving
    assert epochs(generations) == epochs(Generations(path)) == [2, 1]
    finish(path, 2)
    assert generations.look()
    assert epochs(generations) == [2]
    assert not generations.moving


def test_a_ring_that_was_copied_over_the_file_keeps_the_one_before(tmp_path: Path):
    """A service that knew the old ring puts it into the folder, for itself and the others."""
    path = tmp_path / "cluster.ring"
    install(path, ring_of(1))
    generations = Generations(path)
    ring_file.save(path, ring_of(2))
    assert generations.look()
    assert epochs(generations) == [2, 1]
    assert epochs(Generations(path)) == [2, 1]


def test_what_is_no_newer_ring_of_this_cluster_changes_nothing(tmp_path: Path):
    """Damage, another cluster's ring and an older one are refused, with the reason."""
    path = tmp_path / "cluster.ring"
    install(path, ring_of(3))
    generations = Generations(path)
    for wrong in (b"nonsense", ring_of(4, seed=2).dumps(), ring_of(2).dumps()):
        path.write_bytes(wrong)
        assert not generations.look()
        assert generations.problem
        assert epochs(generations) == [3]
    ring_file.save(path, ring_of(4))
    assert generations.look()
    assert generations.problem == ""


def test_install_refuses_what_is_not_newer(tmp_path: Path):
    """The same epoch or another seed: nothing is written."""
    path = tmp_path / "cluster.ring"
    install(path, ring_of(3))
    for ring in (ring_of(3), ring_of(9, seed=2)):
        with pytest.raises(ValueError, match=r"epoch|seed"):
            install(path, ring)
    assert epochs(Generations(path)) == [3]


def test_moves_are_bounded(tmp_path: Path):
    """Ring changes cannot pile up without end."""
    path = tmp_path / "cluster.ring"
    for epoch in range(1, GENERATIONS_MAX + 1):
        install(path, ring_of(epoch))
    with pytest.raises(TooManyMoves):
        install(path, ring_of(99))
    assert len(Generations(path).rings) == GENERATIONS_MAX


def test_what_is_settled_is_not_brought_back(tmp_path: Path):
    """A ring file that replaces another by hand, after the move was found done elsewhere: the old one stays gone."""
    path = tmp_path / "cluster.ring"
    install(path, ring_of(1))
    install(path, ring_of(2))
    generations = Generations(path)
    finish(path, 3)  # another node's word: it has gone on to a third ring already
    ring_file.save(path, ring_of(3))
    assert generations.look()
    assert epochs(generations) == [3]
    assert read_state(path).settled_epoch == 3


def test_a_damaged_state_leaves_more_rings_in_force_and_says_so(tmp_path: Path):
    """What is not known to be settled is not let go."""
    path = tmp_path / "cluster.ring"
    install(path, ring_of(1))
    install(path, ring_of(2))
    state_file(path).write_bytes(b"rubbish")
    generations = Generations(path)
    assert epochs(generations) == [2, 1]
    assert "moving" in generations.problem


def test_another_clusters_ring_is_not_joined(tmp_path: Path):
    """The seed tells; nothing changes."""
    path = tmp_path / "cluster.ring"
    install(path, ring_of(1))
    with pytest.raises(ValueError, match="seed"):
        join(path, [ring_of(2, seed=9)], MoveState())
    assert epochs(Generations(path)) == [1]


RINGS = {epoch: ring_of(epoch) for epoch in range(1, 6)}
knowledge = st.tuples(st.sets(st.integers(1, 5), min_size=1), st.integers(0, 5))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.permutations(range(4)), st.lists(knowledge, min_size=4, max_size=4))
def test_nodes_that_heard_the_same_have_the_same_in_force(
    first: int, order: Sequence[int], heard: list[tuple[set[int], int]]
) -> None:
    """Whatever the order: all rings that anyone has, without those before what anyone knows to be settled."""
    heard = [(rings, min(settled, max(rings))) for rings, settled in heard]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cluster.ring"
        install(path, RINGS[first])
        for index in order:
            rings, settled = heard[index]
            join(path, [RINGS[epoch] for epoch in rings], MoveState(settled))
        known = {first}.union(*(rings for rings, _ in heard))
        settled = max(settled for _, settled in heard)
        assert epochs(Generations(path)) == sorted((epoch for epoch in known if epoch >= settled), reverse=True)
