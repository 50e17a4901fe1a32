"""How the commands for servers and volumes reach a controller, wait for what takes long, and print.

A command asks the controller at its control socket. What takes long comes back as a task; with `--wait` the command
stays and shows how far it is: a line that is rewritten on a terminal, a line a stage elsewhere. Whoever does not wait
gets the task's number.

A controller that is just starting is given a moment: `ringstead up` has the object store ready before it.
"""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from ringstead.commands.options import config_option, data_option, json_option
from ringstead.errors import ClusterDown, RingsteadError, UsageError
from ringstead.processes.control import ask, control_path

F = TypeVar("F", bound=Callable[..., Any])

CONTROLLER: Final = "controller"
PATIENCE_S: Final = 15.0
"""How long a controller that does not answer yet is waited for."""
DEATHS_MAX: Final = 4
"""One that has died so often is not waited for."""
ANSWER_TIMEOUT_S: Final = 90.0
WAIT_STEP_S: Final = 2.0

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kKmMgGtT]?)(?:i?[bB])?")
_SHIFTS: Final = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}


class BinarySize(click.ParamType[int]):
    """A size as people give it to virtual machines: 512M, 20G, 1.5T; in powers of 1024. A bare number is bytes."""

    name = "size"

    def __init__(self, *, unlimited: bool = False) -> None:
        self._unlimited = unlimited

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        if self._unlimited and str(value).strip() == "-1":
            return -1
        match = _SIZE.fullmatch(str(value).strip())
        if match is None:
            self.fail(f"{value!r} is no size: write 512M, 20G or 1.5T", param, ctx)
        return int(float(match[1]) * (1 << _SHIFTS[match[2].lower()]))


SIZE: Final = BinarySize()
LIMIT: Final = BinarySize(unlimited=True)
"""The most that something may be: a size, or -1 for no limit."""


