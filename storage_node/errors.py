"""What can go wrong with a device as a whole: flat, each saying whose fault it is and what next.

Single operations do not raise: they are answered with a `Status`. These are for the calls around them.
"""

from __future__ import annotations


class DeviceError(Exception):
    """The base of all errors of the storage node's disk side."""


class NotADevice(DeviceError):
    """The directory is not a device, or not one of this format. The caller's fault: check the path."""


class DeviceInUse(DeviceError):
    """Another process is this device's writer. The caller's fault: stop it first."""


class DeviceFull(DeviceError):
    """The file system has no room beyond what is kept for compaction and tombstones. Add space, or write elsewhere."""


class DeviceFenced(DeviceError):
    """The device takes no writes: a sync failed, or an operator took it out. Repair it from its peers, then release it."""


class CorruptData(DeviceError):
    """Bytes on the disk do not have the checksum that was written with them. The disk's fault: ask another replica."""


class DeviceDamaged(DeviceError):
    """The device's own structures (identity, index) cannot be believed. The disk's fault: rebuild it from its peers."""
