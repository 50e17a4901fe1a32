"""A device against a model of dicts: random operations, restarts, crashes, checkpoints and compaction in any order.

Twice: by Hypothesis, which shrinks what it finds, and by a plain seeded walk, which goes further in the same time.
"""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from storage_node.device import DeviceWrite
from storage_node.operations import (
    DeleteCatalog,
    DeleteObject,
    ListRows,
    LockObject,
    PutCatalog,
    PutObject,
    PutRow,
    UnlockObject,
    UpdateObject,
)
from tests.storage_node.pair import CATALOGS, DELIMITERS, NAMES, OBJECTS, PREFIXES, RESTARTS, Pair

SEEDS = range(12)
WALK_STEPS = 200


class Chooser:
    """Makes random operations. Timestamps grow with `now`, so that most writes are news and some are late."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.now = 1

    def timestamp(self) -> int:
        """Mostly later than all before."""
        self.now += 1
        return self.now if self.random.random() < 0.7 else self.random.randint(1, self.now)

    def operation(self) -> DeviceWrite:
        """Any write but a PutBlob, which needs a writer."""
        pick = self.random.random()
        if pick < 0.5:
            return self.row()
        return self.object() if pick < 0.85 else self.catalog()

    def object(self) -> DeviceWrite:
        """A write of an object."""
        random = self.random
        hash_, key = random.choice(OBJECTS)
        timestamp, meta = self.timestamp(), random.randbytes(random.randint(0, 3))
        lock = random.choice([None, None, None, random.randint(1, self.now)])
        pick = random.random()
        if pick < 0.5:
            data = random.randbytes(random.choice([0, 1, 5, 1500]))
            return PutObject(hash_, key, timestamp, meta, data, random.random() < 0.3, lock)
        if pick < 0.65:
            return DeleteObject(hash_, key, timestamp, lock)
        if pick < 0.85:
            return UpdateObject(hash_, key, random.randint(max(1, self.now - 5), self.now), timestamp, meta)
        return LockObject(hash_, key, timestamp, 1000) if pick < 0.95 else UnlockObject(hash_, timestamp)

    def catalog(self) -> DeviceWrite:
        """A write of a catalog."""
        random = self.random
        place, timestamp = random.choice(CATALOGS), self.timestamp()
        if random.random() < 0.4:
            return DeleteCatalog(*place, timestamp)
        names = random.sample([b"m", b"n"], random.randint(0, 2))
        items = {name: (random.choice([b"", b"v", b"w"]), random.randint(1, self.now)) for name in names}
        return PutCatalog(*place, timestamp, items, random.random() < 0.8)

    def row(self) -> DeviceWrite:
        """A row, live or not."""
        random = self.random
        space, hash_, _ = random.choice(CATALOGS)
        name = random.choice(NAMES) if random.random() < 0.8 else random.randbytes(random.randint(1, 2))
        counts = random.randint(0, 5), random.randint(0, 1 << 40)
        version = self.timestamp(), random.randint(0, 3)
        return PutRow(space, hash_, name, *version, random.random() < 0.6, *counts, random.randbytes(2))

    def query(self) -> ListRows:
        """A listing of any form."""
        random = self.random
        start = random.choice([b"", random.choice(NAMES)])
        end = random.choice([None, random.choice(NAMES)])
        prefix, delimiter = random.choice(PREFIXES), random.choice(DELIMITERS)
        flags = random.random() < 0.5, not delimiter and random.random() < 0.3
        return ListRows(*random.choice(CATALOGS), start, end, prefix, delimiter, random.randint(0, 6), *flags)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_long_random_walk_agrees_with_the_model(seed: int) -> None:
    """Whatever happens to a device in whatever order, it is what the model is (the seed is the test's name)."""
    random = Random(seed)
    choose = Chooser(random)
    pair = Pair()
    for step in range(WALK_STEPS):
        pick = random.random()
        if pick < 0.45:
            pair.write([choose.operation() for _ in range(random.choice([1, 2, 8, 20]))])
        elif pick < 0.50:
            data = random.randbytes(random.choice([3_000, 300_000]))
            pair.write_blob(random.randrange(len(OBJECTS)), choose.timestamp(), data)
        elif pick < 0.80:
            pair.background(random.choice([1, 2, 3, 5, 8, 13, 100]))
        elif pick < 0.86:
            pair.pass_time()
        elif pick < 0.90:
            pair.restart(random.choice(RESTARTS))
        elif pick < 0.92:
            pair.checkpoint()
        else:
            pair.list_rows(choose.query())
        if step % 4 == 0:
            pair.verify()
    pair.verify()
    pair.close()


timestamps = st.integers(1, 40)
locks = st.none() | st.none() | timestamps
metas = st.binary(max_size=3)
datas = st.binary(max_size=5) | st.integers(0, 9).map(lambda fill: bytes((fill,)) * 1500)
items = st.dictionaries(st.sampled_from([b"m", b"n"]), st.tuples(st.sampled_from([b"", b"v", b"w"]), timestamps))
places = st.sampled_from(CATALOGS)
names = st.sampled_from(NAMES) | st.binary(min_size=1, max_size=3)
counts = st.integers(0, 5)


@st.composite
def operations(draw: st.DrawFn) -> DeviceWrite:
    """Any write but a PutBlob, which needs a writer."""
    hash_, key = draw(st.sampled_from(OBJECTS))
    place = draw(places)
    kind = draw(st.sampled_from("PPDUUL-CCXRRRRRR"))
    timestamp = draw(timestamps)
    if kind == "P":
        return PutObject(hash_, key, timestamp, draw(metas), draw(datas), draw(st.booleans()), draw(locks))
    if kind == "D":
        return DeleteObject(hash_, key, timestamp, draw(locks))
    if kind == "U":
        return UpdateObject(hash_, key, draw(timestamps), timestamp, draw(metas))
    if kind in "L-":
        return LockObject(hash_, key, timestamp, 1000) if kind == "L" else UnlockObject(hash_, timestamp)
    if kind == "C":
        return PutCatalog(*place, timestamp, draw(items), draw(st.booleans()))
    if kind == "X":
        return DeleteCatalog(*place, timestamp)
    version = timestamp, draw(st.integers(0, 3))
    return PutRow(*place[:2], draw(names), *version, draw(st.booleans()), draw(counts), draw(counts), draw(metas))


class DeviceAgainstModel(RuleBasedStateMachine):
    """The same, by Hypothesis."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair()

    @rule(batches=st.lists(st.lists(operations(), min_size=1, max_size=8), min_size=1, max_size=3))
    def write(self, batches: list[list[DeviceWrite]]) -> None:
        """Some batches."""
        for batch in batches:
            self.pair.write(batch)

    @rule(
        which=st.integers(0, len(OBJECTS) - 1),
        timestamp=timestamps,
        size=st.sampled_from([3_000, 300_000]),
        fill=st.integers(0, 255),
    )
    def write_blob(self, which: int, timestamp: int, size: int, fill: int) -> None:
        """An object that is a file."""
        self.pair.write_blob(which, timestamp, bytes((fill,)) * size)

    @rule(how=st.sampled_from(RESTARTS))
    def restart(self, how: str) -> None:
        """A stop or a kill."""
        self.pair.restart(how)

    @rule()
    def checkpoint(self) -> None:
        """A whole checkpoint."""
        self.pair.checkpoint()

    @rule(time_passes=st.booleans(), steps=st.sampled_from([1, 2, 3, 4, 5, 6, 8, 10, 200]))
    def background(self, time_passes: bool, steps: int) -> None:
        """Some background work."""
        if time_passes:
            self.pair.pass_time()
        self.pair.background(steps)

    @rule(
        start=st.just(b"") | names,
        end=st.none() | names,
        prefix=st.sampled_from(PREFIXES),
        delimiter=st.sampled_from(DELIMITERS),
        limit=st.integers(0, 6),
        reverse=st.booleans(),
        deleted=st.booleans(),
    )
    def list_rows(
        self, start: bytes, end: bytes | None, prefix: bytes, delimiter: bytes, limit: int, reverse: bool, deleted: bool
    ) -> None:
        """A listing."""
        self.pair.list_rows(ListRows(*CATALOGS[0], start, end, prefix, delimiter, limit, reverse, deleted))

    @invariant()
    def verify(self) -> None:
        """Everything agrees, all the time."""
        self.pair.verify()

    def teardown(self) -> None:
        """Remove everything."""
        self.pair.close()


DeviceAgainstModel.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestDeviceAgainstModel = DeviceAgainstModel.TestCase
