"""The server: nobody's input brings it down, nobody's slowness slows the others, and nothing accepted is left unanswered."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from storage_node import control_session
from storage_node.codec import decode_answers, pack
from storage_node.device import Device
from storage_node.dial import Peer, dial
from storage_node.frames import ANSWER_FRAME_BYTES_MAX, FrameReader, batch_frame, frame, raw_header
from storage_node.handshake import Purpose
from storage_node.operations import FoundRings, GetObject, GetRings, GetStatistics, HeldRing, ListRows, Status
from storage_node.server import StorageServer
from storage_node.settings import DeviceSettings
from storage_node.sockets import connect, listen
from storage_node.transport import SocketTransport, receive, send_all
from storage_node.wire_settings import ServerSettings
from tests.storage_node.wire import (
    KEY,
    NOW,
    GatedDevice,
    a_container,
    a_row,
    an_object,
    connected,
    hash_of,
    knock,
    open_device,
    serving,
    the_end_of,
    until,
)
from tests.support.small_device import SMALL_DEVICE

GET = GetObject(hash_of(1), b"/a/c/1", True)
GET_OPCODE = 9


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


NONSENSE = [
    b"GET / HTTP/1.1\r\n\r\n",
    b"\x55" * 5000,
    frame(b"\xc1"),
    frame(b"\x01"),
    batch_frame([pack((1, 999, ()))]),
    batch_frame([pack((1, 1, ("wrong",)))]),
    batch_frame([pack((-1, 0, ()))]),
    raw_header(b"data") + b"data",
    frame(b"x" * 2_000_000),
]


async def test_a_client_that_talks_nonsense_is_cut_off_alone(address: str, device: Device) -> None:
    """A broken frame closes the connection that it came on; the other clients notice nothing."""
    async with serving(device, address) as server, connected(address) as client:
        for count, said in enumerate(NONSENSE, 1):
            stranger = await knock(address)
            with suppress(OSError):  # it may be cut off before it has said all
                await send_all(stranger.transport, said)
            await the_end_of(stranger)
            assert server.statistics().broken == count
            assert server.statistics().control_connections == 1
            assert (await client.call(an_object(count))).status == Status.APPLIED


async def test_strangers_get_nowhere(address: str, device: Device) -> None:
    """Who does not prove the key is closed, whatever it says, and the server goes on."""
    async with serving(device, address) as server, connected(address) as client:
        for count, said in enumerate((b"", b"GET / HTTP/1.1\r\n\r\n", b"\x55" * 5000, frame(b"\x90"), frame(b"")), 1):
            sock = await connect(address)
            transport = SocketTransport(sock)
            await send_all(transport, said)
            sock.shutdown(socket.SHUT_WR)
            with trio.fail_after(60), suppress(ConnectionResetError):
                assert await receive(transport, 1000) == b""
            transport.close()
            await until(partial(lambda count: server.statistics().refused == count, count))
            assert server.statistics().strangers == 0
        assert (await client.call(an_object(1))).status == Status.APPLIED


async def test_a_stranger_that_says_nothing_is_closed_in_time(
    autojump_clock: trio.testing.MockClock, address: str, device: Device
) -> None:
    """The handshake has a time limit."""
    async with serving(device, address, housekeeping=False) as server:
        transport = SocketTransport(await connect(address))
        assert await receive(transport, 1000) == b""
        assert 5.0 <= trio.current_time() < 6.0
        transport.close()
        assert server.statistics().refused == 1


async def test_strangers_are_bounded(address: str, device: Device) -> None:
    """Beyond the limit connections are closed unheard; those that proved themselves are served on."""
    async with (
        serving(device, address, settings=ServerSettings(strangers_max=2)) as server,
        connected(address) as client,
    ):
        strangers = [SocketTransport(await connect(address)) for _ in range(2)]
        await until(lambda: server.statistics().strangers == 2)
        extra = SocketTransport(await connect(address))
        with trio.fail_after(60):
            assert await receive(extra, 1000) == b""
        assert (await client.call(an_object(1))).status == Status.APPLIED
        for transport in [*strangers, extra]:
            transport.close()


async def test_connections_are_bounded(address: str, device: Device) -> None:
    """A server with as many connections as it takes says so to the next, and serves the others."""
    async with serving(device, address, settings=ServerSettings(connections_max=1)), connected(address) as first:
        async with connected(address) as second:
            assert "as many connections" in second.last_error
            assert not second.connected
        assert (await first.call(an_object(1))).status == Status.APPLIED


async def test_a_reader_that_takes_nothing_slows_nobody(address: str, device: Device) -> None:
    """Who leaves its answers untaken is not read from any more; its answers wait within bounds; others go on."""
    settings = ServerSettings(unsent_bytes_max=1 << 20)
    async with serving(device, address, settings=settings) as server, connected(address) as client:
        assert (await client.call(an_object(1, b"x" * 100_000))).status == Status.APPLIED
        greedy = await knock(address)
        asked = 0

        async def ask_without_end() -> None:
            nonlocal asked
            request = batch_frame([pack((1, GET_OPCODE, GET))] * 10)
            while True:
                await send_all(greedy.transport, request)
                asked += 10

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_without_end)
            await until(lambda: any(not session._connection.reading for session in server._control))
            (session,) = [session for session in server._control if not session._connection.reading]
            for number in range(2, 50):
                assert (await client.call(an_object(number))).status == Status.APPLIED
            assert session._connection.unsent_bytes < (1 << 20) + 101_000
            nursery.cancel_scope.cancel()
        greedy.transport.close()
        await until(lambda: server.statistics().control_connections == 1)


async def test_a_flood_of_listings_slows_nobody(monkeypatch: pytest.MonkeyPatch, address: str, device: Device) -> None:
    """A client that asks for hundreds of pages at once gets them in turn with the others' requests, not before them."""
    monkeypatch.setattr(control_session, "SLICE_S", 0.0)  # a page a turn, however fast a page is
    device.apply([a_container(), *map(a_row, range(200)), an_object(1)])
    async with serving(device, address), connected(address) as greedy, connected(address) as client:
        pages: list[Any] = []
        for _ in range(400):
            greedy.submit(ListRows(1, hash_of(0), b"/a/c"), pages.append, timeout_s=60)
        await until(lambda: pages)
        for _ in range(5):  # reads: they wait for no disk, so that it is only turns that count
            assert (await client.call(GET)).status == Status.FOUND
        assert len(pages) < 100
        await until(lambda: len(pages) == 400)
        assert {len(page.items) for page in pages} == {200}


