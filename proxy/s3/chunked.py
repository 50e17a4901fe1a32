"""The aws-chunked content coding: framing taken off, signatures of chunks and trailers verified. Pure.

Problem: S3's clients frame a body in chunks of their own (inside Content-Length or chunked transfer coding), so that they
can sign it, or send its checksum behind it, without reading it twice. The framing is written a little differently by each
client: the blank lines around trailers above all.

Idea: `AwsChunkedDecoder` turns bytes into events (payload, the end of a chunk, the trailers) and knows no keys;
`ChunkSignatures` is the chain of signatures over those events. The decoder runs where the body is read; the chain hashes,
so its caller may run it in a thread. What follows the last chunk is read to the body's end and taken as lines, whatever
blank lines are between them.

Source: "Signature Calculations for the Authorization Header: Transferring Payload in Multiple Chunks" and "… Including
trailing headers" in the Amazon S3 API Reference.

Invariants:
- Exactly x-amz-decoded-content-length bytes of payload come out, or an error.
- A signed chunk's payload may come out before its signature is verified: the consumer stores nothing for good before the
  body's end.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from enum import IntEnum
from typing import Final, NamedTuple, TypeAlias

from proxy.s3.errors import S3Error
from proxy.s3.sigv4 import ChunkSigning

CHUNK_LINE_BYTES_MAX: Final = 1024
SIGNED_CHUNK_BYTES_MIN: Final = 8192
"""S3 allows less only for the last chunk."""
TRAILER_BYTES_MAX: Final = 8192

_CHUNK_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;chunk-signature=([0-9a-f]{64}))?")
_TRAILER_LINE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e]*?)[ \t]*")
_TRAILER_SIGNATURE: Final = b"x-amz-trailer-signature"
_EMPTY_SHA256: Final = hashlib.sha256(b"").hexdigest()


class ChunkEnd(NamedTuple):
    """A chunk is complete."""

    signature: bytes
    """b"" in bodies whose chunks are not signed."""


class Trailers(NamedTuple):
    """The body is complete."""

    headers: dict[bytes, bytes]
    """Lower-case names."""
    signature: bytes
    """b"" where there is none."""


Event: TypeAlias = "bytes | ChunkEnd | Trailers"
"""bytes are payload."""


class _Expecting(IntEnum):
    LINE = 0
    PAYLOAD = 1
    PAYLOAD_END = 2
    TRAILERS = 3


def _malformed(message: str) -> S3Error:
    return S3Error("InvalidRequest", f"The aws-chunked body is malformed: {message}", close=True)


class AwsChunkedDecoder:
    """Takes the framing off one body."""

    __slots__ = (
        "_buffer", "_chunk_bytes", "_chunk_left", "_expecting", "_length", "_signature", "_signed", "_small_chunk",
        "received",
    )  # fmt: skip

    def __init__(self, decoded_length: int, signed: bool) -> None:
        self._length = decoded_length
        self._signed = signed
        self._expecting = _Expecting.LINE
        self._buffer = b""
        self._chunk_bytes = 0
        self._chunk_left = 0
        self._signature = b""
        self._small_chunk = False
        """The chunk before was smaller than any but the last may be."""
        self.received = 0
        """Bytes of payload so far."""

    def feed(self, data: bytes) -> list[Event]:
        """What is in the next bytes. Raises `S3Error`."""
        if self._expecting is _Expecting.PAYLOAD and len(data) < self._chunk_left:
            # The usual case in large bodies, without a copy.
            self._chunk_left -= len(data)
            self.received += len(data)
            return [data]
        buffer = self._buffer + data if self._buffer else data
        events: list[Event] = []
        position = 0
        while position < len(buffer):
            if self._expecting is _Expecting.PAYLOAD:
                piece = buffer[position : position + self._chunk_left]
                events.append(piece)
                position += len(piece)
                self.received += len(piece)
                self._chunk_left -= len(piece)
                if not self._chunk_left:
                    self._expecting = _Expecting.PAYLOAD_END
            elif self._expecting is _Expecting.PAYLOAD_END:
                if len(buffer) - position < 2:
                    break
                if buffer[position : position + 2] != b"\r\n":
                    raise _malformed("a chunk does not end where its size says.")
                position += 2
                events.append(ChunkEnd(self._signature))
                self._expecting = _Expecting.LINE
            elif self._expecting is _Expecting.TRAILERS:
                if len(buffer) - position > TRAILER_BYTES_MAX:
                    raise S3Error("MalformedTrailerError", close=True)
                break
            else:
                line_end = buffer.find(b"\r\n", position, position + CHUNK_LINE_BYTES_MAX)
                if line_end < 0:
                    if len(buffer) - position >= CHUNK_LINE_BYTES_MAX:
                        raise _malformed("a chunk's first line is too long.")
                    break
                is_last = self._begin_chunk(buffer[position:line_end])
                position = line_end + 2
                if is_last:
                    events.append(ChunkEnd(self._signature))
        self._buffer = buffer[position:]
        return events

    def _begin_chunk(self, line: bytes) -> bool:
        """A chunk's first line, without its end. True: it is the last chunk, which has no payload."""
        match = _CHUNK_LINE.fullmatch(line)
        if match is None:
            raise _malformed("a chunk's first line must be its size, and its signature if it is signed.")
        size_bytes = int(match[1], 16)
        if self._signed and match[2] is None:
            raise _malformed("a chunk is not signed.")
        self._signature = match[2] if self._signed else b""
        if size_bytes == 0:
            if self.received != self._length:
                raise _wrong_length(self._length, self.received)
            self._expecting = _Expecting.TRAILERS
            return True
        if self._small_chunk:
            raise S3Error("InvalidChunkSizeError", fields=(("BadChunkSize", str(self._chunk_bytes)),), close=True)
        if self.received + size_bytes > self._length:
            raise _wrong_length(self._length, self.received + size_bytes)
        self._small_chunk = self._signed and size_bytes < SIGNED_CHUNK_BYTES_MIN
        self._chunk_bytes = self._chunk_left = size_bytes
        self._expecting = _Expecting.PAYLOAD
        return False

    def end(self) -> Trailers:
        """The body as sent has ended: its trailers. Raises `S3Error` if that is too early."""
        if self._expecting is not _Expecting.TRAILERS:
            if self.received < self._length:
                raise _wrong_length(self._length, self.received)
            raise S3Error("IncompleteBody", "The aws-chunked body does not end in a chunk of no bytes.", close=True)
        headers: dict[bytes, bytes] = {}
        for line in self._buffer.replace(b"\r\n", b"\n").split(b"\n"):
            if line:
                match = _TRAILER_LINE.fullmatch(line)
                if match is None or (name := match[1].lower()) in headers:
                    raise S3Error("MalformedTrailerError", close=True)
                headers[name] = match[2]
        signature = headers.pop(_TRAILER_SIGNATURE, b"")
        return Trailers(headers, signature)


