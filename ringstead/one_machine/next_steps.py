"""What `up` prints once all is up: the few lines that a newcomer needs next."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from ringstead.one_machine.up import Running


def print_next_steps(running: Running) -> None:
    """To standard output: in colour on a terminal, plain elsewhere."""
    lines = next_steps(running)
    if not sys.stdout.isatty():
        print("\n".join(text for _, text in lines), flush=True)
        return
    from rich.console import Console
    from rich.text import Text

    styles = {"title": "bold green", "text": "", "command": "cyan"}
    console = Console(highlight=False, soft_wrap=True)
    for kind, text in lines:
        console.print(Text(text, styles[kind]))


def next_steps(running: Running) -> list[tuple[str, str]]:
    """(kind, line): kind is title, text or command."""
    shape = running.shape
    credentials = shlex.quote(shorten(running.directory.credentials_file))
    data = shlex.quote(shorten(running.directory.path))
    option = "" if data == "data" else f" --data {data}"
    size = f"{_count(shape.zones, 'zone')}, {_count(shape.devices_per_zone, 'device')} in each, "
    size += f"{'one copy' if shape.replicas == 1 else f'{shape.replicas} copies'} of everything."
    return [
        ("title", f"Ringstead is up at {running.endpoint}"),
        ("text", f"{size} Ctrl-C stops it; the data stays in {data}."),
        ("text", ""),
        ("text", "In another terminal:"),
        ("command", f"  . {credentials}"),
        ("command", "  aws s3 mb s3://photos && aws s3 cp FILE s3://photos/"),
        ("command", "  swift upload photos FILE && swift list photos"),
        ("command", f"  ringstead status{option}"),
        ("command", f"  ringstead user add NAME{option}"),
        *([("command", f"  ringstead az list{option}")] if shape.xen else []),
    ]


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def shorten(path: Path) -> str:
    """Relative to where the command was started, if that is shorter."""
    relative = os.path.relpath(path)
    return relative if len(relative) < len(str(path)) else str(path)
