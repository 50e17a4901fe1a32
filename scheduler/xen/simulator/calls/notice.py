"""Messages about what a pool tells its operators, and about groups of VMs."""

from __future__ import annotations

import calendar
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from scheduler.xen.simulator.database import Row
from scheduler.xen.simulator.failure import Failure
from scheduler.xen.simulator.messages import message
from scheduler.xen.simulator.pool import Call
from scheduler.xen.simulator.records import constructor_fields

_CLASS_OF: Final = {"VM": "VM", "Host": "host", "SR": "SR", "Pool": "pool", "VDI": "VDI"}


@message(
    "message.create(name: string, priority: int, cls: enum cls, obj_uuid: string, body: string) -> message ref",
    asynchronous=False,
)
def create(call: Call, name: str, priority: int, cls: str, obj_uuid: str, body: str) -> Row:
    """Something for the operators to read, about an object."""
    if cls in _CLASS_OF:
        about = call.database.by_uuid(_CLASS_OF[cls], obj_uuid)
        return call.pool.announce(name, cls, about, body, priority)
    raise Failure("INVALID_VALUE", "cls", cls)


@message("message.destroy(self: message ref) -> void", asynchronous=False)
def destroy(call: Call, self: Row) -> None:
    """Remove one that was read."""
    call.database.remove(self)


@message("message.destroy_many(messages: message ref set) -> void")
def destroy_many(call: Call, messages: Sequence[Row]) -> None:
    """Remove several."""
    for row in messages:
        call.database.remove(row)


@message(
    "message.get(cls: enum cls, obj_uuid: string, since: datetime) -> (message ref -> message record) map",
    asynchronous=False,
)
def get(call: Call, cls: str, obj_uuid: str, since: str) -> dict[str, Any]:
    """What was said about an object since a time."""
    return {row.ref: row.record() for row in _since(call, since) if row["cls"] == cls and row["obj_uuid"] == obj_uuid}


@message("message.get_since(since: datetime) -> (message ref -> message record) map", asynchronous=False)
def get_since(call: Call, since: str) -> dict[str, Any]:
    """What was said since a time."""
    return {row.ref: row.record() for row in _since(call, since)}


def _since(call: Call, since: str) -> list[Row]:
    begin = _seconds(since)
    return [row for row in call.database.rows("message") if _seconds(row["timestamp"]) >= begin]


def _seconds(text: str) -> int:
    try:
        return calendar.timegm(time.strptime(text.rstrip("Z").replace("-", ""), "%Y%m%dT%H:%M:%S"))
    except ValueError:
        raise Failure("FIELD_TYPE_ERROR", "since") from None


@message("VM_group.create(args: VM_group record) -> VM_group ref")
def create_group(call: Call, args: Mapping[str, Any]) -> Row:
    """A group of VMs, to be placed apart or as they come."""
    return call.database.add("VM_group", **constructor_fields("VM_group", args))


@message("VM_group.destroy(self: VM_group ref) -> void")
def destroy_group(call: Call, group: Row) -> None:
    """Remove a group; its VMs stay."""
    for vm in call.database.all("VM", group["VMs"]):
        call.database.set(vm, groups=())
    call.database.remove(group)
