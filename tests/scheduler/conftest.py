"""What the scheduler's tests share: a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.postgresql import PostgresServer, run_postgresql


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresServer]:
    """A real PostgreSQL for all tests that need one; they are skipped where it is not installed."""
    with run_postgresql() as server:
        yield server
