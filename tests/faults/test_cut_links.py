"""Three machines with links that are cut under load: one machine off the network, then deaf in one direction.

Every answer is judged as it comes (workload.py), by clients on the first machine, where the proxy is. While a majority is at
hand, everything goes on; without one, writes are refused and reads say what they are; once the links are whole, all
replicas come to hold the same.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from replicator.listing import HASH_LAST
from ring import ring_file
from ring.builder import build_ring
from ring.topology import Device
from ringstead.settings.cluster_key import make_cluster_key
from storage_node.operations import HASH_BYTES, FoundEntries, ListEntries, Space, Status
from storage_node.reader import LocalReader
from tests.faults.workload import Worker, until_acknowledged
from tests.support.http_client import HttpClient
from tests.support.memory import memory_folder
from tests.support.namespaces import Machine, Network, missing

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(300)]
PORT = 8080
WORKERS = 4
WRITES = 200 if os.environ.get("RINGSTEAD_FAULT_TESTS") == "all" else 20
"""Acknowledged while something is cut, and after it is whole again: the load is counted, not timed."""
PROBES = 2
ANSWERED_S = 60.0
"""Generous: two time-outs of the proxy, and a busy machine. A request that waited for what is cut would not be answered at
all: it stays cut until the probes have their answers."""
CONVERGED_S = 90.0


@pytest.fixture
def network() -> Iterator[Network]:
    """Three machines with a device each and daemons; the first with a proxy."""
    reason = missing()
    if reason:
        pytest.skip(reason)
    with memory_folder() as folder, Network(folder, 3) as made:
        devices = [
            Device(machine.number, 1, machine.number + 1, machine.address, 6200, "sdb", 1.0)
            for machine in made.machines
        ]
        ring = build_ring(devices, 6, 3, seed=7)
        make_cluster_key(folder / "cluster.key")
        for machine in made.machines:
            ring_file.save(machine.folder / "cluster.ring", ring)
            (machine.folder / "cluster.key").write_bytes((folder / "cluster.key").read_bytes())
            (machine.folder / "cluster.key").chmod(0o600)
        waits = [machine.serve("storage") for machine in made.machines]
        waits += [
            machine.serve("daemons", f"writer = {1001 + machine.number}", "replicator_interval_s = 1.0")
            for machine in made.machines
        ]
        waits.append(made.machines[0].serve("proxy", f"port = {PORT}", "writer = 1"))
        for wait in waits:
            wait()
        yield made


def log_in(machine: Machine) -> tuple[str, str]:
    """Make a user; a token and the account's path."""
    config = str(machine.folder / "proxy.toml")
    made = json.loads(machine.ringstead("user", "add", "ada", "--config", config, "--json"))

    async def ask() -> tuple[str, str]:
        client = HttpClient(PORT, {"X-Auth-User": "ada:ada", "X-Auth-Key": made["password"]})
        status, headers, _ = await client.request("GET", "/auth/v1.0")
        await client.aclose()
        assert status == 200
        return headers["x-auth-token"], "/" + headers["x-storage-url"].split("/", 3)[3]

    return machine.run(ask)


class Load:
    """Workers on the first machine, and a prober that waits for each answer."""

    def __init__(self, network: Network) -> None:
        self.machine = network.machines[0]
        token, account = log_in(self.machine)
        self.box = f"{account}/load"
        self.headers = {"X-Auth-Token": token}
        self.workers = [Worker(number, PORT, token, self.box, 10) for number in range(WORKERS)]
        assert self.machine.run(self._make_container) == 201

    async def _make_container(self) -> int:
        client = HttpClient(PORT, self.headers)
        status, _, _ = await client.request("PUT", self.box)
        await client.aclose()
        return status

    def run(self) -> None:
        """Work until so many writes are acknowledged and so many probes answered."""
        self.machine.run(self._run)

    async def _run(self) -> None:
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            for worker in self.workers:
                worker.interrupted()
                nursery.start_soon(worker.run, stop)
            await self._probe()
            await until_acknowledged(self.workers, WRITES)
            stop.set()

    async def _probe(self) -> None:
        client = HttpClient(PORT, self.headers, timeout_s=ANSWERED_S)
        for number in range(PROBES):
            for method in ("PUT", "GET"):
                status, _, _ = await client.request(method, f"{self.box}/probe{number}", b"p" * (method == "PUT"))
                assert status in (200, 201, 404, 503), status
        await client.aclose()

    async def probe_once(self, method: str) -> int:
        """The status of one request."""
        client = HttpClient(PORT, self.headers, timeout_s=ANSWERED_S)
        status, _, _ = await client.request(method, f"{self.box}/alone", b"alone" * (method == "PUT"))
        await client.aclose()
        return status

    def check(self) -> None:
        """Read everything back."""

        async def check_all() -> None:
            for worker in self.workers:
                worker.interrupted()
                await worker.check_all()

        self.machine.run(check_all)


def contents(path: Path) -> dict[bytes, object]:
    """Everything that a device holds: objects, containers and accounts with their rows' digests."""
    reader = LocalReader(path)
    found: dict[bytes, object] = {}
    try:
        for space in Space:
            start: bytes | None = bytes(HASH_BYTES)
            while start is not None:
                answer = reader.read(ListEntries(space, start, None, 1000))
                assert isinstance(answer, FoundEntries)
                assert answer.status == Status.FOUND
                for hash_, _, entry in answer.entries:
                    found[bytes((space,)) + hash_] = entry
                last = int.from_bytes(answer.entries[-1].hash, "big") if answer.entries else HASH_LAST
                start = (last + 1).to_bytes(HASH_BYTES, "big") if answer.truncated and last < HASH_LAST else None
    finally:
        reader.close()
    return found


def until_converged(network: Network) -> None:
    """Until all devices hold the same (each is a replica of everything here)."""
    paths = [machine.folder / "devices" / "sdb" for machine in network.machines]
    give_up_s = time.monotonic() + CONVERGED_S
    while True:
        first, *others = [contents(path) for path in paths]
        if all(other == first for other in others):
            return
        differ = [key for other in others for key in {*first, *other} if first.get(key) != other.get(key)]
        assert time.monotonic() < give_up_s, (len(differ), [(first.get(key), others) for key in differ[:1]])
        trio.run(trio.sleep, 0.5)


def until_filled(network: Network) -> None:
    """Until the new devices have been compared with each other: before, two of them can't say that a thing is not there."""
    give_up_s = time.monotonic() + CONVERGED_S
    while filling := [
        machine.address
        for machine in network.machines
        if (machine.folder / "devices" / "sdb" / "filling.json").exists()
    ]:
        assert time.monotonic() < give_up_s, filling
        trio.run(trio.sleep, 0.1)


def test_links_are_cut_and_healed(network: Network) -> None:
    """A machine off the network, one that can't answer another, the proxy's own off it: what a majority allows goes on."""
    load = Load(network)
    first, second, third = network.machines
    load.run()
    until_filled(network)

    network.cut(third)
    load.run()
    network.heal(third)
    load.run()

    network.cut_one_way(second, first)
    load.run()
    network.heal_one_way(second, first)
    load.run()

    network.cut(first)  # the proxy is left with its own machine's device: no majority
    assert first.run(lambda: load.probe_once("PUT")) == 503
    network.heal(first)
    deadline_s = time.monotonic() + CONVERGED_S
    while first.run(lambda: load.probe_once("PUT")) != 201:
        assert time.monotonic() < deadline_s
    load.check()
    until_converged(network)
    load.check()
