"""Logs: bounded, structured, without secrets."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import structlog

from ringstead.processes.logs import BoundedFile, set_up


@pytest.fixture
def log_file(tmp_path: Path) -> Path:
    """The file that this test's process logs to, from info on."""
    file = tmp_path / "logs" / "x.log"
    set_up("proxy-1", "info", file)
    return file


def read_lines(file: Path) -> list[dict[str, object]]:
    """The events in a log file."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_an_event_is_a_line_of_json(log_file: Path) -> None:
    """An event has its level, time, service, process, logger and values."""
    structlog.get_logger("some.room").info("put failed", transaction_id="tx1", size_bytes=3)
    (event,) = read_lines(log_file)
    assert event["event"] == "put failed"
    assert event["level"] == "info"
    assert event["service"] == "proxy-1"
    assert event["logger"] == "some.room"
    assert event["transaction_id"] == "tx1"
    assert event["size_bytes"] == 3
    assert {"timestamp", "pid"} <= set(event)


def test_what_is_below_the_level_is_not_written(log_file: Path) -> None:
    """Debug events cost nothing and leave nothing."""
    structlog.get_logger().debug("noise")
    assert log_file.read_text() == ""


def test_secrets_do_not_reach_the_file(log_file: Path) -> None:
    """A value whose key speaks of secrets is hidden, whoever logs it."""
    structlog.get_logger().info(
        "user", secret_key="hunter2", Authorization="hunter2", token="hunter2", password="hunter2"
    )
    text = log_file.read_text()
    assert "hunter2" not in text
    assert text.count("(hidden)") == 4


def test_libraries_end_in_the_same_file(log_file: Path) -> None:
    """Standard loggers' events are events like our own; trace-backs go with them."""
    logging.getLogger("lib").warning("odd %s", "thing")
    try:
        raise ValueError("boom")
    except ValueError:
        structlog.get_logger().exception("failed")
    odd, failed = read_lines(log_file)
    assert odd["event"] == "odd thing"
    assert "ValueError: boom" in str(failed["exception"])


def test_what_json_lacks_is_shown_somehow(log_file: Path) -> None:
    """No value makes a log call fail."""
    structlog.get_logger().info("odd", value=b"\xff", thing=object(), text="\ud800")
    assert len(read_lines(log_file)) == 1


def test_a_full_file_moves_aside(tmp_path: Path) -> None:
    """There are never more than two files of the bounded size."""
    file = BoundedFile(tmp_path / "x.log", 100)
    for number in range(50):
        file.write(f"line {number:4}\n".encode())
    file.close()
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(sizes) == {"x.log", "x.log.1"}
    assert max(sizes.values()) <= 100
    assert (tmp_path / "x.log").read_text().endswith("line   49\n")
