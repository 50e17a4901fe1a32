"""Servers in a pool: made whole or not at all, powered, removed with what is theirs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from scheduler.hypervisor import (
    DiskSpec,
    Gone,
    HypervisorError,
    NextHost,
    NextSr,
    PoolInventory,
    PowerAction,
    PowerState,
    Refused,
    Superseded,
    TryAgain,
    WrongState,
)
from scheduler.xen.driver import XenPool
from scheduler.xen.simulator.latency import Latencies
from tests.scheduler.xen.simulated import MIB, Image, Simulation, content_of, driving, local_sr, server_spec, shared_sr


async def started(pool: XenPool, inventory: PoolInventory, server_id: str = "s1") -> None:
    """A running server on the first host."""
    host = inventory.hosts[0].uuid
    await pool.create_server(server_spec(inventory, server_id), host)
    await pool.power(server_id, PowerAction.START, host)


async def test_a_server_is_made_whole(sim: Simulation, pool: XenPool) -> None:
    """Memory, vCPUs, disks in their order, interfaces, ids: all as asked; nothing left marked."""
    inventory = await pool.inventory()
    spec = server_spec(inventory, disks=(DiskSpec("d2", "data", 32 * MIB, shared_sr(inventory).uuid),))
    seen: list[float] = []
    made = await pool.create_server(spec, inventory.hosts[0].uuid, seen.append)
    assert (made.server_id, made.build, made.unfinished, made.power) == ("s1", 1, False, PowerState.HALTED)
    assert (made.memory_bytes, made.vcpu_count, made.name) == (256 * MIB, 2, "server s1")
    assert [disk.disk_id for disk in made.disks] == ["s1-root", "d2"]
    [vm] = sim.servers()
    [vif] = [row for row in sim.rows("VIF") if row["VM"] == vm.ref]
    assert vif["MAC"] == "02:00:00:00:00:01"
    facts = {disk.disk_id: disk for disk in (await pool.inventory(fresh=True)).disks}
    assert facts["s1-root"].sr == local_sr(inventory, inventory.hosts[0]).uuid
    assert facts["d2"].sr == shared_sr(inventory).uuid
    assert all(disk.server_id == "s1" and not disk.unfinished for disk in facts.values())
    assert seen[-1] == 1.0
    assert seen == sorted(seen)


async def test_making_it_again_changes_nothing(sim: Simulation, pool: XenPool) -> None:
    """The same id is the same server, whoever asks and with whatever build."""
    inventory = await pool.inventory()
    first = await pool.create_server(server_spec(inventory), inventory.hosts[0].uuid)
    again = await pool.create_server(server_spec(inventory, build=7), inventory.hosts[0].uuid)
    assert again == first
    assert len(sim.servers()) == 1
    assert len(sim.disks()) == 1


@pytest.mark.parametrize("template", ["Other install media", "Debian Bookworm 12"])
async def test_from_a_template_without_disks(sim: Simulation, pool: XenPool, template: str) -> None:
    """Its settings, our disks: what the template would provision is not made beside them."""
    inventory = await pool.inventory()
    made = await pool.create_server(server_spec(inventory, template=template), inventory.hosts[0].uuid)
    assert [disk.disk_id for disk in made.disks] == ["s1-root"]
    assert (made.memory_bytes, made.name) == (256 * MIB, "server s1")
    assert len(sim.disks()) == 1
    assert (await pool.inventory(fresh=True)).templates == inventory.templates


@pytest.mark.parametrize("same_sr", [True, False])
async def test_from_a_template_with_a_disk(sim: Simulation, pool: XenPool, same_sr: bool) -> None:
    """Its disk is cloned where it is or copied where it is wanted, grown, tagged; the template's own stays as it
    was."""
    inventory = await pool.inventory()
    spec = server_spec(
        inventory, "golden", root=DiskSpec("g", "gold", 32 * MIB, shared_sr(inventory).uuid, Image(b"gold" * MIB))
    )
    await pool.create_server(spec, inventory.hosts[0].uuid)
    [vm] = sim.servers()
    config = {key: value for key, value in vm["other_config"].items() if not key.startswith("ringstead")}
    sim.pool().database.set(vm, is_a_template=True, name_label="Golden", other_config=config)
    [gold] = sim.disks()
    sim.pool().database.set(gold, other_config={"theirs": "yes"})
    sim.settle()
    sr = shared_sr(inventory) if same_sr else local_sr(inventory, inventory.hosts[0])
    spec = server_spec(inventory, template="Golden", root=DiskSpec("s1-root", "root", 64 * MIB, sr.uuid))
    made = await pool.create_server(spec, inventory.hosts[0].uuid)
    assert [disk.disk_id for disk in made.disks] == ["s1-root"]
    disks = {disk.uuid: disk for disk in (await pool.inventory(fresh=True)).disks}
    root = disks[made.disks[0].disk]
    assert (root.sr, root.size_bytes, root.server_id, root.unfinished) == (sr.uuid, 64 * MIB, "s1", False)
    [new] = [vdi for vdi in sim.disks() if vdi.uuid == root.uuid]
    assert content_of(sim, new)[: 4 * MIB] == b"gold" * MIB
    assert gold["other_config"] == {"theirs": "yes"}
    await pool.destroy_server("s1")
    assert [vdi.ref for vdi in sim.disks()] == [gold.ref]


async def test_from_an_image(sim: Simulation, pool: XenPool) -> None:
    """The disk holds the image's bytes, on an SR that the master does not reach: the pool redirects, the driver
    follows."""
    inventory = await pool.inventory()
    image = Image(bytes(range(256)) * 4096 * 5)
    sr = local_sr(inventory, inventory.hosts[1])
    spec = server_spec(inventory, template="Debian Bookworm 12", root=DiskSpec("r", "root", 64 * MIB, sr.uuid, image))
    made = await pool.create_server(spec, inventory.hosts[1].uuid)
    [vdi] = sim.disks()
    assert content_of(sim, vdi)[: image.size_bytes] == image.content
    assert [disk.disk_id for disk in made.disks] == ["r"]
    running = await pool.power("s1", PowerAction.START, inventory.hosts[1].uuid)
    assert running.host == inventory.hosts[1].uuid


STEPS = [
    "VM.create",
    "VM.set_name_label",
    "VM.set_memory_limits",
    "VM.set_VCPUs_max",
    "VIF.create",
    "VDI.create",
    "http.import_raw_vdi",
    "VBD.create",
    "VDI.remove_from_other_config",
    "VM.remove_from_other_config",
]
CLONING = ["VM.clone", "VM.set_other_config", "VM.provision"]


@pytest.mark.parametrize(("method", "template"), [(m, "") for m in STEPS] + [(m, "Alpine Linux 3") for m in CLONING])
async def test_a_build_that_fails_leaves_nothing(sim: Simulation, pool: XenPool, method: str, template: str) -> None:
    """Whichever step the pool refuses, the VM and its disks are gone afterwards, and the next attempt works."""
    inventory = await pool.inventory()
    root = DiskSpec("r", "root", 64 * MIB, shared_sr(inventory).uuid, Image(b"x" * MIB))
    spec = server_spec(inventory, root=root, template=template, disks=(DiskSpec("d2", "data", 8 * MIB, root.sr),))
    sim.fault(method, error=["SR_FULL", "1", "0"], count=1)
    with pytest.raises(HypervisorError):
        await pool.create_server(spec, inventory.hosts[0].uuid)
    assert sim.servers() == []
    assert sim.disks() == []
    made = await pool.create_server(replace(spec, build=2), inventory.hosts[0].uuid)
    assert made.build == 2
    assert not made.unfinished


@pytest.mark.parametrize("cut", ["before", "during", "after"])
@pytest.mark.parametrize(
    ("method", "template"),
    [(m, "") for m in STEPS if not m.startswith("http")] + [(m, "Alpine Linux 3") for m in CLONING],
)
async def test_a_connection_cut_in_a_build(
    sim: Simulation, pool: XenPool, method: str, template: str, cut: str
) -> None:
    """Whether the call was done or not, there is one whole server in the end, or nothing and Unreachable; never two."""
    inventory = await pool.inventory()
    spec = server_spec(inventory, template=template)
    sim.fault(method, cut=cut, count=1)
    try:
        made = await pool.create_server(spec, inventory.hosts[0].uuid)
    except HypervisorError:
        made = await pool.create_server(replace(spec, build=2), inventory.hosts[0].uuid)
    assert sim.faults_left() == 0
    assert not made.unfinished
    assert len(sim.servers()) == 1
    assert len(sim.disks()) == 1
    assert len([vif for vif in sim.rows("VIF") if vif["VM"] == sim.servers()[0].ref]) == 1


async def test_what_a_dead_controller_left_is_removed(sim: Simulation, pool: XenPool) -> None:
    """A build that stopped anywhere is found by its ids and made anew; a later one stops an earlier one."""
    inventory = await pool.inventory()
    spec = server_spec(inventory, build=5)
    await pool.create_server(spec, inventory.hosts[0].uuid)
    [vm] = sim.servers()
    sim.pool().database.set(vm, other_config={**vm["other_config"], "ringstead-unfinished": "true"})
    sim.settle()
    found = await pool.find_server("s1")
    assert found is not None
    assert found.unfinished
    with pytest.raises(Superseded):
        await pool.create_server(replace(spec, build=4), inventory.hosts[0].uuid)
    made = await pool.create_server(replace(spec, build=6), inventory.hosts[0].uuid)
    assert (made.build, made.unfinished) == (6, False)
    assert len(sim.servers()) == 1
    assert len(sim.disks()) == 1


async def test_a_cancelled_build_leaves_nothing(sim: Simulation, pool: XenPool) -> None:
    """Cancelling the task that builds is a failure like any other."""
    inventory = await pool.inventory()
    sim.fault("VBD.create", delay_s=30.0)
    with trio.move_on_after(0.5) as scope:
        await pool.create_server(server_spec(inventory), inventory.hosts[0].uuid)
    assert scope.cancelled_caught
    assert sim.servers() == []
    assert sim.disks() == []


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"template": "no such template"}, Refused),
        ({"root": DiskSpec("r", "root", 1 << 20, "no such sr")}, Gone),
        ({"name": "a \x07 bell"}, Refused),
        ({"memory_bytes": 0}, Refused),
        ({"vcpu_count": 0}, Refused),
    ],
)
async def test_what_makes_no_sense_is_refused_and_leaves_nothing(
    sim: Simulation, pool: XenPool, change: dict[str, object], error: type[HypervisorError]
) -> None:
    """With an error of its class."""
    inventory = await pool.inventory()
    with pytest.raises(error):
        await pool.create_server(server_spec(inventory, **change), inventory.hosts[0].uuid)
    assert sim.servers() == []
    assert sim.disks() == []


async def test_an_sr_that_the_host_does_not_reach(pool: XenPool) -> None:
    """Another SR may do."""
    inventory = await pool.inventory()
    with pytest.raises(NextSr):
        await pool.create_server(server_spec(inventory, host=1), inventory.hosts[0].uuid)


async def test_an_image_that_is_none_is_refused_before_anything_is_made(sim: Simulation, pool: XenPool) -> None:
    """And one that is larger than its disk."""
    inventory = await pool.inventory()
    sr = shared_sr(inventory).uuid
    for image, size in ((Image(b"QFI\xfb" + bytes(MIB)), 64 * MIB), (Image(bytes(2 * MIB)), MIB)):
        spec = server_spec(inventory, root=DiskSpec("r", "root", size, sr, image))
        with pytest.raises(Refused):
            await pool.create_server(spec, inventory.hosts[0].uuid)
    assert sim.disks() == []


async def test_power(pool: XenPool) -> None:
    """Each action leads to its state, and is content when that is there already."""
    inventory = await pool.inventory()
    host = inventory.hosts[0].uuid
    await pool.create_server(server_spec(inventory), host)
    for action, state in (
        (PowerAction.START, PowerState.RUNNING),
        (PowerAction.PAUSE, PowerState.PAUSED),
        (PowerAction.UNPAUSE, PowerState.RUNNING),
        (PowerAction.SUSPEND, PowerState.SUSPENDED),
        (PowerAction.RESUME, PowerState.RUNNING),
        (PowerAction.SHUT_DOWN, PowerState.HALTED),
        (PowerAction.START, PowerState.RUNNING),
        (PowerAction.CUT, PowerState.HALTED),
    ):
        for _ in range(2):
            facts = await pool.power("s1", action, host)
            assert facts.power is state, action
            assert facts.host == (host if state in (PowerState.RUNNING, PowerState.PAUSED) else "")
    await pool.power("s1", PowerAction.START, host)
    for action in (PowerAction.REBOOT, PowerAction.RESET):
        assert (await pool.power("s1", action)).power is PowerState.RUNNING


async def test_power_in_the_wrong_state(pool: XenPool) -> None:
    """What means nothing is WrongState, not an accident."""
    inventory = await pool.inventory()
    await pool.create_server(server_spec(inventory), inventory.hosts[0].uuid)
    for action in (PowerAction.PAUSE, PowerAction.REBOOT, PowerAction.SUSPEND, PowerAction.RESUME):
        with pytest.raises(WrongState):
            await pool.power("s1", action)
    with pytest.raises(Gone):
        await pool.power("nobody", PowerAction.START)


async def test_a_guest_that_does_not_obey(sim: Simulation, pool: XenPool) -> None:
    """TryAgain: its user may be saving files."""
    inventory = await pool.inventory()
    await started(pool, inventory)
    sim.fault("VM.clean_shutdown", error=["VM_SHUTDOWN_TIMEOUT", "vm", "1200"], count=1)
    with pytest.raises(TryAgain):
        await pool.power("s1", PowerAction.SHUT_DOWN)


async def test_a_host_without_memory(pool: XenPool) -> None:
    """NextHost, and the server is halted still."""
    inventory = await pool.inventory()
    host = inventory.hosts[0]
    await pool.create_server(server_spec(inventory, memory_bytes=host.memory_free_bytes + MIB), host.uuid)
    with pytest.raises(NextHost):
        await pool.power("s1", PowerAction.START, host.uuid)
    found = await pool.find_server("s1")
    assert found is not None
    assert found.power is PowerState.HALTED


@pytest.mark.parametrize("cut", ["before", "during", "after"])
@pytest.mark.parametrize("method", ["VM.start_on", "VM.unpause"])
async def test_a_connection_cut_in_a_start(sim: Simulation, pool: XenPool, method: str, cut: str) -> None:
    """The server runs, once, or the start can be said again."""
    inventory = await pool.inventory()
    host = inventory.hosts[0].uuid
    await pool.create_server(server_spec(inventory), host)
    sim.fault(method, cut=cut, count=1)
    assert (await pool.power("s1", PowerAction.START, host)).power is PowerState.RUNNING
    assert sim.faults_left() == 0


async def test_a_start_that_fails_half_way_is_taken_back(sim: Simulation, pool: XenPool) -> None:
    """A VM that is left paused would hold its memory for nobody."""
    inventory = await pool.inventory()
    host = inventory.hosts[0].uuid
    await pool.create_server(server_spec(inventory), host)
    sim.fault("VM.unpause", error=["INTERNAL_ERROR", "boom"], count=1)
    with pytest.raises(Refused):
        await pool.power("s1", PowerAction.START, host)
    found = await pool.find_server("s1")
    assert found is not None
    assert found.power is PowerState.HALTED


async def test_destroying_takes_its_disks_only(sim: Simulation, pool: XenPool) -> None:
    """Volumes stay, detached; other people's VMs and disks are as they were; twice is as once."""
    inventory = await pool.inventory()
    await started(pool, inventory)
    await pool.create_disk(DiskSpec("v1", "volume", 8 * MIB, shared_sr(inventory).uuid))
    await pool.attach_disk("s1", "v1")
    await pool.snapshot_server("s1", "snap1", "before")
    others = {vm.ref for vm in sim.rows("VM") if vm not in sim.servers()}
    await pool.destroy_server("s1")
    await pool.destroy_server("s1")
    assert sim.servers() == []
    [volume] = sim.disks()
    assert volume["other_config"]["ringstead-disk"] == "v1"
    assert {vm.ref for vm in sim.rows("VM")} == others
    await pool.delete_disk("v1")
    assert sim.disks() == []


