"""When the reaper removes which account: on a list in memory, and a clock that jumps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import trio
import trio.testing

from replicator.reaper import Reaper, ReaperSettings

NOW_US = 1_900_000_000_000_000


class Line(NamedTuple):
    """A deleted account."""

    account: str
    deleted_us: int


@dataclass
class List:
    """Deleted accounts in memory, each of `size` objects; those in `stuck` can't be removed now."""

    place: int | None = 0
    lines: list[Line] = field(default_factory=list)
    stuck: set[str] = field(default_factory=set)
    size: int = 10
    reaped: list[tuple[float, str]] = field(default_factory=list)
    tried: list[float] = field(default_factory=list)

    def rank(self) -> int | None:
        """See Graves."""
        return self.place

    async def graves(self) -> Sequence[Line] | None:
        """See Graves."""
        await trio.lowlevel.checkpoint()
        return list(self.lines)

    async def reap(self, grave: Line, take: Callable[[], Awaitable[None]], note: Callable[[int, int], None]) -> bool:
        """See Graves."""
        self.tried.append(trio.current_time())
        if grave.account in self.stuck:
            await trio.lowlevel.checkpoint()
            return False
        for _ in range(self.size):
            await take()
            note(1, 0)
        note(0, 1)
        self.lines.remove(grave)
        self.reaped.append((trio.current_time(), grave.account))
        return True


def reaper_of(graves: List, clock: trio.testing.MockClock, **settings: float) -> Reaper:
    """A reaper whose wall clock began at NOW_US."""
    began_s = clock.current_time()
    return Reaper(
        graves, ReaperSettings(**settings), now_us=lambda: NOW_US + int((clock.current_time() - began_s) * 1_000_000)
    )


async def test_an_account_stays_for_the_delay(autojump_clock: trio.testing.MockClock) -> None:
    """Nothing is removed before delay_s have passed, all soon after; till then it is counted as delayed."""
    graves = List(lines=[Line("a", NOW_US), Line("b", NOW_US + 500_000_000)])
    reaper = reaper_of(graves, autojump_clock, delay_s=1_000.0, interval_s=10.0)
    began_s = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reaper.run)
        await trio.sleep(995)
        assert (reaper.statistics().delayed, reaper.statistics().backlog, graves.reaped) == (2, 0, [])
        await trio.sleep(1_000)
        nursery.cancel_scope.cancel()
    assert [name for _, name in graves.reaped] == ["a", "b"]
    assert all(0 <= at_s - began_s - due_s <= 11 for (at_s, _), due_s in zip(graves.reaped, (1000, 1500), strict=True))
    statistics = reaper.statistics()
    assert (statistics.accounts, statistics.containers, statistics.objects) == (2, 2, 20)


async def test_the_next_node_takes_over(autojump_clock: trio.testing.MockClock) -> None:
    """The node of the list's second device waits takeover_s longer; one without a device of it does nothing."""
    for place, expected in ((1, 1), (None, 0)):
        graves = List(place, [Line("a", NOW_US)])
        reaper = reaper_of(graves, autojump_clock, delay_s=100.0, takeover_s=300.0, interval_s=10.0)
        began_s = trio.current_time()
        with trio.move_on_after(1_000):
            await reaper.run()
        assert len(graves.reaped) == expected
        assert all(400 <= at_s - began_s <= 412 for at_s, _ in graves.reaped)


async def test_one_that_fails_holds_nobody_up(autojump_clock: trio.testing.MockClock) -> None:
    """An account that can't be removed is the backlog and tried less and less often; the others go on."""
    graves = List(lines=[Line("a", NOW_US), Line("b", NOW_US)], stuck={"a"})
    reaper = reaper_of(graves, autojump_clock, delay_s=0.0, interval_s=10.0)
    with trio.move_on_after(3_600):
        await reaper.run()
    assert [name for _, name in graves.reaped] == ["b"]
    statistics = reaper.statistics()
    assert (statistics.backlog, statistics.failed) == (1, len(graves.tried) - 1)
    assert 3_500 <= statistics.oldest_s <= 3_601
    assert 5 <= statistics.failed <= 9
    graves.stuck.clear()
    with trio.move_on_after(3_600):
        await reaper.run()
    assert reaper.statistics().backlog == 0


async def test_it_keeps_to_its_rate(autojump_clock: trio.testing.MockClock) -> None:
    """A thousand objects at ten a second take a hundred seconds; paused, none is removed."""
    graves = List(lines=[Line("a", NOW_US)], size=1_000)
    reaper = reaper_of(graves, autojump_clock, delay_s=0.0, objects_per_s_max=10.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reaper.run)
        await trio.sleep(50)
        assert 450 <= reaper.statistics().objects <= 520
        reaper.pause()
        await trio.sleep(1)
        held = reaper.statistics().objects
        await trio.sleep(100)
        assert reaper.statistics().paused
        assert reaper.statistics().objects == held
        reaper.resume()
        await trio.sleep(60)
        assert len(graves.reaped) == 1
        nursery.cancel_scope.cancel()
