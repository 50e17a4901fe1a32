"""Placement: how many servers a scheduler places in a second, and how that grows with hosts.

    python -m bench.placement                     100 to 100,000 hosts in memory, 10,000 hosts in SQLite
    python -m bench.placement --hosts 10000       one size
    python -m bench.placement --quick             1,000 hosts, a few thousand placements: whether it runs

What is placed: a mix of what clouds ask for. Of 20 requests 15 name a zone, 2 require a trait that a tenth of the hosts
has, 6 are members of anti-affinity groups of three, 3 bring a volume on the pool's shared SR; all have a root disk and
an image. Hosts have a local SR each and one shared SR per pool of 16. The cloud is half full before (20 servers a host,
at most 200,000) and stays so: for each server placed one leaves, outside the measured time.

A placement is `Booking.book`: filter, weigh, draw, claim with a fresh idempotency key, take over what changed.
Processor time of the process is the figure to go by where other programs share the machine; wall time stands beside it.
Each size runs in a process of its own. Exit code 1 where an aim is missed (by processor time).
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.limits import fdatasync_per_s
from ring.topology import Device
from scheduler.booking import Booking, batch_for
from scheduler.claims.claim import Batch, Claim, Claims, DiskShare, HostLimit, HostShare, SrLimit
from scheduler.claims.memory import MemoryClaims
from scheduler.claims.sql import SqlClaims
from scheduler.database import open_engine
from scheduler.metadata import METADATA
from scheduler.placement.inventory import Inventory
from scheduler.placement.place import explain, place
from scheduler.placement.request import Disk, Flavor, Membership, Policy, ServerRequest
from scheduler.placement.resources import Host, Sr

GIB = 1 << 30
SIZES = (100, 1_000, 10_000, 100_000)
SERVERS_PER_HOST = 20
SERVERS_MAX = 200_000
POOL_HOSTS = 16
FLAVORS = (Flavor("small", 2048, 1), Flavor("medium", 4096, 2), Flavor("large", 8192, 4), Flavor("huge", 16_384, 8))
GPU = frozenset({"gpu"})
IN_FLIGHT = 16
"""Commits at the same time, for SQLite's group commit."""

Result = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Aim:
    """What a case must reach, by processor time."""

    rate_min_per_s: float
    p99_max_ms: float | None = None


AIMS = {("memory", 10_000): Aim(5_000, 2.0), ("sqlite", 10_000): Aim(500), ("sqlite, 16 in flight", 10_000): Aim(500)}


def hosts_and_srs(count: int) -> tuple[list[Host], list[Sr]]:
    """A cloud of three zones: hosts of 256 GiB, 4 TB of local disks each, 100 TB shared in each pool."""
    hosts, srs = [], []
    for number in range(count):
        pool, zone, node = f"pool-{number // POOL_HOSTS:05}", number // POOL_HOSTS % 3, f"node{number}"
        traits = GPU if number % 10 == 0 else frozenset()
        device = Device(number, 1, zone, node, 443, "xen", 1.0, "host")
        hosts.append(Host(f"host-{number:06}", pool, device, 262_144, 32, reserved_memory_mib=8192, traits=traits))
        place_ = Device(number, 1, zone, node, 443, "local", 1.0, "sr")
        srs.append(Sr(f"sr-{number:06}", pool, place_, 4_000 * GIB, frozenset({hosts[-1].host_id})))
    for first in range(0, count, POOL_HOSTS):
        group = hosts[first : first + POOL_HOSTS]
        place_ = Device(count + first, 1, group[0].device.zone, f"store{first}", 443, "shared", 1.0, "sr")
        reach = frozenset(host.host_id for host in group)
        srs.append(
            Sr(
                f"sr-shared-{first:06}",
                group[0].pool_id,
                place_,
                100_000 * GIB,
                reach,
                shared=True,
                volume_types=frozenset({"shared"}),
                image_ids=frozenset({"debian"}),
            )
        )
    return hosts, srs


def requests(seed: int) -> Iterator[ServerRequest]:
    """An endless mix of requests."""
    draw = random.Random(seed)
    number = 0
    while True:
        number += 1
        kind = number % 20
        name = f"server-{seed}-{number}"
        disks = [Disk(f"{name}-root", 20 * GIB, image_id="debian")]
        if kind in (3, 9, 15):
            disks.append(Disk(f"{name}-data", 100 * GIB, "shared", volume=True))
        membership = None
        if kind < 6:
            group = f"group-{seed}-{number // 20}-{kind // 3}"
            membership = Membership(group, Policy.ANTI_AFFINITY, kind % 3)
        yield ServerRequest(
            name,
            f"project-{number % 50}",
            draw.choices(FLAVORS, (8, 8, 3, 1))[0],
            zone=None if kind % 4 == 0 else (1, draw.randrange(3)),
            membership=membership,
            required_traits=GPU if kind in (7, 17) else frozenset(),
            disks=tuple(disks),
            image_id="debian",
        )


