"""Bugs that are let in on purpose are found, each within the seeds that canaries.py states."""

from __future__ import annotations

import pytest

from tests.sim.canaries import CANARIES, Canary
from tests.sim.run import Plan, run_seed
from tests.sim.world import Violation


def _leaf(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


@pytest.mark.parametrize("canary", CANARIES, ids=lambda canary: canary.name.replace(" ", "-"))
def test_a_bug_on_purpose_is_found(canary: Canary) -> None:
    """At least one of the canary's seeds ends with a broken promise."""
    for seed in canary.seeds:
        with canary.replaced():
            result = run_seed(seed, Plan(change=canary.change, kinds=canary.kinds, heal_s=450.0))
        if result.failure is not None and isinstance(_leaf(result.failure), Violation):
            return
    pytest.fail(f"{canary.name}: not found by seeds {canary.seeds}")
