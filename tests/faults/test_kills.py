"""kill -9 under load: of one process, of a proxy, of two of three replicas, and of everything at once.

Every answer is judged as it comes (see workload.py): a lost or stale write, a wrong byte, an error that retries don't cure
ends the test. `make test` kills everything three times, `make long` ten.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
import trio

from storage_node.device import Device
from tests.faults.workload import Worker, make_workers, token_of, until_acknowledged
from tests.support.cluster import TestCluster
from tests.support.http_client import HttpClient

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]
WRITES = 40
"""Acknowledged between two blows: the load is counted, not timed, so that it is the same on a busy machine."""
DEATHS = 10 if os.environ.get("RINGSTEAD_FAULT_TESTS") == "all" else 3


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestCluster]:
    """One with the default shape for all of these; each uses a container of its own and leaves all processes well."""
    made = TestCluster(tmp_path_factory.mktemp("kills") / "data").start()
    yield made
    made.stop()


async def under_load(workers: list[Worker], hurt: Callable[[], object], rounds: int) -> None:
    """Run the workers and hurt the cluster again and again while they write; in the end read everything back."""
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        for worker in workers:
            nursery.start_soon(worker.run, stop)
        for _ in range(rounds):
            await until_acknowledged(workers, WRITES)
            await trio.to_thread.run_sync(hurt)
        await until_acknowledged(workers, WRITES)
        stop.set()
    for worker in workers:
        await worker.check_all()


async def test_any_one_storage_process_dies(cluster: TestCluster) -> None:
    """Each storage process in turn is killed under load: nothing acknowledged is lost or stale, retries cure all else."""
    workers = await make_workers(cluster)
    count = len(cluster.processes("storage"))
    victims = iter(range(count))

    def hurt() -> None:
        cluster.wait_ready()
        cluster.kill("storage", next(victims))

    await under_load(workers, hurt, count)
    await trio.to_thread.run_sync(cluster.wait_ready)


async def test_a_proxy_dies(cluster: TestCluster) -> None:
    """A proxy worker is killed under load, three times: clients see broken connections, and a retry cures them."""
    workers = await make_workers(cluster)
    assert len(cluster.processes("proxy")) == 2
    await under_load(workers, lambda: cluster.kill("proxy", 0), 3)
    await trio.to_thread.run_sync(cluster.wait_ready)


async def test_two_of_three_replicas_are_gone(cluster: TestCluster) -> None:
    """With two of a name's three devices hanging or dead, writes land on handoffs, say so, and are read back."""
    token, account = await trio.to_thread.run_sync(token_of, cluster)
    client = HttpClient(cluster.port, {"X-Auth-Token": token}, timeout_s=60)
    box = f"{account}/degraded"
    assert (await client.request("PUT", box))[0] == 201
    names = [f"{box}/name{number}" for number in range(30)]
    for name in names:
        assert (await client.request("PUT", name, b"old"))[0] == 201
    for index in range(4):  # two zones: every name loses two of its three devices
        cluster.kill("storage", index, hold=True)
    degraded = 0
    for name in names:
        for _ in range(5):
            status, headers, _ = await client.request("PUT", name, b"new" + name.encode())
            if status == 201:
                break
        assert status == 201
        degraded += headers.get("x-ringstead-consistency") == "degraded"
    assert degraded == len(names)
    for name in names:
        status, _, content = await client.request("GET", name)
        assert (status, content) == (200, b"new" + name.encode())
    for index in range(4):
        cluster.release("storage", index)
    cluster.wait_ready()
    for name in names:
        status, _, content = await client.request("GET", name)
        assert (status, content) == (200, b"new" + name.encode())
    await client.aclose()


async def test_everything_dies_at_once_again_and_again(cluster: TestCluster) -> None:
    """After each kill -9 of all processes under load every acknowledged write reads back; at the end fsck is clean.

    The last one here: it stops the cluster.
    """
    workers = await make_workers(cluster)
    for _ in range(DEATHS):
        async with trio.open_nursery() as nursery:
            for worker in workers:
                nursery.start_soon(worker.run, trio.Event())
            await until_acknowledged(workers, WRITES)
            await trio.to_thread.run_sync(cluster.kill_all)
            nursery.cancel_scope.cancel()
        for worker in workers:
            worker.interrupted()
        await trio.to_thread.run_sync(cluster.start)
        for worker in workers:
            await worker.check_all()
    await trio.to_thread.run_sync(cluster.stop)
    devices = sorted((cluster.data / "devices").iterdir())
    assert devices
    for folder in devices:
        device = Device.open(folder)
        assert device.check() == []
        device.close()
