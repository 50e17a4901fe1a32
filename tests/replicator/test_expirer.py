"""When the expirer looks where, what it tries again, and what it tells: on a queue in memory, and a clock that jumps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, NamedTuple

import trio
import trio.testing

from replicator.expirer import LOOK_BACK_S, PAGE, THOROUGH_S, Expirer, ExpirerSettings

NOW_S = 1_900_000_000


class Item(NamedTuple):
    """A row."""

    due_s: int
    name: bytes


def item(due_s: int, name: str = "x") -> Item:
    """A row named as the queue names it."""
    return Item(due_s, b"%011d" % due_s + name.encode())


@dataclass
class Shards:
    """A queue in memory. `away` says which rows can't be settled now, `early` which are left alone."""

    ranks: Sequence[int | None]
    rows: dict[int, set[Item]] = field(default_factory=dict)
    away: set[Item] = field(default_factory=set)
    early: set[Item] = field(default_factory=set)
    unreadable: bool = False
    asked: list[tuple[int, int, int]] = field(default_factory=list)
    attempts: list[tuple[float, Item]] = field(default_factory=list)

    @property
    def shard_count(self) -> int:
        """As many as there are ranks."""
        return len(self.ranks)

    def rank(self, shard: int) -> int | None:
        """See Queue."""
        return self.ranks[shard]

    async def due(self, shard: int, start_s: int, until_s: int, marker: bytes, limit: int) -> Sequence[Item] | None:
        """See Queue."""
        await trio.lowlevel.checkpoint()
        if self.unreadable:
            return None
        self.asked.append((shard, start_s, until_s))
        rows = (row for row in self.rows.get(shard, ()) if start_s <= row.due_s <= until_s and row.name > marker)
        return sorted(rows, key=lambda row: row.name)[:limit]

    async def settle(
        self, row: Item, take: Callable[[], Awaitable[None]]
    ) -> Literal["deleted", "dropped", "early", "failed"]:
        """See Queue."""
        await trio.lowlevel.checkpoint()
        self.attempts.append((trio.current_time(), row))
        if row in self.away:
            return "failed"
        if row in self.early:
            return "early"
        for rows in self.rows.values():
            rows.discard(row)
        return "deleted"

    async def clear_leavings(self, take: Callable[[], Awaitable[None]]) -> int:
        """See Queue."""
        await trio.lowlevel.checkpoint()
        return 0


def expirer_of(queue: Shards, clock: trio.testing.MockClock, **settings: float) -> Expirer:
    """An expirer whose wall clock began at NOW_S."""
    began_s = clock.current_time()
    return Expirer(
        queue, ExpirerSettings(**settings), now_us=lambda: int((NOW_S + clock.current_time() - began_s) * 1_000_000)
    )


async def test_what_is_due_is_settled_and_nothing_else(autojump_clock: trio.testing.MockClock) -> None:
    """More than a page of due rows in several shards are settled in one look; what is not due, and not here, stays."""
    queue = Shards([0, 0, None])
    for shard in range(3):
        queue.rows[shard] = {item(NOW_S - number, f"{shard}/{number}") for number in range(-5, PAGE + 100)}
    expirer = expirer_of(queue, autojump_clock, objects_per_s_max=1e9)
    await expirer.look()
    assert [len(queue.rows[shard]) for shard in range(3)] == [5, 5, PAGE + 105]
    statistics = expirer.statistics()
    assert (statistics.deleted, statistics.backlog, statistics.looks) == (2 * (PAGE + 100), 0, 1)


async def test_it_keeps_to_its_time(autojump_clock: trio.testing.MockClock) -> None:
    """A row is settled within the interval after its time."""
    queue = Shards([0], {0: {item(NOW_S + second) for second in range(1, 40)}})
    expirer = expirer_of(queue, autojump_clock, interval_s=5.0)
    began_s = trio.current_time()
    with trio.move_on_after(60):
        await expirer.run()
    assert queue.rows[0] == set()
    late = [at_s - began_s - (row.due_s - NOW_S) for at_s, row in queue.attempts]
    assert min(late) >= 0
    assert max(late) <= 5.1


