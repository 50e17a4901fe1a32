"""A simulated pool of two hosts, and the driver at it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from scheduler.xen.driver import XenPool
from tests.scheduler.xen.simulated import Simulation, driving, simulation


@pytest.fixture
async def sim(tmp_path: Path) -> AsyncIterator[Simulation]:
    """One pool of two hosts, each with storage of its own, and one SR that both reach; everything takes no time."""
    async with simulation(tmp_path) as made:
        yield made


@pytest.fixture
async def pool(sim: Simulation) -> AsyncIterator[XenPool]:
    """The driver at that pool, following it."""
    async with driving(sim.xen_pool()) as made:
        yield made
