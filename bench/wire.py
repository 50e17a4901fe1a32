"""`python -m bench.wire`: what the wire itself costs, with a device behind it that does nothing.

One client process, one server process, a Unix socket. For each case calls per second and the processor time that each end
spends on one call; for transfers GB/s. `--device DIR` puts a real device behind it instead.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import trio

from storage_node.client import BulkRead, DeviceClient, PutBlobHeader
from storage_node.device import Device, DeviceWrite
from storage_node.operations import Entry, Found, GetObject, PutCatalog, PutObject, PutRow, Status, Written
from storage_node.server import StorageServer
from storage_node.sockets import listen

KEY = b"the key of a benchmark"
MIB = 1024 * 1024
TRANSFER_MIB = 64
APPLIED = Written(Status.APPLIED, 1 << 62)
ENTRY = Entry(1 << 62, 1 << 62, False, TRANSFER_MIB * MIB, b"m" * 150)


class NullWriter:
    """Takes data and forgets it."""

    in_memory = True
    size_bytes = 0

    def write(self, data: memoryview) -> None:
        """Nothing."""

    def finish(self) -> None:
        """Nothing."""

    def abort(self) -> None:
        """Nothing."""


class NullReader:
    """An object of TRANSFER_MIB."""

    entry = ENTRY

    def __init__(self) -> None:
        self._data = memoryview(os.urandom(MIB))

    def try_read(self, start: int, stop: int) -> memoryview:
        """The same MiB over and over."""
        offset = start % MIB
        return self._data[offset : offset + stop - start]

    def close(self) -> None:
        """Nothing."""


class NullBatch:
    """As many writes as were given."""

    needs_sync = False

    def __init__(self, count: int) -> None:
        self.count = count


class NullDevice:
    """Answers everything at once."""

    name = "null"
    uuid = bytes(16)
    wants_commit = False
    filling = ""

    def decide(self, operations: Sequence[DeviceWrite]) -> NullBatch:
        """Counts them."""
        return NullBatch(len(operations))

    def publish(self, batch: NullBatch) -> list[Written]:
        """APPLIED for each."""
        return [APPLIED] * batch.count

    def read(self, operation: Any) -> Found:
        """An object of 4 KiB."""
        return Found(Status.FOUND, ENTRY, bytes(4096))

    def open_write(self) -> NullWriter:
        """Takes anything."""
        return NullWriter()

    def open_read(self, hash_: bytes, key: bytes, timestamp: int | None) -> NullReader:
        """Gives anything."""
        return NullReader()

    def next_work(self) -> None:
        """None."""


async def serve(address: str, path: str) -> None:
    """The server's process: until SIGTERM."""
    if path:
        Device.create(path, "null")
    device = Device.open(path) if path else cast(Device, NullDevice())
    server = StorageServer({"null": device}, KEY)
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve, [listen(address)])
            print("ready", flush=True)
            async for _ in signals:
                break
            server.stop()
    if path:
        device.close()


