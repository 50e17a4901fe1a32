"""Memory over time under load: whether it grows.

    python -m bench.soak [--minutes 30] [--connections 16]

A mixed load (70 % GET, 20 % PUT, 10 % DELETE of 4 KiB objects) runs without a pause; every ten seconds the memory of all
processes is read: PSS, and what of it is in no file. What counts is the trend of the latter over the last two thirds,
when caches are full: the least-squares slope, in MB an hour, beside the scatter.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from bench.endings import unwind_on_signals
from bench.measure import Subject, say
from bench.systems.ringstead import Ringstead
from bench.workloads import KIB, Workload, names_of

SAMPLE_S = 10.0
RUN_S = 60.0


def main() -> int:
    """Run, print what was seen."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--folder", type=Path, help="where the data goes")
    parser.add_argument("--output", type=Path, help="write the samples as JSON here")
    arguments = parser.parse_args()
    unwind_on_signals()
    with (
        tempfile.TemporaryDirectory(prefix="ringstead-soak-", dir=arguments.folder) as folder,
        Ringstead(Path(folder)) as system,
    ):
        samples, requests = soak(Subject(system), arguments.minutes * 60, arguments.connections)
    print(summary(samples, requests))
    if arguments.output:
        arguments.output.write_text(json.dumps(samples))
    return 0


def soak(subject: Subject, seconds: float, connections: int) -> tuple[list[dict[str, float]], int]:
    """Samples (seconds, pss_mb, private_mb), and how many requests were answered meanwhile."""
    workload = Workload("soak", "MIX", connections, 4 * KIB, names_of("4 KiB"))
    subject.prepare(workload)
    requests = 0
    began_s = time.monotonic()
    over = threading.Event()
    failures: list[BaseException] = []

    def load() -> None:
        nonlocal requests
        try:
            while not over.is_set():
                result = subject.run(workload, RUN_S).result
                requests += result.requests
                say(f"{time.monotonic() - began_s:7.0f} s  {result.rate:8,.0f}/s  errors {result.errors}")
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=load)
    thread.start()
    samples = []
    while (at_s := time.monotonic() - began_s) < seconds and not failures:
        usage = subject.system.usage()
        samples.append({"s": at_s, "pss_mb": usage.pss_bytes / 1e6, "private_mb": usage.private_bytes / 1e6})
        over.wait(SAMPLE_S)
    over.set()
    thread.join()
    if failures:
        raise failures[0]
    return samples, requests


def summary(samples: list[dict[str, float]], requests: int) -> str:
    """In words."""
    late = samples[len(samples) // 3 :]
    lines = [f"{samples[-1]['s'] / 60:.0f} minutes, {requests:,} requests, {len(samples)} samples"]
    for name, text in (("pss_mb", "PSS"), ("private_mb", "memory that is in no file")):
        slope = _slope_per_hour(late, name)
        values = [sample[name] for sample in late]
        lines.append(
            f"{text}: first {samples[0][name]:,.0f} MB, then {min(values):,.0f} to {max(values):,.0f} MB "
            f"(median {statistics.median(values):,.0f}); trend {slope:+,.1f} MB an hour"
        )
    return "\n".join(lines)


def _slope_per_hour(samples: list[dict[str, Any]], name: str) -> float:
    if len(samples) < 3:
        return float("nan")
    slope, _ = statistics.linear_regression([sample["s"] for sample in samples], [sample[name] for sample in samples])
    return slope * 3600


if __name__ == "__main__":
    sys.exit(main())
