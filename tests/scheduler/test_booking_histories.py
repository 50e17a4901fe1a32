"""Safety: over random histories nothing is given out twice, whoever looks at whichever old picture.

The same histories run against claims in memory, in a SQLite file through two engines, and in PostgreSQL. Then each check
that a commit makes is taken away in turn, and the histories must find that out, within the examples stated here: a safety
test that cannot fail would be worth nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test
from sqlalchemy import Connection, Engine, Update, select

from scheduler.claims import check, sql, write
from scheduler.claims.claim import Batch, Change, Claim
from scheduler.claims.memory import MemoryClaims
from scheduler.database import open_engine
from scheduler.metadata import METADATA
from scheduler.placement import reasons
from scheduler.placement.request import Policy
from tests.scheduler.claims.naive import QUOTA, STATE
from tests.scheduler.histories.machine import Histories
from tests.scheduler.histories.sql import SqlHistories

EXAMPLES = 40
STEPS = 80
FOUND_WITHIN = 40
"""Examples of STEPS steps, from a fixed seed, in which a missing check must be found out."""
REASONS = {
    *(reasons.MEMORY, reasons.VCPUS, reasons.SR_SPACE, reasons.CLOSED, reasons.GROUP),
    *(reasons.SAME_HOST, reasons.DIFFERENT_HOST, QUOTA, STATE, "KeyReused", "KeySpent", "repeated"),
}
"""All that a commit can answer but that it claimed."""


def run(
    machine: type[Histories], examples: int, steps: int, *, seed_: int | None = None, shrinks: bool = False
) -> Counter[str]:
    """Run some histories: what was answered how often. With a seed always the same ones."""
    phases = [Phase.explicit, Phase.generate] + ([Phase.shrink] if shrinks else [])
    machine.reached = Counter()
    run_state_machine_as_test(
        machine if seed_ is None else seed(seed_)(machine),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            phases=phases,
            report_multiple_bugs=False,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        ),
    )
    return machine.reached


def test_histories_in_memory():
    """Claims in memory keep every promise over random histories."""
    run(type("InMemory", (Histories,), {}), EXAMPLES, STEPS, shrinks=True)


def test_histories_reach_every_answer():
    """In the histories of one seed a commit refuses at least ten times for each reason that there is."""
    reached = run(type("Seeded", (Histories,), {}), EXAMPLES, STEPS, seed_=22)
    assert set(reached) == REASONS
    assert min(reached.values()) >= 10, reached


@contextmanager
def rivals(machine: type[SqlHistories]) -> Iterator[None]:
    """Let other transactions write between reading and writing, where a history has one."""
    with pytest.MonkeyPatch.context() as patch:

        def write_(connection: Connection, *rest) -> Change:
            history = machine.running
            return write.write(connection, *rest) if history is None else history.write_after_rival(connection, *rest)

        patch.setattr(sql, "write", write_)
        yield


def run_sql(engines: tuple[Engine, Engine], examples: int, **more) -> Counter[str]:
    """Run histories against a database."""
    METADATA.create_all(engines[0])
    machine = type("InSql", (SqlHistories,), {"engines": engines})
    with rivals(machine):
        return run(machine, examples, 30, **more)


@pytest.fixture
def sqlite_engines(tmp_path) -> Iterator[tuple[Engine, Engine]]:
    """Two controllers' engines of one SQLite file."""
    engines = (open_engine(f"sqlite:///{tmp_path / 'claims.db'}"), open_engine(f"sqlite:///{tmp_path / 'claims.db'}"))
    yield engines
    for engine in engines:
        engine.dispose()


def test_histories_in_sqlite(sqlite_engines):
    """Claims in a SQLite file, used by two controllers, keep every promise, whoever writes between reading and writing."""
    assert run_sql(sqlite_engines, 12)["raced"]


@pytest.mark.slow
def test_histories_in_postgresql(postgresql):
    """Claims in PostgreSQL, used by two controllers, keep every promise."""
    url = postgresql.new_url()
    engines = (open_engine(url), open_engine(url))
    try:
        run_sql(engines, 5)
    finally:
        for engine in engines:
            engine.dispose()


# ------------------------------------------------------------------------------------------------ what if a check were off

_check_owner, _check_host, _check_sr, _check_group, _check_company = (
    check._check_owner,
    check._check_host,
    check._check_sr,
    check._check_group,
    check._check_company,
)
_commit, _asked = MemoryClaims.commit, Batch.asked


