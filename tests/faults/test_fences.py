"""Disks that fail under a running cluster: the device takes no writes, says so, is released, and gets what it missed.

The disk fails for real processes: a library loaded before libc lets their fdatasync or pread return EIO (failing_disk.c).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from ringstead.processes.control import ask, control_path
from tests.faults.test_repair import daemon, holds, primaries, ring_of, until
from tests.faults.workload import token_of
from tests.support.cluster import TestCluster
from tests.support.http_client import HttpClient

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]
VICTIM = "z2d1"


@pytest.fixture
def faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder; a file in it makes a disk fail. Skips where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler to make a failing disk with")
    library, folder = tmp_path / "failing_disk.so", tmp_path / "faults"
    folder.mkdir()
    source = Path(__file__).with_name("failing_disk.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
    monkeypatch.setenv("LD_PRELOAD", str(library))
    monkeypatch.setenv("RINGSTEAD_FAULTS", str(folder))
    return folder


def fence_of(cluster: TestCluster) -> str:
    """Why the victim takes no writes, as its process says."""
    answer = ask(control_path(cluster.data / "run", f"storage-{VICTIM}"), "status", timeout_s=20.0)
    fenced: str = answer["devices"][VICTIM]["fenced"]
    return fenced


def fenced_metric(cluster: TestCluster) -> bool:
    """Whether /metrics says so."""
    with urllib.request.urlopen(f"{cluster.endpoint}/metrics", timeout=20) as response:
        lines = response.read().decode().splitlines()
    return any(
        line.startswith("ringstead_device_fenced{") and f'device="{VICTIM}"' in line and line.endswith(" 1.0")
        for line in lines
    )


async def test_a_failing_disk_is_fenced_until_an_operator_releases_it(
    faults: Path, make_cluster: Callable[..., TestCluster]
) -> None:
    """Its syncs fail, later its reads: clients notice nothing; status and metrics do; released, it gets what it missed.

    After failed syncs the device is opened anew in place. Reads fail in a proxy, which reads the disk itself, and it is the
    device's own process that fences it.
    """
    cluster = make_cluster("--devices-per-zone", "1")
    token, account = await trio.to_thread.run_sync(token_of, cluster)
    client = HttpClient(cluster.port, {"X-Auth-Token": token})
    assert (await client.request("PUT", f"{account}/c"))[0] == 201
    await syncs_fail(cluster, client, f"{account}/c", faults / f"sync-{VICTIM}")
    await reads_fail(cluster, client, f"{account}/c", faults / f"read-{VICTIM}")
    assert [process.deaths for process in cluster.processes()] == [0] * len(cluster.processes())
    await client.aclose()


async def syncs_fail(cluster: TestCluster, client: HttpClient, container: str, fault: Path) -> None:
    """Writes go on without the device; it is not released while it fails, and then it is."""
    fault.touch()
    bodies = await put_some(client, f"{container}/sync")
    assert "fdatasync of the log failed" in fence_of(cluster)
    found = json.loads((await trio.to_thread.run_sync(cluster.ringstead, "status", "--json")).stdout)
    assert not found["healthy"]
    said = (await trio.to_thread.run_sync(cluster.ringstead, "device", "list")).stdout
    assert f"{VICTIM} takes no writes: fdatasync of the log failed" in said
    assert f"ringstead device release {VICTIM}" in said
    await trio.to_thread.run_sync(until, lambda: fenced_metric(cluster), lambda: "no metric says that it is fenced")
    assert "a device takes no writes" in (cluster.data / "logs" / f"storage-{VICTIM}.log").read_text()
    refused = await trio.to_thread.run_sync(lambda: cluster.ringstead("device", "release", VICTIM, check=False))
    assert refused.returncode == 1
    assert f"{VICTIM} can't be released" in refused.stderr
    fault.unlink()
    await trio.to_thread.run_sync(cluster.ringstead, "device", "release", VICTIM)
    assert fence_of(cluster) == ""
    ring, folder = ring_of(cluster), cluster.data / "devices" / VICTIM
    keys = [name.removeprefix("/v1").encode() for name in bodies]
    await trio.to_thread.run_sync(
        until,
        lambda: all(holds(folder, ring, key) for key in keys),
        lambda: (daemon(cluster, "replicator"), cluster.logs()),
    )
    await read_all(client, bodies)


async def reads_fail(cluster: TestCluster, client: HttpClient, container: str, fault: Path) -> None:
    """Other replicas answer; once released, the device stays so, although what could not be read is still suspect."""
    bodies = await put_some(client, f"{container}/read")
    folder = cluster.data / "devices" / VICTIM
    assert any(primaries(cluster, name.removeprefix("/v1").encode())[0] == folder for name in bodies)
    fault.touch()
    await read_all(client, bodies)
    await trio.to_thread.run_sync(
        until, lambda: "the disk failed to read" in fence_of(cluster), lambda: (fence_of(cluster), cluster.logs())
    )
    fault.unlink()
    await trio.to_thread.run_sync(cluster.ringstead, "device", "release", VICTIM)
    await trio.to_thread.run_sync(
        until, lambda: daemon(cluster, "auditor")["backlog"] == 0, lambda: daemon(cluster, "auditor")
    )
    assert fence_of(cluster) == ""


async def put_some(client: HttpClient, prefix: str) -> dict[str, bytes]:
    """Store objects; what each holds."""
    bodies = {f"{prefix}-{number}": os.urandom(3_000) for number in range(20)}
    for name, body in bodies.items():
        assert (await client.request("PUT", name, body))[0] == 201
    return bodies


async def read_all(client: HttpClient, bodies: dict[str, bytes]) -> None:
    """Each is what was stored."""
    for name, body in bodies.items():
        status, _, content = await client.request("GET", name)
        assert (status, content) == (200, body)