async def test_a_slow_reader_gets_all_its_answers(address: str, device: Device) -> None:
    """Pausing and resuming loses nothing: each request of a slow reader is answered once."""
    count = 500
    async with (
        serving(device, address, settings=ServerSettings(unsent_bytes_max=200_000)),
        connected(address) as client,
    ):
        assert (await client.call(an_object(1, b"x" * 50_000))).status == Status.APPLIED
        slow = await knock(address)
        reader = FrameReader(ANSWER_FRAME_BYTES_MAX)
        answered: list[int] = []
        async with trio.open_nursery() as nursery:
            requests = b"".join(batch_frame([pack((number, GET_OPCODE, GET))]) for number in range(1, count + 1))
            nursery.start_soon(send_all, slow.transport, requests)
            with trio.fail_after(20):
                while len(answered) < count:
                    for payload in reader.feed(await receive(slow.transport, 20_000)):
                        answered += [request_id for request_id, _ in decode_answers(payload)]
        assert sorted(answered) == list(range(1, count + 1))
        slow.transport.close()


async def test_a_peer_that_takes_nothing_for_long_is_closed(
    autojump_clock: trio.testing.MockClock, address: str, device: Device
) -> None:
    """Untaken answers are not kept for ever."""
    device.apply([an_object(1, b"x" * 100_000)])
    async with serving(device, address, housekeeping=False) as server:
        greedy = await knock(address)
        await send_all(greedy.transport, batch_frame([pack((1, GET_OPCODE, GET))] * 200))
        await until(lambda: server.statistics().control_connections == 1)
        await trio.sleep(40)
        assert server.statistics().control_connections == 0
        greedy.transport.close()


async def test_a_silent_connection_is_closed(
    autojump_clock: trio.testing.MockClock, address: str, device: Device
) -> None:
    """A peer that does not even ping is taken for dead."""
    async with serving(device, address, housekeeping=False) as server:
        silent, silent_bulk = await knock(address), await knock(address, Purpose.BULK)
        await trio.sleep(50)
        assert server.statistics().control_connections == server.statistics().bulk_connections == 1
        await trio.sleep(15)
        assert server.statistics().control_connections == server.statistics().bulk_connections == 0
        silent.transport.close()
        silent_bulk.transport.close()


