"""Servers on the move: by memory, with disks, to another pool; broken off, cancelled, crowded."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from scheduler.hypervisor import (
    DiskSpec,
    Gone,
    HypervisorError,
    Migration,
    MigrationFailed,
    NextHost,
    PoolInventory,
    PowerAction,
    PowerState,
    Refused,
    TryAgain,
    WrongState,
)
from scheduler.xen.driver import XenPool
from scheduler.xen.simulator.latency import Latencies
from tests.scheduler.xen.simulated import (
    MIB,
    Image,
    Simulation,
    content_of,
    driving,
    local_sr,
    server_spec,
    shared_sr,
    simulation,
)

SLOW = Latencies(factor=1.0, memory_bytes_per_s=120e6, copy_bytes_per_s=10e6, mirror_overhead_s=0.5)


async def running(
    pool: XenPool, inventory: PoolInventory, server_id: str = "s1", *, shared: bool = False, host: int = 0
) -> None:
    """A running server with content on its disk."""
    sr = shared_sr(inventory) if shared else local_sr(inventory, inventory.hosts[host])
    root = DiskSpec(f"{server_id}-root", "root", 16 * MIB, sr.uuid, Image(b"disk" * (2 * MIB)))
    await pool.create_server(server_spec(inventory, server_id, root=root, host=host), inventory.hosts[host].uuid)
    await pool.power(server_id, PowerAction.START, inventory.hosts[host].uuid)


async def test_by_memory(sim: Simulation, pool: XenPool) -> None:
    """Between hosts that reach the disks; again is content; the VM runs all the time."""
    inventory = await pool.inventory()
    await running(pool, inventory, shared=True)
    there = inventory.hosts[1].uuid
    seen: list[float] = []
    await pool.migrate("s1", Migration(there), seen.append)
    await pool.migrate("s1", Migration(there))
    found = await pool.find_server("s1")
    assert found is not None
    assert (found.host, found.power) == (there, PowerState.RUNNING)
    assert seen[-1] == 1.0


async def test_with_disks_in_the_pool(sim: Simulation, pool: XenPool) -> None:
    """Between hosts that share nothing: the disk comes along, its bytes and its id too; the old one is gone."""
    inventory = await pool.inventory()
    await running(pool, inventory)
    await pool.create_disk(DiskSpec("v1", "volume", 8 * MIB, shared_sr(inventory).uuid))
    await pool.attach_disk("s1", "v1")
    here, there = inventory.hosts
    with pytest.raises(NextHost):
        await pool.migrate("s1", Migration(there.uuid))
    ticket = await pool.prepare_receive(there.uuid)
    assert "session" not in repr(ticket)
    move = Migration(there.uuid, {"s1-root": local_sr(inventory, there).uuid}, ticket=ticket)
    await pool.migrate("s1", move)
    await pool.migrate("s1", move)
    after = await pool.inventory(fresh=True)
    [vm] = after.vms
    assert (vm.host, vm.power) == (there.uuid, PowerState.RUNNING)
    assert sorted(disk.disk_id for disk in vm.disks) == ["s1-root", "v1"]
    disks = {disk.disk_id: disk for disk in after.disks}
    assert disks["s1-root"].sr == local_sr(inventory, there).uuid
    assert disks["s1-root"].server_id == "s1"
    assert disks["v1"].sr == shared_sr(inventory).uuid
    assert len(sim.disks()) == 2
    [root] = [vdi for vdi in sim.disks() if vdi["other_config"]["ringstead-disk"] == "s1-root"]
    assert content_of(sim, root).startswith(b"disk" * (2 * MIB))
    assert here.uuid != there.uuid


async def test_a_halted_server(sim: Simulation, pool: XenPool) -> None:
    """Its disks move; without disks to move there is nothing to do."""
    inventory = await pool.inventory()
    there = inventory.hosts[1]
    await pool.create_server(server_spec(inventory), inventory.hosts[0].uuid)
    ticket = await pool.prepare_receive(there.uuid)
    await pool.migrate("s1", Migration(there.uuid, {"s1-root": local_sr(inventory, there).uuid}, ticket=ticket))
    assert [disk.sr for disk in (await pool.inventory(fresh=True)).disks] == [local_sr(inventory, there).uuid]
    await pool.migrate("s1", Migration(there.uuid))
    assert (await pool.power("s1", PowerAction.START, there.uuid)).host == there.uuid


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[tuple[Simulation, XenPool, XenPool]]:
    """Two pools, and a driver at each."""
    async with (
        simulation(tmp_path, pools=2, hosts=1, shared_bytes=0) as sim,
        driving(sim.xen_pool(0)) as first,
        driving(sim.xen_pool(1)) as second,
    ):
        yield sim, first, second


async def crossing(first: XenPool, second: XenPool) -> Migration:
    """A move of s1 and its disk from one pool's only host to the other's."""
    source, target = await first.inventory(), await second.inventory()
    there = target.hosts[0]
    ticket = await second.prepare_receive(there.uuid)
    return Migration(
        there.uuid,
        {"s1-root": local_sr(target, there).uuid},
        {source.networks[0].uuid: target.networks[0].uuid},
        ticket,
    )


@pytest.mark.parametrize("keeps_tags", [True, False])
async def test_to_another_pool(two: tuple[Simulation, XenPool, XenPool], keeps_tags: bool) -> None:
    """Running, with its disk: known by the same ids over there, and no longer here; also where a pool drops disks'
    tags."""
    sim, first, second = two
    await running(first, await first.inventory())
    await first.migrate("s1", await crossing(first, second))
    if not keeps_tags:
        [vdi] = sim.disks(1)
        sim.pool(1).database.set(vdi, other_config={})
        sim.settle()
    found = await second.find_server("s1")
    assert found is not None
    assert (found.power, [disk.disk_id for disk in found.disks]) == (PowerState.RUNNING, ["s1-root"])
    assert "ringstead-passport" not in sim.servers(1)[0]["other_config"]
    [disk] = (await second.inventory(fresh=True)).disks
    assert (disk.disk_id, disk.server_id, disk.unfinished) == ("s1-root", "s1", False)
    assert await first.find_server("s1") is None
    assert sim.disks(0) == []
    with pytest.raises(Gone):
        await first.migrate("s1", await crossing(first, second))
    [vdi] = sim.disks(1)
    assert content_of(sim, vdi).startswith(b"disk" * (2 * MIB))
    await second.destroy_server("s1")
    assert sim.disks(1) == []


async def test_a_move_that_lacks_something(two: tuple[Simulation, XenPool, XenPool]) -> None:
    """No network named, an SR that is not there, no ticket: refused before anything moves."""
    _, first, second = two
    await running(first, await first.inventory())
    good = await crossing(first, second)
    for bad in (
        Migration(good.host, good.disks, {}, good.ticket),
        Migration(good.host, {"s1-root": "nowhere"}, good.networks, good.ticket),
        Migration((await first.inventory()).hosts[0].uuid, {"s1-root": "nowhere"}),
        Migration(good.host, {}, good.networks, good.ticket),
    ):
        with pytest.raises((Refused, Gone, MigrationFailed, NextHost)):
            await first.migrate("s1", bad)
    await first.migrate("s1", good)


@pytest.mark.parametrize("cut", ["before", "during", "after"])
@pytest.mark.parametrize("method", ["VM.pool_migrate", "VM.migrate_send"])
async def test_a_connection_cut_in_a_move(sim: Simulation, pool: XenPool, method: str, cut: str) -> None:
    """The server is there, or where it was and MigrationFailed says so."""
    inventory = await pool.inventory()
    there = inventory.hosts[1]
    await running(pool, inventory, shared=method == "VM.pool_migrate")
    move = Migration(there.uuid)
    if method == "VM.migrate_send":
        ticket = await pool.prepare_receive(there.uuid)
        move = Migration(there.uuid, {"s1-root": local_sr(inventory, there).uuid}, ticket=ticket)
    sim.fault(method, cut=cut, count=1)
    try:
        await pool.migrate("s1", move)
    except MigrationFailed:
        await pool.migrate("s1", move)
    assert sim.faults_left() == 0
    found = await pool.find_server("s1")
    assert found is not None
    assert (found.host, found.power) == (there.uuid, PowerState.RUNNING)
    assert len(sim.disks()) == 1


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("VM_MIGRATE_FAILED", MigrationFailed),
        ("MIRROR_FAILED", MigrationFailed),
        ("INTERNAL_ERROR", MigrationFailed),
        ("TASK_CANCELLED", MigrationFailed),
        ("HOST_NOT_ENOUGH_FREE_MEMORY", NextHost),
        ("TOO_MANY_STORAGE_MIGRATES", TryAgain),
        ("VM_BAD_POWER_STATE", WrongState),
    ],
)
async def test_a_move_that_fails(sim: Simulation, pool: XenPool, code: str, error: type[HypervisorError]) -> None:
    """Each reason as its class, and the server runs on where it was."""
    inventory = await pool.inventory()
    await running(pool, inventory, shared=True)
    sim.fault("VM.pool_migrate", error=[code, "x"], count=1)
    with pytest.raises(error):
        await pool.migrate("s1", Migration(inventory.hosts[1].uuid))
    found = await pool.find_server("s1")
    assert found is not None
    assert (found.host, found.power) == (inventory.hosts[0].uuid, PowerState.RUNNING)


async def test_a_move_is_cancelled(sim: Simulation, pool: XenPool) -> None:
    """The caller's cancelling reaches the pool: the copy stops and is removed, the server runs on where it was."""
    inventory = await pool.inventory()
    here, there = inventory.hosts
    await running(pool, inventory)
    sim.pool().latencies = SLOW
    ticket = await pool.prepare_receive(there.uuid)
    move = Migration(there.uuid, {"s1-root": local_sr(inventory, there).uuid}, ticket=ticket)
    seen: list[float] = []
    with trio.CancelScope() as scope:

        def stop(done: float) -> None:
            seen.append(done)
            scope.cancel()

        await pool.migrate("s1", move, stop)
    assert scope.cancelled_caught
    assert 0 < seen[0] < 1
    found = await pool.find_server("s1")
    assert found is not None
    assert (found.host, found.power) == (here.uuid, PowerState.RUNNING)
    assert len(sim.disks()) == 1
    assert sim.servers()[0]["current_operations"] == {}


