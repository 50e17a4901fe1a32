"""Fixtures for all: whole clusters of real processes, and a folder in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.cluster import TestCluster
from tests.support.memory import memory_folder

ClusterFactory = Callable[..., TestCluster]

# Nothing here fails for being slow: how long an example takes says how busy the machine is.
settings.register_profile("ringstead", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ringstead")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestCluster]:
    """One cluster with the default shape for all tests that do not harm it."""
    made = TestCluster(tmp_path_factory.mktemp("cluster") / "data")
    made.start()
    yield made
    made.stop()


@pytest.fixture
def make_cluster(tmp_path: Path) -> Iterator[ClusterFactory]:
    """Makes clusters of a test's own: `make_cluster("--zones", "1", start=True)`; stopped when the test ends."""
    made: list[TestCluster] = []

    def make(*options: str, start: bool = True) -> TestCluster:
        cluster = TestCluster(tmp_path / f"cluster-{len(made)}", *options)
        made.append(cluster)
        return cluster.start() if start else cluster

    yield make
    for cluster in made:
        cluster.stop()


@pytest.fixture
def memory_path() -> Iterator[Path]:
    """An empty folder, in memory where there is such a place: devices sync a lot, and tests need not wait for a disk."""
    with memory_folder() as folder:
        yield folder
