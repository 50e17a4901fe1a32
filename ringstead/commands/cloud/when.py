"""Times of records as people read them."""

from __future__ import annotations

from datetime import UTC, datetime


def when_text(time_s: float) -> str:
    """`2026-11-26 19:30:05 UTC`."""
    return f"{datetime.fromtimestamp(time_s, UTC):%Y-%m-%d %H:%M:%S} UTC"
