"""Starting, stopping, pausing and suspending VMs."""

from __future__ import annotations

import pytest

from scheduler.xen.simulator.dispatch import Operation
from scheduler.xen.simulator.failure import Failure
from tests.scheduler.xen.simulator.world import GIB, Client, World


def test_a_vm_starts_paused_and_is_unpaused(client: Client) -> None:
    """`start_on` puts a VM on the host that was named, and its devices are attached."""
    vm, host = client.vm(), client.hosts()[1]
    client("VM.start_on", vm, host, True, False)
    record = client("VM.get_record", vm)
    assert (record["power_state"], record["resident_on"]) == ("Paused", host)
    assert client.get("VBD", record["VBDs"][0], "currently_attached")
    assert client.get("VBD", record["VBDs"][0], "device") == "xvda"
    client("VM.unpause", vm)
    assert client.get("VM", vm, "power_state") == "Running"
    assert client.get("host", host, "resident_VMs")[-1] == vm


def test_the_guest_reports_after_booting(slow: World) -> None:
    """Guest metrics appear some time after the start, and go with the shutdown."""
    client = slow.one
    vm = client.vm()
    client("VM.start", vm, False, False)
    assert client.get("VM", vm, "guest_metrics") == "OpaqueRef:NULL"
    assert client.failure("VM.clean_shutdown", vm) == ["VM_LACKS_FEATURE", vm]
    slow.finish()
    metrics = client("VM_guest_metrics.get_record", client.get("VM", vm, "guest_metrics"))
    assert metrics["PV_drivers_detected"]
    assert list(metrics["networks"]) == ["0/ip"]
    client("VM.clean_shutdown", vm)
    assert client.get("VM", vm, "guest_metrics") == "OpaqueRef:NULL"


def test_a_guest_can_ignore_a_shutdown(slow: World) -> None:
    """A guest that was told to ignores clean shutdowns until the time is over, and a hard one ends it."""
    client = slow.one
    vm = client.vm()
    client("VM.add_to_other_config", vm, "sim:guest", "ignores-shutdown")
    client("VM.start", vm, False, False)
    slow.finish()
    assert client.failure("VM.clean_shutdown", vm)[:2] == ["VM_SHUTDOWN_TIMEOUT", vm]
    assert client.get("VM", vm, "power_state") == "Running"
    client("VM.hard_shutdown", vm)
    assert client.get("VM", vm, "power_state") == "Halted"


def test_a_hard_shutdown_ends_a_clean_one(slow: World) -> None:
    """What gives way is cancelled, and fails as cancelled."""
    client = slow.one
    vm = client.vm()
    client("VM.start", vm, False, False)
    slow.finish()
    clean = client.raw("VM.clean_shutdown", vm)
    assert isinstance(clean, Operation)
    client("VM.hard_shutdown", vm)
    assert client.get("VM", vm, "power_state") == "Halted"
    with pytest.raises(Failure, match="TASK_CANCELLED"):
        clean.answer()
    assert client.get("VM", vm, "current_operations") == {}


def test_operations_exclude_each_other(slow: World) -> None:
    """A second operation is told which one is in progress, and under which task."""
    client = slow.one
    vm = client.vm()
    task = client("Async.VM.start", vm, False, False)
    assert client.failure("VM.start", vm, False, False) == ["OTHER_OPERATION_IN_PROGRESS", "VM", vm, "start", task]
    assert client.get("VM", vm, "current_operations") == {task: "start"}
    slow.finish()
    assert client.get("task", task, "status") == "success"
    assert client.get("VM", vm, "current_operations") == {}


