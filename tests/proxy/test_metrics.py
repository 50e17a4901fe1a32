"""What the workers of one machine have done."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio.testing
from prometheus_client.parser import text_string_to_metric_families

from proxy.metrics import STALE_S, Metrics, dialect_of


class Time:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


def samples(page: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every series of a page, as a Prometheus parser reads it."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


def value(page: bytes, name: str, **labels: str) -> float | None:
    """One series of a page."""
    return samples(page).get((name, tuple(sorted(labels.items()))))


def record(metrics: Metrics, method: str = "GET", target: bytes = b"/v1/A/c/o", status: int = 200) -> None:
    """Count a response of 10 bytes in, 100 out, 2 ms."""
    metrics.record(method, target, status, 10, 100, 0.002, "tx")


@pytest.mark.parametrize(
    ("target", "dialect"),
    [
        (b"/v1/AUTH_a/c/o?x", "swift"),
        (b"/v1/", "swift"),
        (b"/info", "swift"),
        (b"/info?x=y", "swift"),
        (b"/auth/v1.0", "swift"),
        (b"/v1.0", "swift"),
        (b"/healthcheck", "own"),
        (b"/metrics/", "own"),
        (b"/v1", "s3"),
        (b"/information", "s3"),
        (b"/metrics-bucket", "s3"),
        (b"/", "s3"),
        (b"/bucket/v1/x", "s3"),
        (b"-", "none"),
    ],
)
def test_dialects(target: bytes, dialect: str) -> None:
    """Which dialect a path belongs to."""
    assert dialect_of(target) == dialect


async def test_a_worker_counts() -> None:
    """Requests by dialect, method and status; bytes and durations by dialect and method."""
    metrics = Metrics("w1")
    for status in (200, 200, 404):
        record(metrics, status=status)
    record(metrics, "BREW", b"/bucket/key", 400)
    metrics.add_gauge("connections", "Open now.", lambda: 7.0)
    page = await metrics.page()
    swift = {"worker": "w1", "dialect": "swift", "method": "GET"}
    assert value(page, "ringstead_proxy_requests_total", **swift, status="200") == 2
    assert value(page, "ringstead_proxy_requests_total", **swift, status="404") == 1
    assert value(page, "ringstead_proxy_received_bytes_total", **swift) == 30
    assert value(page, "ringstead_proxy_sent_bytes_total", **swift) == 300
    name = "ringstead_proxy_request_duration_seconds"
    assert value(page, f"{name}_count", **swift) == 3
    assert value(page, f"{name}_sum", **swift) == pytest.approx(0.006)
    assert value(page, f"{name}_bucket", **swift, le="0.001") == 0
    assert value(page, f"{name}_bucket", **swift, le="0.0025") == 3
    assert value(page, f"{name}_bucket", **swift, le="+Inf") == 3
    other = {"worker": "w1", "dialect": "s3", "method": "OTHER", "status": "400"}
    assert value(page, "ringstead_proxy_requests_total", **other) == 1
    assert value(page, "ringstead_proxy_connections", worker="w1") == 7
    assert (value(page, "ringstead_proxy_resident_memory_bytes", worker="w1") or 0) > 1_000_000


async def test_strange_methods_share_a_series() -> None:
    """A client that invents methods does not make labels."""
    metrics = Metrics("w1")
    for number in range(100):
        record(metrics, f"BREW{number}")
    assert len(metrics.snapshot()["series"]) == 1


async def test_any_worker_answers_for_all(tmp_path: Path) -> None:
    """Two workers that share a folder show the same series, whichever is asked, and never go back."""
    one, two = Metrics("w1", tmp_path), Metrics("w2", tmp_path)
    record(one)
    record(two)
    record(two)
    await two.page()
    page = await one.page()
    labels = {"dialect": "swift", "method": "GET", "status": "200"}
    assert value(page, "ringstead_proxy_requests_total", worker="w1", **labels) == 1
    assert value(page, "ringstead_proxy_requests_total", worker="w2", **labels) == 2
    shown = await two.page()
    assert value(shown, "ringstead_proxy_requests_total", worker="w1", **labels) == 1


async def test_the_counts_are_left_behind_each_second(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """A worker that nobody scrapes is seen through the others; one that ended is not."""
    one, two = Metrics("w1", tmp_path), Metrics("w2", tmp_path)
    record(one)
    async with trio.open_nursery() as nursery:
        await nursery.start(one.run)
        await trio.sleep(3)
        assert b'worker="w1"' in await two.page()
        nursery.cancel_scope.cancel()
    assert b'worker="w1"' not in await two.page()


async def test_workers_that_died_are_forgotten(tmp_path: Path) -> None:
    """A file that nobody has written for a while is not shown."""
    time = Time()
    one, two = Metrics("w1", tmp_path, time), Metrics("w2", tmp_path, time)
    record(one)
    await one.page()
    time.now_s += STALE_S - 1
    assert b'worker="w1"' in await two.page()
    time.now_s += 2
    assert b'worker="w1"' not in await two.page()


@pytest.mark.parametrize(
    "rubbish", [b"", b"{}", b"[]", b'{"worker": 1, "written_s": 1e12, "series": [[1]], "gauges": {}, "process": {}}']
)
async def test_rubbish_in_the_folder_is_ignored(tmp_path: Path, rubbish: bytes) -> None:
    """A damaged file costs its worker's figures, not the page."""
    metrics = Metrics("w1", tmp_path)
    (tmp_path / "w9.metrics.json").write_bytes(rubbish)
    record(metrics)
    assert b'worker="w1"' in await metrics.page()


async def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """A worker without its folder still shows its own figures."""
    metrics = Metrics("w1", tmp_path / "missing")
    record(metrics)
    assert b'worker="w1"' in await metrics.page()
