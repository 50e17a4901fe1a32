"""The datamodel, in part: the fields of storage.

A line is a field: its name, who sets it (rw: a client, at any time; new: a client, at creation; ro: the pool), its
type in the datamodel's words and, where it is not the type's zero, what it is by default.
"""

from __future__ import annotations

from typing import Final

FIELDS: Final = {
    "SR": """
PBDs ro PBD ref set
VDIs ro VDI ref set
allowed_operations ro enum storage_operations set
blobs ro (string -> blob ref) map
clustered ro bool
content_type new string
current_operations ro (string -> enum storage_operations) map
introduced_by ro DR_task ref
is_tools_sr ro bool
local_cache_enabled ro bool
name_description new string
name_label new string
other_config rw (string -> string) map
physical_size new int
physical_utilisation ro int
shared ro bool
sm_config rw (string -> string) map
tags rw string set
type new string
uuid ro string
virtual_allocation ro int
""",
    "PBD": """
SR new SR ref
currently_attached ro bool
device_config new (string -> string) map
host new host ref
other_config rw (string -> string) map
uuid ro string
""",
    "VDI": """
SR new SR ref
VBDs ro VBD ref set
allow_caching ro bool
allowed_operations ro enum vdi_operations set
cbt_enabled ro bool
crash_dumps ro crashdump ref set
current_operations ro (string -> enum vdi_operations) map
is_a_snapshot ro bool
is_tools_iso ro bool
location ro string
managed ro bool
metadata_latest ro bool
metadata_of_pool ro pool ref
missing ro bool
name_description new string
name_label new string
on_boot ro enum on_boot = "persist"
other_config rw (string -> string) map
parent ro VDI ref
physical_utilisation ro int
read_only new bool
sharable new bool
sm_config rw (string -> string) map
snapshot_of ro VDI ref
snapshot_time ro datetime
snapshots ro VDI ref set
storage_lock ro bool
tags rw string set
type new enum vdi_type
uuid ro string
virtual_size new int
xenstore_data rw (string -> string) map
""",
    "VBD": """
VDI new VDI ref
VM new VM ref
allowed_operations ro enum vbd_operations set
bootable rw bool
current_operations ro (string -> enum vbd_operations) map
currently_attached new bool
device new string
empty new bool
metrics ro VBD_metrics ref
mode new enum vbd_mode
other_config rw (string -> string) map
qos_algorithm_params rw (string -> string) map
qos_algorithm_type rw string
qos_supported_algorithms ro string set
runtime_properties ro (string -> string) map
status_code ro int
status_detail ro string
storage_lock ro bool
type rw enum vbd_type
unpluggable rw bool = true
userdevice rw string
uuid ro string
""",
    "SM": """
capabilities ro string set
configuration ro (string -> string) map
copyright ro string
driver_filename ro string
features ro (string -> int) map
name_description ro string
name_label ro string
other_config rw (string -> string) map
required_api_version ro string
required_cluster_stack ro string set
supported_image_formats ro enum image_format_type set
type ro string
uuid ro string
vendor ro string
version ro string
""",
}
