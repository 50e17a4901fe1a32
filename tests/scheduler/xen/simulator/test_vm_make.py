"""Making VMs from templates and from each other, and snapshots of them."""

from __future__ import annotations

from pathlib import Path

from scheduler.xen.simulator.layout import HostPlan
from tests.scheduler.xen.simulator.world import GIB, MIB, Client, World


def test_provisioning_makes_the_disks_of_the_template(client: Client) -> None:
    """A clone of a template is a template; provisioned it is a VM with the disks that its document asks for."""
    template = client("VM.get_by_name_label", "Debian Bookworm 12")[0]
    vm = client("VM.clone", template, "mine")
    assert client.get("VM", vm, "is_a_template")
    assert not client.get("VM", vm, "is_default_template")
    client("VM.provision", vm)
    record = client("VM.get_record", vm)
    assert not record["is_a_template"]
    assert "disks" not in record["other_config"]
    (vbd,) = record["VBDs"]
    vdi = client.get("VBD", vbd, "VDI")
    assert client.get("VDI", vdi, "virtual_size") == 10 * GIB
    assert client.get("VDI", vdi, "SR") == client.get("pool", client("pool.get_all")[0], "default_SR")
    assert client.failure("VM.provision", vm) == ["PROVISION_ONLY_ALLOWED_ON_TEMPLATE"]


def test_provisioning_that_fails_leaves_nothing(world: World) -> None:
    """When the second of two disks does not fit, the first is gone and the template still one."""
    client = world.one
    template = client("VM.get_by_name_label", "Other install media")[0]
    vm = client("VM.clone", template, "mine")
    disk = '<disk device="{}" size="{}" sr="" bootable="false" type="user"/>'
    wishes = disk.format(0, GIB) + disk.format(1, 3000 * GIB)
    client("VM.add_to_other_config", vm, "disks", f"<provision>{wishes}</provision>")
    before = client("VDI.get_all"), world.disks.stored()
    assert client.failure("VM.provision", vm)[0] in ("SR_FULL", "INVALID_VALUE")
    assert (client("VDI.get_all"), world.disks.stored()) == before
    assert client.get("VM", vm, "VBDs") == ()
    assert client.get("VM", vm, "is_a_template")


def test_a_document_that_is_none_is_refused(client: Client) -> None:
    """Nonsense, and XML that expands itself, are invalid values."""
    template = client("VM.get_by_name_label", "Other install media")[0]
    bomb = '<!DOCTYPE x [<!ENTITY a "b">]><provision><disk device="0" size="&a;"/></provision>'
    for document in ("<provision>", "<provision><disk/></provision>", bomb):
        vm = client("VM.clone", template, "mine")
        client("VM.add_to_other_config", vm, "disks", document)
        assert client.failure("VM.provision", vm)[:2] == ["INVALID_VALUE", "other_config:disks"]


def test_default_templates_stay(client: Client) -> None:
    """A default template cannot be destroyed, and says so."""
    template = client("VM.get_by_name_label", "Debian Bookworm 12")[0]
    assert client.failure("VM.destroy", template) == ["VM_CANNOT_DELETE_DEFAULT_TEMPLATE", template]


def test_a_clone_has_the_bytes_and_a_mac_of_its_own(client: Client) -> None:
    """Disks are copied, VIFs too but for their addresses."""
    vm = client.vm()
    client.write(client.disk_of(vm), 4096, b"payload")
    twin = client("VM.clone", vm, "twin")
    assert client.read(client.disk_of(twin), 4096, 7) == b"payload"
    client.write(client.disk_of(twin), 4096, b"changed")
    assert client.read(client.disk_of(vm), 4096, 7) == b"payload"
    macs = [client.get("VIF", client.get("VM", one, "VIFs")[0], "MAC") for one in (vm, twin)]
    assert macs[0] != macs[1]


def test_a_copy_goes_to_another_sr(client: Client) -> None:
    """`VM.copy` with an SR puts the disks there."""
    vm, sr = client.vm(), client.local_sr(client.hosts()[0])
    twin = client("VM.copy", vm, "twin", sr)
    assert client.get("VDI", client.disk_of(twin), "SR") == sr


def test_destroying_a_vm_leaves_its_disks(client: Client) -> None:
    """The VM's devices go, the VDI stays, as in a real pool."""
    vm = client.vm()
    vdi = client.disk_of(vm)
    vbds = client("VBD.get_all")
    client("VM.destroy", vm)
    assert client.get("VDI", vdi, "VBDs") == ()
    assert len(client("VBD.get_all")) == len(vbds) - 1
    client("VDI.destroy", vdi)


