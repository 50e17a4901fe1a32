"""`ringstead up` as processes: started, hurt, stopped, started again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ClusterFactory
from tests.support.cluster import TestCluster

pytestmark = pytest.mark.cluster
SMALL = ("--zones", "1", "--devices-per-zone", "1", "--workers", "1")


def get(url: str) -> tuple[int, bytes]:
    """Status and body of a page."""
    with urllib.request.urlopen(url, timeout=10) as response:
        return response.status, response.read()


def swift(cluster: TestCluster, method: str, path: str, data: bytes | None = None) -> bytes:
    """One request as the first user."""
    url, token = cluster.log_in()
    request = urllib.request.Request(f"{url}/{path}", data=data, method=method, headers={"X-Auth-Token": token})
    with urllib.request.urlopen(request, timeout=30) as response:
        body: bytes = response.read()
        return body


def alive(pid: int) -> bool:
    """Whether the process runs (a zombie of another parent does not count)."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def test_the_default_cluster_is_up(cluster: TestCluster) -> None:
    """Six devices, two HTTP workers and the daemons run; the page says it is well; the first user can log in."""
    kinds = [process.kind for process in cluster.processes()]
    assert {kind: kinds.count(kind) for kind in kinds} == {"storage": 6, "daemons": 1, "proxy": 2}
    assert get(f"{cluster.endpoint}/healthcheck") == (200, b"OK")
    url, token = cluster.log_in()
    assert url == f"{cluster.endpoint}/v1/AUTH_admin"
    assert token.startswith("AUTH_tk")


def test_credentials_are_for_their_owner_and_for_shells(cluster: TestCluster) -> None:
    """The file has mode 0600, and a shell that reads it has the variables that clients know."""
    file = cluster.data / "credentials.env"
    assert file.stat().st_mode & 0o777 == 0o600
    done = subprocess.run(["sh", "-c", f". {file}; env"], capture_output=True, text=True, check=True)
    variables = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    for name, value in cluster.credentials.items():
        assert variables[name] == value
    assert set(cluster.credentials) == {
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_ENDPOINT_URL",
        "AWS_DEFAULT_REGION",
        "ST_AUTH",
        "ST_USER",
        "ST_KEY",
    }


def test_no_secret_is_in_logs_or_command_lines(cluster: TestCluster) -> None:
    """Neither the keys nor the cluster key are in any log, nor in what `ps` shows."""
    cluster.log_in()
    values = cluster.credentials
    hidden = [values["AWS_SECRET_ACCESS_KEY"], values["ST_KEY"], (cluster.data / "cluster.key").read_text().strip()]
    texts = [path.read_text() for path in (cluster.data / "logs").iterdir()]
    texts += [Path(f"/proc/{process.pid}/cmdline").read_text() for process in cluster.processes()]
    assert not any(secret in text for secret in hidden for text in texts)


def test_all_processes_together_stay_small(make_cluster: ClusterFactory) -> None:
    """The default cluster takes less than half a gigabyte of its own; pages of mapped files are the kernel's cache."""
    cluster = make_cluster()
    assert cluster.supervisor is not None
    pids = [cluster.supervisor.pid, *(process.pid for process in cluster.processes())]
    total_kib = 0
    for pid in pids:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        total_kib += next(int(line.split()[1]) for line in lines if line.startswith("Pss_Anon:"))
    assert total_kib < 500 * 1024


def test_services_load_only_what_they_need(cluster: TestCluster) -> None:
    """A device's process has neither numpy nor an HTTP parser in its memory."""
    for process in cluster.processes():
        mapped = Path(f"/proc/{process.pid}/maps").read_text()
        assert "numpy" not in mapped or process.kind != "storage"
        assert "httptools" not in mapped or process.kind == "proxy"


def test_status_shows_devices_and_backlog(cluster: TestCluster) -> None:
    """`status --json` is for programs, the table for people; both work beside the running cluster."""
    found = json.loads(cluster.ringstead("status", "--json").stdout)
    assert found["healthy"]
    assert [device["up"] for device in found["devices"]] == [True] * 6
    assert {device["zone"] for device in found["devices"]} == {1, 2, 3}
    assert all(device["total_bytes"] > device["free_bytes"] > 0 for device in found["devices"])
    assert found["daemons"]["updater"]["statistics"]["backlog"] >= 0
    assert len(found["services"]) == 9
    table = cluster.ringstead("status").stdout
    assert "z2d1" in table
    assert "updater" in table


def test_users_come_and_go(cluster: TestCluster) -> None:
    """A user made on the command line is listed, shown without secrets, and gone once removed."""
    made = json.loads(
        cluster.ringstead(
            *("user", "add", "carol", "--project", "music", "--email", "c@example.com", "--display-name", "Carol C"),
            *("--access-key", "CAROLKEY", "--secret-key", "carols-secret", "--password", "pw", "--json"),
        ).stdout
    )
    assert made["user"] == "music:carol"
    assert (made["access_key"], made["secret_key"], made["password"]) == ("CAROLKEY", "carols-secret", "pw")
    again = cluster.ringstead("user", "add", "music:carol", check=False)
    assert again.returncode == 1
    assert again.stderr.count("\n") == 1
    shown = cluster.ringstead("user", "show", "music:carol", "--json").stdout
    assert json.loads(shown)["display_name"] == "Carol C"
    assert "carols-secret" not in shown
    users = [user["user"] for user in json.loads(cluster.ringstead("user", "list", "--json").stdout)]
    assert users == ["admin:admin", "music:carol"]
    cluster.ringstead("user", "remove", "carol", "--project", "music")
    gone = cluster.ringstead("user", "show", "music:carol", check=False)
    assert (gone.returncode, gone.stdout) == (1, "")


