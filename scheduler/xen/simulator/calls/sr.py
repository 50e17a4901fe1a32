"""Messages about SRs and the PBDs by which hosts reach them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from scheduler.xen.simulator import storage
from scheduler.xen.simulator.allowed import attached
from scheduler.xen.simulator.database import Row
from scheduler.xen.simulator.failure import Failure
from scheduler.xen.simulator.jobs import Steps
from scheduler.xen.simulator.messages import message
from scheduler.xen.simulator.pool import Call
from scheduler.xen.simulator.records import constructor_fields

KINDS: Final = ("ext", "iso", "lvm", "nfs")
"""The types of SR that are served."""


@message(
    "SR.create(host: host ref, device_config: (string -> string) map, physical_size: int, name_label: string, "
    "name_description: string, type: string, content_type: string, shared: bool, sm_config: (string -> string) map = {}) "
    "-> SR ref"
)
def create(
    call: Call,
    host: Row,
    device_config: Mapping[str, str],
    physical_size: int,
    name_label: str,
    name_description: str,
    kind: str,
    content_type: str,
    shared: bool,
    sm_config: Mapping[str, str],
) -> Row:
    """An SR, with a plugged PBD for each host of the pool that shares it, or for the one."""
    if kind not in KINDS:
        raise Failure("SR_UNKNOWN_DRIVER", kind)
    if physical_size <= 0:
        raise Failure("INVALID_VALUE", "physical_size", str(physical_size))
    call.pool.reach(host)
    sr = call.database.add(
        "SR",
        name_label=name_label,
        name_description=name_description,
        type=kind,
        content_type=content_type,
        shared=shared,
        sm_config=dict(sm_config),
        physical_size=physical_size,
    )
    for each in call.database.rows("host") if shared else [host]:
        call.database.add("PBD", host=each.ref, SR=sr.ref, device_config=dict(device_config), currently_attached=True)
    return sr


@message(
    "SR.introduce(uuid: string, name_label: string, name_description: string, type: string, content_type: string, "
    "shared: bool, sm_config: (string -> string) map = {}) -> SR ref"
)
def introduce(
    call: Call,
    uuid: str,
    name_label: str,
    name_description: str,
    kind: str,
    content_type: str,
    shared: bool,
    sm_config: Mapping[str, str],
) -> Row:
    """An SR without PBDs."""
    if kind not in KINDS:
        raise Failure("SR_UNKNOWN_DRIVER", kind)
    return call.database.add(
        "SR",
        uuid=uuid or call.pool.new_uuid(),
        name_label=name_label,
        name_description=name_description,
        type=kind,
        content_type=content_type,
        shared=shared,
        sm_config=dict(sm_config),
    )


@message("SR.scan(sr: SR ref) -> void")
def scan(call: Call, sr: Row) -> Steps:
    """Look what an SR holds; its figures are right afterwards."""
    with call.doing(sr, "scan"):
        yield from call.spend(call.pool.latencies.scan_s, storage.worker_of(call.pool, sr))
        storage.rescan(call.pool, sr)


@message("SR.update(sr: SR ref) -> void")
def update(call: Call, sr: Row) -> None:
    """Bring an SR's figures up to date."""
    storage.rescan(call.pool, sr)


@message("SR.forget(sr: SR ref) -> void")
def forget(call: Call, sr: Row) -> None:
    """Remove an SR and its VDIs from the records."""
    _remove(call, sr, "forget")


@message("SR.destroy(sr: SR ref) -> void")
def destroy(call: Call, sr: Row) -> None:
    """Remove an SR and all that it holds."""
    _remove(call, sr, "destroy")


def _remove(call: Call, sr: Row, operation: str) -> None:
    with call.doing(sr, operation):
        for vdi in call.database.all("VDI", sr["VDIs"]):
            storage.drop_vdi(call.pool, vdi)
        for pbd in call.database.all("PBD", sr["PBDs"]):
            call.database.remove(pbd)
        call.database.remove(sr)


@message("SR.get_supported_types() -> string set", asynchronous=False)
def get_supported_types(call: Call) -> list[str]:
    """The types of SR that are served."""
    return list(KINDS)


@message("SR.set_name_label(sr: SR ref, value: string) -> void")
def set_name_label(call: Call, sr: Row, value: str) -> None:
    """The name of an SR."""
    call.database.set(sr, name_label=value)


@message("SR.set_name_description(sr: SR ref, value: string) -> void")
def set_name_description(call: Call, sr: Row, value: str) -> None:
    """What an SR is for."""
    call.database.set(sr, name_description=value)


@message("SR.set_shared(sr: SR ref, value: bool) -> void")
def set_shared(call: Call, sr: Row, value: bool) -> None:
    """Whether an SR is meant for all hosts."""
    call.database.set(sr, shared=value)


@message("PBD.create(args: PBD record) -> PBD ref")
def create_pbd(call: Call, args: Mapping[str, Any]) -> Row:
    """A way from a host to an SR, not plugged yet."""
    values = constructor_fields("PBD", args)
    host = call.database.get("host", values.get("host", call.database.null))
    sr = call.database.get("SR", values.get("SR", call.database.null))
    for pbd in call.database.all("PBD", sr["PBDs"]):
        if pbd["host"] == host.ref:
            raise Failure("PBD_EXISTS", sr.ref, host.ref, pbd.ref)
    return call.database.add("PBD", **values)


@message("PBD.plug(self: PBD ref) -> void")
def plug(call: Call, pbd: Row) -> Steps:
    """Have a host reach an SR."""
    host = call.database.get("host", pbd["host"])
    call.pool.reach(host)
    yield from call.spend(call.pool.latencies.scan_s, host)
    call.database.set(pbd, currently_attached=True)


@message("PBD.unplug(self: PBD ref) -> void")
def unplug(call: Call, pbd: Row) -> Steps:
    """Have a host reach an SR no more; not while a VM on it uses one of its VDIs."""
    host = call.database.get("host", pbd["host"])
    call.pool.reach(host)
    _assert_idle(call, pbd, host)
    yield from call.spend(call.pool.latencies.scan_s, host)
    _assert_idle(call, pbd, host)
    call.database.set(pbd, currently_attached=False)


def _assert_idle(call: Call, pbd: Row, host: Row) -> None:
    sr = call.database.get("SR", pbd["SR"])
    for vdi in call.database.all("VDI", sr["VDIs"]):
        for vbd in attached(call.pool, vdi):
            vm = call.database.get("VM", vbd["VM"])
            if host.ref in (vm["resident_on"], vm["scheduled_to_be_resident_on"]):
                raise Failure("VDI_IN_USE", vdi.ref, "PBD.unplug")


@message("PBD.destroy(self: PBD ref) -> void")
def destroy_pbd(call: Call, pbd: Row) -> None:
    """Forget the way from a host to an SR."""
    if pbd["currently_attached"]:
        raise Failure("OPERATION_NOT_ALLOWED", "the PBD is plugged")
    call.database.remove(pbd)


@message("PBD.set_device_config(self: PBD ref, value: (string -> string) map) -> void")
def set_device_config(call: Call, pbd: Row, value: Mapping[str, str]) -> None:
    """How a host reaches an SR."""
    call.database.set(pbd, device_config=dict(value))