async def test_an_orderly_close_answers_what_was_accepted(address: str, device: Device) -> None:
    """Writes that wait for a sync when the server is told to stop are committed and answered before it closes."""
    gated = GatedDevice(device)
    answers: list[Any] = []
    server = StorageServer({"sda": gated}, KEY, settings=ServerSettings(inline_s_max=0.0))  # type: ignore[dict-item]
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve, [listen(address)])
        async with connected(address) as client:
            for number in range(100):
                client.submit(an_object(number), answers.append)
            await until(lambda: server.statistics().pending["sda"] or gated.syncing.is_set())
            await until(gated.syncing.is_set)
            server.stop()
            for _ in range(100):
                await trio.lowlevel.checkpoint()
            assert answers == []
            gated.gate.set()
            await until(lambda: len(answers) == 100)
    assert {answer.status for answer in answers} == {Status.APPLIED}
    with pytest.raises(ConnectionRefusedError):
        await connect(address)


async def test_a_cancelled_server_answers_what_was_accepted(address: str, device: Device) -> None:
    """The same when its task is cancelled."""
    gated = GatedDevice(device)
    answers: list[Any] = []
    server = StorageServer({"sda": gated}, KEY, settings=ServerSettings(inline_s_max=0.0))  # type: ignore[dict-item]
    async with trio.open_nursery() as outer:
        nursery = await outer.start(_a_nursery)
        await nursery.start(server.serve, [listen(address)])
        async with connected(address) as client:
            client.submit(an_object(1), answers.append)
            await until(gated.syncing.is_set)
            nursery.cancel_scope.cancel()
            for _ in range(100):
                await trio.lowlevel.checkpoint()
            gated.gate.set()
            await until(lambda: len(answers) == 1)
    assert answers[0].status == Status.APPLIED


async def _a_nursery(task_status: trio.TaskStatus[trio.Nursery]) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        task_status.started(nursery)


async def test_a_full_queue_is_answered_busy(address: str, device: Device) -> None:
    """Beyond what may wait for a commit writes are BUSY, reads go on."""
    gated = GatedDevice(device)
    settings = ServerSettings(inline_s_max=0.0, pending_operations_max=5)
    async with serving(gated, address, settings=settings), connected(address) as client:
        answers: list[Any] = []
        client.submit(an_object(0), answers.append)
        await until(gated.syncing.is_set)
        for number in range(1, 11):
            client.submit(an_object(number), answers.append)
        await until(lambda: len(answers) == 5)
        assert {answer.status for answer in answers} == {Status.BUSY}
        assert (await client.call(GET)).status == Status.MISSING
        gated.gate.set()
        await until(lambda: len(answers) == 11)
        assert [answer.status for answer in answers[5:]] == [Status.APPLIED] * 6


async def test_a_fenced_device_says_so(address: str, device: Device) -> None:
    """A device that takes no writes answers FENCED, and is read as before."""
    async with serving(device, address), connected(address) as client:
        assert (await client.call(an_object(1))).status == Status.APPLIED
        device.fence("the operator took it out")
        fenced = await client.call(an_object(2))
        assert fenced.status == Status.FENCED
        assert "operator" in fenced.detail
        assert (await client.call(GET)).status == Status.FOUND
        statistics = (await client.call(GetStatistics())).statistics
        assert statistics is not None
        assert "operator" in statistics.fenced


async def test_background_work_is_done_beside_the_requests(address: str, tmp_path: Path) -> None:
    """Checkpoints and compaction happen while the server serves, and what was written stays readable."""
    settings = DeviceSettings(
        index_map_bytes=1 << 28,
        recent_map_bytes=1 << 28,
        free_bytes_min=0,
        free_bytes_min_delete=0,
        segment_bytes=64 * 1024,
        checkpoint_entries=50,
        slice_entries=10,
    )
    device = open_device(tmp_path / "sda", settings)
    async with serving(device, address), connected(address) as client:
        deepest = 0
        answered = 0

        def on_answer(answer: Any) -> None:
            nonlocal answered
            answered += answer.status == Status.APPLIED

        for turn in range(1, 31):
            for number in range(80):
                client.submit(an_object(number, os.urandom(2000), NOW + turn), on_answer)
            await until(partial(lambda turn: answered == 80 * turn, turn))
            deepest = max(deepest, device.statistics().segment_count)
        await until(lambda: device.statistics().segment_count < deepest)
        for number in range(80):
            found = await client.call(GetObject(hash_of(number), b"/a/c/%d" % number, True))
            assert found.entry is not None
            assert found.entry.timestamp == NOW + 30
    device.close()


