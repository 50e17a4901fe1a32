"""Load: wrk for what is measured, a small filler for what must be there before.

wrk (Debian's) uses some 5 us of processor per request, far less than what answers it; a script of ours hands it requests
that were rendered before, and prints what it saw as one line of JSON. `send_each` sends a known list of requests, each
once, over a few connections, and fails on the first answer that is not a success: a benchmark of wrong answers measures
nothing.

wrk counts all of the time that it was given, also when a run that uses each name once has come to its end before: the script
takes the time of that end itself.
"""

from __future__ import annotations

import json
import select
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Final

import trio

from bench.bodies import BLOCK_BYTES, draw_bodies
from bench.plan import Plan
from bench.systems.base import program

TIMEOUT_S: Final = 60

_LUA: Final = """
local heads, bodies, count = {}, {}, 0
local file = assert(io.open("REQUESTS", "rb"))
for line in file:lines() do
  local length, with_body = line:match("^(%d+) (%d)$")
  count = count + 1
  heads[count] = file:read(tonumber(length))
  bodies[count] = with_body == "1"
end
file:close()
local filler = assert(io.open("FILLER", "rb")):read("*a")
local rest = filler:sub(17)
local with_its_body = function(head, number)
  local parts, start, index = {head}, 0, 0
  while start < BODY do
    local length = math.min(BODY - start, BLOCK)
    parts[#parts + 1] = string.format("%08x%08x", number, index):sub(1, length)
    parts[#parts + 1] = length == #filler and rest or rest:sub(1, math.max(length - 16, 0))
    start, index = start + length, index + 1
  end
  return table.concat(parts)
end
if BODY <= 65536 then
  for i = 1, count do if bodies[i] then heads[i] = with_its_body(heads[i], i); bodies[i] = false end end
end
local large = 0
local ffi = require("ffi")
ffi.cdef "typedef struct {long s; long ns;} moment; int clock_gettime(int clock, moment *now);"
local now = ffi.new("moment")
local clock = function()
  ffi.C.clock_gettime(1, now)
  return tonumber(now.s) * 1e6 + tonumber(now.ns) / 1e3
end
local threads = {}
setup = function(thread) table.insert(threads, thread) end
began_us, ended_us = 0, 0
local at = 0
request = function()
  at = at + 1
  if at <= 2 then began_us = clock() end
  if at > count then
    if ONCE then
      if ended_us == 0 then ended_us = clock() end
      wrk.thread:stop(); at = count
    else at = 1 end
  end
  if bodies[at] then large = large + 1; return with_its_body(heads[at], large) end
  return heads[at]
end
done = function(summary, latency, requests)
  local ended_us, duration_us = threads[1]:get("ended_us"), summary.duration
  if ended_us > 0 then duration_us = ended_us - threads[1]:get("began_us") end
  io.write(string.format('RESULT {"requests":%d,"duration_us":%d,"bytes":%d,"connect":%d,"read":%d,"write":%d,'
    .. '"status":%d,"timeout":%d,"p50_us":%d,"p95_us":%d,"p99_us":%d,"p999_us":%d,"max_us":%d}\\n',
    summary.requests, duration_us, summary.bytes, summary.errors.connect, summary.errors.read,
    summary.errors.write, summary.errors.status, summary.errors.timeout, latency:percentile(50),
    latency:percentile(95), latency:percentile(99), latency:percentile(99.9), latency.max))
end
"""


class WrongAnswerError(Exception):
    """The system did not do what it was asked: nothing is measured on it."""


class NothingAnsweredError(WrongAnswerError):
    """Not one request was answered within the run: it was too short."""


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
    generator_cpu_s: float

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


def run_plan(base_url: str, plan: Plan, *, connections: int, seconds: float, head: bool = False) -> Result:
    """One run. With `head`, answers announce a length and have no body: our own generator reads them, wrk can't."""
    if head:
        port = int(base_url.rpartition(":")[2])
        try:
            return _run_heads(port, plan, connections=connections, seconds=seconds)
        except OSError as error:
            raise WrongAnswerError(f"the connection broke: {error!r}") from error
    return _run_wrk(base_url, plan, connections=connections, seconds=seconds)


