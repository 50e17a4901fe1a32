"""Tests of storage_node.stopwatch, with the kernel's own figures."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage_node.stopwatch import Stopwatch, blocked_s, run_delay_s

needs_schedstat = pytest.mark.skipif(
    not Path("/proc/thread-self/schedstat").exists(), reason="this kernel does not count how long threads wait"
)


@given(passed_s=st.floats(0, 1e6), delayed_s=st.floats(0, 1e6))
def test_what_is_blocked_is_part_of_what_passed(passed_s: float, delayed_s: float) -> None:
    """Never negative, never more than the wall clock says, and all of it where no processor was wanting."""
    assert 0 <= blocked_s(passed_s, delayed_s) <= passed_s
    assert blocked_s(passed_s, 0) == passed_s


@needs_schedstat
def test_a_thread_that_shares_its_processor_is_seen_to_wait() -> None:
    """Beside another that keeps the same processor busy, the wait for it grows, and is not counted as being blocked."""
    before = os.sched_getaffinity(0)
    processor = min(before)
    busy = f"import os\nos.sched_setaffinity(0, [{processor}])\nprint(flush=True)\nwhile True: pass"
    other = subprocess.Popen([sys.executable, "-c", busy], stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None
        other.stdout.readline()
        os.sched_setaffinity(0, {processor})
        watch, waited_s, started_s = Stopwatch(), run_delay_s(), time.perf_counter()
        while run_delay_s() - waited_s < 0.02:
            assert time.perf_counter() - started_s < 60, "it never had to wait"
        counted_s, passed_s = watch.blocked_s(), time.perf_counter() - started_s
        assert counted_s < passed_s
    finally:
        os.sched_setaffinity(0, before)
        other.kill()
        other.wait()
        if other.stdout is not None:
            other.stdout.close()


@needs_schedstat
def test_a_thread_takes_its_file_along_when_it_ends() -> None:
    """Each thread reads figures of its own, and twenty that have ended hold no file open."""
    run_delay_s()
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(20):
        thread = threading.Thread(target=run_delay_s)
        thread.start()
        thread.join()
    assert set(os.listdir("/proc/self/fd")) == before
