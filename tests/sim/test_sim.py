"""The simulator as part of the tests: fixed seeds."""

from __future__ import annotations

import pytest

from tests.sim.run import Plan, run_seed


@pytest.mark.parametrize("seed", [3, 6])
def test_without_faults_every_answer_is_exact(seed: int) -> None:
    """Clients of a cluster in which nothing breaks see exactly what they wrote, and so does every replica."""
    result = run_seed(seed, Plan(busy_s=60.0, faults=False))
    if result.failure is not None:
        raise result.failure
    assert not [kind for kind in result.counts if kind.startswith("unanswered")]


def test_a_seed_is_a_run() -> None:
    """The same seed gives the same run, to the last line of its trace."""
    plan = Plan(busy_s=30.0, faults=False)
    assert run_seed(11, plan).trace_hash == run_seed(11, plan).trace_hash
