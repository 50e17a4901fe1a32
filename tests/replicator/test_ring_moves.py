"""Ring changes: data goes to its new primaries, old and new count until it is there, and nothing is lost on the way."""

from __future__ import annotations

from pathlib import Path

import trio

from replicator.replicator import follow_rings
from ring.generations import Generations, finish, install
from storage_node.operations import DeleteObject, PutCatalog, PutObject, PutRow
from tests.replicator.fleet import CONTAINER, Fleet, at, fleet_of, ring_of

KEYS = [b"/a/c/%d" % number for number in range(60)]
CATALOG = b"/a/c"


def fill(fleet: Fleet) -> None:
    """Objects, a tombstone and a container, where the ring wants them."""
    for key in KEYS:
        for number in fleet.primaries(key):
            fleet.apply(number, PutObject(fleet.hash(key), key, at(1), b"m", key))
    for number in fleet.primaries(KEYS[0]):
        fleet.apply(number, DeleteObject(fleet.hash(KEYS[0]), KEYS[0], at(2)))
    for number in fleet.primaries(CATALOG):
        fleet.apply(number, PutCatalog(CONTAINER, fleet.hash(CATALOG), CATALOG, at(1), {}))
        fleet.apply(number, PutRow(CONTAINER, fleet.hash(CATALOG), b"x", at(2), 0, False, 1, 1, b""))


async def test_data_moves_to_new_devices_and_leaves_the_old():
    """Two devices join: both rings count until all is there, then the old places are emptied."""
    async with fleet_of(6) as fleet:
        fill(fleet)
        old, new = fleet.ring, ring_of(8, epoch=2)
        moved: list[int] = []
        fleet.replicator._on_moved = moved.append
        fleet.add(new)
        fleet.peers.adopt((new, old), fleet.local_devices())
        await fleet.start(6, 7)
        await fleet.replicator.run_round()
        for key in KEYS[1:]:
            for ring in (old, new):
                assert all(fleet.data(number, key) == key for number in fleet.primaries(key, ring))
        await fleet.replicator.run_round()
        assert set(moved) == {2}
        fleet.peers.adopt((new,), fleet.local_devices())
        fleet.ring = new
        await fleet.settle()
        fleet.check()
        assert all(fleet.data(number, key) == key for key in KEYS[1:] for number in fleet.primaries(key))
        entry = fleet.entry(fleet.primaries(KEYS[0])[0], KEYS[0])
        assert entry is not None
        assert entry.deleted


async def test_a_move_is_not_done_while_a_new_primary_is_away():
    """The old ring stays in force, and the data on its devices."""
    async with fleet_of(6) as fleet:
        fill(fleet)
        old, new = fleet.ring, ring_of(7, epoch=2)
        moved: list[int] = []
        fleet.replicator._on_moved = moved.append
        fleet.add(new)
        fleet.peers.adopt((new, old), fleet.local_devices())
        for _ in range(3):
            await fleet.replicator.run_round()
        assert moved == []
        statistics = fleet.replicator.statistics()
        assert statistics.epochs == (2, 1)
        assert 0 < statistics.moved_cells < statistics.moving_cells
        assert all(fleet.data(number, key) == key for key in KEYS[1:] for number in fleet.primaries(key, old))
        await fleet.start(6)
        await fleet.replicator.run_round()
        await fleet.replicator.run_round()
        assert set(moved) == {2}


async def test_a_draining_device_is_emptied():
    """It is in no partition of the new ring, and still connected, since the old ring is in force."""
    async with fleet_of(6) as fleet:
        fill(fleet)
        old = fleet.ring
        new = ring_of(5, epoch=2)
        fleet.peers.adopt((new, old), fleet.local_devices())
        await fleet.replicator.run_round()
        assert all(fleet.data(number, key) == key for key in KEYS[1:] for number in fleet.primaries(key, new))


async def test_the_part_power_may_change():
    """Partitions of two sizes in force at once: cells hold several of the finer ring's."""
    async with fleet_of(6) as fleet:
        fill(fleet)
        old, new = fleet.ring, ring_of(6, part_power=6, epoch=2)
        fleet.peers.adopt((new, old), fleet.local_devices())
        await fleet.replicator.run_round()
        for key in KEYS[1:]:
            assert all(fleet.data(number, key) == key for number in fleet.primaries(key, new))
        fleet.peers.adopt((new,), fleet.local_devices())
        fleet.ring = new
        await fleet.settle()
        fleet.check()


async def test_rings_are_followed_from_their_file(tmp_path: Path):
    """A newer file is seen; the move is done by itself; the old ring is let go."""
    path = tmp_path / "cluster.ring"
    async with fleet_of(6) as fleet:
        fill(fleet)
        install(path, fleet.ring)
        generations = Generations(path)
        fleet.replicator._on_moved = lambda epoch: finish(path, epoch)
        new = ring_of(7, epoch=2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow_rings, fleet.peers, generations, lambda _: fleet.local_devices(), 0.01)
            fleet.add(new)
            await fleet.start(6)
            install(path, new)
            with trio.fail_after(20):
                await nursery.start(fleet.replicator.run)
                while [ring.epoch for ring in fleet.peers.rings] != [2]:
                    await trio.sleep(0.01)
                fleet.ring = new
                while fleet.replicator.statistics().differing or fleet.replicator.statistics().backlog:
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        await fleet.settle()
        fleet.check()
