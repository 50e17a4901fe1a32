"""The pool in memory keeps what the interface promises: said twice is done once, what fails leaves nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler.hypervisor import (
    DiskSpec,
    Gone,
    Migration,
    NextHost,
    NextSr,
    NicSpec,
    PowerAction,
    PowerState,
    Refused,
    ServerSpec,
    Superseded,
    TryAgain,
    Unreachable,
    WrongState,
)
from scheduler.hypervisor_memory import MemoryHypervisor
from scheduler.pool_memory import MemoryPool

GIB = 1 << 30


@pytest.fixture
def pool() -> MemoryPool:
    """Two hosts of 2 GiB with a local SR each, and a shared one."""
    made = MemoryPool("p")
    for host in ("h1", "h2"):
        made.add_host(host, 2 * GIB, 4)
        made.add_sr(f"{host}-local", 10 * GIB, frozenset({host}), shared=False)
    made.add_sr("shared", 10 * GIB, frozenset({"h1", "h2"}), shared=True)
    return made


def spec(name: str = "s", sr: str = "shared", build: int = 1, memory: int = GIB) -> ServerSpec:
    """A server of one disk."""
    return ServerSpec(name, name, build, memory, 1, DiskSpec(f"{name}-disk", "root", GIB, sr), "Other install media")


async def test_creating_twice_makes_one(pool: MemoryPool) -> None:
    """The second call gives the VM of the first, halted and whole."""
    hypervisor = MemoryHypervisor(pool)
    first = await hypervisor.create_server(spec(), "h1")
    assert await hypervisor.create_server(spec(build=2), "h1") == first
    assert (first.power, first.unfinished, len(pool.vms), len(pool.disks)) == (PowerState.HALTED, False, 1, 1)


async def test_what_a_dead_builder_left_is_made_anew(pool: MemoryPool) -> None:
    """An unfinished VM of an earlier build goes with its disk; one of a later build is not touched."""
    hypervisor = MemoryHypervisor(pool)
    whole = await hypervisor.create_server(spec(), "h1")
    pool.vms[whole.uuid] = replace(whole, unfinished=True)
    pool.disks = {uuid: replace(disk, unfinished=True) for uuid, disk in pool.disks.items()}
    again = await hypervisor.create_server(spec(build=2), "h2")
    assert (list(pool.vms), len(pool.disks), again.build) == ([again.uuid], 1, 2)
    pool.vms[again.uuid] = replace(again, unfinished=True)
    with pytest.raises(Superseded):
        await hypervisor.create_server(spec(build=1), "h1")


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (replace(spec(), template="none"), Refused),
        (spec(sr="nowhere"), NextSr),
        (replace(spec(), root=DiskSpec("d", "root", 99 * GIB, "shared")), NextSr),
        (replace(spec(), nics=(NicSpec("none", "02:00:00:00:00:00"),)), Refused),
        (spec(sr="h2-local"), NextSr),
    ],
)
async def test_a_failed_creation_leaves_nothing(pool: MemoryPool, wrong: ServerSpec, error: type[Exception]) -> None:
    """Whatever is wrong with it, the pool is as it was."""
    with pytest.raises(error):
        await MemoryHypervisor(pool).create_server(wrong, "h1")
    assert (pool.vms, pool.disks) == ({}, {})


async def test_power_says_what_it_cannot(pool: MemoryPool) -> None:
    """States follow XenAPI's table; a state that is there already is enough; memory is never given out twice."""
    hypervisor = MemoryHypervisor(pool)
    await hypervisor.create_server(spec("a", memory=2 * GIB), "h1")
    await hypervisor.create_server(spec("b"), "h1")
    with pytest.raises(WrongState):
        await hypervisor.power("a", PowerAction.PAUSE)
    for _ in range(2):
        assert (await hypervisor.power("a", PowerAction.START, "h1")).host == "h1"
    with pytest.raises(NextHost):
        await hypervisor.power("b", PowerAction.START, "h1")
    assert pool.overruns == 1
    assert (await hypervisor.power("a", PowerAction.SUSPEND)).host == ""
    assert (await hypervisor.power("a", PowerAction.RESUME, "h2")).power is PowerState.RUNNING
    with pytest.raises(Gone):
        await hypervisor.power("nobody", PowerAction.START, "h1")


async def test_destroying_takes_its_own_disk_and_leaves_volumes(pool: MemoryPool) -> None:
    """The VM, its disk and its snapshots go; an attached volume stays; a second time is no error."""
    hypervisor = MemoryHypervisor(pool)
    await hypervisor.create_server(spec(), "h1")
    await hypervisor.create_disk(DiskSpec("volume", "data", GIB, "shared"))
    await hypervisor.attach_disk("s", "volume")
    await hypervisor.snapshot_server("s", "snap", "before")
    with pytest.raises(WrongState):
        await hypervisor.delete_disk("volume")
    for _ in range(2):
        await hypervisor.destroy_server("s")
    assert [disk.disk_id for disk in pool.disks.values() if not disk.snapshot_of] == ["volume"]
    await hypervisor.delete_disk("volume")


async def test_moves_need_room_and_reach(pool: MemoryPool) -> None:
    """A running server moves with a local disk only if that moves, too; three storage migrations at most; a dead host
    gives nothing away."""
    hypervisor = MemoryHypervisor(pool)
    await hypervisor.create_server(spec(sr="h1-local"), "h1")
    await hypervisor.power("s", PowerAction.START, "h1")
    with pytest.raises(NextSr):
        await hypervisor.migrate("s", Migration("h2"))
    ticket = await hypervisor.prepare_receive("h2")
    pool.migrating = 3
    with pytest.raises(TryAgain):
        await hypervisor.migrate("s", Migration("h2", {"s-disk": "h2-local"}, ticket=ticket))
    pool.migrating = 0
    for _ in range(2):
        await hypervisor.migrate("s", Migration("h2", {"s-disk": "h2-local"}, ticket=ticket))
    assert [disk.sr for disk in pool.disks.values()] == ["h2-local"]
    with pytest.raises(WrongState):
        await hypervisor.declare_dead("h2")
    pool.kill_host("h2")
    with pytest.raises(WrongState):
        await hypervisor.migrate("s", Migration("h1", {"s-disk": "h1-local"}, ticket=ticket))
    await hypervisor.declare_dead("h2")
    assert next(iter(pool.vms.values())).power is PowerState.HALTED


async def test_what_is_not_ours_is_refused(pool: MemoryPool) -> None:
    """VMs and disks without a mark are never removed; running ones neither."""
    hypervisor = MemoryHypervisor(pool)
    vm = await hypervisor.create_server(spec(), "h1")
    pool.vms["theirs"] = replace(vm, uuid="theirs", server_id="")
    pool.disks["theirs"] = replace(next(iter(pool.disks.values())), uuid="theirs", disk_id="")
    with pytest.raises(Refused):
        await hypervisor.remove_vm("theirs")
    with pytest.raises(Refused):
        await hypervisor.remove_disk("theirs")
    await hypervisor.power("s", PowerAction.START, "h1")
    with pytest.raises(WrongState):
        await hypervisor.remove_vm(vm.uuid)
    pool.reachable = False
    with pytest.raises(Unreachable):
        await hypervisor.inventory()
