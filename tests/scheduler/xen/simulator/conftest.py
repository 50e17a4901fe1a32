"""A world for each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scheduler.xen.simulator.world import Client, World


@pytest.fixture
def world(tmp_path: Path) -> World:
    """One pool of three hosts in which nothing takes time."""
    return World(tmp_path)


@pytest.fixture
def client(world: World) -> Client:
    """A session with it."""
    return world.one


@pytest.fixture
def slow(tmp_path: Path) -> World:
    """Two pools of three hosts in which things take as long as on real servers."""
    return World(tmp_path, pools=2, latency=1.0)
