"""What goes wrong is written down beside what it went wrong with, and no longer than it is so."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from scheduler.hypervisor import Refused
from scheduler.lifecycle import operations, volume_operations
from scheduler.records.types import TaskState
from tests.scheduler.lifecycle.world import GIB, World, work_until_closed


def test_a_volume_says_what_failed() -> None:
    """Extending, snapshotting and deleting: the volume has the reason, and loses it with the next success."""
    broken: set[str] = set()

    async def step(verb: str, name: str, subject: str) -> None:
        if verb in broken:
            raise Refused(f"the SR will not {verb}")

    async def history() -> None:
        world = World(step=step)
        executor = await world.hands()
        world.ask(lambda desk: volume_operations.create_volume(desk, "data", "demo", GIB))
        await executor.run_until_idle()
        for verb, ask in (
            ("resize_disk", lambda desk: volume_operations.extend_volume(desk, "data", "demo", 2 * GIB)),
            ("snapshot_disk", lambda desk: volume_operations.snapshot_volume(desk, "data", "demo", "monday")),
        ):
            broken.add(verb)
            world.ask(ask)
            await executor.run_until_idle()
            assert f"the SR will not {verb}" in world.volume("data").fault
            assert world.volume("data").state.value == "available"
            broken.clear()
            world.ask(ask)
            await executor.run_until_idle()
            assert world.volume("data").fault == ""
        broken.add("delete_disk")
        _, task = world.ask(lambda desk: volume_operations.delete_volume(desk, "data", "demo"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(executor.run)
            with trio.fail_after(600):
                while "the SR will not delete_disk" not in world.volume("data").fault:
                    await trio.sleep(0.5)
            nursery.cancel_scope.cancel()
        broken.clear()
        assert (await work_until_closed(executor, world, task)).state is TaskState.DONE

    trio.run(history, clock=MockClock(autojump_threshold=0))


def test_a_server_says_what_failed() -> None:
    """A snapshot that is refused is the server's fault until something works again."""
    broken = {"snapshot_server"}

    async def step(verb: str, name: str, subject: str) -> None:
        if verb in broken:
            raise Refused("no room for a snapshot")

    async def history() -> None:
        world = World(step=step)
        executor = await world.hands()
        world.create("web")
        await executor.run_until_idle()
        world.ask(lambda desk: operations.snapshot_server(desk, "web", "demo", "monday"))
        await executor.run_until_idle()
        assert "no room for a snapshot" in world.server("web").fault
        assert world.server("web").state.value == "active"
        broken.clear()
        world.ask(lambda desk: operations.snapshot_server(desk, "web", "demo", "monday"))
        await executor.run_until_idle()
        assert world.server("web").fault == ""

    trio.run(history, clock=MockClock(autojump_threshold=0))
