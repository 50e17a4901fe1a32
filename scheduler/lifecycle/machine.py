"""What comes next: for every kind of work its stages, and for everything that can happen in one where it leads.

Problem: a build that dies between two calls must be carried on by whoever finds it, a stage that fails must be taken back in
the right order, and both must be right in cases that nobody ever sees in a test by hand. Code that calls one thing after
the other with `try` around it has its state in a program counter, which a crash loses.

Idea: the state is a row: kind and stage. A table says for each stage which action it is, and for each `Event` that it can
end in the next stage. `advance` computes the row that comes after; it knows no clock, no database, no pool. The
executor (`scheduler.lifecycle.executor`) performs the action and stores what `advance` said, under the fencing token.

Rules that the tables keep (a test walks them all):
- An action may be performed any number of times: each looks for what is there first.
- A stage that takes something back ends in nothing but success: until then it is tried again, for ever, ever more slowly. As
  long as it is unknown whether a VM exists, its claim is not released.
- Every stage has an answer to every event.
- From each stage both ends can be reached that its kind has.
- A host that could not (NEXT) is left out in the rounds that follow.

Rejected: a workflow engine (a dependency larger than all of this), sagas with compensation lists in the row (the undo of a
build is one verb, `destroy_server`, whatever had been made).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from scheduler.records.types import TaskRecord, TaskState


class Event(Enum):
    """How an action ended."""

    OK = "ok"
    AGAIN = "again"
    """Passing, or nobody knows: the same again, later."""
    NEXT = "next"
    """This host or SR cannot; another may."""
    NO_ROOM = "no room"
    """Nobody can, now."""
    IMPOSSIBLE = "impossible"
    """Refused, in the wrong state, or gone: trying again changes nothing."""
    ARRIVED = "arrived"
    """Taking a move back found the server at its target."""


@dataclass(frozen=True, slots=True)
class Go:
    """Where an event leads; `again` decides what DECIDE will do later."""

    stage: str
    again: bool | None = None


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage.

    action         what is performed (`scheduler.lifecycle.actions`)
    on             where each event leads; AGAIN leads back to the stage itself as long as there are attempts left
    otherwise      where the events lead that `on` leaves out
    attempts_max   how often AGAIN is obeyed; None: for ever
    exhausted      what one AGAIN too many counts as
    """

    action: str
    on: Mapping[Event, Go]
    otherwise: Go
    attempts_max: int | None = 6
    exhausted: Event = Event.NEXT

    def next(self, event: Event) -> Go:
        """Where it goes on."""
        return self.on.get(event, self.otherwise)


@dataclass(frozen=True, slots=True)
class Machine:
    """One kind of work: its first stage, its stages, and how often the whole is begun anew."""

    first: str
    stages: Mapping[str, Stage]
    rounds_max: int = 1
    verb: str = field(default="")
    """What people call it: "build server"."""


DONE: Final = "done"
FAILED: Final = "failed"
DECIDE: Final = "decide"
"""Not a stage: begin anew if the failure lets another host be tried and rounds are left, else fail."""

BACKOFF_FIRST_S: Final = 0.5
BACKOFF_MAX_S: Final = 60.0
BUILD_ROUNDS_MAX: Final = 4
MOVE_ROUNDS_MAX: Final = 3


def _simple(action: str, verb: str, *, attempts_max: int | None = 6) -> Machine:
    """One stage, that works or does not."""
    stage = Stage(action, {Event.OK: Go(DONE)}, Go(FAILED), attempts_max, Event.IMPOSSIBLE)
    return Machine("do", {"do": stage}, verb=verb)


def _undoing(action: str, then: Go) -> Stage:
    """A stage that takes something back: nothing but success leads on."""
    return Stage(action, {Event.OK: then}, Go("itself"), None)


_CLAIM_FAILS: Final = Go(FAILED)

