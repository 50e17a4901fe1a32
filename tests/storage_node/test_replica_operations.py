"""Joining and forgetting: a device against the model, with restarts, compaction and an index made again from the log."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from storage_node.device import Device, DeviceWrite
from storage_node.join import Life, join_lives
from storage_node.operations import (
    Catalog,
    DeleteObject,
    ForgetCatalog,
    ForgetObject,
    ForgetRow,
    Found,
    FoundCatalog,
    FoundDigests,
    GetCatalog,
    GetDigests,
    GetObject,
    JoinCatalog,
    Locked,
    PutCatalog,
    PutObject,
    PutRow,
    RewriteRecord,
    Status,
    Written,
)
from storage_node.reader import LocalReader
from tests.storage_node.devices import die, flip_byte, hash_of, make_device, open_device
from tests.storage_node.model import Model, ModelCatalog
from tests.storage_node.pair import CATALOGS, NAMES, OBJECTS, RESTARTS, Pair
from tests.storage_node.test_device_model import Chooser

HASH, KEY = hash_of(1), b"/a/c/o"
CATALOG_HASH, CATALOG_KEY = hash_of(2), b"/a/c"


def status_of(device: Device, operation: DeviceWrite) -> int:
    """Apply one operation; how it ended."""
    (answer,) = device.apply([operation])
    return answer.status


def put_row(name: bytes, timestamp: int, *, deleted: bool = False, replica: bool = False) -> PutRow:
    """A row of one byte."""
    return PutRow(1, CATALOG_HASH, name, timestamp, 0, deleted, 1, 1, b"", replica)


def catalog_of(device: Device) -> Catalog | None:
    """The catalog as the device has it."""
    answer = device.read(GetCatalog(1, CATALOG_HASH, CATALOG_KEY))
    assert isinstance(answer, FoundCatalog)
    return answer.catalog


def digests_of(device: Device) -> list[FoundDigests]:
    """The digests of all three spaces."""
    answers = [device.read(GetDigests(space, 0, 0, 0)) for space in (0, 1, 2)]
    assert all(isinstance(answer, FoundDigests) for answer in answers)
    return answers  # type: ignore[return-value]


def test_a_copy_keeps_the_time_of_its_metadata(tmp_path: Path):
    """PutObject with a later meta_timestamp leaves the entry that the source has."""
    device = make_device(tmp_path / "d")
    assert status_of(device, PutObject(HASH, KEY, 5, b"m", b"data", meta_timestamp=9)) == Status.APPLIED
    found = device.read(GetObject(HASH, KEY, False))
    assert isinstance(found, Found)
    assert found.entry is not None
    assert (found.entry.timestamp, found.entry.meta_timestamp) == (5, 9)
    device.close()


def test_only_the_named_version_is_forgotten(tmp_path: Path):
    """Another version, or nothing, stays as it is; what was forgotten is as if it had never been."""
    device = make_device(tmp_path / "d")
    before = digests_of(device)
    device.apply([PutObject(HASH, KEY, 5, b"m", b"data")])
    assert status_of(device, ForgetObject(HASH, KEY, 4, 4)) == Status.NEWER
    assert status_of(device, ForgetObject(HASH, KEY, 5, 6)) == Status.NEWER
    assert status_of(device, ForgetObject(HASH, KEY, 5, 5)) == Status.APPLIED
    assert status_of(device, ForgetObject(HASH, KEY, 5, 5)) == Status.MISSING
    assert digests_of(device) == before
    assert status_of(device, PutObject(HASH, KEY, 5, b"m", b"data")) == Status.APPLIED
    assert device.check() == []
    device.close()


def test_a_catalog_is_forgotten_after_its_rows(tmp_path: Path):
    """With a row left, a tombstone even, it stays."""
    device = make_device(tmp_path / "d")
    before = digests_of(device)
    device.apply([PutCatalog(1, CATALOG_HASH, CATALOG_KEY, 5, {b"m": (b"v", 5)}), put_row(b"n", 6, deleted=True)])
    forget = ForgetCatalog(1, CATALOG_HASH, CATALOG_KEY, 5, 0, 5, {b"m": (b"v", 5)})
    assert status_of(device, forget) == Status.NOT_EMPTY
    assert status_of(device, ForgetRow(1, CATALOG_HASH, b"n", 5, 0)) == Status.NEWER
    assert status_of(device, ForgetRow(1, CATALOG_HASH, b"n", 6, 0)) == Status.APPLIED
    assert status_of(device, forget._replace(meta={})) == Status.NEWER
    assert status_of(device, forget) == Status.APPLIED
    assert catalog_of(device) is None
    assert digests_of(device) == before
    assert device.check() == []
    device.close()


def test_joining_does_not_delete_live_rows(tmp_path: Path):
    """A deletion from elsewhere is answered NOT_EMPTY as a client's would be."""
    device = make_device(tmp_path / "d")
    device.apply([PutCatalog(1, CATALOG_HASH, CATALOG_KEY, 5, {}), put_row(b"n", 6)])
    join = JoinCatalog(1, CATALOG_HASH, CATALOG_KEY, 5, 9, 5, {})
    assert status_of(device, join) == Status.NOT_EMPTY
    assert status_of(device, put_row(b"n", 7, deleted=True)) == Status.APPLIED
    assert status_of(device, join) == Status.APPLIED
    assert status_of(device, put_row(b"o", 8, deleted=True)) == Status.NO_CATALOG
    assert status_of(device, put_row(b"o", 8, replica=True)) == Status.NO_CATALOG
    assert status_of(device, put_row(b"o", 8, deleted=True, replica=True)) == Status.APPLIED
    assert device.check() == []
    device.close()


