"""`ringstead device` on a running cluster."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.support.cluster import TestCluster

pytestmark = pytest.mark.cluster


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a command that did not work."""
    assert done.returncode in (1, 2)
    assert done.stderr.startswith("ringstead: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_a_device_is_taken_out_of_service_and_back(cluster: TestCluster) -> None:
    """With a reason that all who ask are given; a second fence and a second release are refused."""
    said = cluster.ringstead("device", "fence", "z3d2", "--reason", "it [clicks] loudly").stdout
    try:
        assert "z3d2 takes no writes: it [clicks] loudly" in said
        assert "z3d2 takes no writes: it [clicks] loudly" in cluster.ringstead("device", "list").stdout
        assert "z3d2 takes no writes: it [clicks] loudly" in cluster.ringstead("status").stdout
        found = {device["name"]: device for device in json.loads(cluster.ringstead("device", "list", "--json").stdout)}
        assert found["z3d2"]["fenced"] == "it [clicks] loudly"
        assert all(found[name]["up"] and not found[name]["fenced"] for name in found if name != "z3d2")
        assert "already" in refusal(cluster.ringstead("device", "fence", "z3d2", check=False))
    finally:
        cluster.ringstead("device", "release", "z3d2")
    assert "already" in refusal(cluster.ringstead("device", "release", "z3d2", check=False))
    shown = json.loads(cluster.ringstead("device", "show", "z3d2", "--json").stdout)
    assert (shown["fenced"], shown["full"]) == ("", "")
    assert shown["path"].endswith("devices/z3d2")
    assert "takes writes" in cluster.ringstead("device", "show", "z3d2").stdout


def test_what_is_not_here_is_one_line(cluster: TestCluster) -> None:
    """A device that no process has, and settings of another service."""
    assert "no device 'z9d9' here; there are z1d1" in refusal(
        cluster.ringstead("device", "release", "z9d9", check=False)
    )
    config = str(cluster.data / "config" / "daemons.toml")
    done = cluster.ringstead("device", "fence", "z1d1", "--config", config, check=False)
    assert "give those of the storage service" in refusal(done)
    other = str(cluster.data / "config" / "storage-z1d1.toml")
    done = cluster.ringstead("device", "fence", "z1d2", "--config", other, check=False)
    assert "serves no device 'z1d2'; it serves z1d1" in refusal(done)
