"""Databases with the present schema: a SQLite file and a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from scheduler.records.schema import open_database, sqlite_url


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """An empty database, migrated from nothing."""
    if request.param == "sqlite":
        url = sqlite_url(tmp_path / "records" / "controller.db")
    else:
        url = request.getfixturevalue("postgresql").new_url()
    made = open_database(url)
    yield made
    made.dispose()
