"""`python -m bench`: Ringstead and its peers at the same work, on this machine, in one run.

    python -m bench                             the standard suite, ours beside every peer that is installed
    python -m bench --systems ringstead         ours alone
    python -m bench --suite matrix --only GET   part of a suite
    python -m bench --list                      what there is

Results go to a folder: report.json, report.md, rate.svg, cpu.svg. The other benchmarks, each with its own --help:
`python -m bench.wire`, `bench.ring`, `bench.replication`, `bench.placement`, `bench.growth`, `bench.soak`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.limits import all_limits
from bench.load import WrongAnswerError
from bench.measure import Subject, compare, say
from bench.others import run_parts
from bench.plots import draw
from bench.report import machine, markdown
from bench.systems.base import NotInstalled, SystemFailed
from bench.systems.registry import SYSTEMS
from bench.workloads import SUITES, Workload


def main() -> int:
    """Measure, write, print."""
    arguments = _arguments()
    workloads = [workload for workload in SUITES[arguments.suite] if arguments.only in workload.title]
    if arguments.list:
        for suite, members in SUITES.items():
            print(f"{suite}:")
            print("".join(f"    {workload.title}\n" for workload in members), end="")
        print("systems:", ", ".join(SYSTEMS))
        return 0
    if not workloads:
        sys.exit(f"no workload of suite {arguments.suite} has {arguments.only!r} in its title; see --list")
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed: apt-get install wrk")
    arguments.output.mkdir(parents=True, exist_ok=True)
    if arguments.folder is not None:
        arguments.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ringstead-bench-", dir=arguments.folder) as folder:
        report = run(Path(folder), workloads, arguments)
    report["parts"] = run_parts() if arguments.parts else {}
    (arguments.output / "report.json").write_text(json.dumps(report, indent=1))
    text = markdown(report)
    (arguments.output / "report.md").write_text(text)
    draw(report, arguments.output)
    print(text)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--systems", default="all", help="which, with commas; those not installed are left out")
    parser.add_argument("--suite", default="standard", choices=sorted(SUITES))
    parser.add_argument("--only", default="", help="workloads whose title holds this text")
    parser.add_argument("--seconds", type=float, default=10.0, help="of one run")
    parser.add_argument("--rounds", type=int, default=3, help="counted runs of each workload on each system")
    parser.add_argument("--folder", type=Path, help="where the systems keep their data (the disk that is measured)")
    parser.add_argument("--output", type=Path, default=Path("bench-results"), help="folder for the report")
    parser.add_argument("--parts", action="store_true", help="also ring, replication, audit, placement, wire: minutes")
    parser.add_argument("--list", action="store_true", help="show suites, workloads and systems")
    return parser.parse_args()


def run(folder: Path, workloads: list[Workload], arguments: argparse.Namespace) -> dict[str, Any]:
    """Start all systems, verify, compare; the report as plain values."""
    about = machine()
    before = all_limits(folder)
    asked = list(SYSTEMS) if arguments.systems == "all" else arguments.systems.split(",")
    if unknown := [name for name in asked if name not in SYSTEMS]:
        sys.exit(f"no such system: {unknown[0]}; there are {', '.join(SYSTEMS)}")
    with ExitStack() as stack:
        subjects = []
        absent = {}
        for name in asked:
            place = folder / name
            place.mkdir()
            try:
                subject = Subject(stack.enter_context(SYSTEMS[name](place)))
                say(f"{name} {subject.system.version} runs; does it answer right?")
                subject.check(workloads)
            except (NotInstalled, SystemFailed, WrongAnswerError) as error:
                say(f"{name} takes no part: {error}")
                absent[name] = str(error)
                continue
            subject.measure_idle()
            subjects.append(subject)
        found = compare(subjects, workloads, seconds=arguments.seconds, rounds=arguments.rounds)
        systems = {subject.name: _about(subject) for subject in subjects}
    return {
        "machine": about,
        "seconds": arguments.seconds,
        "rounds": arguments.rounds,
        "limits_before": before,
        "limits_after": all_limits(folder),
        "load_after": os.getloadavg()[0],
        "systems": systems,
        "absent": absent,
        "workloads": {
            title: {name: series.summary() for name, series in by_system.items()} for title, by_system in found.items()
        },
    }


def _about(subject: Subject) -> dict[str, Any]:
    usage = subject.system.usage()
    return {
        "version": subject.system.version,
        "answers_when": subject.system.answers_when,
        "pss_mb": usage.pss_bytes / 1e6,
        "private_mb": usage.private_bytes / 1e6,
        "processes": usage.process_count,
        "idle_cores": subject.idle_cores,
    }


if __name__ == "__main__":
    sys.exit(main())
