"""Claims of every kind, for tests that hold for all."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Engine

from scheduler.claims.claim import Claims
from scheduler.claims.memory import MemoryClaims
from scheduler.claims.sql import SqlClaims
from scheduler.database import open_engine
from scheduler.metadata import METADATA
from tests.support.postgresql import PostgresServer

MakeClaims = Callable[..., Claims]


@pytest.fixture(scope="session")
def postgresql_engine(postgresql: PostgresServer) -> Iterator[Engine]:
    """A database of PostgreSQL with all tables; whoever uses it begins with `empty`."""
    engine = open_engine(postgresql.new_url())
    METADATA.create_all(engine)
    yield engine
    engine.dispose()


def empty(engine: Engine) -> None:
    """Delete every row."""
    with engine.begin() as connection:
        for table in reversed(METADATA.sorted_tables):
            connection.execute(table.delete())


@pytest.fixture
def clock() -> dict[str, float]:
    """The time that claims see, under "s"."""
    return {"s": 1000.0}


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def make_claims(request, tmp_path, clock) -> Iterator[MakeClaims]:
    """Makes empty claims, by each way of keeping them in turn."""
    engines: list[Engine] = []

    def make(**more) -> Claims:
        if request.param == "memory":
            return MemoryClaims(lambda: clock["s"], **more)
        if request.param == "sqlite":
            engine = open_engine(f"sqlite:///{tmp_path / 'claims.db'}")
            engines.append(engine)
            METADATA.create_all(engine)
        else:
            engine = request.getfixturevalue("postgresql_engine")
            empty(engine)
        return SqlClaims(engine, lambda: clock["s"], **more)

    yield make
    for engine in engines:
        engine.dispose()
