"""The scheduler as an operator has it: `ringstead up` with its simulated pools, driven through the command line alone.

One story, told in order by one cluster, since each step stands on the ones before: servers from an image in three zones, a
group kept apart, a volume, a move with its disks between hosts that share no storage, a host that dies, a zone emptied.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.cluster import TestCluster

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

IMAGE_BYTES = 2_000_000
COMMAND_TIMEOUT_S = 240.0


class Cloud:
    """A cluster with a controller and three simulated pools, and the command line to it."""

    def __init__(self, cluster: TestCluster) -> None:
        self.cluster = cluster

    def run(self, *words: str, check: bool = True, environment: dict[str, str] | None = None) -> Any:
        """`ringstead WORDS --json`; what it answers."""
        done = self.raw(*words, "--json", environment=environment)
        assert not check or done.returncode == 0, f"{words}: {done.stderr}{self.cluster.logs()}"
        return json.loads(done.stdout) if done.stdout else {}

    def raw(self, *words: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """`ringstead WORDS`, as it is."""
        command = [sys.executable, "-m", "ringstead", *words, "--data", str(self.cluster.data)]
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            env={**os.environ, **(environment or {})},
            check=False,
        )

    def refused(self, *words: str, environment: dict[str, str] | None = None) -> str:
        """What a command that does not work says: one line, and no trace-back."""
        done = self.raw(*words, environment=environment)
        assert done.returncode in (1, 2), done
        lines = [line for line in done.stderr.splitlines() if line.startswith("ringstead: ")]
        assert len(lines) == 1, done.stderr
        assert "Traceback" not in done.stderr
        return lines[0]

    def server(self, name: str) -> Any:
        """A server as it is now."""
        return self.run("server", "show", name)

    def simulator(self, path: str, method: str = "GET") -> Any:
        """Ask the simulator's control interface: for faults, and for what the pools really hold."""
        port = tomllib.loads((self.cluster.data / "cluster.toml").read_text())["xen_port"]
        request = urllib.request.Request(f"http://127.0.0.1:{port}/_sim/{path}", method=method)
        with urllib.request.urlopen(request, timeout=20) as response:
            return json.loads(response.read())


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A small cluster with an image in it."""
    folder = tmp_path_factory.mktemp("cloud")
    cluster = TestCluster(
        folder / "data", "--zones", "3", "--devices-per-zone", "1", "--workers", "1", xen=True
    ).start()
    cluster.wait_ready()
    (folder / "disk.raw").write_bytes(os.urandom(IMAGE_BYTES))
    made = Cloud(cluster)
    made.run("image", "create", "debian", str(folder / "disk.raw"))
    _until_pools_are_up(made)
    yield made
    cluster.stop()


def _until_pools_are_up(cloud: Cloud) -> None:
    """The simulator's pools are entered soon after the start, by the controller itself."""
    for _ in range(60):
        pools = cloud.run("pool", "list")
        if len(pools) == 3 and all(pool["state"] == "up" and pool["hosts"] == 3 for pool in pools):
            return
        select_wait()
    raise AssertionError(f"pools: {cloud.run('pool', 'list')}{cloud.cluster.logs()}")


def select_wait() -> None:
    """A moment, between two looks at a process that tells nobody when it is done."""
    import select

    select.select([], [], [], 0.5)


def test_the_demonstration(cloud: Cloud) -> None:
    """What the scheduler is for, from an uploaded image to an emptied zone, and at the end all is as it is recorded."""
    # A server from the image into each zone.
    for zone in (1, 2, 3):
        made = cloud.run(
            "server", "create", f"web{zone}", "--flavor", "tiny", "--image", "debian", "--zone", f"z{zone}", "--wait"
        )
        assert (made["server"]["state"], made["server"]["zone"]) == ("active", f"r1z{zone}")

    # Three that must be apart: by the ring each is in a zone of its own.
    cloud.run("server", "group", "create", "trio", "--policy", "anti-affinity")
    for number in (1, 2, 3):
        cloud.run(
            "server", "create", f"db{number}", "--flavor", "tiny", "--image", "debian", "--group", "trio", "--wait"
        )
    members = [cloud.server(f"db{number}") for number in (1, 2, 3)]
    assert len({member["host"] for member in members}) == 3
    assert len({member["zone"] for member in members}) == 3

    # A volume, attached while the server runs.
    cloud.run("volume", "create", "data", "--size", "1G", "--near", "web1", "--wait")
    attached = cloud.run("volume", "attach", "data", "web1", "--wait")["volume"]
    assert (attached["state"], attached["server"]) == ("in-use", "web1")

    # The server moves while it runs, with its disk and its volume, to a pool that shares no storage with its own.
    before = cloud.server("web1")
    cloud.run("server", "migrate", "web1", "--zone", "z2", "--wait")
    after = cloud.server("web1")
    assert (before["zone"], after["zone"], after["state"]) == ("r1z1", "r1z2", "active")
    assert before["pool"] != after["pool"]
    assert cloud.run("volume", "show", "data")["zone"] == "r1z2"

    # A host dies; its servers are started elsewhere in the pool, where their disks are.
    victim = _slave_with_a_server(cloud)
    lost = [server["name"] for server in cloud.run("server", "list") if server["host"] == victim]
    cloud.simulator(f"hosts/{victim}/kill", "POST")
    cloud.run("host", "evacuate", victim, "--wait")
    for name in lost:
        server = cloud.server(name)
        assert server["state"] == "active"
        assert server["host"] != victim
    assert {server["zone"] for server in (cloud.server(name) for name in lost)} <= {f"r1z{victim[4]}"}

    # A zone is emptied of all that runs there.
    held = cloud.run("zone", "show", "z3")["compute"]["servers"]
    assert held
    cloud.run("zone", "drain", "z3", "--wait")
    assert cloud.run("zone", "show", "z3")["compute"]["servers"] == []
    states = {server["name"]: (server["state"], server["zone"]) for server in cloud.run("server", "list")}
    assert all(state == "active" and zone != "r1z3" for state, zone in states.values()), states
    assert len({cloud.server(f"db{number}")["host"] for number in (1, 2, 3)}) == 3

    # And all is as it is recorded.
    assert cloud.run("reconcile")["differences"] == []


def _slave_with_a_server(cloud: Cloud) -> str:
    """A host that is not its pool's master and has a running server; one is moved there if need be."""
    masters = {host["name"] for pool in cloud.simulator("")["pools"] for host in pool["hosts"] if host["master"]}
    for server in cloud.run("server", "list"):
        if server["host"] not in masters:
            return str(server["host"])
    pool = cloud.server("web2")["pool"]
    cloud.run("server", "migrate", "web2", "--host", f"{pool}-h3", "--wait")
    return f"{pool}-h3"