def test_a_snapshot_is_reverted_to(client: Client) -> None:
    """Reverting gives back disks and settings, and halts the VM."""
    vm = client.vm()
    client.write(client.disk_of(vm), 0, b"before")
    client("VM.start", vm, False, False)
    snapshot = client("VM.snapshot", vm, "point")
    assert client.get("VM", vm, "snapshots") == (snapshot,)
    assert client.get("VM", snapshot, "snapshot_of") == vm
    assert client.failure("VM.start", snapshot, False, False) == ["VM_IS_SNAPSHOT", snapshot, "start"]
    client("VM.hard_shutdown", vm)
    client.write(client.disk_of(vm), 0, b"after!")
    client("VM.set_name_description", vm, "changed")
    client("VM.start", vm, False, False)
    disks = len(client("VDI.get_all"))
    client("VM.revert", snapshot)
    assert client.get("VM", vm, "power_state") == "Halted"
    assert client.read(client.disk_of(vm), 0, 6) == b"before"
    assert client.get("VM", vm, "name_description") == ""
    assert len(client("VDI.get_all")) == disks
    client("VM.start", vm, False, False)


def test_a_checkpoint_is_resumed(client: Client) -> None:
    """Reverting to a checkpoint leaves the VM suspended where it was."""
    vm = client.vm()
    client("VM.start", vm, False, False)
    checkpoint = client("VM.checkpoint", vm, "point")
    assert client.get("VM", vm, "power_state") == "Running"
    assert client.get("VM", checkpoint, "power_state") == "Suspended"
    client("VM.revert", checkpoint)
    assert client.get("VM", vm, "power_state") == "Suspended"
    client("VM.resume", vm, False, False)


def test_only_snapshots_are_reverted_to(client: Client) -> None:
    """A VM is no snapshot."""
    assert client.failure("VM.revert", client.vm()) == ["REVERT_ONLY_ALLOWED_ON_SNAPSHOT"]


def test_limits_of_memory_are_in_order(client: Client) -> None:
    """A minimum above a maximum is refused and changes nothing."""
    vm = client.vm()
    before = client("VM.get_record", vm)
    assert client.failure("VM.set_memory_limits", vm, 0, GIB, 2 * GIB, GIB)[0] == "MEMORY_CONSTRAINT_VIOLATION"
    assert client.failure("VM.set_VCPUs_max", vm, 0)[0] == "INVALID_VALUE"
    assert client("VM.get_record", vm) == before


def test_a_cancelled_copy_leaves_nothing(slow: World) -> None:
    """Cancelled in the middle, a copy's VM, disk and bytes are gone."""
    client = slow.one
    vm = client.vm()
    client.write(client.disk_of(vm), 0, bytes(range(1, 256)) * 4096)
    client("SR.scan", client.shared_sr())
    before = sorted(client("VDI.get_all")), sorted(client("VM.get_all")), slow.disks.stored()
    used = client.get("SR", client.shared_sr(), "virtual_allocation")
    task = client("Async.VM.copy", vm, "twin", client.local_sr(client.hosts()[0]))
    slow.advance(0.001)
    assert client.get("task", task, "status") == "pending"
    client("task.cancel", task)
    assert client.get("task", task, "status") == "cancelled"
    assert (sorted(client("VDI.get_all")), sorted(client("VM.get_all")), slow.disks.stored()) == before
    assert client.get("SR", client.shared_sr(), "virtual_allocation") == used
    assert client.get("SR", client.local_sr(client.hosts()[0]), "virtual_allocation") == 0


def test_thick_srs_refuse_what_does_not_fit(tmp_path: Path) -> None:
    """On LVM all bytes are taken at once, with the size and what is left in the failure."""
    world = World(tmp_path, host=HostPlan(local_bytes=10 * GIB, local_type="lvm"))
    client = world.one
    sr = client.local_sr(client.hosts()[0])
    first = client.vdi(sr, 6 * GIB)
    record = {"SR": sr, "virtual_size": 5 * GIB, "name_label": "x", "type": "user"}
    assert client.failure("VDI.create", record) == ["SR_FULL", str(5 * GIB), str(4 * GIB)]
    assert client.failure("VDI.resize", first, 11 * GIB) == ["SR_FULL", str(5 * GIB), str(4 * GIB)]
    client("VDI.resize", first, 10 * GIB)
    assert client.get("SR", sr, "physical_utilisation") == 10 * GIB
    client("VDI.destroy", first)
    assert client.get("SR", sr, "physical_utilisation") == 0
    assert client.vdi(sr, MIB)