async def test_what_is_not_ours_is_not_touched(sim: Simulation, pool: XenPool) -> None:
    """Another cluster's server of the same id in the same pool is seen, and nothing else."""
    inventory = await pool.inventory()
    await pool.create_server(server_spec(inventory), inventory.hosts[0].uuid)
    [vm], [vdi] = sim.servers(), sim.disks()
    for row in (vm, vdi):
        sim.pool().database.set(row, other_config={**row["other_config"], "ringstead-cluster": "c2"})
    sim.settle()
    assert await pool.find_server("s1") is None
    await pool.destroy_server("s1")
    await pool.delete_disk("s1-root")
    for verb in (pool.remove_vm(vm.uuid), pool.remove_disk(vdi.uuid)):
        with pytest.raises(Refused):
            await verb
    assert sim.servers() == [vm]
    assert sim.disks() == [vdi]
    assert [(facts.server_id, facts.uuid) for facts in (await pool.inventory(fresh=True)).vms] == [("", vm.uuid)]


async def test_leftovers_are_removed_by_uuid(sim: Simulation, pool: XenPool) -> None:
    """What the reconciler found, unless it runs."""
    inventory = await pool.inventory()
    await started(pool, inventory)
    [vm] = sim.servers()
    with pytest.raises(WrongState):
        await pool.remove_vm(vm.uuid)
    await pool.power("s1", PowerAction.CUT)
    await pool.remove_vm(vm.uuid)
    await pool.remove_vm(vm.uuid)
    assert sim.servers() == []
    assert sim.disks() == []