async def test_what_a_move_is_making_is_not_taken_for_left_over(sim: Simulation, pool: XenPool) -> None:
    """The copy of a disk has the disk's id and is in no VM; removing it would break the move."""
    inventory = await pool.inventory()
    there = inventory.hosts[1]
    await running(pool, inventory)
    [root] = [disk.uuid for disk in (await pool.inventory(fresh=True)).disks]
    sim.pool().latencies = SLOW
    ticket = await pool.prepare_receive(there.uuid)
    move = Migration(there.uuid, {"s1-root": local_sr(inventory, there).uuid}, ticket=ticket)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.migrate, "s1", move)
        with trio.fail_after(10):
            while len(sim.disks()) < 2:
                await trio.sleep(0.02)
        [copy] = [vdi.uuid for vdi in sim.disks() if vdi.uuid != root]
        with pytest.raises(TryAgain):
            await pool.remove_disk(copy)
    found = await pool.find_server("s1")
    assert found is not None
    assert found.host == there.uuid


async def test_somebody_else_cancels_it(sim: Simulation, pool: XenPool) -> None:
    """From the pool's own tools: MigrationFailed."""
    inventory = await pool.inventory()
    await running(pool, inventory, shared=True)
    sim.pool().latencies = SLOW
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _() -> None:
            with pytest.raises(MigrationFailed):
                await pool.migrate("s1", Migration(inventory.hosts[1].uuid))

        with trio.fail_after(10):
            while not sim.servers()[0]["current_operations"]:
                await trio.sleep(0.02)
        [task] = [row for row in sim.rows("task") if row["status"] == "pending"]
        other = sim.xen_pool()
        await other._context.call("task.cancel", task.ref)
        await other.close()


