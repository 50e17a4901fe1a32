"""A ring change under load, with real processes: a zone joins, a node is drained, and nothing is lost.

Meanwhile the daemons (the replicator among them) and a proxy are killed. In the end all replicas lie where the newest ring
says, the drained devices hold nothing and are out of the ring, and the old rings are out of force.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import trio

from ring import ring_file
from ring.ring import Ring
from ringstead.commands.access import Target
from ringstead.errors import ClusterDown
from ringstead.processes.control import ask, control_path
from ringstead.rings.change import Progress, progress
from ringstead.rings.in_force import load_generations
from storage_node.device import Device
from storage_node.operations import Entry, FoundEntries, ListEntries, Space
from tests.faults.workload import make_workers
from tests.support.cluster import TestCluster

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]
MakeCluster = Callable[..., TestCluster]
DONE_S = 180.0
"""Generous: a machine that runs other tests beside takes many times what an idle one does (15 s for each move)."""


async def test_a_zone_joins_and_a_node_is_drained_under_load(make_cluster: MakeCluster) -> None:
    """Every answer is right throughout; kill -9 of replicator and proxy in the middle costs no more than retries."""
    cluster = make_cluster("--zones", "3", "--devices-per-zone", "2", "--workers", "2")
    quicken(cluster)
    workers = await make_workers(cluster)
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        for worker in workers:
            nursery.start_soon(worker.run, stop)
            nursery.start_soon(keep_listing, worker, stop)
        await trio.to_thread.run_sync(grow, cluster)
        await trio.to_thread.run_sync(drain, cluster)
        stop.set()
    for worker in workers:
        await worker.check_all()
    assert sum(worker.seen["PUT 201"] for worker in workers) > 100
    assert not any(key.endswith((" 400", " 409", " 412")) for worker in workers for key in worker.seen)
    await trio.to_thread.run_sync(until_home, cluster)
    await trio.to_thread.run_sync(remove, cluster)
    await trio.to_thread.run_sync(cluster.stop)
    ring = ring_file.load(cluster.data / "cluster.ring")
    assert list((cluster.data / "cluster.ring.moving").glob("*.ring")) == []
    check_places(cluster.data / "devices", ring)


async def keep_listing(worker: Any, stop: trio.Event) -> None:
    """List a worker's names again and again: a name that is certain and idle is there, one that is gone is not."""
    while not stop.is_set():
        await worker.check_listing()
        await trio.sleep(0.2)


def quicken(cluster: TestCluster) -> None:
    """Rounds every half second, and two seconds for all processes to follow."""
    path = cluster.data / "config" / "daemons.toml"
    path.write_text(path.read_text() + "replicator_interval_s = 0.5\nreplicator_move_s = 2.0\n")
    cluster.kill("daemons")
    cluster.wait_ready()


def rebalance(cluster: TestCluster, *words: str) -> dict[str, Any]:
    """What `ringstead rebalance WORDS --json` says."""
    answer: dict[str, Any] = json.loads(cluster.ringstead("rebalance", *words, "--json").stdout)
    return answer


def state(cluster: TestCluster) -> Progress:
    """The same without a process, for those who look again and again."""
    settings = Target(cluster.data).settings()
    return progress(settings, load_generations(settings.ring_file))


def grow(cluster: TestCluster) -> None:
    """A fourth zone joins, slowed, paused, with a kill of the replicator; until it is done."""
    wait = threading.Event()
    wait.wait(2.0)  # of load, so that there is something to move
    assert rebalance(cluster, "grow", "--zones", "4", "--rate", "300kB")["added"] == ["z4d1", "z4d2"]
    assert [process.name for process in cluster.processes("storage")][-2:] == ["storage-z4d1", "storage-z4d2"]
    assert rebalance(cluster, "pause")["paused"]
    until(lambda: state(cluster).moving > 0, "the replicator sees the move")
    cluster.kill("daemons")
    cluster.wait_ready()
    until(lambda: state(cluster).moving > 0, "the replicator sees it again")
    assert rebalance(cluster)["paused"]
    assert rebalance(cluster)["epochs"] == [2, 1]
    status = json.loads(cluster.ringstead("status", "--json").stdout)
    assert status["rebalance"]["paused"]
    assert status["rebalance"]["share"] < 1
    refused = cluster.ringstead("rebalance", "start", check=False)
    assert refused.returncode == 1
    assert "still moves" in refused.stderr
    rebalance(cluster, "resume")
    cluster.kill("daemons")
    cluster.kill("proxy")
    rebalance(cluster, "throttle", "none", "--device", "none")
    until(lambda: state(cluster).epochs == [2], "the zone has joined")


