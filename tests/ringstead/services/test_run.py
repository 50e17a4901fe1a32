"""`ringstead serve` by hand: a cluster of three nodes that differ in addresses, as on three machines."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic

import pytest
import trio

from ring import ring_file
from ring.builder import build_ring
from ring.generations import Generations, finish, install
from ring.topology import Device
from ringstead.processes.control import ask
from ringstead.processes.life import READY_LINE, READY_VARIABLE
from ringstead.settings.cluster_key import load_cluster_key, make_cluster_key
from storage_node.client import DeviceClient
from storage_node.device import Device as StoredDevice
from storage_node.errors import DeviceInUse
from storage_node.operations import GetStatistics, Statistics
from tests.support.cluster import free_port

pytestmark = pytest.mark.cluster
NODES = ("127.0.0.2", "127.0.0.3", "127.0.0.4")


class Node:
    """One machine: a folder of its own with ring, key, settings and devices; its services."""

    def __init__(self, folder: Path, node: str, number: int) -> None:
        self.folder = folder
        self.node = node
        self.number = number
        self.port = 0
        """Of its device."""
        self.processes: list[subprocess.Popen[bytes]] = []
        folder.mkdir()

    def serve(self, service: str, *lines: str) -> subprocess.Popen[bytes]:
        """Write settings and start a service; returns when it is ready."""
        config = self.folder / f"{service}.toml"
        config.write_text("\n".join([f'service = "{service}"', f'node = "{self.node}"', *lines]) + "\n")
        ready_read, ready_write = os.pipe()
        process = subprocess.Popen(
            [sys.executable, "-m", "ringstead", "serve", service, "--config", str(config)],
            pass_fds=(ready_write,),
            env={**os.environ, READY_VARIABLE: str(ready_write)},
            stderr=subprocess.PIPE,
        )
        self.processes.append(process)
        os.close(ready_write)
        with os.fdopen(ready_read, "rb") as pipe:
            readable, _, _ = select.select([pipe], [], [], 30)
            assert readable
            line = pipe.readline()
        assert line == READY_LINE, process.communicate()[1].decode()
        return process

    def holds_objects(self) -> bool:
        """Whether its device has any."""
        found = trio.run(
            statistics_of, f"{self.node}:{self.port}", "sdb", load_cluster_key(self.folder / "cluster.key")
        )
        return found is not None and found.object_count > 0

    def stop(self) -> list[int]:
        """SIGTERM to all its services, the last first; -> exit codes."""
        codes = []
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)
            codes.append(process.returncode)
        self.processes.clear()
        return codes


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[Node]]:
    """Three nodes with the same ring and key, nothing running."""
    base = free_port()
    devices = [Device(i, 1, i + 1, node, base, "sdb", 1.0) for i, node in enumerate(NODES)]
    ring = build_ring(devices, 8, 3, seed=7)
    made = [Node(tmp_path / f"machine-{i}", node, i) for i, node in enumerate(NODES)]
    make_cluster_key(made[0].folder / "cluster.key")
    for node in made:
        ring_file.save(node.folder / "cluster.ring", ring)
        if node.number:
            (node.folder / "cluster.key").write_text((made[0].folder / "cluster.key").read_text())
            (node.folder / "cluster.key").chmod(0o600)
    yield made
    for node in made:
        node.stop()


def swift(port: int, credentials: dict[str, str], method: str, path: str, data: bytes | None = None) -> bytes:
    """One Swift request, with a login before it."""
    login = urllib.request.Request(
        f"http://127.0.0.1:{port}/auth/v1.0",
        headers={"X-Auth-User": credentials["user"], "X-Auth-Key": credentials["password"]},
    )
    with urllib.request.urlopen(login, timeout=10) as response:
        url, token = response.headers["X-Storage-Url"], response.headers["X-Auth-Token"]
    request = urllib.request.Request(f"{url}/{path}", data=data, method=method, headers={"X-Auth-Token": token})
    with urllib.request.urlopen(request, timeout=30) as response:
        body: bytes = response.read()
        return body


def test_three_machines_are_one_cluster(nodes: list[Node]) -> None:
    """What goes in at one node's proxy comes out at another's, over TCP, also when a third node is away."""
    ports = [free_port(), free_port()]
    for node in nodes:
        node.serve("storage")
    for number, port in enumerate(ports):
        nodes[number].serve("proxy", f"port = {port}", f"writer = {number + 1}")
    settings = nodes[0].folder / "proxy.toml"
    command = [sys.executable, "-m", "ringstead", "user", "add", "alice", "--json", "--config", str(settings)]
    credentials = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)
    swift(ports[0], credentials, "PUT", "box")
    swift(ports[0], credentials, "PUT", "box/small", b"small")
    large = os.urandom(3_000_000)
    swift(ports[1], credentials, "PUT", "box/large", large)
    assert nodes[2].stop() == [0]
    assert swift(ports[1], credentials, "GET", "box/small") == b"small"
    assert swift(ports[0], credentials, "GET", "box/large") == large
    swift(ports[0], credentials, "PUT", "box/later", b"later")
    assert swift(ports[1], credentials, "GET", "box").split() == [b"large", b"later", b"small"]
    assert nodes[0].stop() == [0, 0]


def test_a_newer_ring_reaches_every_machine(nodes: list[Node], tmp_path: Path) -> None:
    """Installed at one machine it is followed by the proxies of others; a fourth machine joins with the first ring.

    The replicators of all machines move the data, and all let the old ring go when it has moved.
    """
    ports = [free_port(), free_port()]
    for node in nodes:
        node.serve("storage")
    for number, port in enumerate(ports):
        nodes[number].serve("proxy", f"port = {port}", f"writer = {number + 1}")
    command = [sys.executable, "-m", "ringstead", "user", "add", "alice", "--json", "--config"]
    made = subprocess.run([*command, str(nodes[0].folder / "proxy.toml")], capture_output=True, check=True, timeout=60)
    credentials = json.loads(made.stdout)
    swift(ports[0], credentials, "PUT", "box")
    for number in range(20):
        swift(ports[number % 2], credentials, "PUT", f"box/{number}", b"%d" % number)

    first = nodes[0].folder / "cluster.ring"
    old = ring_file.load(first)
    devices = [device for device in old.devices if device is not None]
    fourth = Node(tmp_path / "machine-3", "127.0.0.5", 3)
    fourth.port = devices[0].port
    nodes.append(fourth)
    for name in ("cluster.key", "cluster.ring"):
        (fourth.folder / name).write_bytes((nodes[0].folder / name).read_bytes())
    (fourth.folder / "cluster.key").chmod(0o600)
    new = build_ring([*devices, Device(3, 1, 4, fourth.node, devices[0].port, "sdb", 1.0)], 8, 3, seed=7, epoch=2)
    install(first, new)
    fourth.serve("storage")
    assert ring_file.load(fourth.folder / "cluster.ring").epoch == 2
    for number, node in enumerate(nodes[:2]):
        until(lambda node=node, number=number: proxy_epochs(node) == [2, 1], f"proxy {number} does not follow")
    until(lambda: ring_file.load(nodes[2].folder / "cluster.ring").epoch == 2, "a machine without a proxy")
    for number in range(20):
        assert swift(ports[number % 2], credentials, "GET", f"box/{number}") == b"%d" % number
        swift(ports[1 - number % 2], credentials, "PUT", f"box/{number}", b"new %d" % number)
    assert len(swift(ports[1], credentials, "GET", "box").split()) == 20
    for number in range(20):
        assert swift(ports[number % 2], credentials, "GET", f"box/{number}") == b"new %d" % number
    for node in nodes:
        quick = ("replicator_interval_s = 0.5", "replicator_move_s = 1.0")
        node.serve("daemons", f"writer = {1001 + node.number}", *quick)
    for node in nodes:
        until(lambda node=node: epochs_of(node) == [2], f"machine {node.number} does not let the old ring go")
    until(lambda: proxy_epochs(nodes[1]) == [2], "a proxy does not let it go")
    assert fourth.holds_objects()
    for number in range(20):
        assert swift(ports[number % 2], credentials, "GET", f"box/{number}") == b"new %d" % number


def epochs_of(node: Node) -> list[int]:
    """Of the rings in force at a machine."""
    return [ring.epoch for ring in Generations(node.folder / "cluster.ring").rings]


def test_a_storage_service_follows_its_devices(nodes: list[Node]) -> None:
    """A device that a newer ring has for the node is opened and served; one that no ring has any more is let go."""
    node = nodes[0]
    storage = node.serve("storage")
    path = node.folder / "cluster.ring"
    old = ring_file.load(path)
    devices = [device for device in old.devices if device is not None]
    second = Device(3, 1, 1, node.node, devices[0].port, "sdc", 1.0)
    install(path, build_ring([*devices, second], 8, 3, seed=7, epoch=2))
    key = load_cluster_key(node.folder / "cluster.key")
    until(lambda: trio.run(answers, f"{node.node}:{second.port}", "sdc", key), "the new device is not served")
    assert trio.run(answers, f"{node.node}:{second.port}", "sdb", key)
    install(path, build_ring(devices, 8, 3, seed=7, epoch=3))
    assert trio.run(answers, f"{node.node}:{second.port}", "sdc", key)
    finish(path, 3)
    until(lambda: is_free(node.folder / "devices" / "sdc"), "the device is not let go")
    assert trio.run(answers, f"{node.node}:{second.port}", "sdb", key)
    assert storage.poll() is None


def is_free(path: Path) -> bool:
    """Whether no process has a device."""
    try:
        StoredDevice.open(path).close()
    except DeviceInUse:
        return False
    return True


async def answers(address: str, name: str, key: bytes) -> bool:
    """Whether a device is served at an address."""
    return await statistics_of(address, name, key) is not None


async def statistics_of(address: str, name: str, key: bytes) -> Statistics | None:
    """What a device says of itself, if it is served at an address."""
    client = DeviceClient(address, name, key)
    async with trio.open_nursery() as nursery:
        await nursery.start(client.run)
        answer = await client.call(GetStatistics())
        nursery.cancel_scope.cancel()
    return answer.statistics


def proxy_epochs(node: Node) -> list[int]:
    """Of the rings that a node's proxy follows."""
    epochs: list[int] = ask(node.folder / "run" / "proxy.control", "statistics")["epochs"]
    return epochs


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that running processes bring about."""
    deadline_s = monotonic() + 30
    waiting = threading.Event()
    while not condition():
        assert monotonic() < deadline_s, what
        waiting.wait(0.05)


def test_a_wrong_key_opens_nothing(nodes: list[Node]) -> None:
    """A command with another cluster's key is told that no device answers."""
    nodes[0].serve("storage")
    (nodes[0].folder / "cluster.key").unlink()
    make_cluster_key(nodes[0].folder / "cluster.key")
    config = nodes[0].folder / "proxy.toml"
    config.write_text(f'node = "{nodes[0].node}"\n')
    command = [sys.executable, "-m", "ringstead", "user", "list", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("ringstead: no device answers")


def test_a_machine_without_a_proxy_shows_its_figures(nodes: list[Node]) -> None:
    """Those of its daemons and devices, at the address that its daemons are given; commands work there as well."""
    node, port = nodes[0], free_port()
    node.serve("storage")
    node.serve("daemons", f'metrics_listen = "{node.node}:{port}"')
    page, give_up_s = b"", monotonic() + 30
    while b"ringstead_device_up" not in page and monotonic() < give_up_s:
        with urllib.request.urlopen(f"http://{node.node}:{port}/metrics", timeout=10) as response:
            page = response.read()
    assert b'ringstead_device_up{device="sdb",region="1",zone="1"} 1.0' in page
    assert b'ringstead_daemon_paused{daemon="replicator"} 0.0' in page
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"http://{node.node}:{port}/", timeout=10)
    command = [sys.executable, "-m", "ringstead", "device", "list", "--json", "--config"]
    done = subprocess.run([*command, str(node.folder / "daemons.toml")], capture_output=True, check=True, timeout=60)
    assert [(device["node"], device["up"]) for device in json.loads(done.stdout)] == [
        (one.node, one is node) for one in nodes
    ]
    assert node.stop() == [0, 0]
    assert not list((node.folder / "run").glob("*.json"))


