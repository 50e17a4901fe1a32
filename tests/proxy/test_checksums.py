"""Checksums: known answers, increments, combinations, and the lane that hashes beside the event loop."""

from __future__ import annotations

import base64
import hashlib
import threading
import zlib
from collections.abc import Iterator

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from proxy import checksums
from proxy.checksums import THREAD_BYTES_MIN, HashPool

# The check values of the CRC catalogue: of the nine digits.
KNOWN = {
    "crc32": 0xCBF43926.to_bytes(4, "big"),
    "crc32c": 0xE3069283.to_bytes(4, "big"),
    "crc64nvme": 0xAE8B14860A799888.to_bytes(8, "big"),
    "sha1": hashlib.sha1(b"123456789").digest(),
    "sha256": hashlib.sha256(b"123456789").digest(),
    "md5": hashlib.md5(b"123456789").digest(),
}


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_known_answers(name: str) -> None:
    """Each algorithm gives the published value for the nine digits, whole and byte by byte."""
    assert checksums.digest(name, b"123456789") == KNOWN[name]
    checksum = checksums.new_checksum(name)
    for digit in b"123456789":
        checksum.update(bytes((digit,)))
    assert checksum.digest() == KNOWN[name]
    assert checksum.name == name
    assert len(KNOWN[name]) == checksums.DIGEST_BYTES[name]


@pytest.mark.parametrize("name", sorted(checksums.FULL_OBJECT_ALGORITHMS))
@given(parts=st.lists(st.binary(max_size=200), max_size=6))
def test_full_object_is_the_digest_of_the_whole(name: str, parts: list[bytes]) -> None:
    """The parts' CRCs combine to the CRC of all bytes, empty parts included."""
    digests = [(checksums.digest(name, part), len(part)) for part in parts]
    assert checksums.full_object(name, digests) == checksums.digest(name, b"".join(parts))


def test_crc32_is_that_of_zlib() -> None:
    """awscrt and zlib agree."""
    assert checksums.digest("crc32", b"ringstead") == zlib.crc32(b"ringstead").to_bytes(4, "big")


@pytest.mark.parametrize("name", sorted(checksums.COMPOSITE_ALGORITHMS))
def test_composite_is_the_digest_of_digests(name: str) -> None:
    """A composite checksum is the base64 of the digest of the parts' digests, and the number of parts."""
    digests = [checksums.digest(name, part) for part in (b"one", b"two", b"three")]
    expected = base64.b64encode(checksums.digest(name, b"".join(digests))).decode() + "-3"
    assert checksums.composite(name, digests) == expected


def test_what_can_not_be_combined_is_refused() -> None:
    """SHAs tell nothing of the whole, crc64nvme has no composite form, and a digest has its size."""
    with pytest.raises(ValueError, match="sha256"):
        checksums.full_object("sha256", [])
    with pytest.raises(ValueError, match="crc64nvme"):
        checksums.composite("crc64nvme", [])
    with pytest.raises(ValueError, match="no digest"):
        checksums.full_object("crc32", [(b"12345", 3)])


@given(digest=st.binary(min_size=4, max_size=4))
def test_base64_round_trip(digest: bytes) -> None:
    """What encode gives, decode takes."""
    assert checksums.decode("crc32", checksums.encode(digest)) == digest


@pytest.mark.parametrize("text", ["", "AAAA", "AAAAAAA=", "!!!!", "AAAAAA", "AAAAAA==\n", "AAAA AA=="])
def test_bad_base64_is_refused(text: str) -> None:
    """Text of the wrong length or alphabet is no crc32."""
    with pytest.raises(ValueError, match=r"base64|bytes"):
        checksums.decode("crc32", text)


@pytest.fixture
def pool() -> Iterator[HashPool]:
    """Threads for one test."""
    pool = HashPool()
    yield pool
    pool.close()


async def test_a_lane_keeps_its_order(pool: HashPool) -> None:
    """Jobs of a lane run one after the other, however large and in whichever thread."""
    lane = pool.lane()
    seen: list[int] = []
    sizes = [THREAD_BYTES_MIN, 1, THREAD_BYTES_MIN * 2, THREAD_BYTES_MIN, 5]
    for number, size_bytes in enumerate(sizes):
        await lane.run(lambda number=number: seen.append(number), size_bytes)  # type: ignore[misc]
    await lane.wait()
    assert seen == list(range(len(sizes)))


async def test_a_large_job_leaves_the_event_loop_alone(pool: HashPool) -> None:
    """While a large piece is hashed, other tasks run; the next job waits for it."""
    lane = pool.lane()
    gate = threading.Event()
    await lane.run(lambda: _wait_for(gate), THREAD_BYTES_MIN)
    ran: list[str] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lane.run, lambda: ran.append("second"), 1)
        await trio.testing.wait_all_tasks_blocked()
        assert ran == []
        gate.set()
    assert ran == ["second"]


def _wait_for(gate: threading.Event) -> None:
    assert gate.wait(10)


async def test_a_job_that_raises_is_heard_of(pool: HashPool) -> None:
    """What a job in a thread raised comes out of the next call, once."""
    lane = pool.lane()

    def fail() -> None:
        raise ValueError("bad")

    await lane.run(fail, THREAD_BYTES_MIN)
    with pytest.raises(ValueError, match="bad"):
        await lane.wait()
    await lane.wait()
