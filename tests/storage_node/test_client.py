"""The client: every request is answered once, whatever becomes of the connection, the server or the caller."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from storage_node.client import DeviceClient
from storage_node.codec import pack
from storage_node.dial import Opened
from storage_node.fields import Ping
from storage_node.frames import batch_frame, frame
from storage_node.hub import EpollHub
from storage_node.operations import (
    DeleteCatalog,
    Found,
    FoundCatalog,
    FoundRows,
    FoundStatistics,
    GetCatalog,
    GetObject,
    GetStatistics,
    ListRows,
    Locked,
    LockObject,
    Status,
    UnlockObject,
    Written,
)
from storage_node.transport import receive, send_all
from storage_node.wire_settings import ClientSettings, ServerSettings
from tests.storage_node.wire import (
    KEY,
    NOW,
    GatedDevice,
    a_container,
    a_row,
    an_object,
    answering,
    connected,
    free_port_address,
    hash_of,
    open_device,
    serving,
    tls_contexts,
    until,
)

QUICK = ClientSettings(retry_s_min=0.001, retry_s_max=0.01)
GET = GetObject(hash_of(1), b"/a/c/1", True)


@pytest.fixture
def address(tmp_path: Path) -> str:
    """Of a Unix socket that nobody listens at yet."""
    return f"unix:{tmp_path / 's.sock'}"


async def stay_silent(opened: Opened) -> None:
    """A peer that takes everything and says nothing, until it is closed."""
    while await receive(opened.transport, 65536):
        pass


@pytest.mark.parametrize("kind", ["unix", "tcp", "tls"])
async def test_every_kind_of_operation_over_every_kind_of_socket(kind: str, tmp_path: Path) -> None:
    """Writes are applied, reads find them, each answered with its own type."""
    address = f"unix:{tmp_path / 's'}" if kind == "unix" else free_port_address()
    server_tls, client_tls = tls_contexts(tmp_path) if kind == "tls" else (None, None)
    device = open_device(tmp_path / "sda")
    async with (
        serving(device, address, ssl_context=server_tls, ring_epoch=lambda: 9),
        connected(address, ssl_context=client_tls) as client,
    ):
        assert client.connected
        assert client.peer_ring_epoch == 9
        assert client.agreed is not None
        assert client.agreed.device_uuid == device.uuid
        assert await client.call(a_container()) == Written(Status.APPLIED)
        assert (await client.call(a_row(1))).status == Status.APPLIED
        assert (await client.call(an_object(1, b"x" * 100_000))).status == Status.APPLIED
        found = await client.call(GET)
        assert isinstance(found, Found)
        assert found.data == b"x" * 100_000
        page = await client.call(ListRows(1, hash_of(0), b"/a/c"))
        assert isinstance(page, FoundRows)
        assert [row[0] for row in page.items] == [b"000001"]
        assert isinstance(await client.call(GetCatalog(1, hash_of(0), b"/a/c")), FoundCatalog)
        assert isinstance(await client.call(GetStatistics()), FoundStatistics)
        locked = await client.call(LockObject(hash_of(2), b"/a/c/2", NOW, 1000))
        assert isinstance(locked, Locked)
        assert locked.status == Status.APPLIED
        assert (await client.call(UnlockObject(hash_of(2), NOW))).status == Status.APPLIED
        assert (await client.call(DeleteCatalog(1, hash_of(0), b"/a/c", NOW + 1))).status == Status.NOT_EMPTY
        assert await client.call(Ping()) == Written(Status.APPLIED)
    device.close()


async def test_thousands_of_requests_in_flight(address: str, tmp_path: Path) -> None:
    """What is submitted in one turn goes out together, and every request gets its own answer."""
    device = open_device(tmp_path / "sda")
    answers: dict[int, Any] = {}
    async with serving(device, address) as server, connected(address) as client:
        for number in range(5000):
            client.submit(an_object(number, b"%d" % number), partial(answers.setdefault, number))
        assert client.in_flight == 5000
        await until(lambda: len(answers) == 5000)
        assert {answer.status for answer in answers.values()} == {Status.APPLIED}
        assert server.statistics().groups["sda"] < 500
        answers.clear()
        for number in range(5000):
            get = GetObject(hash_of(number), b"/a/c/%d" % number, True)
            client.submit(get, partial(answers.setdefault, number))
        await until(lambda: len(answers) == 5000)
        assert all(answers[number].data == b"%d" % number for number in range(5000))
        assert client.in_flight == 0
    device.close()


async def test_without_a_connection_the_answer_comes_at_once(address: str) -> None:
    """A request to a device that is away is answered before submit returns, with the type of its own answer and a reason."""
    async with connected(address, settings=QUICK) as client:
        assert not client.connected
        answers: list[Any] = []
        client.submit(a_row(1), answers.append)
        client.submit(GET, answers.append)
        assert [type(answer) for answer in answers] == [Written, Found]
        assert {answer.status for answer in answers} == {Status.UNREACHABLE}
        assert "s.sock" in answers[0].detail
        assert (await client.call(GetStatistics())).status == Status.UNREACHABLE


async def test_a_request_beyond_a_limit_is_refused_and_costs_no_connection(address: str, tmp_path: Path) -> None:
    """A caller's mistake is answered REFUSED with the field's name, and nobody else's request suffers."""
    device = open_device(tmp_path / "sda")
    async with serving(device, address), connected(address) as client:
        refused = await client.call(an_object(1, b"x" * 200_000))
        assert refused.status == Status.REFUSED
        assert "PutObject.data" in refused.detail
        assert (await client.call(an_object(1))).status == Status.APPLIED
        assert client.connected
    device.close()


