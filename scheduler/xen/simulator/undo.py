"""Steps to take back when a longer operation fails half-way."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType


class Undo:
    """Collects what to do when the block ends in an exception, done latest first."""

    def __init__(self) -> None:
        self._steps: list[Callable[[], object]] = []

    def add(self, step: Callable[[], object]) -> None:
        """Something to do if this fails after all."""
        self._steps.append(step)

    def __enter__(self) -> Undo:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            for step in reversed(self._steps):
                step()
