"""A system under test: started, asked for what it costs, hurt a little, stopped.

Problem: ratios between systems are worth what the least carefully run of them is worth. Each must be started the same way,
on the same disk, with durability on, and be asked the same questions.

Idea: one small interface. A system starts its processes below one folder, says where it listens and with which
credentials (a Swift token, S3 keys, or both), can lose one of its nodes and get it back, and knows the trees of its
processes so that their cost can be read from /proc. What a peer cannot do it says by `None` or by raising
`NotSupported`; a workload that needs it is left out for that peer, and the report says so.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

from bench.systems.usage import Usage, cpu_of, tree_of, usage_of

READY_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 60.0
POLL_S = 0.1


class NotSupported(Exception):
    """This system has no such thing; the workload is left out for it."""


class NotInstalled(Exception):
    """The system's program is not on this machine; it takes no part."""


class SystemFailed(Exception):
    """It did not start, or died."""


@dataclass(frozen=True, slots=True)
class SwiftAccess:
    """What a request in Swift's dialect needs."""

    token: str
    account_path: str
    """"/v1/AUTH_…" without a slash at its end."""


@dataclass(frozen=True, slots=True)
class S3Access:
    """What a request in S3's dialect needs."""

    access_key: str
    secret_key: str
    region: str = "us-east-1"


class System(ABC):
    """One system. Use it as a context manager: it is stopped whatever happens."""

    name: str
    answers_when = ""
    """In words: how many replicas are on stable storage when a PUT is answered."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.swift: SwiftAccess | None = None
        self.s3: S3Access | None = None
        self._processes: list[subprocess.Popen[bytes]] = []
        self._logs: list[IO[bytes]] = []

    @property
    def base_url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    @property
    @abstractmethod
    def version(self) -> str:
        """As it says itself."""

    @abstractmethod
    def start(self) -> None:
        """Begin, on what its folder holds. Returns when it answers. Raises NotInstalled, SystemFailed."""

    def kill_node(self) -> None:
        """kill -9 of one storage node, which stays away. Raises NotSupported."""
        raise NotSupported(f"{self.name}: no node to kill")

    def revive_node(self) -> None:
        """Let it come back."""
        raise NotSupported(f"{self.name}: no node to revive")

    def begin_rebalance(self) -> None:
        """Let a zone join, so that data moves while what follows is measured; for good. Raises NotSupported."""
        raise NotSupported(f"{self.name}: no rebalance that runs by itself")

    def put_names(self, container: str, count: int) -> None:
        """Let an existing container list `n00000000`, `n00000001`, … without a request for each. Raises NotSupported."""
        raise NotSupported(f"{self.name}: names can only be made by requests")

    def usage(self) -> Usage:
        """Of all its processes."""
        return usage_of(process.pid for process in self._processes)

    def cpu_s(self) -> float:
        """Processor seconds of all its processes so far."""
        return cpu_of(process.pid for process in self._processes)

    def kill_all(self) -> None:
        """kill -9 of every process at once, as a power cut would for them."""
        _kill_trees(process.pid for process in self._processes)
        self.stop()

    def stop(self) -> None:
        """End all its processes, in order. Idempotent."""
        for process in reversed(self._processes):
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                _kill_trees([process.pid])
                process.wait()
        self._processes.clear()
        for log in self._logs:
            log.close()
        self._logs.clear()

    def __enter__(self) -> System:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # --------------------------------------------------------------------------------------------------- for subclasses

    def spawn(
        self, command: Sequence[str], log_name: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a process whose output goes to a file in the folder, and count it among ours."""
        log = (self.folder / f"{log_name}.log").open("ab")
        self._logs.append(log)
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            cwd=self.folder,
        )
        self._processes.append(process)
        return process

    def kill_one(self, process: subprocess.Popen[bytes]) -> None:
        """kill -9 of a process of ours, which counts no longer, and of its children: workers would go on serving."""
        _kill_trees([process.pid])
        process.wait()
        self._processes.remove(process)

    def wait_http(self, path: str, accepted: Sequence[int] = (200,), headers: Mapping[str, str] | None = None) -> None:
        """Until a GET of `path` is answered with one of those. Raises SystemFailed."""
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline_s:
            for process in self._processes:
                if process.poll() is not None:
                    raise SystemFailed(
                        f"{self.name}: {process.args!r} ended with {process.returncode}: see {self.folder}"
                    )
            if _status(f"{self.base_url}{path}", headers or {}) in accepted:
                return
            wait_s(POLL_S)
        raise SystemFailed(f"{self.name}: no answer to {path} within {READY_TIMEOUT_S:.0f} s: see {self.folder}")


def swift_token(auth_url: str, user: str, key: str) -> SwiftAccess:
    """Log in as Swift's clients do (v1)."""
    request = urllib.request.Request(auth_url, headers={"X-Auth-User": user, "X-Auth-Key": key})
    with urllib.request.urlopen(request, timeout=30) as answer:
        storage_url = answer.headers["X-Storage-Url"]
        return SwiftAccess(answer.headers["X-Auth-Token"], "/" + storage_url.split("/", 3)[3])


def program(name: str) -> str:
    """The path of an installed program. Raises NotInstalled."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/sbin")
    if found is None:
        raise NotInstalled(f"{name} is not on the path")
    return found


def wait_s(seconds: float) -> None:
    """Nothing, for so long."""
    threading.Event().wait(seconds)


def free_port() -> int:
    """A port of the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _kill_trees(roots: Iterable[int]) -> None:
    """kill -9 of processes and all their descendants."""
    for process in tree_of(roots):
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def _status(url: str, headers: Mapping[str, str]) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=dict(headers)), timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except OSError:
        return 0
