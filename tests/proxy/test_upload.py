"""What an upload does with the pieces of a body before it sends them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.upload import SMALL_BYTES, _blocks, _joined
from storage_node.bulk import CHUNK_BYTES

SIZES = st.integers(0, 3 * CHUNK_BYTES) | st.integers(0, 200)


@given(st.lists(SIZES, max_size=12))
def test_small_pieces_are_put_together(sizes: list[int]) -> None:
    """The bytes stay what and where they were; only the last piece may be small."""
    pieces = [bytes([number + 1]) * size for number, size in enumerate(sizes)]
    joined = _joined(pieces)
    assert b"".join(joined) == b"".join(pieces)
    assert all(len(piece) >= SMALL_BYTES for piece in joined[:-1])
    assert all(joined)


@given(st.integers(1, 3 * CHUNK_BYTES))
def test_a_piece_is_cut_into_frames(size: int) -> None:
    """Frames hold at most what the wire allows, and all of the piece."""
    piece = bytes(range(256)) * (size // 256 + 1)
    blocks = list(_blocks(piece[:size]))
    assert all(len(block.data) <= CHUNK_BYTES for block in blocks)
    assert b"".join(block.data for block in blocks) == piece[:size]
