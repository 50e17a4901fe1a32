"""Rings go from node to node over the wire: newer ones are taken, damaged and foreign ones are not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from ring.builder import build_ring
from ring.generations import Generations, finish, install
from ring.moves import MoveState, give_orders, moving_dir, read_state
from ring.ring import Ring
from ring.ring_file import RingFileError
from ring.topology import Device as RingDevice
from ringstead.rings.files import RingFiles
from ringstead.rings.spread import Refused, RingSpread, Source, take_from, wanted
from storage_node.client import DeviceClient
from storage_node.device import Device
from storage_node.operations import RING_PIECE_BYTES, FoundRings, GetRings, HeldRing
from storage_node.server import StorageServer
from storage_node.sockets import listen
from tests.support.small_device import SMALL_DEVICE

KEY = b"k" * 32


def ring_of(epoch: int, seed: int = 1, count: int = 4, part_power: int = 4) -> Ring:
    """A small ring."""
    devices = [RingDevice(i, 1, i, f"10.0.0.{i}", 6200, "sda", 100.0) for i in range(count)]
    return build_ring(devices, part_power, 3, seed, epoch=epoch)


def path_with(folder: Path, *rings: Ring) -> Path:
    """A node's ring file, with these rings installed one after the other."""
    folder.mkdir()
    for ring in rings:
        install(folder / "cluster.ring", ring)
    return folder / "cluster.ring"


def epochs(path: Path) -> list[int]:
    """Of the rings in force."""
    return [ring.epoch for ring in Generations(path).rings]


@asynccontextmanager
async def asking(
    tmp_path: Path, theirs: Path, lie: Callable[[FoundRings], FoundRings] = lambda answer: answer
) -> AsyncIterator[DeviceClient]:
    """A client of a node whose ring file is `theirs`; `lie` may change what it answers."""
    Device.create(tmp_path / "sda", "sda")
    device = Device.open(tmp_path / "sda", settings=SMALL_DEVICE)
    files = RingFiles(theirs)
    server = StorageServer({"sda": device}, KEY, ring_epoch=files.epoch, rings=lambda asked: lie(files.answer(asked)))
    address = f"unix:{tmp_path / 's.sock'}"
    client = DeviceClient(address, "sda", KEY)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve, [listen(address)])
        await nursery.start(client.run)
        yield client
        nursery.cancel_scope.cancel()
    device.close()


async def test_a_newer_ring_is_fetched_with_all_that_belongs_to_it(tmp_path: Path) -> None:
    """The ring, an older one whose data still moves, the operator's orders; asking again changes nothing."""
    mine = path_with(tmp_path / "mine", ring_of(1))
    theirs = path_with(tmp_path / "theirs", ring_of(1), ring_of(2), ring_of(3, count=5))
    finish(theirs, 2)
    give_orders(theirs, 5, lambda orders: orders)
    async with asking(tmp_path, theirs) as client:
        assert client.peer_ring_epoch == 3
        assert await take_from(mine, RingFiles(mine), client)
        assert epochs(mine) == epochs(theirs) == [3, 2]
        assert read_state(mine) == read_state(theirs)
        assert not await take_from(mine, RingFiles(mine), client)


async def test_a_ring_of_many_pieces_comes_whole(tmp_path: Path) -> None:
    """Larger than one answer may be."""
    large = ring_of(2, count=5, part_power=20)
    mine, theirs = path_with(tmp_path / "mine", ring_of(1)), path_with(tmp_path / "theirs", large)
    assert theirs.stat().st_size > RING_PIECE_BYTES
    async with asking(tmp_path, theirs) as client:
        assert await take_from(mine, RingFiles(mine), client)
    assert mine.read_bytes() == theirs.read_bytes()
    assert epochs(mine) == [2, 1]


async def test_the_end_of_a_move_spreads_and_nothing_else_ends_one(tmp_path: Path) -> None:
    """A peer that has lost its older rings does not end the move; one that knows it to be settled does."""
    mine = path_with(tmp_path / "mine", ring_of(1), ring_of(2))
    theirs = path_with(tmp_path / "theirs", ring_of(2))
    async with asking(tmp_path, theirs) as client:
        await take_from(mine, RingFiles(mine), client)
        assert epochs(mine) == [2, 1]
        moving_dir(theirs).mkdir(exist_ok=True)
        finish(theirs, 2)
        await take_from(mine, RingFiles(mine), client)
        assert epochs(mine) == [2]


