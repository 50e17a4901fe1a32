"""Who serves the connections that have something to say: a crew of tasks that lead in turn.

Problem: with a task for each connection every request costs a registration with epoll, a suspension and a resumption in the
event loop, some 7 us, before a byte of it is read. And a small GET that is answered from this machine's own disks waits for
nothing: it has no need of an event loop at all.

Idea (leader and followers, as Schmidt and others described it in 2000): the life of a connection is a coroutine that belongs
to no task. While it waits for its next request it lies parked, its socket registered once in an epoll of the crew's. One
task, the leader, waits for that epoll and runs the lives that are ready in place, one after the other. A request that
never has to wait is answered there. The first time that one has to wait (for a device, for a body, for room in the socket)
the leader stays with it until its connection is parked again; another task leads, and whatever else was ready gets a task
of its own at once, so that what they all send to the devices leaves together.

A connection whose last request had to wait does not park: its next one will have to wait as well, and its task may as well
wait for it. So writers cost what they would cost with a task each, and readers do not.

Parking is a trap of our own, taken from the coroutine before it could reach trio. Every other trap goes on to trio, from the
task in which the coroutine runs then, which is what trio asks for: between two parkings a life stays in one task, and
cancel scopes and nurseries work in it as anywhere.

Rejected: callbacks that parse and answer what is simple and wake a task for the rest (two ways to serve a request, of which
the tests would mostly see one); running coroutines with another task's identity (trio's internals).

Invariants:
- A life is run by one task at a time, and parks only where no cancel scope is open around it.
- There is one leader, as long as the crew works.
- Every life that was taken on is ended by `close()` at the latest.
"""

from __future__ import annotations

import select
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from types import coroutine
from typing import Any, Final

import trio

READY_MAX: Final = 64
"""Connections served before the rest of the process gets its turn."""
RESTING_MAX: Final = 64
"""Tasks that are kept for the next request that has to wait."""

_PARKED: Final = object()


@coroutine
def park() -> Generator[object, None, None]:
    """Until the connection's socket has something to read. Only for a life that a crew runs."""
    yield _PARKED


class Waits:
    """How often a life has waited for something of trio's: by that it can tell whether a request did."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class Member:
    """One connection, as the crew has it."""

    __slots__ = ("fd", "life", "parked", "waits", "watched")

    def __init__(self, fd: int, waits: Waits, life: Coroutine[Any, Any, None]) -> None:
        self.fd = fd
        self.waits = waits
        self.life = life
        self.parked = True
        self.watched = False
        """Registered with epoll."""


class Crew:
    """Serves connections in tasks of a nursery."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._epoll = select.epoll()
        self._members: dict[int, Member] = {}
        self._resting: list[_Hand] = []
        nursery.start_soon(self._work, None)

    def take(self, fd: int, waits: Waits, life: Coroutine[Any, Any, None]) -> None:
        """Serve one more connection: run `life` once its socket has something to read, and count its waits."""
        member = self._members[fd] = Member(fd, waits, life)
        self._watch(member)

    def close(self) -> None:
        """End every life that is parked; after the nursery has ended. Idempotent."""
        for member in list(self._members.values()):
            member.life.close()
        self._members.clear()
        self._epoll.close()

    async def _work(self, member: Member | None) -> None:
        """One task of the crew: serves a member that was given to it, or leads, and then rests until it is called again."""
        hand = _Hand()
        while True:
            if member is None:
                member, trap = await self._lead()
            else:
                trap = self._begin(member)
            if trap is not None:
                going = _go_on(member, trap)
                trap = None  # what it waited for first may hold a whole body, and this life may last for hours
                try:
                    parked = await going
                except BaseException:
                    self._members.pop(member.fd, None)
                    raise
                if parked:
                    self._park(member)
                else:
                    self._ended(member)
            if len(self._resting) >= RESTING_MAX:
                return
            member = await hand.rest(self._resting)

    async def _lead(self) -> tuple[Member, object]:
        """Serve who is ready until somebody has to wait: who, and its trap. Others are at work for the rest by then."""
        epoll, members = self._epoll, self._members
        ready: deque[Member] = deque()
        while True:
            await trio.lowlevel.wait_readable(epoll.fileno())
            for fd, _ in epoll.poll(0, READY_MAX):
                member = members[fd]
                if member.parked:
                    member.parked = False
                    ready.append(member)
                else:  # it is being served: what came is its own affair until it parks again
                    epoll.unregister(fd)
                    member.watched = False
            while ready:
                member = ready.popleft()
                trap = self._begin(member)
                if trap is not None:
                    while ready:
                        self._call(ready.popleft())
                    self._call(None)
                    return member, trap

    def _begin(self, member: Member) -> object | None:
        """Run a member that was parked: None if it is parked again or has ended, else the trap of what it waits for."""
        try:
            trap: object = member.life.send(None)
        except StopIteration:
            self._ended(member)
            return None
        if trap is _PARKED:
            self._park(member)
            return None
        return trap

    def _call(self, member: Member | None) -> None:
        """Have a task serve a member; or lead."""
        if self._resting:
            self._resting.pop().call(member)
        else:
            self._nursery.start_soon(self._work, member)

    def _park(self, member: Member) -> None:
        member.parked = True
        if not member.watched:
            self._watch(member)

    def _watch(self, member: Member) -> None:
        self._epoll.register(member.fd, select.EPOLLIN)
        member.watched = True

    def _ended(self, member: Member) -> None:
        """Its socket is closed, and with that out of epoll."""
        if self._members.get(member.fd) is member:
            del self._members[member.fd]


class _Hand:
    """One task of the crew, while it rests."""

    __slots__ = ("_errand", "_task")

    def __init__(self) -> None:
        self._errand: Member | None = None
        self._task: trio.lowlevel.Task | None = None

    async def rest(self, resting: list[_Hand]) -> Member | None:
        """Until called: the member to serve, or None to lead."""

        def abort(_: Callable[[], None]) -> trio.lowlevel.Abort:
            resting.remove(self)
            return trio.lowlevel.Abort.SUCCEEDED

        self._task = trio.lowlevel.current_task()
        resting.append(self)
        await trio.lowlevel.wait_task_rescheduled(abort)
        return self._errand

    def call(self, errand: Member | None) -> None:
        """Wake it, once it is off the list of those who rest."""
        assert self._task is not None
        self._errand = errand
        trio.lowlevel.reschedule(self._task)


@coroutine
def _go_on(member: Member, trap: object) -> Generator[object, Any, bool]:
    """Run a life on in this task from a trap of trio's: True once it is parked, False once it has ended."""
    life, waits = member.life, member.waits
    try:
        while trap is not _PARKED:
            waits.count += 1
            value = yield trap
            trap = life.send(value)
    except StopIteration:
        return False
    return True
