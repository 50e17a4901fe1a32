"""The datamodel, in part: the fields of pools, hosts and networks.

A line is a field: its name, who sets it (rw: a client, at any time; new: a client, at creation; ro: the pool), its
type in the datamodel's words and, where it is not the type's zero, what it is by default.
"""

from __future__ import annotations

from typing import Final

FIELDS: Final = {
    "pool": """
allowed_operations ro enum pool_allowed_operations set
auto_update_vm_secureboot_certificates rw bool
blobs ro (string -> blob ref) map
client_certificate_auth_enabled ro bool
client_certificate_auth_name ro string
coordinator_bias rw bool = true
cpu_info ro (string -> string) map
crash_dump_SR rw SR ref
current_operations ro (string -> enum pool_allowed_operations) map
custom_uefi_certificates new string
default_SR rw SR ref
ext_auth_cache_enabled ro bool = true
ext_auth_cache_expiry ro int = 300
ext_auth_cache_size ro int = 50
ext_auth_max_threads new int = 1
guest_agent_config ro (string -> string) map
gui_config rw (string -> string) map
ha_allow_overcommit rw bool
ha_cluster_stack ro string
ha_configuration ro (string -> string) map
ha_enabled ro bool
ha_host_failures_to_tolerate ro int
ha_overcommitted ro bool
ha_plan_exists_for ro int
ha_reboot_vm_on_internal_shutdown rw bool = true
ha_statefiles ro string set
health_check_config rw (string -> string) map
igmp_snooping_enabled ro bool
is_psr_pending rw bool
last_update_sync ro datetime
license_server rw (string -> string) map
limit_console_sessions rw bool
live_patching_disabled rw bool
local_auth_max_threads new int = 8
master ro host ref
metadata_VDIs ro VDI ref set
migration_compression rw bool
name_description rw string
name_label rw string
other_config rw (string -> string) map
policy_no_vendor_device rw bool
recommendations ro (string -> string) map
redo_log_enabled ro bool
redo_log_vdi ro VDI ref
repositories ro Repository ref set
repository_proxy_password ro secret ref
repository_proxy_url ro string
repository_proxy_username ro string
restrictions ro (string -> string) map
suspend_image_SR rw SR ref
tags rw string set
telemetry_frequency ro enum telemetry_frequency = "weekly"
telemetry_next_collection ro datetime
telemetry_uuid ro secret ref
tls_verification_enabled ro bool
uefi_certificates new string
update_sync_day ro int
update_sync_enabled ro bool
update_sync_frequency ro enum update_sync_frequency = "weekly"
uuid ro string
vm_console_idle_timeout rw int
vswitch_controller ro string
wlb_enabled rw bool
wlb_url ro string
wlb_username ro string
wlb_verify_cert rw bool
""",
    "host": """
API_version_major ro int
API_version_minor ro int
API_version_vendor ro string
API_version_vendor_implementation ro (string -> string) map
PBDs ro PBD ref set
PCIs ro PCI ref set
PGPUs ro PGPU ref set
PIFs ro PIF ref set
PUSBs ro PUSB ref set
address rw string
allowed_operations ro enum host_allowed_operations set
bios_strings ro (string -> string) map
blobs ro (string -> blob ref) map
capabilities new string set
certificates ro Certificate ref set
chipset_info ro (string -> string) map
console_idle_timeout ro int
control_domain ro VM ref
cpu_configuration ro (string -> string) map
cpu_info ro (string -> string) map
crash_dump_sr rw SR ref
crashdumps ro host_crashdump ref set
current_operations ro (string -> enum host_allowed_operations) map
display rw enum host_display = "enabled"
edition ro string
editions ro string set
enabled ro bool
external_auth_configuration ro (string -> string) map
external_auth_service_name ro string
external_auth_type ro string
features ro Feature ref set
guest_VCPUs_params rw (string -> string) map
ha_network_peers ro string set
ha_statefiles ro string set
host_CPUs ro host_cpu ref set
hostname rw string
https_only ro bool
iscsi_iqn new string
last_software_update ro datetime
last_update_hash ro string
latest_synced_updates_applied ro enum latest_synced_updates_applied_state = "unknown"
license_params ro (string -> string) map
license_server rw (string -> string) map = {"address": "localhost", "port": "27000"}
local_cache_sr new SR ref
logging rw (string -> string) map
max_cstate ro string
memory_overhead ro int
metrics ro host_metrics ref
multipathing new bool
name_description rw string
name_label rw string
ntp_custom_servers ro string set
ntp_mode ro enum host_ntp_mode = "Factory"
numa_affinity_policy ro enum host_numa_affinity_policy = "default_policy"
other_config rw (string -> string) map
patches ro host_patch ref set
pending_guidances ro enum update_guidances set
pending_guidances_full ro enum update_guidances set
pending_guidances_recommended ro enum update_guidances set
power_on_config ro (string -> string) map
power_on_mode ro string
resident_VMs ro VM ref set
sched_policy ro string
secure_boot ro bool
software_version new (string -> string) map
ssh_auto_mode ro bool
ssh_enabled ro bool = true
ssh_enabled_timeout ro int
ssh_expiry ro datetime
ssl_legacy new bool = true
supported_bootloaders ro string set
suspend_image_sr rw SR ref
tags rw string set
timezone ro string = "UTC"
tls_verification_enabled ro bool
uefi_certificates new string
updates ro pool_update ref set
updates_requiring_reboot ro pool_update ref set
uuid ro string
virtual_hardware_platform_versions ro int set = [0]
""",
    "host_metrics": """
last_updated ro datetime
live ro bool
memory_free ro int
memory_total ro int
other_config rw (string -> string) map
uuid ro string
""",
    "host_cpu": """
family ro int
features ro string
flags ro string
host ro host ref
model ro int
modelname ro string
number ro int
other_config rw (string -> string) map
speed ro int
stepping ro string
utilisation ro float
uuid ro string
vendor ro string
""",
    "network": """
MTU rw int = 1500
PIFs ro PIF ref set
VIFs ro VIF ref set
allowed_operations ro enum network_operations set
assigned_ips ro (VIF ref -> string) map
blobs ro (string -> blob ref) map
bridge new string
current_operations ro (string -> enum network_operations) map
default_locking_mode ro enum network_default_locking_mode = "unlocked"
managed new bool = true
name_description rw string
name_label rw string
other_config rw (string -> string) map
purpose ro enum network_purpose set
tags rw string set
uuid ro string
""",
    "PIF": """
DNS ro string
IP ro string
IPv6 ro string set
MAC new string
MTU new int
PCI ro PCI ref
VLAN new int
VLAN_master_of ro VLAN ref
VLAN_slave_of ro VLAN ref set
bond_master_of ro Bond ref set
bond_slave_of ro Bond ref
capabilities ro string set
currently_attached ro bool = true
device new string
disallow_unplug ro bool
gateway ro string
host new host ref
igmp_snooping_status ro enum pif_igmp_status = "unknown"
ip_configuration_mode ro enum ip_configuration_mode = "None"
ipv6_configuration_mode ro enum ipv6_configuration_mode = "None"
ipv6_gateway ro string
managed new bool = true
management ro bool
metrics ro PIF_metrics ref
netmask ro string
network new network ref
other_config rw (string -> string) map
physical ro bool
primary_address_type ro enum primary_address_type = "IPv4"
properties ro (string -> string) map
sriov_logical_PIF_of ro network_sriov ref set
sriov_physical_PIF_of ro network_sriov ref set
tunnel_access_PIF_of ro tunnel ref set
tunnel_transport_PIF_of ro tunnel ref set
uuid ro string
""",
    "VIF": """
MAC new string
MAC_autogenerated ro bool
MTU new int
VM new VM ref
allowed_operations ro enum vif_operations set
current_operations ro (string -> enum vif_operations) map
currently_attached new bool
device new string
ipv4_addresses ro string set
ipv4_allowed new string set
ipv4_configuration_mode ro enum vif_ipv4_configuration_mode = "None"
ipv4_gateway ro string
ipv6_addresses ro string set
ipv6_allowed new string set
ipv6_configuration_mode ro enum vif_ipv6_configuration_mode = "None"
ipv6_gateway ro string
locking_mode new enum vif_locking_mode = "network_default"
metrics ro VIF_metrics ref
network new network ref
other_config rw (string -> string) map
qos_algorithm_params rw (string -> string) map
qos_algorithm_type rw string
qos_supported_algorithms ro string set
runtime_properties ro (string -> string) map
status_code ro int
status_detail ro string
trunks new int set
uuid ro string
""",
}
