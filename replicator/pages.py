"""Reading the same ordered range from several devices, a page at a time, so that like stands beside like. Pure.

Problem: each device gives a page of the range, and pages end at different places: one holds ten entries where another holds
none. What is missing from a page may be missing from the device, or just lie behind the page's end.

Idea: up to the lowest end of all pages that were cut short, every device has said all that it holds. That far the pages
are put side by side; the next questions begin behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")


def align(
    pages: Mapping[int, tuple[Sequence[T], bool]], key_of: Callable[[T], bytes]
) -> tuple[dict[bytes, dict[int, T]], bytes | None]:
    """Items by key and device, as far as all devices have said; and the key where that ends, None at the range's end.

    `pages` has (items, truncated) of each device that answered.
    """
    bound: bytes | None = None
    for items, truncated in pages.values():
        if truncated and items:
            last = key_of(items[-1])
            if bound is None or last < bound:
                bound = last
    beside: dict[bytes, dict[int, T]] = {}
    for device, (items, _) in pages.items():
        for item in items:
            key = key_of(item)
            if bound is not None and key > bound:
                break
            beside.setdefault(key, {})[device] = item
    return beside, bound
