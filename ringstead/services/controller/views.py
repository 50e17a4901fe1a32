"""Records of the scheduler as answers: plain values, with names beside ids, and no secrets.

What is here is the JSON of `--json`; tables for people are made from the same answers, so a program sees whatever a
person sees.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from enum import Enum
from typing import Any

from sqlalchemy import Connection

from scheduler.lifecycle import tasks
from scheduler.lifecycle.machine import MACHINES
from scheduler.lifecycle.pools import PoolLink
from scheduler.placement.moves import MovePlan
from scheduler.placement.resources import zone_name
from scheduler.records import store
from scheduler.records.types import (
    FlavorRecord,
    GroupRecord,
    HostRecord,
    ImageRecord,
    PoolRecord,
    ServerRecord,
    SnapshotRecord,
    TaskRecord,
    VolumeRecord,
)

View = dict[str, Any]


def plain(record: Any) -> View:
    """A record's fields, enums as their words."""
    values: View = asdict(record)
    return {key: value.value if isinstance(value, Enum) else value for key, value in values.items()}


def task_view(task: TaskRecord) -> View:
    """A task, without its lease and what it keeps in mind."""
    return {
        "id": task.id,
        "kind": task.kind,
        "verb": MACHINES[task.kind].verb,
        "subject": task.subject,
        "stage": task.stage,
        "state": task.state.value,
        "attempt": task.attempt,
        "round": task.round,
        "progress": round(task.progress, 3),
        "error": task.error,
        "created_s": task.created_s,
        "finished_s": task.finished_s,
    }


def server_view(connection: Connection, server: ServerRecord) -> View:
    """A server with the names of where it is, its volumes, and the work on it."""
    host = store.find(connection, HostRecord, server.host_id) if server.host_id else None
    pool = store.find(connection, PoolRecord, server.pool_id) if server.pool_id else None
    image = store.find(connection, ImageRecord, server.image_id) if server.image_id else None
    group = store.find(connection, GroupRecord, server.group_id) if server.group_id else None
    task = tasks.open_task(connection, server.id)
    view = plain(server)
    del view["member_index"]
    return {
        **view,
        "asked_zone": server.zone,
        "zone": "" if pool is None else zone_name((pool.region, pool.zone)),
        "host": "" if host is None else host.name,
        "pool": "" if pool is None else pool.name,
        "image": "" if image is None else image.name,
        "group": "" if group is None else group.name,
        "volumes": [
            {"id": volume.id, "name": volume.name, "device": volume.device, "size_bytes": volume.size_bytes}
            for volume in store.all_of(connection, VolumeRecord, server_id=server.id)
        ],
        "task": None if task is None else task_view(task),
    }


def volume_view(connection: Connection, volume: VolumeRecord) -> View:
    """A volume with the names of where it is and what has it."""
    pool = store.find(connection, PoolRecord, volume.pool_id) if volume.pool_id else None
    server = store.find(connection, ServerRecord, volume.server_id) if volume.server_id else None
    task = tasks.open_task(connection, volume.id)
    return {
        **plain(volume),
        "asked_zone": volume.zone,
        "zone": "" if pool is None else zone_name((pool.region, pool.zone)),
        "pool": "" if pool is None else pool.name,
        "server": "" if server is None else server.name,
        "snapshots": [plain(snapshot) for snapshot in store.all_of(connection, SnapshotRecord, volume_id=volume.id)],
        "task": None if task is None else task_view(task),
    }


def pool_view(record: PoolRecord, link: PoolLink | None) -> View:
    """A pool: no password, and of a certificate only how it is verified."""
    seen = None if link is None else link.inventory
    return {
        "id": record.id,
        "name": record.name,
        "url": record.url,
        "user": record.user,
        "verify": record.verify,
        "zone": zone_name((record.region, record.zone)),
        "state": "not connected" if link is None else "up" if not link.problem else "down",
        "problem": "" if link is None else link.problem,
        "version": "" if seen is None else seen.version,
        "uuid": "" if seen is None else seen.pool,
        "hosts": 0 if seen is None else len(seen.hosts),
        "vms": 0 if seen is None else sum(1 for vm in seen.vms if not vm.snapshot_id),
        "templates": [] if seen is None else sorted(seen.templates),
        "networks": [] if seen is None else sorted({network.name for network in seen.networks}),
    }


def flavor_view(flavor: FlavorRecord) -> View:
    """A flavor."""
    return plain(flavor)


def usage_view(memory_mib: int, limit_mib: int, vcpus: int, vcpu_limit: int) -> Mapping[str, int]:
    """What is claimed of a host."""
    return {"memory_mib": memory_mib, "memory_limit_mib": limit_mib, "vcpus": vcpus, "vcpu_limit": vcpu_limit}


def plan_view(connection: Connection, plan: MovePlan, host_names: Mapping[str, str]) -> View:
    """Moves in the order of their waves, and what share of each host is claimed before and after them."""
    moves = []
    for wave, each in enumerate(plan.waves, 1):
        for move in each:
            server = store.find(connection, ServerRecord, move.server.request.server_id)
            moves.append(
                {
                    "server_id": move.server.request.server_id,
                    "server": "" if server is None else server.name,
                    "from": host_names.get(move.server.host_id, move.server.host_id),
                    "to": host_names.get(move.to.host_id, move.to.host_id),
                    "copied_bytes": move.copied_bytes,
                    "wave": wave,
                }
            )
    loads = {
        name: {host_names.get(host, host): load for host, load in by_host.items()}
        for name, by_host in (("before", plan.before), ("after", plan.after))
    }
    return {"moves": moves, **loads}
