"""What every service process does around its work: die with its supervisor, say when it is ready, stop when asked.

Problem: a supervisor that is killed with SIGKILL can tidy up nothing, and services that outlive it hold devices and ports
against the next start.

Idea: the kernel does it. A supervised child asks for SIGKILL at its parent's death (`PR_SET_PDEATHSIG`) as its first
act, then looks whether the parent that started it is still the parent, which closes the race of a death before the call.
The store is made for being killed at any instruction, so SIGKILL is safe, and it is certain even for a child that hangs.
Readiness is one line on a pipe whose number comes in the environment, so a supervisor needs neither polling nor a port.

Rejected: an end-of-file on a pipe to tell children of the supervisor's death (a hung child does not read it); process
groups killed by a wrapper (the wrapper dies just the same); cgroups (they want root or systemd).

Invariants:
- The signal is bound to the death of the *thread* that started the child, so supervisors start children from their main
  thread.
- Children live in process groups of their own: a Ctrl-C at the terminal reaches the supervisor, which stops them in order.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

import trio

PARENT_VARIABLE: Final = "RINGSTEAD_PARENT_PID"
READY_VARIABLE: Final = "RINGSTEAD_READY_FD"
READY_LINE: Final = b"ready\n"

_PR_SET_PDEATHSIG: Final = 1
_GC_THRESHOLDS: Final = (50_000, 20, 100)
"""Requests make few cycles; collecting after every 700 allocations, the default, costs a tenth of the throughput."""


class Stop:
    """The wish that the process end: an event for tasks to wait for."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def set(self) -> None:
        """Ask for the end."""
        self._event.set()

    @property
    def asked(self) -> bool:
        """Whether the end was asked for."""
        return self._event.is_set()

    async def wait(self) -> None:
        """Until the end is asked for."""
        await self._event.wait()


def tie_to_supervisor() -> None:
    """If a supervisor started this process, end with it. To be called before anything else is opened."""
    parent = os.environ.pop(PARENT_VARIABLE, "")
    if not parent:
        return
    die_with_parent(int(parent))


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent, which ought to be `parent`, ends. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        sys.exit(0)


def take_ready_pipe() -> Callable[[], None]:
    """The function that tells the supervisor, once, that this process is ready; does nothing without one."""
    number = os.environ.pop(READY_VARIABLE, "")
    if not number:
        return lambda: None
    pipe = os.fdopen(int(number), "wb", buffering=0)
    os.set_inheritable(pipe.fileno(), False)

    def announce() -> None:
        with contextlib.suppress(OSError):  # a supervisor that has gone needs no telling
            pipe.write(READY_LINE)
        pipe.close()

    return announce


def settle() -> None:
    """Once everything is loaded: what is there now lives for good, so the collector need not look at it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)


def run_until_stopped(main: Callable[[Stop], Awaitable[None]]) -> None:
    """Run a service; SIGTERM, SIGINT and SIGHUP ask it to stop in order, a second one breaks it off."""

    async def outer() -> None:
        stop = Stop()
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async with trio.open_nursery() as nursery:

                async def listen() -> None:
                    async for _ in signals:
                        if stop.asked:
                            nursery.cancel_scope.cancel()
                        stop.set()

                nursery.start_soon(listen)
                await main(stop)
                nursery.cancel_scope.cancel()

    trio.run(outer)


@contextlib.contextmanager
def one_failure() -> Iterator[None]:
    """Out of an exception group that holds one failure, raise that failure: it is the one to explain."""
    try:
        yield
    except BaseExceptionGroup as group:
        leaf: BaseException = group
        while isinstance(leaf, BaseExceptionGroup) and len(leaf.exceptions) == 1:
            leaf = leaf.exceptions[0]
        if leaf is group:
            raise
        raise leaf from None
