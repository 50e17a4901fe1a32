"""Samples are counted for the part of the house that was at work."""

from __future__ import annotations

from bench.profile import ELSE, part_of, shares

OUTER = "main (ringstead/cli.py:153);run (ringstead/processes/life.py:115);unrolled_run (trio/_core/_run.py:2866)"


def test_a_sample_belongs_to_the_innermost_file_of_ours():
    """A library that is called belongs to its caller; what has none of ours above the event loop is the event loop's."""
    assert part_of(f"{OUTER};read (proxy/swift/reading.py:10);unpackb (msgpack/__init__.py:3)") == "dialect"
    assert part_of(f"{OUTER};read (proxy/swift/reading.py:10);submit (storage_node/client.py:9)") == "wire"
    assert part_of(f"{OUTER};commit (storage_node/device.py:300)") == "device: log and index"
    assert part_of(OUTER) == ELSE


def test_threads_that_wait_are_not_counted():
    """A worker thread without work is no time of anybody's."""
    raw = f"{OUTER} 3\nThread.run (threading.py:982);WorkerThread._work (trio/_core/_thread_cache.py:211) 90\n"
    assert shares(raw) == {ELSE: 3}
