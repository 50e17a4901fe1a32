"""The desk: keeps daemons running, and does what operators want."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import trio
import trio.testing

from replicator.daemon import Daemon, Rate
from replicator.pace import Pace
from ringstead.processes.control import Refused
from ringstead.services.daemons.desk import FAILING_S, Desk
from ringstead.services.daemons.state import DaemonState, Wish


class Figures(NamedTuple):
    """What the daemon of these tests tells."""

    backlog: int
    oldest_s: float
    done: int
    paused: bool


class Counting:
    """A daemon that does one thing a second, and fails when told to."""

    def __init__(self, name: str, fail: Callable[[int], bool] = lambda _: False) -> None:
        self.name = name
        self.done = 0
        self.pace = Pace(1.0)
        self._fail = fail

    async def run(self) -> None:
        """Count."""
        while True:
            await self.pace.take()
            self.done += 1
            if self._fail(self.done):
                raise RuntimeError(f"number {self.done} is bad")

    def daemon(self) -> Daemon:
        """As the desk sees it."""
        return Daemon(
            self.name,
            "Counts.",
            "numbers",
            self.run,
            lambda: Figures(0, 0.0, self.done, self.pace.paused),
            frozenset(("done",)),
            self.pause,
            self.pace.resume,
            (
                Rate("numbers_per_s", "", lambda: self.pace.rate_per_s, lambda v: setattr(self.pace, "rate_per_s", v)),
                Rate("other_per_s", "", lambda: 7.0, lambda _: None),
            ),
        )

    def pause(self) -> None:
        """Wait."""
        self.pace.pause()


def desk_of(folder: Path, *daemons: Counting) -> Desk:
    """A desk that keeps its wishes in a folder."""
    return Desk([one.daemon() for one in daemons], DaemonState(folder / "daemons.json"))


async def test_a_daemon_that_fails_is_begun_again_and_takes_no_other_with_it(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """Its failures are counted and told; the other counts on."""
    bad, good = Counting("bad", lambda number: number % 3 == 0), Counting("good")
    desk = desk_of(tmp_path, bad, good)
    async with trio.open_nursery() as nursery:
        await nursery.start(desk.run)
        await trio.sleep(100)
        nursery.cancel_scope.cancel()
    assert good.done >= 99
    assert desk.failures["bad"] >= 5
    assert desk.failures["good"] == 0
    described = desk.describe("bad")
    assert described["failures"] == desk.failures["bad"]
    assert "is bad" in described["last_failure"]
    assert (described["failing"], desk.describe("good")["failing"]) == (True, False)
    await trio.sleep(FAILING_S)
    assert not desk.describe("bad")["failing"]


async def test_pause_and_rates_hold_across_restarts(tmp_path: Path) -> None:
    """A desk that is made anew has its daemons as they were told to be, and not as the settings say."""
    first = Counting("one")
    desk = desk_of(tmp_path, first)
    assert not first.pace.paused
    desk.change("one", paused=True, rates={"": 0.25})
    assert first.pace.paused
    again = Counting("one")
    desk = desk_of(tmp_path, again)
    assert (again.pace.paused, again.pace.rate_per_s) == (True, 0.25)
    rate = desk.describe("one")["rates"]["numbers_per_s"]
    assert (rate["value"], rate["setting"], rate["kept"]) == (0.25, 1.0, True)
    desk.change("one", paused=False, rates={"": None})
    assert (again.pace.paused, again.pace.rate_per_s) == (False, 1.0)
    assert DaemonState(tmp_path / "daemons.json").of("one") == Wish()


async def test_what_makes_no_sense_changes_nothing(tmp_path: Path) -> None:
    """An unknown daemon or rate, and a rate of nothing, are refused with what there is; nor is a part of it done."""
    one = Counting("one")
    desk = desk_of(tmp_path, one)
    for name, rates, words in (
        ("two", {}, "there is no daemon 'two'; there are one"),
        ("one", {"fast": 1.0}, "no rate 'fast'; it has numbers_per_s, other_per_s"),
        ("one", {"": 5.0, "other_per_s": 0.0}, "above 0, not 0.0"),
        ("one", {"": "much"}, "above 0, not 'much'"),
    ):
        with pytest.raises(Refused, match=words):
            desk.change(name, paused=True, rates=rates)  # type: ignore[arg-type]
    assert (one.pace.paused, one.pace.rate_per_s) == (False, 1.0)


async def test_what_cannot_be_kept_is_not_done(tmp_path: Path) -> None:
    """A pause that the next start would not know of is refused."""
    one = Counting("one")
    desk = desk_of(tmp_path / "absent", one)
    with pytest.raises(Refused, match="nothing was changed"):
        desk.change("one", paused=True)
    assert not one.pace.paused
