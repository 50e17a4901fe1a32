"""Majorities: one write to the replicas of a name, one read from a majority of them.

Problem: every request is decided by the answers of several devices that come in any order, late, or never, and a task
for each would cost more than the work.

Idea: an operation is submitted to each device with a callback. A small collector counts the answers and wakes the one
waiting task when the outcome is decided; what comes later is still taken note of (a primary that fails after the
majority has answered is still replaced by a handoff, so that the third copy exists).

Rules of a write (`write`):
- It has succeeded when a majority of the name's primaries have it on stable storage. A primary that is away, full, fenced
  or too busy is replaced by the next handoff; handoffs count only once no primary is left that may still answer, because
  a later read that asks a majority of primaries would not see them.
- It is *degraded* if handoffs were needed to reach a majority.
- If devices hold something newer so that no majority took it, the caller stamps again and repeats (`write_newest`).

Rules of a read (`read`): a majority of the primaries must answer (found or missing); with fewer it is degraded, with none
`Unavailable`. Answers of devices that are being filled are used as any, newest wins, but do not make a majority: others are
asked as well, and where that is not possible the read is degraded (majority.py, `informed`).

While a partition moves from one ring to another a majority is one in each of the rings (majority.py). The numbers in
results keep their meaning: `applied` reaches `placement.need` when there is a majority, in all rings.

Invariants: the waiting task is woken once; a cancelled waiter leaves the devices' answers to be counted by nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import trio

from proxy.cluster import Cluster, Placement, Replica
from proxy.model import InsufficientStorage, NameInvalid, Unavailable
from storage_node.operations import Answer, Operation, ReadOperation, Status, WriteOperation, Written

WRITE_TIMEOUT_S = 5.0
"""After this a replica that has not answered counts as away and a handoff is asked."""
READ_TIMEOUT_S = 3.0
STAMP_ATTEMPTS = 16
"""How often a write is stamped again because devices held something newer."""
LOCKED_WAIT_S = 0.004
"""How long new metadata waits for a conditional write of its object, doubled each time up to LOCKED_WAIT_MAX_S."""
LOCKED_WAIT_MAX_S = 0.25

_REPLACEABLE = frozenset((Status.UNREACHABLE, Status.BUSY, Status.FULL, Status.FENCED))
_ANSWERED = frozenset((Status.FOUND, Status.MISSING))
_APPLIED = frozenset((Status.APPLIED,))


class Waiter:
    """One task waiting for one decision that callbacks make."""

    __slots__ = ("_decided", "_task")

    def __init__(self) -> None:
        self._decided = False
        self._task: trio.lowlevel.Task | None = None

    def decide(self) -> None:
        """Wake the task, now or as soon as it waits. Further calls do nothing."""
        if not self._decided:
            self._decided = True
            task = self._task
            if task is not None:
                self._task = None
                trio.lowlevel.reschedule(task)

    @property
    def decided(self) -> bool:
        """Whether `decide` was called."""
        return self._decided

    async def wait(self) -> None:
        """Until decided. Not a checkpoint when it is already (the caller has just read from local disks)."""
        if self._decided:
            return
        self._task = trio.lowlevel.current_task()

        def abort(_: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
            self._task = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)


@dataclass(slots=True)
class WriteResult:
    """How a write to the replicas of a name ended."""

    applied: int = 0
    applied_primaries: int = 0
    newest_timestamp: int = 0
    """The newest that a device held instead (NEWER, LOCKED)."""
    replaced_timestamp: int = 0
    replaced_manifest: bytes | None = None
    statuses: tuple[int, ...] = ()
    """Of what was not applied."""
    detail: str = ""
    degraded: bool = False


class _Write(Waiter):
    __slots__ = (
        "_cluster",
        "_handoffs",
        "_operation",
        "_pending",
        "_pending_primaries",
        "_placement",
        "_success",
        "result",
    )

    def __init__(
        self, cluster: Cluster, placement: Placement, operation: WriteOperation, success: frozenset[Status]
    ) -> None:
        super().__init__()
        self._cluster = cluster
        self._placement = placement
        self._operation = operation
        self._success = success
        self._handoffs: Iterator[Replica] | None = None
        self._pending = 0
        self._pending_primaries = 0
        self.result = WriteResult()

    def start(self, *, use_handoffs: bool) -> None:
        primaries = self._placement.primaries
        if not use_handoffs:
            self._handoffs = iter(())
        self._pending = self._pending_primaries = len(primaries)
        for replica in primaries:
            replica.client.submit(self._operation, partial(self._answered, True, replica), WRITE_TIMEOUT_S)

    def _answered(self, primary: bool, replica: Replica, answer: Answer) -> None:
        assert isinstance(answer, Written)
        status = answer.status
        result = self.result
        self._pending_primaries -= primary
        if status in self._success:
            result.applied += 1
            if primary:
                result.applied_primaries += 1
            if answer.timestamp > result.replaced_timestamp:
                result.replaced_timestamp = answer.timestamp
            if answer.replaced_manifest is not None:
                result.replaced_manifest = answer.replaced_manifest
            self._pending -= 1
            self._decide_if_settled()
            return
        result.statuses = (*result.statuses, status)
        if answer.detail:
            result.detail = answer.detail
        if status in (Status.NEWER, Status.LOCKED) and answer.timestamp > result.newest_timestamp:
            result.newest_timestamp = answer.timestamp
        if status in _REPLACEABLE:
            self._cluster.note_failure()
            handoff = self._next_handoff(replica)
            if handoff is not None:
                handoff.client.submit(self._operation, partial(self._answered, False, handoff), WRITE_TIMEOUT_S)
                return
        self._pending -= 1
        self._decide_if_settled()

    def _decide_if_settled(self) -> None:
        need = self._placement.need
        result = self.result
        if (
            result.applied_primaries >= need
            or self._pending == 0
            or (self._pending_primaries == 0 and result.applied >= need)
        ):
            self.decide()

    def _next_handoff(self, instead_of: Replica) -> Replica | None:
        if self._handoffs is None:
            self._handoffs = self._placement.handoffs()
        for replica in self._handoffs:
            if replica.client.connected:
                return replica
        return None


class _MovingWrite(_Write):
    """A write to a partition that moves: every device's answer counts in the rings in which it has a vote."""

    __slots__ = ("_home", "_taken", "_votes")

    def __init__(
        self, cluster: Cluster, placement: Placement, operation: WriteOperation, success: frozenset[Status]
    ) -> None:
        super().__init__(cluster, placement, operation, success)
        self._votes = {replica: placement.votes(replica) for replica in placement.primaries}
        self._taken = placement.tally()
        self._home = placement.tally()

    def _answered(self, primary: bool, replica: Replica, answer: Answer) -> None:
        if answer.status in self._success:
            votes = self._votes[replica]
            self._taken.add(votes)
            if primary:
                self._home.add(votes)
        super()._answered(primary, replica, answer)

    def _next_handoff(self, instead_of: Replica) -> Replica | None:
        handoff = super()._next_handoff(instead_of)
        if handoff is not None:
            self._votes[handoff] = self._votes[instead_of]
        return handoff

    def _decide_if_settled(self) -> None:
        need = self._placement.need
        self.result.applied = max(0, need - self._taken.lacking)
        self.result.applied_primaries = max(0, need - self._home.lacking)
        super()._decide_if_settled()


