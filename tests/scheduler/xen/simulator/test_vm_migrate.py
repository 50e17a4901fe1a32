"""Moving VMs: by memory within a pool, with their disks within it and to another."""

from __future__ import annotations

from typing import Any

from tests.scheduler.xen.simulator.world import GIB, Client, World


def receive(client: Client, host: str) -> dict[str, str]:
    """Where to send a VM."""
    dest: dict[str, str] = client("host.migrate_receive", host, client.network(), {})
    return dest


def to_host(client: Client, vm: str, target: Client, host: str) -> list[Any]:
    """The arguments that move a VM with all its disks to a host's own SR."""
    vdi_map = {client.disk_of(vm): target.local_sr(host)}
    vif_map = {vif: target.network() for vif in client.get("VM", vm, "VIFs")}
    return [vm, receive(target, host), True, vdi_map, vif_map, {}]


def local_vm(client: Client, host: str, name: str = "vm") -> str:
    """A VM that runs from its host's own SR."""
    vm = client.vm(name, sr=client.local_sr(host))
    client.write(client.disk_of(vm), 8192, b"its own bytes")
    client("VM.start_on", vm, host, False, False)
    return vm


def test_a_vm_moves_within_its_pool(client: Client) -> None:
    """Memory alone moves where both hosts reach the disks."""
    vm, hosts = client.vm(), client.hosts()
    client("VM.start_on", vm, hosts[0], False, False)
    free = [client("host.compute_free_memory", host) for host in hosts]
    client("VM.pool_migrate", vm, hosts[1], {"live": "true"})
    assert client.get("VM", vm, "resident_on") == hosts[1]
    assert client.get("VM", vm, "scheduled_to_be_resident_on") == "OpaqueRef:NULL"
    assert client("host.compute_free_memory", hosts[0]) > free[0]
    assert client("host.compute_free_memory", hosts[1]) < free[1]
    assert client.get("VM", vm, "power_state") == "Running"


def test_a_migration_counts_on_both_hosts_and_tells_its_progress(slow: World) -> None:
    """While it is under way neither host can promise its memory to another."""
    client = slow.one
    vm, hosts = client.vm(memory_bytes=8 * GIB), client.hosts()
    client("VM.start_on", vm, hosts[0], False, False)
    slow.finish()
    before = client("host.compute_free_memory", hosts[1])
    task = client("Async.VM.pool_migrate", vm, hosts[1], {})
    assert client("host.compute_free_memory", hosts[1]) < before - 8 * GIB
    seen = []
    for _ in range(200):
        if client.get("task", task, "status") != "pending":
            break
        seen.append(client.get("task", task, "progress"))
        slow.advance(1.0)
    assert client.get("task", task, "status") == "success"
    assert len(set(seen)) > 5
    assert seen == sorted(seen)


def test_a_vm_moves_with_its_disk_between_hosts_that_share_none(client: Client) -> None:
    """Storage XenMotion in a pool: same reference, new disk with the same bytes, the old one gone."""
    hosts = client.hosts()
    vm = local_vm(client, hosts[0])
    disk = client.disk_of(vm)
    arguments = to_host(client, vm, client, hosts[1])
    client("VM.assert_can_migrate", *arguments)
    assert client("VM.migrate_send", *arguments) == vm
    assert client.get("VM", vm, "resident_on") == hosts[1]
    moved = client.disk_of(vm)
    assert client.read(moved, 8192, 13) == b"its own bytes"
    assert client.get("VDI", moved, "SR") == client.local_sr(hosts[1])
    assert client.failure("VDI.get_record", disk) == ["HANDLE_INVALID", "VDI", disk]
    assert client.get("SR", client.local_sr(hosts[0]), "virtual_allocation") == 0


def test_a_vm_moves_to_another_pool(slow: World) -> None:
    """The UUID goes with it, the reference does not; nothing stays behind."""
    here, there = slow.clients
    host = there.hosts()[2]
    vm = local_vm(here, here.hosts()[0])
    slow.finish()
    uuid, mac = here.get("VM", vm, "uuid"), here.get("VIF", here.get("VM", vm, "VIFs")[0], "MAC")
    disks = len(here("VDI.get_all"))
    moved = here("VM.migrate_send", *to_host(here, vm, there, host))
    record = there("VM.get_record", moved)
    assert (record["uuid"], record["power_state"], record["resident_on"]) == (uuid, "Running", host)
    assert record["current_operations"] == {}
    assert there.get("VIF", record["VIFs"][0], "MAC") == mac
    assert there.read(there.disk_of(moved), 8192, 13) == b"its own bytes"
    assert here.failure("VM.get_record", vm) == ["HANDLE_INVALID", "VM", vm]
    assert len(here("VDI.get_all")) == disks - 1
    there("VM.hard_shutdown", moved)