def test_a_second_up_on_the_same_folder_is_told(cluster: TestCluster) -> None:
    """It ends with one line that names the process which has the folder."""
    assert cluster.supervisor is not None
    done = cluster.ringstead("up", check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"process {cluster.supervisor.pid}" in done.stderr


def test_a_port_in_use_is_one_clear_line(tmp_path: Path) -> None:
    """Another program's port is not shared, not waited for, and named."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "ringstead", "up", "--data", str(tmp_path / "data"), "--port", str(port)]
        done = subprocess.run([*command, *SMALL], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == f"ringstead: port {port} is in use by another program; --port chooses another\n"


def test_a_second_start_carries_on(make_cluster: ClusterFactory) -> None:
    """An orderly stop leaves no process; after it data, users, port and shape are as they were.

    Zones that were not there join, and there is room for more copies.
    """
    cluster = make_cluster(*SMALL)
    swift(cluster, "PUT", "box")
    swift(cluster, "PUT", "box/name", b"content")
    before = cluster.credentials
    pids = [process.pid for process in cluster.processes()]
    assert cluster.stop() == 0
    assert not any(alive(pid) for pid in pids)
    again = TestCluster(cluster.data, "--zones", "3", port=cluster.port)
    again.start()
    try:
        assert "z2d1, z3d1 joined" in again.output
        assert again.credentials == before
        assert swift(again, "GET", "box/name") == b"content"
        assert len(again.processes("storage")) == 3
    finally:
        again.stop()


def test_no_process_outlives_a_killed_supervisor(make_cluster: ClusterFactory) -> None:
    """kill -9 of the supervisor takes every service with it, one that is stopped and cannot react included."""
    cluster = make_cluster(*SMALL)
    swift(cluster, "PUT", "box")
    frozen = cluster.processes("storage")[0].pid
    os.kill(frozen, signal.SIGSTOP)
    pids = cluster.kill_supervisor()
    assert frozen in pids
    assert not any(alive(pid) for pid in pids)
    cluster.start()
    assert b"box" in swift(cluster, "GET", "")


@pytest.fixture(scope="module")
def hurt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestCluster]:
    """A cluster of three devices whose processes are killed now and then."""
    options = ("--zones", "3", "--devices-per-zone", "1", "--workers", "1")
    cluster = TestCluster(tmp_path_factory.mktemp("hurt") / "data", *options).start()
    yield cluster
    cluster.stop()


@pytest.mark.parametrize("kind", ["storage", "daemons", "proxy"])
def test_a_killed_service_is_started_again(hurt: TestCluster, kind: str) -> None:
    """The supervisor notices a death and starts the service anew; the cluster serves as before."""
    before = hurt.kill(kind)
    hurt.wait_ready()
    after = hurt.processes(kind)[0]
    assert after.pid not in (0, before.pid)
    assert after.deaths == before.deaths + 1
    swift(hurt, "PUT", f"box-{kind}")


def test_a_held_service_stays_down_until_released(hurt: TestCluster) -> None:
    """An operator can take one device's process away; status says so; writes go on without it."""
    cluster = hurt
    swift(cluster, "PUT", "box")
    cluster.kill("storage", 1, hold=True)
    assert [process.state for process in cluster.processes("storage")] == ["ready", "held", "ready"]
    swift(cluster, "PUT", "box/name", b"content")
    found = json.loads(cluster.ringstead("status", "--json").stdout)
    assert [device["up"] for device in found["devices"]] == [True, False, True]
    assert not found["healthy"]
    cluster.release("storage", 1)
    assert [process.state for process in cluster.processes("storage")] == ["ready"] * 3
    assert swift(cluster, "GET", "box/name") == b"content"


def test_services_are_started_again_without_the_fork_servers(hurt: TestCluster) -> None:
    """kill -9 of the processes that fork services ends no service, and one that is killed then comes back all the same."""
    assert hurt.supervisor is not None
    children = Path(f"/proc/{hurt.supervisor.pid}/task/{hurt.supervisor.pid}/children").read_text().split()
    servers = [int(pid) for pid in children if "fork server" in Path(f"/proc/{pid}/cmdline").read_text()]
    assert servers
    before = hurt.processes()
    for pid in servers:
        os.kill(pid, signal.SIGKILL)
    assert hurt.processes() == before
    killed = hurt.kill("storage")
    hurt.wait_ready()
    assert hurt.processes("storage")[0].pid not in (0, killed.pid)
    swift(hurt, "PUT", "box-again")


def test_commands_without_a_cluster_say_so(tmp_path: Path) -> None:
    """No folder, or no running cluster, is one line and exit code 1."""
    for command in (["status"], ["user", "list"]):
        done = subprocess.run(
            [sys.executable, "-m", "ringstead", *command, "--data", str(tmp_path / "none")],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 1
        assert done.stderr.startswith("ringstead: ")
        assert done.stderr.count("\n") == 1
