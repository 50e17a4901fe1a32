"""The report: what was measured, as JSON for machines and as Markdown for people, with ratios to peers and to the hardware.

Beside every rate stand the dialect that it was asked in, the spread of its runs, the processor time that a request took of
all of the system's processes, and how far it is from what bounds it: for large objects the loopback, MD5 or the device,
measured before and after.
"""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from pathlib import Path
from typing import Any, Final

from bench.workloads import IN_S3

OURS: Final = "ringstead"

COLUMNS: Final = (
    *("workload", "system", "asked in", "rate", "spread", "MB/s", "CPU each", "written each"),
    *("p50", "p95", "p99", "p99.9", "errors"),
)
DIALECTS: Final = {"swift": "Swift", "s3": "S3"}
AIMS: Final[dict[str, dict[str, float]]] = {
    "GET 4 KiB (32)": {"swift": 40, "ceph-rgw": 6},
    "PUT 4 KiB (32)": {"swift": 30},
    "HEAD 4 KiB (32)": {"swift": 30},
    "DELETE 4 KiB (32)": {"swift": 30},
    "page of 1,000 of 100,000 names (4)": {"swift": 15},
    "PUT 1 MiB (8)": {"swift": 2.5},
    "GET 1 MiB (8)": {"swift": 4},
}
"""How many times a peer's rate is aimed at."""
CHEAP_SYNC_MS: Final = 0.5
"""Below this a sync costs less than what any of the systems computes for a PUT."""
S3_SHARE_MIN: Final = 0.6
"""Of our own rate with a token, what is aimed at with a signature."""


