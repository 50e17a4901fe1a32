"""A ring change from its plan to its start, and how far it is: what the commands of `ringstead rebalance` do.

Problem: between "the topology file says so" and "all data lies there" are a computation, a file that every node must get, a
copy of terabytes that must not get in the clients' way, and the question when it is over.

Idea: the builder computes the next step (never more than one replica of a partition at a time); `install` puts its ring in
force at this node, whence it spreads; the replicators copy, under the operator's orders, which spread the same way; when
they find that nothing is left to do the old ring goes out of force. A next step waits until the one before is done, so that
of each partition a majority stays where it is.

New devices of a one-machine cluster get their services before the ring names them, so that the first write finds them up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ring.builder_files import BuilderFiles, State
from ring.generations import Generations, TooManyMoves, install
from ring.move_preview import MovePreview, preview
from ring.moves import MoveOrders, give_orders
from ring.rebalance import make_plan, rebalance
from ring.ring import Ring
from ringstead.errors import ClusterDown, RingsteadError
from ringstead.processes.control import ask, control_path
from ringstead.settings.config import ProxyConfig


class NothingToMove(RingsteadError):
    """The ring in force is what the topology file asks for."""

    exit_code = 1


class MoveUnderWay(RingsteadError):
    """An earlier ring change is not done yet."""

    exit_code = 1


@dataclass(frozen=True)
class NextStep:
    """What the next start brings."""

    ring: Ring
    """To be installed."""
    state: State
    """Of the builder's files, that it was computed from."""
    fresh: bool
    """It was computed now and is in no file yet."""
    waiting: int
    """Replicas that a later step moves."""

    def preview(self, before: Ring, held_bytes: Mapping[int, float]) -> MovePreview:
        """What it copies, with what devices hold now."""
        return preview(before, self.ring, held_bytes)


def next_step(files: BuilderFiles, in_force: Ring, now_min: int, seed: int | None = None) -> NextStep:
    """The next step from the ring in force to the topology file.

    Raises NothingToMove, RingsteadError (the files are another cluster's), and as `ring.rebalance.make_plan`.
    """
    state = files.read()
    memory = state.memory
    if (memory is not None and memory.ring.seed != in_force.seed) or state.design.settings.seed != in_force.seed:
        raise RingsteadError(f"{files.path} belongs to another cluster: its seed is not that of the ring in force")
    if memory is not None and memory.ring.epoch > in_force.epoch:
        return NextStep(memory.ring, state, fresh=False, waiting=0)
    if memory is not None and memory.ring.dumps() != in_force.dumps():
        raise RingsteadError(
            f"{files.path} is behind: the ring in force has epoch {in_force.epoch} and was made from other files; "
            "`ringstead ring undo` or use those"
        )
    plan = make_plan(state.design, memory, now_min, seed)
    done = rebalance(plan, memory, now_min, max(state.epoch_floor, in_force.epoch) + 1)
    changed = memory is None or memory.ring.devices != done.memory.ring.devices
    if not (done.moved or plan.change.dropped or changed):
        if done.waiting:
            raise NothingToMove(
                f"{done.locked} partitions moved less than min_part_hours ago; the next step has to wait for that"
            )
        raise NothingToMove("nothing moves: the ring in force is what the topology file asks for")
    return NextStep(done.memory.ring, state, fresh=True, waiting=done.waiting)


def begin(
    files: BuilderFiles,
    generations: Generations,
    step: NextStep,
    planned: MovePreview,
    words: str,
    rates: Mapping[str, float],
    before_install: Callable[[], None] = lambda: None,
) -> None:
    """Put the next step's ring in force at this node, and with it the orders to move. Raises RingsteadError, OSError.

    `before_install` is called when the builder has written its ring, and nobody follows it yet. A start that dies in
    between is carried on by the next one: the builder's ring is then ahead of the one in force.
    """
    if generations.moving:
        raise MoveUnderWay(
            f"data still moves to the ring with epoch {generations.newest.epoch} (`ringstead rebalance` shows how far "
            "it is); the next change begins when that is done"
        )
    if step.fresh:
        now_min = int(time.time()) // 60
        with files.lock(words):
            state = files.read()
            if state.contents != step.state.contents:
                raise RingsteadError(f"{files.path} was changed meanwhile; nothing was started, look at the plan again")
            plan = make_plan(state.design, state.memory, now_min)
            done = rebalance(plan, state.memory, now_min, step.ring.epoch)
            if done.memory.ring.dumps() != step.ring.dumps():
                raise RingsteadError("the plan is another one by now; nothing was started, look at it again")
            files.change(state, state.design, done.memory, words, write_ring=True)

    def ordered(orders: MoveOrders) -> MoveOrders:
        return MoveOrders(
            orders.version,
            rates.get("bytes_per_s", orders.bytes_per_s),
            rates.get("device_bytes_per_s", orders.device_bytes_per_s),
            False,
            step.ring.epoch,
            planned.size_bytes,
        )

    before_install()
    try:
        install(generations.path, step.ring)
    except (ValueError, TooManyMoves) as error:
        raise RingsteadError(str(error)) from error
    give_orders(generations.path, now_us(), ordered)


