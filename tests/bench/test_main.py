"""What `python -m bench` says to arguments that can't be meant, before it measures anything."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def complaint(*arguments: str) -> str:
    """The last line of what it says, having failed."""
    command = [sys.executable, "-m", "bench", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=60)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize("arguments", [("--seconds", "0"), ("--seconds", "-3"), ("--rounds", "0")])
def test_nothing_is_measured_in_no_time(arguments: tuple[str, str]) -> None:
    """Zero and less are refused."""
    assert "a second at least" in complaint(*arguments)


def test_a_system_that_is_not_known() -> None:
    """Which there are is said."""
    assert "no such system: 'nosuch'; there are ringstead, swift" in complaint("--systems", "ringstead,nosuch")


def test_a_text_that_no_title_holds() -> None:
    """And where to look."""
    assert "see --list" in complaint("--only", "nothing like it")


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed (Debian: wrk)")
@pytest.mark.parametrize("option", ["--output", "--folder"])
def test_a_folder_that_cannot_be_written_to(tmp_path: Path, option: str) -> None:
    """Is found out before anything is measured, not at the end."""
    file = tmp_path / "file"
    file.touch()
    others = [] if option == "--output" else ["--output", str(tmp_path / "output")]
    assert "can't be written to" in complaint(option, str(file), *others)
