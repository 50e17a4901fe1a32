"""Two controllers as two processes on one database, one of them killed at its work.

They are `ringstead serve controller` as on two machines, on PostgreSQL where it is installed and else on one SQLite file,
with pools of a simulator that is a process, too. What the pools really hold is asked of the pools.
"""

from __future__ import annotations

import contextlib
import io
import json
import secrets
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import XenAPI
from sqlalchemy import Engine
from sqlalchemy import select as sql_select

from ringstead.cli import cli
from scheduler.database import open_engine
from scheduler.records.schema import sqlite_url
from scheduler.records.tables import TASKS
from tests.support.postgresql import find_binaries, run_postgresql
from tests.support.xensim import Xensim, running_xensim

pytestmark = pytest.mark.cluster

PATIENCE_S = 60.0
SERVERS = 4
TEMPLATE = "Debian Bookworm 12"


class TwoControllers:
    """The processes by name, and commands to each of them."""

    def __init__(self, folder: Path, database: str) -> None:
        self.folder = folder
        self.engine: Engine = open_engine(database or sqlite_url(folder / "scheduler" / "controller.db"))
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def run(self, name: str, *words: str) -> Any:
        """What a command answers that is given to that controller."""
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            cli.main([*words, "--config", str(self.folder / f"{name}.toml"), "--json"], standalone_mode=False)
        return json.loads(out.getvalue())

    def who_works(self) -> str:
        """The controller that holds the oldest open task."""
        query = sql_select(TASKS.c.lease_owner).where(TASKS.c.state == "open").order_by(TASKS.c.id).limit(1)
        with self.engine.connect() as connection:
            return str(connection.execute(query).scalar_one())


@pytest.fixture
def simulator() -> Iterator[Xensim]:
    """One pool of two hosts, that takes no time."""
    with running_xensim("--hosts", "2", "--latency", "0") as started:
        yield started


@pytest.fixture
def database() -> Iterator[str]:
    """The URL of an empty database of PostgreSQL, nothing where that is not installed."""
    if find_binaries() is None:
        yield ""
        return
    with run_postgresql() as server:
        yield server.new_url()


@pytest.fixture
def two(tmp_path: Path, simulator: Xensim, database: str) -> Iterator[TwoControllers]:
    """Two controllers that have found the pool. There is no object store: servers are made from templates."""
    topology = ["ring", "--file", str(tmp_path / "t.toml")]
    with contextlib.redirect_stdout(io.StringIO()):
        cli.main([*topology, "create", "4", "1", "1"], standalone_mode=False)
        cli.main([*topology, "add", "r1z1-127.0.0.1:9/d1", "100"], standalone_mode=False)
        cli.main([*topology, "rebalance"], standalone_mode=False)
    (tmp_path / "cluster.key").write_text(secrets.token_hex(32))
    (tmp_path / "cluster.key").chmod(0o600)
    made = TwoControllers(tmp_path, database)
    try:
        for number, name in enumerate(("one", "two")):
            lines = {
                "service": "controller",
                "name": name,
                "ring_file": "t.ring",
                "writer": 3500 + number,
                "database": database,
                "lease_s": 2.0,
                "look_s": 0.3,
                "log_file": f"{name}.log",
                "simulator": simulator.urls[0] if name == "one" else "",
            }
            text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in lines.items())
            (tmp_path / f"{name}.toml").write_text(text)
            command = [sys.executable, "-m", "ringstead", "serve", "controller", "--config", f"{name}.toml"]
            made.processes[name] = subprocess.Popen(command, cwd=tmp_path)
        for name in made.processes:
            _until(lambda name=name: (tmp_path / "run" / f"{name}.control").exists())  # type: ignore[misc]
            _until(lambda name=name: [p["state"] for p in made.run(name, "pool", "list")] == ["up"])  # type: ignore[misc]
        yield made
    finally:
        for process in made.processes.values():
            process.kill()
            process.wait(30)
        made.engine.dispose()


def test_the_work_of_a_killed_controller_is_done_once(two: TwoControllers, simulator: Xensim) -> None:
    """One of them is killed while the pool starts a server for it: the other carries all on, and nothing is there twice."""
    simulator.control("POST", "/faults", {"method": "VM.start_on", "hang": True, "count": 1})
    for number in range(SERVERS):
        asked = ("one", "two")[number % 2]
        two.run(asked, "server", "create", f"s{number}", "--flavor", "tiny", "--template", TEMPLATE)
    _until(lambda: not simulator.control("GET", "/faults"))
    _until(lambda: _states(two, "one").count("active") == SERVERS - 1)
    killed = two.who_works()
    other = {"one": "two", "two": "one"}[killed]
    two.processes[killed].send_signal(signal.SIGKILL)
    two.processes[killed].wait(30)
    _until(lambda: _states(two, other) == ["active"] * SERVERS)
    vms, disks = _held(simulator)
    assert len(vms) == SERVERS
    assert len(set(vms)) == SERVERS
    assert disks == SERVERS
    assert two.run(other, "reconcile")["differences"] == []


def _states(two: TwoControllers, name: str) -> list[str]:
    return [server["state"] for server in two.run(name, "server", "list")]


def _held(simulator: Xensim) -> tuple[list[str], int]:
    """The server of each VM that has our mark, and how many disks have it."""
    session = XenAPI.Session(simulator.urls[0])
    session.xenapi.login_with_password("root", "root", "1.0", "test")
    try:
        vms = session.xenapi.VM.get_all_records().values()
        disks = session.xenapi.VDI.get_all_records().values()
    finally:
        session.xenapi.logout()
    ours = [vm["other_config"]["ringstead-server"] for vm in vms if "ringstead-server" in vm["other_config"]]
    return ours, sum("ringstead-disk" in disk["other_config"] for disk in disks)


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "it does not come to that"
        select.select([], [], [], 0.1)
