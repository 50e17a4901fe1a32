"""Messages about the power of VMs: start, stop, pause, suspend and back."""

from __future__ import annotations

import contextlib
from typing import Final

from scheduler.xen.simulator import guest, memory, storage
from scheduler.xen.simulator.allowed import PREEMPTED, attached, is_null
from scheduler.xen.simulator.database import Row
from scheduler.xen.simulator.failure import Failure
from scheduler.xen.simulator.jobs import Steps
from scheduler.xen.simulator.messages import message
from scheduler.xen.simulator.pool import Call

SHUTDOWN_PATIENCE: Final = 10
"""How many times the usual time a guest is given to shut down."""


@message("VM.start(vm: VM ref, start_paused: bool, force: bool) -> void")
def start(call: Call, vm: Row, start_paused: bool, force: bool) -> Steps:
    """Start a VM on a host of the pool's choice."""
    with call.doing(vm, "start"):
        yield from boot_on(call, vm, memory.choose_host(call.pool, vm), "vm_start", paused=start_paused)


@message("VM.start_on(vm: VM ref, host: host ref, start_paused: bool, force: bool) -> void")
def start_on(call: Call, vm: Row, host: Row, start_paused: bool, force: bool) -> Steps:
    """Start a VM on a given host."""
    with call.doing(vm, "start_on"):
        memory.assert_can_boot_here(call.pool, vm, host, memory=False)
        yield from boot_on(call, vm, host, "vm_start", paused=start_paused)


def boot_on(call: Call, vm: Row, host: Row, operation: str, *, paused: bool) -> Steps:
    """Build a domain for a VM that is not running, in the time that takes."""
    pool = call.pool
    pool.reach(host)
    with contextlib.ExitStack() as held:
        held.enter_context(call.marking(host, operation))
        held.enter_context(memory.reserving(pool, vm, host))
        for vbd, vdi in memory.disks_of(pool, vm):
            assert_attachable(call, vbd, vdi)
        for vbd in pool.database.all("VBD", vm["VBDs"]):
            held.enter_context(call.marking(vbd, "attach"))
        seconds = pool.latencies.start_s
        if operation == "vm_resume":
            seconds = pool.latencies.memory_s(vm["memory_dynamic_max"])
        yield from call.spend(seconds, host, to=0.95)
        guest.build(pool, vm, host, paused=paused)
        if operation == "vm_start":
            pool.announce("VM_STARTED", "VM", vm)


def assert_attachable(call: Call, vbd: Row, vdi: Row) -> None:
    """Raises Failure VDI_IN_USE when a VDI is attached elsewhere in a way that excludes this VBD."""
    if vdi["sharable"]:
        return
    others = [other for other in attached(call.pool, vdi) if other is not vbd]
    if others and (vbd["mode"] == "RW" or any(other["mode"] == "RW" for other in others)):
        raise Failure("VDI_IN_USE", vdi.ref, "attach")
    for operation in vdi["current_operations"].values():
        if operation in ("destroy", "resize", "copy", "clone"):
            raise Failure("VDI_IN_USE", vdi.ref, operation)


@message("VM.pause(vm: VM ref) -> void")
def pause(call: Call, vm: Row) -> Steps:
    """Stop a VM's vCPUs."""
    yield from _switch(call, vm, "pause", "Paused")


@message("VM.unpause(vm: VM ref) -> void")
def unpause(call: Call, vm: Row) -> Steps:
    """Let a VM's vCPUs run."""
    yield from _switch(call, vm, "unpause", "Running")
    if is_null(vm["guest_metrics"]):
        guest.boot(call.pool, vm)


def _switch(call: Call, vm: Row, operation: str, state: str) -> Steps:
    with call.doing(vm, operation):
        host = guest.host_of(call.pool, vm)
        call.pool.reach(host)
        yield from call.spend(call.pool.latencies.pause_s, host)
        call.database.set(vm, power_state=state)


@message("VM.clean_shutdown(vm: VM ref) -> void")
def clean_shutdown(call: Call, vm: Row) -> Steps:
    """Ask the guest to shut down, and wait until it has."""
    with call.doing(vm, "clean_shutdown"):
        yield from _shut_down_cleanly(call, vm)
        guest.halt(call.pool, vm)
        call.pool.announce("VM_SHUTDOWN", "VM", vm)


def _shut_down_cleanly(call: Call, vm: Row) -> Steps:
    host = guest.host_of(call.pool, vm)
    call.pool.reach(host)
    seconds = call.pool.latencies.clean_shutdown_s
    if guest.behaves(vm, "ignores-shutdown"):
        yield from call.spend(seconds * SHUTDOWN_PATIENCE, host, to=0.9)
        waited = seconds * SHUTDOWN_PATIENCE * call.pool.latencies.factor
        raise Failure("VM_SHUTDOWN_TIMEOUT", vm.ref, f"{waited:.0f}")
    yield from call.spend(seconds, host, to=0.9)


@message("VM.hard_shutdown(vm: VM ref) -> void")
def hard_shutdown(call: Call, vm: Row) -> Steps:
    """Take a VM's domain away; what it was doing is cancelled."""
    preempt(call, vm, "hard_shutdown")
    with call.doing(vm, "hard_shutdown"):
        yield from take_down(call, vm)
        call.pool.announce("VM_SHUTDOWN", "VM", vm)


def take_down(call: Call, vm: Row) -> Steps:
    """Halt a VM at once, whatever its state."""
    if vm["power_state"] != "Suspended":
        host = guest.host_of(call.pool, vm)
        call.pool.reach(host)
        yield from call.spend(call.pool.latencies.hard_shutdown_s, host, cancellable=False)
    guest.halt(call.pool, vm)


