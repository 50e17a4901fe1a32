"""Load: wrk for what is measured, a small filler for what must be there before.

wrk (Debian's) uses some 5 us of processor per request, far less than what answers it; its Lua hook makes each request and
its `done` hook prints what it saw as one line of JSON. `fill` sends a known list of requests, each once, over a few
connections, and fails on the first answer that is not a success: a benchmark of wrong answers measures nothing.
"""

from __future__ import annotations

import json
import random
import select
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

_LUA_DONE = """
done = function(summary, latency, requests)
  io.write(string.format('RESULT {"requests":%d,"duration_us":%d,"bytes":%d,"connect":%d,"read":%d,"write":%d,'
    .. '"status":%d,"timeout":%d,"p50_us":%d,"p95_us":%d,"p99_us":%d,"p999_us":%d,"max_us":%d}\\n',
    summary.requests, summary.duration, summary.bytes, summary.errors.connect, summary.errors.read,
    summary.errors.write, summary.errors.status, summary.errors.timeout, latency:percentile(50),
    latency:percentile(95), latency:percentile(99), latency:percentile(99.9), latency.max))
end
"""


@dataclass(frozen=True, slots=True)
class Result:
    """What one run of the load generator saw."""

    requests: int
    seconds: float
    received_bytes: int
    errors: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    p999_ms: float

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


def lua(
    method: str, path: str, headers: dict[str, str], *, body_bytes: int = 0, count: int = 0, order: str = ""
) -> str:
    """A wrk script. `path` may hold %d: a number below `count`, drawn at random or, for order "next", counted up."""
    table = ", ".join(f'["{name}"]="{value}"' for name, value in headers.items())
    body = f'string.rep("0123456789abcdef", {body_bytes // 16})' if body_bytes else "nil"
    if "%d" in path:
        number = "next_number()" if order == "next" else f"math.random(0, {count - 1})"
        target = f'string.format("{path}", {number})'
    else:
        target = f'"{path}"'
    if "%d" in path and order != "next":
        # Made beforehand: composing a request in Lua costs as much as answering it.
        return f"""
math.randomseed(7)
local headers = {{{table}}}
local requests = {{}}
init = function() for i = 0, {count - 1} do
  requests[i] = wrk.format("{method}", string.format("{path}", i), headers, {body})
end end
request = function() return requests[math.random(0, {count - 1})] end
{_LUA_DONE}
"""
    return f"""
math.randomseed(7)
local headers = {{{table}}}
local body = {body}
local counter = -1
function next_number() counter = counter + 1; return counter end
request = function() return wrk.format("{method}", {target}, headers, body) end
{_LUA_DONE}
"""


def run_wrk(base_url: str, script: str, *, connections: int, seconds: float) -> Result:
    """One run of wrk with one thread."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "load.lua"
        path.write_text(script)
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "30s", "-s", str(path), base_url]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    line = next(line for line in output.splitlines() if line.startswith("RESULT "))
    seen = json.loads(line.removeprefix("RESULT "))
    return Result(
        seen["requests"],
        seen["duration_us"] / 1e6,
        seen["bytes"],
        seen["connect"] + seen["read"] + seen["write"] + seen["status"] + seen["timeout"],
        seen["p50_us"] / 1e3,
        seen["p95_us"] / 1e3,
        seen["p99_us"] / 1e3,
        seen["p999_us"] / 1e3,
    )


def run_heads(port: int, requests: Sequence[bytes], *, connections: int, seconds: float) -> Result:
    """HEAD requests, drawn at random: wrk waits for the bodies that HEAD answers announce and do not have.

    One epoll loop that looks at nothing but the status and the end of each head: about 8 us a request.
    """
    poll = select.epoll()
    sockets: dict[int, socket.socket] = {}
    began_s: dict[int, float] = {}
    latencies: list[float] = []
    received_bytes = 0
    draw = random.Random(7).choice
    now = time.perf_counter
    for _ in range(connections):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.setblocking(False)
        sockets[connection.fileno()] = connection
        poll.register(connection.fileno(), select.EPOLLIN)
    start_s = now()
    for number, connection in sockets.items():
        began_s[number] = now()
        connection.send(draw(requests))
    while now() - start_s < seconds:
        for number, _ in poll.poll(1):
            connection = sockets[number]
            data = connection.recv(65536)
            if not data.endswith(b"\r\n\r\n") or data[9:10] != b"2":
                raise WrongAnswerError(f"HEAD was answered {data[:200]!r}")
            received_bytes += len(data)
            moment_s = now()
            latencies.append(moment_s - began_s[number])
            began_s[number] = moment_s
            connection.send(draw(requests))
    took_s = now() - start_s
    poll.close()
    for connection in sockets.values():
        connection.close()
    latencies.sort()

    def at(part: float) -> float:
        return latencies[min(len(latencies) - 1, int(part * len(latencies)))] * 1e3

    return Result(len(latencies), took_s, received_bytes, 0, at(0.5), at(0.95), at(0.99), at(0.999))


class WrongAnswerError(Exception):
    """The system did not do what it was asked: nothing is measured on it."""


def fill(host: str, port: int, requests: Iterator[bytes], connections: int = 32) -> int:
    """Send each request once; how many there were. Raises WrongAnswerError for an answer that is not 2xx."""
    return trio.run(_fill, host, port, requests, connections)


async def _fill(host: str, port: int, requests: Iterator[bytes], connections: int) -> int:
    sent = 0

    async def one_connection() -> None:
        nonlocal sent
        stream = await trio.open_tcp_stream(host, port)
        async with stream:
            for request in requests:
                await stream.send_all(request)
                await _read_success(stream, request)
                sent += 1

    async with trio.open_nursery() as nursery:
        for _ in range(connections):
            nursery.start_soon(one_connection)
    return sent


async def _read_success(stream: trio.SocketStream, request: bytes) -> None:
    received = b""
    while b"\r\n\r\n" not in received:
        piece = await stream.receive_some(65536)
        if not piece:
            raise WrongAnswerError("the server closed the connection in the middle of an answer")
        received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    if head[9:10] != b"2":
        raise WrongAnswerError(f"{request[:80]!r} was answered {head[:60]!r} {body[:200]!r}")
    left = 0
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            left = int(line.split(b":")[1]) - len(body)
    while left > 0:
        piece = await stream.receive_some(65536)
        if not piece:
            raise WrongAnswerError("the server closed the connection in the middle of an answer")
        left -= len(piece)