def test_a_cancelled_migration_leaves_both_sides_as_they_were(slow: World) -> None:
    """Records, disks, memory and operations are those of before, at whatever moment it is cancelled."""
    here, there = slow.clients
    host = there.hosts()[0]
    vm = local_vm(here, here.hosts()[0])
    slow.finish()

    def state() -> list[Any]:
        free = [client("host.compute_free_memory", host) for client in slow.clients for host in client.hosts()]
        rows = [sorted(client(f"{cls}.get_all")) for client in slow.clients for cls in ("VM", "VDI", "VBD", "VIF")]
        srs = [sr["virtual_allocation"] for client in slow.clients for sr in client.pool.database.rows("SR")]
        return [free, rows, srs, slow.disks.stored(), here.get("VM", vm, "current_operations")]

    before = state()
    for moment in range(12):
        task = here("Async.VM.migrate_send", *to_host(here, vm, there, host))
        slow.advance(0.5 * moment)
        if here.get("task", task, "status") == "success":
            assert moment > 5
            break
        here("task.cancel", task)
        assert here.get("task", task, "status") == "cancelled"
        assert state() == before, moment
        assert here.get("VM", vm, "power_state") == "Running"


def test_three_storage_migrations_at_once_and_no_more(slow: World) -> None:
    """The fourth is told the number; when one has ended it can begin."""
    client = slow.one
    hosts = client.hosts()
    vms = [local_vm(client, hosts[0], f"vm{index}") for index in range(4)]
    slow.finish()
    tasks = [client("Async.VM.migrate_send", *to_host(client, vm, client, hosts[1])) for vm in vms]
    slow.advance(0)
    assert client.get("task", tasks[3], "error_info") == ("TOO_MANY_STORAGE_MIGRATES", "3")
    slow.finish()
    assert [client.get("task", task, "status") for task in tasks[:3]] == ["success"] * 3
    client("VM.migrate_send", *to_host(client, vms[3], client, hosts[1]))


def test_what_is_missing_from_the_maps_is_named(slow: World) -> None:
    """Disks that the destination does not reach, and VIFs that leave their pool, need a place."""
    here, there = slow.clients
    host = there.hosts()[0]
    vm = local_vm(here, here.hosts()[0])
    dest = receive(there, host)
    disk, (vif,) = here.disk_of(vm), here.get("VM", vm, "VIFs")
    assert here.failure("VM.assert_can_migrate", vm, dest, True, {}, {}, {}) == ["VDI_NOT_IN_MAP", disk]
    vdi_map = {disk: there.local_sr(host)}
    assert here.failure("VM.migrate_send", vm, dest, True, vdi_map, {}, {}) == ["VIF_NOT_IN_MAP", vif]
    elsewhere = {disk: there.local_sr(there.hosts()[1])}
    vif_map = {vif: there.network()}
    assert here.failure("VM.assert_can_migrate", vm, dest, True, elsewhere, vif_map, {})[0] == "VM_REQUIRES_SR"


def test_a_disabled_or_dead_host_receives_nothing(slow: World) -> None:
    """The failure names the host."""
    there = slow.clients[1]
    hosts = there.hosts()
    there("host.disable", hosts[1])
    assert there.failure("host.migrate_receive", hosts[1], there.network(), {}) == ["HOST_DISABLED", hosts[1]]
    slow.site.kill(there.pool, there.pool.database.get("host", hosts[2]))
    assert there.failure("host.migrate_receive", hosts[2], there.network(), {}) == ["CANNOT_CONTACT_HOST", hosts[2]]


def test_a_host_that_dies_during_a_migration_fails_it(slow: World) -> None:
    """The destination's death leaves the VM running where it was, and nothing on the other side."""
    here, there = slow.clients
    host = there.hosts()[1]
    vm = local_vm(here, here.hosts()[0])
    slow.finish()
    disks = len(there("VDI.get_all"))
    task = here("Async.VM.migrate_send", *to_host(here, vm, there, host))
    slow.advance(1.0)
    slow.site.kill(there.pool, there.pool.database.get("host", host))
    assert here.get("task", task, "error_info") == ("CANNOT_CONTACT_HOST", host)
    assert here.get("VM", vm, "power_state") == "Running"
    assert here.get("VM", vm, "current_operations") == {}
    assert len(there("VDI.get_all")) == disks
    assert there.failure("VM.get_by_uuid", here.get("VM", vm, "uuid"))[0] == "UUID_INVALID"