def machine(folder: Path) -> dict[str, Any]:
    """Where the figures come from; `folder` lies on the disk that is measured."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "unknown"
    )
    memory_kb = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "memory_gib": round(memory_kb / 2**20, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "disk": _disk_of(folder),
        "wrk": _first_line("wrk", "-v"),
        "commit": _first_line("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "load_before": os.getloadavg()[0],
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _disk_of(folder: Path) -> str:
    """The file system and the device under a folder: "ext4 on /dev/vda"."""
    held = [words for words in (line.split() for line in _lines("/proc/mounts")) if len(words) > 2]
    under = [words for words in held if folder.resolve().is_relative_to(words[1])]
    # The last of those with the longest path: what was mounted over the others.
    longest = max((len(words[1]) for words in under), default=0)
    return next((f"{words[2]} on {words[0]}" for words in reversed(under) if len(words[1]) == longest), "unknown")


def _first_line(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return next(iter((done.stdout or "unknown").splitlines()), "unknown").strip()


def markdown(report: dict[str, Any]) -> str:
    """The whole report."""
    parts = [
        _heading(report),
        _limits(report),
        _systems(report),
        _table(report),
        _ratios(report),
        _limits_reached(report),
    ]
    parts += [f"## {title}\n\n```\n{text}\n```" for title, text in report.get("parts", {}).items()]
    return "\n\n".join(part for part in parts if part) + "\n"


def _heading(report: dict[str, Any]) -> str:
    about = report["machine"]
    return (
        f"{about['cores']} cores ({about['processor']}), {about['memory_gib']} GiB, Linux {about['kernel']}, Python "
        f"{about['python']}; runs of {report['seconds']:g} s, {report['rounds']} of each, in turn; the generator (wrk, "
        f"one thread) on the same cores. Load average before: {about['load_before']:.2f}, after: {report['load_after']:.2f}."
        f"\n\n{about['date']}; {about['disk']}; Ringstead's source {about['commit']}; {about['wrk']}."
    )


def _limits(report: dict[str, Any]) -> str:
    before, after = report["limits_before"], report["limits_after"]
    names = {
        "fdatasync_per_s": "4 KiB appended and fdatasynced, /s",
        "md5_mb_per_s": "MD5 on one core, MB/s",
        "device_write_mb_per_s": "written to the device, MB/s",
        "loopback_sendfile_mb_per_s": "sendfile over the loopback, MB/s",
        "bare_http_per_s": "recv and send of 4 KiB, one Python process, /s",
    }
    rows = [f"| {text} | {before[name]:,.0f} | {after[name]:,.0f} |" for name, text in names.items()]
    return "\n".join(["| the machine itself | before | after |", "| --- | --- | --- |", *rows])


def _systems(report: dict[str, Any]) -> str:
    rows = [
        f"| {name} {about['version']} | {about['answers_when']} | {about['pss_mb']:,.0f} MB "
        f"| {about['private_mb']:,.0f} MB | {about['processes']} | {about['idle_cores']:.3f} |"
        for name, about in report["systems"].items()
    ]
    head = "| system | a PUT is answered when | memory (PSS) | of it in no file | processes | cores when idle |"
    absent = "".join(f"\n\n{name} took no part: {reason}." for name, reason in report.get("absent", {}).items())
    return "\n".join([head, "| --- | --- | --- | --- | --- | --- |", *rows]) + absent


def _table(report: dict[str, Any]) -> str:
    lines = [
        f"| {' | '.join(COLUMNS)} |",
        "|" + " --- |" * len(COLUMNS),
    ]
    for title, by_system in report["workloads"].items():
        for name, row in by_system.items():
            if "problem" in row:
                lines.append(f"| {title} | {name} | | not measured: {row['problem']} | | | | | | | | | |")
                continue
            megabytes = f"{row['mb_per_s']:,.0f}" if row["mb_per_s"] else ""
            latencies = " | ".join(_ms(row[f"{name}_ms"]) for name in ("p50", "p95", "p99", "p999"))
            lines.append(
                f"| {title} | {name} | {DIALECTS[row['dialect']]} | {_rate(row['rate_per_s'])} "
                f"| {_rate(row['rate_min'])} to {_rate(row['rate_max'])} "
                f"| {megabytes} | {row['cpu_us']:,.0f} us | {_size(row['written_bytes'])} | {latencies} | {row['errors']} |"
            )
    return "\n".join(lines)


def ratios(report: dict[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """Title -> peer -> {"rate": our rate over its, "cpu": its processor time a request over ours}.

    Only of what both were asked and answered without an error.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    for title, by_system in report["workloads"].items():
        ours = by_system.get(OURS, {})
        if not _is_result(ours):
            continue
        found[title] = {
            peer: {"rate": ours["rate_per_s"] / theirs["rate_per_s"], "cpu": theirs["cpu_us"] / ours["cpu_us"]}
            for peer, theirs in by_system.items()
            if peer != OURS and _is_result(theirs)
        }
    return found


def _is_result(row: dict[str, Any]) -> bool:
    """Whether it may be compared: a rate of refusals says nothing."""
    return "rate_per_s" in row and not row["errors"] and row["cpu_us"] > 0


def _ratios(report: dict[str, Any]) -> str:
    peers = [name for name in report["systems"] if name != OURS]
    if OURS not in report["systems"] or not peers:
        return ""
    columns = " | ".join(f"rate / {peer} | CPU each, {peer} / ours" for peer in peers)
    lines = [f"| workload | {columns} | aim |", "| --- |" + " --- |" * (2 * len(peers) + 1)]
    for title, by_peer in ratios(report).items():
        cells = [f"{by_peer[p]['rate']:.1f} | {by_peer[p]['cpu']:.1f}" if p in by_peer else " | " for p in peers]
        lines.append(f"| {title} | {' | '.join(cells)} | {_aim(title, report['workloads'])} |")
    return "\n".join([_about_ratios(report), "", *lines])


