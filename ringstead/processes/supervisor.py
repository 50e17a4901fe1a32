"""The supervisor: starts services as processes, watches them, starts them again, stops them in order.

Problem: services die (that is what they are made for); someone must start them again soon, but not in a mad loop, and
whatever happens to that someone, nothing may be left running.

Idea: one task a service: start, wait for its ready line, wait for its end, wait as `RestartPolicy` says. A process's end
is its pidfd becoming readable, so there are no SIGCHLD handlers and no polls. Children die with the supervisor because
they asked the kernel for it (`life.py`). An operator, or a test, may have one service held down and released
again through the control socket.

Order: the kinds start one after the other (devices before who needs them) and stop in the reverse order, so that proxies
finish their requests while the devices are still there.

Invariants:
- Every process is started by the main thread, since its life is tied to that thread's.
- `run` returns, or raises, only when no child is left.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

import structlog
import trio

from ringstead.errors import ServiceFailed
from ringstead.processes.fork_server import PASSED_FD, ForkedProcess, ForkServer, ForkServerGone
from ringstead.processes.life import PARENT_VARIABLE, READY_LINE, READY_VARIABLE, Stop
from ringstead.processes.restart import HOPELESS_DEATHS, RestartPolicy

STOP_S: Final = 20.0
"""How long a service may take to stop after SIGTERM before it is killed."""
RETRY_S: Final = 10.0
"""How soon a service that came while the others ran, and does not start, is tried again."""
ERROR_FILE_BYTES_MAX: Final = 1024**2

log = structlog.get_logger("ringstead.supervisor")


class State(Enum):
    """Where a service is in its life."""

    DOWN = "down"
    """Not started, or waiting to be started again."""
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    """Told to end, or killed; its end has not been seen yet."""
    HELD = "held"
    """Down because it was told to stay so."""


@dataclass(frozen=True)
class ServiceSpec:
    """How to start a service."""

    name: str
    kind: str
    command: tuple[str, ...]
    error_file: Path
    """Takes what the process writes to standard output and error: next to nothing, but what a dying interpreter says."""
    optional: bool = False
    """The rest is up and usable without it: nothing waits for it, and it may fail to start for ever."""


@dataclass(frozen=True)
class ServiceStatus:
    """One service, as `ringstead status` shows it."""

    name: str
    kind: str
    state: str
    pid: int
    """0 while there is no process."""
    deaths: int
    """Ends that nobody asked for, since the supervisor started."""


class Supervised:
    """One service and its process."""

    def __init__(self, spec: ServiceSpec, fork_server: ForkServer | None = None) -> None:
        self.spec = spec
        self._fork_server = fork_server
        self.state = State.DOWN
        self.pid = 0
        self.deaths = 0
        self.last_words = ""
        self._policy = RestartPolicy()
        self._hold = False
        self._stop = False
        self._ready_since: float | None = None
        self._changed = trio.Event()

    def status(self) -> ServiceStatus:
        """As of now."""
        return ServiceStatus(self.spec.name, self.spec.kind, self.state.value, self.pid, self.deaths)

    async def run(self) -> None:
        """Keep the process running until `stop`. Raises ServiceFailed if it dies again and again before its first ready."""
        was_ready = False
        while not self._stop:
            if self._hold:
                self._set(State.HELD)
                await self._wait_for_change()
                continue
            await self._live()
            was_ready = was_ready or self._ready_since is not None
            if not self._wanted():
                continue
            ready_for_s = 0.0 if self._ready_since is None else trio.current_time() - self._ready_since
            delay_s = self._policy.delay_s(ready_for_s)
            if not was_ready and self._policy.deaths >= HOPELESS_DEATHS and not self.spec.optional:
                raise ServiceFailed(f"{self.spec.name} does not start: {self.last_words or 'it said nothing'}")
            self._set(State.DOWN)
            log.warning("service will be started again", name=self.spec.name, delay_s=delay_s)
            with trio.move_on_after(delay_s):
                await self._wait_for_change()
        self._set(State.DOWN)

    async def until_ready(self) -> None:
        """Until it is ready, held or stopping for good."""
        while self.state not in (State.READY, State.HELD) and not self._stop:
            await self._wait_for_change()

    async def until_down(self) -> None:
        """Until there is no process."""
        while self.pid:
            await self._wait_for_change()

    def send(self, number: int) -> None:
        """Send its process a signal; one that ends it counts as its state at once."""
        if self.pid:
            if number in (signal.SIGKILL, signal.SIGTERM):
                self._set(State.STOPPING)
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def hold(self, number: int = signal.SIGTERM) -> None:
        """End its process with this signal and leave it down until `release`."""
        self._hold = True
        self.send(number)
        self._wake()

    def release(self) -> None:
        """Let it run (again)."""
        self._hold = False
        if self.state is State.HELD:
            self._set(State.DOWN)

    def stop(self) -> None:
        """End it for good, in order."""
        self._stop = True
        self.send(signal.SIGTERM)
        self._wake()

    def _wanted(self) -> bool:
        return not (self._stop or self._hold)

    async def _live(self) -> None:
        """One process from its start to its end."""
        self._ready_since = None
        self._set(State.STARTING)
        ready_read, ready_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            process = self._start(ready_write)
        except OSError as error:
            os.close(ready_read)
            self.last_words = str(error)
            return
        finally:
            os.close(ready_write)
        self.pid = process.pid
        log.info("service started", name=self.spec.name, child=process.pid)
        ended = os.pidfd_open(process.pid)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch_ready, ready_read)
                await trio.lowlevel.wait_readable(ended)
                nursery.cancel_scope.cancel()
        finally:
            os.close(ended)
            os.close(ready_read)
            if process.poll() is None:  # cancelled: the supervisor is ending in disorder
                process.kill()
                process.wait()
            self.pid = 0
        self._note_end(process.wait())

    def _start(self, ready_write: int) -> subprocess.Popen[bytes] | ForkedProcess:
        """Start the process, from this very thread."""
        error_file = self.spec.error_file
        too_long = error_file.exists() and error_file.stat().st_size > ERROR_FILE_BYTES_MAX
        os.set_blocking(ready_write, True)
        parent = {PARENT_VARIABLE: str(os.getpid())}
        with error_file.open("wb" if too_long else "ab") as errors:
            if self._fork_server is not None:
                environment = {**parent, READY_VARIABLE: str(PASSED_FD)}
                try:
                    return self._fork_server.spawn(self.spec.command, errors.fileno(), ready_write, environment)
                except ForkServerGone:
                    log.warning("started as a program of its own: there is no fork server", name=self.spec.name)
            return subprocess.Popen(
                self.spec.command,
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                pass_fds=(ready_write,),
                process_group=0,
                env={**os.environ, **parent, READY_VARIABLE: str(ready_write)},
            )

    async def _watch_ready(self, ready_read: int) -> None:
        received = b""
        while READY_LINE not in received:
            await trio.lowlevel.wait_readable(ready_read)
            piece = os.read(ready_read, 64)
            if not piece:
                return
            received += piece
        self._ready_since = trio.current_time()
        if self.state is State.STARTING:
            self._set(State.READY)

    def _note_end(self, return_code: int) -> None:
        self.last_words = _last_line(self.spec.error_file)
        if not self._wanted():
            log.info("service ended", name=self.spec.name, return_code=return_code)
        else:
            self.deaths += 1
            log.warning("service died", name=self.spec.name, return_code=return_code, last_words=self.last_words)
        self._set(State.DOWN)

    def _set(self, state: State) -> None:
        self.state = state
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _wait_for_change(self) -> None:
        await self._changed.wait()


class Supervisor:
    """Services of several kinds, in the order in which they start."""

    def __init__(self, specs: Sequence[ServiceSpec], fork_servers: Mapping[str, ForkServer] = {}) -> None:
        """Services of a kind that has a fork server share the memory of their program. Who made the servers closes them."""
        self._fork_servers = fork_servers
        self.services = {spec.name: self._supervised(spec) for spec in specs}
        self.started = trio.Event()
        """Everything was ready once."""
        self._kinds = list(dict.fromkeys(spec.kind for spec in specs))
        self._nursery: trio.Nursery | None = None

    async def run(self, stop: Stop) -> None:
        """Start everything (`started` is set once all is ready), and stop it in order when asked to.

        Leaves no process behind. Raises ServiceFailed when one does not come up; then, and when cancelled, the processes
        are killed.
        """
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._start_all, nursery, stop)
            await stop.wait()
            self._nursery = None
            await self._stop_all()
            nursery.cancel_scope.cancel()

    async def adopt(self, specs: Sequence[ServiceSpec]) -> None:
        """Let these be the services from now on: start those that are new, end those that are not among them.

        Returns when those that go have gone. Does nothing before everything has been started, nor once it is being stopped.
        """
        if self._nursery is None or not self.started.is_set():
            return
        wanted = {spec.name: spec for spec in specs}
        for name, spec in wanted.items():
            if name not in self.services:
                self.services[name] = service = self._supervised(spec)
                self._nursery.start_soon(self._run_later, service)
        gone = [service for name, service in self.services.items() if name not in wanted]
        for service in gone:
            service.stop()
        for service in gone:
            await service.until_down()
            self.services.pop(service.spec.name, None)

    def _supervised(self, spec: ServiceSpec) -> Supervised:
        return Supervised(spec, self._fork_servers.get(spec.kind))

    async def _run_later(self, service: Supervised) -> None:
        """Run a service that came while the others ran: one that does not come up does not bring them down."""
        while True:
            try:
                await service.run()
                return
            except ServiceFailed as error:
                log.error("a new service does not start; it is tried again", reason=str(error))
                await trio.sleep(RETRY_S)

    async def _start_all(self, nursery: trio.Nursery, stop: Stop) -> None:
        for kind in self._kinds:
            if stop.asked:
                return
            members = self._of_kind(kind)
            for service in members:
                nursery.start_soon(service.run)
            for service in members:
                if not service.spec.optional:
                    await service.until_ready()
        self.started.set()

    async def until_ready(self) -> None:
        """Until every service that is not held is ready."""
        for service in self.services.values():
            await service.until_ready()

    async def _stop_all(self) -> None:
        for kind in reversed(self._kinds):
            members = self._of_kind(kind)
            for service in members:
                service.stop()
            with trio.move_on_after(STOP_S) as scope:
                for service in members:
                    await service.until_down()
            if scope.cancelled_caught:
                for service in members:
                    if service.pid:
                        log.warning("service does not stop and is killed", name=service.spec.name)
                        service.send(signal.SIGKILL)
                for service in members:
                    await service.until_down()

    def _of_kind(self, kind: str) -> list[Supervised]:
        return [service for service in self.services.values() if service.spec.kind == kind]


def _last_line(path: Path) -> str:
    """The last line that is not empty: the reason, where a process gave one."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
            lines = file.read().decode("utf-8", "replace").split("\n")
    except OSError:
        return ""
    return next((line.strip().removeprefix("ringstead: ") for line in reversed(lines) if line.strip()), "")
