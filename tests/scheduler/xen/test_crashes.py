"""The controller dies at every step of a verb; the next one says the verb again, and all is as if nothing had been.

Dying is as abrupt as it can be made within a process: after the n-th call that changes something, no call of that
driver reaches the pool any more, those that would clean up included. Dying before a call is dying after the one
before.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scheduler.hypervisor import (
    DiskSpec,
    Gone,
    Migration,
    PoolInventory,
    PowerAction,
    PowerState,
)
from scheduler.xen import context
from scheduler.xen.driver import XenPool
from scheduler.xen.session import PoolSession, is_read
from tests.scheduler.xen.simulated import MIB, Image, Simulation, local_sr, server_spec, shared_sr, simulation

Verb = Callable[[XenPool, PoolInventory, int], Awaitable[object]]


class Death(BaseException):
    """The process ends here."""


class Reaper:
    """Lets a driver die after its n-th call that changes something."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.left: int | None = None
        call = PoolSession.call

        async def counted(session: PoolSession, method: str, *args: Any, **options: Any) -> Any:
            if self.left == 0:
                raise Death
            answer = await call(session, method, *args, **options)
            if self.left is not None and not is_read(method) and not method.startswith("task."):
                self.left -= 1
                if self.left == 0:
                    raise Death
            return answer

        patch.setattr(PoolSession, "call", counted)


async def at_every_step(
    folder: Path,
    patch: pytest.MonkeyPatch,
    prepare: Verb | None,
    verb: Verb,
    check: Callable[[Simulation, XenPool], Awaitable[None]],
) -> int:
    """Run the verb to its death at each step, then again; how many steps there were."""
    reaper = Reaper(patch)
    step, survived = 0, False
    async with simulation(folder) as sim:
        survivor = sim.xen_pool()
        while not survived:
            step += 1
            inventory = await survivor.inventory()
            if prepare is not None:
                await prepare(survivor, inventory, 1)
            victim = sim.xen_pool()
            reaper.left = step
            try:
                await verb(victim, inventory, 1)
                survived = True
            except Death:
                pass
            finally:
                reaper.left = None
                await victim.close()
            await verb(survivor, inventory, 2)
            await check(sim, survivor)
            for server_id in {vm["other_config"].get("ringstead-server", "") for vm in sim.servers()} - {""}:
                await survivor.destroy_server(server_id)
            for disk_id in [vdi["other_config"].get("ringstead-disk", "") for vdi in sim.disks()]:
                await survivor.delete_disk(disk_id)
            assert sim.servers() == []
            assert sim.disks() == []
        await survivor.close()
    return step


@pytest.mark.parametrize("template", ["", "Alpine Linux 3"])
async def test_making_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str) -> None:
    """One whole server with its disks, and nothing beside it."""

    async def make(pool: XenPool, inventory: PoolInventory, build: int) -> None:
        sr = shared_sr(inventory).uuid
        root = DiskSpec("s1-root", "root", 4 * MIB, sr, Image(b"x" * MIB))
        spec = server_spec(inventory, root=root, disks=(DiskSpec("d2", "data", MIB, sr),), template=template)
        made = await pool.create_server(replace(spec, build=build), inventory.hosts[0].uuid)
        assert not made.unfinished

    async def check(sim: Simulation, pool: XenPool) -> None:
        found = await pool.find_server("s1")
        assert found is not None
        assert sorted(disk.disk_id for disk in found.disks) == ["d2", "s1-root"]
        assert len(sim.servers()) == 1
        assert len(sim.disks()) == 2

    assert await at_every_step(tmp_path, monkeypatch, None, make, check) > 12


