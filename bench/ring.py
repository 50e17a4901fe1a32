"""The ring builder beside swift-ring-builder: the same rings, the same machine, one run.

    .venv/bin/python bench/ring.py [--quick] [--swift PATH/swift-ring-builder] [--case NAME]…

Both builders are called in processes of their own (a fresh one for each case), so memory is each one's own and nothing is
warm. Times are of the call that computes the ring (Swift's `RingBuilder.rebalance`; ours is the plan, all its checks and the
rebalance), in CPU seconds of the process, since other programs may share the machine; wall seconds stand beside. Both are
single-threaded, so on an idle machine they are the same.

Swift is taken from --swift or $SWIFT_RING_BUILDER; else from a venv that this program makes once ($RINGSTEAD_SWIFT_VENV, by
default in the user's cache directory). Exit code 1 where an aim is missed, 2 where Swift can't be had.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PUSHES_MAX = 10
"""How often a builder may rebalance until it says that it is done."""

Result = dict[str, Any]
Verdict = tuple[str, bool]


@dataclass(frozen=True)
class Case:
    """One line of the table: what both builders do, and what is aimed at.

    judge   of Swift's result and ours: (the aim in words, whether it is met)
    """

    name: str
    title: str
    task: dict[str, Any]
    judge: Callable[[Result, Result], list[Verdict]]
    slow: bool = False


def faster(times: float) -> Callable[[Result, Result], list[Verdict]]:
    """The aim of being so many times as fast, balanced as well, and dispersed."""

    def judge(swift: Result, ours: Result) -> list[Verdict]:
        ratio = swift["cpu_s"] / ours["cpu_s"]
        return [(f"{times:g} times faster: {ratio:.0f}", ratio >= times), *as_good(swift, ours)]

    return judge


def as_good(swift: Result, ours: Result) -> list[Verdict]:
    """Balance and dispersion no worse."""
    return [
        (f"balance {ours['balance']:.3f} <= {swift['balance']:.3f}", ours["balance"] <= swift["balance"] + 1e-9),
        (
            f"dispersion {ours['dispersion']:.3f} <= {swift['dispersion']:.3f}",
            ours["dispersion"] <= swift["dispersion"] + 1e-9,
        ),
    ]


def judge_largest(swift: Result, ours: Result) -> list[Verdict]:
    """2**20 partitions on 10,000 devices."""
    return [
        (f"under 5 s: {ours['cpu_s']:.2f}", ours["cpu_s"] < 5),
        (f"dispersion 0: {ours['dispersion']:.3f}", ours["dispersion"] == 0),
        *as_good(swift, ours)[:1],
    ]


def judge_node(swift: Result, ours: Result) -> list[Verdict]:
    """A node more in one zone."""
    over = ours["moves"] / ours["ideal"]
    return [
        (f"1 push: {ours['pushes']}", ours["pushes"] <= max(1, ours["steps"])),
        (f"1.05 times the ideal moves: {over:.3f}", over <= 1.05),
        (f"balance under 0.2: {ours['balance']:.3f}", ours["balance"] < 0.2),
        *as_good(swift, ours)[1:],
    ]


def judge_removal(swift: Result, ours: Result) -> list[Verdict]:
    """A device less."""
    over = ours["moves"] / ours["ideal"]
    return [(f"1.05 times what it held: {over:.3f}", over <= 1.05), *as_good(swift, ours)]


def judge_uneven(swift: Result, ours: Result) -> list[Verdict]:
    """Weights from 1 to 16, uneven zones."""
    return [(f"fewer moves: {ours['moves']} < {swift['moves']}", ours["moves"] < swift["moves"]), *as_good(swift, ours)]


def judge_file(swift: Result, ours: Result) -> list[Verdict]:
    """The ring file: compact, and loaded in a few milliseconds."""
    return [
        (f"loads in 10 ms: {ours['load_ms']:.1f}", ours["load_ms"] < 10),
        (f"no larger: {ours['file_kb']:,.0f} <= {swift['file_kb']:,.0f} kB", ours["file_kb"] <= swift["file_kb"]),
    ]


def judge_lookups(_: Result, ours: Result) -> list[Verdict]:
    """Primaries of a partition."""
    return [(f"over 1,000,000/s: {ours['primaries_s']:,.0f}", ours["primaries_s"] > 1e6)]


CASES = (
    Case(
        "first16",
        "first rebalance, 2^16 x 480",
        {"part_power": 16, "zones": [160] * 3, "per_node": 16},
        faster(20),
    ),
    Case(
        "first18",
        "first rebalance, 2^18 x 1,200",
        {"part_power": 18, "zones": [400] * 3, "per_node": 20, "lookups": True},
        lambda swift, ours: [*faster(30)(swift, ours), *judge_file(swift, ours), *judge_lookups(swift, ours)],
    ),
    Case(
        "first20",
        "first rebalance, 2^20 x 10,000",
        {"part_power": 20, "zones": [1000] * 10, "per_node": 20},
        judge_largest,
        slow=True,
    ),
    Case(
        "node",
        "one node into one of 4 zones, 2^16 x 480",
        {"part_power": 16, "zones": [120] * 4, "per_node": 12, "change": "node"},
        judge_node,
    ),
    Case(
        "remove",
        "remove one device, 4 zones, 2^16 x 480",
        {"part_power": 16, "zones": [120] * 4, "per_node": 12, "change": "remove"},
        judge_removal,
    ),
    Case(
        "uneven",
        "weights 1 to 16, zones 200/160/120, overload 0.1; then 24 devices doubled",
        {
            "part_power": 16,
            "zones": [200, 160, 120],
            "per_node": 8,
            "uneven": True,
            "overload": 0.1,
            "change": "double",
        },
        judge_uneven,
    ),
)


def main() -> int:
    """Run the cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="leave the largest ring out (Swift takes minutes for it)")
    parser.add_argument("--swift", default=os.environ.get("SWIFT_RING_BUILDER"), help="path of swift-ring-builder")
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES], help="only this one")
    parser.add_argument("--json", action="store_true", help="print what was measured as JSON, too")
    arguments = parser.parse_args()
    python = swift_python(arguments.swift)
    chosen = [c for c in CASES if (c.name in arguments.case if arguments.case else not (arguments.quick and c.slow))]
    missed = 0
    print_row("case", "Swift", "ours", "ratio", "aims")
    for case in chosen:
        # -P: this folder has a module called profile, and Swift's libraries import Python's.
        swift = run([python, "-P", str(HERE / "ring_swift.py")], case.task)
        # As a module: beside this file, `import ring` would find this file.
        ours = run([sys.executable, "-m", "bench.ring_ours"], case.task)
        verdicts = case.judge(swift, ours)
        missed += sum(not met for _, met in verdicts)
        show(case, swift, ours, verdicts)
        if arguments.json:
            print(json.dumps({"case": case.name, "swift": swift, "ours": ours}))
    print(f"{missed} aims missed" if missed else "all aims met")
    return 1 if missed else 0


