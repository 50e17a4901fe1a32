"""The reconciler: each difference is found, mended as it says, and nothing else is touched."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from scheduler.claims.claim import Batch, Claim, DiskShare, HostShare
from scheduler.hypervisor import PowerState
from scheduler.lifecycle import mend, volume_operations
from scheduler.lifecycle.reconcile import Difference, Kind
from scheduler.records import store
from scheduler.records.types import ServerRecord, ServerState, VolumeRecord
from tests.scheduler.lifecycle.invariants import check_settled
from tests.scheduler.lifecycle.world import GIB, World


async def a_world() -> World:
    """A running server with a volume attached, and what others have in the pools."""
    world = World(hosts=2)
    hands = await world.hands()
    world.create("first")
    await hands.run_until_idle()
    world.ask(lambda desk: volume_operations.create_volume(desk, "data", "demo", GIB))
    await hands.run_until_idle()
    return world


def vm_of(world: World, name: str = "first") -> tuple[str, str]:
    """Pool and uuid of a server's VM."""
    server = world.server(name)
    return next(
        (pool.uuid, vm.uuid) for pool in world.pools.values() for vm in pool.vms.values() if vm.server_id == server.id
    )


def vm_without_server(world: World) -> None:
    """The record is gone, the VM, its disk and its claim are there."""
    with world.engine.begin() as connection:
        store.remove(connection, ServerRecord, world.server("first").id)


def server_without_vm(world: World) -> None:
    """Somebody destroyed the VM with its disk."""
    pool, uuid = vm_of(world)
    for attached in world.pools[pool].vms.pop(uuid).disks:
        del world.pools[pool].disks[attached.disk]


def twin(world: World) -> None:
    """A second, halted VM with the same mark."""
    pool, uuid = vm_of(world)
    vm = world.pools[pool].vms[uuid]
    world.pools[pool].vms["twin"] = replace(vm, uuid="twin", power=PowerState.HALTED, host="", disks=())


def leftover(world: World) -> None:
    """What a broken build left: an unfinished VM with an unfinished disk."""
    pool, uuid = vm_of(world)
    vm = world.pools[pool].vms[uuid]
    disk = replace(world.pools[pool].disks[vm.disks[0].disk], uuid="left", unfinished=True)
    world.pools[pool].disks["left"] = disk
    attached = (replace(vm.disks[0], disk="left"),)
    world.pools[pool].vms["left"] = replace(
        vm, uuid="left", power=PowerState.HALTED, host="", unfinished=True, disks=attached
    )


def moved(world: World) -> None:
    """Somebody migrated the VM with another tool, disks and all."""
    pool, uuid = vm_of(world)
    vm = world.pools[pool].vms[uuid]
    other = next(host for host in world.pools[pool].hosts if host != vm.host)
    disk = world.pools[pool].disks[vm.disks[0].disk]
    world.pools[pool].disks[disk.uuid] = replace(disk, sr=f"{other}-local")
    world.pools[pool].vms[uuid] = replace(vm, host=other)


def power(world: World) -> None:
    """The guest shut itself down."""
    pool, uuid = vm_of(world)
    world.pools[pool].vms[uuid] = replace(world.pools[pool].vms[uuid], power=PowerState.HALTED, host="")


def claim_without_owner(world: World) -> None:
    """A claim of somebody that does not exist."""
    share = HostShare("p1h1", 100, 1)
    claim = Claim("nobody", "demo", share, (DiskShare("nothing", "p1-shared", 5),))
    world.claims.commit(Batch("stray", (claim,)))


def server_without_claim(world: World) -> None:
    """Its claim was lost."""
    world.claims.release([world.server("first").id])


def disk_without_volume(world: World) -> None:
    """The volume's record is gone, its disk and claim are there."""
    with world.engine.begin() as connection:
        store.remove(connection, VolumeRecord, world.volume("data").id)


def volume_without_disk(world: World) -> None:
    """Somebody deleted the volume's disk."""
    volume = world.volume("data")
    pool = world.pools[volume.pool_id]
    pool.disks = {uuid: disk for uuid, disk in pool.disks.items() if disk.disk_id != volume.id}


def volume_without_claim(world: World) -> None:
    """The volume's claim was lost."""
    world.claims.release([world.volume("data").id])


def attachment(world: World) -> None:
    """The record says that the volume is in a server, and it is in none."""
    with world.engine.begin() as connection:
        store.change(connection, VolumeRecord, world.volume("data").id, server_id=world.server("first").id)


