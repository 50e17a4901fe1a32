"""Databases for tests of the lifecycle with all that it has in production."""

from __future__ import annotations

from tests.scheduler.records.conftest import engine

__all__ = ["engine"]
