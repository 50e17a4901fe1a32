"""One case of bench/ring.py by our builder: the task as JSON on standard input, what was measured on standard output."""

from __future__ import annotations

import json
import random
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ring.memory import Memory
from ring.rebalance import make_plan, rebalance
from ring.ring import Ring
from ring.ring_file import save
from ring.topology import Device, Topology
from ring.topology_file import Design, Settings

LONG_MIN = 10**6
"""Minutes between rebalances: min_part_hours have always passed."""


def devices(task: dict[str, Any]) -> Iterator[Device]:
    """The devices of a task: the same as in ring_swift.py."""
    rng = random.Random(7)
    number = 0
    for zone, count in enumerate(task["zones"]):
        for index in range(count):
            node = index // task["per_node"]
            weight = float(rng.randint(1, 16)) if task.get("uneven") else 100.0
            name = f"d{index % task['per_node']}"
            yield Device(number, 1, zone, f"10.{zone}.{node // 250}.{node % 250}", 6200, name, weight)
            number += 1


def change(design: Design, memory: Memory, task: dict[str, Any], result: dict[str, Any]) -> Design:
    """The changed design; notes how many moves would be ideal."""
    old = list(design.topology)
    if task["change"] == "node":
        fresh = [Device(len(old) + i, 1, 0, "10.0.9.9", 6200, f"d{i}", 100.0) for i in range(task["per_node"])]
        total = sum(device.weight for device in (*old, *fresh))
        result["ideal"] = round(design.settings.replica_total * 100.0 * len(fresh) / total)
        return replace(design, topology=Topology.of([*old, *fresh]))
    if task["change"] == "remove":
        result["ideal"] = int(np.count_nonzero(memory.ring.table == 0))
        return replace(design, topology=Topology.of(old[1:]))
    doubled = set(range(0, 240, 10))
    new = [replace(device, weight=device.weight * 2) if device.id in doubled else device for device in old]
    return replace(design, topology=Topology.of(new))


def push(design: Design, memory: Memory | None, result: dict[str, Any]) -> Memory:
    """Rebalance until there is nothing more to do."""
    pushes = moves = 0
    now_min = LONG_MIN if memory is None else LONG_MIN * (memory.ring.epoch + 1)
    steps = 0
    while True:
        plan = make_plan(design, memory, now_min)
        steps = max(steps, plan.step_count)
        done = rebalance(plan, memory, now_min, epoch=1 if memory is None else memory.ring.epoch + 1)
        if not done.moved and memory is not None:
            break
        memory = done.memory
        pushes += 1
        moves += done.moved
        now_min += LONG_MIN
        result |= {"balance": done.quality.balance, "dispersion": done.quality.dispersion}
        if not done.waiting:
            break
    result |= {"pushes": pushes, "moves": moves, "steps": steps}
    return memory


def lookups(ring: Ring, result: dict[str, Any]) -> None:
    """Measure a loaded ring."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ring.ring"
        save(path, ring)
        result["file_kb"] = path.stat().st_size / 1000
        times = []
        for _ in range(5):
            start = time.process_time()
            loaded = Ring.load(path)
            times.append(time.process_time() - start)
        result["load_ms"] = 1000 * min(times)
    parts = list(range(loaded.part_count)) * 4
    start = time.process_time()
    for part in parts:
        loaded.primaries(part)
    result["primaries_s"] = len(parts) / (time.process_time() - start)
    names = [f"/AUTH_test/container/object-{index}".encode() for index in range(100_000)]
    start = time.process_time()
    for name in names:
        loaded.primaries(loaded.partition(loaded.hash_key(name)))
    result["names_s"] = len(names) / (time.process_time() - start)


def main() -> None:
    """Run the task."""
    task = json.load(sys.stdin)
    settings = Settings(task["part_power"], 3.0, 1, task.get("overload", 0.0), seed=1)
    design = Design(settings, Topology.of(devices(task)))
    result: dict[str, Any] = {}
    start, wall = time.process_time(), time.perf_counter()
    memory = push(design, None, result)
    times = {"cpu_s": time.process_time() - start, "wall_s": time.perf_counter() - wall}
    for key in ("pushes", "moves", "steps"):
        del result[key]
    if "change" in task:
        design = change(design, memory, task, result)
        start, wall = time.process_time(), time.perf_counter()
        memory = push(design, memory, result)
        times = {"cpu_s": time.process_time() - start, "wall_s": time.perf_counter() - wall}
    result |= times
    result["rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if task.get("lookups"):
        lookups(memory.ring, result)
    print(json.dumps(result))


main()
