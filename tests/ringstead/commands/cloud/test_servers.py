"""The scheduler as an operator has it: `ringstead up` with its simulated pools, driven through the command line alone.

One story, told in order by one cluster, since each step stands on the ones before: servers from an image in three zones, a
group kept apart, a volume, a move with its disks between hosts that share no storage, a host that dies, a zone emptied.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import threading
import tomllib
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import click
import pytest

from ringstead.cli import cli
from ringstead.commands.cloud import client
from ringstead.errors import RingsteadError
from tests.support.cluster import TestCluster
from tests.support.xensim import running_xensim

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
            stdin=subprocess.DEVNULL,
            check=False,
        )

    def raw_ring(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`ringstead ring` on the cluster's topology file."""
        command = [sys.executable, "-m", "ringstead", "ring", "--file", str(self.cluster.data / "ring.toml"), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=True)

    def refused(self, *words: str, environment: dict[str, str] | None = None) -> str:
        """What a command that does not work says: one line, and no trace-back."""
        done = self.raw(*words, environment=environment)
        assert done.returncode in (1, 2), done
        lines = [line for line in done.stderr.splitlines() if line.startswith("ringstead: ")]
        assert len(lines) == 1, done.stderr
        assert "Traceback" not in done.stderr
        return lines[0]

    def refusal(self, *words: str, environment: dict[str, str] | None = None) -> str:
        """What a command that does not work says, called in this process: the same code, without the start of one."""
        refused = pytest.raises((RingsteadError, click.ClickException))
        with contextlib.redirect_stdout(io.StringIO()), pytest.MonkeyPatch.context() as patch, refused as caught:
            for name, value in (environment or {}).items():
                patch.setenv(name, value)
            cli.main([*words, "--data", str(self.cluster.data)], standalone_mode=False)
        error = caught.value
        return error.format_message() if isinstance(error, click.ClickException) else str(error)

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
    cloud.run("server", "pause", "web1", "--wait")  # its new pool knows it by now
    cloud.run("server", "resume", "web1", "--wait")
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

    # Hosts and SRs stand in the one topology, in the zones that the disks are in.
    devices = json.loads(cloud.raw_ring("--json").stdout)["devices"]
    zones = {kind: {device["zone"] for device in devices if device["kind"] == kind} for kind in ("disk", "host", "sr")}
    assert zones == {"disk": {1, 2, 3}, "host": {1, 2, 3}, "sr": {1, 2, 3}}

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


def test_a_killed_controller_carries_on(cloud: Cloud) -> None:
    """kill -9 of the controller in the middle of a build, a move and a deletion: each is finished by the next process."""
    spec = ("--flavor", "tiny", "--image", "debian", "--zone", "z1")
    for words in (
        ("server", "create", "phoenix", *spec),
        ("server", "migrate", "phoenix", "--zone", "z2"),
        ("server", "delete", "phoenix"),
    ):
        task = cloud.run(*words)["task"]
        cloud.cluster.kill("controller")
        cloud.cluster.wait_ready()
        assert cloud.run("task", "wait", str(task))["state"] == "done", words
        if "delete" not in words:
            assert cloud.server("phoenix")["state"] == "active"
    assert "phoenix" not in {server["name"] for server in cloud.run("server", "list")}
    assert cloud.run("reconcile")["differences"] == []