async def test_other_nodes_take_over_what_is_overdue(autojump_clock: trio.testing.MockClock) -> None:
    """The node of the second device leaves a row to the first's for takeover_s, that of the third for twice as long."""
    for rank in (1, 2):
        queue = Shards([rank], {0: {item(NOW_S + 1)}})
        expirer = expirer_of(queue, autojump_clock, takeover_s=60.0)
        began_s = trio.current_time()
        with trio.move_on_after(200):
            await expirer.run()
        ((at_s, _),) = queue.attempts
        assert rank * 60 <= at_s - began_s - 1 <= rank * 60 + 6


async def test_failures_are_tried_again_less_and_less_often(autojump_clock: trio.testing.MockClock) -> None:
    """What can't be settled is the backlog, with its age; it is tried again with growing waits, until it works."""
    row = item(NOW_S)
    queue = Shards([0], {0: {row, item(NOW_S, "y")}}, away={row})
    expirer = expirer_of(queue, autojump_clock, interval_s=1.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(expirer.run)
        await trio.sleep(600)
        times = [at_s for at_s, tried in queue.attempts if tried == row]
        waits = [later - sooner for sooner, later in pairwise(times)]
        assert waits == sorted(waits)
        assert 6 <= len(waits) <= 10
        statistics = expirer.statistics()
        assert (statistics.backlog, statistics.deleted, statistics.failed) == (1, 1, len(times))
        assert 595 <= statistics.oldest_s <= 601
        queue.away.clear()
        await trio.sleep(301)
        assert queue.rows[0] == set()
        assert expirer.statistics().backlog == 0
        nursery.cancel_scope.cancel()


async def test_what_another_node_settled_is_no_backlog(autojump_clock: trio.testing.MockClock) -> None:
    """A row that failed here and is gone when it is looked for is forgotten."""
    row = item(NOW_S)
    queue = Shards([0], {0: {row}}, away={row})
    expirer = expirer_of(queue, autojump_clock)
    await expirer.look()
    assert expirer.statistics().backlog == 1
    queue.rows[0].clear()
    await expirer.look()
    assert expirer.statistics().backlog == 0


async def test_most_looks_begin_a_little_before_now(autojump_clock: trio.testing.MockClock) -> None:
    """The first look, and one every THOROUGH_S, begins at the beginning; one that can't read is made good."""
    queue = Shards([0])
    expirer = expirer_of(queue, autojump_clock)
    queue.unreadable = True
    await expirer.look()
    queue.unreadable = False
    for _ in range(3):
        await expirer.look()
        await trio.sleep(THOROUGH_S / 2)
    assert [start_s for _, start_s, _ in queue.asked] == [0, NOW_S + int(THOROUGH_S / 2) - LOOK_BACK_S, 0]


async def test_pause_and_rate(autojump_clock: trio.testing.MockClock) -> None:
    """While it is paused nothing is settled; the rate bounds how much is in a second."""
    queue = Shards([0], {0: {item(NOW_S, f"{number}") for number in range(100)}})
    expirer = expirer_of(queue, autojump_clock, interval_s=1.0, objects_per_s_max=10.0)
    expirer.pause()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(expirer.run)
        await trio.sleep(100)
        assert len(queue.rows[0]) == 100
        statistics = expirer.statistics()
        assert statistics.paused
        assert statistics.backlog == 100
        expirer.resume()
        await trio.sleep(5)
        assert 40 <= expirer.statistics().deleted <= 70
        expirer.pace.rate_per_s = 1000.0
        await trio.sleep(5)
        assert queue.rows[0] == set()
        nursery.cancel_scope.cancel()


async def test_early_rows_are_looked_at_again(autojump_clock: trio.testing.MockClock) -> None:
    """A row that it is too early for is no backlog, and is settled once it is not."""
    row = item(NOW_S)
    queue = Shards([0], {0: {row}}, early={row})
    expirer = expirer_of(queue, autojump_clock)
    await expirer.look()
    assert (expirer.statistics().early, expirer.statistics().backlog) == (1, 0)
    queue.early.clear()
    await expirer.look()
    assert queue.rows[0] == set()
