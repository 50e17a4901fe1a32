"""Checksums where the dialect deals with them: in headers, of what it copies, of uploads in parts.

The algorithms are in `proxy.checksums`; that a body is what its sender announced is checked where it is received. Here is
what is left: the names in requests, a body that is given a checksum on its way, and the checksum of a completed upload.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import trio

from proxy.checksums import (
    COMPOSITE_ALGORITHMS,
    FULL_OBJECT_ALGORITHMS,
    S3_ALGORITHMS,
    THREAD_BYTES_MIN,
    composite,
    decode,
    encode,
    full_object,
    new_checksum,
)
from proxy.model import BodySource, Metadata

_PREFIX = b"x-amz-checksum-"
_HEADERS = {_PREFIX + name.encode(): name for name in S3_ALGORITHMS}


def request_algorithm(headers: Mapping[bytes, bytes]) -> str:
    """The checksum that a body brings, as a header or as a trailer: "crc32" and so on; "" for none."""
    for header, name in _HEADERS.items():
        if header in headers:
            return name
    trailer = headers.get(b"x-amz-trailer")
    return "" if trailer is None else _HEADERS.get(trailer.strip().lower(), "")


def given_checksums(headers: Mapping[bytes, bytes]) -> dict[str, str]:
    """The checksums in a request's headers, by algorithm, as they are written."""
    return {name: headers[header].decode("latin-1") for header, name in _HEADERS.items() if header in headers}


def default_type(algorithm: str) -> str:
    """The checksum type of an upload that asks for an algorithm alone."""
    return "COMPOSITE" if algorithm in COMPOSITE_ALGORITHMS else "FULL_OBJECT"


def possible_types(algorithm: str) -> frozenset[str]:
    """The checksum types that an upload with this algorithm may have."""
    types = {"COMPOSITE"} if algorithm in COMPOSITE_ALGORITHMS else set()
    return frozenset(types | {"FULL_OBJECT"} if algorithm in FULL_OBJECT_ALGORITHMS else types)


def combined_checksum(algorithm: str, kind: str, parts: Sequence[tuple[str, int]]) -> str:
    """The checksum of an object out of its parts' (base64, size in bytes), in order; `kind` FULL_OBJECT or COMPOSITE.

    Raises ValueError where a part's is none.
    """
    digests = [(decode(algorithm, text), size_bytes) for text, size_bytes in parts]
    if kind == "FULL_OBJECT":
        return encode(full_object(algorithm, digests))
    return composite(algorithm, [digest for digest, _ in digests])


class DigestingBody:
    """A body that is given a checksum while it is read (a `BodySource`)."""

    __slots__ = ("_algorithm", "_body", "_checksum")

    def __init__(self, body: BodySource, algorithm: str) -> None:
        self._body = body
        self._algorithm = algorithm
        self._checksum = new_checksum(algorithm)

    @property
    def length(self) -> int | None:
        """As of the body within."""
        return self._body.length

    async def read(self) -> bytes:
        """The next piece; b"" at the end."""
        piece = await self._body.read()
        if len(piece) < THREAD_BYTES_MIN or self._algorithm in FULL_OBJECT_ALGORITHMS:
            self._checksum.update(piece)
        else:
            await trio.to_thread.run_sync(self._checksum.update, piece)
        return piece

    def checksum_metadata(self) -> Metadata:
        """The checksum of all that was read, as metadata."""
        return {f"checksum:{self._algorithm}": encode(self._checksum.digest()), "checksum:type": "FULL_OBJECT"}
