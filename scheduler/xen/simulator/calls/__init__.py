"""The messages, a file for each subject; importing this registers them all."""

from __future__ import annotations

from scheduler.xen.simulator.calls import (
    event,
    host,
    network,
    notice,
    pool,
    session,
    sr,
    task,
    vbd,
    vdi,
    vm_make,
    vm_migrate,
    vm_power,
    vm_settings,
    vm_snapshot,
)

__all__ = [
    "event",
    "host",
    "network",
    "notice",
    "pool",
    "session",
    "sr",
    "task",
    "vbd",
    "vdi",
    "vm_make",
    "vm_migrate",
    "vm_power",
    "vm_settings",
    "vm_snapshot",
]
