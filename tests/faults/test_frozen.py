"""SIGSTOP under load: a storage process, then a proxy, that neither works nor dies.

Nothing tells that a stopped process is stopped: its sockets are open, the kernel takes what is sent to it. So what it holds
up must be bounded by time-outs, and what it does when it wakes up must not undo what came meanwhile.

A proxy that wakes up goes on with the requests that it had read, though their clients are gone: a write without an answer
may be done at any later time, and the judges here allow for that (`lingering`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest
import trio

from tests.faults.test_kills import make_workers, token_of
from tests.faults.workload import Worker
from tests.support.cluster import TestCluster
from tests.support.http_client import HttpClient

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(300)]
MakeCluster = Callable[..., TestCluster]
FROZEN_S = float(os.environ.get("RINGSTEAD_FAULTS_S", "6"))
"""More than the time that a proxy gives a device to take a write."""
ANSWERED_S = 15.0
"""A request is answered in this time though a device is frozen."""


async def under_freeze(cluster: TestCluster, workers: list[Worker], kind: str, index: int, frozen_s: float) -> None:
    """Stop a process for a while under load, let it go on, and read everything back."""
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        for worker in workers:
            nursery.start_soon(worker.run, stop)
        await trio.sleep(1.0)
        await trio.to_thread.run_sync(lambda: cluster.kill(kind, index, with_signal="SIGSTOP"))
        await trio.sleep(frozen_s)
        await trio.to_thread.run_sync(lambda: cluster.kill(kind, index, with_signal="SIGCONT"))
        await trio.sleep(1.0)
        stop.set()
    for worker in workers:
        await worker.check_all()


async def test_a_storage_process_is_frozen(make_cluster: MakeCluster) -> None:
    """Each request is answered in bounded time while one of three devices hangs, and nothing is lost or stale after."""
    cluster = make_cluster("--devices-per-zone", "1")
    workers = await make_workers(cluster)
    token, account = await trio.to_thread.run_sync(token_of, cluster)
    slowest_s = 0.0
    acknowledged = 0

    async def probe() -> None:
        nonlocal slowest_s, acknowledged
        client = HttpClient(cluster.port, {"X-Auth-Token": token}, timeout_s=ANSWERED_S)
        number = 0
        while True:
            number += 1
            for method, size in (("PUT", 10), ("PUT", 400_000), ("GET", 0)):
                began_s = time.monotonic()
                status, _, _ = await client.request(method, f"{account}/load/probe{number}", b"p" * size)
                slowest_s = max(slowest_s, time.monotonic() - began_s)
                assert status in (200, 201, 503), status
                acknowledged += status == 201

    async with trio.open_nursery() as nursery:
        nursery.start_soon(probe)
        await under_freeze(cluster, workers, "storage", 1, FROZEN_S)
        nursery.cancel_scope.cancel()
    assert slowest_s < ANSWERED_S
    assert acknowledged > 20


async def test_a_proxy_is_frozen(make_cluster: MakeCluster) -> None:
    """While one of two workers hangs, clients who give up and come again are served; when it wakes up nothing is undone that
    was acknowledged after what it still does."""
    cluster = make_cluster("--devices-per-zone", "1", "--workers", "2")
    workers = await make_workers(cluster)
    for worker in workers:
        worker.lingering = True
        worker.set_timeout(1.0)
    await under_freeze(cluster, workers, "proxy", 0, FROZEN_S / 2)
    assert sum(worker.seen["PUT 201"] for worker in workers) > 20