def preload(claims: Claims, hosts: list[Host], srs: list[Sr]) -> list[str]:
    """Limits and the servers that are there before; their ids."""
    claims.set_limits([HostLimit.of(host) for host in hosts], [SrLimit.of(sr) for sr in srs])
    draw = random.Random(7)
    count = min(SERVERS_PER_HOST * len(hosts), SERVERS_MAX)
    batch: list[Claim] = []
    names = []
    for number in range(count):
        flavor = draw.choices(FLAVORS, (8, 8, 3, 1))[0]
        index = number % len(hosts)
        name = f"old-{number:07}"
        disk = DiskShare(f"{name}-root", srs[index].sr_id, 20 * GIB)
        share = HostShare(hosts[index].host_id, flavor.memory_mib, flavor.vcpus)
        batch.append(Claim(name, f"project-{number % 50}", share, (disk,)))
        names.append(name)
        if len(batch) == 200 or number == count - 1:
            claims.commit(Batch(f"preload-{number}", tuple(batch)))
            batch = []
    draw.shuffle(names)
    return names


def run_memory(count: int, placements: int) -> Result:
    """Placements with claims in memory."""
    hosts, srs = hosts_and_srs(count)
    claims = MemoryClaims(time.time)
    leaving = preload(claims, hosts, srs)
    booking = Booking(Inventory(hosts, srs, seed=5), claims, seed=1)
    booking.read()
    result = run_bookings(booking, leaving, placements)
    began_s = time.process_time()
    explain(booking.inventory, next(requests(99)))
    return result | {"explain_ms": (time.process_time() - began_s) * 1e3, "servers": len(leaving)}


