"""The server's end of a bulk connection. The conversation is in bulk.py.

A session holds one chunk of memory and at most one open BlobWriter or ObjectReader. Whatever ends it (the peer, a broken
frame, a stall, the server's close), the writer is aborted: without its PutBlob nothing has a name.

Data goes to the page cache in place while that is quick; when the kernel makes writers wait (too much dirty memory) it
moves to a thread, by the same policy as syncs. The limit is higher than theirs: a thread that copies data competes with the
event loop for the interpreter's lock at every chunk, which takes milliseconds where the copy takes 60 us.
"""

from __future__ import annotations

import trio

from storage_node.bulk import CHUNK_BYTES, REQUESTS, BulkReader, Kind, as_bytes_view, message
from storage_node.codec import decode_message
from storage_node.device import BlobWriter, Device, ObjectReader, PutBlob
from storage_node.errors import CorruptData, DeviceError, DeviceFull
from storage_node.fields import OpenRead, PutBlobHeader, TransferEnd
from storage_node.frames import MESSAGE_BYTES_MAX, ProtocolError, raw_header
from storage_node.group_commit import GroupCommit, InlinePolicy
from storage_node.operations import Answer, Found, Status, Written
from storage_node.stopwatch import Stopwatch
from storage_node.transport import Transport, send_all, send_frame
from storage_node.wire_settings import ServerSettings


class _Waiting:
    """Waits for the answer of one commit."""

    __slots__ = ("_event", "_value")

    def __init__(self) -> None:
        self._event = trio.Event()
        self._value: Answer | None = None

    def answer(self, token: int, answer: Answer) -> None:
        self._value = answer
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()

    @property
    def written(self) -> Written:
        assert isinstance(self._value, Written)
        return self._value


