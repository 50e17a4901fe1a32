"""What an operator told the daemons, kept across restarts: which are paused, and rates that differ from the settings.

Problem: who pauses the replicator at the beginning of a working day means it, also if its process is started again an hour
later; and a rate that was set by hand must not be lost with the process that it was told to.

Idea: one small JSON file, replaced as a whole and durably with every change, and read once at the start. What is not in it
is as the settings say, so that a change of the settings file has its effect on what nobody set by hand.

Daemons that this version does not know are kept as they stand: an upgrade and its way back lose nothing. A file that makes
no sense is an error that says which file: to go on as if nobody had paused anything is not for a program to decide.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, Final

from ring.durable import replace_file
from ringstead.errors import ConfigError

VERSION: Final = 1
FILE_BYTES_MAX: Final = 1024**2


@dataclass(frozen=True)
class Wish:
    """What was asked of one daemon."""

    paused: bool = False
    rates: dict[str, float] = field(default_factory=dict)
    """By name; the others are as the settings say."""


class DaemonState:
    """The wishes for all daemons of a node, in a file."""

    def __init__(self, path: Path) -> None:
        """Read it; a file that is not there holds no wishes. Raises ConfigError."""
        self._path = path
        self._wishes: dict[str, Wish] = {}
        try:
            with path.open("rb") as file:
                self._wishes = _parse(file.read(FILE_BYTES_MAX))
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"{path}: {error}; this is where pauses and rates of daemons are kept: mend it, or remove it to have "
                "all daemons run as their settings say"
            ) from error

    def of(self, name: str) -> Wish:
        """What was asked of the daemon of that name."""
        return self._wishes.get(name, Wish())

    def keep(self, name: str, wish: Wish) -> None:
        """Replace what was asked of it, durably. Raises OSError, and nothing has changed then."""
        wishes = {**self._wishes, name: wish}
        content = {
            "version": VERSION,
            "daemons": {
                name: {"paused": wish.paused, "rates": wish.rates}
                for name, wish in sorted(wishes.items())
                if wish != Wish()
            },
        }
        replace_file(self._path, json.dumps(content, indent=1).encode() + b"\n")
        self._wishes = wishes


def _parse(raw: bytes) -> dict[str, Wish]:
    content = json.loads(raw)
    if content["version"] != VERSION:
        raise ValueError(f"written by another version of Ringstead (format {content['version']!r}, not {VERSION})")
    return {name: _parse_wish(name, told) for name, told in content["daemons"].items()}


def _parse_wish(name: str, told: dict[str, Any]) -> Wish:
    paused, rates = told["paused"], told["rates"]
    sensible = all(isinstance(rate, (int, float)) and isfinite(rate) and rate > 0 for rate in rates.values())
    if not isinstance(paused, bool) or not sensible:
        raise ValueError(f"what it says of {name!r} makes no sense")
    return Wish(paused, {rate: float(value) for rate, value in rates.items()})