def run_bookings(booking: Booking, leaving: list[str], placements: int) -> Result:
    """Book one after the other; for each one the oldest server goes, with its volumes."""
    asked = requests(1)
    servers = deque((name,) for name in leaving)
    for number in range(min(6_000, placements // 4)):
        replace_oldest(booking, servers, next(asked), f"warm-{number}")
    cpu_s, wall_s, tries = [], [], 0
    for number in range(placements):
        request = next(asked)
        wall_begun, cpu_begun = time.perf_counter(), time.process_time()
        booked = booking.book(request, f"key-{number}")
        cpu_s.append(time.process_time() - cpu_begun)
        wall_s.append(time.perf_counter() - wall_begun)
        tries += booked.tries
        servers.append(owners(request))
        booking.inventory.apply(booking.claims.release(servers.popleft()))
    booking.inventory.check()
    return figures(cpu_s, wall_s, sum(cpu_s), sum(wall_s)) | {"tries": tries / placements}


def owners(request: ServerRequest) -> tuple[str, ...]:
    """The server and its volumes."""
    return (request.server_id, *(disk.disk_id for disk in request.disks if disk.volume))


def replace_oldest(booking: Booking, servers: deque[tuple[str, ...]], request: ServerRequest, key: str) -> None:
    """One comes, the oldest goes."""
    booking.book(request, key)
    servers.append(owners(request))
    booking.inventory.apply(booking.claims.release(servers.popleft()))


def run_sqlite(count: int, placements: int, folder: Path) -> list[Result]:
    """Placements with claims in SQLite, one at a time and 16 in flight."""
    hosts, srs = hosts_and_srs(count)
    engine = open_engine(f"sqlite:///{folder / 'claims.db'}")
    METADATA.create_all(engine)
    claims = SqlClaims(engine, time.time)
    leaving = preload(claims, hosts, srs)
    booking = Booking(Inventory(hosts, srs, seed=5), claims, seed=1)
    booking.read()
    syncs = fdatasync_per_s(folder)
    more = {"servers": len(leaving), "fdatasync_per_s": round(syncs)}
    one = run_bookings(booking, leaving, placements) | more
    many = run_in_flight(booking, placements) | more
    engine.dispose()
    return [one, many]


def run_in_flight(booking: Booking, placements: int) -> Result:
    """The same with commits of 16 threads under way at the same time: they share transactions, and so syncs."""
    asked = requests(2)
    inventory, claims = booking.inventory, booking.claims
    cpu_begun, wall_begun = time.process_time(), time.perf_counter()
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        for first in range(0, placements, IN_FLIGHT):
            batches = []
            for number in range(first, first + IN_FLIGHT):
                request = next(asked)
                batch = batch_for(inventory, request, place(inventory, request).chosen, f"many-{number}")
                inventory.add(batch.claims)  # supposed, until the answer is there
                batches.append(batch)
            for change in pool.map(claims.commit, batches):
                inventory.apply(change)
    cpu_s, wall_s = time.process_time() - cpu_begun, time.perf_counter() - wall_begun
    count = -(-placements // IN_FLIGHT) * IN_FLIGHT
    return {
        "placements": count,
        "cpu_us": cpu_s / count * 1e6,
        "rate_per_cpu_s": count / cpu_s,
        "rate_per_s": count / wall_s,
    }


def figures(cpu_s: list[float], wall_s: list[float], cpu_sum_s: float, wall_sum_s: float) -> Result:
    """Rates and percentiles."""
    count = len(cpu_s)
    cpu_s.sort()
    wall_s.sort()
    return {
        "placements": count,
        "cpu_us": cpu_sum_s / count * 1e6,
        "rate_per_cpu_s": count / cpu_sum_s,
        "rate_per_s": count / wall_sum_s,
        "cpu_p50_ms": cpu_s[count // 2] * 1e3,
        "cpu_p99_ms": cpu_s[count * 99 // 100] * 1e3,
        "p50_ms": wall_s[count // 2] * 1e3,
        "p99_ms": wall_s[count * 99 // 100] * 1e3,
    }


def main() -> int:
    """Run the sizes, each in its own process, and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.placement", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hosts", type=int, action="append", help="only this many; may be said again")
    parser.add_argument("--placements", type=int, default=20_000, help="that are measured, in memory")
    parser.add_argument("--sqlite-placements", type=int, default=2_000)
    parser.add_argument("--quick", action="store_true", help="1,000 hosts, few placements")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    parser.add_argument("--run", nargs=2, metavar=("KIND", "HOSTS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.hosts, arguments.placements, arguments.sqlite_placements = [1_000], 3_000, 300
    if arguments.run:
        print(json.dumps(run_one(arguments.run[0], int(arguments.run[1]), arguments)))
        return 0
    rows: list[Result] = []
    for hosts in arguments.hosts or SIZES:
        rows += in_process("memory", hosts, arguments)
    for hosts in arguments.hosts or (10_000,):
        rows += in_process("sqlite", hosts, arguments)
    print(table(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))
    missed = [text for row in rows for text, met in verdicts(row) if not met]
    print("\n" + ("; ".join(f"MISSED: {text}" for text in missed) if missed else "all aims met"))
    return 1 if missed else 0


def run_one(kind: str, hosts: int, arguments: argparse.Namespace) -> list[Result]:
    """One size, in this process."""
    if kind == "memory":
        rows = [{"kind": "memory", "hosts": hosts} | run_memory(hosts, arguments.placements)]
    else:
        with tempfile.TemporaryDirectory(prefix="ringstead-bench-") as folder:
            one, many = run_sqlite(hosts, arguments.sqlite_placements, Path(folder))
        rows = [{"kind": "sqlite", "hosts": hosts} | one, {"kind": "sqlite, 16 in flight", "hosts": hosts} | many]
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return [row | {"rss_mb": round(rss / 1024)} for row in rows]


def in_process(kind: str, hosts: int, arguments: argparse.Namespace) -> list[Result]:
    """One size, in a process of its own."""
    print(f"  {kind}, {hosts:,} hosts", file=sys.stderr, flush=True)
    counts = ["--placements", str(arguments.placements), "--sqlite-placements", str(arguments.sqlite_placements)]
    command = [sys.executable, "-m", "bench.placement", "--run", kind, str(hosts), *counts]
    rows: list[Result] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return rows


def verdicts(row: Result) -> list[tuple[str, bool]]:
    """(what is aimed at, whether it is reached) for a row."""
    aim = AIMS.get((row["kind"], row["hosts"]))
    if aim is None:
        return []
    what = f"{row['kind']}, {row['hosts']:,} hosts"
    found = [(f"{what}: over {aim.rate_min_per_s:,.0f}/s", row["rate_per_cpu_s"] > aim.rate_min_per_s)]
    if aim.p99_max_ms is not None:
        found.append((f"{what}: p99 under {aim.p99_max_ms:g} ms", row["cpu_p99_ms"] < aim.p99_max_ms))
    return found


COLUMNS = (
    ("claims in", "kind", "", ""),
    ("hosts", "hosts", ",", ""),
    ("servers", "servers", ",", ""),
    ("per CPU second", "rate_per_cpu_s", ",.0f", ""),
    ("CPU each", "cpu_us", ",.0f", " us"),
    ("CPU p99", "cpu_p99_ms", ".2f", " ms"),
    ("per second (wall)", "rate_per_s", ",.0f", ""),
    ("wall p50", "p50_ms", ".2f", " ms"),
    ("wall p99", "p99_ms", ".2f", " ms"),
    ("hosts tried", "tries", ".2f", ""),
    ("explain, CPU", "explain_ms", ",.0f", " ms"),
    ("RSS", "rss_mb", ",", " MB"),
    ("fdatasync/s then", "fdatasync_per_s", ",", ""),
)
"""Title, figure, format, unit."""


def table(rows: list[Result]) -> str:
    """The figures as Markdown."""
    lines = ["| " + " | ".join(title for title, *_ in COLUMNS) + " |", "| --- |" + " ---: |" * (len(COLUMNS) - 1)]
    for row in rows:
        cells = [f"{row[name]:{form}}{unit}" if name in row else "" for _, name, form, unit in COLUMNS]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
