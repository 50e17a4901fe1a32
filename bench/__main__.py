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

from bench.endings import unwind_on_signals
from bench.limits import all_limits
from bench.load import WrongAnswerError
from bench.measure import Subject, compare, say
from bench.others import run_parts
from bench.plots import draw
from bench.report import against_limits, machine, markdown, ratios
from bench.systems.base import NotInstalled, SystemFailed
from bench.systems.registry import SYSTEMS
from bench.workloads import SUITES, Workload


def main() -> int:
    """Measure, write, print."""
    arguments = _arguments()
    unwind_on_signals()
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
    _make_folder(arguments.output)
    if arguments.folder is not None:
        _make_folder(arguments.folder)
    with tempfile.TemporaryDirectory(prefix="ringstead-bench-", dir=arguments.folder) as folder:
        report = run(Path(folder), workloads, arguments)
    # Written before the parts run too: what was measured for hours is not lost with them.
    _write(report, arguments.output)
    if arguments.parts:
        report["parts"] = run_parts()
        _write(report, arguments.output)
    print(markdown(report))
    return 0 if report["systems"] else 1


def _make_folder(folder: Path) -> None:
    """A folder that can be written to, or the end: before hours of measuring, not after."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        sys.exit(f"{folder} can't be written to: {error}")


def _write(report: dict[str, Any], output: Path) -> None:
    (output / "report.json").write_text(json.dumps(report, indent=1))
    (output / "report.md").write_text(markdown(report))
    draw(report, output)


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
    arguments = parser.parse_args()
    if arguments.seconds < 1 or arguments.rounds < 1:
        parser.error("a run takes a second at least, and there is one at least")
    asked = list(SYSTEMS) if arguments.systems == "all" else list(dict.fromkeys(arguments.systems.split(",")))
    if unknown := [name for name in asked if name not in SYSTEMS]:
        parser.error(f"no such system: {unknown[0]!r}; there are {', '.join(SYSTEMS)}")
    arguments.systems = asked
    return arguments


def run(folder: Path, workloads: list[Workload], arguments: argparse.Namespace) -> dict[str, Any]:
    """Start all systems, verify, compare; the report as plain values."""
    about = machine(folder)
    before = all_limits(folder)
    with ExitStack() as stack:
        subjects = []
        absent = {}
        for name in arguments.systems:
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
    report = {
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
        "parts": {},
    }
    return {**report, "ratios": ratios(report), "of_limits": against_limits(report)}


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
