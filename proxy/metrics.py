"""What the proxies of one machine have done, as Prometheus wants to read it.

Problem: several worker processes share one port, so a scrape reaches any one of them, and each knows only its own
requests. Counting must cost the hot path next to nothing.

Idea: a worker counts in plain lists, one for each (dialect, method, status), in well under a microsecond a request; the
exposition format is made only when somebody asks. Once a second, and at each scrape, a worker leaves its counts in a file of
its own in a folder that the workers share; whoever is scraped answers for all, each series with a `worker` label. One
target to configure, and it stays the same with any number of workers. What the other services of the machine have left
(node_metrics.py) is shown with it.

Rejected: prometheus_client's own multiprocess mode (a write into a mmap for each count, files of dead processes that only
grow, no custom collectors); a port for each worker (targets that come and go with the number of workers).

Invariants:
- A series never goes back while its worker lives: what a worker has shown it has written to its file before.
- A file that nobody has written for `STALE_S` is of a worker that is gone, and is not shown.
- Labels are bounded: methods that HTTP does not know count as OTHER.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import orjson
import structlog
import trio
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from proxy.node_metrics import COUNTER, Family, left_here

log = structlog.get_logger("proxy.metrics")

WRITE_INTERVAL_S: Final = 1.0
STALE_S: Final = 15.0
BOUNDS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the duration histogram's buckets, in seconds."""
METHODS: Final = frozenset(("GET", "HEAD", "PUT", "POST", "DELETE", "COPY", "OPTIONS"))
SUFFIX: Final = ".metrics.json"
_FILE_BYTES_MAX = 4 * 1024 * 1024
_COUNT, _RECEIVED, _SENT, _SECONDS, _BUCKETS = range(5)
_OWN_PATHS = (b"/healthcheck", b"/metrics")
_SWIFT_PATHS = (b"/info", b"/auth", b"/auth/v1.0", b"/auth/v1", b"/v1.0")

Key = tuple[str, str, int]
"""Dialect, method, status."""


def dialect_of(target: bytes) -> str:
    """Which dialect answers a path."""
    if target[:4] == b"/v1/":
        return "swift"
    if len(target) < 16:
        path = target.partition(b"?")[0].rstrip(b"/")
        if path in _OWN_PATHS:
            return "own"
        if path in _SWIFT_PATHS:
            return "swift"
        if target == b"-":
            return "none"
    return "s3"


