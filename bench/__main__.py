"""`python -m bench`: the store's speed on this machine, as a table, JSON beside it.

Each case runs `--rounds` times, in turn with all others, after a short warm-up; medians are shown with the spread. With
every rate stand the processor time per request of all of the cluster's processes and, in the end, what the hardware does.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.limits import device_write_mb_per_s, fdatasync_per_s, loopback_sendfile_mb_per_s, md5_mb_per_s
from bench.load import Result, fill, lua, run_heads, run_wrk
from bench.system import Ringstead

KIB, MIB = 1024, 1024 * 1024
NAMES = 10_000


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to measure."""

    name: str
    method: str
    path: str
    connections: int
    body_bytes: int = 0
    moved_bytes: int = 0
    """Object bytes per request, for MB/s."""
    order: str = ""
    aim: str = ""


CASES = (
    Case("GET 4 KiB (32)", "GET", "/small/%d", 32, 0, 4 * KIB, aim="> 20,000/s"),
    Case("PUT 4 KiB (32)", "PUT", "/put/%d", 32, 4 * KIB, 4 * KIB, "next", "> 5,000/s"),
    Case("HEAD (32)", "HEAD", "/small/%d", 32),
    Case("DELETE (32)", "DELETE", "/delete/%d", 32, order="next"),
    Case("page of 1,000 names, JSON (4)", "GET", "/many?format=json&limit=1000&marker=n%%05d000", 4),
    Case("PUT 1 MiB (8)", "PUT", "/put1m/%d", 8, MIB, MIB, "next"),
    Case("GET 1 MiB (8)", "GET", "/big/1m", 8, 0, MIB),
    Case("PUT 64 MiB (2)", "PUT", "/put64m/%d", 2, 64 * MIB, 64 * MIB, "next", "> 350 MB/s"),
    Case("GET 64 MiB (2)", "GET", "/big/64m", 2, 0, 64 * MIB, aim="> 1,500 MB/s"),
    Case("GET 4 KiB (1)", "GET", "/small/%d", 1, 0, 4 * KIB),
    Case("PUT 4 KiB (1)", "PUT", "/put/%d", 1, 4 * KIB, 4 * KIB, "next"),
)


