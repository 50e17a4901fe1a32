"""Logs are caught, not printed, and tests can look at them."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest
import structlog.testing


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[MutableMapping[str, Any]]]:
    """What was logged during the test."""
    with structlog.testing.capture_logs() as caught:
        yield caught
