"""Windows: what lies in shared memory is stored as if it had been sent, and a sender can't change what was checked."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random
from typing import Any

import pytest

from storage_node.bulk import CHUNK_BYTES, Kind, message
from storage_node.client import BulkFailed, BulkRead, BulkWrite, DeviceClient, PutBlobHeader
from storage_node.device import Device
from storage_node.fields import BeginShared, BeginWrite, LookAt
from storage_node.frames import frame, raw_header
from storage_node.handshake import Purpose
from storage_node.operations import GetObject, Status
from storage_node.transport import SocketTransport, send_all, send_with_descriptor
from storage_node.window import WINDOW_BYTES, Window, WindowPool
from storage_node.wire_settings import ServerSettings
from tests.storage_node.wire import (
    NOW,
    connected,
    free_port_address,
    hash_of,
    knock,
    open_device,
    serving,
    the_end_of,
    until,
)

DATA = Random(7).randbytes(3 * WINDOW_BYTES + 777)


@pytest.fixture
def address(tmp_path: Path) -> str:
    """Of a Unix socket that nobody listens at yet."""
    return f"unix:{tmp_path / 's.sock'}"


@pytest.fixture
def device(tmp_path: Path) -> Any:
    """A fresh device."""
    opened = open_device(tmp_path / "sda")
    yield opened
    opened.close()


@pytest.fixture
def window() -> Any:
    """A window of the test's own."""
    made = Window()
    yield made
    made.close()


def open_memfds() -> int:
    """Descriptors of windows that this process has open."""
    found = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            found += "ringstead-window" in os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue
    return found


def is_missing(device: Device) -> bool:
    """Whether the device holds no object of the test's, and no file of one."""
    files = [path for part in ("incoming", "blobs") for path in (device.path / part).rglob("*") if path.is_file()]
    return not files and device.read(GetObject(hash_of(1), b"/a/c/1", False)).status == Status.MISSING


async def send(transfer: BulkWrite, window: Window, data: bytes) -> None:
    """Send data by way of the window, and spoil the window once it is taken."""
    for start in range(0, len(data), WINDOW_BYTES):
        window.length = 0
        window.add(data[start : start + WINDOW_BYTES])
        await transfer.send_window(window.blocks())
        window.view[:] = bytes(WINDOW_BYTES)


async def read(client: DeviceClient) -> bytes:
    """The test's object."""
    transfer = await client.open_read(hash_of(1), b"/a/c/1")
    assert isinstance(transfer, BulkRead)
    pieces = []
    while piece := await transfer.read():
        pieces.append(bytes(piece))
    return b"".join(pieces)


HEADER = PutBlobHeader(hash_of(1), b"/a/c/1", NOW, b"meta")


@pytest.mark.parametrize("inline_write_s_max", [10.0, 0.0], ids=["in place", "in a thread"])
@pytest.mark.parametrize("size", [1, CHUNK_BYTES, CHUNK_BYTES + 1, WINDOW_BYTES, len(DATA)])
async def test_what_lies_in_a_window_is_stored(
    address: str, device: Device, window: Window, size: int, inline_write_s_max: float
) -> None:
    """The bytes are read back as they were when they were announced, whatever is put into the window afterwards."""
    settings = ServerSettings(inline_write_s_max=inline_write_s_max)
    async with serving(device, address, settings=settings), connected(address) as client:
        transfer = await client.open_write(window)
        assert transfer.shares
        await send(transfer, window, DATA[:size])
        assert (await transfer.commit(HEADER)).status == Status.APPLIED
        assert await read(client) == DATA[:size]


async def test_a_device_elsewhere_is_sent_the_bytes(device: Device, window: Window) -> None:
    """Over TCP nothing is shared, and the same blocks go over the socket."""
    address = free_port_address()
    async with serving(device, address), connected(address) as client:
        transfer = await client.open_write(window)
        assert not transfer.shares
        window.add(DATA[: CHUNK_BYTES + 5])
        for block in window.blocks():
            await transfer.send_block(block)
        assert (await transfer.commit(HEADER)).status == Status.APPLIED
        assert await read(client) == DATA[: CHUNK_BYTES + 5]


async def test_descriptors_are_closed_with_their_transfers(address: str, device: Device) -> None:
    """However a transfer ends, the device keeps neither the window nor anything of an object that was not committed."""
    window = Window()
    before = open_memfds()
    async with serving(device, address), connected(address) as client:
        transfer = await client.open_write(window)
        await send(transfer, window, DATA)
        await until(lambda: open_memfds() == before + 1)
        await transfer.abort()
        await until(lambda: open_memfds() == before and is_missing(device))
        for _ in range(2):  # the second over the connection of the first
            transfer = await client.open_write(window)
            await send(transfer, window, DATA)
            await transfer.commit(HEADER)
            await until(lambda: open_memfds() == before)
    window.close()
    window.close()
    assert open_memfds() == before - 1


