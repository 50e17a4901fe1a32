"""The datamodel, in part: the fields of sessions, tasks and messages.

A line is a field: its name, who sets it (rw: a client, at any time; new: a client, at creation; ro: the pool), its
type in the datamodel's words and, where it is not the type's zero, what it is by default.
"""

from __future__ import annotations

from typing import Final

FIELDS: Final = {
    "session": """
auth_user_name ro string
auth_user_sid ro string
client_certificate ro bool
is_local_superuser ro bool
last_active ro datetime
originator ro string
other_config rw (string -> string) map
parent new session ref
pool ro bool
rbac_permissions new string set
subject ro subject ref
tasks ro task ref set
this_host ro host ref
this_user ro user ref
uuid ro string
validation_time ro datetime
""",
    "task": """
allowed_operations ro enum task_allowed_operations set
backtrace ro string = "()"
created ro datetime
current_operations ro (string -> enum task_allowed_operations) map
error_info ro string set
finished ro datetime
name_description ro string
name_label ro string
other_config ro (string -> string) map
progress ro float
resident_on ro host ref
result ro string
status ro enum task_status_type
subtask_of ro task ref
subtasks ro task ref set
type ro string
uuid ro string
""",
    "message": """
body ro string
cls ro enum cls
name ro string
obj_uuid ro string
priority ro int
timestamp ro datetime
uuid ro string
""",
}