def _about_ratios(report: dict[str, Any]) -> str:
    """What must stand beside every ratio: what this disk takes for a sync."""
    per_s = (report["limits_before"]["fdatasync_per_s"] + report["limits_after"]["fdatasync_per_s"]) / 2
    sync_ms = 1000 / per_s
    meaning = (
        "so these ratios compare processor cost more than the cost of durability"
        if sync_ms < CHEAP_SYNC_MS
        else "so ratios of writes compare how often each syncs as well as processor cost"
    )
    return (
        f"**This disk acknowledges an fdatasync of 4 KiB in {sync_ms:.3f} ms ({per_s:,.0f} a second), {meaning}.** "
        "Ratios above 1 are in our favour; CPU each is of all processes of a system. Rows with errors have none."
    )


def _aim(title: str, workloads: dict[str, Any]) -> str:
    by_system = workloads[title]
    said = []
    for peer, times in AIMS.get(title, {}).items():
        if _is_result(by_system.get(peer, {})):
            reached = by_system[OURS]["rate_per_s"] >= times * by_system[peer]["rate_per_s"]
            said.append(f"{times:g} x {peer}: {'reached' if reached else 'missed'}")
    token_path = workloads.get(title.removeprefix(IN_S3), {}).get(OURS, {})
    if title.startswith(IN_S3) and "rate_per_s" in token_path:
        share = by_system[OURS]["rate_per_s"] / token_path["rate_per_s"]
        verdict = "reached" if share >= S3_SHARE_MIN else "missed"
        said.append(f"{share:.0%} of the token path, aim {S3_SHARE_MIN:.0%}: {verdict}")
    return "; ".join(said)


def against_limits(report: dict[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """Title -> system -> {what bounds it: the share of it that was reached}; bounds are means of before and after."""
    limits = {name: (value + report["limits_after"][name]) / 2 for name, value in report["limits_before"].items()}
    found: dict[str, dict[str, dict[str, float]]] = {}
    for title, by_system in report["workloads"].items():
        for name, row in by_system.items():
            if shares := dict(_shares(title, row, limits)):
                found.setdefault(title, {})[name] = shares
    return found


def _limits_reached(report: dict[str, Any]) -> str:
    lines = [
        f"| {title} | {name} | {share:.0%} of {text} |"
        for title, by_system in against_limits(report).items()
        for name, shares in by_system.items()
        for text, share in shares.items()
    ]
    if not lines:
        return ""
    return "\n".join(["| workload | system | beside what the machine can do |", "| --- | --- | --- |", *lines])


def _shares(title: str, row: dict[str, Any], limits: dict[str, float]) -> list[tuple[str, float]]:
    """What bounds a workload, and how near it came."""
    if not _is_result(row):
        return []
    if "GET 4 KiB" in title or "HEAD" in title:
        return [("one bare process", row["rate_per_s"] / limits["bare_http_per_s"])]
    if "GET" in title and row["mb_per_s"] > 100:
        return [("loopback sendfile", row["mb_per_s"] / limits["loopback_sendfile_mb_per_s"])]
    if "PUT" in title and "PUT 4 KiB" not in title and row["mb_per_s"] > 20:
        device = limits["device_write_mb_per_s"] / 3
        return [
            ("MD5 on one core", row["mb_per_s"] / limits["md5_mb_per_s"]),
            ("the device's bandwidth for three copies", row["mb_per_s"] / device),
        ]
    if "PUT" in title or "DELETE" in title:
        return [("one fdatasync after the other", row["rate_per_s"] / limits["fdatasync_per_s"])]
    return []


def _rate(value: float) -> str:
    return f"{value:,.0f}/s" if value >= 100 else f"{value:,.1f}/s"


def _ms(value: float) -> str:
    return f"{value:.2f} ms" if value < 10 else f"{value:,.0f} ms"


def _size(value: float | None) -> str:
    if value is None:
        return "not known"
    return (
        f"{value:,.0f} B"
        if value < 10_000
        else f"{value / 1024:,.0f} KiB"
        if value < 10e6
        else f"{value / 2**20:,.0f} MiB"
    )