async def test_too_many_in_flight_are_busy(address: str) -> None:
    """Beyond its bounds the client answers BUSY at once, by number and by bytes."""
    settings = ClientSettings(in_flight_max=3, in_flight_bytes_max=2000)
    async with answering(address, stay_silent), connected(address, settings=settings) as client:
        answers: list[Any] = []
        client.submit(an_object(1, b"x" * 1800), answers.append)
        client.submit(an_object(2, b"x" * 1800), answers.append)
        assert [answer.status for answer in answers] == [Status.BUSY]
        client.submit(GET, answers.append)
        client.submit(GET, answers.append)
        client.submit(GET, answers.append)
        assert [answer.status for answer in answers] == [Status.BUSY] * 2
        assert client.in_flight == 3


async def test_a_lost_connection_answers_all_that_waits(address: str) -> None:
    """When the server goes, every waiting request is UNREACHABLE in that moment; a callback may submit again."""
    async with answering(address, stay_silent) as accepted, connected(address) as client:
        answers: list[Any] = []

        def retry(answer: Any) -> None:
            answers.append(answer)
            if len(answers) == 1:
                client.submit(GET, answers.append)

        client.submit(a_row(1), retry)
        for _ in range(9):
            client.submit(GET, answers.append)
        await trio.testing.wait_all_tasks_blocked()
        accepted[0].transport.close()
        await until(lambda: len(answers) == 11)
        assert {answer.status for answer in answers} == {Status.UNREACHABLE}
        assert not client.connected
        assert client.in_flight == 0


async def test_it_connects_again_by_itself(address: str, tmp_path: Path) -> None:
    """A server that was stopped and started anew is used again, with what it had stored."""
    device = open_device(tmp_path / "sda")
    async with connected(address, settings=QUICK) as client:
        async with serving(device, address):
            await until(lambda: client.connected)
            assert (await client.call(an_object(1))).status == Status.APPLIED
        await until(lambda: not client.connected)
        async with serving(device, address):
            await until(lambda: client.connected)
            assert (await client.call(GET)).status == Status.FOUND
    device.close()


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"key": b"another cluster's key......"}, "cluster's key"), ({"device_uuid": b"v" * 16}, "has uuid")],
)
async def test_the_reason_of_a_refusal_is_told(
    address: str, tmp_path: Path, options: dict[str, Any], reason: str
) -> None:
    """A wrong key or a replaced device is not connected, and last_error says why."""
    device = open_device(tmp_path / "sda")
    async with serving(device, address) as server, connected(address, **options) as client:
        assert not client.connected
        assert reason in client.last_error
        await until(lambda: server.statistics().refused)
        assert server.statistics().control_connections == 0
    device.close()


