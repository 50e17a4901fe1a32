"""VDIs, SRs, and VBDs that are attached and detached while their VM runs."""

from __future__ import annotations

from tests.scheduler.xen.simulator.world import GIB, MIB, Client, World


def test_an_sr_counts_what_it_promised_and_what_it_holds(client: Client) -> None:
    """Virtual allocation by size, physical utilisation by what was written."""
    sr = client.shared_sr()
    vdi = client.vdi(sr, 100 * MIB)
    assert client.get("SR", sr, "virtual_allocation") == 100 * MIB
    assert client.get("SR", sr, "physical_utilisation") == 0
    client.write(vdi, 0, b"x" * MIB)
    client("SR.scan", sr)
    assert MIB <= client.get("SR", sr, "physical_utilisation") < 2 * MIB
    assert client.get("VDI", vdi, "physical_utilisation") == client.get("SR", sr, "physical_utilisation")
    client("VDI.destroy", vdi)
    assert client.get("SR", sr, "virtual_allocation") == client.get("SR", sr, "physical_utilisation") == 0


def test_sizes_are_rounded_up(client: Client) -> None:
    """A pool gives whole blocks; none and too much are refused."""
    sr = client.shared_sr()
    assert client.get("VDI", client.vdi(sr, 1), "virtual_size") == 2 * MIB
    for size in (0, -1, 1 << 60):
        assert client.failure("VDI.create", {"SR": sr, "virtual_size": size}) == [
            "INVALID_VALUE",
            "virtual_size",
            str(size),
        ]


def test_a_disk_grows_and_does_not_shrink(client: Client) -> None:
    """Resizing keeps the bytes; smaller names the least size."""
    vdi = client.vdi(client.shared_sr(), 10 * MIB)
    client.write(vdi, 0, b"kept")
    client("VDI.resize", vdi, 20 * MIB)
    assert client.get("VDI", vdi, "virtual_size") == 20 * MIB
    assert client.read(vdi, 0, 4) == b"kept"
    assert client.failure("VDI.resize", vdi, 10 * MIB) == ["VDI_TOO_SMALL", vdi, str(20 * MIB)]


def test_an_attached_disk_grows_online_only(client: Client) -> None:
    """`resize` wants the disk detached, `resize_online` does not."""
    vm = client.vm()
    disk = client.disk_of(vm)
    client("VM.start", vm, False, False)
    assert client.failure("VDI.resize", disk, GIB) == ["VDI_IN_USE", disk, "resize"]
    client("VDI.resize_online", disk, GIB)


def test_a_disk_is_plugged_and_unplugged(client: Client) -> None:
    """Attached it cannot be destroyed, and its VBD neither; detached both can."""
    vm = client.vm()
    client("VM.start", vm, False, False)
    vdi = client.vdi(client.shared_sr())
    vbd = client.vbd(vm, vdi)
    client("VBD.plug", vbd)
    assert client.get("VBD", vbd, "device") == "xvdb"
    assert client.failure("VBD.plug", vbd) == ["DEVICE_ALREADY_ATTACHED", vbd]
    assert client.failure("VDI.destroy", vdi) == ["VDI_IN_USE", vdi, "destroy"]
    assert client.failure("VBD.destroy", vbd)[0] == "OPERATION_NOT_ALLOWED"
    client("VBD.unplug", vbd)
    assert client.failure("VBD.unplug", vbd) == ["DEVICE_ALREADY_DETACHED", vbd]
    client("VBD.destroy", vbd)
    client("VDI.destroy", vdi)


def test_a_guest_that_holds_its_disks_rejects_the_detach(client: Client) -> None:
    """The disk stays attached until it is forced, or until the guest lets go."""
    vm = client.vm()
    client("VM.add_to_other_config", vm, "sim:guest", "holds-disks")
    client("VM.start", vm, False, False)
    vbd = client.vbd(vm, client.vdi(client.shared_sr()))
    client("VBD.plug", vbd)
    assert client.failure("VBD.unplug", vbd)[:3] == ["DEVICE_DETACH_REJECTED", "VBD", vbd]
    assert client.get("VBD", vbd, "currently_attached")
    client("VM.remove_from_other_config", vm, "sim:guest")
    client("VBD.unplug", vbd)


def test_a_disk_is_written_by_one_vm_only(client: Client) -> None:
    """A VDI that a VM writes is refused to a second one, at a plug and at a start."""
    first, second = client.vm("first"), client.vm("second")
    vdi = client.vdi(client.shared_sr())
    client.vbd(first, vdi)
    client("VM.start", first, False, False)
    other = client.vbd(second, vdi)
    assert client.failure("VM.start", second, False, False) == ["VDI_IN_USE", vdi, "attach"]
    client("VBD.destroy", other)
    client("VM.start", second, False, False)
    other = client.vbd(second, vdi)
    assert client.failure("VBD.plug", other) == ["VDI_IN_USE", vdi, "attach"]


def test_positions_are_unique(client: Client) -> None:
    """A position that is taken or is none is refused; `autodetect` finds a free one."""
    vm, sr = client.vm(), client.shared_sr()
    record = {"VM": vm, "VDI": client.vdi(sr), "userdevice": "0", "mode": "RW", "type": "Disk"}
    assert client.failure("VBD.create", record) == ["DEVICE_ALREADY_EXISTS", "0"]
    assert client.failure("VBD.create", {**record, "userdevice": "x9"}) == ["INVALID_DEVICE", "x9"]
    vbd = client("VBD.create", {**record, "userdevice": "autodetect"})
    assert client.get("VBD", vbd, "userdevice") == "1"
    assert client("VM.get_allowed_VBD_devices", vm)[0] == "2"


