"""The fork server: what it forks is the supervisor's child, as if the supervisor had started it."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ringstead.processes.fork_server import is_module_command
from tests.ringstead.processes.forked import MODULE

TIMEOUT_S = 50.0
ROOT = Path(__file__).resolve().parents[3]


def run(scenario: str, folder: Path) -> tuple[int, dict[str, Any]]:
    """Exit code of the parent, and what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", MODULE, "parent", scenario, str(folder)],
        stdout=subprocess.PIPE,
        timeout=TIMEOUT_S,
        check=False,
        cwd=ROOT,
        env={**os.environ, "A_LONG_ENVIRONMENT": "x" * 1000},
    )
    return done.returncode, json.loads(done.stdout)


def until_gone(pid: int) -> bool:
    """Whether a process ends in time."""
    with suppress(ProcessLookupError):
        ended = os.pidfd_open(pid)
        try:
            poll = select.poll()
            poll.register(ended, select.POLLIN)
            return bool(poll.poll(TIMEOUT_S * 1000))
        finally:
            os.close(ended)
    return True


def test_a_service_is_as_if_started_by_the_supervisor(tmp_path: Path) -> None:
    """Parent, process group, arguments, environment, files, exit code and the line of `ps` are those of a program."""
    _, found = run("facts", tmp_path)
    assert found["ppid"] == found["me"]
    assert found["group"] == found["pid"]
    assert found["arguments"] == ["child", "tell"]
    assert found["told"] == "a word"
    assert found["files"] == [0, 1, 2, 3]
    assert found["input"] == ""
    assert found["code"] == 7
    assert found["line"] == f"{sys.executable} -m {MODULE} child tell {tmp_path}"


def test_a_service_has_what_was_loaded_for_it(tmp_path: Path) -> None:
    """What the server did before it forked is there in the child, without the child doing it."""
    assert run("facts", tmp_path)[1]["loaded"] == "yes"


def test_the_signal_that_ended_a_service_is_known(tmp_path: Path) -> None:
    """It is None while the service runs, and then the negative number, as with subprocess."""
    assert run("killed", tmp_path)[1] == {"before": None, "code": -9}


def test_services_outlive_the_fork_server(tmp_path: Path) -> None:
    """Its death ends none of them; the next start says that it has gone, and nothing was started."""
    assert run("server_dies", tmp_path)[1] == {"refused": True, "alive": True, "output": ""}


def test_after_an_upgrade_services_are_programs_of_their_own(tmp_path: Path) -> None:
    """What the server has imported and what is on disk by now would not fit together: it forks nothing any more."""
    assert run("upgraded", tmp_path)[1] == {"refused": True, "there": True}


def test_a_child_that_nobody_knows_of_does_not_run(tmp_path: Path) -> None:
    """Without the supervisor's word it ends and has done nothing."""
    assert run("no_word", tmp_path)[1] == {"code": 0, "output": ""}


def test_nothing_outlives_the_supervisor(tmp_path: Path) -> None:
    """kill -9 of it ends the server and every service."""
    code, found = run("parent_dies", tmp_path)
    assert code == -9
    assert all(until_gone(pid) for pid in found["pids"])


@pytest.mark.parametrize(
    ("command", "fit"),
    [
        ((sys.executable, "-m", "ringstead", "serve"), True),
        ((sys.executable, "-m"), False),
        ((sys.executable, "-c", "pass"), False),
        (("/bin/sleep", "-m", "1"), False),
    ],
)
def test_only_modules_of_this_interpreter_are_forked(command: tuple[str, ...], fit: bool) -> None:
    """Whatever else a supervisor is to start is started as a program."""
    assert is_module_command(command) is fit
