"""`ringstead daemon` on a running cluster."""

from __future__ import annotations

import json
import time
import urllib.request
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.cluster import TestCluster

pytestmark = pytest.mark.cluster
NAMES = ["replicator", "auditor", "updater", "expirer", "reaper", "reclaimer"]


def shown(cluster: TestCluster, name: str) -> dict[str, Any]:
    """A daemon, as programs see it."""
    described: dict[str, Any] = json.loads(cluster.ringstead("daemon", name, "--json").stdout)
    return described


def test_each_daemon_tells_its_backlog_and_its_rates(cluster: TestCluster) -> None:
    """The list shows all of them to people; each has backlog, age of the oldest, pause and a rate for programs."""
    table = cluster.ringstead("daemon", "list").stdout
    found = json.loads(cluster.ringstead("daemon", "--json").stdout)
    assert list(found) == NAMES
    for name, described in found.items():
        assert name in table
        statistics = described["statistics"]
        assert statistics["backlog"] >= 0
        assert statistics["oldest_s"] >= 0
        assert statistics["paused"] is False
        assert all(rate["value"] == rate["setting"] > 0 for rate in described["rates"].values())
        assert described["failures"] == 0
    assert "partitions that could not be settled" in cluster.ringstead("daemon", "replicator").stdout


def test_pause_and_rate_survive_the_death_of_the_process(cluster: TestCluster) -> None:
    """kill -9 of the daemons: the one that was paused stays paused, at the rate that it was given, until it is resumed."""
    assert cluster.ringstead("daemon", "auditor", "pause").stdout.splitlines() == [
        "auditor is paused, also when its process begins anew",
        "`ringstead daemon auditor resume` lets it go on",
    ]
    cluster.ringstead("daemon", "auditor", "rate", "entries_per_s", "1.5k")
    try:
        assert "paused" in cluster.ringstead("status").stdout
        cluster.kill("daemons")
        cluster.wait_ready()
        auditor = shown(cluster, "auditor")
        assert auditor["statistics"]["paused"]
        assert auditor["rates"]["entries_per_s"] == {
            "text": auditor["rates"]["entries_per_s"]["text"],
            "value": 1_500.0,
            "setting": 2_000.0,
            "kept": True,
        }
        assert not shown(cluster, "replicator")["statistics"]["paused"]
    finally:
        cluster.ringstead("daemon", "auditor", "resume")
        said = cluster.ringstead("daemon", "auditor", "rate", "default").stdout
    assert "auditor is well" in said
    assert said.splitlines()[1:] == ["as the settings say"]


def test_metrics_of_daemons_and_devices_are_on_the_proxies_page(cluster: TestCluster) -> None:
    """Backlog, age, pause and rate of each daemon, state and free space of each device, at the one /metrics."""
    give_up_s = time.monotonic() + 30
    series: dict[str, set[str]] = {}
    while not {"ringstead_device_up", "ringstead_auditor_done_part"} <= set(series) and time.monotonic() < give_up_s:
        series = {}
        with urllib.request.urlopen(f"{cluster.endpoint}/metrics", timeout=20) as response:
            page = response.read().decode()
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                of = sample.labels.get("daemon") or sample.labels.get("device") or ""
                series.setdefault(sample.name, set()).add(of)
                if sample.name == "ringstead_device_up":
                    assert sample.value == 1.0
    for name in ("backlog", "oldest_seconds", "paused", "rate", "failures_total"):
        assert series[f"ringstead_daemon_{name}"] == set(NAMES)
    for name in ("up", "fenced", "full", "free_bytes", "writes_total"):
        assert series[f"ringstead_device_{name}"] == {"z1d1", "z1d2", "z2d1", "z2d2", "z3d1", "z3d2"}
    assert {
        "ringstead_replicator_rounds_total",
        "ringstead_auditor_done_part",
        "ringstead_updater_look_seconds",
    } <= set(series)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["nobody"], "there is no daemon 'nobody'; there are replicator, auditor"),
        (["nobody", "pause"], "there is no daemon 'nobody'; there are replicator, auditor"),
        (["auditor", "rate"], "`rate` takes a value"),
        (["auditor", "rate", "fast"], "'fast' is no rate"),
        (["auditor", "rate", "-5"], "'-5' is no rate"),
        (["auditor", "rate", "fast", "5"], "no rate 'fast'; it has bytes_per_s, entries_per_s"),
        (["auditor", "pause", "5"], "`pause` takes nothing more"),
        (["list", "pause"], "name one daemon"),
    ],
)
def test_what_cannot_be_done_is_one_line(cluster: TestCluster, words: list[str], complaint: str) -> None:
    """It says what there is instead."""
    done = cluster.ringstead("daemon", *words, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("ringstead: ")
    assert done.stderr.count("\n") == 1
    assert complaint in done.stderr
