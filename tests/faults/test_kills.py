"""kill -9 under load: of one process, of a proxy, of two of three replicas, and of everything at once.

Every answer is judged as it comes (see workload.py): a lost or stale write, a wrong byte, an error that retries don't cure
ends the test. Times below are those of the load, which has to run while processes die; nothing is decided by them.
"""

from __future__ import annotations

import urllib.request
from collections.abc import Callable

import pytest
import trio

from storage_node.device import Device
from tests.faults.workload import Worker
from tests.support.cluster import TestCluster
from tests.support.http_client import HttpClient

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]
MakeCluster = Callable[..., TestCluster]
WORKERS = 6
LOAD_S = 1.5


def token_of(cluster: TestCluster) -> tuple[str, str]:
    """A token and the path of the account."""
    values = cluster.credentials
    request = urllib.request.Request(
        values["ST_AUTH"], headers={"X-Auth-User": values["ST_USER"], "X-Auth-Key": values["ST_KEY"]}
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return answer.headers["X-Auth-Token"], "/" + answer.headers["X-Storage-Url"].split("/", 3)[3]


async def make_workers(cluster: TestCluster) -> list[Worker]:
    """Workers with a container."""
    token, account = await trio.to_thread.run_sync(token_of, cluster)
    client = HttpClient(cluster.port, {"X-Auth-Token": token})
    status, _, _ = await client.request("PUT", f"{account}/load")
    assert status in (201, 202)
    await client.aclose()
    return [Worker(number, cluster.port, token, f"{account}/load") for number in range(WORKERS)]


async def under_load(workers: list[Worker], hurt: Callable[[], None], rounds: int) -> None:
    """Run the workers; every LOAD_S hurt the cluster; in the end read everything back."""
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        for worker in workers:
            nursery.start_soon(worker.run, stop)
        for _ in range(rounds):
            await trio.sleep(LOAD_S)
            await trio.to_thread.run_sync(hurt)
        await trio.sleep(LOAD_S)
        stop.set()
    for worker in workers:
        await worker.check_all()


async def test_any_one_storage_process_dies(make_cluster: MakeCluster) -> None:
    """Each storage process in turn is killed under load: nothing acknowledged is lost or stale, retries cure all else."""
    cluster = make_cluster()
    workers = await make_workers(cluster)
    count = len(cluster.processes("storage"))
    victims = iter(range(count))

    def hurt() -> None:
        cluster.wait_ready()
        cluster.kill("storage", next(victims))

    await under_load(workers, hurt, count)
    assert sum(worker.seen["PUT 201"] for worker in workers) > 50 * count


async def test_a_proxy_dies(make_cluster: MakeCluster) -> None:
    """A proxy worker is killed under load, three times: clients see broken connections, and a retry cures them."""
    cluster = make_cluster("--workers", "2")
    workers = await make_workers(cluster)
    await under_load(workers, lambda: void(cluster.kill("proxy", 0)), 3)


async def test_two_of_three_replicas_are_gone(make_cluster: MakeCluster) -> None:
    """With two of a name's three devices hanging or dead, writes land on handoffs, say so, and are read back."""
    cluster = make_cluster("--devices-per-zone", "2")
    token, account = await trio.to_thread.run_sync(token_of, cluster)
    client = HttpClient(cluster.port, {"X-Auth-Token": token}, timeout_s=60)
    assert (await client.request("PUT", f"{account}/c"))[0] == 201
    names = [f"{account}/c/name{number}" for number in range(30)]
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


async def test_everything_dies_at_once_ten_times(make_cluster: MakeCluster) -> None:
    """After each of ten kill -9 of all processes under load every acknowledged write reads back; fsck is clean."""
    cluster = make_cluster()
    workers = await make_workers(cluster)
    for _ in range(10):
        async with trio.open_nursery() as nursery:
            for worker in workers:
                nursery.start_soon(worker.run, trio.Event())
            await trio.sleep(LOAD_S)
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


def void(_: object) -> None:
    """Throw a result away."""
