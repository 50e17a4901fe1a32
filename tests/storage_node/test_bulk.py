"""Bulk transfers: every byte arrives or none does, whatever breaks off when."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from storage_node.bulk import CHUNK_BYTES, BulkReader, Kind, as_bytes_view, message
from storage_node.client import BulkFailed, BulkRead, BulkWrite, DeviceClient, PutBlobHeader
from storage_node.device import Device
from storage_node.dial import Opened
from storage_node.disk import RealDisk
from storage_node.fields import BeginWrite, OpenRead
from storage_node.frames import ProtocolError, frame, raw_header
from storage_node.handshake import Purpose
from storage_node.operations import Found, GetObject, Status, Written
from storage_node.settings import DeviceSettings
from storage_node.sockets import connect, listen
from storage_node.transport import SocketTransport, receive, send_all
from storage_node.wire_settings import ClientSettings, ServerSettings
from tests.storage_node.wire import (
    NOW,
    GatedDevice,
    an_object,
    answering,
    connected,
    free_port_address,
    hash_of,
    knock,
    open_device,
    serving,
    the_end_of,
    tls_contexts,
    until,
)

BIG = os.urandom(5 * CHUNK_BYTES + 12_345)


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


def header(number: int = 1, timestamp: int = NOW) -> PutBlobHeader:
    """The header of the test's object with that number."""
    return PutBlobHeader(hash_of(number), b"/a/c/%d" % number, timestamp, b"meta")


async def write(client: DeviceClient, data: bytes, number: int = 1, piece_bytes: int = 1 << 20) -> Written:
    """Send an object in pieces of that length."""
    transfer = await client.open_write()
    for start in range(0, len(data), piece_bytes):
        await transfer.send(data[start : start + piece_bytes])
    return await transfer.commit(header(number))


async def read(client: DeviceClient, number: int = 1, start: int = 0, stop: int | None = None) -> bytes:
    """Bytes of an object, all that it has by default."""
    transfer = await client.open_read(hash_of(number), b"/a/c/%d" % number, None, start, stop)
    assert isinstance(transfer, BulkRead)
    pieces = []
    while piece := await transfer.read():
        assert len(piece) <= CHUNK_BYTES
        pieces.append(bytes(piece))
    return b"".join(pieces)


async def send_without_end(transfer: BulkWrite) -> None:
    """Until it fails, which it has to before long."""
    for _ in range(200):
        await transfer.send(BIG)


async def read_on(transfer: BulkRead) -> None:
    """To the end."""
    while await transfer.read():
        pass


def is_missing(device: Device, number: int = 1) -> bool:
    """Whether the device holds nothing of that name."""
    return device.read(GetObject(hash_of(number), b"/a/c/%d" % number, False)).status == Status.MISSING


def files_of(device: Device) -> int:
    """Files of blobs that the device holds, finished or not."""
    return sum(1 for part in ("incoming", "blobs") for path in (device.path / part).rglob("*") if path.is_file())


@pytest.mark.parametrize("kind", ["unix", "tcp", "tls"])
async def test_what_was_written_is_read(kind: str, tmp_path: Path, device: Device) -> None:
    """Objects of all lengths around the chunk come back byte for byte, over every kind of socket."""
    address = f"unix:{tmp_path / 's'}" if kind == "unix" else free_port_address()
    server_tls, client_tls = tls_contexts(tmp_path) if kind == "tls" else (None, None)
    lengths = [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, len(BIG)]
    async with serving(device, address, ssl_context=server_tls), connected(address, ssl_context=client_tls) as client:
        for number, length in enumerate(lengths):
            assert (await write(client, BIG[:length], number)).status == Status.APPLIED
            assert await read(client, number) == BIG[:length]


async def test_pieces_may_be_of_any_length(address: str, device: Device) -> None:
    """How the sender cuts its data up does not show."""
    async with serving(device, address), connected(address) as client:
        for number, piece_bytes in enumerate((1000, CHUNK_BYTES, 3 * CHUNK_BYTES + 5)):
            assert (await write(client, BIG, number, piece_bytes)).status == Status.APPLIED
            assert await read(client, number) == BIG


