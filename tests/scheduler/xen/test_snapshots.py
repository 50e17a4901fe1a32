"""Snapshots of servers: of their own disks, with volumes left out."""

from __future__ import annotations

import pytest

from scheduler.hypervisor import DiskSpec, Gone, PowerAction, PowerState, Unreachable
from scheduler.xen.driver import XenPool
from scheduler.xen.simulator.database import Row
from tests.scheduler.xen.simulated import MIB, Simulation, content_of, server_spec, shared_sr


def disk(sim: Simulation, disk_id: str) -> Row:
    """A disk that is no snapshot."""
    [found] = [
        vdi for vdi in sim.disks() if vdi["other_config"].get("ringstead-disk") == disk_id and not vdi["is_a_snapshot"]
    ]
    return found


def write(sim: Simulation, disk_id: str, content: bytes) -> None:
    """Write to a disk as its guest would."""
    path = sim.folder / "disks" / f"{disk(sim, disk_id).ref.removeprefix('OpaqueRef:')}.raw"
    with path.open("r+b") as file:
        file.write(content)


async def server_with_volume(sim: Simulation, pool: XenPool) -> None:
    """A running server with a volume in it."""
    inventory = await pool.inventory()
    host = inventory.hosts[0].uuid
    await pool.create_server(server_spec(inventory), host)
    await pool.power("s1", PowerAction.START, host)
    await pool.create_disk(DiskSpec("v1", "volume", 8 * MIB, shared_sr(inventory).uuid))
    await pool.attach_disk("s1", "v1")
    write(sim, "s1-root", b"root before")
    write(sim, "v1", b"volume before")


@pytest.mark.parametrize("cut", ["", "before", "during", "after"])
@pytest.mark.parametrize("method", ["VM.snapshot", "VM.revert"])
async def test_back_to_a_snapshot(sim: Simulation, pool: XenPool, method: str, cut: str) -> None:
    """The server's own disks are as they were, under their own ids; its volume keeps what was written to it since."""
    await server_with_volume(sim, pool)
    if cut:
        sim.fault(method, cut=cut, count=1)
    for _ in range(2):
        try:
            await pool.snapshot_server("s1", "snap1", "before")
        except Unreachable:
            continue
    write(sim, "s1-root", b"root after!")
    write(sim, "v1", b"volume after!")
    try:
        await pool.revert_server("s1", "snap1")
    except Unreachable:
        await pool.revert_server("s1", "snap1")
    assert sim.faults_left() == 0
    found = await pool.find_server("s1")
    assert found is not None
    assert found.power is PowerState.HALTED
    assert not found.unfinished
    assert sorted(each.disk_id for each in found.disks) == ["s1-root", "v1"]
    assert content_of(sim, disk(sim, "s1-root")).startswith(b"root before")
    assert content_of(sim, disk(sim, "v1")).startswith(b"volume after!")
    inventory = await pool.inventory(fresh=True)
    assert [(vm.snapshot_id, vm.server_id) for vm in inventory.vms if vm.snapshot_id] == [("snap1", "s1")]
    assert [(each.disk_id, each.snapshot_of) for each in inventory.disks if each.snapshot_of] == [("", "s1-root")]
    await pool.power("s1", PowerAction.START, inventory.hosts[0].uuid)


async def test_deleting_a_snapshot_takes_its_disks(sim: Simulation, pool: XenPool) -> None:
    """And nothing of the server; twice is as once."""
    await server_with_volume(sim, pool)
    await pool.snapshot_server("s1", "snap1", "a")
    await pool.snapshot_server("s1", "snap2", "b")
    assert len(sim.disks()) == 4
    await pool.delete_server_snapshot("snap1")
    await pool.delete_server_snapshot("snap1")
    assert len(sim.disks()) == 3
    with pytest.raises(Gone):
        await pool.revert_server("s1", "snap1")
    await pool.destroy_server("s1")
    assert [vdi["other_config"]["ringstead-disk"] for vdi in sim.disks()] == ["v1"]