def _wrong_length(length: int, received: int) -> S3Error:
    return S3Error(
        "IncompleteBody",
        f"You did not provide the number of bytes specified by the x-amz-decoded-content-length header ({length})",
        fields=(("NumberBytesExpected", str(length)), ("NumberBytesProvided", str(received))),
        close=True,
    )


class ChunkSignatures:
    """The chain of signatures over a body: each covers its chunk and the signature before."""

    __slots__ = ("_access_key", "_chunk_hash", "_previous", "_signing")

    def __init__(self, signing: ChunkSigning, access_key: str) -> None:
        self._signing = signing
        self._access_key = access_key
        self._previous = signing.seed_signature
        self._chunk_hash = hashlib.sha256()

    def update(self, payload: bytes) -> None:
        """Bytes of the present chunk."""
        self._chunk_hash.update(payload)

    def end_chunk(self, signature: bytes) -> None:
        """The present chunk is complete. Raises SignatureDoesNotMatch."""
        self._verify(b"AWS4-HMAC-SHA256-PAYLOAD", f"{_EMPTY_SHA256}\n{self._chunk_hash.hexdigest()}", signature)
        self._chunk_hash = hashlib.sha256()

    def end(self, trailers: Trailers) -> None:
        """The trailers are complete. Raises SignatureDoesNotMatch."""
        lines = b"".join(name + b":" + value + b"\n" for name, value in sorted(trailers.headers.items()))
        self._verify(b"AWS4-HMAC-SHA256-TRAILER", hashlib.sha256(lines).hexdigest(), trailers.signature)

    def _verify(self, kind: bytes, hashes: str, signature: bytes) -> None:
        signing = self._signing
        to_sign = b"\n".join((kind, signing.amz_date.encode(), signing.scope.encode(), self._previous, hashes.encode()))
        expected = hmac.digest(signing.signing_key, to_sign, "sha256").hex().encode("ascii")
        if not hmac.compare_digest(expected, signature):
            raise S3Error(
                "SignatureDoesNotMatch",
                fields=(
                    ("AWSAccessKeyId", self._access_key),
                    ("StringToSign", to_sign.decode("ascii", "replace")),
                    ("SignatureProvided", signature.decode("latin-1")),
                ),
                close=True,
            )
        self._previous = expected