async def test_ranges(address: str, device: Device) -> None:
    """Any range is given, exactly; one beyond the end is cut there."""
    size = len(BIG)
    ranges = [(0, 1), (5, 5), (CHUNK_BYTES - 1, CHUNK_BYTES + 1), (100_000, 900_000), (size - 1, None), (size, None)]
    async with serving(device, address), connected(address) as client:
        await write(client, BIG)
        for start, stop in ranges:
            assert await read(client, 1, start, stop) == BIG[start:stop]
            assert await read(client, 1, start, size + 99) == BIG[start:]
        assert await read(client, 1, size + 7) == b""


async def test_what_cannot_be_read_is_a_status(address: str, device: Device) -> None:
    """A missing object, another version, and a malformed request are told by their status."""
    async with serving(device, address), connected(address) as client:
        assert await client.open_read(hash_of(1), b"/a/c/1") is Status.MISSING
        await write(client, BIG)
        assert await client.open_read(hash_of(1), b"/a/c/1", NOW + 1) is not Status.FOUND
        assert isinstance(await client.open_read(hash_of(1), b"/a/c/1", NOW), BulkRead)
        assert await client.open_read(b"short", b"/a/c/1") is Status.REFUSED


async def test_a_connection_serves_one_transfer_after_another(address: str, device: Device) -> None:
    """Writes and reads in turn share one connection, which is closed when nobody needs it for a while."""
    async with serving(device, address) as server, connected(address) as client:
        for number in range(5):
            assert (await write(client, BIG, number)).status == Status.APPLIED
            assert await read(client, number) == BIG
        assert server.statistics().bulk_connections == 1


async def test_idle_connections_are_closed(
    autojump_clock: trio.testing.MockClock, address: str, device: Device
) -> None:
    """A bulk connection is kept for some seconds, not for ever."""
    device.apply([an_object(1)])
    async with serving(device, address, housekeeping=False) as server, connected(address) as client:
        assert await read(client) == b"data"
        assert server.statistics().bulk_connections == 1
        await trio.sleep(12)
        assert server.statistics().bulk_connections == 0
        assert await read(client) == b"data"


async def test_transfers_side_by_side(address: str, device: Device) -> None:
    """Several transfers at once do not mix; no more than the limit run at once, the others wait their turn."""
    settings = ClientSettings(bulk_connections_max=3)
    async with serving(device, address) as server, connected(address, settings=settings) as client:
        data = [os.urandom(600_000) for _ in range(8)]
        most = 0

        async def one(number: int) -> None:
            nonlocal most
            assert (await write(client, data[number], number)).status == Status.APPLIED
            most = max(most, server.statistics().bulk_connections)
            assert await read(client, number) == data[number]

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(one, number)
        assert most == 3


async def test_requests_go_on_beside_a_transfer(address: str, device: Device) -> None:
    """A transfer that stands still in its middle holds up nobody."""
    async with serving(device, address), connected(address) as client:
        transfer = await client.open_write()
        await transfer.send(BIG)
        for number in range(10, 30):
            assert (await client.call(an_object(number))).status == Status.APPLIED
        await transfer.send(BIG)
        assert (await transfer.commit(header())).status == Status.APPLIED
        assert await read(client) == BIG + BIG


async def test_an_older_version_is_refused_and_leaves_nothing(address: str, device: Device) -> None:
    """A write that comes too late is answered NEWER, and its file is gone."""
    async with serving(device, address), connected(address) as client:
        assert (await client.call(an_object(1, b"newer", NOW + 5))).status == Status.APPLIED
        written = await write(client, BIG)
        assert (written.status, written.timestamp) == (Status.NEWER, NOW + 5)
        assert await read(client) == b"newer"
        await until(lambda: files_of(device) == 0)


async def test_a_malformed_header_is_refused_here(address: str, device: Device) -> None:
    """A caller's mistake is told with the field's name, and the transfer is over."""
    async with serving(device, address) as server, connected(address) as client:
        transfer = await client.open_write()
        await transfer.send(BIG)
        with pytest.raises(BulkFailed, match=r"REFUSED: PutBlobHeader\.hash"):
            await transfer.commit(header()._replace(hash=b"short"))
        await until(lambda: files_of(device) == 0)
        assert server.statistics().broken == 0


