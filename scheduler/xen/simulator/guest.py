"""Domains and the guests in them: what changes in the records when one is built, moved or gone.

These are the commits of the messages about power: no time passes in them and none fails, so a record is never seen
half-way. How a guest behaves can be ordered in its `other_config` under `sim:guest` (see docs/xensim.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from scheduler.xen.simulator import memory, storage
from scheduler.xen.simulator.allowed import GUEST
from scheduler.xen.simulator.database import Row

if TYPE_CHECKING:
    from scheduler.xen.simulator.pool import Pool

BEHAVIOURS: Final = frozenset({"no-agent", "ignores-shutdown", "holds-disks"})


def behaves(vm: Row, behaviour: str) -> bool:
    """Whether a guest was told to behave so."""
    return behaviour in vm["other_config"].get(GUEST, "").split(",")


def device_name(position: str) -> str:
    """The guest's name for a disk: xvda for position 0."""
    number = int(position)
    return f"xvd{chr(ord('a') + number)}" if number < 26 else f"xvd{number}"


def host_of(pool: Pool, vm: Row) -> Row:
    """The host on which a VM runs."""
    return pool.database.get("host", vm["resident_on"])


def build(pool: Pool, vm: Row, host: Row, *, paused: bool) -> None:
    """A domain for a VM on a host, its devices attached; the guest boots unless paused."""
    database = pool.database
    for vbd in database.all("VBD", vm["VBDs"]):
        database.set(vbd, currently_attached=not vbd["empty"], device=device_name(vbd["userdevice"]))
    for vif in database.all("VIF", vm["VIFs"]):
        database.set(vif, currently_attached=True)
    _console(pool, vm, host)
    database.set(
        vm,
        power_state="Paused" if paused else "Running",
        resident_on=host.ref,
        scheduled_to_be_resident_on=database.null,
        domid=pool.random.randrange(1, 30000),
        memory_target=vm["memory_dynamic_max"],
        memory_overhead=memory.overhead_bytes(vm),
    )
    metrics = database.find("VM_metrics", vm["metrics"])
    if metrics is not None:
        database.set(
            metrics, start_time=pool.now(), VCPUs_number=vm["VCPUs_at_startup"], hvm=True, current_domain_type="hvm"
        )
    memory.balance(pool, host)
    if not paused:
        boot(pool, vm)


def _console(pool: Pool, vm: Row, host: Row) -> None:
    for console in pool.database.all("console", vm["consoles"]):
        pool.database.remove(console)
    uuid = pool.new_uuid()
    location = f"{pool.url(host)}/console?uuid={uuid}"
    pool.database.add("console", uuid=uuid, VM=vm.ref, protocol="rfb", location=location)


def boot(pool: Pool, vm: Row) -> None:
    """Have the guest's agent report after the time that booting takes."""
    if behaves(vm, "no-agent"):
        return
    domid = vm["domid"]

    def report() -> None:
        alive = pool.database.find("VM", vm.ref) is vm and vm["domid"] == domid and vm["power_state"] == "Running"
        if alive and pool.database.find("VM_guest_metrics", vm["guest_metrics"]) is None:
            _report(pool, vm)

    pool.later(pool.latencies.boot_s * pool.latencies.factor, report)


def _report(pool: Pool, vm: Row) -> None:
    networks = {}
    for vif in pool.database.all("VIF", vm["VIFs"]):
        octets = [int(part, 16) for part in vif["MAC"].split(":")[3:]] if vif["MAC"].count(":") == 5 else [0, 0, 1]
        networks[f"{vif['device']}/ip"] = "10." + ".".join(str(octet) for octet in octets)
    metrics = pool.database.add(
        "VM_guest_metrics",
        live=True,
        last_updated=pool.now(),
        PV_drivers_detected=True,
        PV_drivers_up_to_date=True,
        PV_drivers_version={"major": "8", "minor": "4", "micro": "0", "build": "1"},
        os_version={"name": "Simulated Linux", "distro": "simulated", "major": "1", "minor": "0", "uname": "6.1.0"},
        networks=networks,
        other={"feature-shutdown": "1", "feature-reboot": "1", "feature-suspend": "1", "feature-balloon": "1"},
        can_use_hotplug_vbd="yes",
        can_use_hotplug_vif="yes",
    )
    pool.database.set(vm, guest_metrics=metrics.ref)


def forget_guest(pool: Pool, vm: Row) -> None:
    """The guest's agent is gone: at a shutdown, at the start of a reboot."""
    metrics = pool.database.find("VM_guest_metrics", vm["guest_metrics"])
    pool.database.set(vm, guest_metrics=pool.database.null)
    if metrics is not None:
        pool.database.remove(metrics)


def halt(pool: Pool, vm: Row, state: str = "Halted") -> None:
    """No domain any more: Halted, or Suspended."""
    database = pool.database
    host = database.find("host", vm["resident_on"])
    for device in [*database.all("VBD", vm["VBDs"]), *database.all("VIF", vm["VIFs"])]:
        database.set(device, currently_attached=False)
    for console in database.all("console", vm["consoles"]):
        database.remove(console)
    if state == "Halted":
        forget_guest(pool, vm)
        drop_suspend_image(pool, vm)
    database.set(
        vm,
        power_state=state,
        resident_on=database.null,
        scheduled_to_be_resident_on=database.null,
        domid=-1,
        memory_target=0,
    )
    if host is not None:
        memory.balance(pool, host)


def drop_suspend_image(pool: Pool, vm: Row) -> None:
    """Forget the memory of a suspended VM."""
    image = pool.database.find("VDI", vm["suspend_VDI"])
    pool.database.set(vm, suspend_VDI=pool.database.null)
    if image is not None:
        storage.drop_vdi(pool, image)


def move(pool: Pool, vm: Row, host: Row) -> None:
    """A running VM is on another host of its pool now."""
    source = pool.database.find("host", vm["resident_on"])
    pool.database.set(vm, resident_on=host.ref, scheduled_to_be_resident_on=pool.database.null)
    _console(pool, vm, host)
    for changed in (source, host):
        if changed is not None:
            memory.balance(pool, changed)
