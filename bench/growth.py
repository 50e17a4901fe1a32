"""How cost grows with what a device holds: rates, start-up and recovery at ten thousand, a million, ten million objects.

    python -m bench.growth [--objects 10000,1000000,10000000] [--size 100] [--seconds 10] [--folder DIR]

A cluster of three devices with three replicas, so that every device holds every object. The objects are put into the devices
while the cluster is down (systems/offline.py), by the device store's own code, listing rows included. Then:

- start: `ringstead up` on that data until a GET is answered;
- GET and PUT of small objects, names drawn from all of them (so that the index is not in the processor's cache, nor, where
  it is larger than memory, in memory);
- recovery: kill -9 of every process during the PUTs, and the time from the next start until a GET is answered;
- memory, and bytes on disk an object.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.dialects import dialect_of
from bench.endings import unwind_on_signals
from bench.load import WrongAnswerError, run_plan
from bench.measure import say
from bench.plan import Plan, make_plan, object_name
from bench.systems.base import wait_s
from bench.systems.offline import write_objects
from bench.systems.ringstead import Ringstead
from bench.verify import ask
from bench.workloads import PUT4K

CONTAINER = "growth"
DRAWN = 200_000
"""Names that a run of GETs is drawn from: more heads would not fit the generator."""
RUNS = 3


def main() -> int:
    """Measure each size on a cluster of its own."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.growth", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--objects", default="10000,1000000,10000000", help="numbers of objects, with commas")
    parser.add_argument("--size", type=int, default=100, help="bytes of each object")
    parser.add_argument("--seconds", type=float, default=10.0, help="of one run")
    parser.add_argument("--folder", type=Path, help="where the data goes")
    parser.add_argument("--output", type=Path, help="write the figures as JSON here")
    arguments = parser.parse_args()
    unwind_on_signals()
    rows = []
    for count in map(int, arguments.objects.split(",")):
        with tempfile.TemporaryDirectory(prefix="ringstead-growth-", dir=arguments.folder) as folder:
            rows.append(measure(Path(folder), count, arguments.size, arguments.seconds))
    print(table(rows))
    if arguments.output:
        arguments.output.write_text(json.dumps(rows, indent=1))
    return 0


def measure(folder: Path, count: int, size_bytes: int, seconds: float) -> dict[str, Any]:
    """One size."""
    system = Ringstead(folder)
    with system:
        dialect = dialect_of(system, "swift")
        assert system.swift is not None
        account = system.swift.account_path.rpartition("/")[2]
        if ask(system.port, dialect.head("PUT", CONTAINER)).status not in (201, 202):
            raise WrongAnswerError("no container")
    began_s = time.monotonic()
    write_objects(folder / "data", account, CONTAINER, count, size_bytes)
    filled_s = time.monotonic() - began_s
    say(f"{count:,} objects are on each device after {filled_s:.0f} s")
    found: dict[str, Any] = {"objects": count, "fill_s": filled_s, "disk_bytes": _size_of(folder / "data" / "devices")}
    found["start_s"] = _start(system, count)
    try:
        found |= _rates(system, count, seconds)
        _kill_during_puts(system)
        found["recovery_s"] = _start(system, count)
        found["pss_mb"] = system.usage().pss_bytes / 1e6
    finally:
        system.stop()
    say(json.dumps(found))
    return found


def _start(system: Ringstead, count: int) -> float:
    """Seconds until an object that was there is served again."""
    began_s = time.monotonic()
    system.start()
    answer = ask(system.port, dialect_of(system, "swift").head("GET", CONTAINER, object_name(count // 2)))
    if answer.status != 200:
        raise WrongAnswerError(f"an object that was put is answered {answer.status}")
    return time.monotonic() - began_s


def _rates(system: Ringstead, count: int, seconds: float) -> dict[str, Any]:
    rng = random.Random(7)
    dialect = dialect_of(system, "swift")
    heads = [dialect.head("GET", CONTAINER, object_name(rng.randrange(count))) for _ in range(min(DRAWN, 20 * count))]
    gets = Plan(heads, [False] * len(heads), 0, once=False)
    found: dict[str, Any] = {"get_per_s": [], "put_per_s": [], "get_cpu_us": [], "put_cpu_us": []}
    for number in range(RUNS):
        puts = make_plan(
            PUT4K, dialect, container=CONTAINER, first=20_000_000 + number * 1_000_000, count=int(seconds * 8_000)
        )
        for name, plan in (("get", gets), ("put", puts)):
            before_s = system.cpu_s()
            result = run_plan(system.base_url, plan, connections=32, seconds=seconds)
            if result.errors:
                raise WrongAnswerError(f"{name}: {result.errors} errors")
            found[f"{name}_per_s"].append(result.rate)
            found[f"{name}_cpu_us"].append((system.cpu_s() - before_s) / result.requests * 1e6)
    return {name: sorted(values)[RUNS // 2] for name, values in found.items()}


def _kill_during_puts(system: Ringstead) -> None:
    """kill -9 of everything while requests run; the generator's complaints are what was wanted."""
    plan = make_plan(PUT4K, dialect_of(system, "swift"), container=CONTAINER, first=10**8 - 10**6, count=50_000)

    def load() -> None:
        with suppress(WrongAnswerError):
            run_plan(system.base_url, plan, connections=32, seconds=4)

    thread = threading.Thread(target=load)
    thread.start()
    wait_s(2)
    system.kill_all()
    thread.join()


def _size_of(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def table(rows: list[dict[str, Any]]) -> str:
    """As Markdown."""
    lines = [
        "| objects a device | start | recovery | GET (32) | CPU each | PUT 4 KiB (32) | CPU each | disk an object | PSS |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row['objects']:,} | {row['start_s']:.1f} s | {row['recovery_s']:.1f} s "
        f"| {row['get_per_s']:,.0f}/s | {row['get_cpu_us']:,.0f} us | {row['put_per_s']:,.0f}/s "
        f"| {row['put_cpu_us']:,.0f} us | {row['disk_bytes'] / 3 / row['objects']:,.0f} B | {row['pss_mb']:,.0f} MB |"
        for row in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