def test_memory_is_promised_from_the_moment_a_start_begins(slow: World) -> None:
    """Two starts that together do not fit cannot both begin."""
    client, host = slow.one, slow.one.hosts()[0]
    free = client("host.compute_free_memory", host)
    size = (free * 3 // 5) // (1 << 20) * (1 << 20)
    first, second = client.vm("first", memory_bytes=size), client.vm("second", memory_bytes=size)
    task = client("Async.VM.start_on", first, host, False, False)
    assert client.get("VM", first, "scheduled_to_be_resident_on") == host
    code, needed, available = client.failure("VM.start_on", second, host, False, False)
    assert code == "HOST_NOT_ENOUGH_FREE_MEMORY"
    assert int(needed) > int(available) == client("host.compute_free_memory", host)
    client("task.cancel", task)
    assert client("host.compute_free_memory", host) == free
    client("VM.start_on", second, host, False, False)


def test_memory_is_counted_at_the_dynamic_minimum(client: Client) -> None:
    """A host takes as many guests as can be squeezed into it, and squeezes them alike."""
    host = client.hosts()[0]
    free = client("host.compute_free_memory", host)
    vms = []
    for index in range(4):
        vm = client.vm(f"vm{index}", memory_bytes=20 * GIB)
        client("VM.set_memory_limits", vm, GIB, 20 * GIB, 10 * GIB, 20 * GIB)
        client("VM.start_on", vm, host, False, False)
        vms.append(vm)
    overhead = client.get("VM", vms[0], "memory_overhead")
    assert client("host.compute_free_memory", host) == free - 4 * (10 * GIB + overhead)
    actual = [client.get("VM_metrics", client.get("VM", vm, "metrics"), "memory_actual") for vm in vms]
    assert len(set(actual)) == 1
    assert 10 * GIB <= actual[0] < 20 * GIB
    assert sum(actual) + 4 * overhead <= free


def test_a_vm_is_suspended_and_resumed_elsewhere(client: Client) -> None:
    """The memory lies in an SR in between, and is gone from there afterwards."""
    vm, hosts, sr = client.vm(), client.hosts(), client.shared_sr()
    before = client.get("SR", sr, "physical_utilisation")
    client("VM.start_on", vm, hosts[0], False, False)
    client("VM.suspend", vm)
    assert client.get("VM", vm, "power_state") == "Suspended"
    image = client.get("VM", vm, "suspend_VDI")
    assert client.get("VDI", image, "type") == "suspend"
    assert client.get("SR", sr, "physical_utilisation") >= before + GIB
    client("VM.resume_on", vm, hosts[2], False, False)
    assert client.get("VM", vm, "resident_on") == hosts[2]
    assert client.failure("VDI.get_record", image)[0] == "HANDLE_INVALID"
    assert client.get("SR", sr, "physical_utilisation") == before


def test_templates_do_not_start(client: Client) -> None:
    """A template says that it is one."""
    template = client("VM.get_by_name_label", "Debian Bookworm 12")[0]
    assert client.failure("VM.start", template, False, False)[:2] == ["VM_IS_TEMPLATE", template]


def test_a_wrong_power_state_names_the_right_ones(client: Client) -> None:
    """Expected states first, the actual one last."""
    vm = client.vm()
    assert client.failure("VM.hard_reboot", vm) == ["VM_BAD_POWER_STATE", vm, "paused, running", "halted"]


def test_a_host_that_cannot_reach_a_disk_cannot_run_the_vm(client: Client) -> None:
    """A VM with a disk on one host's SR starts there and nowhere else, and the pool finds that host."""
    hosts = client.hosts()
    sr = client.local_sr(hosts[2])
    vm = client.vm(sr=sr)
    assert client.failure("VM.start_on", vm, hosts[0], False, False) == ["VM_REQUIRES_SR", vm, sr]
    client("VM.start", vm, False, False)
    assert client.get("VM", vm, "resident_on") == hosts[2]


def test_no_host_is_told_when_none_can(client: Client) -> None:
    """Without a host that could, NO_HOSTS_AVAILABLE."""
    vm = client.vm()
    for host in client.hosts():
        client("host.disable", host)
    assert client.failure("VM.start", vm, False, False) == ["NO_HOSTS_AVAILABLE"]
    host = client.hosts()[0]
    assert client.failure("VM.start_on", vm, host, False, False) == ["HOST_DISABLED", host]


def test_groups_are_kept_apart(client: Client) -> None:
    """VMs of an anti-affinity group start on hosts of their own while there are such."""
    group = client("VM_group.create", {"name_label": "apart", "placement": "anti_affinity"})
    vms = [client.vm(f"vm{index}") for index in range(3)]
    for vm in vms:
        client("VM.set_groups", vm, [group])
        client("VM.start", vm, False, False)
    assert {client.get("VM", vm, "resident_on") for vm in vms} == set(client.hosts())
    assert client.get("VM_group", group, "VMs") == tuple(vms)


def test_reset_frees_a_vm_of_a_dead_host(world: World, client: Client) -> None:
    """A VM of a dead host is reset, and starts on another."""
    vm, hosts = client.vm(), client.hosts()
    client("VM.start_on", vm, hosts[2], False, False)
    world.site.kill(client.pool, client.pool.database.get("host", hosts[2]))
    assert client.failure("VM.hard_shutdown", vm) == ["CANNOT_CONTACT_HOST", hosts[2]]
    world.advance(601)
    assert client.failure("VM.hard_shutdown", vm) == ["HOST_OFFLINE", hosts[2]]
    assert client.get("VM", vm, "power_state") == "Running"
    client("VM.power_state_reset", vm)
    client("VM.start", vm, False, False)
    assert client.get("VM", vm, "resident_on") in hosts[:2]