CASES: dict[Callable[[World], None], set[Kind]] = {
    vm_without_server: {Kind.VM_WITHOUT_SERVER, Kind.CLAIM_WITHOUT_OWNER},
    server_without_vm: {Kind.SERVER_WITHOUT_VM},
    twin: {Kind.TWIN_VM},
    leftover: {Kind.UNFINISHED},
    moved: {Kind.MOVED},
    power: {Kind.POWER},
    claim_without_owner: {Kind.CLAIM_WITHOUT_OWNER},
    server_without_claim: {Kind.SERVER_WITHOUT_CLAIM},
    disk_without_volume: {Kind.DISK_WITHOUT_VOLUME, Kind.CLAIM_WITHOUT_OWNER},
    volume_without_disk: {Kind.VOLUME_WITHOUT_DISK},
    volume_without_claim: {Kind.VOLUME_WITHOUT_CLAIM},
    attachment: {Kind.ATTACHMENT},
}


def in_mock_time(work: Callable[[], Awaitable[None]]) -> None:
    """Run it on a clock that jumps."""
    trio.run(work, clock=MockClock(autojump_threshold=0))


def foreign(world: World) -> None:
    """What is not ours, looking as much like ours as it may: unfinished, halted, on our SRs."""
    pool, uuid = vm_of(world)
    vm = world.pools[pool].vms[uuid]
    disk = replace(
        world.pools[pool].disks[vm.disks[0].disk], uuid="theirs-disk", disk_id="", server_id="", unfinished=True
    )
    world.pools[pool].disks["theirs-disk"] = disk
    world.pools[pool].vms["theirs"] = replace(
        vm, uuid="theirs", server_id="", power=PowerState.HALTED, host="", unfinished=True, disks=()
    )


async def mend_all(world: World) -> list[Difference]:
    """Compare and mend, as `reconcile --fix` does; what was found the first time."""
    tools, _ = world.tools()
    found = await mend.compare(tools, pause_s=0.1)
    results = await mend.mend(tools, found)
    assert [obstacle for _, obstacle in results if obstacle] == []
    for _ in range(2):  # what one remedy uncovers, the next round mends
        await mend.mend(tools, await mend.compare(tools, pause_s=0.1))
    assert await mend.compare(tools, pause_s=0.1) == []
    return found


@pytest.mark.parametrize("break_it", CASES, ids=lambda case: case.__name__)
def test_each_difference_is_found_and_mended(break_it: Callable[[World], None]) -> None:
    """It is reported as what it is; after --fix nothing is left to report, and what is not ours is as it was."""

    async def work() -> None:
        world = await a_world()
        foreign(world)
        break_it(world)
        before = [(pool.vms.get("theirs"), pool.disks.get("theirs-disk")) for pool in world.pools.values()]
        assert {difference.kind for difference in await mend_all(world)} == CASES[break_it]
        assert [(p.vms.get("theirs"), p.disks.get("theirs-disk")) for p in world.pools.values()] == before
        if break_it not in (server_without_vm, volume_without_disk):
            check_settled(world)

    in_mock_time(work)


def test_what_is_in_order_is_not_reported() -> None:
    """A cloud at rest has no difference, with or without things of others in its pools."""

    async def work() -> None:
        world = await a_world()
        foreign(world)
        tools, _ = world.tools()
        assert await mend.compare(tools, pause_s=0.1) == []

    in_mock_time(work)


def test_a_silent_pool_proves_nothing() -> None:
    """While a pool does not answer, nothing of what it holds is called lost, and no claim on it is released."""

    async def work() -> None:
        world = await a_world()
        tools, _ = world.tools()
        await mend.compare(tools, pause_s=0.1)
        for pool in world.pools.values():
            pool.reachable = False
        claims = list(world.claims.all())
        assert await mend.compare(tools, pause_s=0.1) == []
        assert list(world.claims.all()) == claims
        assert world.server("first").state is ServerState.ACTIVE

    in_mock_time(work)


def test_what_is_at_work_is_left_alone() -> None:
    """A server that a task is about is none of the reconciler's business, whatever it looks like."""

    async def work() -> None:
        world = await a_world()
        leftover(world)
        world.ask(lambda desk: desk.submit("power", world.server("first").id, "demo", action="REBOOT"))
        tools, _ = world.tools()
        assert await mend.compare(tools, pause_s=0.1) == []

    in_mock_time(work)
