"""Hosts as an operator turns them on and off, on a cloud in memory."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from ringstead.services.controller.pool_desk import CloudDesk
from scheduler.hypervisor import Hypervisor
from scheduler.records.secrets import PoolSecrets
from scheduler.records.types import PoolRecord, TaskState
from tests.scheduler.lifecycle.world import World


def unused(record: PoolRecord, password: str) -> Hypervisor:
    """No pool is added here."""
    raise AssertionError(record, password)


async def _called_off() -> None:
    go_on = trio.Event()

    async def wait(verb: str, step: str, subject: str) -> None:
        if verb == "migrate":
            await go_on.wait()

    world = World(step=wait)
    controller = world.controller()
    desk = CloudDesk(controller, PoolSecrets(bytes(32)), unused)
    async with trio.open_nursery() as nursery:
        await nursery.start(controller.run)
        await trio.sleep(3)
        world.create("one", zone="z1")
        await trio.sleep(5)
        for empty, enable, name in (
            (desk.host_evacuate, desk.host_enable, world.server("one").host_id),
            (desk.zone_drain, desk.zone_enable, "z1"),
        ):
            task = (await empty({"name": name}))["task"]
            await trio.sleep(5)
            assert world.task(task).state is TaskState.OPEN
            await enable({"name": name})
            with trio.fail_after(60):
                while world.task(task).state is TaskState.OPEN:
                    await trio.sleep(1)
            assert (world.task(task).state, world.task(task).error) == (TaskState.FAILED, "cancelled")
            go_on.set()
            await trio.sleep(10)
            go_on = trio.Event()
        nursery.cancel_scope.cancel()


def test_enabling_calls_the_emptying_off() -> None:
    """A host or zone that is enabled while it is being emptied is not emptied any further."""
    trio.run(_called_off, clock=MockClock(autojump_threshold=0))


async def _listed() -> None:
    world = World()
    controller = world.controller()
    operations = CloudDesk(controller, PoolSecrets(bytes(32)), unused).operations()
    async with trio.open_nursery() as nursery:
        await nursery.start(controller.run)
        await trio.sleep(5)
        short, full = [(await operations["host.list"]({"zone": zone}))["hosts"] for zone in ("z2", "r1z2")]
        assert short == full
        assert {host["zone"] for host in short} == {"r1z2"}
        assert len((await operations["host.list"]({}))["hosts"]) > len(short)
        assert "there are r1z1, r1z2" in (await operations["host.list"]({"zone": "z9"}))["error"]
        nursery.cancel_scope.cancel()


def test_hosts_of_a_zone() -> None:
    """A zone may be written with its region or without; one that is not there is refused."""
    trio.run(_listed, clock=MockClock(autojump_threshold=0))


async def _shared() -> None:
    world = World()
    controller = world.controller()
    controller.refresher.vcpu_ratio = 1.5
    operations = CloudDesk(controller, PoolSecrets(bytes(32)), unused).operations()

    async def limits() -> dict[str, int]:
        return {host["name"]: host["vcpu_limit"] for host in (await operations["host.list"]({}))["hosts"]}

    async with trio.open_nursery() as nursery:
        await nursery.start(controller.run)
        await trio.sleep(5)
        usual = await limits()
        name = min(usual)
        assert set(usual.values()) == {6}  # of four processors
        await operations["host.set"]({"name": name, "vcpu_ratio": 3.0})
        assert await limits() == {**usual, name: 12}
        assert {each.limit.vcpus for each in world.claims.usage()[0]} == {6, 12}
        for bad in (-1.0, 0.01, 65.0, float("nan")):
            assert "is outside 0.1..64" in (await operations["host.set"]({"name": name, "vcpu_ratio": bad}))["error"]
        await operations["host.set"]({"name": name, "vcpu_ratio": 0})
        assert await limits() == usual
        nursery.cancel_scope.cancel()


def test_processors_are_shared_as_the_settings_and_the_host_say() -> None:
    """The ratio of the settings holds for hosts without one of their own, also when that is taken back."""
    trio.run(_shared, clock=MockClock(autojump_threshold=0))
