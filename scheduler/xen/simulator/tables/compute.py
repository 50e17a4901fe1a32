"""The datamodel, in part: the fields of guests and what belongs to them.

A line is a field: its name, who sets it (rw: a client, at any time; new: a client, at creation; ro: the pool), its
type in the datamodel's words and, where it is not the type's zero, what it is by default.
"""

from __future__ import annotations

from typing import Final

FIELDS: Final = {
    "VM": """
HVM_boot_params rw (string -> string) map
HVM_boot_policy new string
HVM_shadow_multiplier new float = 1.0
NVRAM new (string -> string) map
PCI_bus rw string
PV_args rw string
PV_bootloader rw string
PV_bootloader_args rw string
PV_kernel rw string
PV_legacy_args rw string
PV_ramdisk rw string
VBDs ro VBD ref set
VCPUs_at_startup new int
VCPUs_max new int
VCPUs_params rw (string -> string) map
VGPUs ro VGPU ref set
VIFs ro VIF ref set
VTPMs ro VTPM ref set
VUSBs ro VUSB ref set
actions_after_crash new enum on_crash_behaviour
actions_after_reboot rw enum on_normal_exit
actions_after_shutdown rw enum on_normal_exit
actions_after_softreboot rw enum on_softreboot_behavior = "soft_reboot"
affinity rw host ref
allowed_operations ro enum vm_operations set
appliance new VM_appliance ref
attached_PCIs ro PCI ref set
bios_strings ro (string -> string) map
blobs ro (string -> blob ref) map
blocked_operations new (enum vm_operations -> string) map
children ro VM ref set
consoles ro console ref set
crash_dumps ro crashdump ref set
current_operations ro (string -> enum vm_operations) map
domain_type new enum domain_type = "unspecified"
domarch ro string
domid ro int
generation_id new string = "0:0"
groups ro VM_group ref set
guest_metrics ro VM_guest_metrics ref
ha_always_run new bool
ha_restart_priority new string
hardware_platform_version rw int
has_vendor_device new bool = true
is_a_snapshot ro bool
is_a_template rw bool
is_control_domain ro bool
is_default_template ro bool
is_snapshot_from_vmpp new bool
is_vmss_snapshot new bool
last_boot_CPU_flags new (string -> string) map
last_booted_record new string
memory_dynamic_max new int
memory_dynamic_min new int
memory_overhead ro int
memory_static_max new int
memory_static_min new int
memory_target new int
metrics ro VM_metrics ref
name_description rw string
name_label rw string
order new int
other_config new (string -> string) map
parent ro VM ref
pending_guidances ro enum update_guidances set
pending_guidances_full ro enum update_guidances set
pending_guidances_recommended ro enum update_guidances set
platform new (string -> string) map
power_state new enum vm_power_state = "Halted"
protection_policy new VMPP ref
recommendations rw string
reference_label new string
requires_reboot ro bool
resident_on ro host ref
scheduled_to_be_resident_on ro host ref
secureboot_certificates_state ro enum vm_secureboot_certificates_state = "ok"
shutdown_delay new int
snapshot_info ro (string -> string) map
snapshot_metadata ro string
snapshot_of ro VM ref
snapshot_schedule new VMSS ref
snapshot_time ro datetime
snapshots ro VM ref set
start_delay new int
suspend_SR rw SR ref
suspend_VDI new VDI ref
tags rw string set
transportable_snapshot_id ro string
user_version rw int
uuid ro string
version new int
xenstore_data rw (string -> string) map
""",
    "VM_metrics": """
VCPUs_CPU ro (int -> int) map
VCPUs_flags ro (int -> string set) map
VCPUs_number ro int
VCPUs_params ro (string -> string) map
VCPUs_utilisation ro (int -> float) map
current_domain_type ro enum domain_type = "unspecified"
hvm ro bool
install_time ro datetime
last_updated ro datetime
memory_actual ro int
nested_virt ro bool
nomigrate ro bool
numa_node_memory ro (int -> int) map
numa_nodes new int
numa_optimised new bool
other_config rw (string -> string) map
start_time ro datetime
state ro string set
uuid ro string
""",
    "VM_guest_metrics": """
PV_drivers_detected ro bool
PV_drivers_up_to_date ro bool
PV_drivers_version ro (string -> string) map
can_use_hotplug_vbd ro enum tristate_type = "unspecified"
can_use_hotplug_vif ro enum tristate_type = "unspecified"
disks ro (string -> string) map
last_updated ro datetime
live ro bool
memory ro (string -> string) map
netbios_name ro (string -> string) map
networks ro (string -> string) map
os_version ro (string -> string) map
other ro (string -> string) map
other_config rw (string -> string) map
services ro (string -> string) map
uuid ro string
""",
    "VM_group": """
VMs ro VM ref set
name_description rw string
name_label rw string
placement new enum placement_policy = "normal"
uuid ro string
""",
    "console": """
VM ro VM ref
location ro string
other_config rw (string -> string) map
protocol ro enum console_protocol
uuid ro string
""",
}
