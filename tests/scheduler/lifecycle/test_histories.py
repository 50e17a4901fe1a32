"""Random histories: creates, deletes, moves, failures, deaths of controllers, two controllers at once.

Hypothesis draws the history and where it goes wrong; two controllers work at the same time on the same database and the same
pools, and now and then one of them dies in the middle of something and a new one comes. At every step no host or SR is over
its limit, no two members of an anti-affinity group share a host, and no server runs twice. Then the faults end, hosts come
back, what was asked is finished, and the reconciler mends what it finds: after that everything is as it is recorded.
"""

from __future__ import annotations

import contextlib
import random
from dataclasses import dataclass, replace

import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from scheduler.errors import SchedulerError
from scheduler.hypervisor import MigrationFailed, NextHost, PowerAction, TryAgain, Unreachable
from scheduler.lifecycle import mend, operations, volume_operations
from scheduler.records.types import ServerRecord, TaskRecord, TaskState
from tests.scheduler.lifecycle.invariants import check_always, check_settled
from tests.scheduler.lifecycle.world import GIB, Step, World

LEASE_S = 6.0
NAMES = ("a", "b", "c", "d", "e", "f")


@dataclass(frozen=True)
class Request:
    """Something that an operator asks, and how long after it the next thing comes."""

    what: str
    name: str
    pause_s: float


@dataclass(frozen=True)
class History:
    """What is asked, and how ill-fated it is: the share of steps that fail, and of those that kill a controller."""

    requests: list[Request]
    seed: int
    fail_share: float
    death_share: float


WHAT = (
    "create",
    "create-apart",
    "create-together",
    "delete",
    "migrate",
    "stop",
    "start",
    "volume",
    "attach",
    "detach",
    "extend",
    "drain",
    "kill-host",
)
HISTORIES = st.builds(
    History,
    st.lists(
        st.builds(Request, st.sampled_from(WHAT), st.sampled_from(NAMES), st.sampled_from((0.0, 0.3, 2.0, 10.0))),
        min_size=4,
        max_size=14,
    ),
    st.integers(0, 1 << 32),
    st.sampled_from((0.0, 0.03, 0.15)),
    st.sampled_from((0.0, 0.01, 0.03)),
)


class Fate:
    """Decides at each step whether it fails, or kills the controller that takes it."""

    def __init__(self, world: World, history: History) -> None:
        self._world = world
        self._random = random.Random(history.seed)
        self.fail_share = history.fail_share
        self.death_share = history.death_share

    def of(self, scope: trio.CancelScope) -> Step:
        """The steps of one controller, whose life `scope` is."""

        async def step(verb: str, name: str, subject: str) -> None:
            check_always(self._world)
            if self._random.random() < self.death_share:
                scope.cancel()
            if verb != "database" and self._random.random() < self.fail_share:
                await trio.lowlevel.checkpoint()
                lost = name == "answer"
                kinds = [Unreachable] if lost else [TryAgain, NextHost, MigrationFailed, Unreachable]
                raise self._random.choice(kinds)(f"made to fail at {verb}, {name}")
            await trio.sleep(self._random.choice((0.0, 0.0, 0.1, 1.0)))

        return step


async def keep_controller(world: World, fate: Fate, name: str) -> None:
    """A controller, and after its death another one of another name, and so on."""
    for life in range(10_000):
        scope = trio.CancelScope()
        with scope:
            await world.controller(f"{name}{life}", fate.of(scope), LEASE_S).run()
        await trio.sleep(0.5)


def ask(world: World, request: Request) -> None:
    """Carry out one request; one that makes no sense now is refused, which is right."""
    name = request.name
    with contextlib.suppress(SchedulerError):
        match request.what:
            case "create":
                world.create(name)
            case "create-apart":
                world.create(name, group="apart")
            case "create-together":
                world.create(name, group="together")
            case "delete":
                world.ask(lambda desk: operations.delete_server(desk, name, "demo"))
            case "migrate":
                world.ask(lambda desk: operations.migrate_server(desk, name, "demo", [], ""))
            case "stop":
                world.ask(lambda desk: operations.power(desk, name, "demo", PowerAction.SHUT_DOWN))
            case "start":
                world.ask(lambda desk: operations.power(desk, name, "demo", PowerAction.START))
            case "volume":
                world.ask(lambda desk: volume_operations.create_volume(desk, name, "demo", GIB))
            case "attach":
                world.ask(lambda desk: volume_operations.attach_volume(desk, name, "demo", name))
            case "detach":
                world.ask(lambda desk: volume_operations.detach_volume(desk, name, "demo"))
            case "extend":
                world.ask(lambda desk: volume_operations.extend_volume(desk, name, "demo", 2 * GIB))
            case "drain":
                world.ask(lambda desk: desk.submit("drain", "host:p1h1", "demo", hosts=["p1h1"]))
            case "kill-host":
                world.pools["p1"].kill_host("p1h2")


async def live(history: History) -> World:
    """The history, and the healing after it."""
    world = World(hosts=2, memory_gib=2, sr_gib=6)
    world.ask(lambda desk: operations.create_group(desk, "apart", "demo", "anti-affinity"))
    world.ask(lambda desk: operations.create_group(desk, "together", "demo", "affinity"))
    fate = Fate(world, history)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_controller, world, fate, "one")
        nursery.start_soon(keep_controller, world, fate, "two")
        for request in history.requests:
            ask(world, request)
            await trio.sleep(request.pause_s)
        fate.fail_share = fate.death_share = 0.0
        heal(world)
        with trio.fail_after(5000):
            while any(task.state is TaskState.OPEN for task in world.records(TaskRecord)):
                await trio.sleep(1.0)
        nursery.cancel_scope.cancel()
    tools, _ = world.tools()
    for _ in range(3):
        found = await mend.compare(tools, pause_s=0.1)
        if not found:
            break
        await mend.mend(tools, found)
    world.left = [difference.text for difference in await mend.compare(tools, pause_s=0.1)]
    return world


def heal(world: World) -> None:
    """Hosts that died come back, with their SRs."""
    pool = world.pools["p1"]
    for host in pool.hosts.values():
        if not host.live:
            pool.hosts[host.uuid] = replace(host, live=True)
            for sr in pool.srs.values():
                if sr.shared or sr.uuid == f"{host.uuid}-local":
                    pool.srs[sr.uuid] = replace(sr, hosts=sr.hosts | {host.uuid})


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(HISTORIES)
def test_any_history_ends_with_everything_in_its_place(history: History) -> None:
    """Whatever is asked and whatever goes wrong, nothing is double-booked, and in the end nothing is forgotten."""
    world = trio.run(live, history, clock=MockClock(autojump_threshold=0))
    assert world.left == []
    check_settled(world)
    assert all(pool.overruns == 0 for pool in world.pools.values()), "a pool was asked for more than it has"


def test_a_history_does_something() -> None:
    """The test above is not one of empty clouds: a plain history makes servers that run."""
    history = History([Request("create", name, 0.3) for name in NAMES], 7, 0.03, 0.01)
    world = trio.run(live, history, clock=MockClock(autojump_threshold=0))
    assert len([server for server in world.records(ServerRecord) if server.state.value == "active"]) >= 4