async def test_a_failing_device_says_so_instead_of_taking(address: str, device: Device, window: Window) -> None:
    """A device that is fenced on the way ends the transfer with FENCED, and keeps nothing of it."""
    async with serving(device, address), connected(address) as client:
        transfer = await client.open_write(window)
        await send(transfer, window, DATA)
        device.fence("the test says so")
        with pytest.raises(BulkFailed, match="FENCED"):
            await send(transfer, window, DATA * 3)
        await until(lambda: is_missing(device))


def _look(transfer_id: int, headers: bytes) -> bytes:
    return message(transfer_id, Kind.LOOK_AT, LookAt(headers))


GOOD = raw_header(DATA[:1000])
LONG = raw_header(bytes(CHUNK_BYTES + 1))
WRONG = {
    "what changed after it was checksummed": _look(1, raw_header(DATA[1:1001])),
    "one of two that changed": _look(1, GOOD + raw_header(DATA[:1000])),
    "more than a chunk in a frame": _look(1, LONG),
    "more than the window has": _look(1, raw_header(bytes(CHUNK_BYTES)) * 6),
    "half a header": _look(1, GOOD + GOOD[:5]),
    "a message's header": _look(1, frame(DATA[:1000])[:12]),
    "another transfer's": _look(2, GOOD),
}


@pytest.mark.parametrize("wrong", list(WRONG))
async def test_what_is_not_as_announced_breaks_the_connection(
    address: str, device: Device, window: Window, wrong: str
) -> None:
    """A sender that announces something else than what the device finds is cut off, and nothing is stored."""
    window.add(DATA[:1000])
    async with serving(device, address) as server:
        sender = await knock(address, Purpose.BULK)
        await send_with_descriptor(sender.transport, message(1, Kind.BEGIN_SHARED, BeginShared()), window.fd)
        await send_all(sender.transport, WRONG[wrong])
        await the_end_of(sender)
        await until(lambda: server.statistics().broken == 1)
        assert is_missing(device)


@pytest.mark.parametrize("kind", ["no window", "not shared", "cut short"])
async def test_a_window_that_is_none_breaks_the_connection(address: str, device: Device, kind: str) -> None:
    """A transfer that shares without a descriptor, looks without sharing, or has cut its window short is cut off."""
    short = os.memfd_create("short")
    os.ftruncate(short, 10)
    async with serving(device, address) as server:
        sender = await knock(address, Purpose.BULK)
        if kind == "no window":
            await send_all(sender.transport, message(1, Kind.BEGIN_SHARED, BeginShared()))
        elif kind == "not shared":
            await send_with_descriptor(sender.transport, message(1, Kind.BEGIN_WRITE, BeginWrite()), short)
            await send_all(sender.transport, _look(1, GOOD))
        else:
            await send_with_descriptor(sender.transport, message(1, Kind.BEGIN_SHARED, BeginShared()), short)
            await send_all(sender.transport, _look(1, GOOD))
        await the_end_of(sender)
        await until(lambda: server.statistics().broken == 1)
        assert is_missing(device)
    os.close(short)


async def test_descriptors_that_nobody_asked_for_are_closed() -> None:
    """Of several that came one is kept for who asks, and closing the transport closes that, too."""
    import socket

    near, far = (SocketTransport(end) for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM))
    shared = Window()
    before = open_memfds()
    for _ in range(3):
        await send_with_descriptor(near, b"x", shared.fd)
        assert far.try_receive_into([memoryview(bytearray(1))]) == 1
        assert open_memfds() == before + 1
    taken = far.take_descriptor()
    assert taken >= 0
    assert far.take_descriptor() == -1
    os.close(taken)
    await send_with_descriptor(near, b"x", shared.fd)
    assert far.try_receive_into([memoryview(bytearray(1))]) == 1
    far.close()
    assert open_memfds() == before
    near.close()
    shared.close()


def test_a_pool_keeps_few_and_gives_them_out_empty() -> None:
    """Windows are used again, but no more of them are kept than the pool is meant to hold."""
    pool = WindowPool()
    taken = [pool.take() for _ in range(5)]
    for window in taken:
        window.add(b"something")
        pool.give_back(window)
    assert 0 < pool.idle_count < 5
    again = pool.take()
    assert again in taken
    assert again.length == 0
    assert again.blocks() == []
    again.close()
    pool.close()
    assert pool.idle_count == 0