async def test_ring_epochs_are_exchanged(address: str, device: Device) -> None:
    """Each side learns which ring the other has when they connect."""
    heard: list[int] = []
    async with (
        serving(device, address, ring_epoch=lambda: 7, on_peer_epoch=heard.append),
        connected(address, ring_epoch=lambda: 8) as client,
    ):
        assert client.peer_ring_epoch == 7
        await until(lambda: heard == [8])


async def test_many_clients_at_once(address: str, device: Device) -> None:
    """Twenty clients, each with its own connection, get each its own answers."""
    async with serving(device, address) as server, trio.open_nursery() as nursery:

        async def one(number: int) -> None:
            async with connected(address) as client:
                for turn in range(20):
                    written = await client.call(an_object(100 * number + turn, b"%d" % number))
                    assert written.status == Status.APPLIED
                    get = GetObject(hash_of(100 * number + turn), b"/a/c/%d" % (100 * number + turn), True)
                    assert (await client.call(get)).data == b"%d" % number

        for number in range(20):
            nursery.start_soon(one, number)
    assert server.statistics().writes["sda"] == 400
    assert server.statistics().control_connections == 0


async def test_two_devices_of_one_server(address: str, tmp_path: Path) -> None:
    """Each connection reaches the device that it named, and no other."""
    devices = {name: _a_device(tmp_path / name, name) for name in ("sda", "sdb")}
    server = StorageServer(devices, KEY)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve, [listen(address)])
        async with connected(address) as client:
            assert (await client.call(an_object(1))).status == Status.APPLIED
        opened = await dial(Peer(address, "sdb", KEY, b"", None, lambda: 0, os.urandom), Purpose.CONTROL)
        assert opened.agreed.device_uuid == devices["sdb"].uuid
        opened.transport.close()
        server.stop()
    assert devices["sda"].read(GET).status == Status.FOUND
    assert devices["sdb"].read(GET).status == Status.MISSING
    for device in devices.values():
        device.close()


def _a_device(path: Path, name: str) -> Device:
    Device.create(path, name)
    return Device.open(path, settings=SMALL_DEVICE)


async def test_devices_come_and_go_while_others_are_served(address: str, device: Device, tmp_path: Path) -> None:
    """A device that is added answers; one that is removed has kept what it acknowledged, and is closed to new clients."""
    second = open_device(tmp_path / "sdb", name="sdb")
    server = StorageServer({"sda": device}, KEY)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve, [listen(address)])
        async with connected(address) as first_client:
            server.add_device("sdb", second)
            other = f"unix:{tmp_path / 't.sock'}"
            server.add_listener(listen(other))
            async with connected(other, "sdb") as client:
                assert (await client.call(an_object(1))).status == Status.APPLIED
                removed = await server.remove_device("sdb")
                assert removed is second
                await until(lambda: not client.connected)
                assert (await first_client.call(an_object(1))).status == Status.APPLIED
            async with connected(other, "sdb") as client:
                assert not client.connected
                assert "no device" in client.last_error
            assert second.read(GET).status == Status.FOUND
            second.close()
        nursery.cancel_scope.cancel()


async def test_rings_are_told_and_given(address: str, device: Device) -> None:
    """Who asks for rings is answered by whoever knows them; a server that knows none says so."""
    held = HeldRing(7, 3, b"d" * 16)
    rings = lambda question: FoundRings(Status.FOUND, (held,), b"state", b"abc"[question.start :])  # noqa: E731
    for server, status in ((StorageServer({"sda": device}, KEY, rings=rings), Status.FOUND), (None, Status.MISSING)):
        server = server or StorageServer({"sda": device}, KEY)
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve, [listen(address)])
            async with connected(address) as client:
                answer = await client.call(GetRings(7, 1))
                assert answer.status == status
                assert (answer.held, answer.data) == (((held,), b"bc") if status == Status.FOUND else ((), b""))
            nursery.cancel_scope.cancel()
