"""HTTP beside calls: disks in and out, and measurements.

A host serves a disk only if it reaches the SR; any other, the master included, redirects to one that does. Uploads go
straight into the disk, a VHD as its blocks come. As a pool does, an upload is answered with its head before the body was
read: what goes wrong afterwards shows in the task that the client gave, and in the connection, which is cut.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from scheduler.xen.simulator import memory, rrd, storage, vhd
from scheduler.xen.simulator.allowed import attached, busy, refresh
from scheduler.xen.simulator.calls.session import check_password, find_session
from scheduler.xen.simulator.database import Row
from scheduler.xen.simulator.disks import OpenDisk
from scheduler.xen.simulator.failure import Failure
from scheduler.xen.simulator.http import Cut, Exchange, Refused
from scheduler.xen.simulator.pool import Pool

if TYPE_CHECKING:
    from scheduler.xen.simulator.server import Server

CHUNK_BYTES: Final = 1 << 20


async def handle(server: Server, pool: Pool, host: Row, exchange: Exchange) -> None:
    """Answer a request that is no call. Raises Refused."""
    match exchange.method, exchange.path:
        case "PUT", "/import_raw_vdi" | "/import_raw_vdi/":
            await _with_disk(server, pool, host, exchange, write=True)
        case "GET", "/export_raw_vdi" | "/export_raw_vdi/":
            await _with_disk(server, pool, host, exchange, write=False)
        case "GET", "/rrd_updates":
            _authorise(pool, exchange)
            body, content_type = rrd.updates(pool, host, exchange.query)
            await exchange.answer(200, body, content_type)
        case "GET", "/":
            await exchange.answer(200, b"A simulated XenAPI host. See docs/xensim.md.\n", "text/plain")
        case _:
            raise Refused(404, f"nothing is served at {exchange.method} {exchange.path}")


def _authorise(pool: Pool, exchange: Exchange) -> None:
    """Raises Refused unless the request has a session, or a user and password."""
    cookies = dict(part.strip().partition("=")[::2] for part in exchange.headers.get("cookie", "").split(";"))
    session = exchange.query.get("session_id") or cookies.get("session_id")
    try:
        if session is not None:
            find_session(pool, session)
            return
        scheme, _, credentials = exchange.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "basic":
            user, _, password = base64.b64decode(credentials, validate=True).decode().partition(":")
            check_password(pool, user, password)
            return
    except (Failure, binascii.Error, UnicodeDecodeError):
        pass
    raise Refused(
        401, "a valid session_id, or a user and password, is needed", {"www-authenticate": 'Basic realm="xapi"'}
    )


async def _with_disk(server: Server, pool: Pool, host: Row, exchange: Exchange, *, write: bool) -> None:
    _authorise(pool, exchange)
    task = pool.database.find("task", exchange.query.get("task_id", ""))
    try:
        vdi = _find_vdi(pool, exchange.query.get("vdi", ""))
        sr = pool.database.get("SR", vdi["SR"])
        if not memory.sees_sr(pool, host, sr):
            raise Refused(302, "the disk is elsewhere", {"location": _elsewhere(pool, sr, exchange)})
        kind = exchange.query.get("format", "raw")
        if kind not in ("raw", "vhd"):
            raise Failure("INVALID_VALUE", "format", kind)
        with _transferring(pool, vdi, task, write=write):
            server.settle()
            if write:
                await _receive(pool, vdi, sr, task, exchange, kind)
            else:
                await _send(pool, vdi, task, exchange, kind)
    except Failure as failure:
        _finish(pool, task, failure)
        server.settle()
        if exchange.begun:
            raise Cut from None
        status = 404 if failure.code in ("HANDLE_INVALID", "UUID_INVALID") else 500
        raise Refused(status, str(failure)) from None
    except Refused:
        raise
    except BaseException:
        _finish(pool, task, Failure("VDI_IO_ERROR", "the transfer was broken off"))
        raise
    finally:
        server.settle()


def _find_vdi(pool: Pool, name: str) -> Row:
    if name.startswith("OpaqueRef:"):
        return pool.database.get("VDI", name)
    return pool.database.by_uuid("VDI", name)


def _elsewhere(pool: Pool, sr: Row, exchange: Exchange) -> str:
    return f"{pool.url(storage.worker_of(pool, sr))}{exchange.target}"


@contextlib.contextmanager
def _transferring(pool: Pool, vdi: Row, task: Row | None, *, write: bool) -> Iterator[None]:
    """Hold a disk for the length of a transfer. Raises Failure VDI_IN_USE or OTHER_OPERATION_IN_PROGRESS."""
    if failure := busy(vdi):
        raise failure
    users = attached(pool, vdi)
    if users and (write or any(vbd["mode"] == "RW" for vbd in users)):
        raise Failure("VDI_IN_USE", vdi.ref, "import" if write else "export")
    if write and (vdi["read_only"] or vdi["is_a_snapshot"]):
        raise Failure("VDI_READONLY", vdi.ref)
    key = task.ref if task is not None else f"DummyRef:|{pool.new_uuid()}|transfer"
    pool.database.set(vdi, current_operations={key: "copy" if not write else "blocked"})
    try:
        yield
    finally:
        if pool.database.find("VDI", vdi.ref) is vdi:
            pool.database.set(vdi, current_operations={})
            refresh(pool)


async def _receive(pool: Pool, vdi: Row, sr: Row, task: Row | None, exchange: Exchange, kind: str) -> None:
    expected = int(exchange.headers.get("content-length", "0"))
    head = {"content-type": "application/octet-stream", "connection": "close"}
    await exchange.begin(200, {**head, "task-id": task.ref} if task is not None else head)
    room = storage.room_bytes(sr) if not storage.is_thick(sr) else None
    with pool.disks.open(storage.key_of(vdi), write=True) as disk:
        sink = _Sink(disk, room)
        reader = vhd.Reader(sink.write, disk.size_bytes) if kind == "vhd" else None
        position = 0
        try:
            async for data in exchange.body():
                if reader is not None:
                    reader.feed(data)
                else:
                    sink.write(position, data)
                position += len(data)
                _progress(pool, task, position, expected)
            if reader is not None:
                reader.end()
        finally:
            storage.measure(pool, vdi)
    _finish(pool, task, None)
    await exchange.finish()


class _Sink:
    """A disk to write to, within its size and what its SR has left."""

    def __init__(self, disk: OpenDisk, room_bytes: int | None) -> None:
        self._disk = disk
        self._limit = None if room_bytes is None else disk.used_bytes + room_bytes
        self._unchecked = 0

    def write(self, start: int, data: bytes | memoryview) -> None:
        """Raises Failure SR_FULL, or VDI_IO_ERROR past the end of the disk."""
        try:
            self._disk.write(start, data)
        except ValueError:
            raise Failure(
                "VDI_IO_ERROR", f"the image is larger than the disk of {self._disk.size_bytes} bytes"
            ) from None
        self._unchecked += len(data)
        if self._limit is not None and self._unchecked >= CHUNK_BYTES:
            self._unchecked = 0
            if self._disk.used_bytes > self._limit:
                raise Failure("SR_FULL", str(self._disk.used_bytes), str(self._limit))


def _progress(pool: Pool, task: Row | None, done: int, expected: int) -> None:
    if task is None or not expected or pool.database.find("task", task.ref) is not task:
        return
    if task["status"] == "cancelled":
        raise Failure("TASK_CANCELLED", task.ref)
    fraction = round(min(1.0, done / expected), 1)
    if fraction > task["progress"]:
        pool.database.set(task, progress=fraction)


def _finish(pool: Pool, task: Row | None, failure: Failure | None) -> None:
    if task is None or pool.database.find("task", task.ref) is not task or task["status"] != "pending":
        return
    error = () if failure is None else tuple(failure.description)
    status = "success" if failure is None else "failure"
    pool.database.set(task, status=status, error_info=error, progress=1.0, finished=pool.now())


async def _send(pool: Pool, vdi: Row, task: Row | None, exchange: Exchange, kind: str) -> None:
    key = storage.key_of(vdi)
    with pool.disks.open(key) as disk:
        if kind == "vhd":
            plan = vhd.Plan(disk.size_bytes, pool.disks.extents(key), vdi.uuid)
            length, parts = plan.length_bytes, plan.parts(disk.read)
        else:
            length, parts = disk.size_bytes, _raw_parts(disk)
        headers = {"content-type": "application/octet-stream", "content-length": str(length)}
        await exchange.begin(200, headers)
        sent = 0
        for part in parts:
            await exchange.write(part)
            sent += len(part)
            _progress(pool, task, sent, length)
        _finish(pool, task, None)
        await exchange.finish()


def _raw_parts(disk: OpenDisk) -> Iterator[bytes]:
    for start in range(0, disk.size_bytes, CHUNK_BYTES):
        yield disk.read(start, CHUNK_BYTES)
