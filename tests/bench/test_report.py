"""The report: ratios and aims from the figures, problems said aloud."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.plots import draw
from bench.report import against_limits, machine, markdown, ratios


def row(rate: float, cpu_us: float) -> dict[str, Any]:
    """A workload's figures."""
    latencies = {f"{name}_ms": 1.0 for name in ("p50", "p95", "p99", "p999")}
    rates = {"rate_per_s": rate, "rate_min": rate * 0.9, "rate_max": rate * 1.1, "mb_per_s": rate / 250}
    return {"dialect": "swift", **rates, **latencies, "cpu_us": cpu_us, "written_bytes": 0, "errors": 0}


def a_report() -> dict[str, Any]:
    """Two systems, one of which could not do one of two workloads."""
    limits = {
        "fdatasync_per_s": 5000.0,
        "md5_mb_per_s": 800.0,
        "device_write_mb_per_s": 900.0,
        "loopback_sendfile_mb_per_s": 3000.0,
        "bare_http_per_s": 50_000.0,
    }
    about = {"version": "1", "answers_when": "synced", "pss_mb": 1, "private_mb": 1, "processes": 2, "idle_cores": 0.0}
    return {
        "machine": machine(Path("/")),
        "seconds": 1.0,
        "rounds": 1,
        "limits_before": limits,
        "limits_after": limits,
        "load_after": 0.0,
        "systems": {"ringstead": about, "swift": about},
        "workloads": {
            "GET 4 KiB (32)": {"ringstead": row(40_000, 50), "swift": row(800, 2_500)},
            "PUT 4 KiB (32)": {"ringstead": row(3_000, 300), "swift": {"problem": "it fell over"}},
        },
    }


def test_ratios_and_aims_are_worked_out():
    """Fifty times the rate is an aim of forty reached; the processor's ratio stands beside it."""
    text = markdown(a_report())
    assert "| GET 4 KiB (32) | 50.0 | 50.0 | 40 x swift: reached |" in text


def test_ratios_and_shares_of_limits_are_there_for_machines() -> None:
    """The same figures as in the tables, as plain values."""
    report = a_report()
    assert ratios(report) == {"GET 4 KiB (32)": {"swift": {"rate": 50.0, "cpu": 50.0}}, "PUT 4 KiB (32)": {}}
    assert against_limits(report)["GET 4 KiB (32)"]["ringstead"] == {"one bare process": 0.8}
    assert against_limits(report)["PUT 4 KiB (32)"] == {"ringstead": {"one fdatasync after the other": 0.6}}


def test_beside_the_ratios_stands_what_a_sync_costs_here() -> None:
    """A reader of the table alone must know what it compares."""
    said = (
        "This disk acknowledges an fdatasync of 4 KiB in 0.200 ms (5,000 a second), so these ratios compare processor"
    )
    assert said in markdown(a_report())
    slow = a_report()
    for when in ("limits_before", "limits_after"):
        slow[when] = {**slow[when], "fdatasync_per_s": 100.0}
    assert "in 10.000 ms (100 a second), so ratios of writes compare how often each syncs" in markdown(slow)


def test_a_rate_of_refusals_has_no_ratio() -> None:
    """Errors come quickly; who refuses is not compared with who answers, nor is an aim reached by it."""
    report = a_report()
    report["workloads"]["GET 4 KiB (32)"]["swift"]["errors"] = 7
    assert ratios(report)["GET 4 KiB (32)"] == {}
    assert "| GET 4 KiB (32) |  |  |  |" in markdown(report)


def test_the_report_says_which_disk_and_which_source() -> None:
    """File system, device, commit, generator."""
    about = machine(Path("/"))
    assert " on " in about["disk"]
    assert all(about[name] for name in ("commit", "wrk", "date"))


def test_what_could_not_be_measured_is_said():
    """A system's problem stands in the table, in the place of figures."""
    assert "| PUT 4 KiB (32) | swift | | not measured: it fell over |" in markdown(a_report())


def test_every_figure_says_the_dialect_it_was_asked_in():
    """Figures of two dialects stand in one report, and a reader must not compare them unawares."""
    report = a_report()
    report["workloads"]["S3 GET 4 KiB (32)"] = {"ringstead": {**row(20_000, 90), "dialect": "s3"}}
    text = markdown(report)
    assert "| GET 4 KiB (32) | ringstead | Swift | 40,000/s " in text
    assert "| S3 GET 4 KiB (32) | ringstead | S3 | 20,000/s " in text


def test_s3_is_held_against_the_token_path():
    """The aim of 60 % is worked out from our own two figures."""
    report = a_report()
    report["workloads"]["S3 GET 4 KiB (32)"] = {
        "ringstead": {**row(20_000, 90), "dialect": "s3"},
        "minio": {**row(4_000, 270), "dialect": "s3"},
    }
    report["systems"]["minio"] = report["systems"]["swift"]
    assert "| 50% of the token path, aim 60%: missed |" in markdown(report)
    report["workloads"]["S3 GET 4 KiB (32)"]["ringstead"]["rate_per_s"] = 30_000
    assert "| 75% of the token path, aim 60%: reached |" in markdown(report)


def test_plots_are_drawn(tmp_path: Path):
    """Two SVG files with the systems' names in them."""
    for path in draw(a_report(), tmp_path):
        assert path.read_text().startswith("<?xml")