async def write(
    cluster: Cluster,
    placement: Placement,
    operation: WriteOperation,
    success: frozenset[Status] = _APPLIED,
    *,
    use_handoffs: bool = True,
) -> WriteResult:
    """Send one write to the replicas of a name; returns when a majority has it, or none can be had any more.

    The caller looks at `applied` against `placement.need`. The result is filled in further as late answers come.
    """
    kind = _MovingWrite if placement.moving else _Write
    round_ = kind(cluster, placement, operation, success)
    round_.start(use_handoffs=use_handoffs)
    await round_.wait()
    result = round_.result
    result.degraded = result.applied_primaries < placement.need
    return result


async def write_newest(
    cluster: Cluster,
    placement: Placement,
    make: Callable[[int], WriteOperation],
    success: frozenset[Status] = _APPLIED,
    also_final: frozenset[Status] = frozenset(),
) -> tuple[int, WriteResult]:
    """Write with a timestamp later than whatever the replicas hold; returns that timestamp and the result.

    `make` gives the operation for a timestamp. Statuses in `also_final` are returned to the caller when they prevented a
    majority; any other shortage raises `Unavailable`, `InsufficientStorage` or `NameInvalid`.
    """
    for attempt in range(STAMP_ATTEMPTS):
        timestamp = cluster.clock.stamp()
        result = await write(cluster, placement, make(timestamp), success)
        if result.applied >= placement.need:
            return timestamp, result
        if any(status in also_final for status in result.statuses):
            return timestamp, result
        if not result.newest_timestamp:
            raise shortage(result.statuses, result.detail, result.applied, placement.need)
        cluster.clock.observe(result.newest_timestamp)
        if Status.LOCKED in result.statuses:
            await trio.sleep(min(LOCKED_WAIT_S * 2**attempt, LOCKED_WAIT_MAX_S))
    raise Unavailable("the object is being written by others all the time; retry")


def shortage(statuses: Sequence[int], detail: str, applied: int, need: int) -> Exception:
    """The error for a write that found no majority."""
    if Status.REFUSED in statuses:
        return NameInvalid(detail or "the devices refuse this request")
    if Status.FULL in statuses:
        return InsufficientStorage("too many devices are full; nothing was stored that could be relied on")
    return Unavailable(f"{applied} of the {need} devices that are needed took the write; retry")


