"""The tables of what comes next: complete, and safe whatever happens."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from scheduler.lifecycle.actions import ACTIONS
from scheduler.lifecycle.machine import BACKOFF_MAX_S, DECIDE, DONE, FAILED, MACHINES, Event, advance, backoff_s
from scheduler.records.types import TaskRecord, TaskState

TAKES_BACK = {"destroy_server", "release_server", "forget_server", "delete_disk", "release_volume", "forget_volume",
              "settle_move", "abort_move", "thaw_disk"}  # fmt: skip
"""Actions after which nothing may be left: they are tried until they work."""


def task_at(kind: str, stage: str, **fields: object) -> TaskRecord:
    """A task at a stage."""
    task = TaskRecord(1, kind, stage, "s", "p", TaskState.OPEN, {}, 0.0)
    return dataclasses.replace(task, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", sorted(MACHINES))
def test_every_stage_leads_somewhere(kind: str) -> None:
    """Each stage names an action that exists, and each event leads to a stage that exists or to an end."""
    machine = MACHINES[kind]
    ends = {DONE, FAILED, DECIDE, "itself"}
    assert machine.first in machine.stages
    for stage in machine.stages.values():
        assert stage.action in ACTIONS
        for event in Event:
            assert stage.next(event).stage in {*machine.stages, *ends}


@pytest.mark.parametrize("kind", sorted(MACHINES))
def test_what_takes_back_never_gives_up(kind: str) -> None:
    """As long as it is unknown what a pool holds, nothing is released: such stages end in success alone."""
    for name, stage in MACHINES[kind].stages.items():
        if stage.action not in TAKES_BACK or kind == "snapshot-delete":
            continue
        for event, attempt in itertools.product(set(Event) - {Event.OK, Event.ARRIVED}, (0, 5, 500)):
            after = advance(task_at(kind, name, attempt=attempt), event, "because", 10.0)
            assert (after.stage, after.state, after.attempt) == (name, TaskState.OPEN, attempt + 1)
            assert 10.0 < after.not_before_s <= 10.0 + BACKOFF_MAX_S


@pytest.mark.parametrize("kind", sorted(MACHINES))
def test_every_kind_ends_whatever_happens_until_then(kind: str) -> None:
    """From any stage, whatever one event happens, success from then on leads to an end in a bounded number of steps."""
    for name, event in itertools.product(MACHINES[kind].stages, Event):
        task = advance(task_at(kind, name), event, "because", 0.0)
        for _ in range(60):
            if task.state is not TaskState.OPEN:
                break
            arrived = kind in ("drain", "level") and task.stage == "plan"
            task = advance(task, Event.ARRIVED if arrived else Event.OK, "", 0.0)
        assert task.state is not TaskState.OPEN, f"{kind} at {name} after {event}: still at {task.stage}"


def test_a_build_that_fails_everywhere_ends_after_its_rounds() -> None:
    """Each round leaves out the hosts that failed; after the last one the build has failed, with the last reason."""
    task, hosts = task_at("build", "claim"), 0
    while task.state is TaskState.OPEN:
        if task.stage == "claim":
            hosts += 1
            task = dataclasses.replace(task, data={**task.data, "host": f"h{hosts}"})
            task = advance(task, Event.OK, "", 0.0)
        elif task.stage == "create":
            task = advance(task, Event.NEXT, f"h{hosts} is full", 0.0)
        else:
            task = advance(task, Event.OK, "", 0.0)
    assert task.state is TaskState.FAILED
    assert hosts == 4
    assert task.data["excluded"] == ["h1", "h2", "h3", "h4"]
    assert task.error == "h4 is full"


def test_waiting_grows_to_a_minute() -> None:
    """The first repetition comes soon, later ones ever later, none later than a minute."""
    waits = [backoff_s(attempt) for attempt in range(20)]
    assert waits[0] == 0.5
    assert waits == sorted(waits)
    assert waits[-1] == BACKOFF_MAX_S
