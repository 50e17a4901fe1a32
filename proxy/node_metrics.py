"""What the other services of a machine leave for its proxies to show at /metrics: daemons, devices.

Problem: a Prometheus that has to know a port for each process of each machine is configured once and never right again; and
most of these processes have no HTTP server, nor should they load one for this.

Idea: the proxies' own way (metrics.py), for everybody: a service leaves its figures in a file in the folder where the
services of the machine meet, every few seconds and as a whole, and whichever proxy is scraped shows them with its own. A
machine is one target, whatever runs on it.

The file is JSON: families with name, help text, kind and samples. It is checked when it is read, for it is another
process's; what makes no sense is passed over whole.

Invariants: one family a name, whatever files speak of it; figures that nobody has renewed for STALE_S are not shown.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

SUFFIX: Final = ".figures.json"
STALE_S: Final = 30.0
FILE_BYTES_MAX: Final = 4 * 1024 * 1024
GAUGE: Final = "gauge"
COUNTER: Final = "counter"
_NAME: Final = re.compile(r"ringstead_[a-z0-9_]+")
_LABEL: Final = re.compile(r"[a-z_]+")


@dataclass
class Family:
    """Figures of one kind, told apart by their labels."""

    name: str
    """With its unit and without `_total`: `ringstead_device_free_bytes`."""
    text: str
    kind: str
    """GAUGE or COUNTER."""
    samples: list[tuple[Mapping[str, str], float]] = field(default_factory=list)

    def add(self, value: float, **labels: str) -> None:
        """One more figure."""
        self.samples.append((labels, float(value)))


def leave(folder: Path, service: str, families: Sequence[Family], now_s: float) -> None:
    """Replace what a service left before. Raises OSError."""
    content = {
        "written_s": now_s,
        "families": [[family.name, family.text, family.kind, family.samples] for family in families],
    }
    path = folder / f"{service}{SUFFIX}"
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_bytes(orjson.dumps(content))
    draft.replace(path)


def take_away(folder: Path, service: str) -> None:
    """The service ends: what it left is no longer so. Raises OSError."""
    (folder / f"{service}{SUFFIX}").unlink(missing_ok=True)


def left_here(folder: Path, now_s: float) -> list[Family]:
    """What all living services have left, one family a name."""
    found: dict[str, Family] = {}
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            if path.stat().st_size > FILE_BYTES_MAX:
                continue
            content = orjson.loads(path.read_bytes())
            if now_s - float(content["written_s"]) > STALE_S:
                continue
            families = [_checked(*row) for row in content["families"]]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # it went away, or is not one of ours
        for family in families:
            known = found.setdefault(family.name, family)
            if known is not family and known.kind == family.kind:
                known.samples += family.samples
    return list(found.values())


def _checked(name: Any, text: Any, kind: Any, samples: Iterable[Any]) -> Family:
    """A family of whose shape one can be sure. Raises ValueError, TypeError."""
    if not (_NAME.fullmatch(name) and isinstance(text, str) and kind in (GAUGE, COUNTER)):
        raise ValueError("not a family of figures")
    family = Family(name, text, kind)
    for labels, value in samples:
        if not all(_LABEL.fullmatch(label) and isinstance(said, str) for label, said in labels.items()):
            raise ValueError("not labels")
        family.add(float(value), **labels)
    return family
