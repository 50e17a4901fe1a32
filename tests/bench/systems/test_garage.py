"""What Garage says is understood."""

from __future__ import annotations

import pytest

from bench.systems.base import S3Access, SystemFailed
from bench.systems.garage import access_in, version_in

MADE = """==== ACCESS KEY INFORMATION ====
Key ID:              GK31c2f218a2e44f485b94239e
Key name:            bench
Secret key:          7d37d093435a41f2aab8f13c19ba067d9776c90215f56614adad6ece597dbb34
Created:             2026-11-27 02:12:00.000 +00:00
"""


def test_the_version_is_a_number() -> None:
    """Whoever built it."""
    assert version_in("garage v2.1.0 [features: k2v, lmdb]\n") == "2.1.0"
    assert version_in("garage cargo:2.5.0 [features: bundled-libs, k2v, lmdb, metrics, sqlite]\n") == "2.5.0"


def test_a_new_key_is_read() -> None:
    """The id, the secret, and the region that requests are signed for."""
    secret = "7d37d093435a41f2aab8f13c19ba067d9776c90215f56614adad6ece597dbb34"
    assert access_in(MADE) == S3Access("GK31c2f218a2e44f485b94239e", secret, "garage")


def test_no_key_is_a_failure() -> None:
    """With what was said instead."""
    with pytest.raises(SystemFailed, match="quorum"):
        access_in("Error: Could not reach quorum")
