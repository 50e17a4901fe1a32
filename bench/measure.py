"""The comparison: systems started, verified, filled and put to the same workloads in turn.

Problem: two systems measured an hour apart on a shared machine say more of the machine than of themselves.

Idea: all systems run at the same time, idle but for the one that is asked, and each workload goes A B A B …, so that a slow
minute hits both. Before the first counted run of a workload each system gets a short one that is not counted; it warms
caches and tells how many names the counted runs will need. Medians over the runs are quoted, with the spread beside
them. What each system costs while nobody asks it anything is measured too, since it costs its neighbours that.

A peer that speaks S3 alone is not left out of what is asked in Swift's dialect: the same is asked of everybody in S3 then,
with requests signed in advance, and stands beside it as a workload of its own (workloads.with_s3).

Every error counts and is shown; a workload with errors is not a result.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from bench.bodies import Bodies, draw_bodies
from bench.dialects import Dialect, dialect_of
from bench.load import NothingAnsweredError, Result, WrongAnswerError, run_plan, send_each
from bench.plan import listed_name, make_plan, object_name
from bench.systems.base import NotSupported, System, SystemFailed, wait_s
from bench.systems.usage import disk_written_bytes
from bench.verify import ask, verify
from bench.workloads import KIB, Names, Workload, in_s3, with_s3

WARM_UP_S: Final = 2.0
NAMES_MARGIN: Final = 1.6
"""Names made for a run that uses each once, over what the last run used: a quicker run must not end early."""
NAMES_MIN_EACH: Final = 20
"""Names a connection for a run whose rate is not known yet: enough that some requests end before the names do."""
PREPARED_BYTES_MAX: Final = 1 << 30
"""At most so much is written to be deleted again, for one run; three times that on the disk."""
IDLE_S: Final = 5.0
LISTED_BY_REQUESTS_S_MAX: Final = 300.0
"""Names for listings are PUT one by one into systems that give no other way, unless that takes longer."""
LISTED_AT_A_TIME: Final = 2_000
LATENCIES: Final = ("p50_ms", "p95_ms", "p99_ms", "p999_ms")


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a workload on a system."""

    result: Result
    cpu_us: float
    """Processor time of all of the system's processes, a request."""
    written_bytes: float | None
    """That reached the disk in the end, a request; None where the disk does not tell."""


@dataclass
class Series:
    """All counted runs of a workload on a system."""

    workload: Workload
    runs: list[Run] = field(default_factory=list)
    problem: str = ""
    """Why there are none."""

    def summary(self) -> dict[str, Any]:
        """Medians and spread, as plain values; each run's own too. A series that a wrong answer ended is no result."""
        if self.problem or not self.runs:
            return {"problem": self.problem}
        results = [run.result for run in self.runs]
        rates = sorted(result.rate for result in results)
        rate = statistics.median(rates)
        latencies = {name: [getattr(result, name) for result in results] for name in LATENCIES}
        return {
            "dialect": self.workload.dialect,
            "rate_per_s": rate,
            "rate_min": rates[0],
            "rate_max": rates[-1],
            "runs": len(rates),
            "mb_per_s": rate * self.workload.moved_bytes / 1e6,
            "cpu_us": statistics.median(run.cpu_us for run in self.runs),
            "cpu_us_min": min(run.cpu_us for run in self.runs),
            "cpu_us_max": max(run.cpu_us for run in self.runs),
            "written_bytes": _median_or_none([run.written_bytes for run in self.runs]),
            "generator_cpu_us": statistics.median(result.generator_cpu_s / result.requests * 1e6 for result in results),
            "errors": sum(result.errors for result in results),
            **{name: statistics.median(values) for name, values in latencies.items()},
            "each": [asdict(run) for run in self.runs],
        }