class Controller:
    """The controller that a command speaks to."""

    def __init__(self, data: Path, config: Path | None) -> None:
        self._data = data
        self._config = config
        self._path: Path | None = None

    def ask(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """What it answers. Raises RingsteadError with what it refuses."""
        answer = self._ask(operation, arguments)
        if "error" in answer:
            error = UsageError if answer.get("code") == 2 else RingsteadError
            raise error(str(answer["error"]))
        return answer

    def _ask(self, operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
        path = self._path or self._find()
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return ask(path, operation, ANSWER_TIMEOUT_S, **arguments)
            except ClusterDown as error:
                if not self._may_come(path) or time.monotonic() > deadline:
                    raise ClusterDown(self._why_not(path, error)) from None
                threading.Event().wait(0.2)

    def _find(self) -> Path:
        from ringstead.commands.access import service_settings
        from ringstead.one_machine.layout import DataDirectory, load_shape

        if self._config is None and not load_shape(DataDirectory(self._data.absolute())).xen:
            raise ClusterDown("this cluster runs without a controller; `ringstead up --xen` runs one")
        settings = service_settings(self._data, self._config, CONTROLLER)
        self._path = control_path(settings.socket_dir, settings.title if settings.service == CONTROLLER else CONTROLLER)
        return self._path

    def _why_not(self, path: Path, error: ClusterDown) -> str:
        """Why no controller answers, in its own last words if it left any since it was last well."""
        try:
            lines = (path.parent.parent / "logs" / f"{CONTROLLER}.err").read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        if lines and self._supervised(path):
            return f"the controller does not start: {lines[-1].removeprefix('ringstead: ')}"
        return f"no controller answers; is the cluster running? (`ringstead up`): {error}"

    def _may_come(self, path: Path) -> bool:
        """Whether a supervisor is about to start one: then its socket is worth waiting for."""
        return any(deaths < DEATHS_MAX for deaths in self._supervised(path))

    def _supervised(self, path: Path) -> list[int]:
        """How often each controller of this machine's supervisor has died; those that are held down are left out."""
        try:
            services = ask(path.parent / "supervisor.control", "status", 5.0).get("services", [])
        except ClusterDown:
            return []
        return [each["deaths"] for each in services if each["kind"] == CONTROLLER and each["state"] != "held"]

    def follow(self, task: int, *, quiet: bool) -> dict[str, Any]:
        """Wait for a task, showing how far it is; its last state. Raises RingsteadError if it failed."""
        shown, started = "", time.monotonic()
        terminal = sys.stderr.isatty() and not quiet
        while True:
            state: dict[str, Any] = self.ask("task.wait", task=task, within_s=WAIT_STEP_S)["task"]
            line = _progress_line(state)
            if terminal:
                click.echo(f"\r\x1b[K{line}  {time.monotonic() - started:.0f} s", nl=False, err=True)
            elif not quiet and line != shown:
                click.echo(line, err=True)
            shown = line
            if state["state"] != "open":
                break
        if terminal:
            click.echo("\r\x1b[K", nl=False, err=True)
        if state["state"] == "failed":
            raise RingsteadError(f"task {task}, {state['verb']}, failed: {state['error'] or 'it does not say why'}")
        return state


def _progress_line(task: dict[str, Any]) -> str:
    line = f"{task['verb']}: {task['stage'] if task['state'] == 'open' else task['state']}"
    if task["state"] == "open":
        if 0 < task["progress"] < 1:
            line += f" {task['progress']:.0%}"
        if task["error"]:
            line += f" (again, attempt {task['attempt'] + 1}: {task['error']})"
    return line


# --------------------------------------------------------------------------------------------------------------- options


def cloud_command(function: F) -> F:
    """`--data`, `--config`, `--json` for a command on servers and what belongs to them."""
    return data_option(config_option(json_option(function)))


def wait_option(function: F) -> F:
    """`--wait`: until it is done."""
    return click.option("--wait/--no-wait", default=False, help="Stay until it is done.")(function)


def project_option(function: F) -> F:
    """`--project NAME`."""
    return click.option(
        "--project", envvar="RINGSTEAD_PROJECT", metavar="NAME", help="Whose it is.  [default, or $RINGSTEAD_PROJECT]"
    )(function)


def finish(
    controller: Controller,
    answer: dict[str, Any],
    noun: str,
    *,
    wait: bool,
    as_json: bool,
    again: Callable[[], dict[str, Any]] | None = None,
) -> None:
    """Print what became of a request: at once, or once its task is done, and then as the thing (`noun`) is by then.

    `again` asks for the thing anew where `NOUN.show` does not.
    """
    task = answer.get("task")
    if wait and task is not None:
        state = controller.follow(int(task), quiet=as_json)
        anew = again() if again is not None else controller.ask(f"{noun}.show", name=answer[noun]["id"])
        answer = {**answer, **anew, "task": state}
    if as_json:
        click.echo(json.dumps(answer))
        return
    thing = answer.get(noun) or {}
    name = thing.get("name", "")
    if wait or task is None:
        click.echo(f"{noun} {name}: {thing.get('state', 'done')}" if thing else "done")
    else:
        click.echo(f"{noun} {name}: task {task} is at work; --wait waits, `ringstead task wait {task}`, too")


def say(answer: dict[str, Any], text: str, *, as_json: bool) -> None:
    """Print an answer: the whole to programs, a line to people."""
    click.echo(json.dumps(answer) if as_json else text)


def show_list(
    things: Sequence[dict[str, Any]],
    columns: Mapping[str, str | Callable[[dict[str, Any]], object]],
    *,
    right: Sequence[str] = (),
    as_json: bool,
) -> None:
    """Print things: as they are to programs, else a table. A column is a property's name, or what is made of a thing."""
    if as_json:
        click.echo(json.dumps(things))
        return
    rows = [[each[cell] if isinstance(cell, str) else cell(each) for cell in columns.values()] for each in things]
    table(list(columns), rows, right=right)


def state_text(thing: dict[str, Any]) -> str:
    """A server's or volume's state, and what is being done to it."""
    return thing["state"] if not thing["task"] else f"{thing['state']} ({thing['task']['verb']})"


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[str] = ()) -> None:
    """Print a table; columns named in `right` are numbers."""
    from ringstead.commands.output import print_table

    print_table(columns, rows, left=[column for column in columns if column not in right])


def size_text(size_bytes: int) -> str:
    """As the options take it: 20G, 512M."""
    for unit, shift in (("T", 40), ("G", 30), ("M", 20)):
        if size_bytes >= 1 << shift:
            return f"{size_bytes / (1 << shift):.4g}{unit}"
    return f"{size_bytes}"


def show_pairs(pairs: Sequence[tuple[str, object]]) -> None:
    """Print one thing: a line for each of its properties that says something."""
    width = max((len(label) for label, _ in pairs), default=0)
    for label, value in pairs:
        if value not in ("", None, [], {}):
            click.echo(f"{label:<{width}}  {value}")


def short(identifier: str) -> str:
    """An id's beginning, as good as the whole."""
    return identifier[:8]
