"""How Ringstead's ids are written on what it makes in a pool.

The tags are keys of `other_config`, which XenAPI keeps with VMs and VDIs through clones, snapshots, exports and moves
between pools. That is why they identify, and also why they must be read with care: a clone, a snapshot or a copy
inherits them. The rules:

- A VM with `ringstead-server` is that server's VM unless it `is_a_snapshot`; then it is a snapshot of the server, and
`ringstead-snapshot`
  names it. The key is written on the VM *before* `VM.snapshot`, so the snapshot has it from its first moment.
- A VDI with `ringstead-disk` is that disk, unless it `is_a_snapshot`. A snapshot that was asked for as a disk of its
own has
  `ringstead-snapshot-of` beside its own `ringstead-disk`; any other snapshot belongs to a server's snapshot and has
  no disk id.
- `ringstead-unfinished` stands on what is not whole yet, from its creation until it is.
- What has another cluster's id in `ringstead-cluster`, or none, is nobody's that we know, and is not touched.

`VM.clone` can set no tag on what it makes. So it makes a VM whose *name* says all of it (`birth_name`), until the
tags are on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeAlias

Record: TypeAlias = Mapping[str, Any]
"""An object as XenAPI sends it."""

CLUSTER = "ringstead-cluster"
SERVER = "ringstead-server"
DISK = "ringstead-disk"
BUILD = "ringstead-build"
SNAPSHOT = "ringstead-snapshot"
SNAPSHOT_OF = "ringstead-snapshot-of"
UNFINISHED = "ringstead-unfinished"
PASSPORT = "ringstead-passport"

BIRTH = re.compile(r"ringstead ([A-Za-z0-9-]{1,64}) builds ([A-Za-z0-9-]{1,64}), attempt (\d{1,19})")


def birth_name(cluster: str, server_id: str, build: int) -> str:
    """What a VM is called between its cloning and its tagging."""
    return f"ringstead {cluster} builds {server_id}, attempt {build}"


def _own(record: Record, cluster: str) -> dict[str, str]:
    config = record.get("other_config")
    if isinstance(config, Mapping) and config.get(CLUSTER) == cluster:
        return {str(key): str(value) for key, value in config.items()}
    return {}


def is_snapshot(record: Record) -> bool:
    """Whether a VM or VDI is a snapshot."""
    return record.get("is_a_snapshot") is True


def _birth(vm: Record, cluster: str) -> re.Match[str] | None:
    born = BIRTH.fullmatch(str(vm.get("name_label")))
    return born if born is not None and born[1] == cluster and not _own(vm, cluster) else None


def server_of(vm: Record, cluster: str) -> str:
    """The server id that a VM, or a VM's snapshot, belongs to; empty if it is not this cluster's."""
    born = _birth(vm, cluster)
    return born[2] if born is not None else _own(vm, cluster).get(SERVER, "")


def build_of(vm: Record, cluster: str) -> int:
    """The build that made a VM."""
    born = _birth(vm, cluster)
    text = born[3] if born is not None else _own(vm, cluster).get(BUILD, "")
    return int(text) if re.fullmatch(r"[0-9]{1,19}", text) else 0


def snapshot_of_server(vm: Record, cluster: str) -> str:
    """The id of the snapshot that this is, if it is one of this cluster's."""
    return _own(vm, cluster).get(SNAPSHOT, "") if is_snapshot(vm) else ""


def is_unfinished(record: Record, cluster: str) -> bool:
    """Whether a VM or VDI is not whole."""
    return _birth(record, cluster) is not None or UNFINISHED in _own(record, cluster)


def disk_of(vdi: Record, cluster: str) -> str:
    """The disk id of a VDI; empty for those of other people and for disks of a server's snapshot."""
    own = _own(vdi, cluster)
    return "" if is_snapshot(vdi) and SNAPSHOT_OF not in own else own.get(DISK, "")


def origin_of(vdi: Record, cluster: str) -> str:
    """The disk id that a VDI is a snapshot of; empty if it is none."""
    own = _own(vdi, cluster)
    if SNAPSHOT_OF in own:
        return own[SNAPSHOT_OF]
    return own.get(DISK, "") if is_snapshot(vdi) else ""


def owner_of(vdi: Record, cluster: str) -> str:
    """The server id whose own disk a VDI is; empty for volumes."""
    return _own(vdi, cluster).get(SERVER, "")


def pending_snapshot_of(vdi: Record, cluster: str) -> str:
    """The snapshot id that a VDI was about to become when somebody died: a snapshot, and not yet renamed."""
    own = _own(vdi, cluster)
    return own.get(SNAPSHOT, "") if is_snapshot(vdi) and SNAPSHOT_OF not in own else ""


def for_server(cluster: str, server_id: str, build: int) -> dict[str, str]:
    """The tags of a VM that is being made."""
    return {CLUSTER: cluster, SERVER: server_id, BUILD: str(build), UNFINISHED: "true"}


def for_disk(cluster: str, disk_id: str, server_id: str = "") -> dict[str, str]:
    """The tags of a disk that is being made; `server_id` if it goes with that server."""
    tags = {CLUSTER: cluster, DISK: disk_id, UNFINISHED: "true"}
    if server_id:
        tags[SERVER] = server_id
    return tags


def for_snapshot(cluster: str, snapshot_id: str, disk_id: str) -> dict[str, str]:
    """The tags of a finished snapshot that is a disk of its own."""
    return {CLUSTER: cluster, DISK: snapshot_id, SNAPSHOT_OF: disk_id}


def only_ours(config: Mapping[str, str]) -> dict[str, str]:
    """The tags in an `other_config`."""
    return {key: value for key, value in config.items() if key.startswith("ringstead-")}


def without_ours(config: Mapping[str, str]) -> dict[str, str]:
    """An `other_config` without any tag of any Ringstead: what a copy should begin with."""
    return {key: value for key, value in config.items() if not key.startswith("ringstead-")}
