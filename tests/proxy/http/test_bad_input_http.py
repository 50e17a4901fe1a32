"""The catalogue of bad input, over real sockets: the right status, a clear body, the server alive, nothing leaked."""

from __future__ import annotations

import gc
import os
from collections.abc import MutableMapping
from typing import Any

import pytest
import trio
import trio.testing

from proxy.http.crew import RESTING_MAX
from proxy.http.limits import HttpLimits
from proxy.http.message import Request, Response
from tests.proxy.http.serving import Pieces, Serving, echo, ignore_body, serving, swallow
from tests.proxy.http.test_head import BAD

GOOD = b"GET /good HTTP/1.1\r\nHost: h\r\n\r\n"

QUICK = HttpLimits(head_s=0.2, idle_s=0.2, body_idle_s=0.2, send_idle_s=0.2, linger_s=0.2, sweep_interval_s=0.05)
"""Times short enough to be waited for."""


async def check_alive(served: Serving) -> None:
    """A good request is still answered."""
    answer = await served.ask(GOOD)
    assert answer.status == 200
    assert answer.body.startswith(b"GET /good")


async def check_refused(served: Serving, data: bytes, status: int, close_after: bool = False) -> None:
    """The bytes get that status, a line of explanation, an id, and the connection is closed."""
    async with served.client() as client:
        await client.send_if_wanted(data)
        if close_after:
            await client.stream.send_eof()
        answer = await client.answer()
        assert answer.status == status
        assert answer.headers[b"connection"] == b"close"
        assert answer.headers[b"content-type"].startswith(b"text/plain")
        assert answer.headers[b"x-trans-id"].startswith(b"tx")
        assert 10 < len(answer.body) < 250
        assert b"Traceback" not in answer.body
        assert await client.is_closed()


async def test_every_bad_head() -> None:
    """Every entry of the catalogue of heads gets its status over a socket, too."""
    async with serving(echo) as served:
        for status, head in BAD:
            if head.startswith(b"\r\n"):
                continue  # empty lines before a request are forgiven
            await check_refused(served, head, status)
        await check_alive(served)
        await served.is_idle()


