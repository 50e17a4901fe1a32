"""Expiry and the removal of accounts by real processes that are killed while they work."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

import pytest
import trio

from tests.faults.workload import token_of
from tests.support.cluster import TestCluster
from tests.support.http_client import HttpClient

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(300)]
MakeCluster = Callable[..., TestCluster]
COUNT = 40
WITHIN_S = 30.0
"""After the last object's time all are gone: the interval is 5 s, the rest is a process that starts on a busy machine."""


async def names(client: HttpClient, container: str) -> list[str]:
    """What a container lists."""
    status, _, content = await client.request("GET", f"{container}?limit=10000")
    assert status in (200, 204)
    return content.decode().split()


async def test_what_expires_goes_while_everything_is_killed(make_cluster: MakeCluster) -> None:
    """kill -9 of the daemons, of devices and proxies while objects expire: those and only those go, with their rows."""
    cluster = make_cluster("--devices-per-zone", "1")
    token, account = await trio.to_thread.run_sync(token_of, cluster)
    client = HttpClient(cluster.port, {"X-Auth-Token": token})
    box = f"{account}/box"
    assert (await client.request("PUT", box))[0] == 201
    kept: dict[str, bytes] = {}

    async def until_done(method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        """Retry what a kill broke."""
        with trio.fail_after(60):
            while True:
                try:
                    if (await client.request(method, path, body, headers))[0] < 300:
                        return
                except (OSError, trio.BrokenResourceError):
                    pass
                await trio.sleep(0.1)

    for number in range(COUNT):
        size = (10, 5_000, 300_000)[number % 3]
        after = {"X-Delete-After": str(5 + number % 5)}
        await until_done("PUT", f"{box}/{number}", b"o" * size, after)
        if number % 6 == 0:
            kept[str(number)] = b"new" * 10
            await until_done("PUT", f"{box}/{number}", kept[str(number)])
        elif number % 6 == 1:
            kept[str(number)] = b"o" * size
            await until_done("POST", f"{box}/{number}", b"", {"X-Delete-After": "1000"})
        if number % 12 == 7:
            victim = ("daemons", "storage", "proxy")[number // 12]
            await trio.to_thread.run_sync(cluster.kill, victim)
    looks = 0
    with trio.fail_after(10 + WITHIN_S):
        while sorted(await names(client, box)) != sorted(kept):
            await trio.sleep(1.0)
            looks += 1
            if looks in (3, 7):
                await trio.to_thread.run_sync(cluster.kill, "daemons")
                await trio.to_thread.run_sync(cluster.wait_ready)
    for number in range(COUNT):
        status, _, content = await client.request("GET", f"{box}/{number}")
        assert (status, content) == ((200, kept[str(number)]) if str(number) in kept else (404, content))
    described = json.loads(cluster.ringstead("daemon", "expirer", "--json").stdout)
    assert described["statistics"]["backlog"] == 0
    assert described["failures"] == 0
    await client.aclose()


@pytest.mark.skipif(
    os.environ.get("RINGSTEAD_FAULT_TESTS") != "all", reason="20 s: in `make long` (RINGSTEAD_FAULT_TESTS)"
)
async def test_a_deleted_account_goes_while_the_reaper_is_killed(make_cluster: MakeCluster) -> None:
    """A reaper that is killed again and again removes a deleted account to the end; the other account keeps its data."""
    cluster = make_cluster("--devices-per-zone", "1", start=False)
    await trio.to_thread.run_sync(cluster.start)
    await trio.to_thread.run_sync(cluster.stop)
    settings = cluster.data / "config" / "daemons.toml"
    settings.write_text(
        settings.read_text() + "reaper_delay_s = 10.0\nreaper_interval_s = 0.5\nreaper_objects_per_s = 40.0\n"
    )
    await trio.to_thread.run_sync(cluster.start)
    token, account = await trio.to_thread.run_sync(token_of, cluster)
    client = HttpClient(cluster.port, {"X-Auth-Token": token})
    gone = "/v1/AUTH_gone"
    for path in (gone, f"{gone}/box", f"{account}/box"):
        assert (await client.request("PUT", path))[0] in (201, 202)
    for number in range(150):
        assert (await client.request("PUT", f"{gone}/box/{number}", b"x" * 100))[0] == 201
    assert (await client.request("PUT", f"{account}/box/kept", b"kept"))[0] == 201
    assert (await client.request("DELETE", gone))[0] == 204
    assert (await client.request("PUT", gone))[0] == 403
    kills = 0
    with trio.fail_after(90):
        while (await client.request("PUT", gone))[0] == 403:
            await trio.sleep(1.0)
            objects = json.loads(cluster.ringstead("daemon", "reaper", "--json").stdout)["statistics"]["objects"]
            if objects > 0 and kills < 3:
                kills += 1
                await trio.to_thread.run_sync(cluster.kill, "daemons")
                await trio.to_thread.run_sync(cluster.wait_ready)
    assert kills >= 2
    assert (await client.request("GET", f"{gone}/box"))[0] == 404
    status, headers, _ = await client.request("HEAD", gone)
    assert (status, headers["x-account-container-count"]) == (204, "0")
    assert (await client.request("GET", f"{account}/box/kept"))[2] == b"kept"
    await client.aclose()
