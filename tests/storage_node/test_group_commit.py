"""Group commit: what waits goes out together, in order, and is answered once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from storage_node.group_commit import Doorbell, GroupCommit, InlinePolicy
from storage_node.operations import Answer, DeleteObject, GetObject, LockObject, Status
from storage_node.wire_settings import ServerSettings
from tests.storage_node.wire import NOW, GatedDevice, an_object, hash_of, open_device, until

IN_THREADS = ServerSettings(inline_s_max=0.0)


class Answers:
    """Collects answers in the order in which they come."""

    def __init__(self) -> None:
        self.got: list[tuple[int, Answer]] = []

    def answer(self, token: int, answer: Answer) -> None:
        self.got.append((token, answer))

    @property
    def tokens(self) -> list[int]:
        return [token for token, _ in self.got]


@asynccontextmanager
async def committing(device: Any, settings: ServerSettings) -> AsyncIterator[GroupCommit]:
    """A group commit that runs, and is stopped in order."""
    committer = GroupCommit(device, settings)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(committer.run)
        try:
            yield committer
        finally:
            committer.stop()


def test_quick_syncs_stay_in_place_and_slow_ones_move_to_a_thread() -> None:
    """The policy follows the average, and comes back only when syncs are clearly quick again."""
    policy = InlinePolicy(0.001)
    inline = []
    for duration, count in ((0.0003, 20), (0.003, 20), (0.0008, 50), (0.0003, 50)):
        for _ in range(count):
            policy.record(duration)
        inline.append(policy.inline)
    assert inline == [True, False, False, True]


def test_one_long_stall_is_enough() -> None:
    """A disk that begins to hang does not stop the event loop twice."""
    policy = InlinePolicy(0.001)
    policy.record(0.0001)
    policy.record(0.2)
    assert not policy.inline


@given(st.lists(st.floats(0, 1), max_size=40))
def test_the_policy_never_goes_in_place_above_its_limit(durations: list[float]) -> None:
    """In place only while the average is below the limit."""
    policy = InlinePolicy(0.01)
    for duration in durations:
        policy.record(duration)
        assert not policy.inline or policy.average_s < 0.01


async def test_a_doorbell_remembers_one_ring() -> None:
    """A ring before the wait ends it at once; two rings are one; a cancelled wait loses none."""
    bell = Doorbell()
    bell.ring()
    bell.ring()
    await bell.wait()
    with pytest.raises(trio.TooSlowError), trio.fail_after(0):
        await bell.wait()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bell.wait)
        await trio.testing.wait_all_tasks_blocked()
        bell.ring()


@pytest.mark.parametrize("settings", [ServerSettings(), IN_THREADS])
async def test_writes_are_answered_in_order_and_visible(tmp_path: Path, settings: ServerSettings) -> None:
    """Every write is answered APPLIED once, in order, and then readable; in place and in threads alike."""
    device = open_device(tmp_path / "sda")
    answers = Answers()
    async with committing(device, settings) as committer:
        for number in range(300):
            assert committer.submit(an_object(number), answers, number)
        await until(lambda: len(answers.got) == 300)
        assert answers.tokens == list(range(300))
        assert {answer.status for _, answer in answers.got} == {Status.APPLIED}
        assert device.read(GetObject(hash_of(7), b"/a/c/7", True)).status == Status.FOUND
    device.close()


async def test_what_arrives_while_one_group_syncs_goes_out_with_the_next(tmp_path: Path) -> None:
    """One write syncs alone; the forty that come meanwhile share the second sync, and nobody is answered early."""
    device = open_device(tmp_path / "sda")
    gated = GatedDevice(device)
    answers = Answers()
    async with committing(gated, IN_THREADS) as committer:
        committer.submit(an_object(0), answers, 0)
        await trio.to_thread.run_sync(gated.syncing.wait)
        for number in range(1, 41):
            committer.submit(an_object(number), answers, number)
        assert answers.got == []
        assert device.read(GetObject(hash_of(0), b"/a/c/0", False)).status == Status.MISSING
        gated.gate.set()
        await until(lambda: len(answers.got) == 41)
    assert gated.batch_sizes == [1, 40]
    assert committer.group_count == 2
    assert committer.operation_count == 41
    device.close()


async def test_groups_are_bounded_in_number_and_bytes(tmp_path: Path) -> None:
    """A flood is cut into groups of the size that the settings allow, in order."""
    device = open_device(tmp_path / "sda")
    gated = GatedDevice(device)
    gated.gate.set()
    answers = Answers()
    settings = ServerSettings(inline_s_max=0.0, batch_operations_max=10, batch_bytes_max=3000)
    async with committing(gated, settings) as committer:
        for number in range(25):
            committer.submit(DeleteObject(hash_of(number), b"/a/c/%d" % number, NOW), answers, number)
        await until(lambda: len(answers.got) == 25)
        for number in range(5):
            committer.submit(an_object(100 + number, b"x" * 1400), answers, number)
        await until(lambda: len(answers.got) == 30)
    assert gated.batch_sizes == [10, 10, 5, 2, 2, 1]
    assert answers.tokens == [*range(25), *range(5)]
    device.close()


async def test_too_much_is_not_taken(tmp_path: Path) -> None:
    """Beyond its limits the queue says no; what it has taken is not lost by that."""
    device = open_device(tmp_path / "sda")
    gated = GatedDevice(device)
    answers = Answers()
    settings = ServerSettings(inline_s_max=0.0, pending_operations_max=3, pending_bytes_max=1000)
    async with committing(gated, settings) as committer:
        committer.submit(an_object(0), answers, 0)
        await trio.to_thread.run_sync(gated.syncing.wait)
        assert committer.submit(an_object(1, b"x" * 900), answers, 1)
        assert not committer.submit(an_object(2, b"x" * 200), answers, 2)
        assert committer.submit(an_object(3, b"x" * 50), answers, 3)
        assert committer.submit(an_object(4, b""), answers, 4)
        assert not committer.submit(an_object(5, b""), answers, 5)
        assert committer.pending == 3
        gated.gate.set()
        await until(lambda: len(answers.got) == 4)
        assert committer.submit(an_object(2, b"x" * 200), answers, 2)
    assert answers.tokens == [0, 1, 3, 4, 2]
    device.close()


async def test_a_hanging_disk_takes_no_more(tmp_path: Path) -> None:
    """While a sync has been running for too long, writes are refused rather than queued behind it."""
    device = open_device(tmp_path / "sda")
    gated = GatedDevice(device)
    answers = Answers()
    async with committing(gated, ServerSettings(inline_s_max=0.0, stall_s_max=0.0)) as committer:
        committer.submit(an_object(0), answers, 0)
        await trio.to_thread.run_sync(gated.syncing.wait)
        assert not committer.submit(an_object(1), answers, 1)
        gated.gate.set()
        await until(lambda: len(answers.got) == 1)
        assert committer.submit(an_object(1), answers, 1)
    device.close()


async def test_a_cancelled_owner_still_commits_what_was_taken(tmp_path: Path) -> None:
    """Cancellation in the middle of a sync neither loses the group nor leaves it unanswered."""
    device = open_device(tmp_path / "sda")
    gated = GatedDevice(device)
    answers = Answers()
    committer = GroupCommit(gated, IN_THREADS)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(committer.run)
        committer.submit(an_object(0), answers, 0)
        await trio.to_thread.run_sync(gated.syncing.wait)
        committer.submit(an_object(1), answers, 1)
        nursery.cancel_scope.cancel()
        committer.stop()
        gated.gate.set()
    assert answers.tokens == [0, 1]
    assert not committer.submit(an_object(2), answers, 2)
    device.close()


async def test_locks_need_no_sync(tmp_path: Path) -> None:
    """A group of nothing but locks is answered without touching the disk."""
    device = open_device(tmp_path / "sda")
    gated = GatedDevice(device)
    answers = Answers()
    async with committing(gated, IN_THREADS) as committer:
        committer.submit(LockObject(hash_of(1), b"/a/c/1", NOW, 1000), answers, 0)
        await until(lambda: answers.got)
        assert not gated.syncing.is_set()
        gated.gate.set()
    device.close()


async def test_who_waits_is_answered_when_committing_fails(tmp_path: Path) -> None:
    """A fault of ours ends the server, as it should: nobody's wait for an answer may keep it from ending."""

    class Broken:
        wants_commit = False

        def decide(self, operations: object) -> None:
            raise RuntimeError("a bug")

    answers = Answers()
    committer = GroupCommit(Broken(), ServerSettings())  # type: ignore[arg-type]
    assert committer.submit(DeleteObject(hash_of(1), b"/a/c/1", NOW), answers, 7)
    assert committer.submit(LockObject(hash_of(1), b"/a/c/1", NOW, 1000), answers, 8)
    with pytest.raises(RuntimeError, match="a bug"):
        await committer.run()
    assert [(token, answer.status) for token, answer in answers.got] == [
        (7, Status.UNREACHABLE),
        (8, Status.UNREACHABLE),
    ]
    assert not committer.submit(DeleteObject(hash_of(1), b"/a/c/1", NOW), answers, 9)
