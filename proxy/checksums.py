"""The checksums that object stores speak of: incremental, in their base64 forms, and combined over parts.

Problem: S3 knows five checksums of an object besides its MD5, each in two kinds for multipart uploads: of the parts'
checksums (composite), or as of the whole object (full object, which only CRCs allow). Hashing must keep up with the
network and must not keep the event loop from everybody else.

Idea: one small class per family behind one protocol. CRCs run at some GB/s (awscrt and zlib) and are
computed where they are asked for; MD5 and the SHAs run at around 1 GB/s, so a `HashPool` computes them in a thread beside
the event loop where a piece is large enough to be worth the hop. hashlib lets go of the interpreter meanwhile.

Rejected: pure-Python CRC tables (some 10 MB/s); google-crc32c and crc32c (fast, but no crc64nvme); a thread for every
piece (a hop is 30 us, a 4 KiB piece hashes in 6).

Sources: "Checking object integrity" in the Amazon S3 User Guide; RFC 3309 (crc32c); the NVMe base specification (crc64).

Invariants: digests are raw bytes, big-endian for CRCs, here; base64 text only in `encode` and `decode`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Protocol

import awscrt.checksums
import trio

DIGEST_BYTES: Final = {"crc32": 4, "crc32c": 4, "crc64nvme": 8, "sha1": 20, "sha256": 32, "md5": 16}
"""Every algorithm and the size of its digests."""
S3_ALGORITHMS: Final = ("crc32", "crc32c", "crc64nvme", "sha1", "sha256")
"""Those of x-amz-checksum-ALGORITHM."""
FULL_OBJECT_ALGORITHMS: Final = frozenset(("crc32", "crc32c", "crc64nvme"))
"""Those whose parts' digests tell the digest of the whole."""
COMPOSITE_ALGORITHMS: Final = frozenset(("crc32", "crc32c", "sha1", "sha256"))
"""Those that S3 allows as a checksum of checksums."""

FAST_ALGORITHMS: Final = frozenset(("crc32", "crc32c", "crc64nvme"))
"""Those that are not worth a thread: 256 KiB take 15 to 100 us, and a hop takes 30."""

THREAD_BYTES_MIN: Final = 64 * 1024
"""From this size on a piece is hashed in a thread."""

_CRC_FUNCTIONS: Final[dict[str, Callable[[bytes, int], int]]] = {
    "crc32": zlib.crc32,
    "crc32c": awscrt.checksums.crc32c,
    "crc64nvme": awscrt.checksums.crc64nvme,
}
_CRC_COMBINERS: Final[dict[str, Callable[[int, int, int], int]]] = {
    "crc32": awscrt.checksums.combine_crc32,
    "crc32c": awscrt.checksums.combine_crc32c,
    "crc64nvme": awscrt.checksums.combine_crc64nvme,
}


class Checksum(Protocol):
    """A checksum in the making."""

    @property
    def name(self) -> str:
        """The algorithm, one of `DIGEST_BYTES`."""

    def update(self, data: bytes, /) -> None:
        """Take in the next bytes."""

    def digest(self) -> bytes:
        """Of all bytes so far."""


class Crc:
    """A cyclic redundancy check."""

    __slots__ = ("_function", "_value", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self._function = _CRC_FUNCTIONS[name]
        self._value = 0

    def update(self, data: bytes, /) -> None:
        """Take in the next bytes."""
        self._value = self._function(data, self._value)

    def digest(self) -> bytes:
        """Of all bytes so far, big-endian."""
        return self._value.to_bytes(DIGEST_BYTES[self.name], "big")


def new_checksum(name: str) -> Checksum:
    """A checksum of no bytes yet. `name` is one of `DIGEST_BYTES`."""
    if name in _CRC_FUNCTIONS:
        return Crc(name)
    return hashlib.new(name, usedforsecurity=False)


def digest(name: str, data: bytes) -> bytes:
    """The checksum of bytes at hand."""
    checksum = new_checksum(name)
    checksum.update(data)
    return checksum.digest()


def encode(raw_digest: bytes) -> str:
    """The base64 form."""
    return base64.b64encode(raw_digest).decode("ascii")


def decode(name: str, text: str | bytes) -> bytes:
    """The digest that a base64 form stands for. Raises ValueError where it can't be one of that algorithm."""
    try:
        raw_digest = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{text!r} is not base64") from error
    if len(raw_digest) != DIGEST_BYTES[name]:
        raise ValueError(f"{text!r} has {len(raw_digest)} bytes, not the {DIGEST_BYTES[name]} of {name}")
    return raw_digest


def composite(name: str, part_digests: Sequence[bytes]) -> str:
    """The checksum of checksums of a multipart upload, as S3 shows it: base64, "-", the number of parts."""
    if name not in COMPOSITE_ALGORITHMS:
        raise ValueError(f"{name} has no composite form")
    return f"{encode(digest(name, b''.join(part_digests)))}-{len(part_digests)}"


def full_object(name: str, parts: Sequence[tuple[bytes, int]]) -> bytes:
    """The digest of the whole from each part's digest and size in bytes, in order. Only for CRCs."""
    if name not in FULL_OBJECT_ALGORITHMS:
        raise ValueError(f"the digests of parts do not tell the {name} of the whole")
    combine = _CRC_COMBINERS[name]
    value = 0
    for part_digest, size_bytes in parts:
        if len(part_digest) != DIGEST_BYTES[name]:
            raise ValueError(f"{part_digest.hex()} is no digest of {name}")
        value = combine(value, int.from_bytes(part_digest, "big"), size_bytes)
    return value.to_bytes(DIGEST_BYTES[name], "big")


class HashPool:
    """Threads that hash beside the event loop; one of these per process. `close` when done with it."""

    def __init__(self, thread_count: int = 2) -> None:
        self._executor = ThreadPoolExecutor(thread_count, thread_name_prefix="hash")

    def lane(self) -> HashLane:
        """A sequence of jobs of its own: each runs when the one before it is done."""
        return HashLane(self._executor)

    def close(self) -> None:
        """Wait for the running jobs and end the threads."""
        self._executor.shutdown()


class HashLane:
    """Jobs one after the other, at most one in a thread at any time, so that one body's hashing is in order."""

    __slots__ = ("_executor", "_running")

    def __init__(self, executor: ThreadPoolExecutor | None) -> None:
        self._executor = executor
        self._running: Future[None] | None = None

    async def run(self, job: Callable[[], None], size_bytes: int) -> None:
        """Run a job that handles so many bytes: at once if they are few; else in a thread, without waiting for its end.

        Raises what this job, or the one before it, raised.
        """
        await self.wait()
        if self._executor is None or size_bytes < THREAD_BYTES_MIN:
            job()
        else:
            self._running = self._executor.submit(job)

    async def wait(self) -> None:
        """Until all jobs are done. Raises what the last one raised."""
        running = self._running
        if running is None:
            return
        if not running.done():
            done = trio.Event()
            token = trio.lowlevel.current_trio_token()
            running.add_done_callback(lambda _: _set_from_thread(token, done))
            await done.wait()
        self._running = None
        running.result()


def _set_from_thread(token: trio.lowlevel.TrioToken, event: trio.Event) -> None:
    """Set a trio event from any thread; there may be no trio any more."""
    try:
        token.run_sync_soon(event.set)
    except trio.RunFinishedError:
        return
