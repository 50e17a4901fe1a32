"""How long a call was blocked, leaving out the time for which no processor was to be had.

Problem: whether a disk is slow decides where its syncs are waited for (group_commit.InlinePolicy). By the wall clock every
disk of a busy machine is slow: a sync of 0.2 ms takes 4 ms there, of which the thread lies ready for 3.8 until a processor
takes it up. To move such a sync to a thread makes it worse: now two threads must get a processor one after the other.

Idea: the kernel counts for each thread how long it was ready and did not run (`/proc/thread-self/schedstat`, the second
figure). What the wall clock shows beyond that was spent working or waiting for something else than a processor.

The file stays open for as long as its thread lives, since opening it costs ten times what reading it does. Where there is
none (no such kernel, or too many open files) nothing is left out, and all is as the wall clock has it.

Rejected: `time.thread_time` (it counts neither the wait for a processor nor that for the disk), counts of context switches
(`getrusage`: they say how often, not for how long).
"""

from __future__ import annotations

import os
import threading
from time import perf_counter
from typing import Final

_SCHEDSTAT: Final = "/proc/thread-self/schedstat"
_LINE_BYTES_MAX: Final = 96


class _Schedstat:
    """One thread's figures: of that which makes it."""

    __slots__ = ("_fd",)

    def __init__(self) -> None:
        self._fd = -1
        try:
            self._fd = os.open(_SCHEDSTAT, os.O_RDONLY | os.O_CLOEXEC)
            self.run_delay_ns()
        except (OSError, ValueError, IndexError):
            self._close()

    def __del__(self) -> None:
        self._close()

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def run_delay_ns(self) -> int:
        """Nanoseconds for which the thread was ready and did not run, since it began; 0 where that is not known."""
        return int(os.pread(self._fd, _LINE_BYTES_MAX, 0).split()[1]) if self._fd >= 0 else 0


_own = threading.local()
"""What belongs to the calling thread, opened when it is first asked for, and gone with it."""


def _begin_anew() -> None:
    """In a process that was forked off: what the thread that forked had opened tells of that thread."""
    global _own
    _own = threading.local()


os.register_at_fork(after_in_child=_begin_anew)


def run_delay_s() -> float:
    """Seconds for which the calling thread was ready and had no processor, since it began; 0.0 where nobody counts."""
    try:
        schedstat = _own.schedstat
    except AttributeError:
        schedstat = _own.schedstat = _Schedstat()
    return float(schedstat.run_delay_ns() / 1e9)


class Stopwatch:
    """Started when it is made; to be read in the same thread."""

    __slots__ = ("_delayed_s", "_started_s")

    def __init__(self) -> None:
        self._delayed_s, self._started_s = run_delay_s(), perf_counter()

    def blocked_s(self) -> float:
        """Seconds since then, without those for which the thread waited for a processor."""
        return blocked_s(perf_counter() - self._started_s, run_delay_s() - self._delayed_s)


def blocked_s(passed_s: float, delayed_s: float) -> float:
    """What is left of a time without the part for which no processor was to be had; the two clocks may disagree a little."""
    return max(0.0, passed_s - delayed_s)