def now_us() -> int:
    """Microseconds since 1970-01-01 UTC."""
    return time.time_ns() // 1000


@dataclass(frozen=True)
class Progress:
    """How far a move is, as this node's replicator knows it."""

    epochs: list[int]
    """Of the rings in force, newest first; with a single one nothing moves."""
    moved: int
    """Cells (partitions, of objects, containers and accounts) that lie where the newest ring says."""
    moving: int
    """Of so many: those that the rings disagree about and that hold anything."""
    moved_before: int
    """Those that lay there already when the replicator first looked."""
    planned_bytes: float
    """What is copied in all, as expected at the start; 0 if unknown."""
    elapsed_s: float
    paused: bool
    bytes_per_s: float
    """The operator's limit for the cluster; 0: none but the replicators' own."""
    device_bytes_per_s: float
    answering: bool
    """Whether the replicator answers."""
    problem: str = ""
    """What keeps the rings here from being followed."""
    nothing_to_copy: bool = False
    """The rings in force want every replica at the same devices: it ends when every node follows."""

    @property
    def under_way(self) -> bool:
        """Whether data moves, or waits to."""
        return len(self.epochs) > 1

    @property
    def share(self) -> float:
        """How much has moved, 0 to 1."""
        return self.moved / self.moving if self.moving else 0.0

    @property
    def left_bytes(self) -> float:
        """Still to be copied, about."""
        return self.planned_bytes * (1 - self.share)

    def left_s(self) -> float | None:
        """How long it still takes, at the speed so far; None if that says nothing yet."""
        done = self.moved - self.moved_before
        if self.paused or done <= 0 or not self.elapsed_s:
            return None
        return self.elapsed_s * (self.moving - self.moved) / done

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "under_way": self.under_way,
            "epochs": self.epochs,
            "moved": self.moved,
            "moving": self.moving,
            "share": self.share,
            "planned_bytes": self.planned_bytes,
            "left_bytes": self.left_bytes,
            "left_s": self.left_s(),
            "elapsed_s": self.elapsed_s,
            "paused": self.paused,
            "bytes_per_s": self.bytes_per_s or None,
            "device_bytes_per_s": self.device_bytes_per_s or None,
            "answering": self.answering,
            "problem": self.problem,
            "nothing_to_copy": self.nothing_to_copy,
        }


def progress(settings: ProxyConfig, generations: Generations) -> Progress:
    """As of now. Does not raise where the replicator does not answer."""
    generations.look()
    orders = generations.state.orders
    try:
        answer = ask(control_path(settings.socket_dir, "daemons"), "status", timeout_s=5.0)
        figures = answer.get("daemons", {}).get("replicator", {}).get("statistics", {})
    except ClusterDown:
        figures = {}
    epochs = [ring.epoch for ring in generations.rings]
    current = list(figures.get("epochs", ())) == epochs
    planned = orders.planned_bytes if orders.planned_epoch == epochs[0] else 0.0
    return Progress(
        epochs,
        figures.get("moved_cells", 0) if current else 0,
        figures.get("moving_cells", 0) if current else 0,
        figures["moved_before"] if current else 0,
        planned,
        figures.get("move_s", 0.0) if current else 0.0,
        orders.paused,
        orders.bytes_per_s,
        orders.device_bytes_per_s,
        bool(figures),
        generations.problem,
        generations.moving and _nothing_to_copy(generations.rings),
    )


def _nothing_to_copy(rings: Sequence[Ring]) -> bool:
    return not any(preview(older, rings[0], {}).replicas for older in rings[1:])
