"""When a dead service is started again."""

from __future__ import annotations

from ringstead.processes.restart import DELAY_FIRST_S, DELAY_MAX_S, HEALTHY_S, RestartPolicy


def test_the_first_death_costs_next_to_nothing() -> None:
    """A service that died once is back at once."""
    assert RestartPolicy().delay_s(ready_for_s=3600) == DELAY_FIRST_S


def test_repeated_deaths_back_off_to_a_bound() -> None:
    """One that keeps dying is started ever more seldom, but never given up."""
    policy = RestartPolicy()
    delays = [policy.delay_s(0.0) for _ in range(100)]
    assert delays == sorted(delays)
    assert delays[-1] == DELAY_MAX_S
    assert policy.deaths == 100


def test_a_healthy_time_makes_it_new() -> None:
    """After having lived well its next death counts as the first."""
    policy = RestartPolicy()
    for _ in range(10):
        policy.delay_s(0.0)
    assert policy.delay_s(HEALTHY_S - 0.1) == DELAY_MAX_S
    assert policy.delay_s(HEALTHY_S) == DELAY_FIRST_S
