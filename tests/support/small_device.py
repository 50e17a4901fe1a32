"""Settings of a device for tests whose subject is not how it lays out its work.

What a device sets aside and writes ahead is for years of traffic: 64 MiB for what is new, 16 MiB of zeros before each
writer, all of it synced. Here that would be most of what a test takes. Objects lie where they would: in the log, or in files
of their own.
"""

from __future__ import annotations

from typing import Final

from storage_node.settings import KIB, MIB, DeviceSettings

SMALL_DEVICE: Final = DeviceSettings(
    zero_ahead_bytes=256 * KIB,
    recent_map_bytes=4 * MIB,
    index_map_bytes=256 * MIB,
    free_bytes_min=0,
    free_bytes_min_delete=0,
)