class Subject:
    """One system under test, and what was already put into it."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.idle_cores = 0.0
        self._containers: set[str] = set()
        self._filled: set[Names] = set()
        self._next: dict[str, int] = {}
        self._last_rate: dict[str, float] = {}

    @property
    def name(self) -> str:
        """The system's."""
        return self.system.name

    def check(self, workloads: Iterable[Workload]) -> None:
        """Verify every dialect that may be used: S3 too, which peers may be compared in. Raises WrongAnswerError."""
        for dialect in sorted({"s3", *(workload.dialect for workload in workloads)}):
            try:
                verify(self.system.port, dialect_of(self.system, dialect))
            except NotSupported:
                continue

    @property
    def speaks_s3_alone(self) -> bool:
        """Whether it has no other dialect."""
        return self.system.swift is None and self.system.s3 is not None

    def measure_idle(self) -> None:
        """What it costs while nobody asks it anything."""
        before = self.system.cpu_s()
        wait_s(IDLE_S)
        self.idle_cores = (self.system.cpu_s() - before) / IDLE_S

    def prepare(self, workload: Workload) -> None:
        """Put there what the workload reads. Raises NotSupported."""
        dialect_of(self.system, workload.dialect)
        self._make_container(_container(workload))
        if workload.names is not None and workload.names not in self._filled:
            self._make_container(workload.names.container)
            names = workload.names
            self._fill(names.container, range(names.count), names.size_bytes)
            self._filled.add(names)
        if workload.method == "LIST" and _container(workload) not in self._next:
            self._list_names(_container(workload), workload.listed)
            self._next[_container(workload)] = workload.listed

    def warm_up(self, workload: Workload, seconds: float) -> None:
        """A run that is not counted. Too short for a slow system's large objects, it's no reason to leave it out."""
        with suppress(NothingAnsweredError):
            self.run(workload, min(seconds, WARM_UP_S))

    def run(self, workload: Workload, seconds: float) -> Run:
        """One run. Raises WrongAnswerError, NotSupported."""
        container = _container(workload)
        first = self._next.get(container, 0)
        rate = self._last_rate.get(workload.title, 0.0)
        least = NAMES_MIN_EACH * workload.connections
        count = max(least, int(rate * seconds * NAMES_MARGIN))
        if workload.method == "DELETE":
            count = min(count, max(least, PREPARED_BYTES_MAX // max(workload.size_bytes, 1)))
            self._fill(container, range(first, first + count), workload.size_bytes)
        elif workload.method == "PUT" and not rate:
            count = max(count, int(10_000 * seconds) if workload.size_bytes <= 64 * KIB else 0)
        plan = make_plan(
            workload, dialect_of(self.system, workload.dialect), container=container, first=first, count=count
        )
        if workload.method in ("PUT", "DELETE"):
            self._next[container] = first + count
        written_before = disk_written_bytes(self.system.folder)
        cpu_before = self.system.cpu_s()
        result = run_plan(
            self.system.base_url,
            plan,
            connections=workload.connections,
            seconds=seconds,
            head=workload.method == "HEAD",
        )
        cpu_s = self.system.cpu_s() - cpu_before
        written_after = disk_written_bytes(self.system.folder)
        if not result.requests:
            raise NothingAnsweredError(f"not one request was answered within {seconds:g} s: measure for longer")
        self._last_rate[workload.title] = result.rate
        written = None
        if written_before is not None and written_after is not None:
            written = (written_after - written_before) / result.requests
        return Run(result, cpu_s / result.requests * 1e6, written)

    # ----------------------------------------------------------------------------------------------------------- filling

    def _dialect(self) -> Dialect:
        return dialect_of(self.system, "swift" if self.system.swift is not None else "s3")

    def _make_container(self, name: str) -> None:
        if name not in self._containers:
            answer = ask(self.system.port, self._dialect().head("PUT", name))
            if answer.status not in (200, 201, 202):
                raise WrongAnswerError(f"{self.name}: container {name}: {answer.status} {answer.body[:200]!r}")
            self._containers.add(name)

    def _fill(self, container: str, numbers: Iterable[int], size_bytes: int) -> None:
        self._put_each(container, map(object_name, numbers), draw_bodies(size_bytes))

    def _put_each(self, container: str, names: Iterable[str], bodies: Bodies) -> None:
        dialect = self._dialect()

        def requests() -> Iterator[bytes]:
            for number, name in enumerate(names):
                yield dialect.head("PUT", container, name, body_bytes=bodies.size_bytes) + bodies.body(number)

        send_each(self.system.port, requests(), 32 if bodies.size_bytes <= 1 << 20 else 2)

    def _list_names(self, container: str, count: int) -> None:
        try:
            self.system.put_names(container, count)
        except NotSupported:
            self._put_names_by_requests(container, count)
        dialect = self._dialect()
        answer = ask(self.system.port, dialect.head("GET", container, query=dialect.page_query("", 1000)))
        if answer.status != 200 or answer.body.count(b"n00000") < min(count, 1000):
            raise WrongAnswerError(f"{self.name}: names put there are not listed: {answer.status}")

    def _put_names_by_requests(self, container: str, count: int) -> None:
        """A PUT of nothing for each. Raises NotSupported as soon as it is clear that it would take too long."""
        began_s = time.monotonic()
        for first in range(0, count, LISTED_AT_A_TIME):
            after = min(first + LISTED_AT_A_TIME, count)
            self._put_each(container, (listed_name(number) for number in range(first, after)), draw_bodies(0))
            all_s = (time.monotonic() - began_s) / after * count
            if all_s > LISTED_BY_REQUESTS_S_MAX:
                raise NotSupported(
                    f"{self.name}: names can only be made by requests, and {count:,} would take {all_s:,.0f} s "
                    f"(more than {LISTED_BY_REQUESTS_S_MAX:.0f})"
                )


def _median_or_none(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _container(workload: Workload) -> str:
    kind = (
        f"list-{workload.listed}" if workload.method == "LIST" else f"{workload.method.lower()}-{workload.size_bytes}"
    )
    return f"{kind}-{workload.dialect}" if workload.method != "LIST" else kind


def compare(
    subjects: Sequence[Subject], workloads: Sequence[Workload], *, seconds: float, rounds: int
) -> dict[str, dict[str, Series]]:
    """Title -> system -> its runs."""
    found: dict[str, dict[str, Series]] = {}
    rebalanced: set[str] = set()
    workloads = with_s3(workloads, [subject.name for subject in subjects if subject.speaks_s3_alone])
    for condition in dict.fromkeys(workload.condition for workload in workloads):
        chosen = [workload for workload in workloads if workload.condition == condition]
        for workload in chosen:
            found[workload.title] = _compare_one(subjects, workload, rebalanced, seconds, rounds)
    return found


def _compare_one(
    subjects: Sequence[Subject], workload: Workload, rebalanced: set[str], seconds: float, rounds: int
) -> dict[str, Series]:
    """Runs of one workload. `rebalanced` are the systems whose data has begun to move: that happens once."""
    condition = workload.condition
    series = {subject.name: Series(workload) for subject in subjects}
    able = []
    for subject in subjects:
        if subject.speaks_s3_alone and workload.dialect == "swift":
            series[subject.name].problem = f"it speaks S3 alone; see {in_s3(workload).title}"
            continue
        try:
            subject.prepare(workload)
            if condition == "node-dead":
                subject.system.kill_node()
            elif condition == "rebalancing" and subject.name not in rebalanced:
                rebalanced.add(subject.name)
                subject.system.begin_rebalance()
            able.append(subject)
            subject.warm_up(workload, seconds)
        except (NotSupported, SystemFailed, WrongAnswerError) as error:
            series[subject.name].problem = str(error)
            if not isinstance(error, NotSupported):
                say(f"  {subject.name}: {error}")
    for _ in range(rounds):
        for subject in able:
            if series[subject.name].problem:
                continue
            try:
                run = subject.run(workload, seconds)
            except WrongAnswerError as error:
                series[subject.name].problem = str(error)
                continue
            series[subject.name].runs.append(run)
            result = run.result
            say(
                f"  {workload.title:40} {subject.name:10} {result.rate:10,.1f}/s"
                f"  {run.cpu_us:9,.0f} us of CPU each  p99 {result.p99_ms:8.2f} ms  errors {result.errors}"
            )
    if condition == "node-dead":
        for subject in able:
            subject.system.revive_node()
    return series


def say(line: str) -> None:
    """Progress, on standard error."""
    print(line, file=sys.stderr, flush=True)
