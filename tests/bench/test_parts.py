"""The benchmarks of single parts run, each in its smallest form, and print a figure for every case."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUN_S = 120


def run(*command: str) -> str:
    """What it prints."""
    done = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, check=False, cwd=ROOT, timeout=RUN_S
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("device", [False, True])
def test_the_wire(tmp_path: Path, device: bool) -> None:
    """Every kind of call and both kinds of transfer, with a device behind it and with none."""
    options = ("--device", str(tmp_path / "device")) if device else ()
    text = run("bench.wire", "--concurrency", "4", "--seconds", "0.05", "--transfers", "1", *options)
    for name in ("PutRow", "PutObject", "GetObject"):
        assert re.search(rf"^{name} +x4 +[0-9,]+/s +[0-9.]+ us +[0-9.]+ us$", text, re.MULTILINE)
    for name in ("bulk write", "bulk read"):
        assert re.search(rf"^{name} +64 MiB +[0-9.]+ GB/s$", text, re.MULTILINE)


def test_replication(tmp_path: Path) -> None:
    """Agreement, mending, auditing and filling of a small cluster."""
    text = run("bench.replication", "--objects", "300", "--fill", "100", "--folder", str(tmp_path))
    assert "300 objects, 3 devices agree" in text
    assert "mended on 2 devices" in text
    assert "the auditor's pass over 300 entries" in text
    assert "an empty device is given 100 objects" in text


def test_the_command_is_the_module() -> None:
    """`ringstead bench` hands its arguments to the harness."""
    assert run("ringstead", "bench", "--list") == run("bench", "--list")