def damaged(answer: FoundRings) -> FoundRings:
    """A byte of a ring is another."""
    return answer._replace(data=answer.data[:50] + b"?" + answer.data[51:]) if answer.data else answer


def another_epoch(answer: FoundRings) -> FoundRings:
    """It claims to be newer than it is."""
    return answer._replace(held=tuple(ring._replace(epoch=ring.epoch + 7) for ring in answer.held))


def huge(answer: FoundRings) -> FoundRings:
    """It claims to be larger than any ring."""
    return answer._replace(held=tuple(ring._replace(size_bytes=1 << 40) for ring in answer.held))


def no_state(answer: FoundRings) -> FoundRings:
    """What it says of moves is nothing that was ever written."""
    return answer._replace(state=b"nonsense")


@pytest.mark.parametrize("lie", [damaged, another_epoch, huge, no_state])
async def test_what_is_not_sound_changes_nothing(tmp_path: Path, lie: Any) -> None:
    """Damage, false claims and nonsense are refused, or the piece is not to be had; the ring here stays."""
    mine = path_with(tmp_path / "mine", ring_of(1))
    theirs = path_with(tmp_path / "theirs", ring_of(2))
    before = mine.read_bytes()
    async with asking(tmp_path, theirs, lie) as client:
        with suppress(Refused, RingFileError, ValueError):
            assert not await take_from(mine, RingFiles(mine), client)
    assert mine.read_bytes() == before
    assert epochs(mine) == [1]


async def test_another_clusters_ring_and_a_second_one_of_the_same_epoch_are_refused(tmp_path: Path) -> None:
    """Whoever follows rings goes on with what is here, and says what is wrong with whom."""
    mine = path_with(tmp_path / "mine", ring_of(1))
    theirs = path_with(tmp_path / "theirs", ring_of(2, seed=5))
    async with asking(tmp_path, theirs) as client:
        spread = RingSpread(mine, "here")
        await spread.ask_all([Source("there", client)])
        assert "another cluster's" in spread.problems["there"]
        theirs.write_bytes(ring_of(1, count=5).dumps())
        await spread.ask_all([Source("there", client)])
        assert "two were made" in spread.problems["there"]
        theirs.write_bytes(ring_of(1).dumps())
        await spread.ask_all([Source("there", client)])
        assert spread.problems == {}
    assert epochs(mine) == [1]


async def test_a_node_does_not_ask_itself(tmp_path: Path) -> None:
    """Services of one node share the files."""
    mine, theirs = path_with(tmp_path / "mine", ring_of(1)), path_with(tmp_path / "theirs", ring_of(2))
    async with asking(tmp_path, theirs) as client:
        await RingSpread(mine, "here").ask_all([Source("here", client)])
        assert epochs(mine) == [1]
        await RingSpread(mine, "here").ask_all([Source("there", client)])
        assert epochs(mine) == [2, 1]


def held(*numbers: int) -> list[HeldRing]:
    """Rings that a node holds, newest first."""
    return [HeldRing(number, 1, bytes((number,)) * 16) for number in sorted(numbers, reverse=True)]


epoch_sets = st.sets(st.integers(1, 9), min_size=1, max_size=4)


@given(epoch_sets, epoch_sets, st.integers(0, 9), st.integers(0, 9))
def test_what_is_wanted_is_what_is_missing_and_not_settled(
    mine: set[int], theirs: set[int], settled: int, their_settled: int
) -> None:
    """Oldest first, never what is here or settled, and always what is newer than everything here."""
    numbers = [ring.epoch for ring in wanted(held(*mine), MoveState(settled), held(*theirs), MoveState(their_settled))]
    assert numbers == sorted(numbers)
    assert set(numbers) <= theirs - mine
    for number in theirs - mine:
        if number >= max(settled, their_settled) or (number == max(theirs) and number > max(mine) and not numbers):
            assert number in numbers
        elif len(numbers) > 1:
            assert number not in numbers


def test_what_cannot_be_read_is_not_held(tmp_path: Path) -> None:
    """A node without a ring, or with a damaged one, answers all the same."""
    files = RingFiles(tmp_path / "cluster.ring")
    assert files.epoch() == 0
    assert files.answer(GetRings()).held == ()
    (tmp_path / "cluster.ring").write_bytes(b"rubbish")
    assert files.answer(GetRings(3, 10)).held == ()
