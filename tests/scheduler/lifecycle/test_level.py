"""Load is levelled: in few moves, each server once, whatever may not move left alone, and an end when moves fail."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from scheduler.hypervisor import MigrationFailed
from scheduler.lifecycle import level_actions, operations
from scheduler.records.types import ServerRecord, TaskRecord, TaskState
from tests.scheduler.lifecycle.invariants import check_settled
from tests.scheduler.lifecycle.world import World, work_until_closed

HOSTS = ["p1h1", "p1h2", "p1h3"]


async def crowd(world: World) -> None:
    """Six servers on one host of three, one of them with a snapshot."""
    executor = await world.hands()
    for number in range(6):
        world.create(f"s{number}", zone="z1")
    await executor.run_until_idle()
    for server in world.records(ServerRecord):
        if server.host_id != "p1h1":
            world.ask(lambda desk, name=server.name: operations.migrate_server(desk, name, "demo", ["p1h1"], ""))  # type: ignore[misc]
    await executor.run_until_idle()
    world.ask(lambda desk: operations.snapshot_server(desk, "s0", "demo", "before"))
    await executor.run_until_idle()
    assert crowd_sizes(world) == {"p1h1": 6}


def crowd_sizes(world: World) -> dict[str, int]:
    """Host -> how many servers are on it."""
    hosts = [server.host_id for server in world.records(ServerRecord)]
    return {host: hosts.count(host) for host in hosts}


def level(world: World) -> TaskRecord:
    """The task."""
    return world.ask(lambda desk: desk.submit("level", "level", "demo", hosts=HOSTS))


def test_a_crowded_host_is_relieved() -> None:
    """The plan is shown without a move; carried out, no host is a tenth above the mean, and then there is no more to do."""

    async def history() -> World:
        world = World(hosts=3)
        await crowd(world)
        executor = await world.hands()
        plan = await level_actions.plan_moves(executor._tools, HOSTS)
        assert crowd_sizes(world) == {"p1h1": 6}
        assert len(plan.moves) == 4
        assert (await work_until_closed(executor, world, level(world))).state is TaskState.DONE
        assert crowd_sizes(world) == {"p1h1": 2, "p1h2": 2, "p1h3": 2}
        assert world.server("s0").host_id == "p1h1"
        assert (await level_actions.plan_moves(executor._tools, HOSTS)).moves == ()
        return world

    world = trio.run(history, clock=MockClock(autojump_threshold=0))
    moves = [task.subject for task in world.records(TaskRecord) if task.kind == "migrate"][-4:]
    assert len(set(moves)) == 4
    check_settled(world)


def test_moves_that_fail_are_told_and_not_repeated() -> None:
    """A pool that moves nothing: each server is asked once, the task fails with the reasons, all stays as it was."""

    async def refuse(verb: str, step: str, subject: str) -> None:
        if verb == "migrate":
            raise MigrationFailed("the guest will not")

    async def history() -> World:
        world = World(hosts=3)
        await crowd(world)
        before = len(world.records(TaskRecord))
        task = await work_until_closed(await world.hands(step=refuse), world, level(world))
        assert task.state is TaskState.FAILED
        assert "the guest will not" in task.error
        asked = [task.subject for task in world.records(TaskRecord)[before:] if task.kind == "migrate"]
        assert asked
        assert len(asked) == len(set(asked)) <= 5
        assert crowd_sizes(world) == {"p1h1": 6}
        return world

    check_settled(trio.run(history, clock=MockClock(autojump_threshold=0)))
