"""Records in and out of a database, and tasks under leases."""

from __future__ import annotations

import dataclasses
import threading

import pytest
from sqlalchemy import Engine, text

from scheduler.lifecycle import tasks
from scheduler.records import store
from scheduler.records.secrets import PoolSecrets, SecretUnreadable
from scheduler.records.types import (
    FlavorRecord,
    GroupRecord,
    HostRecord,
    ImageRecord,
    ImageState,
    PoolRecord,
    ServerRecord,
    ServerState,
    SnapshotRecord,
    SrRecord,
    TaskRecord,
    TaskState,
    VolumeRecord,
    VolumeState,
)

RECORDS = [
    FlavorRecord("f1", "small", 512, 1, 1 << 40, ("gpu",), ("old",), ()),
    GroupRecord("g1", "trio", "demo", "anti-affinity"),
    HostRecord("h1", "p1", 65536, "host", "10.0.0.1", enabled=False, maintenance=True, vcpu_ratio=1.5),
    ImageRecord("i1", "débian ☃", ImageState.READY, "vhd", 5, 1 << 41, "image-1", "00", 1.25),
    PoolRecord("p1", "pool", "https://[::1]:443", "root", "pin:00", 1, 2, 3.5),
    ServerRecord(
        "s1", "web", "demo", ServerState.ACTIVE, 512, 1, 1 << 40, "d1", "small", 2.0, options={"required_traits": ["x"]}
    ),
    SnapshotRecord("n1", "before", "s1", "", 1 << 40, "p1", 2.0),
    SrRecord("r1", "p1", 65537, "sr", "10.0.0.1"),
    VolumeRecord("v1", "data", "demo", VolumeState.AVAILABLE, 1 << 40, 2.0),
]


def test_columns_are_the_fields() -> None:
    """Each record type has the fields that its table has columns, in the same order."""
    for kind, table in store.TABLES.items():
        assert [field.name for field in dataclasses.fields(kind)] == [column.name for column in table.columns]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_comes_back_as_it_went(engine: Engine, record: object) -> None:
    """What is added is found, by id, by name, and among all; enums, tuples and collections included."""
    kind = type(record)
    with engine.begin() as connection:
        store.add(connection, record)
    with engine.begin() as connection:
        assert store.find(connection, kind, record.id) == record  # type: ignore[attr-defined]
        assert store.named(connection, kind, record.name) == record  # type: ignore[attr-defined]
        assert store.all_of(connection, kind) == [record]
        assert store.count_of(connection, kind, id=record.id) == 1  # type: ignore[attr-defined]
        assert store.remove(connection, kind, record.id)  # type: ignore[attr-defined]
        assert not store.remove(connection, kind, record.id)  # type: ignore[attr-defined]


def test_a_taken_name_leaves_the_transaction_usable(engine: Engine) -> None:
    """The second of a name is refused, and what else the transaction does still counts."""
    with engine.begin() as connection:
        store.add(connection, GroupRecord("g1", "trio", "demo", "affinity"))
        with pytest.raises(store.NameTaken, match="'trio'"):
            store.add(connection, GroupRecord("g2", "trio", "demo", "affinity"))
        store.add(connection, GroupRecord("g3", "trio", "other", "affinity"))
    with engine.begin() as connection:
        assert {group.id for group in store.all_of(connection, GroupRecord)} == {"g1", "g3"}


def test_names_of_every_kind(engine: Engine) -> None:
    """Exact names and ids win over beginnings of ids; what two are called is ambiguous; nonsense finds nothing."""
    with engine.begin() as connection:
        store.add(connection, GroupRecord("12345678-a", "one", "demo", "affinity"))
        store.add(connection, GroupRecord("12345678-b", "12345678", "demo", "affinity"))
        store.add(connection, GroupRecord("99999999-c", "one", "other", "affinity"))
        assert store.named(connection, GroupRecord, "12345678").id == "12345678-b"
        assert store.named(connection, GroupRecord, "99999999").id == "99999999-c"
        assert store.named(connection, GroupRecord, "one", "other").id == "99999999-c"
        with pytest.raises(store.AmbiguousName, match="2 server groups"):
            store.named(connection, GroupRecord, "one")
        for name in ("", "x" * 256, "a\x00b", "a\nb", "%", "_", "' OR 1=1 --", "1234567"):
            with pytest.raises(store.NoSuchRecord):
                store.named(connection, GroupRecord, name)


# ----------------------------------------------------------------------------------------------------------------- tasks


def submit(engine: Engine, subject: str = "s1") -> TaskRecord:
    """A new task."""
    with engine.begin() as connection:
        return tasks.submit(connection, "build", subject, "demo", {"a": 1}, 100.0)


def take(engine: Engine, owner: str, now_s: float) -> TaskRecord | None:
    """Take a task up."""
    with engine.begin() as connection:
        return tasks.take(connection, owner, now_s, 10.0)


