"""A cluster of real processes for tests: `ringstead up` on a temporary folder, with ways to hurt it.

Nothing here sleeps: what has to be waited for is asked of the supervisor's control socket, which answers when it is so, or
is a process's end, which the kernel tells.
"""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

from ringstead.errors import ClusterDown
from ringstead.one_machine.up import parse_exports
from ringstead.processes.control import ask, control_path
from ringstead.processes.sockets import is_port_free

START_TIMEOUT_S = 180.0
"""Generous: a machine that runs other tests beside takes many times what an idle one does (4 s)."""
STOP_TIMEOUT_S = 60.0
UP_LINE = "Ringstead is up"


class Process(NamedTuple):
    """One service's process."""

    name: str
    kind: str
    state: str
    pid: int
    """0 while it is down."""
    deaths: int


class ClusterFailed(AssertionError):
    """`ringstead up` did not come up."""


class TestCluster:
    """One cluster. `start` begins it, again and again on the same data; `stop` ends it in order."""

    __test__ = False

    def __init__(self, data: Path, *options: str, port: int | None = None, xen: bool = False) -> None:
        self.data = data
        self.port = port or free_port()
        self.options = (*options, "--xen" if xen else "--no-xen")
        self.supervisor: subprocess.Popen[bytes] | None = None
        self.output = ""

    @property
    def endpoint(self) -> str:
        """Where it serves HTTP."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def credentials(self) -> dict[str, str]:
        """What credentials.env exports."""
        return parse_exports((self.data / "credentials.env").read_text())

    def log_in(self) -> tuple[str, str]:
        """As the first user: (storage URL, token)."""
        values = self.credentials
        headers = {"X-Auth-User": values["ST_USER"], "X-Auth-Key": values["ST_KEY"]}
        with urllib.request.urlopen(urllib.request.Request(values["ST_AUTH"], headers=headers), timeout=60) as answer:
            return answer.headers["X-Storage-Url"], answer.headers["X-Auth-Token"]

    def start(self) -> TestCluster:
        """Run `ringstead up` until it says that it is up. Raises ClusterFailed with what it said instead."""
        command = [sys.executable, "-m", "ringstead", "up", "--data", str(self.data), "--port", str(self.port)]
        self.supervisor = subprocess.Popen(
            [*command, *self.options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0
        )
        self.output = _read_until(self.supervisor, UP_LINE, START_TIMEOUT_S)
        if UP_LINE not in self.output:
            self.kill_all()
            raise ClusterFailed(self.output + self.logs())
        return self

    def stop(self) -> int:
        """Stop in order; -> the supervisor's exit code. Idempotent."""
        supervisor = self.supervisor
        if supervisor is None:
            return 0
        self.supervisor = None
        supervisor.send_signal(signal.SIGTERM)
        try:
            rest, _ = supervisor.communicate(timeout=STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            supervisor.kill()
            rest, _ = supervisor.communicate()
        self.output += rest.decode()
        return supervisor.returncode

    def kill_all(self) -> None:
        """kill -9 of every process at once, the supervisor among them; returns when all are gone."""
        supervisor = self.supervisor
        if supervisor is None:
            return
        self.supervisor = None
        try:
            pids = [process.pid for process in self.processes() if process.pid]
        except ClusterDown:
            pids = []
        ends = [os.pidfd_open(pid) for pid in pids if _exists(pid)]
        for pid in (supervisor.pid, *pids):
            if _exists(pid):
                os.kill(pid, signal.SIGKILL)
        supervisor.communicate()
        _wait_for_ends(ends)

    def kill_supervisor(self) -> list[int]:
        """kill -9 of the supervisor alone; -> the pids that its services had, all of them gone."""
        assert self.supervisor is not None
        pids = [process.pid for process in self.processes() if process.pid]
        ends = [os.pidfd_open(pid) for pid in pids]
        self.supervisor.kill()
        self.supervisor.communicate()
        self.supervisor = None
        _wait_for_ends(ends)
        return pids

    def processes(self, kind: str | None = None) -> list[Process]:
        """The services, in the order in which they started; of one kind ("storage", "proxy", "updater") or all."""
        answer = self.control("status")
        found = [Process(**service) for service in answer["services"]]
        return [process for process in found if kind in (None, process.kind)]

    def kill(self, kind: str, index: int = 0, *, hold: bool = False, with_signal: str = "SIGKILL") -> Process:
        """Kill one service's process; -> what it was. With `hold` it stays down until `release`."""
        process = self.processes(kind)[index]
        self.control("hold" if hold else "send", name=process.name, signal=with_signal)
        return process

    def release(self, kind: str, index: int = 0) -> None:
        """Let a held service run again; returns when it is ready."""
        self.control("release", name=self.processes(kind)[index].name)

    def wait_ready(self, timeout_s: float = 55.0) -> None:
        """Until every service that is not held is ready."""
        answer = self.control("wait", within_s=timeout_s)
        assert answer["ready"], f"not ready within {timeout_s} s: {answer['services']}"

    def control(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """Ask the supervisor."""
        answer = ask(control_path(self.data / "run", "supervisor"), operation, timeout_s=60.0, **arguments)
        assert "error" not in answer, answer
        return answer

    def ringstead(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `ringstead ARGUMENTS --data …` and give what came out."""
        command = [sys.executable, "-m", "ringstead", *arguments, "--data", str(self.data)]
        return subprocess.run(command, capture_output=True, text=True, check=check, timeout=60)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `ringstead ARGUMENTS`, which say themselves what they are about."""
        command = [sys.executable, "-m", "ringstead", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)

    def logs(self) -> str:
        """The end of every log, for the message of a test that failed."""
        folder = self.data / "logs"
        if not folder.is_dir():
            return ""
        return "".join(f"\n--- {path.name}\n{path.read_text()[-2000:]}" for path in sorted(folder.iterdir()))


def free_port() -> int:
    """A port that nobody listens at, below those that the kernel gives to outgoing connections."""
    while True:
        port = random.SystemRandom().randrange(7000, 9999)
        if is_port_free("127.0.0.1", port):
            return port


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _wait_for_ends(pidfds: list[int]) -> None:
    for descriptor in pidfds:
        ended, _, _ = select.select([descriptor], [], [], STOP_TIMEOUT_S)
        os.close(descriptor)
        assert ended, "a process outlives its supervisor"


def _read_until(process: subprocess.Popen[bytes], text: str, timeout_s: float) -> str:
    """The process's output up to the line with `text`, or up to its end or the time-out."""
    assert process.stdout is not None
    number = process.stdout.fileno()
    received = b""
    while select.select([number], [], [], timeout_s)[0]:
        piece = os.read(number, 65536)
        received += piece
        if not piece or text.encode() in received:
            break
    return received.decode()