# -------------------------------------------------------------------------------------------------------- broken off


async def test_an_aborted_write_leaves_nothing(address: str, device: Device) -> None:
    """abort() in the middle: no object, no file, and the transfer is over."""
    async with serving(device, address), connected(address) as client:
        transfer = await client.open_write()
        await transfer.send(BIG)
        await until(lambda: files_of(device) == 1)
        await transfer.abort()
        await transfer.abort()
        await until(lambda: files_of(device) == 0)
        assert is_missing(device)
        with pytest.raises(BulkFailed, match="over"):
            await transfer.send(b"more")
        assert (await write(client, BIG)).status == Status.APPLIED


async def test_a_cancelled_write_leaves_nothing(address: str, device: Device) -> None:
    """A sender that is cancelled while it waits ends the transfer, and the next one has a connection of its own."""
    async with serving(device, address), connected(address) as client:
        transfer = await client.open_write()
        with trio.move_on_after(0.05) as scope:
            while True:
                await transfer.send(BIG)
                await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught
        await transfer.abort()
        await until(lambda: files_of(device) == 0)
        assert is_missing(device)
        assert (await write(client, BIG)).status == Status.APPLIED


async def test_an_abort_from_another_task(address: str, device: Device) -> None:
    """A send that waits for the device ends with BulkFailed when the transfer is aborted elsewhere."""

    async def read_nothing(opened: Opened) -> None:
        await trio.sleep_forever()

    async with answering(address, read_nothing), connected(address) as client, trio.open_nursery() as nursery:
        transfer = await client.open_write()

        async def send() -> None:
            with pytest.raises(BulkFailed, match="over"):
                await send_without_end(transfer)

        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        await transfer.abort()


async def test_a_lost_connection_leaves_nothing(address: str, device: Device) -> None:
    """A sender that dies in the middle of a chunk leaves no object and no file."""
    async with serving(device, address) as server:
        sender = await knock(address, Purpose.BULK)
        await send_all(sender.transport, message(1, Kind.BEGIN_WRITE, BeginWrite()))
        for _ in range(4):
            await send_all(sender.transport, raw_header(BIG[:CHUNK_BYTES]) + BIG[:CHUNK_BYTES])
        await send_all(sender.transport, raw_header(BIG[:CHUNK_BYTES]) + BIG[:1000])
        await until(lambda: files_of(device) == 1)
        sender.transport.close()
        await until(lambda: server.statistics().bulk_connections == 0)
        assert files_of(device) == 0
        assert is_missing(device)


async def test_a_server_that_goes_in_the_middle(address: str, device: Device) -> None:
    """send() says UNREACHABLE when the server is gone; reading says so as well."""
    settings = ServerSettings(drain_s_max=0.05)
    async with connected(address) as client:
        async with serving(device, address, settings=settings) as server:
            await until(lambda: client.connected)
            assert (await write(client, BIG * 4)).status == Status.APPLIED
            transfer = await client.open_write()
            reading = await client.open_read(hash_of(1), b"/a/c/1")
            assert isinstance(reading, BulkRead)
            await transfer.send(BIG)
            server.stop()
        with pytest.raises(BulkFailed, match="UNREACHABLE"):
            await send_without_end(transfer)
        with pytest.raises(BulkFailed, match="UNREACHABLE"):
            await read_on(reading)
        with pytest.raises(BulkFailed, match="UNREACHABLE"):
            await client.open_write()
        assert await client.open_read(hash_of(1), b"/a/c/1") is Status.UNREACHABLE
    assert is_missing(device, 2)


async def test_an_orderly_close_lets_a_transfer_end(address: str, device: Device) -> None:
    """A transfer that ends soon after the server was told to stop is committed."""
    async with connected(address) as client, serving(device, address) as server:
        await until(lambda: client.connected)
        transfer = await client.open_write()
        await transfer.send(BIG)
        server.stop()
        for _ in range(20):
            await trio.lowlevel.checkpoint()
        await transfer.send(BIG)
        assert (await transfer.commit(header())).status == Status.APPLIED