class Gather(Waiter):
    """Answers of several replicas to reads (or locks), until enough have come."""

    __slots__ = ("_enough", "_pending", "_sealed", "answers", "filling", "good")

    def __init__(self, enough: int) -> None:
        super().__init__()
        self._enough = enough
        self._pending = 0
        self._sealed = False
        self.good = 0
        """How many answered with what they have (or that they have nothing)."""
        self.answers: list[tuple[Replica, Answer]] = []
        self.filling: list[Replica] = []
        """Of those that answered who was being filled when they did."""

    def ask(self, replica: Replica, operation: Operation, timeout_s: float = READ_TIMEOUT_S) -> bool:
        """Submit one operation to one replica; True if enough good answers are there already."""
        self._pending += 1
        replica.submit(operation, partial(self._answered, replica), timeout_s)
        return self._decided

    def _answered(self, replica: Replica, answer: Answer) -> None:
        self.answers.append((replica, answer))
        self._pending -= 1
        if answer.status in _ANSWERED:
            self.good += 1
            if not replica.filled:
                self.filling.append(replica)
        if (self.good >= self._enough and self._suffices()) or (self._sealed and self._pending == 0):
            self.decide()

    def _suffices(self) -> bool:
        """Whether so many answers will do, whoever gave them."""
        return True

    async def wait(self) -> None:
        """Until enough good answers are there, or all that were asked have answered."""
        self._sealed = True
        if self._pending:
            await super().wait()


def good_ones(answers: Sequence[tuple[Replica, Answer]]) -> Iterator[Replica]:
    """Who answered with what it has, or that it has nothing."""
    return (replica for replica, answer in answers if answer.status in _ANSWERED)


class _MajorityGather(Gather):
    """The same until a majority has answered, and those of it that are filled would know of every acknowledged write."""

    __slots__ = ("_placement",)

    def __init__(self, placement: Placement) -> None:
        super().__init__(placement.need)
        self._placement = placement

    def _suffices(self) -> bool:
        return not self.filling or self._placement.informed(list(good_ones(self.answers)), self.filling)


class _MovingGather(_MajorityGather):
    """The same for a partition that moves: enough is a majority in each ring."""

    __slots__ = ("_tally",)

    def __init__(self, placement: Placement) -> None:
        super().__init__(placement)
        self._tally = placement.tally()

    def _answered(self, replica: Replica, answer: Answer) -> None:
        if answer.status in _ANSWERED:
            self._tally.add(self._placement.votes(replica))
        super()._answered(replica, answer)

    def _suffices(self) -> bool:
        return not self._tally.lacking and super()._suffices()


async def read(
    cluster: Cluster, placement: Placement, operations: Callable[[int], ReadOperation], *, everyone: bool = False
) -> tuple[list[tuple[Replica, Answer]], bool]:
    """Ask the primaries; the answers of a majority (or of all that answer), and whether they were too few (degraded).

    `operations(i)` is what to ask the i-th replica that is asked: the data of one, only the version of the others.
    Replicas on this machine are asked first. Answers that are neither FOUND nor MISSING are left out. Raises
    `Unavailable` if nobody answered.
    """
    if placement.moving:
        return await _read_moving(cluster, placement, operations, everyone=everyone)
    primaries = placement.primaries
    need = placement.need
    gather = Gather(len(primaries)) if everyone or cluster.cautious else _MajorityGather(placement)
    asked = 0
    for replica in primaries if cluster.all_local else sorted(primaries, key=_far):
        asked += 1
        if gather.ask(replica, operations(asked - 1)):
            break
    await gather.wait()
    answers = gather.answers
    if gather.good < len(answers):
        cluster.note_failure()
        answers = [pair for pair in answers if pair[1].status in _ANSWERED]
    if len(answers) >= need and (not gather.filling or placement.informed(list(good_ones(answers)), gather.filling)):
        return answers, False
    lacking = max(1, need - len(answers))
    for replica in placement.handoffs():
        if replica.reader is None and not replica.reachable:
            continue
        single = Gather(1)
        single.ask(replica, operations(asked))
        await single.wait()
        found = [pair for pair in single.answers if pair[1].status in _ANSWERED]
        answers += found
        lacking -= len(found)
        if lacking <= 0:
            break
    if not answers:
        raise Unavailable("no device that should have this name answers; retry")
    return answers, True


async def _read_moving(
    cluster: Cluster, placement: Placement, operations: Callable[[int], ReadOperation], *, everyone: bool
) -> tuple[list[tuple[Replica, Answer]], bool]:
    """`read` of a partition that moves. All primaries are asked at once; the first have the data for certain."""
    primaries = placement.primaries
    gather = Gather(len(primaries)) if everyone or cluster.cautious else _MovingGather(placement)
    asked = 0
    for replica in primaries:
        asked += 1
        if gather.ask(replica, operations(asked - 1)):
            break
    await gather.wait()
    answers = [pair for pair in gather.answers if pair[1].status in _ANSWERED]
    if len(answers) < len(gather.answers):
        cluster.note_failure()
    if placement.informed(list(good_ones(answers)), gather.filling):
        return answers, False
    missing = len(primaries) - len(answers)
    for replica in placement.handoffs():
        if not missing:
            break
        if replica.reader is None and not replica.reachable:
            continue
        single = Gather(1)
        single.ask(replica, operations(asked))
        await single.wait()
        answers += [pair for pair in single.answers if pair[1].status in _ANSWERED]
        missing -= 1
    if not answers:
        raise Unavailable("no device that should have this name answers; retry")
    return answers, True


def _far(replica: Replica) -> int:
    return 0 if replica.reader is not None else 1
