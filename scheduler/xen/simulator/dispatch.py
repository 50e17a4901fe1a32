"""From a method's name and its arguments to the message that serves it.

The order of checks is a pool's: does the method exist, is it the master that was asked, does the session hold, is the number
of arguments right, are their types. Messages that each class has for each field (`get_`, `set_`, `add_to_`,
`get_record`, …) are served from the schema, all others by the functions in `calls/`.

`serve` never waits: it returns the answer, or an `Operation` that will have one later.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import GeneratorType
from typing import Any, Final

import scheduler.xen.simulator.calls as calls_package
from scheduler.xen.simulator.calls.session import find_session, log_in
from scheduler.xen.simulator.database import Row
from scheduler.xen.simulator.failure import Failure
from scheduler.xen.simulator.generic import generic_message, generic_names
from scheduler.xen.simulator.jobs import Steps
from scheduler.xen.simulator.messages import MESSAGES, REQUIRED, Message, Parameter
from scheduler.xen.simulator.pool import Call, Pool
from scheduler.xen.simulator.schema import check
from scheduler.xen.simulator.wire import result_text

assert calls_package.__all__, "the messages are registered by importing them"

_operations = itertools.count(1)


class Operation:
    """A message that has no answer yet. `notify` is called when it has."""

    def __init__(self) -> None:
        self.done = False
        self.result: Any = None
        self.failure: Failure | None = None
        self.notify: Callable[[], None] | None = None

    def finish(self, result: Any, failure: Failure | None) -> None:
        """Give it its answer."""
        self.done, self.result, self.failure = True, result, failure
        if self.notify is not None:
            self.notify()

    def answer(self) -> Any:
        """The result. Raises the Failure that it ended in."""
        if self.failure is not None:
            raise self.failure
        return self.result


@functools.cache
def all_methods() -> list[str]:
    """The names of all methods, as `system.listMethods` gives them."""
    names = [*_SESSION_METHODS, "system.listMethods", *generic_names(), *MESSAGES]
    names += [f"Async.{name}" for name, message in MESSAGES.items() if message.asynchronous]
    return sorted(set(names))


def serve(
    pool: Pool, host: Row, method: str, arguments: Sequence[Any], site: Any, ordered: Failure | None = None
) -> Any:
    """Answer a method called at a host: a result, a `Pending` event poll (`calls.event`), or an `Operation`.

    `ordered` is a failure to end in instead of doing anything, an asynchronous call in its task. Raises the Failure to
    answer with.
    """
    if ordered is not None and not method.startswith("Async."):
        raise ordered
    site.run_due(pool.clock())
    try:
        return _serve(pool, host, method, arguments, site, ordered)
    finally:
        site.refresh()


def _serve(pool: Pool, host: Row, method: str, arguments: Sequence[Any], site: Any, ordered: Failure | None) -> Any:
    if method == "system.listMethods":
        return all_methods()
    if method in _SESSION_METHODS:
        return _SESSION_METHODS[method](pool, host, method, arguments)
    asynchronous = method.startswith("Async.")
    name = method.removeprefix("Async.")
    message = MESSAGES.get(name) or generic_message(name)
    if message is None or (asynchronous and not message.asynchronous):
        raise Failure("MESSAGE_METHOD_UNKNOWN", method)
    if host is not pool.master:
        raise Failure("HOST_IS_SLAVE", pool.master["address"])
    _check_count(method, arguments, message.required + 1, len(message.parameters) + 1)
    session = find_session(pool, str(arguments[0]))
    values = _convert(pool, message, arguments[1:])
    task = _new_task(pool, session, method) if asynchronous else None
    reference = task.ref if task is not None else f"DummyRef:|{next(_operations)}|{name}"
    call = Call(pool, session, name, reference, task, site=site)
    if ordered is not None:
        message = replace(message, serve=functools.partial(_fail, ordered))
    return _begin(call, message, values)


def _fail(failure: Failure, *_arguments: Any) -> None:
    raise failure


def _begin(call: Call, message: Message, values: Sequence[Any]) -> Any:
    if call.task is None:
        result = message.serve(call, *values)
        if not isinstance(result, GeneratorType):
            return _plain(result)
        steps: Steps = result
    else:
        steps = _steps(call, message, values)
    operation = Operation()
    job = call.pool.jobs.start(
        message.name, _registered(call, steps), functools.partial(_end, call, message, operation)
    )
    call.pool.job_of_operation[call.operation] = job
    if operation.done:
        call.pool.job_of_operation.pop(call.operation, None)
    if call.task is not None:
        return call.task.ref
    return operation.answer() if operation.done else operation


def _registered(call: Call, steps: Steps) -> Steps:
    try:
        return (yield from steps)
    finally:
        call.pool.job_of_operation.pop(call.operation, None)


def _steps(call: Call, message: Message, values: Sequence[Any]) -> Steps:
    result = message.serve(call, *values)
    if isinstance(result, GeneratorType):
        result = yield from result
    return result


def _end(call: Call, message: Message, operation: Operation, result: Any, failure: Failure | None) -> None:
    plain = _plain(result)
    if call.task is not None:
        _finish_task(call.pool, call.task, "" if message.result == "void" else result_text(plain), failure)
    operation.finish(plain, failure)


def _finish_task(pool: Pool, task: Row, result: str, failure: Failure | None) -> None:
    if pool.database.find("task", task.ref) is not task:
        return
    if failure is None:
        pool.database.set(task, status="success", result=result, progress=1.0, finished=pool.now())
        return
    status = "cancelled" if failure.code == "TASK_CANCELLED" else "failure"
    pool.database.set(task, status=status, error_info=tuple(failure.description), progress=1.0, finished=pool.now())


def _new_task(pool: Pool, session: Row, method: str) -> Row:
    pool.trim_tasks()
    return pool.database.add(
        "task",
        name_label=method,
        created=pool.now(),
        status="pending",
        type="<none/>",
        resident_on=session["this_host"],
        uuid=pool.new_uuid(),
    )


def _plain(result: Any) -> Any:
    """A result with rows replaced by their references."""
    if isinstance(result, Row):
        return result.ref
    if isinstance(result, list):
        return [_plain(item) for item in result]
    return "" if result is None else result


def _convert(pool: Pool, message: Message, arguments: Sequence[Any]) -> list[Any]:
    values = []
    for index, parameter in enumerate(message.parameters):
        given = arguments[index] if index < len(arguments) else parameter.default
        assert given is not REQUIRED
        values.append(_argument(pool, parameter, given))
    return values


def _argument(pool: Pool, parameter: Parameter, given: Any) -> Any:
    kind = parameter.type
    value = check(kind, given, parameter.name)
    if kind.kind == "ref":
        if parameter.nullable and value in ("", pool.database.null):
            return None
        return pool.database.get(kind.name, value)
    if kind.kind == "set" and kind.of is not None and kind.of.kind == "ref":
        return [pool.database.get(kind.of.name, reference) for reference in value]
    return value


def _check_count(method: str, arguments: Sequence[Any], least: int, most: int) -> None:
    if not least <= len(arguments) <= most:
        raise Failure("MESSAGE_PARAMETER_COUNT_MISMATCH", method, str(most), str(len(arguments)))


def _log_in(pool: Pool, host: Row, method: str, arguments: Sequence[Any]) -> str:
    _check_count(method, arguments, 2, 4)
    user, password = str(arguments[0]), str(arguments[1])
    return log_in(pool, host, user, password, originator=str(arguments[3]) if len(arguments) > 3 else "").ref


def _log_in_locally(pool: Pool, host: Row, method: str, arguments: Sequence[Any]) -> str:
    from scheduler.xen.simulator.calls.session import check_password, open_session

    _check_count(method, arguments, 2, 2)
    check_password(pool, str(arguments[0]), str(arguments[1]))
    return open_session(pool, host, "local").ref


def _log_out(pool: Pool, host: Row, method: str, arguments: Sequence[Any]) -> str:
    _check_count(method, arguments, 1, 1)
    session = find_session(pool, str(arguments[0]))
    pool.listeners.pop(session.ref, None)
    pool.database.remove(session)
    return ""


_SESSION_METHODS: Final[dict[str, Callable[[Pool, Row, str, Sequence[Any]], Any]]] = {
    "session.login_with_password": _log_in,
    "session.slave_local_login_with_password": _log_in_locally,
    "session.logout": _log_out,
    "session.local_logout": _log_out,
}
