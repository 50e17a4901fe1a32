"""Rot and loss under a running cluster: wrong bytes are never served, and soon there are none; an emptied disk fills again.

Real processes and real files: bytes are flipped where they lie, directories removed. What is waited for is what an operator
would look at: the daemons' figures, and the devices themselves.
"""

from __future__ import annotations

import os
import select
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from ring import ring_file
from ring.ring import Ring
from ringstead.processes.control import ask, control_path
from storage_node.device import Device
from storage_node.errors import CorruptData
from storage_node.operations import Status
from storage_node.reader import LocalReader
from tests.faults.workload import token_of
from tests.support.cluster import TestCluster
from tests.support.http_client import HttpClient

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]
MakeCluster = Callable[..., TestCluster]
PATIENCE_S = 60.0
MIB = 1024 * 1024
SMALL_BYTES, LARGE_BYTES = 4_000, 3_000_000


def until(good: Callable[[], bool], what: Callable[[], object]) -> None:
    """Until it is so. Fails after PATIENCE_S with what there is instead."""
    give_up_s = time.monotonic() + PATIENCE_S
    while not good():
        assert time.monotonic() < give_up_s, what()
        select.select([], [], [], 0.1)


def daemon(cluster: TestCluster, name: str) -> dict[str, Any]:
    """A daemon's figures."""
    answer = ask(control_path(cluster.data / "run", "daemons"), "status", timeout_s=20.0)
    figures: dict[str, Any] = answer["daemons"][name]["statistics"]
    return figures


def ring_of(cluster: TestCluster) -> Ring:
    """The cluster's ring."""
    return ring_file.load(cluster.data / "cluster.ring")


def primaries(cluster: TestCluster, key: bytes) -> list[Path]:
    """The directories of a name's devices, in the ring's order."""
    ring = ring_of(cluster)
    devices = ring.primaries(ring.partition(ring.hash_key(key)))
    return [cluster.data / "devices" / device.name for device in devices]


def files_with(folder: Path, data: bytes) -> Iterator[tuple[Path, int]]:
    """Files below a folder that hold these bytes, and where."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.stat().st_size >= len(data):
            at = path.read_bytes().find(data)
            if at >= 0:
                yield path, at


def rot(folder: Path, data: bytes) -> int:
    """Flip a byte in each copy of `data` below a folder, as a disk does: no clock, no index hears of it; -> how many."""
    count = 0
    for path, at in list(files_with(folder, data)):
        with path.open("r+b") as file:
            file.seek(at + len(data) // 2)
            byte = file.read(1)
            file.seek(at + len(data) // 2)
            file.write(bytes((byte[0] ^ 0x40,)))
        count += 1
    return count


def holds(folder: Path, ring: Ring, key: bytes) -> bool:
    """Whether the device there has a sound copy, by its own reading of the disk."""
    reader = LocalReader(folder)
    try:
        found = reader.open_read(ring.hash_key(key), key)
        if isinstance(found, Status):
            return False
        size = found.entry.size_bytes
        try:
            for start in range(0, size, MIB):
                found.read(start, min(start + MIB, size))
        except (CorruptData, OSError):
            return False
        finally:
            found.close()
        return True
    finally:
        reader.close()


async def test_what_rots_is_not_served_and_is_mended(make_cluster: MakeCluster) -> None:
    """A byte is flipped in a log and in a large object's file: every GET is right, and within seconds both are whole again.

    The mended copies are verified on the devices, after the proxies have told the auditor and without any operator.
    """
    cluster = make_cluster("--devices-per-zone", "1")
    token, account = await trio.to_thread.run_sync(token_of, cluster)
    client = HttpClient(cluster.port, {"X-Auth-Token": token})
    assert (await client.request("PUT", f"{account}/c"))[0] == 201
    bodies = {"small": os.urandom(SMALL_BYTES), "large": os.urandom(LARGE_BYTES)}
    for name, body in bodies.items():
        assert (await client.request("PUT", f"{account}/c/{name}", body))[0] == 201
    ring = ring_of(cluster)
    keys = {name: f"{account.removeprefix('/v1')}/c/{name}".encode() for name in bodies}
    for name, body in bodies.items():
        first = primaries(cluster, keys[name])[0]
        assert rot(first, body[: 64 * 1024]) == 1
        assert not holds(first, ring, keys[name])
    for _ in range(20):
        for name, body in bodies.items():
            status, _, content = await client.request("GET", f"{account}/c/{name}")
            assert (status, content) == (200, body)
    await trio.to_thread.run_sync(
        until,
        lambda: daemon(cluster, "auditor")["mended"] >= 2,
        lambda: (daemon(cluster, "auditor"), cluster.logs()),
    )
    figures = await trio.to_thread.run_sync(daemon, cluster, "auditor")
    assert (figures["rotten"], figures["backlog"]) == (2, 0)
    for name, key in keys.items():
        assert all(holds(folder, ring, key) for folder in primaries(cluster, key)), name
    await client.aclose()


async def test_an_emptied_disk_is_filled_again(make_cluster: MakeCluster) -> None:
    """A storage process dies and its device's folder is lost: started again on nothing, it soon holds all that it should.

    What was written meanwhile comes home from the handoffs, and leaves nothing there.
    """
    cluster = make_cluster()
    token, account = await trio.to_thread.run_sync(token_of, cluster)
    client = HttpClient(cluster.port, {"X-Auth-Token": token})
    assert (await client.request("PUT", f"{account}/c"))[0] == 201
    bodies = {f"small-{number}": os.urandom(SMALL_BYTES) for number in range(60)}
    bodies["large"] = os.urandom(LARGE_BYTES)
    for name, body in bodies.items():
        assert (await client.request("PUT", f"{account}/c/{name}", body))[0] == 201
    assert (await client.request("DELETE", f"{account}/c/small-0"))[0] == 204
    victim = cluster.kill("storage", 1, hold=True)
    folder = cluster.data / "devices" / victim.name.removeprefix("storage-")
    shutil.rmtree(folder)
    for name in list(bodies)[1:]:
        assert (await client.request("GET", f"{account}/c/{name}"))[2] == bodies[name]
    for number in range(40):
        bodies[f"meanwhile-{number}"] = os.urandom(SMALL_BYTES)
        assert (await client.request("PUT", f"{account}/c/meanwhile-{number}", bodies[f"meanwhile-{number}"]))[0] == 201
    ring = ring_of(cluster)
    keys = [f"{account.removeprefix('/v1')}/c/{name}".encode() for name in bodies]
    ours = [key for key in keys[1:] if folder in primaries(cluster, key)]
    devices = [path for path in (cluster.data / "devices").iterdir() if path != folder]
    assert any(holds(path, ring, key) for key in ours for path in devices if path not in primaries(cluster, key))
    await trio.to_thread.run_sync(cluster.release, "storage", 1)

    def home() -> bool:
        return all(
            holds(path, ring, key) == (path in primaries(cluster, key))
            for key in keys[1:]
            for path in (folder, *devices)
        )

    await trio.to_thread.run_sync(until, home, lambda: (daemon(cluster, "replicator"), cluster.logs()))
    for name in list(bodies)[1:]:
        assert (await client.request("GET", f"{account}/c/{name}"))[2] == bodies[name]
    await client.aclose()
    await trio.to_thread.run_sync(cluster.stop)
    device = Device.open(folder)
    assert device.check(deep=True) == []
    device.close()