def drain(cluster: TestCluster) -> None:
    """All devices of zone 1 are emptied, with a kill of a proxy and of a device that is being emptied."""
    topology = str(cluster.data / "ring.toml")
    cluster.command("ring", "--file", topology, "drain", "z1", "--yes")
    planned = rebalance(cluster, "plan")
    assert planned["bytes"] > 0
    assert {zone["from"] for zone in planned["zones"]} == {"r1z1"}
    assert rebalance(cluster, "start")["epoch"] == 3
    cluster.kill("proxy", 1)
    cluster.kill("storage", 0)
    cluster.kill("daemons")
    until(lambda: state(cluster).epochs == [3], "the node is drained")


def until_home(cluster: TestCluster) -> None:
    """Until the replicator finds nothing to do, and the devices of zone 1 say that they hold nothing."""

    def quiet() -> bool:
        try:
            answer = ask(control_path(cluster.data / "run", "daemons"), "status", timeout_s=20.0)
        except ClusterDown:  # it was killed, and comes back
            return False
        figures = answer["daemons"]["replicator"]["statistics"]
        return not figures["differing"] and not figures["backlog"]

    def empty() -> bool:
        until(quiet, "the replicator is done")
        status = json.loads(cluster.ringstead("status", "--json").stdout)
        drained = [device for device in status["devices"] if device["zone"] == 1]
        return len(drained) == 2 and not any(device["objects"] or device["containers"] for device in drained)

    until(empty, "all has gone home")


def remove(cluster: TestCluster) -> None:
    """The empty devices are taken out of the ring, and their processes end."""
    cluster.command("ring", "--file", str(cluster.data / "ring.toml"), "remove", "z1", "--yes")
    assert rebalance(cluster, "start")["epoch"] == 4
    until(lambda: state(cluster).epochs == [4], "the devices are out of the ring")
    until(lambda: len(cluster.processes("storage")) == 6, "their processes have ended")
    assert not (cluster.data / "config" / "storage-z1d1.toml").exists()


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that running processes bring about."""
    deadline_s = monotonic() + DONE_S
    waiting = threading.Event()
    while not condition():
        assert monotonic() < deadline_s, what
        waiting.wait(0.2)


def check_places(devices_dir: Path, ring: Ring) -> None:
    """Every object, container and account lies on exactly its primaries, the same on each."""
    by_name = {device.name: device.id for device in ring.devices if device is not None}
    held: dict[tuple[int, bytes], dict[int, Any]] = {}
    for folder in sorted(devices_dir.iterdir()):
        device = Device.open(folder)
        for space in Space:
            answer = device.read(ListEntries(space, b"", None, 10_000))
            assert isinstance(answer, FoundEntries)
            assert not answer.truncated
            for item in answer.entries:
                entry = item.entry
                state = entry[:3] if isinstance(entry, Entry) else entry.digest
                assert folder.name in by_name, "a device that is out of the ring holds something"
                held.setdefault((space, item.hash), {})[by_name[folder.name]] = state
        assert device.check() == []
        device.close()
    places: Counter[int] = Counter()
    for (_, hash_), states in held.items():
        assert set(states) == {device.id for device in ring.primaries(ring.partition(hash_))}
        assert len(set(states.values())) == 1
        places.update(states.keys())
    assert set(places) == set(by_name.values())
    assert len(places) == 6
