"""proxy.http.crew: who runs a connection's life, and when."""

from __future__ import annotations

import gc
import socket
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from proxy.http.crew import Crew, Waits, park

ANSWER_S = 30.0


class Talk:
    """A connection that a crew serves with `serve`, byte by byte, and its client's end."""

    def __init__(self, serve: Callable[[bytes], Awaitable[bytes]]) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._ours = ours
        self._serve = serve
        self._client = trio.socket.from_stdlib_socket(theirs)
        self.waits = Waits()
        self.tasks: list[trio.lowlevel.Task] = []
        self.closed = False

    def begin(self, crew: Crew) -> None:
        """Have it served."""
        crew.take(self._ours.fileno(), self.waits, self._live())

    async def _live(self) -> None:
        try:
            while data := self._ours.recv(1):
                self.tasks.append(trio.lowlevel.current_task())
                self._ours.send(await self._serve(data))
                await park()
        finally:
            self._ours.close()
            self.closed = True

    async def ask(self, data: bytes) -> bytes:
        """One request and its answer."""
        await self._client.send(data)
        with trio.fail_after(ANSWER_S):
            return await self._client.recv(1)

    def hang_up(self) -> None:
        """The client's end of it."""
        self._client.close()


@asynccontextmanager
async def working(*talks: Talk) -> AsyncIterator[None]:
    """A crew that serves these for the length of a block."""
    async with trio.open_nursery() as nursery:
        crew = Crew(nursery)
        for talk in talks:
            talk.begin(crew)
        yield
        nursery.cancel_scope.cancel()
    crew.close()


async def at_once(data: bytes) -> bytes:
    return data.upper()


async def later(data: bytes) -> bytes:
    await trio.lowlevel.checkpoint()
    return data.upper()


async def test_who_never_waits_is_served_by_one_task_whoever_they_are() -> None:
    """Requests that wait for nothing are answered by the leader, of many connections alike."""
    talks = [Talk(at_once) for _ in range(5)]
    async with working(*talks):
        tasks = trio.lowlevel.current_statistics().tasks_living
        for _ in range(3):
            for talk in talks:
                assert await talk.ask(b"a") == b"A"
        assert trio.lowlevel.current_statistics().tasks_living == tasks
    assert len({task for talk in talks for task in talk.tasks}) == 1
    assert all(talk.waits.count == 0 for talk in talks)


async def test_who_waits_holds_up_nobody() -> None:
    """While a request waits, those of other connections are answered, and it is answered in the end."""
    door = trio.Event()

    async def behind_the_door(data: bytes) -> bytes:
        await door.wait()
        return data.upper()

    slow, quick = Talk(behind_the_door), Talk(at_once)
    async with working(slow, quick), trio.open_nursery() as nursery:
        answers: list[bytes] = []

        async def ask() -> None:
            answers.append(await slow.ask(b"s"))

        nursery.start_soon(ask)
        for _ in range(3):
            assert await quick.ask(b"q") == b"Q"
        assert not answers
        door.set()
    assert answers == [b"S"]
    assert slow.waits.count > 0


async def test_tasks_that_have_served_rest_and_serve_again() -> None:
    """A thousand requests that wait, one after the other, take no thousand tasks."""
    talk = Talk(later)
    async with working(talk):
        before = trio.lowlevel.current_statistics().tasks_living
        for _ in range(1000):
            assert await talk.ask(b"x") == b"X"
        assert trio.lowlevel.current_statistics().tasks_living <= before + 2


async def test_what_comes_while_a_request_waits_is_not_lost() -> None:
    """A client that does not wait for its answers gets all of them."""
    talk = Talk(later)
    async with working(talk):
        await talk._client.send(b"abc")
        with trio.fail_after(ANSWER_S):
            got = b""
            while len(got) < 3:
                got += await talk._client.recv(3)
        assert got == b"ABC"


async def test_a_life_that_ends_leaves_its_place_to_the_next() -> None:
    """A descriptor that is used again belongs to the new connection."""
    for serve in (at_once, later):
        async with trio.open_nursery() as nursery:
            crew = Crew(nursery)
            for _ in range(20):
                talk = Talk(serve)
                talk.begin(crew)
                assert await talk.ask(b"a") == b"A"
                talk.hang_up()
                with trio.fail_after(ANSWER_S):
                    while not talk.closed:
                        await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        crew.close()


async def test_nothing_is_kept_of_a_request_that_waited() -> None:
    """What a request waited for, and all that hangs on it, is let go of when it is answered, though its life goes on."""

    class Body:
        pass

    kept: list[weakref.ref[Body]] = []

    async def wait(data: bytes) -> bytes:
        body = Body()
        kept.append(weakref.ref(body))
        task = trio.lowlevel.current_task()

        def abort(_: object, held: Body = body) -> trio.lowlevel.Abort:
            return trio.lowlevel.Abort.FAILED

        trio.lowlevel.current_trio_token().run_sync_soon(trio.lowlevel.reschedule, task)
        await trio.lowlevel.wait_task_rescheduled(abort)
        return data.upper()

    talk = Talk(wait)
    async with working(talk):
        for _ in range(3):
            assert await talk.ask(b"a") == b"A"
        await trio.testing.wait_all_tasks_blocked()
        gc.collect()
        assert [ref() for ref in kept] == [None, None, None]


async def test_every_life_is_ended() -> None:
    """Who is parked, who waits and who is served when the crew is sent home: all their sockets are closed."""
    door = trio.Event()

    async def never(data: bytes) -> bytes:
        await door.wait()
        return data

    parked, waiting = Talk(at_once), Talk(never)
    async with working(parked, waiting):
        assert await parked.ask(b"a") == b"A"
        await waiting._client.send(b"w")
        with trio.fail_after(ANSWER_S):
            while not waiting.waits.count:
                await trio.lowlevel.checkpoint()
    assert parked.closed
    assert waiting.closed


@given(st.lists(st.lists(st.booleans(), max_size=6), max_size=6))
def test_any_mix_is_answered_in_each_connections_order(plan: list[list[bool]]) -> None:
    """Whatever waits and whatever does not, every connection gets its own answers, in order."""

    async def serve(data: bytes) -> bytes:
        if data.islower():
            await trio.lowlevel.checkpoint()
        return data.swapcase()

    async def client(talk: Talk, waits: list[bool]) -> None:
        for wait in waits:
            letter = b"w" if wait else b"N"
            assert await talk.ask(letter) == letter.swapcase()

    async def run() -> None:
        talks = [Talk(serve) for _ in plan]
        async with working(*talks), trio.open_nursery() as nursery:
            for talk, waits in zip(talks, plan, strict=True):
                nursery.start_soon(client, talk, waits)

    trio.run(run)