class Metrics:
    """The counts of this worker, and the page that shows them with the other workers'.

    `folder` is where the workers of one machine meet; None: there is only this one. `clock` gives seconds since 1970.
    """

    def __init__(self, worker: str, folder: Path | None = None, clock: Callable[[], float] = time.time) -> None:
        self.worker = worker
        self._folder = folder
        self._clock = clock
        self._started_s = clock()
        self._write_failed = False
        self._series: dict[Key, list[Any]] = {}
        self._gauges: dict[str, tuple[str, Callable[[], float]]] = {}

    def record(
        self,
        method: str,
        target: bytes,
        status: int,
        received_bytes: int,
        sent_bytes: int,
        duration_s: float,
        transaction_id: str,
    ) -> None:
        """Count one response. An `AccessLog`: the HTTP server calls it once the response was sent."""
        key = (dialect_of(target), method, status)
        series = self._series.get(key)
        if series is None:
            series = self._new_series(key)
        series[_COUNT] += 1
        series[_RECEIVED] += received_bytes
        series[_SENT] += sent_bytes
        series[_SECONDS] += duration_s
        series[_BUCKETS][bisect_left(BOUNDS_S, duration_s)] += 1

    def _new_series(self, key: Key) -> list[Any]:
        dialect, method, status = key
        if method not in METHODS:
            key = (dialect, "OTHER", status)
        return self._series.setdefault(key, [0, 0, 0, 0.0, [0] * (len(BOUNDS_S) + 1)])

    def add_gauge(self, name: str, documentation: str, read: Callable[[], float]) -> None:
        """Show one more figure of this process, read when it is asked for. `name` without the prefix ringstead_proxy_."""
        self._gauges[name] = (documentation, read)

    def snapshot(self) -> dict[str, Any]:
        """This worker's counts, fit for JSON."""
        return {
            "worker": self.worker,
            "written_s": self._clock(),
            "started_s": self._started_s,
            "series": [[*key, *values] for key, values in self._series.items()],
            "gauges": {name: [documentation, float(read())] for name, (documentation, read) in self._gauges.items()},
            "process": _process_figures(),
        }

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Leave the counts in the shared folder once a second, until cancelled; then take them away."""
        task_status.started()
        try:
            while True:
                await self._write(self.snapshot())
                await trio.sleep(WRITE_INTERVAL_S)
        finally:
            if self._folder is not None:
                with suppress(OSError):
                    self._path(self._folder).unlink()

    async def page(self) -> bytes:
        """The exposition of this worker's counts and of those that the others have left."""
        own = self.snapshot()
        others: list[dict[str, Any]] = []
        families: list[Family] = []
        if self._folder is not None:
            await self._write(own)
            others = await trio.to_thread.run_sync(self._read_others)
            families = await trio.to_thread.run_sync(left_here, self._folder, self._clock())
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Snapshots([own, *others]))
        registry.register(_Left(families))
        return generate_latest(registry)

    def _path(self, folder: Path) -> Path:
        return folder / f"{self.worker}{SUFFIX}"

    async def _write(self, snapshot: dict[str, Any]) -> None:
        """Replace this worker's file as a whole. While that fails the others do not see it; it is logged once."""
        if self._folder is None:
            return
        try:
            await trio.to_thread.run_sync(self._replace_file, orjson.dumps(snapshot))
        except OSError as error:
            if not self._write_failed:
                log.warning("the metrics file can't be written", folder=str(self._folder), error=str(error))
            self._write_failed = True
        else:
            self._write_failed = False

    def _replace_file(self, data: bytes) -> None:
        assert self._folder is not None
        path = self._path(self._folder)
        draft = path.with_suffix(f".{os.getpid()}")
        draft.write_bytes(data)
        draft.replace(path)

    def _read_others(self) -> list[dict[str, Any]]:
        """What the other living workers have left."""
        assert self._folder is not None
        found = []
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            if path == self._path(self._folder):
                continue
            try:
                if path.stat().st_size > _FILE_BYTES_MAX:
                    continue
                snapshot = orjson.loads(path.read_bytes())
                if self._clock() - float(snapshot["written_s"]) < STALE_S:
                    found.append(_checked(snapshot))
            except (OSError, ValueError, KeyError, TypeError, IndexError):
                continue  # it went away, or is not one of ours
        return found


async def node_page(folder: Path, clock: Callable[[], float] = time.time) -> bytes:
    """The exposition of what services have left in a folder, for a machine without a proxy."""
    families = await trio.to_thread.run_sync(left_here, folder, clock())
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Left(families))
    return generate_latest(registry)


def _checked(snapshot: dict[str, Any]) -> dict[str, Any]:
    """A snapshot of whose shape one can be sure. Raises ValueError, KeyError, TypeError, IndexError."""
    for row in snapshot["series"]:
        dialect, method, status, count, received, sent, seconds, buckets = row
        numbers = (status, count, received, sent, seconds, *buckets)
        texts = (dialect, method, snapshot["worker"])
        if len(buckets) != len(BOUNDS_S) + 1 or not all(isinstance(number, (int, float)) for number in numbers):
            raise ValueError("not a row of counts")
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("not a row of counts")
    for documentation, value in snapshot["gauges"].values():
        if not isinstance(documentation, str) or not isinstance(value, (int, float)):
            raise ValueError("not a gauge")
    for value in (snapshot["started_s"], *snapshot["process"].values()):
        float(value)
    return snapshot


def _process_figures() -> dict[str, float]:
    """Memory, processor time and files of this process."""
    times = os.times()
    figures = {"cpu_seconds": times.user + times.system}
    with suppress(OSError):
        resident_pages = int(Path("/proc/self/statm").read_text().split()[1])
        figures["resident_memory_bytes"] = float(resident_pages * os.sysconf("SC_PAGE_SIZE"))
        figures["open_fds"] = float(len(os.listdir("/proc/self/fd")))
    return figures


