"""What failed waits twice as long each time, up to a limit."""

from __future__ import annotations

import trio.testing

from replicator.retries import Retries


async def test_waits_double_up_to_the_limit(mock_clock: trio.testing.MockClock) -> None:
    """A name may be tried exactly when its wait is over: 1, 2, 4, 5, 5 s, whatever other names do."""
    retries: Retries[str] = Retries(1.0, 5.0, 10)
    assert retries.may_try("a")
    for attempts, wait_s in enumerate((1.0, 2.0, 4.0, 5.0, 5.0), 1):
        assert retries.note("a") == attempts
        mock_clock.jump(wait_s - 0.25)
        assert not retries.may_try("a")
        assert retries.may_try("b")
        mock_clock.jump(0.25)
        assert retries.may_try("a")


async def test_what_is_done_is_forgotten(mock_clock: trio.testing.MockClock) -> None:
    """A name that was forgotten begins anew; forgetting while going through them leaves none out."""
    retries: Retries[str] = Retries(1.0, 5.0, 10)
    for name in "abc":
        retries.note(name)
    retries.note("a")
    for name in retries:
        retries.forget(name)
    assert list(retries) == []
    assert retries.note("a") == 1


async def test_memory_is_bounded(mock_clock: trio.testing.MockClock) -> None:
    """Beyond the limit a name is not kept, and so tried at once; those that are kept wait on."""
    retries: Retries[int] = Retries(1.0, 5.0, 2)
    assert [retries.note(name) for name in (1, 2, 3, 3)] == [1, 1, 1, 1]
    assert sorted(retries) == [1, 2]
    assert retries.may_try(3)
    assert retries.note(1) == 2


async def test_a_name_that_never_succeeds_can_be_counted_on(mock_clock: trio.testing.MockClock) -> None:
    """After thousands of failures the wait is the limit, and the arithmetic still holds."""
    retries: Retries[str] = Retries(1.0, 300.0, 1)
    for _ in range(2_000):
        retries.note("a")
    mock_clock.jump(299.0)
    assert not retries.may_try("a")
    mock_clock.jump(1.0)
    assert retries.may_try("a")