async def test_three_at_once(sim: Simulation, pool: XenPool) -> None:
    """A fourth storage migration is TryAgain, as the pool has it."""
    inventory = await pool.inventory()
    there = inventory.hosts[1]
    for number in range(4):
        await running(pool, inventory, f"m{number}")
    sim.pool().latencies = Latencies(factor=1.0, copy_bytes_per_s=1e9, memory_bytes_per_s=1e9, mirror_overhead_s=0.8)
    ticket = await pool.prepare_receive(there.uuid)
    crowded: list[str] = []

    async def move(server_id: str) -> None:
        try:
            await pool.migrate(
                server_id, Migration(there.uuid, {f"{server_id}-root": local_sr(inventory, there).uuid}, ticket=ticket)
            )
        except TryAgain as error:
            crowded.append(error.code)

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(move, f"m{number}")
    assert crowded == ["TOO_MANY_STORAGE_MIGRATES"]
    hosts = [vm.host for vm in (await pool.inventory(fresh=True)).vms]
    assert hosts.count(there.uuid) == 3


async def test_a_server_on_its_way_is_not_taken_for_arrived(two: tuple[Simulation, XenPool, XenPool]) -> None:
    """Its record over there, halted and with our tags, is nobody's until the move is over: it still runs where it
    was."""
    sim, first, second = two
    await running(first, await first.inventory())
    move = await crossing(first, second)
    sim.pool(0).latencies = SLOW
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first.migrate, "s1", move)
        with trio.fail_after(20):
            while not sim.servers(1):
                await trio.sleep(0.02)
        assert await second.find_server("s1") is None
        assert [vm.server_id for vm in (await second.inventory(fresh=True)).vms] == [""]
        assert [vm.server_id for vm in (await first.inventory(fresh=True)).vms] == ["s1"]
        [twin] = sim.servers(1)
        assert twin["power_state"] == "Halted"
        sim.pool(1).database.set(twin, current_operations={})  # not every pool marks what comes in
        sim.settle()
        assert await second.find_server("s1") is None
    assert [vm.server_id for vm in (await second.inventory(fresh=True)).vms] == ["s1"]
    assert (await first.inventory(fresh=True)).vms == ()


