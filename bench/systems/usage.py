"""What a tree of processes costs: processor seconds and memory, from /proc; and what reached the disk.

Over the whole tree, so that nothing that a system does beside its answers is left out. Processes that end in between take
their processor seconds along; the kernel adds them to their parent's children's time, which is counted too.

What was written is read from the disk's own counter, after a sync, for the whole machine: the counters of processes count
a cached page of a megabyte whole when four kilobytes of it become dirty. So only one system may work at a time.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_SECTOR_BYTES = 512


@dataclass(frozen=True, slots=True)
class Usage:
    """What some trees of processes have used up to now."""

    cpu_s: float
    pss_bytes: int
    """Memory of its own, and its share of what is shared: mapped files included."""
    private_bytes: int
    """Of that, what is in no file: what the machine would need in swap."""
    process_count: int


def tree_of(roots: Iterable[int]) -> list[int]:
    """Processes and all their descendants."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError):
                parent = int(_stat(int(entry))[1])
                children.setdefault(parent, []).append(int(entry))
    found = list(roots)
    for process in found:
        found += children.get(process, [])
    return found


def usage_of(roots: Iterable[int]) -> Usage:
    """The sum over trees of processes."""
    ticks = pss = private = 0
    processes = tree_of(roots)
    for process in processes:
        with suppress(OSError):
            fields = _stat(process)
            ticks += sum(int(field) for field in fields[11:15])  # utime, stime, and those of ended children
            memory = _numbers(process, "smaps_rollup")
            pss += memory.get("Pss", 0) * 1024
            private += memory.get("Pss_Anon", 0) * 1024
    return Usage(ticks / _TICKS, pss, private, len(processes))


def cpu_of(roots: Iterable[int]) -> float:
    """Processor seconds alone, of the processes themselves: cheap enough to ask around a short run."""
    ticks = 0
    for process in tree_of(roots):
        with suppress(OSError):
            ticks += sum(int(field) for field in _stat(process)[11:13])
    return ticks / _TICKS


def disk_written_bytes(folder: Path) -> int | None:
    """Bytes written so far to the disk that the folder is on, by anybody, journal included; None if it isn't known.

    Syncs first, so that what was written before is counted whole.
    """
    os.sync()
    device = os.stat(folder).st_dev
    for line in Path("/proc/diskstats").read_text().splitlines():
        words = line.split()
        if (int(words[0]), int(words[1])) == (os.major(device), os.minor(device)):
            return int(words[9]) * _SECTOR_BYTES
    return None


def _stat(process: int) -> list[str]:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()


def _numbers(process: int, name: str) -> dict[str, int]:
    found = {}
    for line in Path(f"/proc/{process}/{name}").read_text().splitlines():
        words = line.split()
        if len(words) >= 2 and words[1].isdigit():
            found[words[0].rstrip(":")] = int(words[1])
    return found