MACHINES: Final[Mapping[str, Machine]] = {
    "build": Machine(
        "claim",
        {
            "claim": Stage("claim_server", {Event.OK: Go("create")}, _CLAIM_FAILS, 8, Event.NO_ROOM),
            "create": Stage(
                "create_server",
                {Event.OK: Go("attach"), Event.IMPOSSIBLE: Go("undo", again=False)},
                Go("undo", again=True),
            ),
            "attach": Stage("attach_volumes", {Event.OK: Go("start")}, Go("undo", again=False)),
            "start": Stage(
                "start_server",
                {Event.OK: Go(DONE), Event.IMPOSSIBLE: Go("undo", again=False)},
                Go("undo", again=True),
            ),
            "undo": _undoing("destroy_server", Go("release")),
            "release": _undoing("release_server", Go(DECIDE)),
        },
        BUILD_ROUNDS_MAX,
        "build server",
    ),
    "delete": Machine(
        "destroy",
        {
            "destroy": _undoing("destroy_server", Go("release")),
            "release": _undoing("release_server", Go("forget")),
            "forget": _undoing("forget_server", Go(DONE)),
        },
        verb="delete server",
    ),
    "migrate": Machine(
        "claim",
        {
            "claim": Stage("claim_target", {Event.OK: Go("move")}, _CLAIM_FAILS, 8, Event.NO_ROOM),
            "move": Stage(
                "move_server",
                {Event.OK: Go("settle"), Event.IMPOSSIBLE: Go("back", again=False)},
                Go("back", again=True),
                20,
            ),
            "settle": _undoing("settle_move", Go(DONE)),
            "back": Stage("abort_move", {Event.OK: Go(DECIDE), Event.ARRIVED: Go("settle")}, Go("itself"), None),
        },
        MOVE_ROUNDS_MAX,
        "migrate server",
    ),
    "evacuate": Machine(
        "claim",
        {
            "claim": Stage("claim_target", {Event.OK: Go("fence")}, _CLAIM_FAILS, 8, Event.NO_ROOM),
            "fence": Stage("declare_dead", {Event.OK: Go("restart")}, Go("back", again=False)),
            "restart": Stage(
                "restart_server",
                {Event.OK: Go("settle"), Event.IMPOSSIBLE: Go("back", again=False)},
                Go("back", again=True),
            ),
            "settle": _undoing("settle_move", Go(DONE)),
            "back": Stage("abort_move", {Event.OK: Go(DECIDE), Event.ARRIVED: Go("settle")}, Go("itself"), None),
        },
        MOVE_ROUNDS_MAX,
        "evacuate server",
    ),
    "power": _simple("power_server", "change power of server"),
    "snapshot": _simple("snapshot_server", "snapshot server"),
    "revert": _simple("revert_server", "revert server"),
    "snapshot-delete": _simple("delete_snapshot", "delete snapshot", attempts_max=None),
    "capture": Machine(
        "freeze",
        {
            "freeze": Stage("freeze_disk", {Event.OK: Go("export")}, Go("undo")),
            "export": Stage("export_image", {Event.OK: Go("thaw")}, Go("undo")),
            "thaw": _undoing("thaw_disk", Go(DONE)),
            "undo": _undoing("thaw_disk", Go(FAILED)),
        },
        verb="save image of server",
    ),
    "volume-create": Machine(
        "claim",
        {
            "claim": Stage("claim_volume", {Event.OK: Go("create")}, _CLAIM_FAILS, 8, Event.NO_ROOM),
            "create": Stage(
                "create_volume",
                {Event.OK: Go(DONE), Event.IMPOSSIBLE: Go("undo", again=False)},
                Go("undo", again=True),
            ),
            "undo": _undoing("delete_disk", Go("release")),
            "release": _undoing("release_volume", Go(DECIDE)),
        },
        MOVE_ROUNDS_MAX,
        "create volume",
    ),
    "volume-delete": Machine(
        "destroy",
        {
            "destroy": _undoing("delete_disk", Go("release")),
            "release": _undoing("release_volume", Go("forget")),
            "forget": _undoing("forget_volume", Go(DONE)),
        },
        verb="delete volume",
    ),
    "attach": _simple("attach_volume", "attach volume"),
    "detach": _simple("detach_volume", "detach volume"),
    "extend": _simple("extend_volume", "extend volume"),
    "volume-snapshot": _simple("snapshot_volume", "snapshot volume"),
    "drain": Machine(
        "plan",
        {
            "plan": Stage("plan_drain", {Event.OK: Go("wait"), Event.ARRIVED: Go(DONE)}, Go(FAILED), None),
            "wait": Stage("await_moves", {Event.OK: Go("plan")}, Go("plan"), None),
        },
        verb="empty",
    ),
    "level": Machine(
        "plan",
        {
            "plan": Stage("plan_level", {Event.OK: Go("wait"), Event.ARRIVED: Go(DONE)}, Go(FAILED), None),
            "wait": Stage("await_moves", {Event.OK: Go("plan")}, Go("plan"), None),
        },
        verb="level load",
    ),
}
"""Every kind of work."""


