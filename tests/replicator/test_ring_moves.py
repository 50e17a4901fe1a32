"""Ring changes: data goes to its new primaries, old and new count until it is there, and nothing is lost on the way."""

from __future__ import annotations

import math
from pathlib import Path

import trio

from replicator.replicator import follow_rings
from ring.builder import build_ring
from ring.generations import Generations, finish, install
from ring.moves import MoveOrders
from ring.ring import Ring
from storage_node.operations import DeleteObject, ForgetObject, PutCatalog, PutObject, PutRow
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
        # It answers, but nobody has compared yet what it has: not one cell more has moved as far as is known.
        assert fleet.replicator.statistics().moved_cells == statistics.moved_cells
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


def half_moved(old: Ring) -> Ring:
    """The next ring, in which a seventh device has taken over a replica of every other partition."""
    table = old.table.copy()
    table[0, ::2] = 6
    devices = ring_of(7).devices
    return Ring(part_power=old.part_power, seed=old.seed, epoch=old.epoch + 1, devices=devices, table=table)


async def test_a_pause_holds_what_moves_and_nothing_else():
    """A cell about which the rings disagree is left as it is; one that does not move is mended. Resumed, all goes on."""
    async with fleet_of(6) as fleet:
        fill(fleet)
        old, new = fleet.ring, half_moved(fleet.ring)
        orders = MoveOrders(1, paused=True)
        fleet.replicator._move_orders = lambda: orders
        fleet.add(new)
        fleet.peers.adopt((new, old), fleet.local_devices())
        await fleet.start(6)
        moving, still = [], []
        for key in KEYS[1:]:
            same = set(fleet.primaries(key, old)) == set(fleet.primaries(key, new))
            (still if same else moving).append(key)
        victim = fleet.primaries(still[0])[0]
        fleet.apply(victim, ForgetObject(fleet.hash(still[0]), still[0], at(1), at(1)))
        await fleet.replicator.run_round()
        assert fleet.data(victim, still[0]) == still[0]
        assert not any(fleet.data(6, key) for key in moving)
        figures = fleet.replicator.statistics()
        assert figures.move_paused
        assert figures.moved_cells < figures.moving_cells
        assert figures.backlog == 0
        orders = MoveOrders(2)
        await fleet.replicator.run_round()
        assert all(fleet.data(6, key) == key for key in moving if 6 in fleet.primaries(key, new))


async def test_the_operators_rates_hold_while_something_moves():
    """They cap the replicator's own, in equal shares of the nodes, and end with the move."""
    async with fleet_of(6) as fleet:
        old, new = fleet.ring, ring_of(7, epoch=2)
        fleet.replicator._move_orders = lambda: MoveOrders(1, bytes_per_s=7000.0)
        fleet.add(new)
        fleet.peers.adopt((new, old), fleet.local_devices())
        await fleet.start(6)
        await fleet.replicator.run_round()
        nodes = len({peer.device.node for peer in fleet.peers.by_id.values()})
        assert fleet.replicator.throttle.caps == (7000.0 / nodes, math.inf)
        fleet.peers.adopt((new,), fleet.local_devices())
        await fleet.replicator.run_round()
        assert fleet.replicator.throttle.caps == (math.inf, math.inf)


async def test_a_device_that_was_removed_for_good_is_not_waited_for():
    """Dead, and in no partition or line of the newest ring: what it held is made again, and the move ends."""
    async with fleet_of(6) as fleet:
        fill(fleet)
        old = fleet.ring
        kept = [device for device in old.devices if device is not None and device.id != 5]
        new = build_ring(kept, old.part_power, 3, seed=old.seed, epoch=2)
        moved: list[int] = []
        fleet.replicator._on_moved = moved.append
        await fleet.stop(5)
        fleet.peers.adopt((new, old), fleet.local_devices())
        for _ in range(3):
            await fleet.replicator.run_round()
        assert set(moved) == {2}
        assert all(fleet.data(number, key) == key for key in KEYS[1:] for number in fleet.primaries(key, new))


async def test_a_move_does_not_end_while_another_node_has_cells_to_settle():
    """A node whose devices are not concerned sees that others are not done, and goes by that."""
    async with fleet_of(6) as fleet:
        fill(fleet)
        old, new = fleet.ring, ring_of(7, epoch=2)
        moved: list[int] = []
        fleet.replicator._on_moved = moved.append
        fleet.add(new)
        fleet.peers.adopt((new, old), {})  # no device is on this machine
        await fleet.start(6)
        for _ in range(3):
            found = await fleet.replicator.run_round()
            assert found.elsewhere
        assert moved == []
        fleet.peers.adopt((new, old), fleet.local_devices())
        for _ in range(3):
            await fleet.replicator.run_round()
        assert set(moved) == {2}


async def test_a_majority_is_one_under_each_ring():
    """What background work takes for decided is what proxies do."""
    async with fleet_of(6) as fleet:
        old, new = fleet.ring, ring_of(3, epoch=2)
        fleet.peers.adopt((new, old), fleet.local_devices())
        for key in KEYS:
            members = [set(fleet.primaries(key, ring)) for ring in (old, new)]
            for size in range(4):
                devices = sorted(members[0] | members[1])[:size]
                naive = all(len(ids & set(devices)) >= 2 for ids in members)
                assert fleet.peers.is_majority(fleet.hash(key), devices) == naive
