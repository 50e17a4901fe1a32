"""Which operations an object allows now: one answer both for accepting a message and for `allowed_operations`.

`refusal` says why not, as the failure that the client gets; `allowed_operations` is the list of what it does not refuse.
Since both come from one function they cannot disagree. What depends on more than the object's own state (memory on a
host, space on an SR) is no part of it, as in a real pool.

`refresh` recomputes the lists of what was touched and of its neighbours: a VM's power state decides what its VBDs
allow, a VBD's attachment what its VDI does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from scheduler.xen.simulator.database import Row
from scheduler.xen.simulator.failure import Failure
from scheduler.xen.simulator.schema import NULL, words
from scheduler.xen.simulator.tables.words import ENUMS

if TYPE_CHECKING:
    from scheduler.xen.simulator.pool import Pool

Refuse = Callable[["Pool", Row, str], Failure | None]


def _states(words: str) -> frozenset[str]:
    return frozenset({"h": "Halted", "p": "Paused", "r": "Running", "s": "Suspended"}[letter] for letter in words)


POWER_STATES: Final[Mapping[str, frozenset[str]]] = {
    operation: _states(letters)
    for letters, operations in {
        "h": "changing_VCPUs changing_static_range changing_memory_limits changing_shadow_memory changing_NVRAM "
        "make_into_template provision start start_on clone copy",
        "p": "unpause",
        "s": "resume resume_on",
        "r": "clean_reboot clean_shutdown changing_VCPUs_live pause pool_migrate suspend",
        "hr": "changing_dynamic_range",
        "hs": "destroy",
        "pr": "hard_reboot",
        "psr": "hard_shutdown shutdown checkpoint get_boot_record",
        "hsr": "migrate_send",
        "hpsr": "assert_operation_valid power_state_reset revert reverting snapshot update_allowed_operations",
    }.items()
    for operation in operations.split()
}
"""By operation, the power states in which a VM allows it; operations that are not here are not served."""

_OF_TEMPLATES: Final = words(
    "changing_dynamic_range changing_static_range changing_memory_limits changing_shadow_memory "
    "changing_VCPUs changing_NVRAM clone copy destroy provision assert_operation_valid "
    "update_allowed_operations make_into_template"
)
_OF_SNAPSHOTS: Final = words("clone copy destroy revert assert_operation_valid update_allowed_operations")
_BESIDE_ANY: Final = words("assert_operation_valid update_allowed_operations get_boot_record")
_LONG_COPIES: Final = frozenset({"clone", "copy"})
PREEMPTED: Final[Mapping[str, frozenset[str]]] = {
    "hard_shutdown": words("clean_shutdown clean_reboot shutdown hard_reboot pool_migrate suspend"),
    "hard_reboot": words("clean_shutdown clean_reboot pool_migrate suspend"),
}
"""What gives way to an operation, instead of standing in its way."""
_WANT_AGENT: Final = frozenset({"clean_shutdown", "clean_reboot"})
GUEST: Final = "sim:guest"
"""The `other_config` key of a VM that says how its guest behaves; see docs/xensim.md."""


def busy(row: Row, beside: frozenset[str] = frozenset()) -> Failure | None:
    """The failure that says what else an object is doing, other than what may go on beside."""
    for operation_ref, operation in row["current_operations"].items():
        if operation not in beside and operation not in _BESIDE_ANY:
            return Failure("OTHER_OPERATION_IN_PROGRESS", row.cls, row.ref, operation, operation_ref)
    return None


def bad_power_state(vm: Row, *expected: str) -> Failure:
    """The failure of an operation that another power state would have allowed."""
    wanted = ", ".join(state.lower() for state in ENUMS["vm_power_state"] if state in expected)
    return Failure("VM_BAD_POWER_STATE", vm.ref, wanted, vm["power_state"].lower())


def _refuse_vm(pool: Pool, vm: Row, operation: str) -> Failure | None:
    if operation not in POWER_STATES:
        return Failure("OPERATION_NOT_ALLOWED", f"{operation} is not served")
    if operation in vm["blocked_operations"]:
        return Failure("OPERATION_BLOCKED", vm.ref, vm["blocked_operations"][operation] or "")
    if vm["is_control_domain"] and operation not in _BESIDE_ANY:
        return Failure("OPERATION_NOT_ALLOWED", "Operations on control domains are not allowed")
    if vm["is_a_snapshot"]:
        if operation not in _OF_SNAPSHOTS:
            return Failure("VM_IS_SNAPSHOT", vm.ref, operation)
    elif operation == "revert":
        return Failure("REVERT_ONLY_ALLOWED_ON_SNAPSHOT")
    elif vm["is_a_template"]:
        if operation not in _OF_TEMPLATES:
            return Failure("VM_IS_TEMPLATE", vm.ref, operation)
    elif operation == "provision":
        return Failure("PROVISION_ONLY_ALLOWED_ON_TEMPLATE")
    beside = PREEMPTED.get(operation, _LONG_COPIES if operation in _LONG_COPIES else frozenset())
    if operation not in _BESIDE_ANY and (failure := busy(vm, beside)):
        return failure
    copied_anyway = operation in _LONG_COPIES and vm["is_a_snapshot"]
    if vm["power_state"] not in POWER_STATES[operation] and not copied_anyway:
        return bad_power_state(vm, *POWER_STATES[operation])
    if operation in _WANT_AGENT and pool.database.find("VM_guest_metrics", vm["guest_metrics"]) is None:
        return Failure("VM_LACKS_FEATURE", vm.ref)
    return None


def attached(pool: Pool, vdi: Row) -> list[Row]:
    """The VBDs through which a VDI is attached now, or about to be."""
    return [
        vbd for vbd in pool.database.all("VBD", vdi["VBDs"]) if vbd["currently_attached"] or vbd["current_operations"]
    ]


def reachable(pool: Pool, sr: Row) -> bool:
    """Whether any host reaches an SR."""
    return any(pbd["currently_attached"] for pbd in pool.database.all("PBD", sr["PBDs"]))


_VDI_WANT_FREE: Final = frozenset({"destroy", "forget", "resize", "copy", "clone", "update"})
_VDI_SERVED: Final = frozenset({"clone", "copy", "destroy", "resize", "resize_online", "snapshot", "forget", "mirror"})


def _refuse_vdi(pool: Pool, vdi: Row, operation: str) -> Failure | None:
    if operation not in _VDI_SERVED:
        return Failure("OPERATION_NOT_ALLOWED", f"{operation} is not served")
    sr = pool.database.get("SR", vdi["SR"])
    if not reachable(pool, sr):
        return Failure("SR_HAS_NO_PBDS", sr.ref)
    if sr["content_type"] == "iso" and operation != "copy":
        return Failure("SR_OPERATION_NOT_SUPPORTED", sr.ref)
    if failure := busy(vdi, _LONG_COPIES if operation in _LONG_COPIES else frozenset()):
        return failure
    in_use = attached(pool, vdi)
    if in_use and operation in _VDI_WANT_FREE:
        writable = any(vbd["mode"] == "RW" for vbd in in_use)
        if writable or operation not in _LONG_COPIES:
            return Failure("VDI_IN_USE", vdi.ref, operation)
    if operation in ("resize", "resize_online") and vdi["is_a_snapshot"]:
        return Failure("VDI_READONLY", vdi.ref)
    return None


_SR_WITH_PBD: Final = words(
    "scan vdi_create vdi_destroy vdi_resize vdi_clone vdi_snapshot vdi_copy vdi_mirror vdi_resize_online"
)
_SR_CHANGES: Final = _SR_WITH_PBD - {"scan", "vdi_copy"}
_SR_SERVED: Final = _SR_WITH_PBD | {"forget", "destroy", "plug", "unplug", "pbd_create", "pbd_destroy"}


def _refuse_sr(pool: Pool, sr: Row, operation: str) -> Failure | None:
    if operation not in _SR_SERVED:
        return Failure("OPERATION_NOT_ALLOWED", f"{operation} is not served")
    if operation in _SR_WITH_PBD and not reachable(pool, sr):
        return Failure("SR_HAS_NO_PBDS", sr.ref)
    if operation in _SR_CHANGES and sr["content_type"] == "iso":
        return Failure("SR_OPERATION_NOT_SUPPORTED", sr.ref)
    if operation in ("forget", "destroy") and reachable(pool, sr):
        return Failure("SR_HAS_PBD", sr.ref)
    return None


def _refuse_vbd(pool: Pool, vbd: Row, operation: str) -> Failure | None:
    if operation not in ("attach", "plug", "unplug", "unplug_force", "insert", "eject"):
        return Failure("OPERATION_NOT_ALLOWED", f"{operation} is not served")
    vm = pool.database.get("VM", vbd["VM"])
    if failure := busy(vbd) or _vm_moves(vm):
        return failure
    if operation in ("insert", "eject"):
        if vbd["type"] != "CD":
            return Failure("VBD_NOT_REMOVABLE_MEDIA", vbd.ref)
        if operation == "insert":
            return None if vbd["empty"] else Failure("VBD_NOT_EMPTY", vbd.ref)
        return Failure("VBD_IS_EMPTY", vbd.ref) if vbd["empty"] else None
    if operation == "attach":
        return None
    if vm["power_state"] not in ("Running", "Paused"):
        return bad_power_state(vm, "Running", "Paused")
    if operation == "plug":
        return Failure("DEVICE_ALREADY_ATTACHED", vbd.ref) if vbd["currently_attached"] else None
    if not vbd["currently_attached"]:
        return Failure("DEVICE_ALREADY_DETACHED", vbd.ref)
    return None


def _vm_moves(vm: Row) -> Failure | None:
    for operation_ref, operation in vm["current_operations"].items():
        if operation in ("pool_migrate", "migrate_send", "suspend", "checkpoint", "snapshot", "revert"):
            return Failure("OTHER_OPERATION_IN_PROGRESS", "VM", vm.ref, operation, operation_ref)
    return None


def _refuse_vif(pool: Pool, vif: Row, operation: str) -> Failure | None:
    vm = pool.database.get("VM", vif["VM"])
    if failure := busy(vif) or _vm_moves(vm):
        return failure
    if operation == "attach":
        return None
    if vm["power_state"] not in ("Running", "Paused"):
        return bad_power_state(vm, "Running", "Paused")
    if operation == "plug":
        return Failure("DEVICE_ALREADY_ATTACHED", vif.ref) if vif["currently_attached"] else None
    return None if vif["currently_attached"] else Failure("DEVICE_ALREADY_DETACHED", vif.ref)


_BESIDE_EACH_OTHER: Final = frozenset({"vm_start", "vm_resume", "vm_migrate", "provision"})


def _refuse_host(pool: Pool, host: Row, operation: str) -> Failure | None:
    if operation not in (
        "provision",
        "evacuate",
        "vm_start",
        "vm_resume",
        "vm_migrate",
        "enable",
        "shutdown",
        "reboot",
    ):
        return Failure("OPERATION_NOT_ALLOWED", f"{operation} is not served")
    if operation in _BESIDE_EACH_OTHER:
        return None if host["enabled"] else Failure("HOST_DISABLED", host.ref)
    if operation in ("shutdown", "reboot") and host["enabled"]:
        return Failure("HOST_NOT_DISABLED")
    return busy(host, _BESIDE_EACH_OTHER if operation == "evacuate" else frozenset())


def _refuse_task(_pool: Pool, task: Row, operation: str) -> Failure | None:
    if operation == "cancel" and task["status"] != "pending":
        return Failure("OPERATION_NOT_ALLOWED", f"the task is {task['status']}")
    return None


def _refuse_network(_pool: Pool, _network: Row, _operation: str) -> Failure | None:
    return None


def _refuse_pool(_pool: Pool, _row: Row, operation: str) -> Failure | None:
    return (
        None if operation == "designate_new_master" else Failure("OPERATION_NOT_ALLOWED", f"{operation} is not served")
    )


_REFUSE: Final[Mapping[str, tuple[str, Refuse]]] = {
    "VM": ("vm_operations", _refuse_vm),
    "VDI": ("vdi_operations", _refuse_vdi),
    "SR": ("storage_operations", _refuse_sr),
    "VBD": ("vbd_operations", _refuse_vbd),
    "VIF": ("vif_operations", _refuse_vif),
    "host": ("host_allowed_operations", _refuse_host),
    "task": ("task_allowed_operations", _refuse_task),
    "network": ("network_operations", _refuse_network),
    "pool": ("pool_allowed_operations", _refuse_pool),
}


def refusal(pool: Pool, row: Row, operation: str) -> Failure | None:
    """Why an object does not allow an operation now; None when it does."""
    return _REFUSE[row.cls][1](pool, row, operation)


def _neighbours(pool: Pool, row: Row) -> list[Row]:
    database = pool.database
    match row.cls:
        case "VM":
            return [*database.all("VBD", row["VBDs"]), *database.all("VIF", row["VIFs"])]
        case "VBD":
            return database.all("VDI", [row["VDI"]])
        case "PBD":
            sr = database.find("SR", row["SR"])
            return [sr, *database.all("VDI", sr["VDIs"])] if sr is not None else []
        case "VM_guest_metrics":
            return [vm for vm in database.rows("VM") if vm["guest_metrics"] == row.ref]
        case _:
            return []


def refresh(pool: Pool) -> None:
    """Bring `allowed_operations` of all that changed, and of its neighbours, up to date."""
    touched = pool.database.touched
    stale = dict(touched)
    for row in list(touched.values()):
        for neighbour in _neighbours(pool, row):
            stale[neighbour.ref] = neighbour
    for row in stale.values():
        if row.cls in _REFUSE and pool.database.find(row.cls, row.ref) is row:
            words, refuse = _REFUSE[row.cls]
            allowed = tuple(word for word in ENUMS[words] if refuse(pool, row, word) is None)
            pool.database.set(row, allowed_operations=allowed)
    pool.database.touched.clear()


def is_null(ref: str) -> bool:
    """Whether a reference is to nothing."""
    return ref in ("", NULL)