def requests_for_fill(system: Ringstead, names: int, listed: int, deletes: int) -> Iterator[bytes]:
    """Everything that the cases read, as raw requests."""
    base, token = system.account_path, system.token

    def put(path: str, body: bytes) -> bytes:
        return (
            f"PUT {base}{path} HTTP/1.1\r\nHost: bench\r\nX-Auth-Token: {token}\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode() + body

    small = b"0123456789abcdef" * 256
    for number in range(names):
        yield put(f"/small/{number}", small)
    for number in range(deletes):
        yield put(f"/delete/{number}", b"x")
    for number in range(listed):
        yield put(f"/many/n{number:08d}", b"")
    yield put("/big/1m", os.urandom(MIB))
    yield put("/big/64m", os.urandom(64 * MIB))


def containers(system: Ringstead) -> Iterator[bytes]:
    """The containers that the cases use."""
    for name in ("small", "put", "delete", "many", "big", "put1m", "put64m"):
        yield (
            f"PUT {system.account_path}/{name} HTTP/1.1\r\nHost: bench\r\nX-Auth-Token: {system.token}\r\n"
            "Content-Length: 0\r\n\r\n"
        ).encode()


def run_case(system: Ringstead, case: Case, seconds: float, pages: int) -> tuple[Result, float]:
    """One run; the result and the processor seconds that the cluster used per request."""
    path = system.account_path + case.path
    count = NAMES
    if case.name.startswith("page"):
        path, count = path.replace("%%", "%"), pages
    script = lua(
        case.method, path, {"X-Auth-Token": system.token}, body_bytes=case.body_bytes, count=count, order=case.order
    )
    before = system.usage()
    if case.method == "HEAD":
        heads = [
            f"HEAD {path % number} HTTP/1.1\r\nHost: bench\r\nX-Auth-Token: {system.token}\r\n\r\n".encode()
            for number in range(count)
        ]
        result = run_heads(system.port, heads, connections=case.connections, seconds=seconds)
    else:
        result = run_wrk(system.base_url, script, connections=case.connections, seconds=seconds)
    after = system.usage()
    return result, (after.cpu_s - before.cpu_s) / max(result.requests, 1)


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="of one run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--listed", type=int, default=100_000, help="names in the listed container")
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    parser.add_argument("--output", type=Path, help="write the figures as JSON here")
    parser.add_argument("--deletes-per-s", type=int, default=6_000, help="names made for DELETE, per second of it")
    parser.add_argument("--devices-per-zone", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed: apt-get install wrk")
    cases = [case for case in CASES if arguments.only in case.name]
    with tempfile.TemporaryDirectory(prefix="ringstead-bench-") as folder:
        options = ("--devices-per-zone", str(arguments.devices_per_zone), "--workers", str(arguments.workers))
        with Ringstead(Path(folder) / "data", *options) as system:
            report = measure(system, cases, arguments)
            report["pss_mb"] = round(system.usage().pss_bytes / 1e6)
        report["limits"] = {
            "fdatasync_per_s": round(fdatasync_per_s(Path(folder))),
            "md5_mb_per_s": round(md5_mb_per_s()),
            "device_write_mb_per_s": round(device_write_mb_per_s(Path(folder))),
            "loopback_sendfile_mb_per_s": round(loopback_sendfile_mb_per_s(Path(folder))),
        }
    print(table(report))
    if arguments.output:
        arguments.output.write_text(json.dumps(report, indent=1))
    return 0


def measure(system: Ringstead, cases: list[Case], arguments: argparse.Namespace) -> dict[str, object]:
    """Fill, warm up, run the rounds."""
    system.wait_ready()
    host, port = "127.0.0.1", system.port
    fill(host, port, containers(system), 1)
    wanted = {case.name.split()[0] for case in cases}
    listed = arguments.listed if any(case.name.startswith("page") for case in cases) else 0
    deletes = int(arguments.deletes_per_s * arguments.seconds * arguments.rounds) if "DELETE" in wanted else 0
    fill(host, port, requests_for_fill(system, NAMES, listed, deletes))
    runs: dict[str, list[tuple[Result, float]]] = {case.name: [] for case in cases}
    deleted = 0
    for round_ in range(arguments.rounds):
        for case in cases:
            if round_ == 0 and case.method in ("GET", "HEAD"):
                run_case(system, case, min(2.0, arguments.seconds), max(listed // 1000 - 1, 1))
            if case.method == "DELETE":
                shifted = Case(case.name, case.method, "/delete/%d", case.connections, order="next")
                result, cpu = run_delete(system, shifted, arguments.seconds, deleted)
                deleted += result.requests + case.connections
            else:
                result, cpu = run_case(system, case, arguments.seconds, max(listed // 1000 - 1, 1))
            runs[case.name].append((result, cpu))
            print(f"  {case.name:32} {result.rate:10,.0f}/s  errors {result.errors}", file=sys.stderr, flush=True)
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}",
        "python": platform.python_version(),
        "options": {"devices_per_zone": arguments.devices_per_zone, "workers": arguments.workers},
        "seconds": arguments.seconds,
        "cases": {case.name: summary(case, runs[case.name]) for case in cases},
    }


def run_delete(system: Ringstead, case: Case, seconds: float, first: int) -> tuple[Result, float]:
    """DELETE of names that exist, each once: the counter goes on where the last run ended."""
    script = lua("DELETE", system.account_path + case.path, {"X-Auth-Token": system.token}, order="next")
    script = script.replace("local counter = -1", f"local counter = {first - 1}")
    before = system.usage()
    result = run_wrk(system.base_url, script, connections=case.connections, seconds=seconds)
    after = system.usage()
    return result, (after.cpu_s - before.cpu_s) / max(result.requests, 1)


def summary(case: Case, runs: list[tuple[Result, float]]) -> dict[str, object]:
    """Medians and spread of one case."""
    rates = sorted(result.rate for result, _ in runs)
    rate = statistics.median(rates)
    middle = min(runs, key=lambda run: abs(run[0].rate - rate))[0]
    return {
        "aim": case.aim,
        "rate_per_s": rate,
        "rate_min": rates[0],
        "rate_max": rates[-1],
        "mb_per_s": rate * case.moved_bytes / 1e6,
        "cpu_us": statistics.median(cpu for _, cpu in runs) * 1e6,
        "errors": sum(result.errors for result, _ in runs),
        **{name: value for name, value in asdict(middle).items() if name.endswith("_ms")},
    }


def table(report: dict[str, object]) -> str:
    """The report as Markdown."""
    lines = [
        f"{report['machine']}, Python {report['python']}, {report['options']}, PSS {report['pss_mb']} MB",
        "",
        "| case | rate | spread | MB/s | CPU each | p50 | p99 | p99.9 | errors | aim |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    cases = report["cases"]
    assert isinstance(cases, dict)
    for name, row in cases.items():
        lines.append(
            f"| {name} | {row['rate_per_s']:,.0f}/s | {row['rate_min']:,.0f} to {row['rate_max']:,.0f} "
            f"| {row['mb_per_s']:,.0f} | {row['cpu_us']:,.0f} us | {row['p50_ms']:.2f} ms | {row['p99_ms']:.2f} ms "
            f"| {row['p999_ms']:.2f} ms | {row['errors']} | {row['aim']} |"
        )
    return "\n".join([*lines, "", f"Limits of this machine: {report['limits']}"])


if __name__ == "__main__":
    sys.exit(main())
