"""One case of bench/ring.py by Swift's builder: the task as JSON on standard input, what was measured on standard output.

Runs under a Python that has Swift, and nothing of ours.
"""

import json
import os
import random
import resource
import sys
import tempfile
import time

from swift.common import utils
from swift.common.ring import Ring, RingBuilder
from swift.common.ring.ring import RingData

PUSHES_MAX = 10


def devices(task):
    """The devices of a task, as (zone, node, name, weight)."""
    rng = random.Random(7)
    for zone, count in enumerate(task["zones"]):
        for index in range(count):
            node = index // task["per_node"]
            weight = float(rng.randint(1, 16)) if task.get("uneven") else 100.0
            yield zone, f"10.{zone}.{node // 250}.{node % 250}", f"d{index % task['per_node']}", weight


def add(builder, zone, node, name, weight):
    """Add a device."""
    builder.add_dev(
        {"region": 1, "zone": zone, "ip": node, "port": 6200, "device": name, "weight": weight}
        | {"replication_ip": node, "replication_port": 6200, "meta": ""}
    )


def table(builder):
    """Where everything is, as sets of devices by partition."""
    return [frozenset(devs) for devs in zip(*builder._replica2part2dev, strict=True)]


def change(builder, task, result):
    """Make the change of a task, and note how many moves would be ideal."""
    kind = task["change"]
    if kind == "node":
        for index in range(task["per_node"]):
            add(builder, 0, "10.0.9.9", f"d{index}", 100.0)
        total = sum(d["weight"] for d in builder._iter_devs())
        result["ideal"] = round(builder.parts * builder.replicas * 100.0 * task["per_node"] / total)
    if kind == "remove":
        result["ideal"] = builder.devs[0]["parts"]
        builder.remove_dev(0)
    if kind == "double":
        for number in range(0, 240, 10):
            builder.set_dev_weight(number, builder.devs[number]["weight"] * 2)


def push(builder):
    """Rebalance until there is nothing more to do; returns pushes and moves."""
    pushes = moves = 0
    while pushes < PUSHES_MAX:
        builder.pretend_min_part_hours_passed()
        before, balance = table(builder), builder.get_balance()
        dispersion = builder.dispersion
        builder.rebalance(seed=str(pushes))
        moved = sum(len(new - old) for old, new in zip(before, table(builder), strict=True))
        if not moved:
            break
        pushes += 1
        moves += moved
        # What its command line does: below one percent of change it refuses to save.
        if abs(balance - builder.get_balance()) < 1 and abs(dispersion - builder.dispersion) < 1 and pushes > 1:
            break
    return pushes, moves


def lookups(builder, result):
    """Measure a loaded ring."""
    utils.HASH_PATH_SUFFIX = b"bench"
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "object.ring.gz")
        builder.get_ring().save(path)
        result["file_kb"] = os.path.getsize(path) / 1000
        times = []
        for _ in range(5):
            start = time.process_time()
            RingData.load(path)
            times.append(time.process_time() - start)
        result["load_ms"] = 1000 * min(times)
        ring = Ring(path)
        parts = list(range(ring.partition_count)) * 4
        start = time.process_time()
        for part in parts:
            ring.get_part_nodes(part)
        result["primaries_s"] = len(parts) / (time.process_time() - start)
        names = [f"object-{index}" for index in range(100_000)]
        start = time.process_time()
        for name in names:
            ring.get_nodes("AUTH_test", "container", name)
        result["names_s"] = len(names) / (time.process_time() - start)


def main():
    """Run the task."""
    task = json.load(sys.stdin)
    builder = RingBuilder(task["part_power"], 3, 1)
    builder.set_overload(task.get("overload", 0.0))
    for device in devices(task):
        add(builder, *device)
    start, wall = time.process_time(), time.perf_counter()
    builder.rebalance(seed="1")
    result = {"cpu_s": time.process_time() - start, "wall_s": time.perf_counter() - wall}
    if "change" in task:
        push(builder)
        change(builder, task, result)
        start, wall = time.process_time(), time.perf_counter()
        result["pushes"], result["moves"] = push(builder)
        result |= {"cpu_s": time.process_time() - start, "wall_s": time.perf_counter() - wall}
    result["balance"], result["dispersion"] = builder.get_balance(), builder.dispersion
    result["rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if task.get("lookups"):
        lookups(builder, result)
    print(json.dumps(result))


main()