def test_the_object_store_does_without_a_controller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With records that cannot be read no controller starts; the store is up all the same, and commands say why."""
    monkeypatch.setattr(client, "PATIENCE_S", 2.0)
    data = tmp_path / "data"
    (data / "scheduler").mkdir(parents=True)
    (data / "scheduler" / "controller.db").write_bytes(os.urandom(9000))
    cluster = TestCluster(data, "--zones", "1", "--devices-per-zone", "1", "--workers", "1", xen=True).start()
    try:
        with urllib.request.urlopen(f"{cluster.endpoint}/healthcheck", timeout=20) as response:
            assert response.status == 200
        assert "the controller does not start: " in Cloud(cluster).refusal("server", "list")
    finally:
        cluster.stop()


# ------------------------------------------------------------------------------------------------------------- bad input


def test_what_makes_no_sense_is_one_clear_line(cloud: Cloud) -> None:
    """Unknown things, impossible sizes and names of every kind are answered with a sentence, and nothing is claimed."""
    before = cloud.run("host", "list")
    spec = ("--flavor", "tiny", "--image", "debian")
    for words, said in (
        (("server", "create", "x", "--flavor", "huge", "--image", "debian"), "there is no flavor 'huge'"),
        (("server", "create", "x", "--flavor", "tiny", "--image", "windows"), "there is no image 'windows'"),
        (("server", "create", "x", "--flavor", "tiny"), "from an image or from a template"),
        (("server", "create", "x", *spec, "--zone", "z9"), "there is no availability zone z9; there are r1z1"),
        (("server", "create", "x", *spec, "--zone", "mars"), "'mars' is no zone"),
        (("server", "create", "x", *spec, "--group", "none"), "there is no server group 'none'"),
        (("server", "create", "x", *spec, "--disk", "1K"), "1024 are too few"),
        (("server", "create", "x", *spec, "--disk", "9000T"), "is outside 1 MiB"),
        (("server", "create", "x", *spec, "--disk", "much"), "is no size"),
        (("server", "create", "x", *spec, "--volume", "none"), "there is no volume 'none'"),
        (("server", "create", "x", *spec, "--require", "a", "--forbid", "a"), "both required and forbidden"),
        (("server", "create", "", *spec), "is empty"),
        (("server", "create", " x", *spec), "begins or ends with a space"),
        (("server", "create", "x\ny", *spec), "cannot be printed"),
        (("server", "create", "a/b", *spec), "holds a slash"),
        (("server", "create", "x" * 64, *spec), "longer than 63"),
        (("server", "create", "web1", *spec), "there is a server 'web1' already"),
        (("server", "show", "' OR 1=1 --"), "there is no server"),
        (("server", "start", "web1"), "is active; this needs one that is stopped"),
        (("server", "migrate", "web1", "--host", "nowhere"), "there is no host 'nowhere'"),
        (("server", "delete", "nobody"), "there is no server 'nobody'"),
        (("volume", "create", "v"), "a volume needs a --size"),
        (("volume", "create", "v", "--size", "0"), "is outside 1 MiB"),
        (("volume", "attach", "data", "web1"), "is in-use; this needs one that is available"),
        (("volume", "delete", "data"), "detach it first"),
        (("volume", "extend", "data", "1M"), "is in-use"),
        (("flavor", "create", "f", "--memory", "0", "--vcpus", "1", "--disk", "1G"), "outside 1.."),
        (("flavor", "create", "f", "--memory", "1G", "--vcpus", "100000", "--disk", "1G"), "outside 1..128"),
        (("flavor", "create", "f", "--memory", "1000", "--vcpus", "1", "--disk", "1G"), "no whole number of MiB"),
        (("flavor", "create", "tiny", "--memory", "1G", "--vcpus", "1", "--disk", "1G"), "already"),
        (("image", "create", "debian", __file__), "there is an image 'debian' already"),
        (("image", "create", "i", __file__, "--format", "vhd"), "is no VHD"),
        (("image", "create", "i"), "give a FILE, or --server"),
        (("zone", "show", "z9"), "no availability zone"),
        (("quota", "--servers", "-5"), "a quota is a number, or -1"),
        (("task", "wait", "99999999"), "there is no task"),
    ):
        assert said in cloud.refusal(*words), words
    assert cloud.run("host", "list") == before
    assert {server["name"] for server in cloud.run("server", "list")} == {"web1", "web2", "web3", "db1", "db2", "db3"}


def test_a_server_that_fits_nowhere_fails_and_leaves_nothing(cloud: Cloud) -> None:
    """Too large for every host, or over the project's quota: the command itself says so, and nothing is there afterwards."""
    before = cloud.run("host", "list")
    cloud.run("flavor", "create", "giant", "--memory", "1T", "--vcpus", "1", "--disk", "1G")
    said = cloud.refused("server", "create", "giant", "--flavor", "giant", "--image", "debian")
    assert "no host can take server" in said
    assert "memory" in said
    cloud.run("quota", "--project", "poor", "--servers", "0")
    spec = ("--flavor", "tiny", "--image", "debian", "--project", "poor")
    assert "quota" in cloud.refused("server", "create", "one-too-many", *spec)
    cloud.run("quota", "--project", "poor", "--volumes", "0")
    assert "quota" in cloud.refused("volume", "create", "huge", "--size", "1G", "--project", "poor")
    assert cloud.run("host", "list") == before
    assert not {"giant", "one-too-many"} & {server["name"] for server in cloud.run("server", "list")}
    assert "huge" not in {volume["name"] for volume in cloud.run("volume", "list")}


