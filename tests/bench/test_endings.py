"""A run that is told to end leaves no process behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
from pathlib import Path
from bench.endings import unwind_on_signals
from bench.systems.base import System, wait_s

class Sleeper(System):
    name, version = "sleeper", "1"
    def start(self):
        process = self.spawn([sys.executable, "-c", "import signal; signal.pause()"], "sleeper")
        print(process.pid, flush=True)

unwind_on_signals()
with Sleeper(Path(sys.argv[1])):
    wait_s(600)
"""
WITHIN_S = 60


@pytest.fixture
def run(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A harness that waits beside a system that it started, and that system's process."""
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as harness:
        assert harness.stdout is not None
        system = int(harness.stdout.readline())
        yield harness, system
        harness.kill()
        with suppress(ProcessLookupError):
            os.kill(system, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_systems_are_stopped(run: tuple[subprocess.Popen[str], int], number: signal.Signals) -> None:
    """By Ctrl-C, by `kill`, by a closed terminal; and the caller is told which."""
    harness, system = run
    harness.send_signal(number)
    assert harness.wait(WITHIN_S) == 128 + number
    with pytest.raises(ProcessLookupError):
        os.kill(system, 0)