def test_a_task_is_taken_by_one_until_its_lease_runs_out(engine: Engine) -> None:
    """While one holds it nobody else gets it; afterwards another one does, with a higher fence."""
    submitted = submit(engine)
    first = take(engine, "one", 100.0)
    assert first is not None
    assert (first.id, first.fence, first.lease_owner, first.data) == (submitted.id, 1, "one", {"a": 1})
    assert take(engine, "two", 109.0) is None
    second = take(engine, "two", 111.0)
    assert second is not None
    assert second.fence == 2


def test_a_stale_holder_changes_nothing(engine: Engine) -> None:
    """Whoever lost a task can neither carry it on nor renew its lease."""
    submit(engine)
    first = take(engine, "one", 100.0)
    second = take(engine, "two", 111.0)
    assert first is not None
    assert second is not None
    with engine.begin() as connection:
        moved_on = dataclasses.replace(first, stage="create")
        assert not tasks.carry_on(connection, first, moved_on, keep_until_s=200.0)
        assert tasks.renew(connection, first, 112.0, 10.0, 0.5) == (False, False)
        assert tasks.renew(connection, second, 112.0, 10.0, 0.5) == (True, False)
        assert tasks.carry_on(connection, second, dataclasses.replace(second, stage="create"), keep_until_s=0.0)
        kept = store.find(connection, TaskRecord, second.id)
        assert kept is not None
        assert (kept.stage, kept.lease_owner, kept.progress) == ("create", "", 0.0)


def test_work_on_one_thing_is_done_in_order(engine: Engine) -> None:
    """A later task of the same subject waits for the earlier one's end; tasks of others do not."""
    one, two, other = submit(engine, "s1"), submit(engine, "s1"), submit(engine, "s2")
    first = take(engine, "a", 100.0)
    assert first is not None
    assert first.id == one.id
    second = take(engine, "b", 100.0)
    assert second is not None
    assert second.id == other.id
    assert take(engine, "c", 100.0) is None
    with engine.begin() as connection:
        done = dataclasses.replace(first, state=TaskState.DONE, finished_s=101.0)
        assert tasks.carry_on(connection, first, done, keep_until_s=0.0)
    third = take(engine, "c", 101.0)
    assert third is not None
    assert third.id == two.id


def test_cancelling_is_seen_at_the_next_renewal(engine: Engine) -> None:
    """Whoever works on a cancelled task learns of it when the lease is renewed."""
    submit(engine)
    held = take(engine, "one", 100.0)
    assert held is not None
    with engine.begin() as connection:
        tasks.cancel_open(connection, "s1")
        assert tasks.renew(connection, held, 101.0, 10.0, 0.0) == (True, True)


def test_a_dead_controllers_leases_are_given_back(engine: Engine) -> None:
    """A controller that starts again under its name need not wait for the leases of the process that it was."""
    submit(engine)
    assert take(engine, "one", 100.0) is not None
    with engine.begin() as connection:
        assert tasks.give_back_all(connection, "two") == 0
        assert tasks.give_back_all(connection, "one") == 1
    assert take(engine, "two", 100.0) is not None


def test_of_many_who_reach_for_a_task_one_gets_it(engine: Engine) -> None:
    """Threads with connections of their own take forty tasks at once: each task is taken exactly once."""
    for number in range(40):
        submit(engine, f"s{number}")
    taken: list[int] = []
    lock = threading.Lock()

    def work(owner: str) -> None:
        idle = 0
        while idle < 3:
            task = take(engine, owner, 100.0)
            if task is None:
                idle += 1
                continue
            with lock:
                taken.append(task.id)

    threads = [threading.Thread(target=work, args=(f"t{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == len(set(taken)) == 40


# --------------------------------------------------------------------------------------------------------------- secrets


def test_a_password_is_sealed_and_opened(engine: Engine) -> None:
    """It comes back with the same key, is not in the database in the clear, and opens for its own pool alone."""
    secrets = PoolSecrets(b"k" * 32)
    with engine.begin() as connection:
        secrets.seal(connection, "p1", "hunter2 ☃")
        secrets.seal(connection, "p1", "correct horse")
        secrets.seal(connection, "p2", "other")
        assert secrets.open(connection, "p1") == "correct horse"
        sealed = bytes(connection.execute(text("SELECT sealed FROM pool_secrets WHERE pool_id = 'p1'")).scalar_one())
        assert b"correct" not in sealed
        with pytest.raises(SecretUnreadable, match="another cluster key"):
            PoolSecrets(b"x" * 32).open(connection, "p1")
        connection.execute(
            text("UPDATE pool_secrets SET sealed = (SELECT sealed FROM pool_secrets WHERE pool_id = 'p2')")
        )
        with pytest.raises(SecretUnreadable):
            secrets.open(connection, "p1")
        secrets.forget(connection, "p2")
        with pytest.raises(SecretUnreadable, match="add it again"):
            secrets.open(connection, "p2")