def _group_but(policy: Policy) -> Callable:
    """The check of groups without this policy."""

    def broken(claim, batch, view) -> None:
        if claim.membership is None or claim.membership.policy is not policy:
            _check_group(claim, batch, view)

    return broken


def _owner_but_sizes(claim, claims) -> None:
    known = {disk.disk_id: disk.size_bytes for held in claims for disk in held.disks}
    disks = tuple(replace(disk, size_bytes=known.get(disk.disk_id, disk.size_bytes)) for disk in claim.disks)
    _check_owner(replace(claim, disks=disks), claims)


class _Settled:
    """A view in which members that move are at their targets alone."""

    def __init__(self, view) -> None:
        self._view = view

    def members(self, group_id: str) -> Iterable[Claim]:
        """The last claim of each."""
        return {claim.owner: claim for claim in self._view.members(group_id)}.values()


def _group_of_targets(claim, batch, view) -> None:
    hard = claim.membership is not None and claim.membership.policy is Policy.AFFINITY
    _check_group(claim, batch, _Settled(view) if hard else view)


def _commit_without_keys(claims: MemoryClaims, batch: Batch) -> Change:
    claims._keys.pop(batch.key, None)
    return _commit(claims, batch)


BROKEN = {
    "memory": (
        check,
        "_check_host",
        lambda after, claim: _check_host(replace(after, memory_mib=0), claim),
        "claimed against memory",
    ),
    "vcpus": (
        check,
        "_check_host",
        lambda after, claim: _check_host(replace(after, vcpus=0), claim),
        "claimed against vcpus",
    ),
    "closed host": (
        check,
        "_check_host",
        lambda after, claim: _check_host(replace(after, limit=replace(after.limit, is_open=True)), claim),
        "claimed against closed",
    ),
    "SR space": (
        check,
        "_check_sr",
        lambda after: _check_sr(replace(after, size_bytes=0)),
        r"claimed against sr-space|sr\d+: \d+ bytes",
    ),
    "closed SR": (
        check,
        "_check_sr",
        lambda after: _check_sr(replace(after, limit=replace(after.limit, is_open=True))),
        "claimed against closed",
    ),
    "anti-affinity": (check, "_check_group", _group_but(Policy.ANTI_AFFINITY), "claimed against group"),
    "affinity": (check, "_check_group", _group_but(Policy.AFFINITY), "claimed against group"),
    "affinity while it moves": (check, "_check_group", _group_of_targets, "claimed against group"),
    "same host": (
        check,
        "_check_company",
        lambda batch, view: _check_company(replace(batch, same_host_as=()), view),
        "claimed against same-host",
    ),
    "different host": (
        check,
        "_check_company",
        lambda batch, view: _check_company(replace(batch, different_host_from=()), view),
        "claimed against different-host",
    ),
    "quota": (check, "_check_quota", lambda *_: None, "claimed against quota"),
    "owner": (check, "_check_owner", lambda *_: None, "claimed against state"),
    "size of a disk that moves": (check, "_check_owner", _owner_but_sizes, "claimed against state"),
    "idempotency key": (
        MemoryClaims,
        "commit",
        _commit_without_keys,
        "claimed before and is taken for new|claimed twice",
    ),
    "what a key was for": (Batch, "asked", property(lambda _: ()), "answers for something else"),
}
"""What is broken, in whose name, by what, and how the histories must say it."""


@pytest.mark.parametrize("what", BROKEN)
def test_a_missing_check_is_found_out(what, monkeypatch):
    """Without this check the histories fail, for this check's reason, within the stated number of examples."""
    owner, name, broken, message = BROKEN[what]
    monkeypatch.setattr(owner, name, broken)
    with pytest.raises(AssertionError, match=message):
        run(type("Broken", (Histories,), {}), FOUND_WITHIN, STEPS, seed_=1)


def test_a_missing_comparison_of_generations_is_found_out(sqlite_engines, monkeypatch):
    """Where rows are written whatever their generation, two claims at the same moment leave sums that are none."""

    def swap(connection: Connection, statement: Update, values: dict[str, object]) -> None:
        table = statement.table
        key = next(iter(table.primary_key))
        now = connection.execute(select(table.c.generation).where(key == values["id"])).scalar_one()
        connection.execute(statement, {**values, "known": now})

    monkeypatch.setattr(write, "_swap", swap)
    with pytest.raises(AssertionError):
        run_sql(sqlite_engines, FOUND_WITHIN, seed_=1)
