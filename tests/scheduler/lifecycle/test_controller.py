"""A controller keeps looking at its pools, whatever became of the first look, and waits for none that is silent."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from scheduler.hypervisor import Unreachable
from scheduler.records.types import TaskState
from tests.scheduler.lifecycle.invariants import check_settled
from tests.scheduler.lifecycle.world import World


def test_a_failed_first_look_is_made_good() -> None:
    """Neither pool answers when the controller begins: it looks again, and what is asked once they do answer is built."""
    away = {"p1", "p2"}

    async def step(verb: str, name: str, subject: str) -> None:
        if verb == "inventory" and away:
            raise Unreachable("nobody there")

    async def history() -> World:
        world = World(step=step)
        async with trio.open_nursery() as nursery:
            await nursery.start(world.controller().run)
            await trio.sleep(5)
            away.clear()
            await trio.sleep(5)
            _, task = world.create("web")
            with trio.fail_after(60):
                while world.task(task.id).state is TaskState.OPEN:
                    await trio.sleep(0.5)
            nursery.cancel_scope.cancel()
        assert world.server("web").state.value == "active"
        return world

    check_settled(trio.run(history, clock=MockClock(autojump_threshold=0)))


def test_a_silent_pool_holds_up_no_other() -> None:
    """While one pool's answers do not come, what changes in the other is seen within seconds, look after look."""
    silent: set[str] = set()

    async def step(verb: str, name: str, subject: str) -> None:
        if verb == "inventory" and subject in silent:
            await trio.sleep_forever()

    async def history() -> None:
        world = World(step=step)
        controller = world.controller()
        async with trio.open_nursery() as nursery:
            await nursery.start(controller.run)
            await trio.sleep(5)
            silent.add("p1")
            await trio.sleep(30)
            assert "no answer" in controller.tools.pools.links["p1"].problem
            for number in range(3):
                world.pools["p2"].add_host(f"new{number}", 4 << 30, 4)
                await trio.sleep(10)
                assert f"new{number}" in {host.host_id for host in controller.chooser.hosts()}
            nursery.cancel_scope.cancel()

    trio.run(history, clock=MockClock(autojump_threshold=0))