def test_a_deleted_catalog_can_be_joined_where_there_was_none(tmp_path: Path):
    """So that replicas of a deletion agree, digests included."""
    one, other = make_device(tmp_path / "a"), make_device(tmp_path / "b")
    one.apply([PutCatalog(1, CATALOG_HASH, CATALOG_KEY, 5, {b"m": (b"v", 5)})])
    one.apply([JoinCatalog(1, CATALOG_HASH, CATALOG_KEY, 4, 9, 5, {})])
    state = catalog_of(one)
    assert state is not None
    other.apply(
        [
            JoinCatalog(
                1,
                CATALOG_HASH,
                CATALOG_KEY,
                state.created_timestamp,
                state.deleted_timestamp,
                state.touched_timestamp,
                state.meta,
            )
        ]
    )
    assert catalog_of(other) == state
    assert digests_of(other) == digests_of(one)
    one.close()
    other.close()


def test_a_catalog_whose_record_rotted_gets_its_name_back(tmp_path: Path):
    """Rows that were replayed without their catalog wait for it: a replica joins it, and they count again."""
    device, other = make_device(tmp_path / "a"), make_device(tmp_path / "b")
    other.apply([PutCatalog(1, CATALOG_HASH, CATALOG_KEY, 5, {}), put_row(b"n", 6)])
    device.apply([PutCatalog(1, CATALOG_HASH, CATALOG_KEY, 5, {})])
    device.apply([put_row(b"n", 6)])
    die(device)
    flip_byte(device.path / "log" / "0000000001.seg", 64 + 40)
    device = open_device(device.path)
    assert catalog_of(device) is None
    assert status_of(device, JoinCatalog(1, CATALOG_HASH, CATALOG_KEY, 5, 0, 5, {})) == Status.APPLIED
    assert catalog_of(device) == catalog_of(other)
    assert digests_of(device) == digests_of(other)
    device.close()
    other.close()


def remove_index(path: Path) -> None:
    """Lose the index."""
    for file in (path / "index").iterdir():
        file.unlink()


