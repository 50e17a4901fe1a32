"""The rings in force: the newest, and those whose data has not all moved yet.

Problem: when a ring changes, data lies where the old one says while reads and writes go where the new one says. Until all
has moved both must be asked, by every service, and a service that restarts in the middle must know it too.

Idea: beside the ring file lies a folder, `<ring file>.moving`, with the rings that it replaced, a file for each epoch, and
the state of moves (moves.py). Whoever installs a ring puts the one before into the folder first; whoever finds that the
move is done (`replicator`) writes down that epoch as settled, and older rings go. Services look at file and folder now and
then: two calls to `stat` where nothing has changed.

What several nodes have in force is joined (`join`): all rings that any of them has, without those before the highest epoch
that any of them knows to be settled. The order in which they hear of each other makes no difference.

A ring that replaced the file without `install` (copied there by hand) is noticed by its epoch; the service that still knows
the one before can `keep` it then.

Rejected: old rings inside the ring file (every service would load tables that are needed for minutes in a year); a database
of rings.

Invariants: `Generations.rings` are of one cluster (one seed), newest first, distinct epochs; a file that cannot be read, or
is of another cluster, changes nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

from ring.durable import replace_file
from ring.moves import MoveState, MoveStateError, change_state, locked, merge, moving_dir, read_state
from ring.ring import Ring
from ring.ring_file import RingFileError, dumps, load

GENERATIONS_MAX: Final = 8
"""Rings in force at once. A move begun while so many are unfinished has to wait."""


class TooManyMoves(Exception):
    """The caller's: too many ring changes are unfinished; wait until data has moved."""


def install(path: Path, ring: Ring) -> None:
    """Put a newer ring in force; the one before stays in force beside it until `finish`.

    Raises OSError, RingFileError (what is there is no ring), ValueError (not newer, or of another cluster), TooManyMoves.
    """
    with locked(path):
        _install(path, ring)


def _install(path: Path, ring: Ring) -> None:
    if path.exists():
        before = load(path)
        if before.seed != ring.seed:
            raise ValueError(f"{path}: the new ring has another seed: every name would be somewhere else")
        if before.epoch >= ring.epoch:
            raise ValueError(f"{path}: epoch {ring.epoch} is not newer than {before.epoch}")
        keep(path, before)
    replace_file(path, dumps(ring))


def keep(path: Path, ring: Ring) -> None:
    """Note that data may still lie where `ring` says. Raises OSError, TooManyMoves."""
    folder = moving_dir(path)
    folder.mkdir(exist_ok=True)
    file = folder / f"{ring.epoch:012d}.ring"
    if not file.exists() and len(list(folder.glob("*.ring"))) >= GENERATIONS_MAX - 1:
        raise TooManyMoves(f"{folder}: {GENERATIONS_MAX - 1} rings are still in force beside the newest")
    replace_file(file, dumps(ring))


def finish(path: Path, epoch: int) -> None:
    """All data lies where the ring with this epoch says: those before it are no longer in force. Raises OSError."""
    if not moving_dir(path).exists():
        return
    change_state(path, lambda state: replace(state, settled_epoch=max(state.settled_epoch, epoch)))
    _drop_before(path, epoch)


def _drop_before(path: Path, epoch: int) -> None:
    for file in moving_dir(path).glob("*.ring"):
        if file.stem.isdecimal() and int(file.stem) < epoch:
            file.unlink(missing_ok=True)


def join(path: Path, rings: Iterable[Ring], state: MoveState) -> None:
    """Put in force what another node has in force, as far as it is not settled.

    Raises OSError, RingFileError (what is here is damaged), ValueError (another cluster's), TooManyMoves.
    What of it was done before stays done.
    """
    joined = change_state(path, lambda known: merge(known, state))
    with locked(path):
        newest = load(path)
        for ring in sorted(rings, key=lambda ring: ring.epoch):
            if ring.seed != newest.seed:
                raise ValueError(f"{path}: the ring with epoch {ring.epoch} is another cluster's, its seed differs")
            if ring.epoch > newest.epoch:
                if newest.epoch < joined.settled_epoch:
                    replace_file(path, dumps(ring))
                else:
                    _install(path, ring)
                newest = ring
            elif joined.settled_epoch <= ring.epoch < newest.epoch:
                keep(path, ring)
        _drop_before(path, joined.settled_epoch)


class Generations:
    """The rings in force at a path, as last looked at."""

    def __init__(self, path: Path) -> None:
        """Load them. Raises OSError, RingFileError."""
        self.path = path
        self._seen: object = None
        self.problem = ""
        """Why the last look changed nothing although something was new there; empty if all was well."""
        self.rings: tuple[Ring, ...] = (load(path),)
        """Newest first."""
        self.state = MoveState()
        """Up to where moves are settled, and how the operator wants them to go."""
        self.look()

    @property
    def newest(self) -> Ring:
        """The ring that new writes follow."""
        return self.rings[0]

    @property
    def moving(self) -> bool:
        """Whether data may lie where an older ring says."""
        return len(self.rings) > 1

    def look(self) -> bool:
        """Look again; whether the rings in force have changed. Cheap when nothing was touched."""
        seen = self._signature()
        if seen == self._seen:
            return False
        problem = ""
        try:
            self.state = read_state(self.path)
        except (OSError, MoveStateError) as error:
            problem = f"{moving_dir(self.path)}: {error}"  # more rings stay in force than need be
        try:
            rings = self._load()
        except (OSError, RingFileError, TooManyMoves) as error:
            self.problem = str(error)
            return False
        self._seen = seen
        self.problem = problem
        changed = [ring.epoch for ring in rings] != [ring.epoch for ring in self.rings]
        self.rings = rings
        return changed

    def _signature(self) -> object:
        found = []
        with contextlib.suppress(OSError):
            for path in (self.path, moving_dir(self.path)):
                stat = path.stat()
                found.append((stat.st_ino, stat.st_mtime_ns, stat.st_size))
        return found

    def _load(self) -> tuple[Ring, ...]:
        known = {ring.epoch: ring for ring in self.rings}
        newest = load(self.path)
        if newest.seed != self.rings[0].seed:
            raise RingFileError(f"{self.path}: this ring is another cluster's, its seed differs")
        if newest.epoch < self.rings[0].epoch:
            raise RingFileError(f"{self.path}: epoch {newest.epoch} is older than {self.rings[0].epoch}, in force")
        older = []
        for file in sorted(moving_dir(self.path).glob("*.ring"), reverse=True)[: GENERATIONS_MAX - 1]:
            ring = known.get(int(file.stem)) if file.stem.isdecimal() else None
            ring = ring or load(file)
            if ring.seed == newest.seed and self.state.settled_epoch <= ring.epoch < newest.epoch:
                older.append(ring)
        unsettled = [ring for ring in self.rings if ring.epoch >= self.state.settled_epoch]
        if newest.epoch > self.rings[0].epoch and not older and unsettled and self._seen is not None:
            with locked(self.path):
                keep(self.path, unsettled[0])
            older = unsettled
        return (newest, *older)