async def test_an_unknown_device_is_told(address: str, tmp_path: Path) -> None:
    """A device that the server does not have is named in last_error."""
    device = open_device(tmp_path / "sda")
    client = DeviceClient(address, "sdz", KEY)
    async with serving(device, address), trio.open_nursery() as nursery:
        await nursery.start(client.run)
        assert "no device 'sdz'" in client.last_error
        nursery.cancel_scope.cancel()
    device.close()


async def test_the_back_off_grows_and_is_jittered(autojump_clock: trio.testing.MockClock, tmp_path: Path) -> None:
    """Attempts are spaced by doubled delays up to the longest, times a factor between a half and one."""
    times: list[float] = []

    def factor() -> float:
        times.append(trio.current_time())
        return 0.5

    settings = ClientSettings(retry_s_min=0.1, retry_s_max=1.0)
    async with connected(f"unix:{tmp_path / 'none'}", settings=settings, random=factor):
        await trio.sleep(6)
    delays = [round(later - earlier, 3) for earlier, later in itertools.pairwise(times)]
    assert delays[:6] == [0.15, 0.3, 0.6, 0.75, 0.75, 0.75]


# ------------------------------------------------------------------------------------------------------------ time-outs


async def test_a_late_request_is_unreachable_and_the_device_suspected(
    autojump_clock: trio.testing.MockClock, address: str
) -> None:
    """Silence beyond a request's time-out: it is answered, and what follows is answered at once, not in time-outs."""
    async with answering(address, stay_silent), connected(address) as client:
        before = trio.current_time()
        late = await client.call(GET, timeout_s=1.0)
        assert late.status == Status.UNREACHABLE
        assert 1.0 <= trio.current_time() - before <= 1.2
        assert not client.connected
        before = trio.current_time()
        assert (await client.call(GET, timeout_s=1.0)).status == Status.UNREACHABLE
        assert trio.current_time() == before


async def test_a_device_that_hangs_is_not_waited_for(autojump_clock: trio.testing.MockClock, address: str) -> None:
    """Silence while requests wait answers all of them long before their own time is over; the next ones at once."""
    async with answering(address, stay_silent), connected(address) as client:
        await trio.sleep(3)  # idle: nothing is due, so silence says nothing
        assert client.connected
        before = trio.current_time()
        answers: list[Any] = []
        client.submit(a_row(1), answers.append, 60.0)
        answers.append(await client.call(GET, 60.0))
        assert [answer.status for answer in answers] == [Status.UNREACHABLE] * 2
        assert 2.5 <= trio.current_time() - before <= 2.8
        assert not client.connected
        assert client.in_flight == 0
        assert (await client.call(GET)).status == Status.UNREACHABLE


async def test_a_device_that_answers_pings_is_waited_for(autojump_clock: trio.testing.MockClock, address: str) -> None:
    """A sync may take as long as it takes while the process lives."""

    async def answer_pings(opened: Opened) -> None:
        for request_id in range(2, 6):
            await receive(opened.transport, 65536)
            if request_id > 2:
                ping = request_id - 1
                await send_all(opened.transport, batch_frame([pack((ping, Written(Status.APPLIED)))]))
        await stay_silent(opened)

    async with answering(address, answer_pings), connected(address) as client:
        assert (await client.call(a_row(1), 4.0)).detail == "no answer in time"
        assert client.connected


async def test_a_suspected_device_is_trusted_again_when_it_speaks(
    autojump_clock: trio.testing.MockClock, address: str, tmp_path: Path
) -> None:
    """The client pings a suspected device, and uses it as soon as anything is heard; late answers are thrown away."""
    silent = trio.Event()

    async def answer_later(opened: Opened) -> None:
        await silent.wait()
        answers = [pack((request_id, Written(Status.APPLIED))) for request_id in (1, 2)]
        await send_all(opened.transport, batch_frame(answers))
        await stay_silent(opened)

    async with answering(address, answer_later), connected(address) as client:
        assert (await client.call(a_row(1), timeout_s=0.5)).status == Status.UNREACHABLE
        assert not client.connected
        silent.set()
        await until(lambda: client.connected)
        assert client.in_flight == 0