async def test_a_kept_connection_that_died_is_not_used(address: str, device: Device) -> None:
    """After a restart of the server the next transfer just works, although a dead connection was kept."""
    settings = ClientSettings(retry_s_min=0.001, retry_s_max=0.01)
    async with connected(address, settings=settings) as client:
        for _ in range(2):
            async with serving(device, address):
                await until(lambda: client.connected)
                assert (await write(client, BIG)).status in (Status.APPLIED, Status.NEWER)
                assert await read(client) == BIG
            await until(lambda: not client.connected)


async def test_a_read_given_up_disturbs_nobody(address: str, device: Device) -> None:
    """aclose() in the middle ends the transfer at the server too, and the next one starts clean."""
    async with serving(device, address) as server, connected(address) as client:
        await write(client, BIG * 4)
        for _ in range(3):
            transfer = await client.open_read(hash_of(1), b"/a/c/1")
            assert isinstance(transfer, BulkRead)
            assert await transfer.read() == BIG[:CHUNK_BYTES]
            await transfer.aclose()
            await transfer.aclose()
        assert await read(client) == BIG * 4
        await until(lambda: server.statistics().bulk_connections == 1)


async def test_a_commit_under_way_survives_its_sender(address: str, tmp_path: Path, device: Device) -> None:
    """Once the commit waits for its sync, the object is stored whether or not anybody waits for the answer."""
    gated = GatedDevice(device)
    async with serving(gated, address, settings=ServerSettings(inline_s_max=0.0)), connected(address) as client:
        transfer = await client.open_write()
        await transfer.send(BIG)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(transfer.commit, header())
                await until(gated.syncing.is_set)
                scope.cancel()
        gated.gate.set()
        await until(lambda: not is_missing(device))
        assert await read(client) == BIG


# ------------------------------------------------------------------------------------------------------- what goes wrong


class FullDisk(RealDisk):
    """A disk without a free byte."""

    def free_bytes(self, path: str) -> tuple[int, int]:
        return 1 << 40, 0


async def test_a_full_device_says_so_at_the_start(address: str, tmp_path: Path) -> None:
    """Without room a transfer is refused FULL, as soon as the sender looks."""
    Device.create(tmp_path / "full", "sda")
    device = Device.open(tmp_path / "full", disk=FullDisk(), settings=DeviceSettings(index_map_bytes=1 << 28))
    async with serving(device, address), connected(address) as client:
        transfer = await client.open_write()
        with pytest.raises(BulkFailed, match="FULL") as failed:
            await send_without_end(transfer)
        assert failed.value.status == Status.FULL
        transfer = await client.open_write()
        assert (await transfer.commit(header())).status == Status.FULL
        # The connection of a transfer that was refused in order serves the next.
        transfer = await client.open_write()
        assert (await transfer.commit(header())).status == Status.FULL
    device.close()


async def test_a_device_that_fails_on_the_way_says_so(address: str, device: Device) -> None:
    """A device that is fenced in the middle of a transfer ends it with FENCED, and keeps nothing of it."""
    async with serving(device, address), connected(address) as client:
        transfer = await client.open_write()
        await transfer.send(BIG)
        await until(lambda: files_of(device) == 1)
        device.fence("the test says so")
        with pytest.raises(BulkFailed, match="FENCED"):
            await send_without_end(transfer)
        await until(lambda: files_of(device) == 0)


async def test_a_rotten_chunk_is_told_in_band(address: str, device: Device) -> None:
    """What is good is given, then CORRUPT; no wrong byte is."""
    async with serving(device, address), connected(address) as client:
        await write(client, BIG)
        (path,) = [path for path in (device.path / "blobs").rglob("*") if path.is_file()]
        with path.open("r+b") as file:
            file.seek(2 * CHUNK_BYTES + 77)
            byte = file.read(1)
            file.seek(2 * CHUNK_BYTES + 77)
            file.write(bytes([byte[0] ^ 1]))
        transfer = await client.open_read(hash_of(1), b"/a/c/1")
        assert isinstance(transfer, BulkRead)
        assert await transfer.read() == BIG[:CHUNK_BYTES]
        assert await transfer.read() == BIG[CHUNK_BYTES : 2 * CHUNK_BYTES]
        with pytest.raises(BulkFailed) as failed:
            await transfer.read()
        assert failed.value.status == Status.CORRUPT
        assert await read(client, 1, 3 * CHUNK_BYTES) == BIG[3 * CHUNK_BYTES :]


