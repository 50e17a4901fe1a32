"""The HTTP server's good manners, over real sockets."""

from __future__ import annotations

import re
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio
import trio.testing

from proxy.http.crew import READY_MAX
from proxy.http.head import HttpError
from proxy.http.limits import HttpLimits
from proxy.http.listeners import open_listeners
from proxy.http.message import Request, Response
from proxy.http.server import HttpServer
from tests.proxy.http.serving import ANSWER_S, Pieces, echo, ignore_body, serving, swallow

GET = b"GET /a?b=c HTTP/1.1\r\nHost: h\r\n\r\n"


async def test_a_request_and_its_response() -> None:
    """Method, target, headers and body arrive; date, transaction id and framing come back."""
    async with serving(echo) as served, served.client() as client:
        await client.send(
            b"PUT /p%20q?x HTTP/1.1\r\nHost: h:1\r\nX-Two:  a b \r\nx-two: c\r\nContent-Length: 3\r\n\r\nabc"
        )
        answer = await client.answer()
        assert answer.status == 200
        assert answer.body == b"PUT /p%20q?x\ncontent-length=3\nhost=h:1\nx-two=a b, c\nabc"
        assert re.fullmatch(rb"tx[0-9a-f]{21}-[0-9a-f]{10}", answer.headers[b"x-trans-id"])
        assert re.fullmatch(rb"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", answer.headers[b"date"])
        assert b"connection" not in answer.headers


