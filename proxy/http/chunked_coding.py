"""Chunked transfer coding (RFC 9112, section 7.1): bytes in, payload out.

Problem: a chunked body's end is known only by reading its framing, and whoever reads that framing differently from the
next machine on the path can be made to take a body for a request. Framing must be read one strict way.

Idea: a decoder that is fed what arrives and gives back payload. In the middle of a chunk it says how many bytes of pure
payload are still to come, and the connection takes those straight from the socket without showing them to it.

Rejected: llhttp for bodies. It would copy each piece, and it can't be told to stop where the next request begins.

Invariants:
- Nothing is lenient: sizes are hexadecimal digits alone, lines end in CR LF, extensions and trailers are bounded and
  dropped.
- After `done`, `rest` is what belongs to the next request.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import Final

from proxy.http.message import BodyTooLarge, MalformedBody

SIZE_LINE_BYTES_MAX: Final = 512
TRAILER_BYTES_MAX: Final = 8192

SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?")
TRAILER_LINE: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*")


class Expecting(IntEnum):
    """What comes next."""

    SIZE = 0
    PAYLOAD = 1
    PAYLOAD_END = 2
    TRAILER = 3
    NOTHING = 4


class ChunkedDecoder:
    """Decodes one body."""

    __slots__ = ("_body_bytes_max", "_buffer", "_expecting", "_total_bytes", "_trailer_bytes", "payload_left")

    def __init__(self, body_bytes_max: int) -> None:
        self._body_bytes_max = body_bytes_max
        self._buffer = b""
        self._expecting = Expecting.SIZE
        self._total_bytes = 0
        self._trailer_bytes = 0
        self.payload_left = 0
        """Bytes of the current chunk that have not come yet: so many can be read without the decoder (`skip`)."""

    @property
    def done(self) -> bool:
        """The body is complete."""
        return self._expecting is Expecting.NOTHING

    @property
    def rest(self) -> bytes:
        """What was fed beyond the body's end."""
        return self._buffer

    def skip(self, size_bytes: int) -> None:
        """The caller took so many bytes of payload itself: at most `payload_left`."""
        assert 0 < size_bytes <= self.payload_left
        self.payload_left -= size_bytes
        if not self.payload_left:
            self._expecting = Expecting.PAYLOAD_END

    def feed(self, data: bytes) -> bytes:
        """The payload in what came next; may be empty. Raises `MalformedBody`, `BodyTooLarge`."""
        buffer = self._buffer + data if self._buffer else data
        size_bytes = len(buffer)
        position = 0
        pieces: list[bytes] = []
        while True:
            if self._expecting is Expecting.PAYLOAD:
                if position == size_bytes:
                    break
                piece = buffer[position : position + self.payload_left]
                pieces.append(piece)
                position += len(piece)
                self.skip(len(piece))
            elif self._expecting is Expecting.PAYLOAD_END:
                line_end = buffer[position : position + 2]
                if not b"\r\n".startswith(line_end):
                    raise MalformedBody("a chunk does not end where its size says")
                if len(line_end) < 2:
                    break
                position += 2
                self._expecting = Expecting.SIZE
            elif self._expecting is Expecting.NOTHING:
                break
            else:
                stop = buffer.find(b"\n", position, position + SIZE_LINE_BYTES_MAX + TRAILER_BYTES_MAX) + 1
                if not stop:
                    self._check_line_bytes(size_bytes - position)
                    break
                self._take_line(buffer[position:stop])
                position = stop
        self._buffer = buffer[position:]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _check_line_bytes(self, line_bytes: int) -> None:
        """Raises `MalformedBody` for a line, complete or not, that is longer than it may be."""
        if self._expecting is Expecting.SIZE and line_bytes > SIZE_LINE_BYTES_MAX:
            raise MalformedBody("a chunk's size line is too long")
        if self._trailer_bytes + line_bytes > TRAILER_BYTES_MAX:
            raise MalformedBody("the trailers are too long")

    def _take_line(self, line: bytes) -> None:
        """One line of framing, its end included."""
        self._check_line_bytes(len(line))
        if not line.endswith(b"\r\n"):
            raise MalformedBody("lines of chunked framing must end in CR LF")
        if self._expecting is Expecting.TRAILER:
            self._trailer_bytes += len(line)
            if line == b"\r\n":
                self._expecting = Expecting.NOTHING
            elif not TRAILER_LINE.fullmatch(line[:-2]):
                raise MalformedBody("a trailer is malformed")
            return
        match = SIZE_LINE.fullmatch(line[:-2])
        if match is None:
            raise MalformedBody("a chunk's size is malformed")
        self.payload_left = int(match[1], 16)
        self._total_bytes += self.payload_left
        if self._total_bytes > self._body_bytes_max:
            raise BodyTooLarge(f"a request's body may have {self._body_bytes_max} bytes at most")
        self._expecting = Expecting.PAYLOAD if self.payload_left else Expecting.TRAILER