@pytest.mark.parametrize(
    ("status", "data"),
    [
        (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
        (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        (400, b"GET / HTTP/1.1\nHost: h\n\n"),
        (400, b"\r\n\r\n\r\n\r\n\r\n\r\n"),
        (400, b"SSH-2.0-OpenSSH_9.2\r\n"),
        (400, b"\x00" * 100),
        (414, b"GET /" + b"a" * 100_000),
        (431, b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"a" * 100_000),
        (431, b"GET / HTTP/1.1\r\nHost: h\r\n" + b"X: aaaaaaaaaaaaaaaaaa\r\n" * 10_000),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_heads_that_never_end(status: int, data: bytes) -> None:
    """They are refused as soon as they can't be good any more."""
    async with serving(echo) as served:
        await check_refused(served, data, status)
        await check_alive(served)


async def test_a_truncated_head() -> None:
    """A head that breaks off is a 400 to those who still listen."""
    async with serving(echo) as served:
        await check_refused(served, GOOD[:20], 400, close_after=True)
        await check_alive(served)


PUT = b"PUT / HTTP/1.1\r\nHost: h\r\n"


@pytest.mark.parametrize(
    "body",
    [
        b"nonsense\r\n",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b"5\nhello\n0\n\n",
        b"5\r\nhello world\r\n0\r\n\r\n",
        b"fffffffffffffffffffff\r\n",
        b"5;" + b"x" * 10_000 + b"\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\r\n0\r\n" + b"X: y\r\n" * 10_000 + b"\r\n",
        b"5\r\nhello\r\n0\r\nnot a trailer\r\n\r\n",
    ],
    ids=lambda body: str(body)[:30],
)
async def test_broken_chunks(body: bytes) -> None:
    """Malformed chunked framing is a 400, from the server or from the handler that was told of it."""
    data = PUT + b"Transfer-Encoding: chunked\r\n\r\n" + body + GOOD
    async with serving(echo) as served:
        await check_refused(served, data, 400)
        await check_alive(served)
    async with serving(swallow) as served, served.client() as client:
        await client.send_if_wanted(data)
        answer = await client.answer()
        assert (answer.status, answer.headers[b"x-kind"]) == (400, b"MalformedBody")
        assert answer.headers[b"connection"] == b"close"
        assert await client.is_closed()


async def test_bodies_that_are_too_large() -> None:
    """By their Content-Length at once, by their chunks when it shows."""
    limits = HttpLimits(body_bytes_max=1000)
    async with serving(echo, limits) as served:
        await check_refused(served, PUT + b"Content-Length: 1001\r\n\r\n", 413)
        await check_refused(served, PUT + b"Transfer-Encoding: chunked\r\n\r\n3e9\r\n", 413)
        assert (await served.ask(PUT + b"Content-Length: 1000\r\n\r\n" + b"x" * 1000)).status == 200
        await check_alive(served)


@pytest.mark.parametrize(
    "beginning",
    [
        PUT + b"Content-Length: 10\r\n\r\nabc",
        PUT + b"Transfer-Encoding: chunked\r\n\r\n5\r\nabc",
        PUT + b"Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n",
    ],
)
async def test_truncated_bodies(beginning: bytes) -> None:
    """A client that goes away within its body gets nothing, and nothing is taken for whole."""
    heard: list[str] = []

    async def handler(request: Request) -> Response:
        response = await swallow(request)
        heard.append(str(response.status))
        return response

    async with serving(handler) as served:
        async with served.client() as client:
            await client.send(beginning)
            await client.stream.send_eof()
            answer = await client.answer()
            assert answer.headers[b"x-kind"] == b"ClientDisconnected"
        async with served.client() as client:
            await client.send(beginning)
        await served.is_idle()
    assert heard == ["400", "400"]
    async with serving(echo) as served, served.client() as client:
        await client.send(beginning)
        await client.stream.send_eof()
        assert await client.is_closed()
        assert served.server.statistics().failed == 0


async def test_smuggled_requests_stay_where_they_are() -> None:
    """What a body hides is never served as a request, however its framing contradicts itself."""
    served_targets: list[bytes] = []

    async def handler(request: Request) -> Response:
        served_targets.append(request.target)
        return Response(200)

    evil = b"GET /evil HTTP/1.1\r\nHost: h\r\n\r\n"
    async with serving(handler) as served:
        for framing in (
            b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
            b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
            b"Content-Length: 0\r\nContent-Length: %d\r\n" % len(evil),
            b"Transfer-Encoding : chunked\r\n",
            b"Transfer-Encoding: identity\r\n",
            b"Transfer-Encoding:\x0bchunked\r\n",
            b"Transfer-Encoding: chunked\r\n Content-Length: 0\r\n",
            b"Content-Length: +0\r\n",
            b"Content-Length : 0\r\n",
        ):
            async with served.client() as client:
                await client.send_if_wanted(PUT + framing + b"\r\n" + b"0\r\n\r\n" + evil)
                assert (await client.answer()).status in (400, 501)
                assert await client.is_closed()
    assert served_targets == []


@pytest.mark.parametrize("data", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: h\r\n"])
async def test_slow_heads(data: bytes) -> None:
    """A head that does not come in time is a 408; nothing at all is closed without a word."""
    async with serving(echo, QUICK) as served, served.client() as client:
        await client.send(data)
        if data:
            assert (await client.answer()).status == 408
        assert await client.is_closed()
        await check_alive(served)
        assert served.server.statistics().expired >= 1


async def test_trickled_heads() -> None:
    """A byte now and then does not buy more time."""
    async with serving(echo, QUICK) as served, served.client() as client, trio.open_nursery() as nursery:

        async def trickle() -> None:
            for _ in range(1000):
                await client.send_if_wanted(b"x")
                await trio.lowlevel.checkpoint()
                with trio.move_on_after(0.02):
                    await trio.sleep_forever()

        await client.send(b"GET /")
        nursery.start_soon(trickle)
        assert (await client.answer()).status == 408
        nursery.cancel_scope.cancel()


async def test_idle_connections_are_closed() -> None:
    """Between requests, without a word."""
    async with serving(echo, QUICK) as served, served.client() as client:
        await client.send(GOOD)
        assert (await client.answer()).status == 200
        assert await client.is_closed()


@pytest.mark.parametrize(
    "beginning",
    [PUT + b"Content-Length: 10\r\n\r\nabc", PUT + b"Transfer-Encoding: chunked\r\n\r\n5\r\nabc"],
)
async def test_slow_bodies(beginning: bytes) -> None:
    """A body that stops coming is a BodyTimeout to the handler and a 408 to the client."""
    async with serving(echo, QUICK) as served:
        await check_refused(served, beginning, 408)
        await check_alive(served)
    async with serving(swallow, QUICK) as served, served.client() as client:
        await client.send(beginning)
        answer = await client.answer()
        assert (answer.status, answer.headers[b"x-kind"]) == (400, b"BodyTimeout")
        assert await client.is_closed()


async def test_slow_readers() -> None:
    """A client that does not take its response is dropped; the stream is closed, and others are served meanwhile."""
    stream = Pieces([b"x" * 1_000_000] * 50)

    async def handler(request: Request) -> Response:
        if request.path == b"/large":
            return Response(200, [], stream, 50_000_000)
        return await echo(request)

    async with serving(handler, QUICK) as served:
        with served.small_client_socket() as slow:
            await slow.connect(served.address)
            await slow.send(b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n")
            await check_alive(served)
            await served.is_idle()
        assert stream.closed == 1
        assert stream._pieces, "it was not read to its end into memory"


async def test_unread_bodies_of_silent_clients() -> None:
    """Draining and lingering end, too."""
    async with serving(ignore_body, QUICK) as served:
        for length in (10, 10**9):
            async with served.client() as client:
                await client.send(PUT + b"Content-Length: %d\r\n\r\nabc" % length)
                assert (await client.answer()).status == 403
                assert await client.is_closed()
                await served.is_idle()


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_thousands_of_bad_requests_leak_nothing(logs: list[MutableMapping[str, Any]]) -> None:
    """Open files, tasks and connections are as before, and nothing was logged as our own failure."""
    streams: list[Pieces] = []

    async def handler(request: Request) -> Response:
        if request.path == b"/stream":
            streams.append(Pieces([b"x" * 100_000] * 10))
            return Response(200, [], streams[-1], 1_000_000)
        return await echo(request)

    bad = [head for _, head in BAD if len(head) < 1000]
    bad += [
        b"",
        GOOD[:10],
        PUT + b"Content-Length: 100\r\n\r\nabc",
        PUT + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /stream HTTP/1.1\r\nHost: h\r\n\r\n",
        GOOD * 5 + b"nonsense\r\n\r\n",
    ]
    async with serving(handler) as served:
        await check_alive(served)
        await served.is_idle()
        gc.collect()
        files_before = _open_files()
        tasks_before = trio.lowlevel.current_statistics().tasks_living

        async def send_some(first: int) -> None:
            for number in range(first, 3000, 10):
                stream = await trio.open_tcp_stream(*served.address)
                async with stream:
                    await stream.send_all(bad[number % len(bad)])
                    if number % 3 == 0:
                        await stream.send_eof()
                        await stream.receive_some(10)

        async with trio.open_nursery() as nursery:
            for first in range(10):
                nursery.start_soon(send_some, first)
        await served.is_idle()
        await check_alive(served)
        await served.is_idle()
        gc.collect()
        assert _open_files() == files_before
        assert trio.lowlevel.current_statistics().tasks_living <= tasks_before + RESTING_MAX
        assert all(stream.closed == 1 for stream in streams)
        assert served.server.statistics().failed == 0
    assert [line for line in logs if line["log_level"] == "error"] == []


async def test_an_error_is_logged_with_the_id_that_the_client_got(logs: list[MutableMapping[str, Any]]) -> None:
    """So that one can be found by the other."""

    async def handler(request: Request) -> Response:
        raise ValueError("our fault")

    async with serving(handler) as served:
        answer = await served.ask(GOOD)
    [line] = [line for line in logs if line["log_level"] == "error"]
    assert line["transaction_id"].encode() == answer.headers[b"x-trans-id"]
    assert isinstance(line["exc_info"], ValueError)