async def test_a_suspected_device_is_given_up_in_the_end(autojump_clock: trio.testing.MockClock, address: str) -> None:
    """A connection that stays silent is made anew."""
    async with answering(address, stay_silent) as accepted, connected(address) as client:
        assert (await client.call(GET, timeout_s=0.5)).status == Status.UNREACHABLE
        await trio.sleep(11)
        assert len(accepted) == 2
        assert client.connected


async def test_a_silent_device_is_noticed_without_a_request(
    autojump_clock: trio.testing.MockClock, address: str
) -> None:
    """An idle connection is pinged, so that a dead peer is known before anybody waits for it."""
    async with answering(address, stay_silent), connected(address) as client:
        assert client.connected
        await trio.sleep(8)
        assert not client.connected


async def test_an_idle_connection_to_a_live_server_stays(
    autojump_clock: trio.testing.MockClock, address: str, tmp_path: Path
) -> None:
    """Pings keep a connection that nobody uses alive at both ends, for as long as it takes."""
    device = open_device(tmp_path / "sda")
    async with (
        serving(device, address, housekeeping=False) as server,
        connected(address) as client,
    ):
        await trio.sleep(200)
        assert client.connected
        assert server.statistics().control_connections == 1
        assert (await client.call(GET)).status == Status.MISSING
    device.close()


async def test_one_slow_write_makes_nobody_suspect(address: str, tmp_path: Path) -> None:
    """While other answers come, a time-out is that request's alone."""
    gated = GatedDevice(open_device(tmp_path / "sda"))
    async with (
        serving(gated, address, settings=ServerSettings(inline_s_max=0.0)),
        connected(address) as client,
    ):
        answers: list[Any] = []
        client.submit(an_object(1), answers.append, timeout_s=0.2)
        while not answers:
            assert (await client.call(GET)).status == Status.MISSING
        assert answers[0].status == Status.UNREACHABLE
        assert client.connected
        gated.gate.set()
        await until(lambda: (gated.read(GET).status) == Status.FOUND)
    gated.close()


# ---------------------------------------------------------------------------------------------------- misbehaving peers


@pytest.mark.parametrize(
    "said",
    [
        b"garbage that is no frame at all",
        frame(b"\xc1"),
        batch_frame([pack((999, Written(0)))]),
        batch_frame([pack((1, ("not", "a", "status", None)))]),
        batch_frame([pack((1, Found(0)))]),
    ],
)
async def test_a_peer_that_talks_nonsense_is_cut_off(address: str, said: bytes) -> None:
    """What cannot be believed ends the connection: the request is UNREACHABLE, and the client tries again."""

    async def talk(opened: Opened) -> None:
        await receive(opened.transport, 65536)
        await send_all(opened.transport, said)
        await stay_silent(opened)

    async with answering(address, talk) as accepted, connected(address, settings=QUICK) as client:
        assert (await client.call(a_row(1))).status == Status.UNREACHABLE
        await until(lambda: len(accepted) == 2 and client.connected)


async def test_a_peer_that_is_no_storage_server(tmp_path: Path) -> None:
    """Something else that listens at the address is not connected to, and said so."""

    async def talk_http(stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, talk_http, 0)
        port = listeners[0].socket.getsockname()[1]
        async with connected(f"127.0.0.1:{port}") as client:
            assert not client.connected
            assert "frame" in client.last_error
        nursery.cancel_scope.cancel()


# ---------------------------------------------------------------------------------------------------------- cancellation