async def test_a_chunk_damaged_in_transit_is_not_stored(address: str, device: Device) -> None:
    """A wrong checksum on the wire ends the connection, and the write with it."""
    async with serving(device, address) as server:
        sender = await knock(address, Purpose.BULK)
        await send_all(sender.transport, message(1, Kind.BEGIN_WRITE, BeginWrite()))
        await send_all(sender.transport, raw_header(BIG[:1000]) + BIG[1:1001])
        await send_all(sender.transport, message(1, Kind.COMMIT, header()))
        await until(lambda: server.statistics().broken == 1)
        assert is_missing(device)
        sender.transport.close()


NONSENSE = [
    raw_header(b"data") + b"data",
    frame(b"\xc1"),
    message(1, Kind.COMMIT, PutBlobHeader(b"h" * 16, b"/k", 1, b"")),
    message(1, Kind.END, (0, "")),
    message(1, Kind.BEGIN_WRITE, (1,)),
    message(1, Kind.BEGIN_WRITE, ()) + message(1, Kind.BEGIN_WRITE, ()),
    message(1, Kind.BEGIN_WRITE, ()) + message(2, Kind.COMMIT, PutBlobHeader(b"h" * 16, b"/k", 1, b"")),
    message(1, Kind.READ, OpenRead(b"h" * 16, b"/k", None, -1, None)),
    b"\xff" * 100,
]


async def test_nonsense_ends_the_connection_alone(address: str, device: Device) -> None:
    """What is out of place or malformed closes that bulk connection; the server and the others go on."""
    async with serving(device, address) as server, connected(address) as client:
        for count, said in enumerate(NONSENSE, 1):
            stranger = await knock(address, Purpose.BULK)
            await send_all(stranger.transport, said)
            await the_end_of(stranger)
            assert server.statistics().broken == count
        assert (await write(client, BIG)).status == Status.APPLIED


@pytest.mark.parametrize(
    "said",
    [
        b"\xff" * 100,
        frame(b"\xc1"),
        message(7, Kind.OPENED, Found(0)),
        message(1, Kind.END, (0, "")),
        message(1, Kind.OPENED, Found(Status.FOUND)),
        raw_header(b"data") + b"data",
    ],
)
async def test_a_server_that_talks_nonsense(address: str, said: bytes) -> None:
    """A reader is told UNREACHABLE when the answer cannot be believed."""

    async def talk(opened: Opened) -> None:
        if opened.agreed.purpose == Purpose.BULK:
            await receive(opened.transport, 65536)
            await send_all(opened.transport, said)
        await trio.sleep_forever()

    async with answering(address, talk), connected(address) as client:
        assert await client.open_read(hash_of(1), b"/a/c/1") is Status.UNREACHABLE


async def test_a_stalled_upload_is_cut_off(
    autojump_clock: trio.testing.MockClock, address: str, device: Device
) -> None:
    """A sender that stops in the middle does not keep a file and a connection for ever."""
    async with serving(device, address, housekeeping=False) as server:
        sender = await knock(address, Purpose.BULK)
        await send_all(sender.transport, message(1, Kind.BEGIN_WRITE, BeginWrite()))
        await send_all(sender.transport, raw_header(BIG[:CHUNK_BYTES]) + BIG[:CHUNK_BYTES])
        await trio.sleep(35)
        assert server.statistics().bulk_connections == 0
        assert files_of(device) == 0
        sender.transport.close()