def _run_wrk(base_url: str, plan: Plan, *, connections: int, seconds: float) -> Result:
    with tempfile.TemporaryDirectory(prefix="ringstead-wrk-") as folder:
        requests = Path(folder) / "requests"
        with requests.open("wb") as file:
            for head, with_body in zip(plan.heads, plan.with_body, strict=True):
                file.write(b"%d %d\n%b" % (len(head), with_body, head))
        filler = Path(folder) / "filler"
        filler.write_bytes(draw_bodies(plan.body_bytes).filler)
        script = _LUA.replace("REQUESTS", str(requests)).replace("FILLER", str(filler))
        script = script.replace("BODY", str(plan.body_bytes)).replace("BLOCK", str(BLOCK_BYTES))
        path = Path(folder) / "load.lua"
        path.write_text(script.replace("ONCE", "true" if plan.once else "false"))
        command = [program("wrk"), "-t1", f"-c{connections}", f"-d{max(seconds, 1):g}s", "--timeout", f"{TIMEOUT_S}s"]
        before = _children_cpu_s()
        done = subprocess.run([*command, "-s", str(path), base_url], capture_output=True, text=True, check=False)
        cpu_s = _children_cpu_s() - before
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
    if line is None:
        raise WrongAnswerError(f"wrk: {done.stdout}{done.stderr}")
    seen = json.loads(line.removeprefix("RESULT "))
    errors = seen["connect"] + seen["read"] + seen["write"] + seen["status"] + seen["timeout"]
    p50, p95, p99, p999 = (seen[name] / 1e3 for name in ("p50_us", "p95_us", "p99_us", "p999_us"))
    return Result(seen["requests"], seen["duration_us"] / 1e6, seen["bytes"], errors, p50, p95, p99, p999, cpu_s)


def _children_cpu_s() -> float:
    import resource

    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _run_heads(port: int, plan: Plan, *, connections: int, seconds: float) -> Result:
    """One epoll loop that looks at nothing but the status and the end of each head: about 8 us a request."""
    poll = select.epoll()
    sockets: dict[int, socket.socket] = {}
    began_s: dict[int, float] = {}
    latencies: list[float] = []
    received_bytes = 0
    following = cycle(plan.heads)
    now = time.perf_counter
    cpu_s = time.process_time()
    start_s = now()
    try:
        for _ in range(connections):
            connection = socket.create_connection(("127.0.0.1", port))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sockets[connection.fileno()] = connection
            poll.register(connection.fileno(), select.EPOLLIN)
            began_s[connection.fileno()] = now()
            connection.send(next(following))
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
                connection.send(next(following))
    finally:
        poll.close()
        for connection in sockets.values():
            connection.close()
    took_s = now() - start_s
    if not latencies:
        raise NothingAnsweredError(f"not one HEAD was answered within {seconds:g} s: measure for longer")
    latencies.sort()

    def at(part: float) -> float:
        return latencies[min(len(latencies) - 1, int(part * len(latencies)))] * 1e3

    return Result(
        len(latencies), took_s, received_bytes, 0, at(0.5), at(0.95), at(0.99), at(0.999), time.process_time() - cpu_s
    )


def send_each(port: int, requests: Iterable[bytes], connections: int = 32) -> int:
    """Send each request once; how many there were. Raises WrongAnswerError for an answer that is not 2xx, or for none."""
    try:
        return trio.run(_send_each, port, iter(requests), connections)
    except* (WrongAnswerError, OSError, trio.BrokenResourceError) as errors:
        first = errors.exceptions[0]
    # The whole run would end by a group that nobody expects; one system's wrong answer is only that system's problem.
    raise first if isinstance(first, WrongAnswerError) else WrongAnswerError(f"the connection broke: {first!r}")


async def _send_each(port: int, requests: Iterator[bytes], connections: int) -> int:
    sent = 0

    async def one_connection() -> None:
        nonlocal sent
        stream = await trio.open_tcp_stream("127.0.0.1", port)
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