def test_an_index_made_again_brings_nothing_back(tmp_path: Path):
    """What was forgotten stays so though its record is still in the log."""
    device = make_device(tmp_path / "d")
    device.apply([PutObject(HASH, KEY, 5, b"m", b"data"), DeleteObject(HASH, KEY, 6)])
    device.apply([PutCatalog(1, CATALOG_HASH, CATALOG_KEY, 5, {}), put_row(b"n", 6)])
    device.apply([ForgetObject(HASH, KEY, 6, 6), ForgetRow(1, CATALOG_HASH, b"n", 6, 0)])
    device.apply([ForgetCatalog(1, CATALOG_HASH, CATALOG_KEY, 5, 0, 5, {})])
    before = digests_of(device)
    die(device)
    remove_index(tmp_path / "d")
    device = open_device(tmp_path / "d")
    assert digests_of(device) == before
    assert device.check() == []
    device.close()


class ReplicaModel(Model):
    """The model, with the replicas' operations."""

    def apply(self, operation: DeviceWrite, data: bytes = b"") -> Written | Locked:
        """Do one operation."""
        match operation:
            case JoinCatalog():
                return self._join(operation)
            case ForgetObject():
                return self._forget_object(operation)
            case ForgetRow():
                return self._forget_row(operation)
            case ForgetCatalog():
                return self._forget_catalog(operation)
            case PutRow(replica=True) if operation.deleted:
                return self._put_replica_row(operation)
            case RewriteRecord():
                return self._rewrite(operation)
        answer = super().apply(operation, data)
        if isinstance(operation, PutObject) and answer.status == Status.APPLIED:
            there = self.objects[operation.hash]
            there.meta_timestamp = max(there.meta_timestamp, operation.meta_timestamp)
        return answer

    def _join(self, operation: JoinCatalog) -> Written:
        place = (operation.space, operation.hash)
        found = self.catalogs.get(place)
        given = Life(
            operation.created_timestamp,
            operation.deleted_timestamp,
            max(operation.created_timestamp, operation.touched_timestamp),
        )
        life = given
        if found is not None:
            life = join_lives((given, Life(found.created, found.deleted, found.touched)))
            if not life.live and found.live and found.live_rows:
                return Written(Status.NOT_EMPTY, found.created)
        else:
            found = self.catalogs[place] = ModelCatalog(operation.key)
        found.created, found.deleted, found.touched = life
        meta = dict(found.meta)
        for name, item in operation.meta.items():
            if name not in meta or (item[1], item[0]) > (meta[name][1], meta[name][0]):
                meta[name] = item
        found.meta = {name: item for name, item in meta.items() if life.live and item[1] > life.deleted}
        return Written(Status.APPLIED)

    def _put_replica_row(self, operation: PutRow) -> Written:
        found = self.catalogs.get((operation.space, operation.hash))
        if found is None or found.live:
            answer = super().apply(operation)
        else:
            created, found.created = found.created, found.deleted + 1
            answer = super().apply(operation)
            found.created = created
        assert isinstance(answer, Written)
        return answer

    def _rewrite(self, operation: RewriteRecord) -> Written:
        """Nothing changes."""
        if operation.space == 0:
            there = self.objects.get(operation.hash)
            if there is not None and not there.deleted:
                return Written(Status.REFUSED, detail="an object's data is not in the index")
            return Written(Status.MISSING if there is None else Status.APPLIED)
        found = self.catalogs.get((operation.space, operation.hash))
        present = found is not None and (not operation.name or operation.name in found.rows)
        return Written(Status.APPLIED if present else Status.MISSING)


class ReplicaPair(Pair):
    """A device and the model with the replicas' operations."""

    def __init__(self) -> None:
        super().__init__()
        model = ReplicaModel()
        model.catalogs = self.model.catalogs
        self.model: ReplicaModel = model

    def _catalog_agrees(self, side: Device | LocalReader, space: int, hash_: bytes, key: bytes) -> None:
        if (space, hash_) in self.model.catalogs:
            super()._catalog_agrees(side, space, hash_, key)
        else:
            assert side.read(GetCatalog(space, hash_, key)).status == Status.MISSING