class BulkSession:
    """Serves one bulk connection of one device until it ends."""

    def __init__(
        self,
        device: Device,
        committer: GroupCommit,
        transport: Transport,
        settings: ServerSettings,
    ) -> None:
        self.device = device
        self._committer = committer
        self._transport = transport
        self._settings = settings
        self._reader = BulkReader(transport, keep=False)
        self._policy = InlinePolicy(settings.inline_write_s_max)
        self._scope = trio.CancelScope()
        self.busy = False
        """In the middle of a transfer."""

    def stop(self) -> None:
        """End the session; a transfer in the middle is cut off."""
        self._scope.cancel()

    async def run(self) -> None:
        """Until the peer goes or stalls, or breaks the protocol (ProtocolError), or the connection breaks (OSError)."""
        with self._scope:
            while True:
                self.busy = False
                self._allow(self._settings.silence_s_max)
                received = await self._reader.next()
                if received is None:
                    return
                self.busy = True
                is_data, payload = received
                if is_data:
                    raise ProtocolError("object data outside of a transfer")
                transfer_id, kind, value = decode_message(payload, REQUESTS)
                if kind == Kind.BEGIN_WRITE:
                    await self._write(transfer_id)
                elif kind == Kind.READ:
                    await self._read(transfer_id, value)
                else:
                    raise ProtocolError("a commit without a transfer")

    def _allow(self, seconds: float) -> None:
        """Cut the session off unless something moves within that time."""
        self._scope.deadline = trio.current_time() + seconds

    # ------------------------------------------------------------------------------------------------------------ writes

    async def _write(self, transfer_id: int) -> None:
        writer: BlobWriter | None = None
        failure: Written | None = None
        try:
            try:
                writer = self.device.open_write()
            except DeviceError as error:
                failure = _failure(error)
                await self._send_written(transfer_id, failure)
            while not isinstance(received := await self._next_of_write(transfer_id), PutBlobHeader):
                if writer is not None and failure is None:
                    try:
                        await self._store(writer, received)
                    except DeviceError as error:
                        failure = _failure(error)
                        await self._send_written(transfer_id, failure)
            if writer is not None and failure is None:
                await self._send_written(transfer_id, await self._commit(writer, received))
        finally:
            if writer is not None:
                writer.abort()

    async def _next_of_write(self, transfer_id: int) -> memoryview | PutBlobHeader:
        """The next data of a write, or its end."""
        self._allow(self._settings.transfer_stall_s_max)
        received = await self._reader.next()
        if received is None:
            raise ConnectionResetError("the peer closed the connection in the middle of a write")
        is_data, payload = received
        if is_data:
            return payload
        commit_id, kind, value = decode_message(payload, REQUESTS)
        if kind != Kind.COMMIT or commit_id != transfer_id:
            raise ProtocolError("neither data nor the commit of this transfer")
        assert isinstance(value, PutBlobHeader)
        return value

    async def _store(self, writer: BlobWriter, data: memoryview) -> None:
        if self._policy.inline:
            self._policy.record(_write(writer, data))
            await trio.lowlevel.checkpoint()  # a fast peer must not keep all others waiting
        else:
            self._policy.record(await trio.to_thread.run_sync(_write, writer, data))

    async def _commit(self, writer: BlobWriter, header: PutBlobHeader) -> Written:
        self._scope.deadline = float("inf")  # the disk takes the time that it takes
        try:
            if writer.in_memory:
                writer.finish()
            else:
                await trio.to_thread.run_sync(writer.finish)
        except DeviceError as error:
            return _failure(error)
        waiting = _Waiting()
        blob = PutBlob(
            header.hash,
            header.key,
            header.timestamp,
            header.meta,
            writer,
            header.manifest,
            header.lock,
            header.meta_timestamp,
        )
        if not self._committer.submit(blob, waiting, 0):
            return Written(Status.BUSY, detail="too many writes wait for this device")
        # Not to be cut off by stop(): the commit is on its way, and the writer belongs to it now.
        with trio.CancelScope(shield=True):
            await waiting.wait()
        return waiting.written

    async def _send_written(self, transfer_id: int, written: Written) -> None:
        if written.replaced_manifest is not None and len(written.replaced_manifest) > MESSAGE_BYTES_MAX // 2:
            written = written._replace(replaced_manifest=None, detail="the replaced manifest is too long to be told")
        self._allow(self._settings.transfer_stall_s_max)
        await send_all(self._transport, message(transfer_id, Kind.WRITTEN, written))

    # ------------------------------------------------------------------------------------------------------------- reads

    async def _read(self, transfer_id: int, request: OpenRead) -> None:
        self._allow(self._settings.transfer_stall_s_max)
        reader = self.device.open_read(request.hash, request.key, request.timestamp)
        if isinstance(reader, Status):
            await send_all(self._transport, message(transfer_id, Kind.OPENED, Found(reader)))
            return
        try:
            stop = reader.entry.size_bytes
            if request.stop is not None:
                stop = min(stop, request.stop)
            await send_all(self._transport, message(transfer_id, Kind.OPENED, Found(Status.FOUND, reader.entry)))
            end = await self._send_data(reader, request.start, stop)
            await send_all(self._transport, message(transfer_id, Kind.END, end))
        finally:
            reader.close()

    async def _send_data(self, reader: ObjectReader, start: int, stop: int) -> TransferEnd:
        while start < stop:
            # Up to the next multiple of the chunk, since the device verifies whole chunks.
            piece_stop = min(stop, start - start % CHUNK_BYTES + CHUNK_BYTES)
            try:
                data = reader.try_read(start, piece_stop)
                if data is None:
                    data = await trio.to_thread.run_sync(reader.read, start, piece_stop)
            except CorruptData as error:
                return TransferEnd(Status.CORRUPT, str(error)[:1000])
            except OSError as error:
                return TransferEnd(Status.CORRUPT, f"the disk gives it no more: {error}"[:1000])
            if len(data) != piece_stop - start:
                return TransferEnd(Status.CORRUPT, f"the device gave {len(data)} of {piece_stop - start} bytes")
            self._allow(self._settings.transfer_stall_s_max)
            view = as_bytes_view(data)
            await send_frame(self._transport, raw_header(view), view)
            await trio.lowlevel.checkpoint()  # a fast peer must not keep all others waiting
            start = piece_stop
        return TransferEnd(Status.FOUND)


def _write(writer: BlobWriter, data: memoryview) -> float:
    """Write, and say for how many seconds that was blocked."""
    watch = Stopwatch()
    writer.write(data)
    return watch.blocked_s()


def _failure(error: DeviceError) -> Written:
    return Written(Status.FULL if isinstance(error, DeviceFull) else Status.FENCED, detail=str(error)[:1000])
