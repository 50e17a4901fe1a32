"""Two controllers on one real database, with claims in SQL: the whole life of servers in SQLite and in PostgreSQL."""

from __future__ import annotations

import pytest
import trio
from sqlalchemy import Engine
from trio.testing import MockClock

from scheduler.claims.sql import SqlClaims
from scheduler.lifecycle import (
    machine,
    mend,
    move_actions,
    operations,
    server_actions,
    tasks,
    volume_actions,
    volume_operations,
)
from scheduler.lifecycle.actions import Action
from scheduler.lifecycle.controller import Controller
from scheduler.lifecycle.tools import Job, LostLease
from scheduler.records.types import ServerRecord, TaskRecord, TaskState
from tests.scheduler.lifecycle.invariants import check_settled
from tests.scheduler.lifecycle.world import EPOCH_S, GIB, World


async def settle(world: World) -> None:
    """Until no task is open."""
    with trio.fail_after(3000):
        while any(task.state is TaskState.OPEN for task in world.records(TaskRecord)):
            await trio.sleep(0.5)


async def live(world: World) -> None:
    """Servers, a group, a volume, moves and deletions, with two whole controllers at work."""
    one, two = world.controller("one"), world.controller("two")
    async with trio.open_nursery() as nursery:
        for controller in (one, two):
            await nursery.start(controller.run)
        await trio.sleep(3)
        world.ask(lambda desk: operations.create_group(desk, "apart", "demo", "anti-affinity"))
        for number in range(3):
            world.create(f"s{number}", group="apart")
        world.create("plain", zone="z1")
        await settle(world)
        world.ask(lambda desk: volume_operations.create_volume(desk, "data", "demo", GIB, near="plain"))
        await settle(world)
        world.ask(lambda desk: volume_operations.attach_volume(desk, "data", "demo", "plain"))
        await settle(world)
        world.ask(lambda desk: operations.migrate_server(desk, "plain", "demo", [], "z2"))
        world.ask(lambda desk: operations.delete_server(desk, "s1", "demo"))
        await settle(world)
        await leave_a_host(world, one)
        nursery.cancel_scope.cancel()
    assert one.executor.statistics().defects == two.executor.statistics().defects == 0
    tools, _ = world.tools()
    assert await mend.compare(tools, pause_s=0.1) == []


async def leave_a_host(world: World, controller: Controller) -> None:
    """The host of the server that has the volume is emptied."""
    host = world.server("plain").host_id
    world.ask(lambda desk: desk.submit("drain", f"host:{host}", "demo", hosts=[host], any_zone=True))
    controller.executor.wake()
    await settle(world)
    assert world.server("plain").host_id != host


def test_two_controllers_share_a_database(engine: Engine) -> None:
    """What is asked is done once, by whichever of the two, and everything is in its place afterwards."""
    world = World(hosts=3, engine=engine, claims=SqlClaims(engine, lambda: EPOCH_S))
    trio.run(live, world, clock=MockClock(autojump_threshold=0))
    servers = world.records(ServerRecord)
    assert {server.name for server in servers} == {"s0", "s2", "plain"}
    assert world.server("plain").pool_id == world.volume("data").pool_id
    tasks = world.records(TaskRecord)
    assert all(task.state is TaskState.DONE for task in tasks), [task for task in tasks if task.error]
    check_settled(world)


def test_a_controller_that_was_stopped_lets_go_of_nothing(engine: Engine) -> None:
    """One that wakes after another has taken its task up changes no claim, however late it finds out."""
    world = World(engine=engine, claims=SqlClaims(engine, lambda: EPOCH_S))
    trio.run(_overtaken, world, clock=MockClock(autojump_threshold=0.02))


def _taken_twice(world: World) -> tuple[TaskRecord, TaskRecord]:
    """The open task as a controller has it that was stopped, and as the one that took it up after that."""

    def take(owner: str, now_s: float) -> TaskRecord:
        with world.engine.begin() as connection:
            task = tasks.take(connection, owner, now_s, 20.0)
        assert task is not None
        return task

    stopped = take("stopped", EPOCH_S)
    later = take("later", EPOCH_S + 30.0)
    assert (later.id, later.fence) == (stopped.id, stopped.fence + 1)
    return stopped, later


async def _overtaken(world: World) -> None:
    server, _ = world.create("one")
    await (await world.hands()).run_until_idle()
    held = world.claims.of(server.id)
    assert held
    world.ask(lambda desk: operations.delete_server(desk, "one", "demo"))

    stopped, later = _taken_twice(world)
    tools, _ = world.tools()
    pool, host = world.server("one").pool_id, world.server("one").host_id
    places = {"pool": pool, "from_pool": pool, "from": host, "host": "another"}
    for action in (server_actions.release_server, move_actions.abort_move, move_actions.settle_move):
        with pytest.raises(LostLease):
            await action(Job(tools, tasks.with_data(stopped, places), lambda _: None))
        assert world.claims.of(server.id) == held
    await server_actions.release_server(Job(tools, later, lambda _: None))
    assert world.claims.of(server.id) == ()


def test_a_controller_that_was_stopped_claims_nothing(engine: Engine) -> None:
    """One that wakes after another has taken its task up claims no host and no byte, in whichever stage it was stopped."""
    world = World(engine=engine, claims=SqlClaims(engine, lambda: EPOCH_S))
    trio.run(_claiming_late, world, clock=MockClock(autojump_threshold=0.02))


async def _claiming_late(world: World) -> None:
    tools = (await world.hands())._tools

    async def only_the_later_may(action: Action, **data: object) -> None:
        stopped, later = _taken_twice(world)
        before = list(world.claims.all())
        with pytest.raises(LostLease):
            await action(Job(tools, tasks.with_data(stopped, data), lambda _: None))
        assert list(world.claims.all()) == before
        await action(Job(tools, tasks.with_data(later, data), lambda _: None))
        assert list(world.claims.all()) != before
        with world.engine.begin() as connection:
            assert tasks.carry_on(connection, later, machine.cancel(later, EPOCH_S), keep_until_s=0.0)

    server, _ = world.create("one")
    await only_the_later_may(server_actions.claim_server)
    world.ask(lambda desk: desk.submit("migrate", server.id, "demo"))
    await only_the_later_may(move_actions.claim_target)
    world.ask(lambda desk: volume_operations.create_volume(desk, "data", "demo", GIB))
    await only_the_later_may(volume_actions.claim_volume)
    world.ask(lambda desk: volume_operations.create_volume(desk, "more", "demo", GIB))
    await (await world.hands()).run_until_idle()
    world.ask(lambda desk: volume_operations.extend_volume(desk, "more", "demo", 2 * GIB))
    await only_the_later_may(volume_actions.extend_volume, size_bytes=2 * GIB)
