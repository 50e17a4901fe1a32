"""How long what a pool does takes, in seconds, and the one factor that scales it all.

The figures are those of a small pool of two-socket servers with disks over NFS, to the accuracy that matters here: which
things are quick and which are not. A factor of 0 makes all instant.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Latencies:
    """Seconds each, before the factor."""

    factor: float = 1.0
    """What all others are multiplied by."""
    call_s: float = 0.005
    """Any call at all."""
    start_s: float = 3.0
    """Building a domain and starting its devices."""
    boot_s: float = 8.0
    """From a started domain to a guest whose agent reports."""
    clean_shutdown_s: float = 6.0
    hard_shutdown_s: float = 0.7
    pause_s: float = 0.1
    plug_s: float = 0.4
    vdi_create_s: float = 0.6
    vdi_destroy_s: float = 0.4
    snapshot_s: float = 1.2
    scan_s: float = 0.5
    host_s: float = 0.3
    """Enabling and disabling a host."""
    host_boot_s: float = 90.0
    """From switched on to serving."""
    copy_bytes_per_s: float = 100e6
    """Copying a disk between SRs, of the bytes that it holds."""
    memory_bytes_per_s: float = 250e6
    """Migrating, suspending and resuming, of a VM's memory."""
    mirror_overhead_s: float = 2.0
    """Setting up a storage migration."""

    def scaled(self, factor: float) -> Latencies:
        """The same with another factor."""
        return replace(self, factor=factor)

    def copy_s(self, size_bytes: int) -> float:
        """Copying a disk that holds so many bytes."""
        return size_bytes / self.copy_bytes_per_s

    def memory_s(self, size_bytes: int) -> float:
        """Moving so much memory."""
        return size_bytes / self.memory_bytes_per_s


INSTANT = Latencies(factor=0.0)
