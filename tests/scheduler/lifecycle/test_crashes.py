"""A controller dies at every step of every kind of work, and another one finishes it: nothing twice, nothing left.

The steps are those between any two changes of a pool and around every transaction. A run without faults counts them; then
each is tried in turn. The reconciler takes no part: the state machine alone must be right.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

from scheduler.hypervisor import (
    HypervisorError,
    MigrationFailed,
    NextHost,
    PowerAction,
    Refused,
    TryAgain,
    Unreachable,
)
from scheduler.lifecycle import operations, volume_operations
from scheduler.records.types import TaskRecord, TaskState
from tests.scheduler.lifecycle.invariants import check_always, check_settled
from tests.scheduler.lifecycle.world import GIB, World

LEASE_S = 8.0
Scenario = Callable[[World], list[TaskRecord]]


def build(world: World) -> list[TaskRecord]:
    """A server."""
    return [world.create("one")[1]]


def remove(world: World) -> list[TaskRecord]:
    """A server deleted."""
    return [world.ask(lambda desk: operations.delete_server(desk, "first", "demo"))[1]]


def move(world: World) -> list[TaskRecord]:
    """A server with its volume, to the other pool."""
    away = "r1z2" if world.server("first").pool_id == "p1" else "r1z1"
    return [world.ask(lambda desk: operations.migrate_server(desk, "first", "demo", [], away))[1]]


def evacuate(world: World) -> list[TaskRecord]:
    """A server whose host has died."""
    server = world.server("first")
    world.pools[server.pool_id].kill_host(server.host_id)
    return [world.ask(lambda desk: desk.submit("evacuate", server.id, "demo", copy_disks=False))]


def volume(world: World) -> list[TaskRecord]:
    """A volume."""
    return [world.ask(lambda desk: volume_operations.create_volume(desk, "more", "demo", GIB))[1]]


def small_things(world: World) -> list[TaskRecord]:
    """What takes one stage, one after the other: a detachment, a snapshot, a restart, and the image of a disk."""
    name = ("first", "demo")
    return [
        world.ask(lambda desk: volume_operations.detach_volume(desk, "data", "demo"))[1],
        world.ask(lambda desk: operations.snapshot_server(desk, *name, "before"))[1],
        world.ask(lambda desk: desk.submit("power", world.ids["first"], "demo", action=PowerAction.REBOOT.name)),
        world.ask(
            lambda desk: desk.submit(
                "capture", world.ids["first"], "demo", image=world.ids["image"], object="x", frozen="f1", format="vhd"
            )
        ),
    ]


SCENARIOS: dict[str, Scenario] = {each.__name__: each for each in (build, remove, move, evacuate, volume, small_things)}


class Faults:
    """Counts steps, and makes one of them fail or kill the controller."""

    def __init__(self, at: int = -1, error: type[HypervisorError] | None = None) -> None:
        self.count = 0
        self.names: list[tuple[str, str]] = []
        self._at = at
        self._error = error
        self.scope = trio.CancelScope()
        self.struck = False

    async def __call__(self, verb: str, step: str, subject: str) -> None:
        """A step."""
        number = self.count
        self.count += 1
        self.names.append((verb, step))
        if number == self._at and not self.struck:
            if self._error is None:
                self.struck = True
                self.scope.cancel()
            elif verb != "database":
                self.struck = True
                raise self._error(f"made to fail at {verb}, {step}", "TEST")
        await trio.lowlevel.checkpoint()


async def a_world(*, with_volume: bool) -> World:
    """A cloud with a running server that has a volume (on a local SR), and an image to be saved."""
    world = World(hosts=3)
    hands = await world.hands("setup")
    world.create("first")
    await hands.run_until_idle()
    if with_volume:
        world.ask(lambda desk: volume_operations.create_volume(desk, "data", "demo", GIB, near="first"))
        await hands.run_until_idle()
        world.ask(lambda desk: volume_operations.attach_volume(desk, "data", "demo", "first"))
        await hands.run_until_idle()
    image = world.ask(lambda desk: volume_operations.register_image(desk, "saved", "vhd", 1, GIB, "x", "md5"))
    world.ids = {"first": world.server("first").id, "image": image.id}
    check_settled(world)
    return world


async def history(scenario: Scenario, faults: Faults) -> World:
    """A scenario with one fault, carried on by a second controller until all is done."""
    world = await a_world(with_volume=scenario is not evacuate)
    submitted = scenario(world)
    with faults.scope:
        hands = await world.hands("mortal", step=faults, lease_s=LEASE_S)
        await hands.run_until_idle()
        assert hands.statistics().defects == 0
    heir = await world.hands("heir", lease_s=LEASE_S)
    with trio.fail_after(600):
        while any(world.task(task.id).state is TaskState.OPEN for task in submitted):
            check_always(world)
            await heir.run_until_idle()
            await trio.sleep(1.0)
    assert heir.statistics().defects == 0
    return world


def in_mock_time(work: Callable[[], Awaitable[World]]) -> World:
    """Run it on a clock that jumps."""
    return trio.run(work, clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_a_controller_may_die_at_any_step(name: str) -> None:
    """Whatever step it dies at, the work ends as if it had not, with everything in its place."""
    counted = Faults()
    in_mock_time(lambda: history(SCENARIOS[name], counted))
    assert counted.count > 5
    for at in range(counted.count):
        faults = Faults(at)
        world = in_mock_time(lambda faults=faults: history(SCENARIOS[name], faults))  # type: ignore[misc]
        assert faults.struck
        check_settled(world)
        failed = [task.error for task in world.records(TaskRecord) if task.state is TaskState.FAILED]
        assert failed == [], f"died at step {at}: {failed}"


# One of each class: NextSr is obeyed as NextHost is, WrongState and Gone as Refused.
@pytest.mark.parametrize("error", [TryAgain, NextHost, Refused, Unreachable, MigrationFailed])
@pytest.mark.parametrize("name", ["build", "move", "volume", "evacuate"])
def test_a_failed_build_or_move_leaves_nothing(name: str, error: type[HypervisorError]) -> None:
    """Whatever error a pool gives at whatever step: the work succeeds after all or fails, and nothing is left of it."""
    counted = Faults()
    in_mock_time(lambda: history(SCENARIOS[name], counted))
    for at, (verb, step) in enumerate(counted.names):
        if verb == "database" or (step == "answer" and error is not Unreachable):
            continue  # after the effect only the news of it can be lost
        faults = Faults(at, error)
        world = in_mock_time(lambda faults=faults: history(SCENARIOS[name], faults))  # type: ignore[misc]
        assert faults.struck
        check_settled(world)


def test_a_move_that_arrived_after_all_is_settled() -> None:
    """A pool that says that a move failed when it did not: the server is found where it went, and its claim follows it."""
    counted = Faults()
    in_mock_time(lambda: history(move, counted))
    faults = Faults(counted.names.index(("migrate", "answer")), MigrationFailed)
    world = in_mock_time(lambda: history(move, faults))
    assert faults.struck
    check_settled(world)
    moved = [task for task in world.records(TaskRecord) if task.kind == "migrate"]
    assert [(task.state, task.stage, task.round) for task in moved] == [(TaskState.DONE, "settle", 0)]
    assert moved[0].data["reason"].startswith("made to fail")
