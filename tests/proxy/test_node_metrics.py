"""What other services of a machine leave for its proxies to show."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from proxy.metrics import Metrics, node_page
from proxy.node_metrics import COUNTER, GAUGE, STALE_S, SUFFIX, Family, leave, left_here, take_away

NOW_S = 1_000_000.0


def free_bytes(device: str, value: float) -> Family:
    """A family with one sample."""
    family = Family("ringstead_device_free_bytes", "Free space.", GAUGE)
    family.add(value, device=device)
    return family


def series(page: bytes) -> dict[tuple[str, str], float]:
    """(name, device) -> value of the device's series on a page."""
    return {
        (sample.name, sample.labels["device"]): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
        if sample.name.startswith("ringstead_device_")
    }


async def test_a_proxy_shows_what_services_have_left(tmp_path: Path) -> None:
    """Gauges and counters of several services, one family a name, beside the proxy's own."""
    writes = Family("ringstead_device_writes", "Writes.", COUNTER)
    writes.add(7, device='z"1\n')
    leave(tmp_path, "daemons", [free_bytes("a", 5), writes], NOW_S)
    leave(tmp_path, "others", [free_bytes("b", 6)], NOW_S)
    expected = {
        ("ringstead_device_free_bytes", "a"): 5.0,
        ("ringstead_device_free_bytes", "b"): 6.0,
        ("ringstead_device_writes_total", 'z"1\n'): 7.0,
    }
    page = await Metrics("proxy-1", tmp_path, lambda: NOW_S).page()
    assert series(page) == expected
    assert page.count(b"# TYPE ringstead_device_free_bytes gauge") == 1
    assert b"ringstead_proxy_start_time_seconds" in page
    assert series(await node_page(tmp_path, lambda: NOW_S)) == expected


def test_what_nobody_renews_is_not_shown(tmp_path: Path) -> None:
    """Nor what a service took away when it ended."""
    leave(tmp_path, "dead", [free_bytes("a", 5)], NOW_S)
    assert len(left_here(tmp_path, NOW_S + STALE_S)) == 1
    assert left_here(tmp_path, NOW_S + STALE_S + 1) == []
    take_away(tmp_path, "dead")
    take_away(tmp_path, "dead")
    assert left_here(tmp_path, NOW_S) == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"written_s": 1000000}',
        b'{"written_s": 1000000, "families": [["ringstead_x", "", "summary", []]]}',
        b'{"written_s": 1000000, "families": [["other_x", "", "gauge", []]]}',
        b'{"written_s": 1000000, "families": [["ringstead_x", "", "gauge", [[{"a": 1}, 2]]]]}',
        b'{"written_s": 1000000, "families": [["ringstead_x", "", "gauge", [[{"a b": "1"}, 2]]]]}',
        b'{"written_s": 1000000, "families": [["ringstead_x", "", "gauge", [[{"a": "1"}, "many"]]]]}',
        b'{"written_s": 1000000, "families": [["ringstead_x", "", "gauge", [7]]]}',
        b'{"written_s": 1000000, "families": [[1, "", "gauge", []]]}',
    ],
)
def test_files_that_make_no_sense_are_passed_over(tmp_path: Path, content: bytes) -> None:
    """The others are shown."""
    (tmp_path / f"bad{SUFFIX}").write_bytes(content)
    leave(tmp_path, "good", [free_bytes("a", 5)], NOW_S)
    assert [family.name for family in left_here(tmp_path, NOW_S)] == ["ringstead_device_free_bytes"]