def show(case: Case, swift: Result, ours: Result, verdicts: list[Verdict]) -> None:
    """Print the lines of a case."""
    print_row(case.title, "", "", "", "")
    lines: list[tuple[str, str, str, str]] = []
    for key, unit, digits in (
        ("cpu_s", "CPU s", 3),
        ("wall_s", "wall s", 3),
        ("rss_mb", "MB at most", 0),
        ("balance", "% balance", 3),
        ("dispersion", "% dispersion", 3),
        ("moves", "moves", 0),
        ("over", "x ideal moves", 3),
        ("pushes", "pushes", 0),
        ("primaries_s", "primaries/s", 0),
        ("names_s", "names/s", 0),
        ("load_ms", "ms to load", 1),
        ("file_kb", "kB in the file", 0),
    ):
        if key in swift and key in ours:
            ratio = max(swift[key], ours[key]) / max(min(swift[key], ours[key]), 1e-9)
            better = "" if ratio > 1e6 else f"{ratio:.2f}"
            lines.append((unit, f"{swift[key]:,.{digits}f}", f"{ours[key]:,.{digits}f}", better))
    for index in range(max(len(lines), len(verdicts))):
        unit, theirs, mine, ratio_text = lines[index] if index < len(lines) else ("", "", "", "")
        aim = f"{'met   ' if verdicts[index][1] else 'MISSED'} {verdicts[index][0]}" if index < len(verdicts) else ""
        print_row("    " + unit, theirs, mine, ratio_text, aim)


def print_row(title: str, swift: str, ours: str, ratio: str, aim: str) -> None:
    """Print one line of the table."""
    print(f"{title:<42}{swift:>14}{ours:>14}{ratio:>9}   {aim}".rstrip(), flush=True)


def run(command: list[str], task: dict[str, Any]) -> Result:
    """Run one case in a process of its own."""
    done = subprocess.run(command, input=json.dumps(task), capture_output=True, text=True, check=False, cwd=HERE.parent)
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        raise SystemExit(2)
    result: Result = json.loads(done.stdout.splitlines()[-1])
    if "ideal" in result:
        result["over"] = result["moves"] / result["ideal"]
    return result


def swift_python(builder: str | None) -> str:
    """The Python that has Swift's classes."""
    if builder:
        first = Path(builder).read_bytes().split(b"\n", 1)[0]
        if not first.startswith(b"#!"):
            print(f"{builder} is no script of Python", file=sys.stderr)
            raise SystemExit(2)
        return first[2:].decode().split()[0]
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ringstead-swift-venv"
    home = Path(os.environ.get("RINGSTEAD_SWIFT_VENV", cache))
    python = home / "bin" / "python"
    if not (home / "bin" / "swift-ring-builder").exists():
        print(f"installing Swift into {home}", file=sys.stderr)
        venv.create(home, with_pip=True)
        done = subprocess.run([str(python), "-m", "pip", "install", "-q", "swift"], check=False)
        if done.returncode:
            print("Swift can't be installed (pyeclib may need liberasurecode-dev); give --swift", file=sys.stderr)
            raise SystemExit(2)
    return str(python)


if __name__ == "__main__":
    sys.exit(main())