def test_pools_that_cannot_be_used_are_refused(cloud: Cloud) -> None:
    """A wrong password, a certificate that nobody vouches for, nobody there, nonsense: a sentence, and nothing is added."""
    url = cloud.run("pool", "list")[0]["url"]
    password = {"RINGSTEAD_POOL_PASSWORD": "wr0ng-pa55word"}
    right = {"RINGSTEAD_POOL_PASSWORD": "root"}
    add = ("pool", "add", "other")
    with _nonsense() as nonsense, running_xensim("--tls", "--hosts", "1", "--address", "127.0.1.1") as tls:
        for words, environment, said in (
            ((*add, url, "--zone", "z1"), password, "password"),
            ((*add, url, "--zone", "z1"), right, "which is there already"),
            ((*add, url, "--zone", "mars"), right, "'mars' is no zone"),
            ((*add, "http://127.0.1.9:1", "--zone", "z1"), right, "cannot connect"),
            ((*add, "ftp://127.0.0.1", "--zone", "z1"), right, "is no address"),
            ((*add, nonsense, "--zone", "z1"), right, "is no Xen pool"),
            ((*add, tls.urls[0], "--zone", "z1"), right, "certificate"),
            ((*add, tls.urls[0], "--zone", "z1", "--fingerprint", "00" * 32), right, "certificate"),
            ((*add, tls.urls[0], "--zone", "z1", "--fingerprint", "zz"), right, "fingerprint"),
            (("pool", "add", "pool1", url, "--zone", "z1"), right, "there is a pool 'pool1' already"),
            ((*add, url, "--zone", "z1"), {}, "RINGSTEAD_POOL_PASSWORD"),
            (("pool", "remove", "pool1"), {}, "drain or delete them first"),
        ):
            line = cloud.refusal(*words, environment=environment)
            assert said.lower() in line.lower(), (words, line)
        assert len(cloud.run("pool", "list")) == 3
        # Rightly trusted, it is added; with nothing on it it can be forgotten again.
        assert tls.certificate is not None
        cloud.run(*add, tls.urls[0], "--zone", "z1", "--ca-file", tls.certificate, environment=right)
        assert [pool["state"] for pool in cloud.run("pool", "list")] == ["up"] * 4
        cloud.run("pool", "remove", "other")
    assert all(pool["state"] == "up" for pool in cloud.run("pool", "list"))


def test_no_password_is_to_be_found(cloud: Cloud) -> None:
    """Pools' passwords are in no log, no answer, no process's arguments, and not readable in what is on disk."""
    secret = "wr0ng-pa55word"
    texts = [path.read_text(errors="replace") for path in (cloud.cluster.data / "logs").iterdir()]
    texts += [Path(f"/proc/{process.pid}/cmdline").read_text() for process in cloud.cluster.processes() if process.pid]
    texts += [cloud.raw("pool", "list", "--json").stdout]
    texts += [path.read_bytes().decode("latin-1") for path in (cloud.cluster.data / "scheduler").iterdir()]
    assert not any(secret in text for text in texts)
    for path in (cloud.cluster.data / "scheduler").iterdir():
        assert path.stat().st_mode & 0o077 == 0, path


@contextmanager
def _nonsense() -> Iterator[str]:
    """Something that listens and answers what no pool would."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>It works!</html>")

        do_GET = do_HEAD = do_POST  # noqa: N815 (http.server's names)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (http.server's name)
            """Not to be heard."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
