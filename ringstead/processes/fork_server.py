"""The fork server: services that are all the same program share the memory of it.

Problem: each service is an interpreter with some hundred modules, 27 to 40 MB of memory in no file, most of it the same in
each. Seven of them are 230 MB before the first request, and seven times the processor time of importing.

Idea: a process imports what several services need, once, and forks each of them before any event loop, thread or file of
theirs exists; the kernel copies a page when somebody writes to it. Reference counts are writes, so that about half of
it stays shared. The collector is told to leave alone what is there (`gc.freeze`): it would write to every object.

The supervisor stays the parent of each service, as if it had started it: it is a *subreaper*, the server forks twice, and
the process between the two ends at once, so the kernel gives the supervisor the child. Its pid, its exit code, its pidfd,
the signal at its parent's death (life.py) are the supervisor's as ever, and the end of the fork server ends no service.

What a service runs is what its command says (`python -m MODULE ARGUMENTS`), through the module's `__main__`: there is one
way in. The line that `ps` shows is that command.

Where the server has gone, or never was, or the program on disk is not the one that it imported (an upgrade), the command
is started as a program of its own: the same service, more memory.

Rejected: forking the supervisor itself (its event loop, wake-up sockets and signal handlers would go along); the server as
the services' parent (its death would be everybody's); threads or one process for all devices (one defect would take all).

Invariants:
- A child that the supervisor does not know of does not run: it waits for a word on a pipe that only the supervisor holds.
- The server is single-threaded when it forks, holds no file but its socket, and ends with the supervisor.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import json
import os
import runpy
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from struct import Struct
from typing import Final, NoReturn

from ringstead.processes.life import die_with_parent

_PR_SET_CHILD_SUBREAPER: Final = 36
_REQUEST_BYTES_MAX: Final = 128 * 1024
_FIRST_ANSWER_S: Final = 30.0
"""A server that says nothing for so long is ended; services are started without it from then on. It imports first."""
_ANSWER_S: Final = 5.0
"""The same once it has answered: meanwhile the supervisor hears nobody."""
PASSED_FD: Final = 3
"""Where a service finds the one file that it is given beside the standard ones."""
_GO: Final = b"g"
_PID = Struct("<i")


class ForkServerGone(Exception):
    """There is no fork server (any more): start the command as a program."""


class ForkServer:
    """The supervisor's end. Not for use by several threads."""

    def __init__(self, connection: socket.socket, pid: int) -> None:
        self._connection = connection
        self.pid = pid
        """The server's; 0 once it has gone."""

    @classmethod
    def start(cls, load: Callable[[], None]) -> ForkServer:
        """Fork a server off, which calls `load` to import what its services share beyond what is imported here.

        Does not wait for it. To be called by the main thread, before there are others or an event loop. Raises OSError.
        """
        _become_subreaper()
        gc.collect()
        gc.freeze()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        _flush()
        supervisor = os.getpid()
        pid = os.fork()
        if pid == 0:
            ours.close()
            _run_server(theirs, supervisor, load)
        theirs.close()
        ours.settimeout(_FIRST_ANSWER_S)
        return cls(ours, pid)

    def spawn(self, command: Sequence[str], output: int, passed: int, environment: Mapping[str, str]) -> ForkedProcess:
        """Start `python -m MODULE ARGUMENTS` as a child of this process, in a process group of its own.

        Its standard output and error go to `output`; `passed` is open in it as PASSED_FD; `environment` comes on top of what
        this process had when the server started. Raises ForkServerGone, and then nothing was started.
        """
        request = json.dumps({"command": list(command), "environment": dict(environment)}).encode()
        if not self.pid or not is_module_command(command) or len(request) > _REQUEST_BYTES_MAX:
            raise ForkServerGone
        word_read, word_write = os.pipe2(os.O_CLOEXEC)
        try:
            socket.send_fds(self._connection, [request], [word_read, output, passed])
            answer = self._connection.recv(_PID.size)
            if len(answer) != _PID.size:
                raise OSError("the fork server has gone")
            self._connection.settimeout(_ANSWER_S)
            (pid,) = _PID.unpack(answer)
            if pid <= 0:
                raise ForkServerGone  # it could not fork, or is of another version: a program can still be started
            os.write(word_write, _GO)
            return ForkedProcess(pid)
        except OSError as error:
            self.close()
            raise ForkServerGone from error
        finally:
            os.close(word_read)
            os.close(word_write)

    def close(self) -> None:
        """End the server. Idempotent. What it has started lives on."""
        if self.pid:
            self._connection.close()
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(self.pid, 0)
            self.pid = 0


class ForkedProcess:
    """A child that the server forked: as much of `subprocess.Popen` as a supervisor needs."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit code (negative: the signal that ended it), None while it runs."""
        return self._wait(os.WNOHANG)

    def wait(self) -> int:
        """Until it ends; -> its exit code."""
        code = self._wait(0)
        assert code is not None
        return code

    def kill(self) -> None:
        """SIGKILL, if it has not ended."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def _wait(self, options: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


def is_module_command(command: Sequence[str]) -> bool:
    """Whether this is `python -m MODULE …` with this very interpreter."""
    return len(command) > 2 and command[0] == sys.executable and command[1] == "-m"


def program_files() -> list[str]:
    """The files of all modules that are imported."""
    return [file for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))]


def stamps(names: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Of files by name: which each is, and of when. An upgrade replaces some. What is not there is left out."""
    found = {}
    for name in names:
        with suppress(OSError):
            about = os.stat(name)
            found[name] = about.st_ino, about.st_mtime_ns
    return found


