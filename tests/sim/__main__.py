"""`python -m tests.sim SEED [COUNT]`: simulate seeds, one after the other; `make sim` calls it."""

from __future__ import annotations

import argparse
import math
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from multiprocessing import Pool

from tests.sim.run import Result, run_seed


def main() -> int:
    """Run them and report."""
    parser = argparse.ArgumentParser(prog="make sim", description="a whole cluster on a virtual clock")
    parser.add_argument("seed", type=int)
    parser.add_argument("count", type=int, nargs="?", default=1)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no seed after so many, and sum up")
    parser.add_argument("--echo", action="store_true", help="print the trace as it grows")
    options = parser.parse_args()
    print(f"seed {options.seed}, {options.count} of them", flush=True)
    seeds = range(options.seed, options.seed + options.count)
    totals: Counter[str] = Counter()
    virtual_s = 0.0
    failed: list[int] = []
    done = 0
    began_s = time.perf_counter()
    for result in _results(seeds, options.processes, options.echo):
        done += 1
        virtual_s += result.virtual_s
        _report(result, totals, failed)
        if time.perf_counter() - began_s > options.minutes * 60:
            break
    took_s = time.perf_counter() - began_s
    which = f"seeds {seeds.start} to {seeds.start + done - 1}"
    print(f"\n{which}: {len(failed)} failed, {virtual_s / 3600:.1f} virtual hours in {took_s:.0f} s")
    for kind, count in sorted(totals.items()):
        print(f"{count:9,}  {kind}")
    if failed:
        print(f"failed: {failed}\nto repeat one: make sim SEED={failed[0]}")
    return bool(failed)


def _results(seeds: range, processes: int, echo: bool) -> Iterator[Result]:
    """One after the other, in order."""
    if processes == 1:
        for seed in seeds:
            yield run_seed(seed, echo=echo)
        return
    with Pool(processes, maxtasksperchild=50) as pool:
        yield from pool.imap(run_seed, seeds)


def _report(result: Result, totals: Counter[str], failed: list[int]) -> None:
    totals.update(result.counts)
    if result.failure is None:
        print(".", end="", flush=True)
        return
    failed.append(result.seed)
    print(f"\nseed {result.seed} failed; the end of its trace:")
    for line in result.trace[-60:]:
        print(line)
    traceback.print_exception(result.failure)
    print(f"repeat it: make sim SEED={result.seed}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
