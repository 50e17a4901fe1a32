"""How `ringstead ring` prints: tables for people, sizes and times in words, and the reverse for options."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any

import click

_UNITS = ("", "k", "M", "G", "T", "P", "E")
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kKMGTPE]?)(i?)(B?|bit)(?:/s|ps)?")
TABLE_WIDTH = 1000
"""Wider than any table: a cell is never cut off; a narrow terminal wraps the line instead."""


class SizeType(click.ParamType[float]):
    """An option like `120T`, `1.5TiB` or `100MB/s` (`1Gbit/s`), as bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        match = _SIZE.fullmatch(str(value).strip())
        if match is None or float(match[1]) <= 0:
            self.fail(f"{value!r} is no size: write 120T, 1.5TiB or 100MB/s", param, ctx)
        factor = 1024 if match[3] else 1000
        size = float(match[1]) * float(factor ** _UNITS.index(match[2].replace("K", "k")))
        return size / 8 if match[4] == "bit" else size


def size_text(size_bytes: float) -> str:
    """`1.23 TB`."""
    size = float(size_bytes)
    for unit in _UNITS[:-1]:
        if abs(size) < 1000:
            return f"{size:.3g} {unit}B" if unit else f"{size:.0f} B"
        size /= 1000
    return f"{size:.3g} EB"


def duration_text(duration_s: float) -> str:
    """`3 d 4 h`, `12 min`, `5 s`."""
    seconds = round(duration_s)
    for unit, length, next_unit, next_length in (("d", 86400, "h", 3600), ("h", 3600, "min", 60)):
        if seconds >= length:
            rest = seconds % length // next_length
            return f"{seconds // length} {unit} {rest} {next_unit}" if rest else f"{seconds // length} {unit}"
    return f"{seconds // 60} min" if seconds >= 120 else f"{seconds} s"


def count_text(count: int, noun: str) -> str:
    """`1 partition`, `2 partitions`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, left: Sequence[str] = ()) -> None:
    """Print a table; columns named in `left` are aligned to the left. In colour on a terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    terminal = sys.stdout.isatty()
    console = Console(file=sys.stdout, width=TABLE_WIDTH, highlight=False, soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD if terminal else None, pad_edge=False, show_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="left" if column in left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(*cell) if isinstance(cell, tuple) else Text(str(cell)) for cell in row))
    console.print(table)


def balance_cell(balance: float, within: float = 1.0) -> tuple[str, str]:
    """A balance with the colour of its sign: what is too full and what is too empty stand out."""
    style = "red" if balance > within else "cyan" if balance < -within else "green"
    return f"{balance:+.2f}", style