async def test_consoles_and_names(sim: Simulation, pool: XenPool) -> None:
    """A running server has a console, whose address holds no session."""
    inventory = await pool.inventory()
    await pool.create_server(server_spec(inventory), inventory.hosts[0].uuid)
    with pytest.raises(WrongState):
        await pool.console_url("s1")
    await pool.power("s1", PowerAction.START, inventory.hosts[0].uuid)
    url = await pool.console_url("s1")
    assert "/console" in url
    assert "session" not in url
    await pool.set_name("s1", 'näme <with> & "marks"')
    found = await pool.find_server("s1")
    assert found is not None
    assert found.name == 'näme <with> & "marks"'


async def test_a_host_that_dies_while_a_server_starts(sim: Simulation) -> None:
    """Another host: the pool says that it lost this one."""
    sim.pool().latencies = Latencies(factor=1.0)
    async with driving(sim.xen_pool()) as pool:
        inventory = await pool.inventory()
        host = inventory.hosts[1].uuid
        await pool.create_server(server_spec(inventory, host=1), host)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _() -> None:
                with pytest.raises(NextHost):
                    await pool.power("s1", PowerAction.START, host)

            with trio.fail_after(10):
                while not sim.servers()[0]["current_operations"]:
                    await trio.sleep(0.02)
            sim.site.kill(sim.pool(), sim.host(1))
            sim.settle()