async def test_connections_are_kept() -> None:
    """Many requests, with and without bodies, on one connection; no two transaction ids are alike."""
    async with serving(echo) as served, served.client() as client:
        ids = set()
        for number in range(50):
            body = b"x" * (number % 3)
            await client.send(b"PUT /%d HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % (number, len(body)) + body)
            answer = await client.answer()
            assert answer.body.startswith(b"PUT /%d\n" % number)
            ids.add(answer.headers[b"x-trans-id"])
        assert len(ids) == 50
        assert served.server.statistics().requests == 50


async def test_pipelined_requests_are_answered_in_order() -> None:
    """Requests that come before the first is answered are served one after the other, with their bodies."""
    async with serving(echo) as served, served.client() as client:
        requests = [
            b"POST /%d HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\n%04d" % (number, number)
            if number % 3
            else b"POST /%d HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n%02d\r\n2\r\n%02d\r\n0\r\n\r\n"
            % (number, number // 100, number % 100)
            for number in range(300)
        ]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, b"".join(requests))
            for number in range(300):
                answer = await client.answer()
                assert answer.body.startswith(b"POST /%d\n" % number)
                assert answer.body.endswith(b"\n%04d" % number)


async def test_a_head_in_any_pieces() -> None:
    """A head that arrives byte by byte is the same head; empty lines before it are forgiven."""
    async with serving(echo) as served, served.client() as client:
        for byte in b"\r\n" + GET:
            await client.send(bytes((byte,)))
            await trio.testing.wait_all_tasks_blocked()
        assert (await client.answer()).body == b"GET /a?b=c\nhost=h\n"


@pytest.mark.parametrize(
    ("head", "kept"),
    [
        (b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", True),
        (b"GET / HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\n\r\n", True),
        (b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Close\r\n\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, close\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", True),
    ],
)
async def test_who_closes(head: bytes, kept: bool) -> None:
    """Connection headers and versions decide; the answer says which."""
    async with serving(echo) as served, served.client() as client:
        await client.send(head)
        answer = await client.answer()
        if kept:
            assert answer.headers.get(b"connection") == (b"keep-alive" if b"1.0" in head else None)
            await client.send(head)
            assert (await client.answer()).status == 200
        else:
            assert answer.headers[b"connection"] == b"close"
            assert await client.is_closed()


async def test_head_is_get_without_its_body() -> None:
    """HEAD has GET's Content-Length, or the one that the handler gives, and no body; so the next answer is in place."""

    async def handler(request: Request) -> Response:
        if request.path == b"/own":
            return Response(200, [(b"Content-Length", b"77")])
        if request.path == b"/stream":
            return Response(200, [], stream, 5)
        return Response(200, [], b"hello")

    stream = Pieces([b"hello"])
    async with serving(handler) as served, served.client() as client:
        for path, length in ((b"/", b"5"), (b"/own", b"77"), (b"/stream", b"5")):
            await client.send(b"HEAD " + path + b" HTTP/1.1\r\nHost: h\r\n\r\n")
            answer = await client.answer("HEAD")
            assert answer.headers[b"content-length"] == length
        assert stream.closed == 1
        await client.send(GET)
        assert (await client.answer()).body == b"hello"


@pytest.mark.parametrize("status", [204, 304])
async def test_statuses_without_bodies(status: int) -> None:
    """204 and 304 have no body, even if the handler gives one, and 204 no Content-Length."""

    async def handler(request: Request) -> Response:
        return Response(status, [(b"etag", b"x")], b"must not be seen")

    async with serving(handler) as served, served.client() as client:
        for _ in range(2):
            await client.send(GET)
            answer = await client.answer()
            assert answer.status == status
            assert (b"content-length" in answer.headers) == (status == 304)


async def test_streams_with_a_length() -> None:
    """A streamed body is sent whole, and its stream closed."""
    pieces = [b"a" * 100_000, b"b", b"c" * 300_000]
    stream = Pieces(list(pieces))

    async def handler(request: Request) -> Response:
        return Response(200, [], stream, 400_001)

    async with serving(handler) as served, served.client() as client:
        await client.send(GET)
        answer = await client.answer()
        assert answer.headers[b"content-length"] == b"400001"
        assert answer.body == b"".join(pieces)
        assert stream.closed == 1


@pytest.mark.parametrize("pieces", [[], [b"one"], [b"one", b"two" * 50_000]])
async def test_streams_without_a_length(pieces: list[bytes]) -> None:
    """They are chunked for HTTP/1.1, and end with the connection for HTTP/1.0."""

    async def handler(request: Request) -> Response:
        return Response(200, [], Pieces(list(pieces)))

    async with serving(handler) as served:
        async with served.client() as client:
            for _ in range(2):
                await client.send(GET)
                answer = await client.answer()
                assert answer.headers[b"transfer-encoding"] == b"chunked"
                assert answer.body == b"".join(pieces)
        answer = await served.ask(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert b"transfer-encoding" not in answer.headers
        assert answer.headers[b"connection"] == b"close"
        assert answer.body == b"".join(pieces)


@pytest.mark.parametrize(("pieces", "length"), [([b"abc"], 4), ([b"abc", b"def"], 4)])
async def test_a_stream_of_the_wrong_length_breaks_the_connection(pieces: list[bytes], length: int) -> None:
    """A client never takes a body for whole that is not."""
    stream = Pieces(pieces)

    async def handler(request: Request) -> Response:
        return Response(200, [], stream, length)

    async with serving(handler) as served, served.client() as client:
        await client.send(GET)
        with pytest.raises((AssertionError, trio.BrokenResourceError)):
            await client.answer()
        assert stream.closed == 1
        assert served.server.statistics().failed == 1


async def test_a_stream_that_fails_late_breaks_the_connection() -> None:
    """After the head is out, an error can only be shown by breaking off."""
    stream = Pieces([b"abc"], ValueError("the disk broke"))

    async def handler(request: Request) -> Response:
        return Response(200, [], stream)

    async with serving(handler) as served, served.client() as client:
        await client.send(GET)
        with pytest.raises((AssertionError, trio.BrokenResourceError)):
            await client.answer()
        assert stream.closed == 1


async def test_a_stream_that_fails_at_once_is_a_500() -> None:
    """Before the head is out, there is still time to say so."""
    stream = Pieces([], ValueError("the disk broke"))

    async def handler(request: Request) -> Response:
        return Response(200, [], stream, 3)

    async with serving(handler) as served, served.client() as client:
        await client.send(GET)
        answer = await client.answer()
        assert answer.status == 500
        assert b"disk" not in answer.body
        assert stream.closed == 1
        await client.send(GET)
        assert (await client.answer()).status == 500


async def test_a_stream_that_does_not_close_harms_nobody() -> None:
    """The response was whole; the next one follows in its place."""

    async def handler(request: Request) -> Response:
        return Response(200, [], Pieces([b"abc"], close_error=ValueError("the disk broke")), 3)

    async with serving(handler) as served, served.client() as client:
        for _ in range(2):
            await client.send(GET)
            assert (await client.answer()).body == b"abc"


async def test_handlers_that_raise() -> None:
    """Answered with a plain 500, whatever it was; the connection lives on."""

    async def handler(request: Request) -> Response:
        if request.path == b"/group":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail)
        if request.path == b"/os":
            raise ConnectionResetError("secret")
        raise ValueError("secret")

    async def fail() -> None:
        raise KeyError("secret")

    async with serving(handler) as served, served.client() as client:
        for path in (b"/", b"/group", b"/os"):
            await client.send(b"GET " + path + b" HTTP/1.1\r\nHost: h\r\n\r\n")
            answer = await client.answer()
            assert answer.status == 500
            assert b"secret" not in answer.body
            assert answer.headers[b"x-trans-id"].startswith(b"tx")
        assert served.server.statistics().failed == 3


async def test_header_injection_is_found() -> None:
    """A line end in a response's header value never reaches a client."""

    async def handler(request: Request) -> Response:
        return Response(200, [(b"x-a", request.path[1:].replace(b"%0a", b"\n").replace(b"%0d", b"\r"))], b"ok")

    async with serving(handler) as served:
        for path in (b"/a%0d%0ax-evil:1", b"/a%0ab", b"/a%0db"):
            answer = await served.ask(b"GET " + path + b" HTTP/1.1\r\nHost: h\r\n\r\n")
            assert answer.status == 500
            assert b"x-evil" not in answer.headers
            assert b"x-a" not in answer.headers


async def test_errors_can_be_rendered_by_the_owner() -> None:
    """The owner's renderer makes the answers to requests that fail before and in the handler."""

    def render(error: HttpError, transaction_id: str) -> Response:
        return Response(error.status, [(b"x-rendered", transaction_id.encode())], b"<Error/>")

    async def handler(request: Request) -> Response:
        raise ValueError

    listeners = open_listeners("127.0.0.1", 0)
    server = HttpServer(handler, render_error=render)
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: server.serve(listeners, task_status=task_status))
        for request, status in ((GET, b"500"), (b"nonsense\r\n\r\n", b"400")):
            stream = await trio.open_tcp_stream(*listeners[0].getsockname())
            async with stream:
                await stream.send_all(request)
                text = bytes(await stream.receive_some())
                assert text.startswith(b"HTTP/1.1 " + status)
                assert text.endswith(b"<Error/>")
                [rendered] = re.findall(rb"x-rendered: (\S+)\r\n", text)
                assert b"X-Trans-Id: " + rendered + b"\r\n" in text
        nursery.cancel_scope.cancel()


async def test_100_continue_comes_with_the_first_read() -> None:
    """A client that waits for it gets it when the handler wants the body, and not before."""
    gate = trio.Event()

    async def handler(request: Request) -> Response:
        await gate.wait()
        return await echo(request)

    async with serving(handler) as served, served.client() as client:
        await client.send(b"PUT / HTTP/1.1\r\nHost: h\r\nExpect: 100-Continue\r\nContent-Length: 3\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
        assert (await client.answer()).status == 100
        await client.send(b"abc")
        answer = await client.answer()
        assert answer.status == 200
        assert answer.body.endswith(b"abc")
        await client.send(GET)
        assert (await client.answer()).status == 200


async def test_no_100_continue_where_it_is_not_needed() -> None:
    """Not if the body is there already, not for HTTP/1.0, not if the handler does not want the body."""
    head = b"PUT / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
    async with serving(echo) as served:
        assert (await served.ask(head + b"abc")).status == 200
        assert (await served.ask(head.replace(b"1.1", b"1.0") + b"abc")).status == 200
    async with serving(ignore_body) as served, served.client() as client:
        await client.send(head)
        answer = await client.answer()
        assert answer.status == 403
        assert answer.headers[b"connection"] == b"close"
        assert await client.is_closed()


@pytest.mark.parametrize("framing", [b"Content-Length: 9", b"Transfer-Encoding: chunked"])
async def test_a_small_unread_body_is_drained(framing: bytes) -> None:
    """What the handler left unread does not become the next request."""
    body = b"GET /evil" if b"Length" in framing else b"9\r\nGET /evil\r\n0\r\n\r\n"
    async with serving(ignore_body) as served, served.client() as client:
        for _ in range(3):
            await client.send(b"PUT / HTTP/1.1\r\nHost: h\r\n" + framing + b"\r\n\r\n")
            answer = await client.answer()
            assert answer.status == 403
            assert b"connection" not in answer.headers
            await client.send(body)
        assert served.server.statistics().requests == 3


@pytest.mark.parametrize("framing", [b"Content-Length: 50000000", b"Transfer-Encoding: chunked"])
async def test_a_large_unread_body_closes_the_connection(framing: bytes) -> None:
    """A client that is in the midst of sending much still gets to read the answer."""
    async with serving(ignore_body) as served, served.client() as client:
        await client.send(b"PUT / HTTP/1.1\r\nHost: h\r\n" + framing + b"\r\n\r\n")
        piece = b"x" * 1_000_000
        if b"chunked" in framing:
            piece = b"%x\r\n%b\r\n" % (len(piece), piece)
        async with trio.open_nursery() as nursery:

            async def send_all() -> None:
                for _ in range(50):
                    await client.send_if_wanted(piece)

            nursery.start_soon(send_all)
            answer = await client.answer()
            assert answer.status == 403
            await client.rest()
            nursery.cancel_scope.cancel()


async def test_a_half_closed_client_gets_its_answer() -> None:
    """Having sent everything, a client may close its side and still be answered."""
    async with serving(echo) as served, served.client() as client:
        await client.send(GET + GET)
        await client.stream.send_eof()
        assert (await client.answer()).status == 200
        assert (await client.answer()).status == 200
        assert await client.is_closed()


async def test_absolute_targets() -> None:
    """An absolute-form target is its path, and its authority is the host."""
    async with serving(echo) as served:
        for target, expected in (
            (b"http://Other:8/a?b", b"GET /a?b\nhost=Other:8\n"),
            (b"HTTP://u:p@other", b"GET /\nhost=other\n"),
            (b"http://other?x=/", b"GET /?x=/\nhost=other\n"),
        ):
            answer = await served.ask(b"GET " + target + b" HTTP/1.1\r\nHost: h\r\n\r\n")
            assert answer.body == expected


async def test_raw_utf8_in_a_target() -> None:
    """What curl sends when someone types an umlaut is what it would have encoded."""
    async with serving(echo) as served:
        answer = await served.ask("GET /é?ü HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        assert answer.body == b"GET /%C3%A9?%C3%BC\nhost=h\n"


async def test_an_upgrade_is_not_taken_up() -> None:
    """An offer to change to HTTP/2 is ignored, and the request served."""
    async with serving(echo) as served, served.client() as client:
        for _ in range(2):
            await client.send(
                b"PUT / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
                b"Content-Length: 3\r\n\r\nabc"
            )
            assert (await client.answer()).body.endswith(b"\nabc")


async def test_large_bodies_both_ways() -> None:
    """Tens of megabytes, by length and chunked, byte for byte."""

    class Back:
        def __init__(self, request: Request) -> None:
            self.read = request.body.read

        async def aclose(self) -> None:
            pass

    async def handler(request: Request) -> Response:
        return Response(200, [], Back(request), request.body.length)

    data = bytes(range(256)) * 4 * 10_000
    chunked = b"".join(b"%x\r\n%b\r\n" % (size, data[:size]) for size in (1, 70_000, 10, 3_000_000)) + b"0\r\n\r\n"
    expected = b"".join(data[:size] for size in (1, 70_000, 10, 3_000_000))
    head = b"PUT / HTTP/1.1\r\nHost: h\r\n"
    async with serving(handler) as served:
        async with served.client() as client, trio.open_nursery() as nursery:
            nursery.start_soon(client.send, head + b"Content-Length: %d\r\n\r\n" % len(data) + data)
            assert (await client.answer()).body == data
        async with served.client() as client, trio.open_nursery() as nursery:
            nursery.start_soon(client.send, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked)
            assert (await client.answer()).body == expected


async def test_the_access_log_hears_of_everything() -> None:
    """Every answer is logged with what it cost, refused requests and vanished clients included."""
    lines: list[tuple[str, bytes, int, int, int, bool, str]] = []

    def access_log(
        method: str,
        target: bytes,
        status: int,
        received_bytes: int,
        sent_bytes: int,
        duration_s: float,
        transaction_id: str,
    ) -> None:
        lines.append((method, target, status, received_bytes, sent_bytes, duration_s >= 0, transaction_id[:2]))

    async with serving(echo, access_log=access_log) as served:
        put = b"PUT /b HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n"
        async with served.client() as client:
            await client.send(GET + put + b"abc")
            await client.answer()
            await client.answer()
        await served.ask(b"nonsense\r\n\r\n")
        async with served.client() as client:
            await client.send(put + b"a")
        await served.is_idle()
    assert [line[:3] for line in lines] == [
        ("GET", b"/a?b=c", 200),
        ("PUT", b"/b", 200),
        ("-", b"-", 400),
        ("PUT", b"/b", 499),
    ]
    assert [line[3] for line in lines] == [len(GET), len(put) + 3, len(b"nonsense\r\n\r\n"), len(put) + 1]
    assert all(line[4] > 100 for line in lines[:3])
    assert all(line[5:] == (True, "tx") for line in lines)


async def test_stop_finishes_what_runs() -> None:
    """Idle connections close at once, running requests finish and close, new connections are refused, serve returns."""
    gate = trio.Event()

    async def handler(request: Request) -> Response:
        if request.path == b"/slow":
            await gate.wait()
        return Response(200, [], b"done")

    listeners = open_listeners("127.0.0.1", 0)
    address = listeners[0].getsockname()
    server = HttpServer(handler)
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: server.serve(listeners, task_status=task_status))
        idle, fresh, busy = [await trio.open_tcp_stream(*address) for _ in range(3)]
        await idle.send_all(GET)
        assert await idle.receive_some()
        await busy.send_all(b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked()
        server.stop(30)
        with trio.fail_after(ANSWER_S):
            assert await idle.receive_some() == b""
            assert await fresh.receive_some() == b""
            gate.set()
            text = b""
            while data := await busy.receive_some():
                text += data
        assert text.endswith(b"done")
        assert b"Connection: close" in text
    assert server.statistics().connections == 0
    with pytest.raises(OSError, match="all attempts"):
        await trio.open_tcp_stream(*address)


async def test_stop_answers_what_has_come() -> None:
    """More requests than are served in one turn lie in the kernel when the server is told to stop: each gets its answer."""
    count = 6 * READY_MAX
    listeners = open_listeners("127.0.0.1", 0)
    address = listeners[0].getsockname()
    server = HttpServer(echo)
    with ExitStack() as stack:
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda task_status: server.serve(listeners, task_status=task_status))
            clients = [stack.enter_context(socket.create_connection(address, timeout=ANSWER_S)) for _ in range(count)]
            for client in clients:
                client.sendall(GET)
            with trio.fail_after(ANSWER_S):
                while server.statistics().requests < count:
                    await trio.sleep(0)
            for client in clients:
                assert client.recv(65536)
                client.sendall(GET)
            server.stop(30)
        answers = [client.recv(65536) for client in clients]
    assert all(answer.startswith(b"HTTP/1.1 200 ") for answer in answers)


async def test_stop_has_a_deadline(autojump_clock: trio.testing.MockClock) -> None:
    """What does not finish in time is broken off, its stream closed."""
    stream = Pieces([])
    started = trio.Event()

    async def handler(request: Request) -> Response:
        started.set()
        await trio.sleep_forever()
        raise AssertionError

    listeners = open_listeners("127.0.0.1", 0)
    server = HttpServer(handler)
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: server.serve(listeners, task_status=task_status))
        client = socket.create_connection(listeners[0].getsockname())
        client.sendall(GET)
        await started.wait()
        begun_s = trio.current_time()
        server.stop(7)
    assert trio.current_time() - begun_s == pytest.approx(7, abs=0.2)
    client.close()
    assert stream.closed == 0


async def test_one_too_many() -> None:
    """Beyond the limit of connections: 503 and closed; when one has gone, the next is welcome."""
    async with serving(echo, HttpLimits(connection_count_max=2)) as served:
        async with served.client() as first, served.client() as second:
            for client in (first, second):
                await client.send(GET)
                assert (await client.answer()).status == 200
            async with served.client() as third:
                answer = await third.answer()
                assert answer.status == 503
                assert await third.is_closed()
            await second.send(GET)
            assert (await second.answer()).status == 200
            assert served.server.statistics().turned_away == 1
        await served.is_idle()
        assert (await served.ask(GET)).status == 200


async def test_listeners_of_every_kind() -> None:
    """IPv4 and IPv6, a port shared by two, and an address that is taken."""
    [first] = open_listeners("127.0.0.1", 0, reuse_port=True)
    port = first.getsockname()[1]
    [second] = open_listeners("127.0.0.1", port, reuse_port=True)
    with pytest.raises(OSError, match="in use"):
        open_listeners("127.0.0.1", port)
    everywhere = open_listeners("", 0)
    assert len({listener.getsockname()[1] for listener in everywhere}) == 1
    assert all(not listener.getblocking() for listener in (first, second, *everywhere))
    for listener in (first, second, *everywhere):
        listener.close()


async def test_unix_sockets(tmp_path: Path) -> None:
    """A Unix socket serves as well."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    server = HttpServer(swallow)
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: server.serve([listener], task_status=task_status))
        stream = await trio.open_unix_socket(str(tmp_path / "s"))
        async with stream:
            await stream.send_all(GET)
            assert bytes(await stream.receive_some()).startswith(b"HTTP/1.1 200")
        server.stop()
