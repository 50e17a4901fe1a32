"""The VM record of a server that is made without a template: a plain HVM guest. Pure.

What a template of "other install media" has: firmware that boots the disk, then the network; viridian off, since the
guest may be anything. Pools fill in the rest.
"""

from __future__ import annotations

from typing import Any

from scheduler.hypervisor import ServerSpec
from scheduler.xen.facts import NULL

PLATFORM = {
    "acpi": "1",
    "apic": "true",
    "nx": "true",
    "pae": "true",
    "vga": "std",
    "videoram": "8",
    "viridian": "false",
}


def vm_record(spec: ServerSpec, other_config: dict[str, str]) -> dict[str, Any]:
    """The argument of `VM.create`."""
    memory = spec.memory_bytes
    return {
        "name_label": spec.name,
        "name_description": "",
        "user_version": 1,
        "is_a_template": False,
        "affinity": NULL,
        "memory_static_min": memory,
        "memory_static_max": memory,
        "memory_dynamic_min": memory,
        "memory_dynamic_max": memory,
        "VCPUs_params": {},
        "VCPUs_max": spec.vcpu_count,
        "VCPUs_at_startup": spec.vcpu_count,
        "actions_after_shutdown": "destroy",
        "actions_after_reboot": "restart",
        "actions_after_crash": "restart",
        "PV_bootloader": "",
        "PV_kernel": "",
        "PV_ramdisk": "",
        "PV_args": "",
        "PV_bootloader_args": "",
        "PV_legacy_args": "",
        "HVM_boot_policy": "BIOS order",
        "HVM_boot_params": {"order": "cdn", "firmware": "bios"},
        "HVM_shadow_multiplier": 1.0,
        "platform": dict(PLATFORM),
        "PCI_bus": "",
        "other_config": other_config,
        "recommendations": "",
        "xenstore_data": {},
        "ha_always_run": False,
        "ha_restart_priority": "",
        "tags": [],
        "blocked_operations": {},
        "protection_policy": NULL,
        "is_snapshot_from_vmpp": False,
        "appliance": NULL,
        "start_delay": 0,
        "shutdown_delay": 0,
        "order": 0,
        "suspend_SR": NULL,
        "version": 0,
        "generation_id": "",
        "hardware_platform_version": 0,
        "has_vendor_device": False,
    }
