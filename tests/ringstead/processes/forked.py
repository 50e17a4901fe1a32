"""The programs of the fork server's tests: a parent in a process of its own, since it becomes a subreaper, and a child.

python -m tests.ringstead.processes.forked parent SCENARIO FOLDER     prints what came of it, as JSON
python -m tests.ringstead.processes.forked child WHAT FOLDER          what the scenarios start
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ringstead.processes.fork_server import ForkedProcess, ForkServer, ForkServerGone

MODULE = "tests.ringstead.processes.forked"


class Parent:
    """Has a fork server, as a supervisor does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "a_module_of_the_program.py").touch()

        def load() -> None:
            os.environ["LOADED"] = "yes"
            sys.path.insert(0, str(folder))
            importlib.import_module("a_module_of_the_program")

        self.server = ForkServer.start(load)
        self.ready, self._ready_write = os.pipe()

    def spawn(self, what: str) -> ForkedProcess:
        """Start a child that does `what`."""
        command = [sys.executable, "-m", MODULE, "child", what, str(self.folder)]
        with (self.folder / "output").open("ab") as output:
            return self.server.spawn(command, output.fileno(), self._ready_write, {"TOLD": "a word"})

    def until_ready(self) -> None:
        """Until the child has said so; without a timeout, which is the test's."""
        assert os.read(self.ready, 1) == b"!"


def facts(parent: Parent) -> dict[str, Any]:
    """A child that tells of itself, and ends with 7."""
    child = parent.spawn("tell")
    code = child.wait()
    return {"pid": child.pid, "me": os.getpid(), "code": code, **json.loads((parent.folder / "output").read_text())}


def killed(parent: Parent) -> dict[str, Any]:
    """The signal that ended a child is known, and it is seen at its pidfd."""
    child = parent.spawn("wait")
    parent.until_ready()
    ended = os.pidfd_open(child.pid)
    before = child.poll()
    child.kill()
    os.waitid(os.P_PIDFD, ended, os.WEXITED | os.WNOWAIT)
    return {"before": before, "code": child.wait()}


def server_dies(parent: Parent) -> dict[str, Any]:
    """Children outlive the server; no more are started."""
    child = parent.spawn("wait")
    parent.until_ready()
    os.kill(parent.server.pid, signal.SIGKILL)
    try:
        parent.spawn("tell")
        refused = False
    except ForkServerGone:
        refused = True
    alive = child.poll() is None
    child.kill()
    child.wait()
    return {"refused": refused, "alive": alive, "output": (parent.folder / "output").read_text()}


def upgraded(parent: Parent) -> dict[str, Any]:
    """A file of what the server has imported is another by now."""
    child = parent.spawn("tell")
    child.wait()
    os.utime(parent.folder / "a_module_of_the_program.py", (1, 1))
    try:
        parent.spawn("tell")
        refused = False
    except ForkServerGone:
        refused = True
    return {"refused": refused, "there": bool(parent.server.pid)}


def no_word(parent: Parent) -> dict[str, Any]:
    """The supervisor goes after its request was sent: what was forked must not run."""
    word_read, word_write = os.pipe()
    os.close(word_write)
    command = [sys.executable, "-m", MODULE, "child", "tell", str(parent.folder)]
    request = json.dumps({"command": command, "environment": {}}).encode()
    with (parent.folder / "output").open("ab") as output:
        socket.send_fds(parent.server._connection, [request], [word_read, output.fileno(), output.fileno()])
    (pid,) = memoryview(parent.server._connection.recv(4)).cast("i")
    code = ForkedProcess(pid).wait()
    return {"code": code, "output": (parent.folder / "output").read_text()}


def parent_dies(parent: Parent) -> dict[str, Any]:
    """kill -9 of the supervisor; the test looks who is left."""
    child = parent.spawn("wait")
    parent.until_ready()
    print(json.dumps({"pids": [parent.server.pid, child.pid]}), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


SCENARIOS: dict[str, Callable[[Parent], dict[str, Any]]] = {
    scenario.__name__: scenario for scenario in (facts, killed, server_dies, upgraded, no_word, parent_dies)
}


def _child(what: str) -> None:
    from ringstead.processes.fork_server import PASSED_FD
    from ringstead.processes.life import die_with_parent

    if what == "wait":
        die_with_parent(os.getppid())
        os.write(PASSED_FD, b"!")
        signal.pause()
    told = {
        "ppid": os.getppid(),
        "group": os.getpgid(0),
        "arguments": sys.argv[1:3],
        "told": os.environ.get("TOLD"),
        "loaded": os.environ.get("LOADED"),
        "files": sorted(int(name) for name in os.listdir("/proc/self/fd"))[:-1],  # the last is the listing's own
        "line": Path("/proc/self/cmdline").read_bytes().rstrip(b"\0").decode(),
        "input": os.read(0, 1).decode(),
    }
    print(json.dumps(told))
    sys.exit(7)


def main() -> None:
    """See the module."""
    _, role, what, folder = sys.argv
    if role == "child":
        _child(what)
        return
    parent = Parent(Path(folder))
    try:
        print(json.dumps(SCENARIOS[what](parent)))
    finally:
        parent.server.close()


if __name__ == "__main__":
    main()
