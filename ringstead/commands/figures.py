"""Figures as people read and write them: sizes, ages, rates."""

from __future__ import annotations

import re
from typing import Final

from ringstead.errors import UsageError

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_RATE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kKMGT]?)(i?)B?(?:/s)?")
BYTES_RATE: Final = "bytes_per_s"
"""How the names of rates in bytes end."""


def size_text(size_bytes: float) -> str:
    """A size for people: 1.5 GiB."""
    size = float(size_bytes)
    for unit in _UNITS[:-1]:
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} {_UNITS[-1]}"


def age_text(age_s: float) -> str:
    """A time span in its largest unit, and the one below: `3 d 4 h`, `12 min`, `5 s`."""
    seconds = round(age_s)
    for unit, length_s, next_unit, next_length_s in (
        ("d", 86_400, "h", 3_600),
        ("h", 3_600, "min", 60),
        ("min", 60, "s", 1),
    ):
        if seconds >= length_s:
            rest = seconds % length_s // next_length_s
            return f"{seconds // length_s} {unit} {rest} {next_unit}" if rest else f"{seconds // length_s} {unit}"
    return f"{seconds} s"


def rate_text(name: str, value: float) -> str:
    """A rate with its unit, which its name says: `128.0 MiB/s`, `2,000/s`."""
    if name.endswith(BYTES_RATE):
        return f"{size_text(value)}/s"
    return f"{value:,.0f}/s" if value >= 10 else f"{value:g}/s"


def parse_rate(text: str) -> float:
    """`50MiB`, `50MB/s`, `2000`, `1.5k`: so much a second. Raises UsageError."""
    match = _RATE.fullmatch(text.strip())
    value = 0.0
    if match is not None:
        power = ("", "k", "M", "G", "T").index(match[2].replace("K", "k"))
        value = float(match[1]) * float((1024 if match[3] else 1000) ** power)
    if not value > 0:
        raise UsageError(f"{text!r} is no rate: write 2000, 1.5k, 50MiB or 50MB/s")
    return value
