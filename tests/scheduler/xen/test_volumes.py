"""Volumes: made, filled, grown, attached, let go of, copied, deleted; and disks as files."""

from __future__ import annotations

import ssl
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trustme

from scheduler.hypervisor import (
    DiskSpec,
    Gone,
    HypervisorError,
    ImageFormat,
    NextSr,
    PoolInventory,
    PowerAction,
    Refused,
    TryAgain,
    Unreachable,
    WrongState,
)
from scheduler.xen import attachments, transfer
from scheduler.xen.driver import XenPool
from tests.scheduler.xen.simulated import (
    GIB,
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


async def volume(pool: XenPool, inventory: PoolInventory, disk_id: str = "v1", size: int = 8 * MIB) -> None:
    """A volume on the shared SR."""
    await pool.create_disk(DiskSpec(disk_id, f"volume {disk_id}", size, shared_sr(inventory).uuid))


async def running(pool: XenPool, inventory: PoolInventory, server_id: str = "s1", host: int = 0) -> None:
    """A running server."""
    await pool.create_server(server_spec(inventory, server_id, host=host), inventory.hosts[host].uuid)
    await pool.power(server_id, PowerAction.START, inventory.hosts[host].uuid)


async def exported(pool: XenPool, disk_id: str, image_format: ImageFormat = "raw") -> bytes:
    """A disk's bytes."""
    async with pool.export_disk(disk_id, image_format) as pieces:
        return b"".join([piece async for piece in pieces])


async def test_a_volume(sim: Simulation, pool: XenPool) -> None:
    """Made once however often it is asked for; nobody's own; deleted, and deleted again."""
    inventory = await pool.inventory()
    spec = DiskSpec("v1", "data", 8 * MIB, shared_sr(inventory).uuid)
    made = await pool.create_disk(spec)
    assert (made.disk_id, made.server_id, made.size_bytes, made.name) == ("v1", "", 8 * MIB, "data")
    assert not made.unfinished
    assert await pool.create_disk(spec) == made
    assert len(sim.disks()) == 1
    await pool.delete_disk("v1")
    await pool.delete_disk("v1")
    assert sim.disks() == []


@pytest.mark.parametrize("cut", ["before", "during", "after"])
@pytest.mark.parametrize("method", ["VDI.create", "VDI.remove_from_other_config", "VDI.copy"])
async def test_a_connection_cut_while_one_is_made(sim: Simulation, pool: XenPool, method: str, cut: str) -> None:
    """One whole disk in the end, or none and Unreachable; then the same call again makes one."""
    inventory = await pool.inventory()
    await pool.create_disk(DiskSpec("v0", "source", MIB, shared_sr(inventory).uuid, Image(b"abcd" * (MIB // 4))))
    spec = DiskSpec("v1", "data", 2 * MIB, shared_sr(inventory).uuid, copy_of="v0")
    sim.fault(method, cut=cut, count=1)
    try:
        made = await pool.create_disk(spec)
    except Unreachable:
        made = await pool.create_disk(spec)
    assert sim.faults_left() == 0
    assert not made.unfinished
    assert len(sim.disks()) == 2
    assert (await exported(pool, "v1"))[:MIB] == b"abcd" * (MIB // 4)


@pytest.mark.parametrize("image_format", ["raw", "vhd"])
async def test_there_and_back(sim: Simulation, pool: XenPool, image_format: ImageFormat) -> None:
    """What a disk holds, exported in either format and imported again, is what it held."""
    inventory = await pool.inventory()
    content = bytes(5 * MIB) + bytes(range(256)) * 4096 + bytes(2 * MIB)
    sr = local_sr(inventory, inventory.hosts[1]).uuid
    await pool.create_disk(DiskSpec("v1", "a", 8 * MIB, sr, Image(content)))
    file = await exported(pool, "v1", image_format)
    assert len(file) < 8 * MIB if image_format == "vhd" else file == content
    done: list[float] = []
    made = await pool.create_disk(DiskSpec("v2", "b", 0, sr, Image(file, image_format)), done.append)
    assert made.size_bytes == 8 * MIB
    assert done[-1] == 1.0
    [second] = [vdi for vdi in sim.disks() if vdi["other_config"]["ringstead-disk"] == "v2"]
    assert content_of(sim, second) == content


async def test_an_import_that_breaks_leaves_nothing(
    sim: Simulation, pool: XenPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused by the pool, cut, or short of what was promised: the disk is gone, and the next attempt works."""
    monkeypatch.setattr(transfer, "BROKEN_S_MAX", 0.3)
    inventory = await pool.inventory()
    spec = DiskSpec("v1", "data", 8 * MIB, shared_sr(inventory).uuid, Image(b"x" * 4 * MIB))
    for fault in ({"error": ["SR_BACKEND_FAILURE_44", "", "no space", ""]}, {"cut": "before"}, {"cut": "during"}):
        sim.fault("http.import_raw_vdi", count=1, **fault)
        with pytest.raises(HypervisorError):
            await pool.create_disk(spec)
        assert sim.disks() == []

    class Short(Image):
        size_bytes = 5 * MIB

    with pytest.raises(HypervisorError):
        await pool.create_disk(DiskSpec("v1", "data", 8 * MIB, shared_sr(inventory).uuid, Short(b"x" * 4 * MIB)))
    assert sim.disks() == []
    await pool.create_disk(spec)
    assert not [row for row in sim.rows("task") if "ringstead" in row["name_label"]]


async def test_an_export_that_breaks_is_told(sim: Simulation, pool: XenPool) -> None:
    """Half a disk is never taken for a whole one."""
    inventory = await pool.inventory()
    await volume(pool, inventory, size=16 * MIB)
    for fault in ({"cut": "during"}, {"error": ["INTERNAL_ERROR", "x"]}):
        sim.fault("http.export_raw_vdi", count=1, **fault)
        with pytest.raises(HypervisorError):
            await exported(pool, "v1")
    assert len(await exported(pool, "v1")) == 16 * MIB
    with pytest.raises(Gone):
        await exported(pool, "nothing")


async def test_a_cancelled_import_leaves_nothing(sim: Simulation, pool: XenPool) -> None:
    """Nor a thread that waits."""
    inventory = await pool.inventory()
    sim.fault("http.import_raw_vdi", hang=True, count=1)
    with trio.move_on_after(0.5) as scope:
        await pool.create_disk(DiskSpec("v1", "data", 64 * MIB, shared_sr(inventory).uuid, Image(b"x" * 32 * MIB)))
    assert scope.cancelled_caught
    assert sim.disks() == []


async def test_an_sr_that_is_full(sim: Simulation, pool: XenPool) -> None:
    """Another one may have room."""
    inventory = await pool.inventory()
    sim.fault("VDI.create", error=["SR_FULL", "100", "1"], count=1)
    with pytest.raises(NextSr):
        await volume(pool, inventory)
    assert sim.disks() == []
    with pytest.raises(Gone):
        await pool.create_disk(DiskSpec("v1", "x", MIB, "no such SR"))
    with pytest.raises(Refused):
        await pool.create_disk(DiskSpec("v1", "x", 0, shared_sr(inventory).uuid))


async def test_growing(sim: Simulation, pool: XenPool) -> None:
    """Larger, never smaller, and not under a running server."""
    inventory = await pool.inventory()
    await volume(pool, inventory)
    sim.fault("VDI.resize", cut="after", count=1)
    assert (await pool.resize_disk("v1", 16 * MIB)).size_bytes == 16 * MIB
    assert (await pool.resize_disk("v1", 16 * MIB)).size_bytes == 16 * MIB
    with pytest.raises(Refused):
        await pool.resize_disk("v1", 8 * MIB)
    await running(pool, inventory)
    await pool.attach_disk("s1", "v1")
    with pytest.raises(WrongState):
        await pool.resize_disk("v1", 32 * MIB)
    with pytest.raises(Gone):
        await pool.resize_disk("v9", GIB)


async def test_attaching(sim: Simulation, pool: XenPool) -> None:
    """Into one server at a time, plugged if that runs; repeated or detached twice, all is well."""
    inventory = await pool.inventory()
    await volume(pool, inventory)
    await running(pool, inventory)
    await running(pool, inventory, "s2", host=1)
    attached = await pool.attach_disk("s1", "v1")
    assert (attached.disk_id, attached.device, attached.plugged) == ("v1", "xvdb", True)
    assert await pool.attach_disk("s1", "v1") == attached
    with pytest.raises(WrongState):
        await pool.attach_disk("s2", "v1")
    with pytest.raises(WrongState):
        await pool.delete_disk("v1")
    await pool.detach_disk("s1", "v1")
    await pool.detach_disk("s1", "v1")
    assert (await pool.attach_disk("s2", "v1", read_only=True)).plugged
    [vbd] = [row for row in sim.rows("VBD") if row["mode"] == "RO" and row["type"] == "Disk"]
    assert vbd["currently_attached"]
    await pool.detach_disk("s2", "v1")
    await pool.power("s1", PowerAction.CUT)
    assert not (await pool.attach_disk("s1", "v1")).plugged
    await pool.detach_disk("s1", "v1")
    assert [disk.disk_id for disk in (await pool.inventory(fresh=True)).vms[0].disks] == ["s1-root"]


async def test_an_sr_out_of_reach_of_the_server(pool: XenPool) -> None:
    """A disk on one host's own storage goes into no server on another."""
    inventory = await pool.inventory()
    await running(pool, inventory)
    await pool.create_disk(DiskSpec("v1", "x", MIB, local_sr(inventory, inventory.hosts[1]).uuid))
    with pytest.raises(NextSr):
        await pool.attach_disk("s1", "v1")
    found = await pool.find_server("s1")
    assert found is not None
    assert len(found.disks) == 1


@pytest.mark.parametrize("cut", ["before", "during", "after"])
@pytest.mark.parametrize("method", ["VBD.create", "VBD.plug", "VBD.unplug", "VBD.destroy"])
async def test_a_connection_cut_on_the_way(sim: Simulation, pool: XenPool, method: str, cut: str) -> None:
    """In, once; out, wholly; whatever answer was lost."""
    inventory = await pool.inventory()
    await volume(pool, inventory)
    await running(pool, inventory)
    sim.fault(method, cut=cut, count=1)
    try:
        assert (await pool.attach_disk("s1", "v1")).plugged
    except Unreachable:
        assert (await pool.attach_disk("s1", "v1")).plugged
    await pool.detach_disk("s1", "v1")
    assert sim.faults_left() == 0
    assert len([row for row in sim.rows("VBD") if row["type"] == "Disk"]) == 1


async def test_a_plug_that_fails_is_taken_back(sim: Simulation, pool: XenPool) -> None:
    """No VBD is left behind that would plug the volume at the next start."""
    inventory = await pool.inventory()
    await volume(pool, inventory)
    await running(pool, inventory)
    sim.fault("VBD.plug", error=["INTERNAL_ERROR", "xenopsd"], count=1)
    with pytest.raises(Refused):
        await pool.attach_disk("s1", "v1")
    assert len([row for row in sim.rows("VBD") if row["type"] == "Disk"]) == 1


async def test_a_guest_that_holds_on(sim: Simulation, pool: XenPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked again until it lets go; handed to its user if it does not; never forced."""
    monkeypatch.setattr(attachments, "DETACH_RETRY_S", 0.05)
    inventory = await pool.inventory()
    await volume(pool, inventory)
    await running(pool, inventory)
    await pool.attach_disk("s1", "v1")
    sim.fault("VBD.unplug", error=["DEVICE_DETACH_REJECTED", "VBD", "x", "mounted"], count=3)
    await pool.detach_disk("s1", "v1")
    assert sim.faults_left() == 0
    await pool.attach_disk("s1", "v1")
    monkeypatch.setattr(attachments, "DETACH_S_MAX", 0.2)
    sim.fault("VBD.unplug", error=["DEVICE_DETACH_REJECTED", "VBD", "x", "mounted"])
    with pytest.raises(TryAgain, match="unmount"):
        await pool.detach_disk("s1", "v1")
    sim.pool().faults.cancel()
    found = await pool.find_server("s1")
    assert found is not None
    assert [disk.plugged for disk in found.disks] == [True, True]


@pytest.mark.parametrize("cut", ["", "before", "during", "after"])
async def test_snapshots_of_disks(sim: Simulation, pool: XenPool, cut: str) -> None:
    """A disk of its own with its own id, that no later write changes; made once; outlives its source."""
    inventory = await pool.inventory()
    sr = shared_sr(inventory).uuid
    await pool.create_disk(DiskSpec("v1", "x", MIB, sr, Image(b"old!" * (MIB // 4))))
    if cut:
        sim.fault("VDI.snapshot", cut=cut, count=1)
    try:
        made = await pool.snapshot_disk("v1", "v1-snap", "before")
    except Unreachable:
        made = await pool.snapshot_disk("v1", "v1-snap", "before")
    assert (made.disk_id, made.snapshot_of, made.name, made.server_id) == ("v1-snap", "v1", "before", "")
    assert await pool.snapshot_disk("v1", "v1-snap", "before") == made
    assert len(sim.disks()) == 2
    [source] = [vdi for vdi in sim.disks() if vdi["other_config"]["ringstead-disk"] == "v1"]
    assert set(source["other_config"]) == {"ringstead-cluster", "ringstead-disk"}
    (sim.folder / "disks" / f"{source.ref.removeprefix('OpaqueRef:')}.raw").write_bytes(b"new!" * (MIB // 4))
    await pool.create_disk(DiskSpec("v2", "y", 0, sr, copy_of="v1-snap"))
    assert (await exported(pool, "v2")).startswith(b"old!" * (MIB // 4))
    await pool.delete_disk("v1")
    assert (await exported(pool, "v1-snap")).startswith(b"old!" * (MIB // 4))
    await pool.delete_disk("v1-snap")
    await pool.delete_disk("v2")
    assert sim.disks() == []


async def test_a_disk_under_a_running_server_is_not_exported(pool: XenPool) -> None:
    """It would be a picture of no moment; a snapshot of it is."""
    inventory = await pool.inventory()
    await running(pool, inventory)
    with pytest.raises(WrongState):
        await exported(pool, "s1-root")
    await pool.snapshot_disk("s1-root", "still", "image")
    assert len(await exported(pool, "still")) == 64 * MIB
    await pool.delete_disk("still")


async def test_a_redirect_out_of_the_pool_is_not_followed(sim: Simulation, pool: XenPool) -> None:
    """It carries the session: whoever is not a host of the pool does not get it."""
    inventory = await pool.inventory()
    sim.pool().urls[sim.host(1).ref] = f"http://127.0.77.7:{sim.port}"
    sr = local_sr(inventory, inventory.hosts[1]).uuid
    with pytest.raises(Refused, match="no host of it"):
        await pool.create_disk(DiskSpec("v1", "x", MIB, sr, Image(bytes(MIB))))
    assert sim.disks() == []


async def test_over_tls(tmp_path: Path) -> None:
    """The same with certificates: import through a redirect, export, the early answer of an upload."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.10.1", "127.0.10.2").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    async with (
        simulation(tmp_path, context=context) as sim,
        driving(sim.xen_pool(ca_file=str(tmp_path / "ca.pem"))) as pool,
    ):
        inventory = await pool.inventory()
        assert [host.live for host in inventory.hosts] == [True, True]
        sr = local_sr(inventory, inventory.hosts[1]).uuid
        content = bytes(range(256)) * 4096 * 8
        await pool.create_disk(DiskSpec("v1", "a", 8 * MIB, sr, Image(content)))
        assert await exported(pool, "v1") == content
        await running(pool, inventory)
        await pool.destroy_server("s1")


async def test_memory_stays_bounded(pool: XenPool, sim: Simulation) -> None:
    """A piece at a time: an image much larger than what it costs to carry."""
    inventory = await pool.inventory()

    class Endless(Image):
        size_bytes = 96 * MIB
        held = 0

        async def _pieces(self) -> AsyncIterator[bytes]:
            piece = bytes(MIB)
            for _ in range(96):
                yield piece

    tracemalloc.start()
    try:
        await pool.create_disk(DiskSpec("v1", "x", 96 * MIB, shared_sr(inventory).uuid, Endless(b"")))
        async with pool.export_disk("v1", "raw") as pieces:
            seen = 0
            async for piece in pieces:
                seen += len(piece)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seen == 96 * MIB
    assert peak < 24 * MIB