def test_discs_go_in_and_out_of_drives(client: Client) -> None:
    """A CD drive is empty or holds an ISO; a disk is no drive."""
    vm = client.vm()
    drive = client("VBD.create", {"VM": vm, "empty": True, "type": "CD", "mode": "RO", "userdevice": "3"})
    iso = client("VDI.get_by_name_label", "guest-tools.iso")[0]
    assert client.failure("VBD.eject", drive) == ["VBD_IS_EMPTY", drive]
    client("VBD.insert", drive, iso)
    assert client.failure("VBD.insert", drive, iso) == ["VBD_NOT_EMPTY", drive]
    client("VM.start", vm, False, False)
    assert client.get("VBD", drive, "currently_attached")
    client("VBD.eject", drive)
    disk = client.get("VM", vm, "VBDs")[0]
    assert client.failure("VBD.eject", disk) == ["VBD_NOT_REMOVABLE_MEDIA", disk]
    assert client.failure("VDI.destroy", iso)[0] in ("SR_OPERATION_NOT_SUPPORTED", "VDI_IN_USE")


def test_snapshots_of_disks_keep_their_bytes(client: Client) -> None:
    """A snapshot is what the disk was; a clone is a disk of its own."""
    vdi = client.vdi(client.shared_sr())
    client.write(vdi, 0, b"then")
    snapshot = client("VDI.snapshot", vdi)
    client.write(vdi, 0, b"now!")
    assert client.read(snapshot, 0, 4) == b"then"
    assert client.get("VDI", vdi, "snapshots") == (snapshot,)
    clone = client("VDI.clone", snapshot)
    assert client.read(clone, 0, 4) == b"then"
    assert not client.get("VDI", clone, "is_a_snapshot")


def test_a_pbd_in_use_is_not_unplugged(client: Client) -> None:
    """While a VM on the host uses a disk there; without any PBD an SR does nothing."""
    host = client.hosts()[1]
    sr = client.local_sr(host)
    vm = client.vm(sr=sr)
    client("VM.start", vm, False, False)
    (pbd,) = client.get("SR", sr, "PBDs")
    assert client.failure("PBD.unplug", pbd)[0] == "VDI_IN_USE"
    client("VM.hard_shutdown", vm)
    client("PBD.unplug", pbd)
    assert client.failure("VDI.create", {"SR": sr, "virtual_size": MIB}) == ["SR_HAS_NO_PBDS", sr]
    assert client.failure("VM.start", vm, False, False) == ["NO_HOSTS_AVAILABLE"]
    client("PBD.plug", pbd)
    client("VM.start", vm, False, False)


def test_an_sr_is_made_and_forgotten(client: Client) -> None:
    """Made for one host or all; forgotten only unplugged."""
    host = client.hosts()[0]
    sr = client("SR.create", host, {}, str(GIB), "new", "", "lvm", "user", False, {})
    (pbd,) = client.get("SR", sr, "PBDs")
    assert client.failure("SR.forget", sr) == ["SR_HAS_PBD", sr]
    client("PBD.unplug", pbd)
    client("SR.forget", sr)
    assert client.failure("SR.get_uuid", sr) == ["HANDLE_INVALID", "SR", sr]
    assert client.failure("SR.create", host, {}, "1", "x", "", "floppy", "user", False)[0] == "SR_UNKNOWN_DRIVER"


def test_a_running_migration_blocks_the_disk(slow: World) -> None:
    """A disk that is being copied can be neither destroyed nor copied again."""
    client = slow.one
    vdi = client.vdi(client.shared_sr())
    client.write(vdi, 0, b"x" * MIB)
    client("SR.scan", client.shared_sr())
    task = client("Async.VDI.copy", vdi, client.local_sr(client.hosts()[0]))
    assert client.failure("VDI.destroy", vdi) == ["OTHER_OPERATION_IN_PROGRESS", "VDI", vdi, "copy", task]
    slow.finish()
    result = client.get("task", task, "result")
    copy = result.removeprefix("<value>").removesuffix("</value>")
    assert client.read(copy, 0, 1) == b"x"


def test_a_disk_moves_under_a_running_vm(slow: World) -> None:
    """`VDI.pool_migrate` leaves the VM running, on another disk with the same bytes."""
    client = slow.one
    vm, host = client.vm(), client.hosts()[0]
    disk = client.disk_of(vm)
    client.write(disk, 100, b"payload")
    assert client.failure("VDI.pool_migrate", disk, client.local_sr(host), {}) == ["VDI_NEEDS_VM_FOR_MIGRATE", disk]
    client("VM.start_on", vm, host, False, False)
    moved = client("VDI.pool_migrate", disk, client.local_sr(host), {})
    assert client.disk_of(vm) == moved
    assert client.read(moved, 100, 7) == b"payload"
    assert client.get("VM", vm, "power_state") == "Running"
    assert client.failure("VDI.get_uuid", disk)[0] == "HANDLE_INVALID"
