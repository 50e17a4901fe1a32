"""What a node knows of ring moves beside the rings: up to which epoch they are done, and how the present one is to go.

Problem: that a move is done, and that an operator has paused it or given it another rate, must reach every node, survive
every process, and be told apart from a node that has merely lost its files.

Idea: one small sealed file (`ring.durable`) in the folder of the rings that are still in force. It holds the *settled*
epoch (all data lies where rings from that epoch on say; older ones are out of force) and the operator's *orders*. Both
merge whatever the order in which they arrive: of two settled epochs the higher, of two orders the later version. So nodes
can hand the file to each other, and end up with the same.

Rejected: taking a ring's absence at a peer for the end of its move (nothing may be concluded from absence); orders in the
replicator's memory (a restart would let a paused move go on) or in its settings (a file on every machine to edit).

Invariant: `merge` is commutative, associative and idempotent.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import orjson

from ring.durable import SealError, replace_file, seal, unseal

MAGIC: Final = b"RINGMOV\n"
VERSION: Final = 1
STATE_BYTES_MAX: Final = 64 * 1024
EPOCH_MAX: Final = (1 << 63) - 1
_RATE_MAX: Final = 1e18


class MoveStateError(ValueError):
    """The file's, or the peer's that sent it: it is no state of moves, or a damaged one."""


@dataclass(frozen=True)
class MoveOrders:
    """How the operator wants data to move to a new ring."""

    version: int = 0
    """Later orders have a higher one; 0: none were ever given."""
    bytes_per_s: float = 0.0
    """Moved by the whole cluster together, at most; 0: as replicators are set."""
    device_bytes_per_s: float = 0.0
    """Moved to one device, at most; 0: as replicators are set."""
    paused: bool = False
    """Whether moving is held."""
    planned_epoch: int = 0
    """Of the ring that the last move goes to."""
    planned_bytes: float = 0.0
    """What that move was expected to copy when it began."""

    def __post_init__(self) -> None:
        if not 0 <= self.version <= EPOCH_MAX or not 0 <= self.planned_epoch <= EPOCH_MAX:
            raise MoveStateError(f"version {self.version} or epoch {self.planned_epoch} is out of range")
        for rate in (self.bytes_per_s, self.device_bytes_per_s, self.planned_bytes):
            if not 0 <= rate < _RATE_MAX:
                raise MoveStateError(f"{rate} is no number of bytes")


@dataclass(frozen=True)
class MoveState:
    """What a node knows of moves."""

    settled_epoch: int = 0
    """Rings before this one are out of force. 0: nothing is known."""
    orders: MoveOrders = field(default_factory=MoveOrders)

    def __post_init__(self) -> None:
        if not 0 <= self.settled_epoch <= EPOCH_MAX:
            raise MoveStateError(f"epoch {self.settled_epoch} is out of range")


def merge(one: MoveState, other: MoveState) -> MoveState:
    """What is known when both are."""
    later = max(one.orders, other.orders, key=lambda orders: (orders.version, orjson.dumps(asdict(orders))))
    return MoveState(max(one.settled_epoch, other.settled_epoch), later)


def dumps(state: MoveState) -> bytes:
    """As the content of a file; the same state gives the same bytes."""
    return seal(MAGIC, VERSION, state.settled_epoch, {"orders": orjson.dumps(asdict(state.orders))})


def loads(data: bytes) -> MoveState:
    """What `dumps` wrote. Raises MoveStateError."""
    if len(data) > STATE_BYTES_MAX:
        raise MoveStateError(f"{len(data)} bytes are no state of moves")
    try:
        sealed = unseal(data, MAGIC, VERSION)
        values = orjson.loads(sealed.sections["orders"])
        orders = MoveOrders(
            int(values["version"]),
            float(values["bytes_per_s"]),
            float(values["device_bytes_per_s"]),
            bool(values["paused"]),
            int(values["planned_epoch"]),
            float(values["planned_bytes"]),
        )
        return MoveState(sealed.epoch, orders)
    except SealError as error:
        raise MoveStateError(str(error)) from error
    except (KeyError, TypeError, ValueError) as error:
        raise MoveStateError(f"sound, but not as a state of moves is written: {error!r}") from error


def moving_dir(path: Path) -> Path:
    """Where the rings are kept that the one at `path` replaced and whose data is still moving."""
    return path.with_name(path.name + ".moving")


def state_file(path: Path) -> Path:
    """Where the state is kept that belongs to the ring at `path`."""
    return moving_dir(path) / "state"


def read_state(path: Path) -> MoveState:
    """The state that belongs to the ring at `path`; the empty one where there is none. Raises OSError, MoveStateError."""
    try:
        return loads(state_file(path).read_bytes())
    except FileNotFoundError:
        return MoveState()


def change_state(path: Path, change: Callable[[MoveState], MoveState]) -> MoveState:
    """Change the state that belongs to the ring at `path`; -> what it is now. Raises OSError, MoveStateError.

    A file that is damaged counts as none: what it said is learned again from other nodes, or said again by the operator.
    """
    with locked(path):
        before: MoveState | None
        try:
            before = read_state(path)
        except MoveStateError:
            before = None
        after = change(before or MoveState())
        if after != before:
            replace_file(state_file(path), dumps(after))
        return after


def give_orders(path: Path, now_us: int, change: Callable[[MoveOrders], MoveOrders]) -> MoveOrders:
    """Give new orders, later than those before whatever the clock says. Raises OSError, MoveStateError."""

    def ordered(state: MoveState) -> MoveState:
        orders = change(state.orders)
        values = {**asdict(orders), "version": max(state.orders.version + 1, now_us)}
        return MoveState(state.settled_epoch, MoveOrders(**values))

    return change_state(path, ordered).orders


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes of this machine from changing the rings at `path` until the block ends. Raises OSError."""
    folder = moving_dir(path)
    folder.mkdir(exist_ok=True)
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
