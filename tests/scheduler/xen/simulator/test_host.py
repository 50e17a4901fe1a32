"""Hosts: evacuating, dying, coming back."""

from __future__ import annotations

from pathlib import Path

from scheduler.xen.simulator.allowed import POWER_STATES
from scheduler.xen.simulator.dispatch import all_methods
from scheduler.xen.simulator.layout import HostPlan
from tests.scheduler.xen.simulator.world import GIB, Client, World


def test_a_host_is_evacuated(client: Client) -> None:
    """Disabled first; its VMs run elsewhere afterwards, and it takes none until it is enabled."""
    host = client.hosts()[0]
    vms = [client.vm(f"vm{index}") for index in range(3)]
    for vm in vms:
        client("VM.start_on", vm, host, False, False)
    assert client.failure("host.evacuate", host) == ["HOST_NOT_DISABLED"]
    client("host.disable", host)
    assert client("host.get_vms_which_prevent_evacuation", host) == {}
    client("host.evacuate", host)
    assert all(client.get("VM", vm, "resident_on") != host for vm in vms)
    assert client.failure("VM.pool_migrate", vms[0], host, {}) == ["HOST_DISABLED", host]
    client("host.enable", host)
    client("VM.pool_migrate", vms[0], host, {})


def test_what_prevents_an_evacuation_is_named(client: Client) -> None:
    """A VM whose disk only this host reaches cannot leave, and keeps the host from being evacuated."""
    host = client.hosts()[0]
    sr = client.local_sr(host)
    vm = client.vm(sr=sr)
    client("VM.start_on", vm, host, False, False)
    client("host.disable", host)
    assert client("host.get_vms_which_prevent_evacuation", host) == {vm: ["VM_REQUIRES_SR", vm, sr]}
    assert client.failure("host.evacuate", host)[0] == "CANNOT_EVACUATE_HOST"
    assert client.get("VM", vm, "resident_on") == host


def test_a_dead_host_is_called_live_for_a_while(world: World, client: Client) -> None:
    """The pool notices after the lag; then the host can be declared dead, and its VMs are free."""
    host = client.hosts()[1]
    vm = client.vm()
    client("VM.start_on", vm, host, False, False)
    metrics = client.get("host", host, "metrics")
    world.site.kill(client.pool, client.pool.database.get("host", host))
    world.advance(599)
    assert client.get("host_metrics", metrics, "live")
    assert client.get("VM", vm, "power_state") == "Running"
    world.advance(2)
    assert not client.get("host_metrics", metrics, "live")
    assert client.failure("host.declare_dead", client.hosts()[2])[0] == "HOST_IS_LIVE"
    client("host.declare_dead", host)
    assert client.get("VM", vm, "power_state") == "Halted"
    assert client.failure("VM.start_on", vm, host, False, False) == ["HOST_NOT_LIVE"]
    client("VM.start", vm, False, False)


def test_a_host_that_returns_has_booted(world: World, client: Client) -> None:
    """Nothing runs on it, and it is live and takes VMs."""
    host = client.hosts()[1]
    vm = client.vm()
    client("VM.start_on", vm, host, False, False)
    row = client.pool.database.get("host", host)
    world.site.kill(client.pool, row)
    world.advance(700)
    world.site.revive(client.pool, row)
    assert client.get("VM", vm, "power_state") == "Halted"
    client("VM.start_on", vm, host, False, False)


def test_one_host_says_why_it_cannot(tmp_path: Path) -> None:
    """In a pool of one host a start that does not fit says how much is missing."""
    client = World(tmp_path, hosts=1, host=HostPlan(memory_bytes=4 * GIB)).one
    vm = client.vm(memory_bytes=8 * GIB)
    assert client.failure("VM.start", vm, False, False)[0] == "HOST_NOT_ENOUGH_FREE_MEMORY"


def test_memory_that_is_free_is_what_a_vm_can_have(client: Client) -> None:
    """`VM.maximise_memory` of what is free gives a size that starts, and a little more does not."""
    host = client.hosts()[0]
    vm = client.vm()
    size = client("VM.maximise_memory", vm, client("host.compute_free_memory", host), False)
    client("VM.set_memory", vm, size)
    client("VM.assert_can_boot_here", vm, host)
    client("VM.set_memory", vm, size + (2 << 20))
    assert client.failure("VM.assert_can_boot_here", vm, host)[0] == "HOST_NOT_ENOUGH_FREE_MEMORY"


def test_a_host_is_switched_off_and_on(world: World, client: Client) -> None:
    """Disabled and empty only; the pool knows at once, and a reboot brings it back."""
    host = client.hosts()[2]
    vm = client.vm()
    client("VM.start_on", vm, host, False, False)
    assert client.failure("host.shutdown", host) == ["HOST_NOT_DISABLED"]
    client("host.disable", host)
    assert client.failure("host.shutdown", host) == ["HOST_IN_USE", host, "VM", vm]
    client("host.evacuate", host)
    client("host.shutdown", host)
    assert not client.get("host_metrics", client.get("host", host, "metrics"), "live")
    client("host.power_on", host)
    assert client.get("host_metrics", client.get("host", host, "metrics"), "live")
    client("host.disable", host)
    client("host.reboot", host)
    assert client.get("host", host, "current_operations") == {}
    client("VM.pool_migrate", vm, host, {})


def test_what_is_listed_is_served() -> None:
    """Each operation that a VM, a disk or a host can list has a message that does it."""
    methods = set(all_methods())
    by_other_names = {
        "changing_VCPUs": "set_VCPUs_max",
        "changing_VCPUs_live": "set_VCPUs_number_live",
        "changing_static_range": "set_memory_static_range",
        "changing_dynamic_range": "set_memory_dynamic_range",
        "changing_memory_limits": "set_memory_limits",
        "changing_shadow_memory": "set_HVM_shadow_multiplier",
        "changing_NVRAM": "set_NVRAM",
        "make_into_template": "set_is_a_template",
        "reverting": "revert",
    }
    for operation in POWER_STATES:
        assert f"VM.{by_other_names.get(operation, operation)}" in methods
    for cls, operations in {
        "VDI": "clone copy destroy resize resize_online snapshot forget",
        "VBD": "plug unplug unplug_force insert eject",
        "VIF": "plug unplug",
        "host": "evacuate enable shutdown reboot",
        "SR": "scan destroy forget",
    }.items():
        assert {f"{cls}.{operation}" for operation in operations.split()} <= methods