class ReplicaChooser(Chooser):
    """Makes what replicators send as well."""

    def __init__(self, random: Random, model: ReplicaModel) -> None:
        super().__init__(random)
        self._model = model

    def replica(self) -> list[DeviceWrite]:
        """One or more operations of a replicator's."""
        random = self.random
        makers = [self._join, self._copy, self._bury, self._forget_object, self._forget_catalog, self._rewrite]
        return random.choice(makers)()

    def _rewrite(self) -> list[DeviceWrite]:
        space, hash_, _ = self.random.choice(CATALOGS)
        if self.random.random() < 0.3:
            return [RewriteRecord(0, self.random.choice(OBJECTS)[0])]
        return [RewriteRecord(space, hash_), RewriteRecord(space, hash_, self.random.choice(NAMES))]

    def _join(self) -> list[DeviceWrite]:
        times = [random_below(self.random, self.now) for _ in range(3)]
        items = {name: (b"j", random_below(self.random, self.now)) for name in self.random.sample([b"m", b"n"], 1)}
        return [JoinCatalog(*self.random.choice(CATALOGS), *times, items)]

    def _copy(self) -> list[DeviceWrite]:
        timestamp, later = self.timestamp(), self.random.choice([0, 0, 1, 5])
        return [PutObject(*self.random.choice(OBJECTS), timestamp, b"c", b"copy", meta_timestamp=timestamp + later)]

    def _bury(self) -> list[DeviceWrite]:
        space, hash_, _ = self.random.choice(CATALOGS)
        return [PutRow(space, hash_, self.random.choice(NAMES), self.timestamp(), 0, True, 0, 0, b"", True)]

    def _forget_object(self) -> list[DeviceWrite]:
        hash_, key = self.random.choice(OBJECTS)
        there = self._model.objects.get(hash_)
        if there is None or self.random.random() < 0.2:
            return [ForgetObject(hash_, key, self.now, self.now)]
        return [ForgetObject(hash_, key, there.timestamp, there.meta_timestamp)]

    def _forget_catalog(self) -> list[DeviceWrite]:
        """A catalog with its rows; half of the time not all of them."""
        space, hash_, key = self.random.choice(CATALOGS)
        found = self._model.catalogs.get((space, hash_))
        if found is None:
            return [ForgetCatalog(space, hash_, key, 1, 0, 1, {})]
        operations: list[DeviceWrite] = [
            ForgetRow(space, hash_, row.name, row.timestamp, row.sub_timestamp) for row in found.rows.values()
        ]
        if self.random.random() < 0.5:
            self.random.shuffle(operations)
            del operations[len(operations) // 2 :]
        operations.append(
            ForgetCatalog(space, hash_, key, found.created, found.deleted, found.touched, dict(found.meta))
        )
        return operations


def random_below(random: Random, limit: int) -> int:
    """1 up to, and with, the limit."""
    return random.randint(1, limit)


@pytest.mark.parametrize("seed", range(12))
def test_a_walk_with_replicators_agrees_with_the_model(seed: int):
    """Whatever proxies and replicators do in whatever order, with restarts, compaction and lost indexes between."""
    random = Random(seed)
    pair = ReplicaPair()
    choose = ReplicaChooser(random, pair.model)
    for step in range(200):
        pick = random.random()
        if pick < 0.35:
            pair.write([choose.operation() for _ in range(random.choice([1, 2, 8, 20]))])
        elif pick < 0.60:
            pair.write(choose.replica())
        elif pick < 0.65:
            pair.write_blob(random.randrange(len(OBJECTS)), choose.timestamp(), random.randbytes(3_000))
        elif pick < 0.85:
            pair.background(random.choice([1, 2, 3, 5, 8, 13, 100]))
        elif pick < 0.90:
            pair.pass_time()
        elif pick < 0.96:
            pair.restart(random.choice(RESTARTS))
        else:
            pair.checkpoint()
        if step % 4 == 0:
            pair.verify()
    pair.verify()
    pair.close()
