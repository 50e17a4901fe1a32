"""SIGSTOP under load: a storage process, then a proxy, that neither works nor dies.

Nothing tells that a stopped process is stopped: its sockets are open, the kernel takes what is sent to it. So what it holds
up must be bounded by time-outs, and what it does when it wakes up must not undo what came meanwhile.

Nothing here is timed: a process stays frozen until others' answers have come.

A proxy that wakes up goes on with the requests that it had read, though their clients are gone: a write without an answer
may be done at any later time, and the judges here allow for that (`lingering`).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator

import pytest
import trio

from tests.faults.workload import Worker, make_workers, until_acknowledged
from tests.support.cluster import TestCluster
from tests.support.http_client import HttpClient

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(300)]
FACTOR = 10 if os.environ.get("RINGSTEAD_FAULT_TESTS") == "all" else 1
WRITES = 20
PROBES = 30 * FACTOR
"""Requests of each kind that a client has answered while a device is frozen: each device is the first of some names."""
GIVEN_UP_S = 1.0
ANSWERED_S = 60.0
"""Generous: a busy machine, and the proxies' own time-outs, one after the other. A request that waited for the frozen
process would not be answered at all: it stays frozen until the probes have their answers."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestCluster]:
    """Three devices and two proxies, all of which run again when a test ends."""
    options = ("--devices-per-zone", "1", "--workers", "2")
    made = TestCluster(tmp_path_factory.mktemp("frozen") / "data", *options).start()
    yield made
    made.stop()


async def under_freeze(
    cluster: TestCluster, workers: list[Worker], kind: str, index: int, meanwhile: Callable[[], Awaitable[None]]
) -> None:
    """Stop a process under load, let it go on once `meanwhile` has returned, and read everything back."""
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        for worker in workers:
            nursery.start_soon(worker.run, stop)
        await until_acknowledged(workers, WRITES)
        await trio.to_thread.run_sync(lambda: cluster.kill(kind, index, with_signal="SIGSTOP"))
        await meanwhile()
        await trio.to_thread.run_sync(lambda: cluster.kill(kind, index, with_signal="SIGCONT"))
        await until_acknowledged(workers, WRITES)
        stop.set()
    for worker in workers:
        await worker.check_all()


async def test_a_storage_process_is_frozen(cluster: TestCluster) -> None:
    """While one of three devices hangs all requests are answered, most writes are done; nothing is lost or stale after."""
    workers = await make_workers(cluster)
    client = HttpClient(cluster.port, {"X-Auth-Token": workers[0].token}, timeout_s=ANSWERED_S)
    statuses: Counter[int] = Counter()

    async def probe() -> None:
        for number in range(PROBES):
            for method, size in (("PUT", 10), ("PUT", 400_000), ("GET", 0)):
                status, _, _ = await client.request(method, f"{workers[0].container}/probe{number}", b"p" * size)
                assert status in (200, 201, 503), status
                statuses[status] += 1
        await until_acknowledged(workers, WRITES)

    await under_freeze(cluster, workers, "storage", 1, probe)
    await client.aclose()
    assert statuses[201] > statuses[503]


async def test_a_proxy_is_frozen(cluster: TestCluster) -> None:
    """While one of two workers hangs, clients who give up and come again are served; when it wakes up nothing is undone that
    was acknowledged after what it still does."""
    workers = await make_workers(cluster)
    for worker in workers:
        worker.lingering = True
        worker.set_timeout(GIVEN_UP_S)

    async def until_given_up() -> None:
        with trio.fail_after(ANSWERED_S):
            while not any(worker.seen["no answer"] for worker in workers):
                for worker in workers:
                    worker.set_timeout(GIVEN_UP_S)  # and so a new connection, to whichever proxy the kernel chooses
                await trio.sleep(2 * GIVEN_UP_S)
        await until_acknowledged(workers, WRITES)

    await under_freeze(cluster, workers, "proxy", 0, until_given_up)