class _Snapshots(Collector):
    """Several workers' counts as metric families."""

    def __init__(self, snapshots: Sequence[dict[str, Any]]) -> None:
        self._snapshots = snapshots

    def collect(self) -> Iterator[Metric]:
        """Every family once, with the series of all workers."""
        labels = ("worker", "dialect", "method", "status")
        requests = CounterMetricFamily("ringstead_proxy_requests", "Responses sent.", labels=labels)
        received = CounterMetricFamily(
            "ringstead_proxy_received_bytes", "Bytes of requests, heads included.", labels=labels[:3]
        )
        sent = CounterMetricFamily(
            "ringstead_proxy_sent_bytes", "Bytes of responses, heads included.", labels=labels[:3]
        )
        durations = HistogramMetricFamily(
            "ringstead_proxy_request_duration_seconds",
            "From a request's head to the end of its response.",
            labels=labels[:3],
        )
        for snapshot in self._snapshots:
            worker = snapshot["worker"]
            merged: dict[tuple[str, str], list[Any]] = {}
            for dialect, method, status, count, in_bytes, out_bytes, seconds, buckets in snapshot["series"]:
                requests.add_metric((worker, dialect, method, str(status)), count)
                total = merged.setdefault((dialect, method), [0, 0, 0.0, [0] * len(buckets)])
                total[0] += in_bytes
                total[1] += out_bytes
                total[2] += seconds
                total[3] = [held + more for held, more in zip(total[3], buckets, strict=True)]
            for (dialect, method), (in_bytes, out_bytes, seconds, buckets) in merged.items():
                values = (worker, dialect, method)
                received.add_metric(values, in_bytes)
                sent.add_metric(values, out_bytes)
                durations.add_metric(values, _cumulative(buckets), seconds)
        yield from (requests, received, sent, durations)
        yield from self._process_families()
        yield from self._gauge_families()

    def _process_families(self) -> Iterator[Metric]:
        started = GaugeMetricFamily(
            "ringstead_proxy_start_time_seconds", "When the worker started, since 1970.", labels=("worker",)
        )
        cpu = CounterMetricFamily("ringstead_proxy_cpu_seconds", "Processor time used.", labels=("worker",))
        memory = GaugeMetricFamily("ringstead_proxy_resident_memory_bytes", "Memory in use.", labels=("worker",))
        files = GaugeMetricFamily("ringstead_proxy_open_fds", "Open files and sockets.", labels=("worker",))
        for snapshot in self._snapshots:
            labels, process = (snapshot["worker"],), snapshot["process"]
            started.add_metric(labels, snapshot["started_s"])
            cpu.add_metric(labels, process.get("cpu_seconds", 0.0))
            memory.add_metric(labels, process.get("resident_memory_bytes", 0.0))
            files.add_metric(labels, process.get("open_fds", 0.0))
        yield from (started, cpu, memory, files)

    def _gauge_families(self) -> Iterator[Metric]:
        families: dict[str, GaugeMetricFamily] = {}
        for snapshot in self._snapshots:
            for name, (documentation, value) in snapshot["gauges"].items():
                family = families.setdefault(
                    name, GaugeMetricFamily(f"ringstead_proxy_{name}", documentation, labels=("worker",))
                )
                family.add_metric((snapshot["worker"],), value)
        yield from families.values()


class _Left(Collector):
    """What other services left, as metric families."""

    def __init__(self, families: Sequence[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        """Each family once."""
        for family in self._families:
            labels = sorted({label for labels, _ in family.samples for label in labels})
            make = CounterMetricFamily if family.kind == COUNTER else GaugeMetricFamily
            metric = make(family.name, family.text, labels=labels)
            for said, value in family.samples:
                metric.add_metric([said.get(label, "") for label in labels], value)
            yield metric


def _cumulative(buckets: Sequence[int]) -> list[tuple[str, float]]:
    total = 0
    pairs: list[tuple[str, float]] = []
    for bound, count in zip((*map(str, BOUNDS_S), "+Inf"), buckets, strict=True):
        total += count
        pairs.append((bound, float(total)))
    return pairs
