"""Texts that many rows share, made when they are first met.

A page has a thousand rows, of a handful of content types, written in a few seconds. Asking a dictionary costs half of a call
to a cached function, a thousand times a page.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

K = TypeVar("K")


class Spelled(dict[K, bytes]):
    """`spelled[key]` is what `spell` makes of the key. `count_max` are kept; when there are more, all are dropped."""

    def __init__(self, spell: Callable[[K], bytes], count_max: int) -> None:
        super().__init__()
        self._spell = spell
        self._count_max = count_max

    def __missing__(self, key: K) -> bytes:
        text = self._spell(key)
        if len(self) >= self._count_max:
            self.clear()
        self[key] = text
        return text
