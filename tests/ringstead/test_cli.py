"""The command line itself: help, settings, mistakes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def ringstead(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `ringstead ARGUMENTS`."""
    command = [sys.executable, "-m", "ringstead", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)


def test_help_names_every_command() -> None:
    """A newcomer sees what there is."""
    done = ringstead("--help")
    assert done.returncode == 0
    for command in ("config", "fsck", "ring", "serve", "status", "up", "user", "version"):
        assert f"\n  {command} " in done.stdout


@pytest.mark.parametrize("command", ["config", "fsck", "ring", "serve", "status", "up", "user"])
def test_every_command_explains_itself(command: str) -> None:
    """Each command can be loaded and has help."""
    done = ringstead(command, "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage: " in done.stdout


def test_version() -> None:
    """The version is one line."""
    assert ringstead("version").stdout.startswith("ringstead 0.")


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["serve", "toaster", "--config", "x"],
        ["serve", "proxy"],
        ["serve", "proxy", "--config", "/nonexistent/proxy.toml"],
        ["up", "--port", "eighty"],
        ["up", "--port", "99999", "--data", "/tmp/never-made"],
        ["config", "check", "/nonexistent.toml"],
        ["user", "add", "a:b", "--project", "c"],
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(arguments: list[str]) -> None:
    """What makes no sense is said in one line; nobody sees a trace-back."""
    done = ringstead(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("ringstead: ")
    assert done.stderr.count("\n") == 1


def test_shown_settings_pass_the_check(tmp_path: Path) -> None:
    """`config show` prints files that `config check` calls good."""
    files = []
    for service in ("daemons", "proxy", "storage"):
        file = tmp_path / f"{service}.toml"
        file.write_text(ringstead("config", "show", service).stdout)
        files.append(str(file))
    done = ringstead("config", "check", *files)
    assert done.returncode == 0
    assert done.stdout.count("good settings") == 3
