"""Fixtures of the storage node's tests."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def memory_path() -> Iterator[Path]:
    """An empty directory, in memory where there is such a place: a device syncs a lot, and tests need not wait for it."""
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    made = Path(tempfile.mkdtemp(prefix="ringstead-test-", dir=memory))
    yield made
    shutil.rmtree(made)
