"""What a process has read lately."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from proxy.known import ENTRIES_MAX, STALE_S, Known, remember
from proxy.model import Unavailable


class Time:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Source:
    """Counts how often it is read; raises `error` instead if there is one."""

    def __init__(self) -> None:
        self.reads = 0
        self.error: Exception | None = None

    async def __call__(self, name: str) -> str:
        self.reads += 1
        await trio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error
        return f"{name} {self.reads}"


async def test_a_value_is_read_once_while_it_is_fresh() -> None:
    """Within its time a value comes from memory, after it from the source."""
    time, source = Time(), Source()
    known: Known[str] = Known(time, 5.0)
    assert [await known.get("a", source), await known.get("a", source)] == ["a 1", "a 1"]
    time.now_s += 5.1
    assert await known.get("a", source) == "a 2"
    known.forget("a")
    assert await known.get("a", source) == "a 3"


async def test_many_who_ask_cost_one_read() -> None:
    """All tasks that ask in one moment are answered by one read."""
    source = Source()
    known: Known[str] = Known(Time(), 5.0)
    answers: list[str] = []

    async def ask() -> None:
        answers.append(await known.get("a", source))

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(ask)
    assert (source.reads, answers) == (1, ["a 1"] * 50)


async def test_an_error_reaches_all_who_wait_and_is_not_kept() -> None:
    """A failed read fails everybody who waited for it, at once, and the next one reads again."""
    source = Source()
    source.error = KeyError("a")
    known: Known[str] = Known(Time(), 5.0)
    failures = 0

    async def ask() -> None:
        nonlocal failures
        with pytest.raises(KeyError):
            await known.get("a", source)
        failures += 1

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(ask)
    assert (source.reads, failures) == (1, 20)
    source.error = None
    assert await known.get("a", source) == "a 2"


async def test_a_stale_value_is_given_while_the_store_is_away() -> None:
    """What was known goes on being known for a while, tried again only now and then; then the error comes through."""
    time, source = Time(), Source()
    known: Known[str] = Known(time, 5.0)
    await known.get("a", source)
    source.error = Unavailable("away")
    time.now_s += 6
    assert [await known.get("a", source) for _ in range(10)] == ["a 1"] * 10
    assert source.reads == 2
    time.now_s += STALE_S
    with pytest.raises(Unavailable):
        await known.get("a", source)


async def test_who_waits_for_a_cancelled_read_reads_itself() -> None:
    """A client that goes away in the middle of a read takes nobody with it."""
    known: Known[str] = Known(Time(), 5.0)
    began = trio.Event()
    answers: list[str] = []

    async def never(name: str) -> str:
        began.set()
        await trio.sleep_forever()
        raise AssertionError(name)

    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def first() -> None:
            with scope:
                await known.get("a", never)

        async def second() -> None:
            answers.append(await known.get("a", Source()))

        nursery.start_soon(first)
        await began.wait()
        nursery.start_soon(second)
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
    assert answers == ["a 1"]


def test_the_cache_is_bounded() -> None:
    """However many different names are asked for, memory does not grow without end."""
    cache: dict[int, int] = {}
    for number in range(ENTRIES_MAX * 2 + 5):
        remember(cache, number, number)
        assert len(cache) <= ENTRIES_MAX
