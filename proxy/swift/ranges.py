"""Range: which bytes of an object, and several of them in one answer.

RFC 9110, section 14: what is no byte range is ignored (the whole object is sent); ranges none of which lies within the
object are 416; several become multipart/byteranges. The same section warns of clients that ask for thousands of small or
overlapping ranges; such a request is answered with 416, as Swift does.

Invariant: a multipart answer's length is known before its first byte is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

from proxy.model import ObjectStream

RANGES_MAX = 50
_OVERLAPS_MAX = 2
_DESCENTS_MAX = 8
_RANGE = re.compile(rb"\s*(\d*)\s*-\s*(\d*)\s*")
_DIGITS_MAX = 20


class ByteRange(NamedTuple):
    """Bytes start up to, not including, stop."""

    start: int
    stop: int


def parse_ranges(value: bytes, size_bytes: int) -> list[ByteRange] | None:
    """The ranges that lie within an object of `size_bytes`; [] if none does (416), None for what is no byte range."""
    unit, equals, specification = value.partition(b"=")
    if not equals or unit.strip().lower() != b"bytes":
        return None
    ranges: list[ByteRange] = []
    for part in specification.split(b","):
        match = _RANGE.fullmatch(part)
        if match is None or not (match[1] or match[2]) or max(len(match[1]), len(match[2])) > _DIGITS_MAX:
            return None
        first, last = match[1], match[2]
        if not first:
            length = min(int(last), size_bytes)
            if length or (int(last) and not size_bytes):
                ranges.append(ByteRange(size_bytes - length, size_bytes))
            continue
        start = int(first)
        if last and int(last) < start:
            return None
        if start < size_bytes:
            ranges.append(ByteRange(start, min(int(last) + 1, size_bytes) if last else size_bytes))
    return [] if _abusive(ranges) else ranges


def _abusive(ranges: Sequence[ByteRange]) -> bool:
    """Whether the ranges are more, or stranger, than any honest client's."""
    if len(ranges) < 2:
        return False
    if len(ranges) > RANGES_MAX:
        return True
    descents = sum(later.start < earlier.start for earlier, later in pairwise(ranges))
    ordered = sorted(ranges)
    overlaps = sum(later.start < earlier.stop for earlier, later in pairwise(ordered))
    return descents > _DESCENTS_MAX or overlaps > _OVERLAPS_MAX


class MultipartRanges:
    """Several ranges of one object as a multipart/byteranges body: a `ResponseStream` that knows its length."""

    def __init__(
        self,
        ranges: Sequence[ByteRange],
        size_bytes: int,
        content_type: bytes,
        boundary: bytes,
        open_range: Callable[[int, int], ObjectStream],
    ) -> None:
        heads = [
            b"--%b\r\nContent-Type: %b\r\nContent-Range: bytes %d-%d/%d\r\n\r\n"
            % (boundary, content_type, part.start, part.stop - 1, size_bytes)
            for part in ranges
        ]
        self._end = b"--%b--" % boundary
        self._parts = list(zip(heads, ranges, strict=True))
        self._parts.reverse()
        self._open_range = open_range
        self._current: ObjectStream | None = None
        self.length = sum(map(len, heads)) + sum(part.stop - part.start + 2 for part in ranges) + len(self._end)
        """Of the whole body, in bytes."""

    async def read(self) -> bytes | memoryview:
        """The next piece: a part's head, bytes of it, or a delimiter."""
        if self._current is not None:
            piece = await self._current.read()
            if piece:
                return piece
            await self._current.aclose()
            self._current = None
            return b"\r\n"
        if self._parts:
            head, (start, stop) = self._parts.pop()
            self._current = self._open_range(start, stop)
            return head
        end, self._end = self._end, b""
        return end

    async def aclose(self) -> None:
        """Let go of the part that is open."""
        self._parts.clear()
        self._end = b""
        current, self._current = self._current, None
        if current is not None:
            await current.aclose()
