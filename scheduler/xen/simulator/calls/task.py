"""Messages about tasks: what clients make to follow an upload by, and cancelling."""

from __future__ import annotations

from collections.abc import Sequence

from scheduler.xen.simulator.allowed import refusal
from scheduler.xen.simulator.database import Row
from scheduler.xen.simulator.failure import Failure
from scheduler.xen.simulator.messages import message
from scheduler.xen.simulator.pool import Call


@message("task.create(label: string, description: string) -> task ref", asynchronous=False)
def create(call: Call, label: str, description: str) -> Row:
    """A task for the client's own bookkeeping, or to follow an upload by."""
    return call.database.add(
        "task",
        name_label=label,
        name_description=description,
        created=call.pool.now(),
        status="pending",
        type="<none/>",
        resident_on=call.session["this_host"],
    )


@message("task.cancel(task: task ref) -> void")
def cancel(call: Call, task: Row) -> None:
    """End what a task stands for. It undoes what it had begun, so the task may be cancelling for a while."""
    refused = refusal(call.pool, task, "cancel")
    if refused is not None:
        raise refused
    job = call.pool.job_of_operation.get(task.ref)
    if job is None:
        call.database.set(task, status="cancelled", finished=call.pool.now(), error_info=("TASK_CANCELLED", task.ref))
        return
    if job.work is None or not job.work.cancellable:
        raise Failure("OPERATION_NOT_ALLOWED", "the task cannot be cancelled now")
    call.database.set(task, status="cancelling")
    call.pool.jobs.throw(job, Failure("TASK_CANCELLED", task.ref))


@message("task.destroy(self: task ref) -> void", asynchronous=False)
def destroy(call: Call, task: Row) -> None:
    """Forget a task; what it stands for goes on."""
    call.database.remove(task)


@message("task.set_status(self: task ref, value: enum task_status_type) -> void", asynchronous=False)
def set_status(call: Call, task: Row, value: str) -> None:
    """The state of a client's own task."""
    call.database.set(task, status=value)


@message("task.set_progress(self: task ref, value: float) -> void", asynchronous=False)
def set_progress(call: Call, task: Row, value: float) -> None:
    """The progress of a client's own task."""
    call.database.set(task, progress=value)


@message("task.set_result(self: task ref, value: string) -> void", asynchronous=False)
def set_result(call: Call, task: Row, value: str) -> None:
    """The result of a client's own task."""
    call.database.set(task, result=value)


@message("task.set_error_info(self: task ref, value: string set) -> void", asynchronous=False)
def set_error_info(call: Call, task: Row, value: Sequence[str]) -> None:
    """The failure of a client's own task."""
    call.database.set(task, error_info=tuple(value))


@message("task.set_other_config(self: task ref, value: (string -> string) map) -> void")
def set_other_config(call: Call, task: Row, value: dict[str, str]) -> None:
    """A client's notes on a task."""
    call.database.set(task, other_config=value)


@message("task.add_to_other_config(self: task ref, key: string, value: string) -> void")
def add_to_other_config(call: Call, task: Row, key: str, value: str) -> None:
    """One more note on a task."""
    if key in task["other_config"]:
        raise Failure("MAP_DUPLICATE_KEY", "task", "other_config", task.ref, key)
    call.database.set(task, other_config={**task["other_config"], key: value})


@message("task.remove_from_other_config(self: task ref, key: string) -> void")
def remove_from_other_config(call: Call, task: Row, key: str) -> None:
    """One note less on a task."""
    call.database.set(task, other_config={name: item for name, item in task["other_config"].items() if name != key})