def close_others(*kept: int) -> None:
    """Close every descriptor but these."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            with suppress(OSError):  # the one that listed them
                os.close(int(name))


def _flush() -> None:
    """What was printed, where there is somewhere to print to."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


def _become_subreaper() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


# ------------------------------------------------------------------------------------------------------------ the server


def _run_server(connection: socket.socket, supervisor: int, load: Callable[[], None]) -> NoReturn:
    """Fork a service for each request until the supervisor's end closes. Leaves by `os._exit` alone."""
    code = 1
    try:
        os.setpgid(0, 0)  # a Ctrl-C is for the supervisor
        die_with_parent(supervisor)
        close_others(0, 1, 2, connection.fileno())
        show_command(("ringstead:", "fork server"))
        load()
        gc.collect()
        gc.freeze()
        gc.disable()
        _serve(connection, stamps(program_files()))
        code = 0
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def _serve(connection: socket.socket, program: Mapping[str, tuple[int, int]]) -> None:
    while True:
        request, descriptors, _, _ = socket.recv_fds(connection, _REQUEST_BYTES_MAX, 3)
        if not request:
            return
        pid = -1
        if stamps(program) == program:  # else what a service imports later would not fit what is here
            with suppress(OSError):
                pid = _fork_twice(connection, json.loads(request), descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        connection.send(_PID.pack(pid))


def _fork_twice(connection: socket.socket, request: dict[str, object], descriptors: Sequence[int]) -> int:
    """-> the pid of a child that is the supervisor's by now. Raises OSError."""
    told_read, told_write = os.pipe2(os.O_CLOEXEC)
    try:
        between = os.fork()
        if between == 0:
            try:
                pid = os.fork()
            except OSError:
                os._exit(1)
            if pid == 0:
                os.close(told_read)
                os.close(told_write)
                connection.close()
                _become_service(request, descriptors)
            os.write(told_write, _PID.pack(pid))
            os._exit(0)
        os.close(told_write)
        told_write = -1
        os.waitpid(between, 0)
        told = os.read(told_read, _PID.size)
        return _PID.unpack(told)[0] if len(told) == _PID.size else -1
    finally:
        os.close(told_read)
        if told_write >= 0:
            os.close(told_write)


# ----------------------------------------------------------------------------------------------------------- the service


def _become_service(request: dict[str, object], descriptors: Sequence[int]) -> NoReturn:
    """Take on what the request says and run it. Leaves by `os._exit` alone."""
    code = 1
    try:
        os.setpgid(0, 0)
        word, output, passed = descriptors
        if os.read(word, 1) != _GO:
            os._exit(0)
        command, environment = request["command"], request["environment"]
        assert isinstance(command, list)
        assert isinstance(environment, dict)
        _arrange_descriptors(output, passed)
        os.environ.update(environment)
        gc.enable()
        show_command(command)
        code = _run_module(command[2], command[3:])
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            _flush()
        os._exit(code)


def _arrange_descriptors(output: int, passed: int) -> None:
    """Nothing open but 0 (/dev/null), 1 and 2 (`output`) and PASSED_FD."""
    null = os.open(os.devnull, os.O_RDONLY)
    aside = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, PASSED_FD + 1) for descriptor in (null, output, passed)]
    for descriptor, number in zip((aside[0], aside[1], aside[1], aside[2]), (0, 1, 2, PASSED_FD), strict=True):
        os.dup2(descriptor, number)
    close_others(0, 1, 2, PASSED_FD)


def _run_module(module: str, arguments: Sequence[str]) -> int:
    """What `python -m MODULE ARGUMENTS` does; -> its exit code."""
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return error.code or 0
        print(error.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


def show_command(command: Sequence[str]) -> None:
    """Let `ps` show this command, its words between blanks, instead of the one that this process was forked from.

    The kernel reads the line from where the arguments were when the program began, and on into where the environment was
    if it is longer than those (proc(5), /proc/PID/cmdline); what is longer than both is cut.
    """
    with suppress(OSError, ValueError, IndexError):
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        start, arguments_end, environment_start, environment_end = (int(field) for field in fields[45:49])
        if not 0 < start < arguments_end:
            return
        end = (
            environment_end if environment_start == arguments_end and environment_end > arguments_end else arguments_end
        )
        for name, value in os.environb.items():
            os.putenv(name, value)  # a copy elsewhere: the first one lies where the line may go
        line = " ".join(command).encode("utf-8", "surrogateescape")[: end - start - 1]
        ctypes.memset(start, 0, max(arguments_end - start, len(line) + 1))
        ctypes.memmove(start, line, len(line))
