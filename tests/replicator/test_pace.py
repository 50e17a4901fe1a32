"""How fast background work may go."""

from __future__ import annotations

from collections.abc import Awaitable

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from replicator.pace import BURST_S, Bucket, Pace
from replicator.throttle import Throttle


@given(
    rate=st.floats(0.1, 1000),
    steps=st.lists(st.tuples(st.floats(0, 10), st.floats(0, 50)), min_size=1, max_size=50),
)
def test_no_more_than_the_rate_is_done(rate: float, steps: list[tuple[float, float]]) -> None:
    """Whoever waits as told never has done more than a burst and the rate times the elapsed time."""
    now_s = 0.0
    bucket = Bucket(rate, now_s)
    done = 0.0
    for idle_s, count in steps:
        now_s += idle_s
        now_s += bucket.take(count, now_s)
        done += count
        assert done <= rate * (BURST_S + now_s) * (1 + 1e-9) + 1e-6


def test_unused_rate_is_kept_for_a_second_only() -> None:
    """A long rest does not allow a long rush."""
    bucket = Bucket(10.0, 0.0)
    assert bucket.take(10, 1000.0) == 0.0
    assert bucket.take(10, 1000.0) == pytest.approx(1.0)


def test_a_rate_of_nothing_is_refused() -> None:
    """Whoever wants to stop pauses."""
    with pytest.raises(ValueError, match="above 0"):
        Bucket(0.0, 0.0)


async def test_work_waits_its_turn(autojump_clock: trio.testing.MockClock) -> None:
    """What exceeds the burst takes its time."""
    pace = Pace(100.0)
    began_s = trio.current_time()
    for _ in range(5):
        await pace.take(100.0)
    assert trio.current_time() - began_s == pytest.approx(4.0)


async def test_a_pause_holds_and_resume_lets_go(autojump_clock: trio.testing.MockClock) -> None:
    """Paused work begins when it is resumed, not before."""
    pace = Pace(100.0)
    pace.pause()
    assert pace.paused
    with trio.move_on_after(60) as scope:
        await pace.take()
    assert scope.cancelled_caught
    pace.resume()
    with trio.fail_after(1):
        await pace.take()


async def test_the_knob_turns_while_it_runs(autojump_clock: trio.testing.MockClock) -> None:
    """A new rate counts from the next piece of work."""
    pace = Pace(1.0)
    await pace.take(1.0)
    pace.rate_per_s = 1000.0
    with trio.fail_after(0.5):
        await pace.take(1000.0)


async def test_who_waits_at_a_low_rate_goes_on_when_it_is_raised(autojump_clock: trio.testing.MockClock) -> None:
    """An operator who mistyped a rate need not wait for hours until his correction is heard."""
    pace, throttle = Pace(0.001), Throttle(0.001, 0.001)
    with trio.fail_after(3):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pace.take, 10.0)
            nursery.start_soon(throttle.take, 1, 10_000)
            await trio.sleep(1)
            pace.rate_per_s = 1000.0
            throttle.set_rates(1e9, 1e9)


async def test_a_pause_holds_those_who_waited_for_their_turn(autojump_clock: trio.testing.MockClock) -> None:
    """Their time comes while it is paused: they begin when it is resumed."""
    pace, throttle = Pace(10.0), Throttle(10.0, 10.0)
    done: list[str] = []

    async def work(name: str, take: Awaitable[None]) -> None:
        await take
        done.append(name)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(work, "pace", pace.take(30))
        nursery.start_soon(work, "throttle", throttle.take(1, 30))
        await trio.sleep(1)
        pace.pause()
        throttle.pause()
        await trio.sleep(10)
        assert done == []
        pace.resume()
        throttle.resume()
        with trio.fail_after(1):
            while len(done) < 2:
                await trio.sleep(0.1)
