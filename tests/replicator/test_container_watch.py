"""Which containers changed since the last look."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from replicator import container_watch
from replicator.container_watch import (
    EVERYTHING,
    ContainerWatch,
    changed_parts,
    due_parts,
    fingerprint,
    is_listed,
    part_start,
    split_container_key,
    successor,
)
from replicator.pace import Pace
from replicator.peers import Peer
from ring.topology import Device as RingDevice
from storage_node.device import Device
from storage_node.operations import Answer, Catalog, Operation, PutCatalog, PutRow, Space, Status
from storage_node.timestamp import Clock
from tests.support.small_device import SMALL_DEVICE


class DirectPeer(Peer):
    """A peer whose device is an object of this process."""

    def __init__(self, device: Device) -> None:
        self.device = RingDevice(0, 1, 1, "127.0.0.1", 6200, "d", 1.0)
        self.target = device

    async def call(self, operation: Operation, timeout_s: float = 0.0) -> Answer:
        """Asked at once."""
        return self.target.read(operation)  # type: ignore[arg-type]


async def test_only_what_changed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look tells new and changed containers, once; with many of them it reads only the parts that changed."""
    monkeypatch.setattr(container_watch, "DIGESTS_FROM", 500)
    Device.create(tmp_path / "d", "d")
    device = Device.open(tmp_path / "d", settings=SMALL_DEVICE)
    clock = Clock(1)
    hashes = [os.urandom(16) for _ in range(1000)]
    made = [PutCatalog(Space.CONTAINER, h, b"/AUTH_a/%d" % i, clock.stamp(), {}) for i, h in enumerate(hashes)]
    device.apply(made)
    told: list[bytes] = []
    refuse: set[bytes] = set()

    def note(key: bytes) -> bool:
        told.append(key)
        return key not in refuse

    watch = ContainerWatch(DirectPeer(device), Pace(1e6), note, 3600.0)
    await watch.look()
    assert len(told) == len(set(told)) == 1000
    told.clear()
    for _ in range(3):
        await watch.look()
    assert told == []
    before = watch.compared
    await watch.look()
    assert watch.compared == before

    row = PutRow(Space.CONTAINER, hashes[7], b"x", clock.stamp(), 0, False, 1, 5, b"")
    assert device.apply([row])[0].status == Status.APPLIED
    refuse.add(b"/AUTH_a/7")
    await watch.look()
    refuse.clear()
    await watch.look()
    assert told == [b"/AUTH_a/7"] * 2
    await watch.look()
    await watch.look()
    assert told == [b"/AUTH_a/7"] * 2
    assert watch.compared - before < 100
    device.close()


@pytest.mark.parametrize("digests_from", [0, 2000])
async def test_every_container_is_told_again_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock, digests_from: int
) -> None:
    """Though nothing changes, each container is told once in `again_s`, a few at a time; those refused soon again."""
    monkeypatch.setattr(container_watch, "DIGESTS_FROM", digests_from)
    Device.create(tmp_path / "d", "d")
    device = Device.open(tmp_path / "d", settings=SMALL_DEVICE)
    keys = [b"/AUTH_a/%d" % i for i in range(300)]
    device.apply([PutCatalog(Space.CONTAINER, os.urandom(16), key, Clock(1).stamp(), {}) for key in keys])
    told: list[bytes] = []
    room = 300

    def note(key: bytes) -> bool:
        told.append(key)
        return len(told) <= room

    watch = ContainerWatch(DirectPeer(device), Pace(1e9), note, 1000.0)
    await watch.look()
    assert sorted(told) == sorted(keys)
    most = 0
    told.clear()
    for _ in range(100):
        await trio.sleep(10.0)
        before = len(told)
        await watch.look()
        most = max(most, len(told) - before)
    assert set(told) == set(keys)
    assert len(told) <= 310, "hardly any twice"
    assert most < 50, "a few at a time"

    told.clear()
    room = 0
    await trio.sleep(2000.0)
    await watch.look()
    assert sorted(told) == sorted(keys)
    room = 1000
    await watch.look()
    assert sorted(told) == sorted(keys * 2)
    device.close()


@given(st.floats(0, 1e6), st.lists(st.floats(0, 500), min_size=1, max_size=20))
def test_each_part_has_one_turn_in_every_round(start_s: float, steps_s: list[float]) -> None:
    """However looks are spaced: every part is due within a round, and as often as rounds have passed, but for one."""
    again_s = 100.0
    turns = [0] * 256
    at_s = start_s
    for step_s in steps_s:
        for part in due_parts(at_s, at_s + step_s, again_s):
            turns[part] += 1
        at_s += step_s
    rounds = (at_s - start_s) / again_s
    assert max(turns) <= rounds + 1
    if rounds >= 1.01:
        assert min(turns) >= 1


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=8, max_size=8))
def test_parts_cover_what_changed_and_nothing_else(changes: list[tuple[bool, bool]]) -> None:
    """Every hash lies in a part if and only if its digest changed in one of the last two steps; parts never touch."""
    earlier = tuple(bytes(16) for _ in changes)
    last = tuple(b"1" * 16 if step else old for (step, _), old in zip(changes, earlier, strict=True))
    now = tuple(b"2" * 16 if step else old for (_, step), old in zip(changes, last, strict=True))
    parts = changed_parts(now, last, earlier)
    for index, change in enumerate(changes):
        point = part_start(index, 8)
        assert any(start <= point and (end is None or point < end) for start, end in parts) == any(change)
    assert all(one[1] != other[0] for one in parts for other in parts)


def test_without_an_earlier_look_everything_is_read() -> None:
    """One look's digests say nothing of what changed before it."""
    digests = (bytes(16),) * 4
    assert changed_parts(digests, digests, ()) == [EVERYTHING]
    assert changed_parts(digests, digests, digests) == []
    assert changed_parts(digests, digests, digests, {1, 2}) == [(part_start(1, 4), part_start(3, 4))]


def test_keys_and_hashes() -> None:
    """The small arithmetic of names."""
    assert split_container_key(b"/AUTH_a/box") == (b"/AUTH_a", b"box")
    assert is_listed(b"/AUTH_a/box")
    assert not is_listed(b"/AUTH_a/\x00parts")
    assert successor(bytes(16)) == bytes(15) + b"\x01"
    assert successor(b"\xff" * 16) == b"\xff" * 16
    one = Catalog(1, 0, {}, 1, 1, 5, bytes(16), 9)
    assert fingerprint(one) == fingerprint(one._replace(newest_row_timestamp=10))
    assert fingerprint(one) != fingerprint(one._replace(size_bytes=6))
