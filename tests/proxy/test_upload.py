"""What an upload does with the pieces of a body before it sends them, and what it leaves behind."""

from __future__ import annotations

from collections import deque
from random import Random

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.model import BadDigest, PutObjectRequest
from proxy.upload import ROUND_BYTES, _fill, _read_round
from storage_node.bulk import CHUNK_BYTES
from storage_node.window import WINDOW_BYTES, Window
from tests.proxy.test_store import ACCOUNT, Body, get
from tests.support.small_cluster import small_cluster

SIZES = st.integers(1, 3 * CHUNK_BYTES) | st.integers(1, 200) | st.integers(WINDOW_BYTES - 2, 2 * WINDOW_BYTES)
BYTES = Random(3).randbytes(2 * WINDOW_BYTES)


@settings(deadline=None)
@given(st.lists(SIZES, max_size=8))
def test_windows_hold_all_pieces_in_order(sizes: list[int]) -> None:
    """Filled again and again a window shows every byte once, in frames of at most a chunk."""
    window = Window()
    pieces = deque(memoryview(BYTES)[:size] for size in sizes)
    shown = []
    while pieces:
        _fill(window, pieces)
        blocks = window.blocks()
        assert all(0 < len(block.data) <= CHUNK_BYTES for block in blocks)
        shown.append(b"".join(block.data for block in blocks))
    assert b"".join(shown) == b"".join(BYTES[:size] for size in sizes)
    assert all(len(whole) == WINDOW_BYTES for whole in shown[:-1])
    window.close()


@pytest.mark.parametrize("held", [0, 1000, ROUND_BYTES])
async def test_a_round_is_read_until_it_is_full(held: int) -> None:
    """What is there already counts; the body's end ends a round, and the next one is empty."""
    body = Body(bytes(ROUND_BYTES + 100_000), piece=50_000)
    read_bytes = sum(map(len, await _read_round(body, held)))
    assert ROUND_BYTES <= held + read_bytes < ROUND_BYTES + 50_000
    while more := sum(map(len, await _read_round(body, 0))):
        read_bytes += more
    assert read_bytes == ROUND_BYTES + 100_000


@pytest.mark.parametrize("piece", [70_001, 2 * WINDOW_BYTES + 3], ids=["small pieces", "pieces beyond a window"])
async def test_uploads_at_once_have_windows_of_their_own(piece: int) -> None:
    """Bodies that arrive at the same time do not mix, and their windows serve the next ones."""
    bodies = [Random(number).randbytes(3 * WINDOW_BYTES + number) for number in range(4)]
    async with small_cluster(local=True) as running:
        store = running.store
        await store.create_container(ACCOUNT, b"c", {})

        async def put(number: int) -> None:
            body = Body(bodies[number], piece=piece, length=bool(number % 2))
            await store.put_object(ACCOUNT, b"c", b"%d" % number, body, PutObjectRequest())

        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(put, number)
        for number in range(4):
            assert await get(store, b"%d" % number) == bodies[number]
        assert store.cluster.windows.idle_count > 0


async def test_a_window_in_doubt_is_not_kept() -> None:
    """One of an upload that broke off goes, since a device may still take from it; one that all have taken is kept."""
    async with small_cluster(local=True) as running:
        store = running.store
        await store.create_container(ACCOUNT, b"c", {})
        body = Body(bytes(3 * WINDOW_BYTES), breaks=True)
        with pytest.raises(ConnectionError):
            await store.put_object(ACCOUNT, b"c", b"x", body, PutObjectRequest())
        assert store.cluster.windows.idle_count == 0
        request = PutObjectRequest(expected_md5=b"0" * 16)
        with pytest.raises(BadDigest):
            await store.put_object(ACCOUNT, b"c", b"x", Body(bytes(3 * WINDOW_BYTES)), request)
        assert store.cluster.windows.idle_count == 1
