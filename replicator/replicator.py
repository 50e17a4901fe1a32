"""The replicator: round after round, until all replicas hold the newest of everything, and nothing lies astray.

Problem: devices miss writes while they are away, lose what they held, are added and drained; whatever happens, in the end
every primary must hold the newest of each name, and no handoff anything.

Idea: no queue of what went wrong; the state of the devices is the queue. Each round compares everything (rounds.py) and
mends what differs. A round over devices that agree costs a few kilobytes and milliseconds, so rounds are frequent, and one
is begun at once when a device comes back or the auditor has taken something out.

A ring change is nothing else: while old rings are in force too, their primaries and the new ones all count, so what the new
ones lack is a difference like any other. The move is done when each cell about which the rings disagree has been found,
since every node follows the new ring, with every primary answering and nothing left to do, here or elsewhere; then the old
rings are let go, and what lies on their devices is handoff data that goes away as such. A device that the newest ring does
not have at all was given up by the operator and is not waited for. The operator's orders for moves (ring/moves.py) hold
what moves, and nothing else, and cap the rates while something does.

A device that was made anew is told when it has all that it should (filling.py).

Invariants: nothing is removed anywhere but what every primary of all rings in force has confirmed to hold.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import structlog
import trio

from replicator.catalogs import CatalogSettler
from replicator.daemon import Daemon, Rate
from replicator.differences import Difference
from replicator.filling import Filling
from replicator.listing import gather
from replicator.objects import Manner, ObjectSettler
from replicator.peers import Peers
from replicator.rounds import SPACES, Cell, Round, Rounds
from replicator.throttle import Throttle
from replicator.transfer import Moved, Transfer
from ring.generations import Generations
from ring.moves import MoveOrders
from ring.ring import Ring
from storage_node.operations import FoundRings, GetRings
from storage_node.timestamp import Clock, wall_clock_us

MIB: Final = 1024 * 1024
PATIENCE_ROUNDS: Final = 3
"""A difference that has lasted for so many rounds is settled by any node that can, and however young its rows are."""
RETURN_LOOK_S: Final = 0.5
"""How often to look whether a device has come back."""

LONG_ROUND_S: Final = 30.0
"""A round that takes longer has more to do than what is being written just now."""

log = structlog.get_logger("replicator")


@dataclass(frozen=True)
class ReplicatorSettings:
    """How often, how fast, how careful."""

    interval_s: float = 10.0
    """Between the beginnings of two rounds."""
    settle_s: float = 5.0
    """What was written within this time is left to its writer."""
    bytes_per_s: float = 256.0 * MIB
    """Moved to all devices together."""
    device_bytes_per_s: float = 128.0 * MIB
    """Moved to one device."""
    move_s_min: float = 30.0
    """So long after every node has the new ring each of its processes is taken to follow it."""


class ReplicatorStatistics(NamedTuple):
    """What a replicator has done since it started, and what waits."""

    backlog: int
    """Cells (partitions, of a kind of thing) that were not settled when they were last looked at; and once a round has taken
    LONG_ROUND_S, those that it has still to settle."""
    oldest_s: float
    """How long the oldest of them has been known to differ."""
    pending: int
    """Cells that the round under way has still to settle; 0 between rounds."""
    rounds: int
    round_s: float
    """How long the last one took."""
    cells: int
    """Compared in the last round."""
    differing: int
    """Of those."""
    silent: tuple[int, ...]
    """Devices that did not answer in the last round."""
    objects: int
    metadata: int
    tombstones: int
    rows: int
    catalogs: int
    bytes: int
    forgotten: int
    failed: int
    corrupt_sources: int
    """The nine above: what was moved since the start, see Moved."""
    epochs: tuple[int, ...]
    """Of the rings in force, newest first."""
    moved_cells: int
    """While older rings are in force: cells that have moved, as far as is known."""
    moving_cells: int
    """Of so many: those about which the rings disagree and that hold anything. 0 while only one ring is in force."""
    moved_before: int
    """Cells that had moved already when this process first looked."""
    move_s: float
    """How long older rings have been in force for this process; 0 while only one is."""
    move_paused: bool
    """Whether the operator has data that moves held."""
    filling: dict[str, int]
    """Devices of this machine that are being filled, and how many cells of each are not known to be whole yet."""
    bytes_per_s: float
    device_bytes_per_s: float
    paused: bool


@dataclass
class _Open:
    """A cell that was not settled."""

    rounds: int = 0
    """In a row."""
    since_s: float = math.inf
    """When something first had to be left in it that was not just too young."""


class Replicator:
    """One node's replicator, over devices that `peers` keeps connected.

    `clock` stamps catalogs that it restores; `now_us` is the wall clock; `on_moved(epoch)` is told that the move to the ring
    with that epoch is done, after each round until the older rings are no longer in force; `move_orders()` are the
    operator's.
    """

    def __init__(
        self,
        peers: Peers,
        clock: Clock,
        settings: ReplicatorSettings = ReplicatorSettings(),
        *,
        now_us: Callable[[], int] = wall_clock_us,
        on_moved: Callable[[int], None] = lambda _: None,
        move_orders: Callable[[], MoveOrders] = MoveOrders,
        shuffle: Callable[[list[tuple[int, Difference]]], None] = random.shuffle,
    ) -> None:
        self.peers = peers
        self.settings = settings
        self.throttle = Throttle(settings.bytes_per_s, settings.device_bytes_per_s)
        self.moved = Moved()
        self.transfer = Transfer(peers, self.throttle, self.moved)
        self.objects = ObjectSettler(peers, self.transfer, self.moved)
        self.catalogs = CatalogSettler(peers, self.throttle, self.moved, clock)
        self._filling = Filling(peers)
        self._rounds = Rounds(peers, self.objects, self.catalogs, shuffle)
        self._now_us = now_us
        self._on_moved = on_moved
        self._move_orders = move_orders
        self._open: dict[Cell, _Open] = {}
        self._round_count = 0
        self._round_s = self._began_s = 0.0
        self._last = Round(0, 0, 0, (), ())
        self._kicked = trio.Event()
        self._epochs: tuple[int, ...] = ()
        self._adopted_s = 0.0
        self._followed_s = math.inf
        self._moving: frozenset[Cell] = frozenset()
        self._unproven: set[Cell] = set()
        self._moved_before: int | None = None
        self._move_done = False

    def statistics(self) -> ReplicatorStatistics:
        """As of now. To be called inside trio."""
        now_s = trio.current_time()
        moved, last = self.moved, self._last
        since_s = [open_.since_s for open_ in self._open.values() if open_.since_s < math.inf]
        pending = self._rounds.pending
        if pending and now_s - self._began_s >= LONG_ROUND_S:
            since_s += [self._began_s] * pending
        return ReplicatorStatistics(
            len(since_s),
            now_s - min(since_s, default=now_s),
            pending,
            self._round_count,
            self._round_s,
            last.cells,
            last.differing,
            last.silent,
            moved.objects,
            moved.metadata,
            moved.tombstones,
            moved.rows,
            moved.catalogs,
            moved.bytes,
            moved.forgotten,
            moved.failed,
            moved.corrupt_sources,
            tuple(ring.epoch for ring in self.peers.rings),
            self._moved_count(),
            len(self._moving_now()),
            self._moved_before or 0,
            now_s - self._adopted_s if len(self.peers.rings) > 1 else 0.0,
            self._move_orders().paused,
            self._filling.lacking,
            self.throttle.bytes_per_s,
            self.throttle.device_bytes_per_s,
            self.throttle.paused,
        )

    def daemon(self) -> Daemon:
        """As a service runs it."""
        throttle = self.throttle
        return Daemon(
            "replicator",
            "Gives every replica the newest of everything, and brings home what lies on handoffs.",
            "partitions that could not be settled",
            self.run,
            self.statistics,
            frozenset(("rounds", *Moved.__dataclass_fields__)),
            throttle.pause,
            throttle.resume,
            (
                Rate(
                    "bytes_per_s",
                    "Copied to all devices together.",
                    lambda: throttle.bytes_per_s,
                    lambda value: throttle.set_rates(bytes_per_s=value),
                ),
                Rate(
                    "device_bytes_per_s",
                    "Copied to one device.",
                    lambda: throttle.device_bytes_per_s,
                    lambda value: throttle.set_rates(device_bytes_per_s=value),
                ),
            ),
        )

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_returns)
            task_status.started()
            while True:
                began_s = trio.current_time()
                await self.throttle.hold()
                self._kicked = trio.Event()
                await self.run_round()
                with trio.move_on_at(began_s + self.settings.interval_s):
                    await self._kicked.wait()

    def kick(self) -> None:
        """Begin the next round without waiting for its time."""
        self._kicked.set()

    async def run_round(self) -> Round:
        """Compare everything once and settle what can be settled."""
        self._began_s = trio.current_time()
        self._note_rings()
        await self._see_who_follows()
        self._obey()
        await self._filling.look()
        found = await self._rounds.run(self._manner_of, self._hold, self._is_held, self._look_first)
        self._last = found
        self._round_count += 1
        self._round_s = trio.current_time() - self._began_s
        self._take_note(found)
        self._see_to_move(found)
        if self._epochs == self._epochs_now():
            await self._filling.take_note(found, self._rounds.membership, self._kept_devices())
        return found

    async def _watch_returns(self) -> None:
        """Begin a round when a device that was away is back, and when the rings in force are others."""
        away: set[int] = set()
        while True:
            now_away = {number for number, peer in self.peers.by_id.items() if not peer.client.connected}
            if away - now_away or self._epochs_now() != self._epochs:
                self.kick()
            away = now_away
            await trio.sleep(RETURN_LOOK_S)

    # ----------------------------------------------------------------------------------------------------------- backlog

    def _manner_of(self, cell: Cell) -> Manner:
        known = self._open.get(cell)
        patient = known is None or known.rounds < PATIENCE_ROUNDS
        return Manner.at(self._now_us(), self.settings.settle_s, patient=patient)

    def _take_note(self, found: Round) -> None:
        now_s = trio.current_time()
        still_open: dict[Cell, _Open] = {}
        for cell, outcome, _, held, _ in found.results:
            if (outcome.left or outcome.young) and not held:
                open_ = still_open[cell] = self._open.get(cell) or _Open()
                open_.rounds += 1
                open_.since_s = min(open_.since_s, now_s) if outcome.left else math.inf
        self._open = still_open
        settled = sum(result.outcome.settled for result in found.results)
        left = sum(result.outcome.left for result in found.results if not result.held)
        if settled or left:
            log.info(
                "round",
                settled=settled,
                left=left,
                differing=found.differing,
                silent=list(found.silent),
                seconds=round(self._round_s, 3),
            )

    # -------------------------------------------------------------------------------------------------------- ring moves

    def _moved_count(self) -> int:
        """Cells that have moved, as far as is known: more of them as a round goes on."""
        still_open = self._rounds.open
        moving = self._moving_now()
        if still_open is None or not moving:
            return 0
        away = {number for number, peer in self.peers.by_id.items() if not peer.client.connected} | self._rounds.silent
        unknown = self._rounds.membership.touching(away & self._kept_devices()) if away else None
        return sum(cell not in still_open and (unknown is None or not unknown[cell.number]) for cell in moving)

    def _moving_now(self) -> frozenset[Cell]:
        """The cells that move and hold anything; of an empty cluster all that move."""
        if len(self.peers.rings) < 2 or self._rounds.open is None or self._epochs != self._epochs_now():
            return frozenset()
        return self._rounds.filled or self._moving

    def _epochs_now(self) -> tuple[int, ...]:
        return tuple(ring.epoch for ring in self.peers.rings)

    def _note_rings(self) -> None:
        epochs = self._epochs_now()
        if epochs == self._epochs:
            return
        self._epochs = epochs
        self._adopted_s = trio.current_time()
        self._followed_s = math.inf
        self._open = {}
        self._rounds.open = None
        self._moved_before = None
        self._move_done = False
        cells = np.flatnonzero(self._rounds.membership.moves).tolist()
        self._moving = frozenset(Cell(space, number) for space in SPACES for number in cells)
        self._unproven = set(self._moving)
        if len(epochs) > 1:
            log.info("data moves to a new ring", epochs=list(epochs), cells=len(self._moving))

    def _obey(self) -> None:
        """Let the operator's rates hold while something moves. They are the cluster's, and each node takes its share."""
        orders = self._move_orders()
        if len(self._epochs) < 2:
            self.throttle.set_caps()
            return
        nodes = len({peer.device.node for peer in self.peers.by_id.values()})
        self.throttle.set_caps(
            orders.bytes_per_s / nodes if orders.bytes_per_s else math.inf,
            orders.device_bytes_per_s / nodes if orders.device_bytes_per_s else math.inf,
        )

    async def _hold(self) -> None:
        self._obey()
        await self.throttle.hold()

    def _look_first(self) -> None:
        """A round has compared everything and settled nothing yet."""
        if len(self._epochs) > 1 and self._moved_before is None:
            self._moved_before = self._moved_count()

    def _is_held(self, cell: Cell) -> bool:
        return cell in self._moving and self._move_orders().paused

    async def _see_who_follows(self) -> None:
        """Take note of when every node had the newest ring. A server that knows of no rings is not asked about them."""
        if len(self._epochs) < 2 or self._followed_s < math.inf:
            return
        kept = self._kept_devices()
        answers = await gather(self.peers, tuple(kept), GetRings())
        have = {
            device
            for device, answer in answers.items()
            if isinstance(answer, FoundRings) and (not answer.held or answer.held[0].epoch >= self._epochs[0])
        }
        if have == kept:
            self._followed_s = trio.current_time()

    def _kept_devices(self) -> set[int]:
        """The devices that the newest ring has: all others are given up."""
        return {device.id for device in self.peers.ring.devices if device is not None and device.kind == "disk"}

    def _see_to_move(self, found: Round) -> None:
        """Take note of the cells that lie where all rings say, and end the move when none is missing."""
        if len(self._epochs) < 2 or self._epochs != self._epochs_now():
            return
        if self._began_s - self._followed_s < self.settings.move_s_min:
            return
        silent = self._kept_devices().intersection(found.silent)
        unknown = self._rounds.membership.touching(silent)
        busy = found.elsewhere.union(result.cell for result in found.results if result.outcome.left)
        self._unproven = {cell for cell in self._unproven if cell in busy or unknown[cell.number]}
        if not self._unproven:
            if not self._move_done:
                log.info("the move is done", epoch=self._epochs[0])
            self._move_done = True
            self._on_moved(self._epochs[0])


async def follow_rings(
    peers: Peers,
    generations: Generations,
    local_devices_of: Callable[[Sequence[Ring]], Mapping[int, Path]],
    interval_s: float = 1.0,
) -> None:
    """Let `peers` have the rings that are in force at their path, until cancelled."""
    problem = ""
    while True:
        if generations.look():
            peers.adopt(generations.rings, local_devices_of(generations.rings))
            log.info("rings in force", epochs=[ring.epoch for ring in generations.rings])
        if generations.problem != problem:
            problem = generations.problem
            if problem:
                log.error("the ring file is not followed", reason=problem)
        await trio.sleep(interval_s)