async def test_a_server_that_does_not_move(autojump_clock: trio.testing.MockClock, address: str) -> None:
    """A transfer that stands still is UNREACHABLE in the end, in either direction."""

    async def stand_still(opened: Opened) -> None:
        await trio.sleep_forever()

    settings = ClientSettings(ping_s=1e6, bulk_stall_s=30)
    async with answering(address, stand_still), connected(address, settings=settings) as client:
        transfer = await client.open_write()
        with pytest.raises(BulkFailed, match="does not move"):
            await send_without_end(transfer)
        assert await client.open_read(hash_of(1), b"/a/c/1") is Status.UNREACHABLE
        assert 60 <= trio.current_time() < 65


async def test_a_reader_that_does_not_read_holds_one_chunk(address: str, device: Device) -> None:
    """The server sends no faster than its peer takes: beyond the sockets' buffers it waits."""
    async with serving(device, address), connected(address) as client:
        await write(client, BIG * 8)
        transfer = await client.open_read(hash_of(1), b"/a/c/1")
        assert isinstance(transfer, BulkRead)
        for _ in range(20):
            assert (await client.call(GetObject(hash_of(1), b"/a/c/1", False))).status == Status.FOUND
        pieces = []
        while piece := await transfer.read():
            pieces.append(bytes(piece))
        assert b"".join(pieces) == BIG * 8


# ------------------------------------------------------------------------------------------------------------ the reader


async def test_frames_are_read_however_they_arrive(address: str) -> None:
    """Headers and payloads cut anywhere are put together; kept payloads stay valid."""
    with listen(address) as listener:
        near = SocketTransport(await connect(address))
        far_socket, _ = listener.accept()
    far_socket.setblocking(False)
    far = SocketTransport(far_socket)
    payloads = [b"", b"x", BIG[:1000], BIG[:CHUNK_BYTES], b"end"]
    stream = b"".join(raw_header(payload) + payload for payload in payloads)

    async def send(piece_bytes: int) -> None:
        for start in range(0, len(stream), piece_bytes):
            await send_all(near, stream[start : start + piece_bytes])
            if piece_bytes < 100 and start < 5000:
                await trio.lowlevel.checkpoint()

    reader = BulkReader(far, keep=True)
    for piece_bytes in (7, 1001, len(stream)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, piece_bytes)
            got = [await reader.next() for _ in payloads]
        assert [bytes(received[1]) for received in got if received is not None] == payloads
        assert reader.idle
    await send_all(near, stream[:5])
    near.close()
    with pytest.raises(ConnectionResetError):
        await reader.next()
    far.close()


async def test_a_frame_beyond_the_chunk_is_refused(address: str) -> None:
    """Nobody is made to set aside more memory than one chunk."""
    with listen(address) as listener:
        near = SocketTransport(await connect(address))
        far_socket, _ = listener.accept()
    far_socket.setblocking(False)
    far = SocketTransport(far_socket)
    await send_all(near, raw_header(BIG[: CHUNK_BYTES + 1]))
    with pytest.raises(ProtocolError, match="at most"):
        await BulkReader(far, keep=False).next()
    near.close()
    assert await BulkReader(SocketTransport(await _closed(address)), keep=False).next() is None
    far.close()


async def _closed(address: str) -> Any:
    """A socket whose peer has closed it."""
    os.unlink(address.removeprefix("unix:"))
    with listen(address) as listener:
        near = await connect(address)
        far, _ = listener.accept()
        far.close()
    return near


def test_any_buffer_is_sent_as_bytes() -> None:
    """A view of larger items is sent as the bytes that it is made of."""
    assert bytes(as_bytes_view(memoryview(b"12345678").cast("I"))) == b"12345678"
    assert bytes(as_bytes_view(bytearray(b"abc"))) == b"abc"


async def test_the_types_of_the_api(address: str, device: Device) -> None:
    """open_write gives a BulkWrite, open_read a BulkRead that knows what it reads."""
    async with serving(device, address), connected(address) as client:
        transfer = await client.open_write()
        assert isinstance(transfer, BulkWrite)
        await transfer.send(memoryview(BIG))
        assert await transfer.commit(header()) == Written(Status.APPLIED)
        reading = await client.open_read(hash_of(1), b"/a/c/1")
        assert isinstance(reading, BulkRead)
        assert reading.entry.size_bytes == len(BIG)
        assert reading.entry.meta == b"meta"
        await reading.aclose()
