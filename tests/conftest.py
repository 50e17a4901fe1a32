"""Fixtures that start whole clusters of real processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.cluster import TestCluster

ClusterFactory = Callable[..., TestCluster]


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
