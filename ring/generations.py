"""The rings in force: the newest, and those whose data has not all moved yet.

Problem: when a ring changes, data lies where the old one says while reads and writes go where the new one says. Until all
has moved both must be asked, by every service, and a service that restarts in the middle must know it too.

Idea: beside the ring file lies a folder, `<ring file>.moving`, with the rings that it replaced, a file for each epoch.
Whoever installs a ring puts the one before into the folder first; whoever finds that the move is done (`replicator`)
empties it. Services look at file and folder now and then: two calls to `stat` where nothing has changed.

A ring that replaced the file without `install` (copied there by hand) is noticed by its epoch; the service that still knows
the one before can `keep` it then.

Rejected: old rings inside the ring file (every service would load tables that are needed for minutes in a year); a database
of rings.

Invariants: `Generations.rings` are of one cluster (one seed), newest first, distinct epochs; a file that cannot be read, or
is of another cluster, changes nothing.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

from ring.durable import replace_file
from ring.ring import Ring
from ring.ring_file import RingFileError, dumps, load

GENERATIONS_MAX: Final = 8
"""Rings in force at once. A move begun while so many are unfinished has to wait."""


class TooManyMoves(Exception):
    """The caller's: too many ring changes are unfinished; wait until data has moved."""


def moving_dir(path: Path) -> Path:
    """Where the rings are kept that the one at `path` replaced and whose data is still moving."""
    return path.with_name(path.name + ".moving")


def install(path: Path, ring: Ring) -> None:
    """Put a newer ring in force; the one before stays in force beside it until `finish`.

    Raises OSError, RingFileError (what is there is no ring), ValueError (not newer, or of another cluster), TooManyMoves.
    """
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
    if len(list(folder.glob("*.ring"))) >= GENERATIONS_MAX - 1:
        raise TooManyMoves(f"{folder}: {GENERATIONS_MAX - 1} rings are still in force beside the newest")
    replace_file(folder / f"{ring.epoch:012d}.ring", dumps(ring))


def finish(path: Path, epoch: int) -> None:
    """All data lies where the ring with this epoch says: those before it are no longer in force. Raises OSError."""
    for file in moving_dir(path).glob("*.ring"):
        if file.stem.isdecimal() and int(file.stem) < epoch:
            file.unlink(missing_ok=True)


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
        try:
            rings = self._load()
        except (OSError, RingFileError) as error:
            self.problem = str(error)
            return False
        self._seen = seen
        self.problem = ""
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
            if ring.seed == newest.seed and ring.epoch < newest.epoch:
                older.append(ring)
        if newest.epoch > self.rings[0].epoch and not older and self._seen is not None:
            keep(self.path, self.rings[0])
            older = [*self.rings]
        return (newest, *older)
