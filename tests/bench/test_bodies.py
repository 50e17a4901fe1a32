"""The benchmark's bodies: nothing in them for a store that compresses or deduplicates."""

from __future__ import annotations

import zlib

import pytest

from bench.bodies import BLOCK_BYTES, draw_bodies


def blocks_of(body: bytes) -> list[bytes]:
    """A body cut where a store may cut it."""
    return [body[start : start + BLOCK_BYTES] for start in range(0, len(body), BLOCK_BYTES)]


@pytest.mark.parametrize("size_bytes", [0, 1, 15, 16, 17, 4096, BLOCK_BYTES, BLOCK_BYTES + 5, 3 * BLOCK_BYTES])
def test_bodies_have_their_size(size_bytes: int) -> None:
    """Whatever the size, less than a stamp and not a multiple of a block too."""
    bodies = draw_bodies(size_bytes)
    assert {len(bodies.body(number)) for number in range(3)} == {size_bytes}


@pytest.mark.parametrize("size_bytes", [4096, 3 * BLOCK_BYTES + 100])
def test_no_block_comes_twice(size_bytes: int) -> None:
    """Not in a body, not in two bodies of a run, not in two runs."""
    blocks = [
        block
        for bodies in (draw_bodies(size_bytes), draw_bodies(size_bytes))
        for number in range(3)
        for block in blocks_of(bodies.body(number))
    ]
    assert len(set(blocks)) == len(blocks)


def test_bodies_do_not_compress() -> None:
    """A store that tries gains nothing."""
    body = draw_bodies(65536).body(1)
    assert len(zlib.compress(body)) > 0.99 * len(body)
