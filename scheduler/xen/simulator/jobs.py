"""What takes time: generators that yield how long, resumed by whoever owns the clock.

A message that takes time is a generator. It yields `Work` and is resumed when that time has passed; what it returns is its
result. Cancelling it, or the death of a host that it works on, throws a `Failure` in at the yield, so a `finally` or an
`except` in the message undoes what was begun: the same code for every way to end.

`Jobs` holds no clock of its own: `run_due(now)` runs what is due, `next_due` says when to come again. Work of no
length does not leave the loop, so with latencies of zero every message finishes within its call.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import structlog

from scheduler.xen.simulator.failure import Failure

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Work:
    """Time that an operation takes."""

    seconds: float
    hosts: tuple[str, ...] = ()
    """References of the hosts that do it: it fails when one of them dies."""
    cancellable: bool = True


Steps = Generator[Work, None, Any]
Finish = Callable[[Any, Failure | None], None]


class Job:
    """An operation on its way."""

    def __init__(self, name: str, steps: Steps, finish: Finish) -> None:
        self.name = name
        self.work: Work | None = None
        """What it waits for; None before it began and after it ended."""
        self.done = False
        self.steps = steps
        self.finish = finish


class Jobs:
    """The operations of one pool that are on their way."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Job, Work]] = []
        self._order = itertools.count()
        self.now = 0.0
        """The latest time that the owner of the clock told."""

    def start(self, name: str, steps: Steps, finish: Finish) -> Job:
        """Begin; what needs no time ends before this returns."""
        job = Job(name, steps, finish)
        self._resume(job, None)
        return job

    def run_due(self, now: float) -> None:
        """Resume all whose time has come, in the order of their times."""
        while self._heap and self._heap[0][0] <= now:
            due, _, job, work = heapq.heappop(self._heap)
            self.now = max(self.now, due)
            if job.work is work:
                self._resume(job, None)
        self.now = max(self.now, now)

    def next_due(self) -> float | None:
        """When the next is due; None when nothing is on its way."""
        while self._heap and self._heap[0][2].work is not self._heap[0][3]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def throw(self, job: Job, failure: Failure) -> None:
        """End a job with a failure. It undoes what it had begun, which may itself take time."""
        if not job.done and job.work is not None:
            self._resume(job, failure)

    def fail_on(self, host: str, failure: Failure) -> None:
        """End all that a host was working on."""
        for _, _, job, work in sorted(self._heap):
            if job.work is work and host in work.hosts:
                self._resume(job, failure)

    def _resume(self, job: Job, failure: Failure | None) -> None:
        job.work = None
        try:
            work = job.steps.throw(failure) if failure is not None else next(job.steps)
            while work.seconds <= 0:
                work = next(job.steps)
        except StopIteration as end:
            self._end(job, end.value, None)
        except Failure as error:
            self._end(job, None, error)
        except Exception as error:
            _log.exception("operation crashed", operation=job.name)
            self._end(job, None, Failure("INTERNAL_ERROR", repr(error)))
        else:
            job.work = work
            heapq.heappush(self._heap, (self.now + work.seconds, next(self._order), job, work))

    def _end(self, job: Job, result: Any, failure: Failure | None) -> None:
        job.done = True
        job.finish(result, failure)
