"""What clients are told while devices are away."""

from __future__ import annotations

from proxy.users import User
from tests.proxy.swift.conftest import Cloud, Time
from tests.support.small_cluster import small_cluster


async def test_answers_say_how_sure_they_are() -> None:
    """With two of three primaries gone a write lands on handoffs, is read back, and both answers say so."""
    async with small_cluster(devices=6, local=False) as cluster:
        cloud = Cloud(cluster, Time())
        await cloud.add_user(User("science", "ada", stamp=b"12345678"))
        await cloud.ask("PUT", "c")
        whole = await cloud.put("c/o", b"before")
        assert "x-ringstead-consistency" not in whole.headers
        away = cluster.primaries(b"/AUTH_science/c/o")[:2]
        for node in away:
            await node.stop()
        await cluster.until_connected(connected=False, nodes=away)
        put = await cloud.put("c/o", b"after")
        assert put.headers["x-ringstead-consistency"] == "degraded"
        for method in ("GET", "HEAD"):
            answer = await cloud.ask(method, "c/o")
            assert answer.headers["x-ringstead-consistency"] == "degraded"
        assert (await cloud.ask("GET", "c/o")).body == b"after"
