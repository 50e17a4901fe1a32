"""What the fault tests share."""

from __future__ import annotations

import uuid

import pytest


@pytest.fixture
def bucket_name() -> str:
    """A name that no other test uses."""
    return f"faults-{uuid.uuid4().hex[:12]}"
