"""npm `xen-api`, the connector of Xen Orchestra, on the simulator: connect, objects by events, tasks, disks.

`xen_api/session.mjs` has the session and prints what it saw. The package is installed beside it once, by its lock file.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.xensim import running_xensim

FOLDER = Path(__file__).with_name("xen_api")


def install() -> None:
    """Install the package if it is not there; skip where that cannot be done."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    if (FOLDER / "node_modules" / ".package-lock.json").exists():  # npm writes it last
        return
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    try:
        done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("npm ci took longer than two minutes")
    if done.returncode != 0:
        pytest.skip(f"npm ci failed: {done.stderr.strip().splitlines()[-1:]}")


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    """What the connector saw in one session."""
    install()
    with running_xensim("--latency", "0.02", "--seed", "1") as running:
        command = ["node", str(FOLDER / "session.mjs"), running.urls[0], running.urls[1]]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    told: dict[str, Any] = json.loads(lines[-1])
    return told


def test_objects_are_collected_by_events(seen: dict[str, Any]) -> None:
    """All classes arrive, and what calls change is seen without asking."""
    assert {"VM", "VDI", "SR", "PBD", "host", "pool", "network", "PIF"} <= set(seen["types"])
    assert seen["hosts"] == 3
    assert seen["pool"] == "pool1"
    assert seen["cloned"] == {"name": "from xen-api", "template": False, "disks": 1}
    assert (seen["started"], seen["renamed"], seen["color"], seen["stopped"]) == (
        "Running",
        "renamed",
        "blue",
        "Halted",
    )
    assert seen["gone"]


def test_failures_keep_their_codes(seen: dict[str, Any]) -> None:
    """Of a call and of a task."""
    assert (seen["failure"], seen["taskFailure"]) == ("VM_BAD_POWER_STATE", "VM_BAD_POWER_STATE")


def test_disks_go_up_and_come_back(seen: dict[str, Any]) -> None:
    """To a shared SR and to another host's own, from a buffer and from a stream, redirects followed."""
    assert [disk["name"] for disk in seen["disks"]] == ["shared", "local", "local stream"]
    for disk in seen["disks"]:
        assert (disk["length"], disk["sha256"]) == (8 << 20, seen["expected"]), disk["name"]


def test_a_slave_leads_to_the_master(seen: dict[str, Any]) -> None:
    """Connected to a host that is not the master, the connector finds it."""
    assert seen["viaSlave"] == 1
