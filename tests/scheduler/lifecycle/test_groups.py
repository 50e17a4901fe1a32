"""Hard affinity groups move together or not at all."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from scheduler.claims.claim import Batch, Role
from scheduler.errors import RequestError
from scheduler.hypervisor import MigrationFailed
from scheduler.lifecycle import operations
from scheduler.records.types import ServerRecord, TaskRecord, TaskState
from tests.scheduler.lifecycle.invariants import check_settled
from tests.scheduler.lifecycle.world import World, work_until_closed


async def three_together(world: World) -> str:
    """Three servers of an affinity group, started; the host that they share."""
    world.ask(lambda desk: operations.create_group(desk, "crew", "demo", "affinity"))
    for name in "abc":
        world.create(name, group="crew", zone="z1")
    await (await world.hands()).run_until_idle()
    (host,) = {server.host_id for server in world.records(ServerRecord)}
    return host


def drain(world: World, host: str) -> TaskRecord:
    """The task that empties a host."""
    return world.ask(lambda desk: desk.submit("drain", f"host:{host}", "demo", hosts=[host], any_zone=True))


def test_a_group_leaves_a_host_as_one() -> None:
    """All three are on one other host when theirs is emptied, and at no moment was one claimed apart from the others."""
    split: list[set[str]] = []

    async def history() -> World:
        world = World(hosts=3)
        host = await three_together(world)

        async def look(verb: str, step: str, subject: str) -> None:
            targets = {
                claim.host.host_id for claim in world.claims.all() if claim.host and claim.role.value == "target"
            }
            if len(targets) > 1:
                split.append(targets)

        task = await work_until_closed(await world.hands(step=look), world, drain(world, host))
        assert (task.state, task.error) == (TaskState.DONE, "")
        assert task.data["moved"] == 3
        (new,) = {server.host_id for server in world.records(ServerRecord)}
        assert new != host
        return world

    check_settled(trio.run(history, clock=MockClock(autojump_threshold=0)))
    assert not split


def test_a_group_that_is_too_large_for_any_host_is_named() -> None:
    """No host has room for all: nothing moves, and the reason is the group's size, for each of its servers."""

    async def history() -> World:
        world = World(hosts=2, zones=1, memory_gib=2)
        host = await three_together(world)
        world.create("elsewhere", different_host_from=["a"])
        await (await world.hands()).run_until_idle()
        task = await work_until_closed(await world.hands(), world, drain(world, host))
        assert task.state is TaskState.FAILED
        assert "3 servers cannot move" in task.error
        assert "no host" in task.error
        assert {world.server(name).host_id for name in "abc"} == {host}
        return world

    check_settled(trio.run(history, clock=MockClock(autojump_threshold=0)))


def test_a_member_that_fails_to_move_is_named_and_nothing_is_left_claimed() -> None:
    """A pool that moves one member not: the others arrive, it stays with the reason, and no target is left."""
    unlucky: list[str] = []

    async def refuse(verb: str, step: str, subject: str) -> None:
        if verb == "migrate" and subject in unlucky:
            raise MigrationFailed("the guest will not")

    async def history() -> World:
        world = World(hosts=3)
        host = await three_together(world)
        unlucky.append(world.server("b").id)
        task = await work_until_closed(await world.hands(step=refuse), world, drain(world, host))
        assert task.state is TaskState.FAILED
        assert "the guest will not" in task.error
        assert world.server("b").host_id == host
        return world

    check_settled(trio.run(history, clock=MockClock(autojump_threshold=0)))


def test_targets_of_a_controller_that_died_are_let_go() -> None:
    """Another plan had claimed for them and was never carried out: the host is emptied all the same."""

    async def history() -> World:
        world = World(hosts=3)
        host = await three_together(world)
        elsewhere = next(name for name in ("p2h1", "p2h2", "p2h3") if name != host)
        held = [world.claims.of(world.server(name).id)[0] for name in "abc"]
        targets = tuple(
            replace(claim, host=replace(claim.host, host_id=elsewhere), disks=(), role=Role.TARGET)
            for claim in held
            if claim.host is not None
        )
        world.claims.commit(Batch("a plan that nobody remembers", targets))
        task = await work_until_closed(await world.hands(), world, drain(world, host))
        assert (task.state, task.error) == (TaskState.DONE, "")
        assert {world.server(name).host_id for name in "abc"} != {host}
        return world

    check_settled(trio.run(history, clock=MockClock(autojump_threshold=0)))


def test_one_member_is_not_moved_alone() -> None:
    """`server migrate` of one member is refused at once, and says with whom it must stay and what would move them."""

    async def history() -> World:
        world = World(hosts=3)
        await three_together(world)
        with pytest.raises(RequestError, match=r"share its host with b, c \(affinity group crew\).*host evacuate"):
            world.ask(lambda desk: operations.migrate_server(desk, "a", "demo", [], ""))
        return world

    check_settled(trio.run(history, clock=MockClock(autojump_threshold=0)))