def test_a_device_that_cannot_be_opened_costs_the_others_nothing(nodes: list[Node]) -> None:
    """Its process serves the others, says why that one is missing, and serves it as soon as it can be opened."""
    node = nodes[0]
    junk = node.folder / "devices" / "sdc" / "junk"
    junk.parent.mkdir(parents=True)
    junk.touch()
    node.serve("storage", f'listen = "{node.node}:{free_port()}"', 'devices = ["sdb", "sdc"]')

    def shown(name: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ringstead", "device", "show", name]
        command += ["--config", str(node.folder / "storage.toml")]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert "sdb takes writes" in shown("sdb").stdout
    assert "sdc is not open" in shown("sdc").stderr
    junk.unlink()
    give_up_s = monotonic() + 40
    while (done := shown("sdc")).returncode and monotonic() < give_up_s:
        assert done.stderr.startswith("ringstead: sdc is not open")
    assert "sdc takes writes" in done.stdout


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ('devices = ["sdx"]', "the ring has no device 'sdx' at node 127.0.0.2"),
        ('node = "192.0.2.1"', "the ring has no device at node 192.0.2.1"),
        ('listen = "nowhere"\ndevices = ["sdb"]', "expected IP:PORT"),
        ("create_devices = false", "create_devices is off"),
        ('ring_file = "absent"', "No such file"),
        ('ring_file = "storage.toml"', "storage.toml"),
        ('cluster_key_file = "storage.toml"', "others may read it"),
        ("colour = 1", "unknown setting 'colour'"),
    ],
)
def test_what_cannot_be_served_ends_in_one_line(nodes: list[Node], lines: str, complaint: str) -> None:
    """A wrong setting, a missing file or a missing device ends the service with a line that says which."""
    config = nodes[0].folder / "storage.toml"
    node = "" if "node" in lines else 'node = "127.0.0.2"\n'
    config.write_text(node + lines + "\n")
    config.chmod(0o644)
    command = [sys.executable, "-m", "ringstead", "serve", "storage", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert done.returncode in (1, 2)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ringstead: ")
    assert complaint in last
    assert "Traceback" not in done.stderr
