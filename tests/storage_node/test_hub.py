"""The hub's clock: it ticks for those who want it, and rests while nobody does."""

from __future__ import annotations

from itertools import pairwise

import trio
from trio.testing import MockClock

from storage_node.hub import TICK_S, EpollHub


async def test_a_hub_rests_while_nobody_wants_to_be_called(autojump_clock: MockClock) -> None:
    """A device's process, which has no calls of its own to time, wakes about once a second and not twenty times."""
    hub = EpollHub()
    async with trio.open_nursery() as nursery:
        await nursery.start(hub.run)
        await trio.sleep(60)
        assert 0 < hub.ticks <= 60
        nursery.cancel_scope.cancel()
    hub.close()


async def test_a_hub_ticks_from_the_moment_it_is_wanted(autojump_clock: MockClock) -> None:
    """Whoever asks to be called is, first after one tick and then at every other, however long the hub rested."""
    hub = EpollHub()
    called_s: list[float] = []

    def call() -> None:
        called_s.append(round(trio.current_time() - began_s, 3))

    async with trio.open_nursery() as nursery:
        await nursery.start(hub.run)
        for rested_s in (0.0, 10.3, 7.77):
            await trio.sleep(rested_s)
            called_s.clear()
            began_s = trio.current_time()
            ticks = hub.ticks
            hub.add_tick(call)
            await trio.sleep(10.5 * TICK_S)
            hub.remove_tick(call)
            assert len(called_s) in (9, 10, 11)
            assert called_s[0] <= TICK_S + 0.001
            assert hub.ticks - ticks == len(called_s)
            assert all(later - earlier <= TICK_S + 0.002 for earlier, later in pairwise(called_s))
        nursery.cancel_scope.cancel()
    hub.close()