def advance(task: TaskRecord, event: Event, reason: str, now_s: float) -> TaskRecord:
    """The task after its present stage ended in `event`; `reason` says why, where it did not work out."""
    machine = MACHINES[task.kind]
    stage = machine.stages[task.stage]
    if event is Event.AGAIN:
        if stage.attempts_max is None or task.attempt + 1 < stage.attempts_max:
            return _again(task, reason, now_s)
        event = stage.exhausted
    go = stage.next(event)
    if go.stage == "itself":
        return _again(task, reason, now_s)
    data = dict(task.data)
    if go.again is not None:
        data["again"] = go.again
    if event is not Event.OK and reason:
        # That no further host is left explains nothing: what went wrong on those that were tried does.
        earlier = str(data.get("reason", "")) if event is Event.NO_ROOM and task.round else ""
        data["reason"] = f"{earlier}; then {reason}"[:1000] if earlier else reason
    if event is Event.NEXT and data.get("host"):
        data["excluded"] = sorted({*data.get("excluded", ()), data["host"]})
    task = dataclasses.replace(task, data=data, attempt=0, not_before_s=now_s, error="")
    if go.stage == DECIDE:
        return _decide(task, machine, now_s)
    if go.stage in (DONE, FAILED):
        return _close(task, TaskState.DONE if go.stage == DONE else TaskState.FAILED, now_s)
    return dataclasses.replace(task, stage=go.stage)


def cancel(task: TaskRecord, now_s: float) -> TaskRecord:
    """The task given up where it stands; whoever cancelled it tidies up."""
    data = {**task.data, "reason": "cancelled"}
    return _close(dataclasses.replace(task, data=data), TaskState.FAILED, now_s)


def backoff_s(attempt: int) -> float:
    """How long to wait after that many attempts: doubling, up to a minute."""
    return min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** min(attempt, 16))


def _again(task: TaskRecord, reason: str, now_s: float) -> TaskRecord:
    return dataclasses.replace(
        task, attempt=task.attempt + 1, not_before_s=now_s + backoff_s(task.attempt), error=reason
    )


def _decide(task: TaskRecord, machine: Machine, now_s: float) -> TaskRecord:
    again = bool(task.data.get("again"))
    if again and task.round + 1 < machine.rounds_max:
        return dataclasses.replace(task, stage=machine.first, round=task.round + 1)
    return _close(task, TaskState.FAILED, now_s)


def _close(task: TaskRecord, state: TaskState, now_s: float) -> TaskRecord:
    failed = state is TaskState.FAILED
    return dataclasses.replace(
        task,
        state=state,
        finished_s=now_s,
        progress=task.progress if failed else 1.0,
        error=str(task.data.get("reason", "")) if failed else "",
    )