async def test_starting_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs, on the host that was chosen, also when the first attempt died between the paused start and the rest."""

    async def prepare(pool: XenPool, inventory: PoolInventory, _build: int) -> None:
        await pool.create_server(server_spec(inventory), inventory.hosts[0].uuid)

    async def start(pool: XenPool, inventory: PoolInventory, _build: int) -> None:
        facts = await pool.power("s1", PowerAction.START, inventory.hosts[0].uuid)
        assert facts.power is PowerState.RUNNING

    async def check(sim: Simulation, _pool: XenPool) -> None:
        assert len(sim.servers()) == 1

    assert await at_every_step(tmp_path, monkeypatch, prepare, start, check) >= 3


async def test_volumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made from an image, snapshotted, attached to a running server, let go of: each once."""

    async def prepare(pool: XenPool, inventory: PoolInventory, _build: int) -> None:
        await pool.create_server(server_spec(inventory), inventory.hosts[0].uuid)
        await pool.power("s1", PowerAction.START, inventory.hosts[0].uuid)

    async def work(pool: XenPool, inventory: PoolInventory, _build: int) -> None:
        sr = shared_sr(inventory).uuid
        await pool.create_disk(DiskSpec("v1", "volume", 2 * MIB, sr, Image(b"y" * MIB)))
        await pool.snapshot_disk("v1", "v1-snap", "snapshot")
        await pool.create_disk(DiskSpec("v2", "copy", 0, sr, copy_of="v1-snap"))
        assert (await pool.attach_disk("s1", "v1")).plugged
        await pool.detach_disk("s1", "v1")
        await pool.resize_disk("v1", 4 * MIB)

    async def check(sim: Simulation, _pool: XenPool) -> None:
        ids = sorted(vdi["other_config"]["ringstead-disk"] for vdi in sim.disks())
        assert ids == ["s1-root", "v1", "v1-snap", "v2"]
        assert len([vbd for vbd in sim.rows("VBD") if vbd["type"] == "Disk"]) == 1

    assert await at_every_step(tmp_path, monkeypatch, prepare, work, check) > 12


async def test_going_back_to_a_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The volume that was set aside is put back, whoever finishes."""

    async def prepare(pool: XenPool, inventory: PoolInventory, _build: int) -> None:
        await pool.create_server(server_spec(inventory), inventory.hosts[0].uuid)
        await pool.create_disk(DiskSpec("v1", "volume", MIB, shared_sr(inventory).uuid))
        await pool.attach_disk("s1", "v1", read_only=True)

    async def work(pool: XenPool, _inventory: PoolInventory, _build: int) -> None:
        await pool.snapshot_server("s1", "n1", "snapshot")
        await pool.revert_server("s1", "n1")

    async def check(sim: Simulation, pool: XenPool) -> None:
        found = await pool.find_server("s1")
        assert found is not None
        assert sorted(disk.disk_id for disk in found.disks) == ["s1-root", "v1"]
        assert [vbd["mode"] for vbd in sim.rows("VBD") if vbd["userdevice"] != "0" and vbd["type"] == "Disk"] == ["RO"]
        [vm] = [vm for vm in sim.servers() if not vm["is_a_snapshot"]]
        assert not {"ringstead-set-aside", "ringstead-snapshot"} & set(vm["other_config"])
        await pool.detach_disk("s1", "v1")

    assert await at_every_step(tmp_path, monkeypatch, prepare, work, check) > 6


async def test_moving_with_a_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There in the end, with its disk and its ids."""
    monkeypatch.setattr(context, "QUIET_POLL_S", 0.02)

    async def prepare(pool: XenPool, inventory: PoolInventory, _build: int) -> None:
        await pool.create_server(server_spec(inventory), inventory.hosts[0].uuid)
        await pool.power("s1", PowerAction.START, inventory.hosts[0].uuid)

    async def move(pool: XenPool, inventory: PoolInventory, _build: int) -> None:
        there = inventory.hosts[1]
        ticket = await pool.prepare_receive(there.uuid)
        await pool.migrate("s1", Migration(there.uuid, {"s1-root": local_sr(inventory, there).uuid}, ticket=ticket))

    async def check(sim: Simulation, pool: XenPool) -> None:
        found = await pool.find_server("s1")
        assert found is not None
        assert found.host == sim.host(1).uuid
        assert [disk.disk_id for disk in found.disks] == ["s1-root"]

    assert await at_every_step(tmp_path, monkeypatch, prepare, move, check) >= 3


async def test_removing_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gone with its disks and snapshots, whoever finishes; the volume stays."""

    async def prepare(pool: XenPool, inventory: PoolInventory, _build: int) -> None:
        await pool.create_server(server_spec(inventory), inventory.hosts[0].uuid)
        await pool.create_disk(DiskSpec("v1", "volume", MIB, shared_sr(inventory).uuid))
        await pool.attach_disk("s1", "v1")
        await pool.snapshot_server("s1", "n1", "snapshot")
        await pool.power("s1", PowerAction.START, inventory.hosts[0].uuid)

    async def remove(pool: XenPool, _inventory: PoolInventory, _build: int) -> None:
        await pool.destroy_server("s1")

    async def check(sim: Simulation, pool: XenPool) -> None:
        assert sim.servers() == []
        assert [vdi["other_config"]["ringstead-disk"] for vdi in sim.disks()] == ["v1"]
        with pytest.raises(Gone):
            await pool.power("s1", PowerAction.START)

    assert await at_every_step(tmp_path, monkeypatch, prepare, remove, check) > 5
