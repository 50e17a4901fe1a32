"""A run that is told to end stops what it started.

Problem: Python dies of SIGTERM (a timeout, a CI runner, `kill`) and of SIGHUP (a closed terminal) without unwinding, and a
dozen servers of other people's stay behind, which the next run then measures itself beside.

Idea: the first of these signals, SIGINT among them, becomes an exception in the main thread, so that every `with` stops
what it holds. What comes after is ignored, lest an impatient second one cuts the stopping short. SIGKILL can't be helped.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Final

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def unwind_on_signals() -> None:
    """From now on SIGINT, SIGTERM and SIGHUP raise SystemExit(128 + number) in the main thread, once. Call it there."""
    for number in SIGNALS:
        signal.signal(number, _unwind)


def _unwind(number: int, _frame: FrameType | None) -> None:
    for other in SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    print(f"{signal.Signals(number).name}: stopping what was started", file=sys.stderr, flush=True)
    raise SystemExit(128 + number)
