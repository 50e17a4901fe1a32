"""Where the time of a request goes: sampled under load, by the part of the house that was at work, as one picture.

    python -m bench.profile [--seconds 8] [--output bench-results]

py-spy (a sampling profiler that reads a process from outside) watches every process of a cluster while a workload runs. A
sample belongs to the innermost frame that is a file of ours; where none stands above the event loop, to the event loop.
Kernel time is told apart by the processes' own accounts (utime, stime). Shares of samples, times the processor time that
the process used for each request, give microseconds. Waiting is not counted: py-spy leaves out what does not run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.endings import unwind_on_signals
from bench.measure import Subject, say
from bench.systems.ringstead import Ringstead
from bench.systems.usage import tree_of
from bench.workloads import GET4K, PUT4K, Workload, of_size, pages

ROOT: Final = Path(__file__).resolve().parents[1]
WORKLOADS: Final = (
    GET4K,
    of_size("HEAD", "4 KiB", 32),
    PUT4K,
    of_size("DELETE", "4 KiB", 32),
    pages(100_000),
    of_size("PUT", "1 MiB", 8),
)
PARTS: Final = {
    "proxy/http": "HTTP",
    "proxy/s3": "dialect",
    "proxy/swift": "dialect",
    "proxy/": "store and quorum",
    "ring/": "store and quorum",
    "storage_node/client": "wire",
    "storage_node/codec": "wire",
    "storage_node/frames": "wire",
    "storage_node/fields": "wire",
    "storage_node/connection": "wire",
    "storage_node/transport": "wire",
    "storage_node/hub": "wire",
    "storage_node/control_session": "wire",
    "storage_node/bulk": "wire",
    "storage_node/": "device: log and index",
    "replicator/": "background",
    "ringstead/": "service frame",
}
_OUTERMOST: Final = ("ringstead/processes/life", "ringstead/services/run", "ringstead/cli", "ringstead/__main__")
"""Below every sample of a service: they say nothing."""
ELSE: Final = "event loop and libraries"
KERNEL: Final = "kernel"
COLOURS: Final = {
    "HTTP": "#1b6ca8",
    "dialect": "#5fa8d3",
    "store and quorum": "#588157",
    "wire": "#a3b18a",
    "device: log and index": "#e0a030",
    "background": "#8d6a9f",
    "service frame": "#b0a8b9",
    ELSE: "#c8553d",
    KERNEL: "#555555",
}


@dataclass(frozen=True, slots=True)
class Share:
    """Processor time of one kind of process for a request, by part, in microseconds."""

    kind: str
    parts: dict[str, float]


def part_of(stack: str) -> str:
    """The part that a sample (frames separated by semicolons, outermost first) belongs to."""
    for frame in reversed(stack.split(";")):
        _, _, place = frame.rpartition("(")
        for beginning, part in PARTS.items():
            if place.startswith(beginning) and not place.startswith(_OUTERMOST):
                return part
        if "trio/_core/_run.py" in place or "trio/_core/_io" in place:
            return ELSE
    return ELSE


def shares(raw: str) -> Counter[str]:
    """Samples by part, of py-spy's raw output: a stack and a count on each line."""
    found: Counter[str] = Counter()
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        if "_thread_cache.py" not in stack.rpartition(";")[2]:  # a thread that waits for work, taken for one that runs
            found[part_of(stack)] += int(count)
    return found