async def test_a_cancelled_call_disturbs_nobody(address: str, tmp_path: Path) -> None:
    """A caller that gives up leaves the others' answers alone; the write may be done all the same."""
    gated = GatedDevice(open_device(tmp_path / "sda"))
    async with (
        serving(gated, address, settings=ServerSettings(inline_s_max=0.0)),
        connected(address) as client,
    ):
        answers: list[Any] = []

        async def call(number: int) -> None:
            answers.append(await client.call(an_object(number)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, 1)
            with trio.move_on_after(0.05) as scope:
                await client.call(an_object(2))
            assert scope.cancelled_caught
            gated.gate.set()
        assert [answer.status for answer in answers] == [Status.APPLIED]
        await until(lambda: client.in_flight == 0)
        assert (await client.call(GetObject(hash_of(2), b"/a/c/2", False))).status == Status.FOUND
    gated.close()


async def test_a_cancelled_task_sends_nothing(address: str, tmp_path: Path) -> None:
    """call() is a checkpoint before it sends."""
    device = open_device(tmp_path / "sda")
    async with serving(device, address), connected(address) as client:
        with trio.CancelScope() as scope:
            scope.cancel()
            await client.call(an_object(1))
        assert (await client.call(GET)).status == Status.MISSING
    device.close()


async def test_the_end_of_run_answers_what_waits(address: str) -> None:
    """Whoever waits when the client is closed is answered."""
    answers: list[Any] = []
    async with answering(address, stay_silent):
        async with connected(address) as client:
            client.submit(GET, answers.append)
        assert [answer.status for answer in answers] == [Status.UNREACHABLE]
        client.submit(GET, answers.append)
        assert "closed" in answers[1].detail


async def test_clients_share_a_hub(tmp_path: Path) -> None:
    """Many clients are served by one hub, run by their owner."""
    hub = EpollHub()
    devices = [open_device(tmp_path / f"device-{number}") for number in range(3)]
    addresses = [f"unix:{tmp_path / f's{number}'}" for number in range(3)]
    async with trio.open_nursery() as nursery:
        await nursery.start(hub.run)
        async with (
            serving(devices[0], addresses[0]),
            serving(devices[1], addresses[1]),
            serving(devices[2], addresses[2]),
        ):
            clients = [DeviceClient(address, "sda", KEY, hub=hub) for address in addresses]
            for client in clients:
                await nursery.start(client.run)
            answers: list[Any] = []
            for client in clients:
                client.submit(an_object(1), answers.append)
            await until(lambda: len(answers) == 3)
            assert {answer.status for answer in answers} == {Status.APPLIED}
            nursery.cancel_scope.cancel()
    hub.close()
    for device in devices:
        device.close()


# --------------------------------------------------------------------------------------------------- processes that die


@contextmanager
def a_process(path: Path, address: str) -> Iterator[subprocess.Popen[bytes]]:
    """A storage server as a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.storage_node.serve", str(path), address], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@asynccontextmanager
async def a_process_and_client(path: Path, address: str) -> AsyncIterator[tuple[subprocess.Popen[bytes], DeviceClient]]:
    with a_process(path, address) as process:
        async with connected(address, settings=QUICK) as client:
            yield process, client


@pytest.mark.parametrize("kind", ["unix", "tcp"])
async def test_a_killed_process_is_noticed_at_once_and_used_again(kind: str, tmp_path: Path) -> None:
    """SIGKILL under load: waiting requests fail at once, what was acknowledged is there after the restart."""
    address = f"unix:{tmp_path / 's'}" if kind == "unix" else free_port_address()
    acknowledged: set[int] = set()
    lost: list[int] = []
    async with a_process_and_client(tmp_path / "sda", address) as (process, client):

        def submit(number: int) -> None:
            def on_answer(answer: Any) -> None:
                if answer.status == Status.APPLIED:
                    acknowledged.add(number)
                    submit(number + 100)
                else:
                    lost.append(number)

            client.submit(an_object(number), on_answer)

        for number in range(100):
            submit(number)
        await until(lambda: len(acknowledged) > 500)
        process.kill()
        with trio.fail_after(5):  # a request's own time is longer
            await until(lambda: len(lost) == 100)
        assert not client.connected
        with a_process(tmp_path / "sda", address):
            await until(lambda: client.connected)
            for number in sorted(acknowledged):
                found = await client.call(GetObject(hash_of(number), b"/a/c/%d" % number, True))
                assert found.data == b"data"


async def test_a_stopped_process_is_suspected_and_trusted_again(tmp_path: Path) -> None:
    """SIGSTOP keeps the connection open: a time-out shows it, and SIGCONT brings the device back by itself."""
    async with a_process_and_client(tmp_path / "sda", f"unix:{tmp_path / 's'}") as (process, client):
        assert (await client.call(an_object(1))).status == Status.APPLIED
        process.send_signal(signal.SIGSTOP)
        assert (await client.call(an_object(2), timeout_s=0.3)).status == Status.UNREACHABLE
        assert not client.connected
        process.send_signal(signal.SIGCONT)
        await until(lambda: client.connected)
        assert (await client.call(GET)).status == Status.FOUND