async def test_a_crossing_that_fails_leaves_the_server_as_it_was(two: tuple[Simulation, XenPool, XenPool]) -> None:
    """No passport is left on it, and nothing over there."""
    sim, first, second = two
    await running(first, await first.inventory())
    sim.fault("VM.migrate_send", error=["VM_MIGRATE_FAILED", "vm", "a", "b", "mirror broke"], count=1)
    with pytest.raises(MigrationFailed):
        await first.migrate("s1", await crossing(first, second))
    [vm] = sim.servers(0)
    assert "ringstead-passport" not in vm["other_config"]
    assert sim.servers(1) == []
    assert sim.disks(1) == []


@pytest.mark.parametrize(
    ("method", "index", "count"),
    [("host.migrate_receive", 1, 3), ("VM.assert_can_migrate", 0, 3), ("VM.migrate_send", 0, 1)],
)
async def test_a_receiver_that_refuses_the_session(
    two: tuple[Simulation, XenPool, XenPool], method: str, index: int, count: int
) -> None:
    """It is the move that fails, towards that host, and not the caller's session; later the same move works."""
    sim, first, second = two
    await running(first, await first.inventory())
    sim.fault(method, index, error=["SESSION_INVALID", "OpaqueRef:secret"], count=count)
    there = (await second.inventory()).hosts[0].uuid
    with pytest.raises(MigrationFailed, match=f"host {there} cannot receive .*SESSION_INVALID") as caught:
        await first.migrate("s1", await crossing(first, second))
    assert "secret" not in str(caught.value)
    assert sim.servers(1) == []
    assert sim.faults_left(index) == 0
    assert "ringstead-passport" not in sim.servers(0)[0]["other_config"]
    await first.migrate("s1", await crossing(first, second))
    assert await second.find_server("s1") is not None


async def test_another_master_during_a_move(sim: Simulation, pool: XenPool) -> None:
    """The sessions are gone, the move is not: it is followed at the new master to its end."""
    inventory = await pool.inventory()
    there = inventory.hosts[1].uuid
    await running(pool, inventory, shared=True)
    sim.pool().latencies = SLOW
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.migrate, "s1", Migration(there))
        with trio.fail_after(10):
            while not sim.servers()[0]["current_operations"]:
                await trio.sleep(0.02)
        sim.pool().promote(sim.host(1))
        sim.settle()
    found = await pool.find_server("s1")
    assert found is not None
    assert (found.host, found.power) == (there, PowerState.RUNNING)


async def test_the_task_of_a_move_is_lost(sim: Simulation, pool: XenPool) -> None:
    """A pool that forgets its tasks, as one whose toolstack was restarted: the VM itself says how it went."""
    inventory = await pool.inventory()
    there = inventory.hosts[1].uuid
    await running(pool, inventory, shared=True)
    sim.pool().latencies = SLOW
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.migrate, "s1", Migration(there))
        with trio.fail_after(10):
            while not sim.servers()[0]["current_operations"]:
                await trio.sleep(0.02)
        for task in [row for row in sim.rows("task") if row["status"] == "pending"]:
            sim.pool().database.remove(task)
        sim.settle()
    found = await pool.find_server("s1")
    assert found is not None
    assert (found.host, found.power) == (there, PowerState.RUNNING)