def profile(subject: Subject, workload: Workload, seconds: float, folder: Path) -> list[Share]:
    """Run the workload with every process watched."""
    subject.prepare(workload)
    subject.warm_up(workload, seconds)
    processes = _services(subject.system._processes[0].pid)
    watchers = [_watch(pid, folder / f"{pid}.raw", seconds * 0.7) for pid in processes]
    before = {pid: _times(pid) for pid in processes}
    result: list[int] = []
    thread = threading.Thread(target=lambda: result.append(subject.run(workload, seconds).result.requests))
    thread.start()
    thread.join()
    after = {pid: _times(pid) for pid in processes}
    for watcher in watchers:
        watcher.wait(60)
    kinds: dict[str, Counter[str]] = {}
    for pid, kind in processes.items():
        user_us, kernel_us = ((b - a) / result[0] * 1e6 for a, b in zip(before[pid], after[pid], strict=True))
        seen = shares((folder / f"{pid}.raw").read_text()) if (folder / f"{pid}.raw").exists() else Counter()
        parts = kinds.setdefault(kind, Counter())
        for part, count in seen.items():
            parts[part] += user_us * count / max(seen.total(), 1)  # type: ignore[assignment]  # microseconds, not counts
        parts[KERNEL] += kernel_us  # type: ignore[assignment]
    return [Share(kind, dict(parts)) for kind, parts in kinds.items()]


def _services(root: int) -> dict[int, str]:
    """The processes that serve, and what each is."""
    found = {}
    for pid in tree_of([root]):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().replace("\0", " ").split()
        if "serve" in words:
            found[pid] = words[words.index("serve") + 1]
    return found


def _watch(pid: int, output: Path, seconds: float) -> subprocess.Popen[bytes]:
    command = ["py-spy", "record", "--rate", "250", "--format", "raw", "--duration", str(max(1, round(seconds)))]
    return subprocess.Popen(
        [*command, "--output", str(output), "--pid", str(pid)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def _times(pid: int) -> tuple[float, float]:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) / 100, int(fields[12]) / 100


def draw(report: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """One bar a workload, in pieces by part; all its processes together, in shares of the whole, with the sum beside it."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    picture, axes = pyplot.subplots(figsize=(9, 1.4 + 0.5 * len(report)), layout="constrained")
    for row, by_kind in enumerate(report.values()):
        sums: Counter[str] = Counter()
        for share in by_kind:
            sums.update(share["parts"])
        total = sum(sums.values())
        left = 0.0
        for part, colour in COLOURS.items():
            width = sums.get(part, 0) / total * 100
            axes.barh(row, width, left=left, color=colour, label=part if row == 0 else None)
            left += width
        axes.text(101, row, f"{total:,.0f} us", va="center")
    axes.set_yticks(range(len(report)), list(report))
    axes.invert_yaxis()
    axes.set_xlim(0, 115)
    axes.set_xlabel("% of a request's processor time, all processes")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=5, fontsize="small", frameon=False)
    picture.savefig(path, metadata={"Date": None})
    pyplot.close(picture)


def main() -> int:
    """Profile each workload; write profile.json and profile.svg; print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.profile", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=8.0, help="of each run")
    parser.add_argument("--output", type=Path, default=Path("bench-results"))
    arguments = parser.parse_args()
    unwind_on_signals()
    if shutil.which("py-spy") is None:
        sys.exit("py-spy is not on the path: pip install py-spy")
    report: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(prefix="ringstead-profile-") as folder, Ringstead(Path(folder)) as system:
        subject = Subject(system)
        for workload in WORKLOADS:
            say(workload.title)
            found = profile(subject, workload, arguments.seconds, Path(folder))
            report[workload.title] = [{"kind": share.kind, "parts": share.parts} for share in found]
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "profile.json").write_text(json.dumps(report, indent=1))
    draw(report, arguments.output / "profile.svg")
    print(table(report))
    return 0


def table(report: dict[str, list[dict[str, Any]]]) -> str:
    """As Markdown: microseconds by part."""
    lines = [f"| workload | {' | '.join(COLOURS)} | all |", "| --- |" + " --- |" * (len(COLOURS) + 1)]
    for title, by_kind in report.items():
        sums = {part: sum(share["parts"].get(part, 0.0) for share in by_kind) for part in COLOURS}
        cells = " | ".join(f"{value:,.0f} us" for value in sums.values())
        lines.append(f"| {title} | {cells} | {sum(sums.values()):,.0f} us |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
