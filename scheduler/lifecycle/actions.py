"""Every action by its name in the machines, and what the end of a task means for the records."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from sqlalchemy import Connection

from scheduler.lifecycle import drain_actions, level_actions, move_actions, server_actions, volume_actions
from scheduler.lifecycle.tools import Job, Outcome
from scheduler.records import store
from scheduler.records.types import (
    ImageRecord,
    ImageState,
    ServerRecord,
    ServerState,
    TaskRecord,
    TaskState,
    VolumeRecord,
    VolumeState,
)

Action = Callable[[Job], Awaitable[Outcome]]

ACTIONS: Final[Mapping[str, Action]] = {
    action.__name__: action
    for action in (
        server_actions.claim_server,
        server_actions.create_server,
        server_actions.attach_volumes,
        server_actions.start_server,
        server_actions.destroy_server,
        server_actions.release_server,
        server_actions.forget_server,
        server_actions.power_server,
        server_actions.snapshot_server,
        server_actions.revert_server,
        server_actions.delete_snapshot,
        server_actions.freeze_disk,
        server_actions.export_image,
        server_actions.thaw_disk,
        move_actions.claim_target,
        move_actions.move_server,
        move_actions.settle_move,
        move_actions.abort_move,
        move_actions.declare_dead,
        move_actions.restart_server,
        volume_actions.claim_volume,
        volume_actions.create_volume,
        volume_actions.delete_disk,
        volume_actions.release_volume,
        volume_actions.forget_volume,
        volume_actions.attach_volume,
        volume_actions.detach_volume,
        volume_actions.extend_volume,
        volume_actions.snapshot_volume,
        drain_actions.plan_drain,
        drain_actions.await_moves,
        level_actions.plan_level,
    )
}


FAULT_AFTER: Final = 3
"""Attempts of one stage after which its trouble is written down beside what it is about: one or two may pass."""


def note(connection: Connection, task: TaskRecord) -> None:
    """What has become of a task, in the record that it is about: a failed build is a server in error, what fails otherwise
    or keeps failing is that record's fault, and what succeeds ends the fault."""
    if task.state is TaskState.FAILED:
        _note_failure(connection, task)
    elif task.state is TaskState.DONE:
        _set_fault(connection, task.subject, "")
    elif task.attempt >= FAULT_AFTER:
        _set_fault(connection, task.subject, task.error)


def _note_failure(connection: Connection, task: TaskRecord) -> None:
    if task.kind == "build":
        store.change(connection, ServerRecord, task.subject, state=ServerState.ERROR, fault=task.error)
        server_actions.free_volumes(connection, task.subject)
        return
    if task.kind == "volume-create":
        store.change(connection, VolumeRecord, task.subject, state=VolumeState.ERROR, fault=task.error)
        return
    if task.kind == "capture":
        store.change(connection, ImageRecord, task.data["image"], state=ImageState.ERROR, fault=task.error)
        return
    if task.kind in ("attach", "detach"):
        volume = store.find(connection, VolumeRecord, task.subject)
        if volume is not None:
            state = VolumeState.IN_USE if volume.server_id else VolumeState.AVAILABLE
            store.change(connection, VolumeRecord, task.subject, state=state)
    _set_fault(connection, task.subject, task.error)


def _set_fault(connection: Connection, subject: str, fault: str) -> None:
    """Of a server or volume; hosts and zones that are emptied have none."""
    if (server := store.find(connection, ServerRecord, subject)) is not None:
        if server.fault != fault:
            store.change(connection, ServerRecord, subject, fault=fault)
    elif (volume := store.find(connection, VolumeRecord, subject)) is not None and volume.fault != fault:
        store.change(connection, VolumeRecord, subject, fault=fault)