def preempt(call: Call, vm: Row, operation: str) -> None:
    """End what gives way to an operation."""
    for reference, what in list(vm["current_operations"].items()):
        job = call.pool.job_of_operation.get(reference)
        if what in PREEMPTED[operation] and job is not None:
            call.pool.jobs.throw(job, Failure("TASK_CANCELLED", reference))


@message("VM.shutdown(vm: VM ref) -> void")
def shutdown(call: Call, vm: Row) -> Steps:
    """Shut down cleanly if the guest can, else at once."""
    with call.doing(vm, "shutdown"):
        if vm["power_state"] == "Running" and not is_null(vm["guest_metrics"]):
            try:
                yield from _shut_down_cleanly(call, vm)
            except Failure as failure:
                if failure.code == "TASK_CANCELLED":
                    raise
        yield from take_down(call, vm)
        call.pool.announce("VM_SHUTDOWN", "VM", vm)


@message("VM.clean_reboot(vm: VM ref) -> void")
def clean_reboot(call: Call, vm: Row) -> Steps:
    """Ask the guest to shut down, then start it again on the same host."""
    with call.doing(vm, "clean_reboot"):
        yield from _shut_down_cleanly(call, vm)
        yield from _restart(call, vm)


@message("VM.hard_reboot(vm: VM ref) -> void")
def hard_reboot(call: Call, vm: Row) -> Steps:
    """Take the domain away and build a new one on the same host."""
    preempt(call, vm, "hard_reboot")
    with call.doing(vm, "hard_reboot"):
        yield from call.spend(call.pool.latencies.hard_shutdown_s, guest.host_of(call.pool, vm))
        yield from _restart(call, vm)


def _restart(call: Call, vm: Row) -> Steps:
    host = guest.host_of(call.pool, vm)
    call.pool.reach(host)
    guest.forget_guest(call.pool, vm)
    yield from call.spend(call.pool.latencies.start_s, host)
    guest.build(call.pool, vm, host, paused=False)
    call.pool.announce("VM_REBOOTED", "VM", vm)


@message("VM.suspend(vm: VM ref) -> void")
def suspend(call: Call, vm: Row) -> Steps:
    """Save a VM's memory to an SR and take its domain away."""
    pool = call.pool
    with call.doing(vm, "suspend"):
        host = guest.host_of(pool, vm)
        pool.reach(host)
        image = suspend_image(call, vm, host)
        try:
            with call.marking(image, "blocked"):
                yield from call.spend(pool.latencies.memory_s(vm["memory_dynamic_max"]), host, to=0.95)
        except Failure:
            storage.drop_vdi(pool, image)
            raise
        pool.database.set(vm, suspend_VDI=image.ref)
        guest.halt(pool, vm, "Suspended")
        pool.announce("VM_SUSPENDED", "VM", vm)


def suspend_image(call: Call, vm: Row, host: Row) -> Row:
    """A VDI for a VM's memory. Raises Failure VM_NO_SUSPEND_SR or SR_FULL."""
    pool, database = call.pool, call.database
    wishes = [vm["suspend_SR"], pool.row["suspend_image_SR"], host["suspend_image_sr"], pool.row["default_SR"]]
    for wish in wishes:
        sr = database.find("SR", wish)
        if sr is not None and memory.sees_sr(pool, host, sr):
            size_bytes = int(vm["memory_dynamic_max"])
            image = storage.make_vdi(
                pool, sr, size_bytes, used_bytes=size_bytes, type="suspend", name_label="Suspend image"
            )
            if not storage.is_thick(sr):
                database.set(image, physical_utilisation=image["virtual_size"])
                storage.adjust(pool, sr, 0, int(image["virtual_size"]))
            return image
    raise Failure("VM_NO_SUSPEND_SR", vm.ref)


@message("VM.resume(vm: VM ref, start_paused: bool, force: bool) -> void")
def resume(call: Call, vm: Row, start_paused: bool, force: bool) -> Steps:
    """Go on where a VM was suspended, on a host of the pool's choice."""
    with call.doing(vm, "resume"):
        yield from _resume_on(call, vm, memory.choose_host(call.pool, vm), start_paused)


@message("VM.resume_on(vm: VM ref, host: host ref, start_paused: bool, force: bool) -> void")
def resume_on(call: Call, vm: Row, host: Row, start_paused: bool, force: bool) -> Steps:
    """Go on where a VM was suspended, on a given host."""
    with call.doing(vm, "resume_on"):
        memory.assert_can_boot_here(call.pool, vm, host, memory=False)
        yield from _resume_on(call, vm, host, start_paused)


def _resume_on(call: Call, vm: Row, host: Row, paused: bool) -> Steps:
    yield from boot_on(call, vm, host, "vm_resume", paused=paused)
    guest.drop_suspend_image(call.pool, vm)
    call.pool.announce("VM_RESUMED", "VM", vm)


@message("VM.power_state_reset(vm: VM ref) -> void")
def power_state_reset(call: Call, vm: Row) -> None:
    """Believe that a VM is halted, as an operator says who knows that its host is gone."""
    host = call.database.find("host", vm["resident_on"])
    for reference in vm["current_operations"]:
        job = call.pool.job_of_operation.get(reference)
        if job is not None:
            call.pool.jobs.throw(job, Failure("TASK_CANCELLED", reference))
    if vm["is_control_domain"]:
        raise Failure("OPERATION_NOT_ALLOWED", "Operations on control domains are not allowed")
    if host is not None and host.ref not in call.pool.dead and vm["power_state"] != "Suspended":
        call.pool.announce("VM_SHUTDOWN", "VM", vm)
    guest.halt(call.pool, vm)