class Bench:
    """Measures one client against the server of that process id."""

    def __init__(self, client: DeviceClient, server_pid: int) -> None:
        self._client = client
        self._stat = Path(f"/proc/{server_pid}/stat")
        self._numbers = 0

    def _server_cpu_s(self) -> float:
        user, system = self._stat.read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    async def calls(self, name: str, make: Callable[[int], Any], concurrency: int, seconds: float) -> None:
        """Keep so many requests in flight, each answered one followed by the next."""
        client, done, finished = self._client, 0, trio.Event()
        stop_s = time.perf_counter() + seconds

        def next_one(answer: Any) -> None:
            nonlocal done
            done += 1
            if answer.status not in (Status.APPLIED, Status.FOUND, Status.MISSING):
                raise AssertionError(answer)
            if time.perf_counter() < stop_s:
                self._numbers += 1
                client.submit(make(self._numbers), next_one)
            elif client.in_flight == 0:
                finished.set()

        started_s, client_s, server_s = time.perf_counter(), time.process_time(), self._server_cpu_s()
        for _ in range(concurrency):
            self._numbers += 1
            client.submit(make(self._numbers), next_one)
        await finished.wait()
        took_s = time.perf_counter() - started_s
        client_us = (time.process_time() - client_s) / done * 1e6
        server_us = (self._server_cpu_s() - server_s) / done * 1e6
        print(f"{name:12} x{concurrency:<4} {done / took_s:9,.0f}/s   {client_us:6.1f} us   {server_us:6.1f} us")

    async def transfers(self, count: int) -> None:
        """Objects of TRANSFER_MIB, one after the other."""
        data = os.urandom(MIB)
        started_s = time.perf_counter()
        for number in range(count):
            write = await self._client.open_write()
            for _ in range(TRANSFER_MIB):
                await write.send(data)
            await write.commit(PutBlobHeader(number.to_bytes(16, "big"), b"/a/c/%d" % number, _now(), b"meta"))
        self._show_rate("bulk write", count, time.perf_counter() - started_s)
        started_s = time.perf_counter()
        for number in range(count):
            read = await self._client.open_read(number.to_bytes(16, "big"), b"/a/c/%d" % number)
            assert isinstance(read, BulkRead)
            while await read.read():
                pass
        self._show_rate("bulk read", count, time.perf_counter() - started_s)

    @staticmethod
    def _show_rate(name: str, count: int, took_s: float) -> None:
        print(f"{name:12} {TRANSFER_MIB} MiB {count * TRANSFER_MIB * MIB / took_s / 1e9:6.2f} GB/s")


def _now() -> int:
    return (time.time_ns() // 1000) << 12


def a_row(number: int) -> PutRow:
    """A row as a proxy writes it."""
    now = _now()
    return PutRow(1, bytes(16), b"photos/2024/img_%09d.jpg" % number, now, now, False, 1, 4096, bytes(100))


def an_object(number: int) -> PutObject:
    """An object of 4 KiB."""
    return PutObject(number.to_bytes(16, "big"), b"/AUTH_p/photos/%d" % number, _now(), bytes(150), bytes(4096))


def a_read(number: int) -> GetObject:
    """Of an object of 4 KiB."""
    return GetObject((number % 10_000).to_bytes(16, "big"), b"/AUTH_p/photos/%d" % (number % 10_000), True)


async def measure(address: str, server_pid: int, concurrencies: Sequence[int], seconds: float, transfers: int) -> None:
    """All cases, of so many seconds, and that many transfers."""
    client = DeviceClient(address, "null", KEY)
    async with trio.open_nursery() as nursery:
        await nursery.start(client.run)
        await client.call(PutCatalog(1, bytes(16), b"/AUTH_p/photos", _now(), {}))
        bench = Bench(client, server_pid)
        print("                       calls       client      server (processor time per call)")
        for name, make in (("PutRow", a_row), ("PutObject", an_object), ("GetObject", a_read)):
            for concurrency in concurrencies:
                await bench.calls(name, make, concurrency, seconds)
        await bench.transfers(transfers)
        nursery.cancel_scope.cancel()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="", help="a directory that does not exist yet")
    parser.add_argument("--concurrency", type=int, nargs="*", default=[1, 8, 64])
    parser.add_argument("--seconds", type=float, default=2.0, help="of each case")
    parser.add_argument("--transfers", type=int, default=8, help=f"of {TRANSFER_MIB} MiB, each way")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        trio.run(serve, arguments.serve, arguments.device)
        return
    with tempfile.TemporaryDirectory(prefix="ringstead-bench-") as folder:
        address = f"unix:{folder}/socket"
        command = [sys.executable, "-m", "bench.wire", "--serve", address, "--device", arguments.device]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n"
            try:
                trio.run(measure, address, server.pid, arguments.concurrency, arguments.seconds, arguments.transfers)
            finally:
                server.terminate()


if __name__ == "__main__":
    main()
