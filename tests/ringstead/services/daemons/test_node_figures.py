"""Figures of daemons and devices, as metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from proxy.node_metrics import COUNTER, GAUGE, Family
from replicator.peers import Peer
from ring.topology import Device
from ringstead.services.daemons.node_figures import daemon_families, families_of
from storage_node.client import DeviceClient
from storage_node.operations import Statistics
from tests.ringstead.services.daemons.test_desk import Counting, desk_of

FIGURES = Statistics(b"u" * 16, "d", 100, 40, 7, 5, 3, 1, 9, 2, 1, 1, 4, 1, 0, 50, 10, 0.5, 60, 0, "")


def peer(number: int) -> Peer:
    """A device of zone 2."""
    device = Device(number, 1, 2, "127.0.0.1", 6200, f"d{number}", 1.0)
    return Peer(device, DeviceClient("unix:/nowhere", device.name, b"k" * 32), None)


def values(families: list[Family], name: str) -> dict[str, float]:
    """A family's samples by daemon or device."""
    (family,) = [family for family in families if family.name == name]
    return {str(labels.get("daemon", labels.get("device"))): value for labels, value in family.samples}


def test_a_device_that_does_not_answer_is_down_and_nothing_else() -> None:
    """What it held when it last answered is no figure of now."""
    families = families_of(
        [(peer(1), FIGURES), (peer(2), None), (peer(3), FIGURES._replace(fenced="x", full="y", filling="z"))]
    )
    assert values(families, "ringstead_device_up") == {"d1": 1, "d2": 0, "d3": 1}
    assert values(families, "ringstead_device_fenced") == {"d1": 0, "d3": 1}
    assert values(families, "ringstead_device_full") == {"d1": 0, "d3": 1}
    assert values(families, "ringstead_device_filling") == {"d1": 0, "d3": 1}
    assert values(families, "ringstead_device_free_bytes") == {"d1": 40, "d3": 40}
    assert {family.name: family.kind for family in families}["ringstead_device_writes"] == COUNTER


async def test_each_daemon_has_the_common_figures_and_its_own(tmp_path: Path) -> None:
    """What only grows is a counter; a rate is a rate once, not a figure beside."""
    one = Counting("one")
    desk = desk_of(tmp_path, one, Counting("two"))
    desk.change("one", paused=True, rates={"": 0.5})
    one.done = 3
    families = daemon_families(desk)
    assert values(families, "ringstead_daemon_backlog") == {"one": 0, "two": 0}
    assert values(families, "ringstead_daemon_paused") == {"one": 1, "two": 0}
    assert values(families, "ringstead_daemon_failures") == {"one": 0, "two": 0}
    rates: dict[Any, float] = {
        (labels["daemon"], labels["rate"]): value
        for family in families
        for labels, value in family.samples
        if family.name == "ringstead_daemon_rate"
    }
    assert (rates["one", "numbers_per_s"], rates["two", "numbers_per_s"]) == (0.5, 1.0)
    own = {family.name: (family.kind, family.samples) for family in families if "_daemon_" not in family.name}
    assert own == {"ringstead_one_done": (COUNTER, [({}, 3.0)]), "ringstead_two_done": (COUNTER, [({}, 0.0)])}
    assert GAUGE in {family.kind for family in families}
