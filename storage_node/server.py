"""The storage server: one or more devices of one process, behind sockets.

Problem: tens of thousands of small requests a second from a dozen proxies, beside transfers of gigabytes, with one process
and one interpreter lock; none of them may hold up the others, and nothing that a peer sends may bring the process down.

Idea: control connections are served by callbacks of the hub: a readable socket gives a chunk, its frames give a batch of
requests; reads are answered from the published state at once, writes go to the device's group commit, and all answers of a
turn leave with one send a connection. Bulk connections have a task each. Strangers are heard only in the handshake.

Limits on everything: see ServerSettings. A peer that leaves its answers untaken is not read from until it takes them.

Orderly close (`stop()`, or cancelling `serve`): nothing more is accepted or read, what was accepted is committed and
answered, then all connections are closed. The devices belong to the caller, who closes them afterwards.

Invariants: a device hears nothing of a connection that has not proved the cluster key; every request is answered exactly
once or its connection is closed; a connection that breaks the protocol is closed, and costs nobody else anything.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import structlog
import trio

from storage_node.bulk_server import BulkSession
from storage_node.control_session import ControlSession
from storage_node.device import Device
from storage_node.dial import Opened, welcome
from storage_node.frames import ProtocolError
from storage_node.group_commit import GroupCommit
from storage_node.handshake import (
    HANDSHAKE_TIMEOUT_S,
    NONCE_BYTES,
    HandshakeError,
    Purpose,
    ServerHandshake,
    check_key,
)
from storage_node.housekeeping import keep_house
from storage_node.hub import EpollHub, Hub
from storage_node.listener import Listener, SocketListener
from storage_node.operations import FoundRings, GetRings, Status
from storage_node.transport import Transport
from storage_node.wire_settings import ServerSettings

_ACCEPT_PAUSE_S = 0.1
"""Wait after accept() ran out of descriptors or memory: connections that end set some free."""
_OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_WATCH_S = 1.0
"""How often silent and stalled connections are looked for."""

log = structlog.get_logger("storage_node")


@dataclass(frozen=True, slots=True)
class ServerStatistics:
    """A storage server's figures, since its start where they are counts."""

    control_connections: int
    """Open now."""
    bulk_connections: int
    """Open now."""
    strangers: int
    """In their handshake now."""
    refused: int
    """Connections that failed their handshake, or were too many."""
    broken: int
    """Connections closed because the peer broke the protocol."""
    groups: Mapping[str, int]
    """Group commits of each device."""
    writes: Mapping[str, int]
    """Writes in them."""
    pending: Mapping[str, int]
    """Writes that wait now, for each device."""


class StorageServer:
    """Serves devices.

    `devices` are open, by name, and used by nothing else in this process but this server's thread. `ssl_context`, if
    given, is required of TCP clients. `ring_epoch` tells the epoch of the newest ring at hand, `on_peer_epoch` hears
    those of the peers (when they connect, and when they ask for rings), and `rings` answers those who ask for the rings
    themselves (and must not raise). `housekeeping` False leaves checkpoints and compaction to the caller.
    `hub` serves the connections.

    Devices and listeners may come and go while it serves: `add_device`, `remove_device`, `add_listener`.
    """

    def __init__(
        self,
        devices: Mapping[str, Device],
        cluster_key: bytes,
        *,
        settings: ServerSettings | None = None,
        ssl_context: ssl.SSLContext | None = None,
        ring_epoch: Callable[[], int] = lambda: 0,
        on_peer_epoch: Callable[[int], None] = lambda epoch: None,
        rings: Callable[[GetRings], FoundRings] = lambda _: FoundRings(Status.MISSING),
        random_bytes: Callable[[int], bytes] = os.urandom,
        housekeeping: bool = True,
        hub: Hub | None = None,
    ) -> None:
        self._devices = dict(devices)
        self._key = check_key(cluster_key)
        self._settings = settings or ServerSettings()
        self._ssl_context = ssl_context
        self._ring_epoch = ring_epoch
        self._on_peer_epoch = on_peer_epoch
        self._rings = rings
        self._random_bytes = random_bytes
        self._housekeeping = housekeeping
        self._hub = hub or EpollHub()
        self._hub_scope = trio.CancelScope(shield=True)
        self._committers = {name: self._committer_of(device) for name, device in self._devices.items()}
        self._scopes: dict[str, trio.CancelScope] = {}
        """Of what runs for each device beside its committer."""
        self._ended: dict[str, trio.Event] = {}
        """Set when a device's committer has ended."""
        self._engine: trio.Nursery | None = None
        self._front: trio.Nursery | None = None
        self._doors: list[Listener] = []
        self._control: set[ControlSession] = set()
        self._bulk: set[BulkSession] = set()
        self._strangers = 0
        self._refused = 0
        self._broken = 0
        self._stop = trio.Event()

    def _committer_of(self, device: Device) -> GroupCommit:
        # Syncs in place stand in each other's way: with several devices they have to be quicker to be worth it.
        inline_s_max = min(self._settings.inline_s_max, 2 * self._settings.inline_s_max / max(1, len(self._devices)))
        return GroupCommit(device, self._settings, inline_s_max)

    def add_device(self, name: str, device: Device) -> None:
        """Serve one more device, open and used by nobody else, from now on."""
        self._devices[name] = device
        self._committers[name] = self._committer_of(device)
        if self._engine is not None and self._front is not None:
            self._engine.start_soon(self._commit, name)
            self._front.start_soon(self._look_after, name)

    async def remove_device(self, name: str) -> Device:
        """Serve a device no more: what it has accepted is committed and answered, its connections are closed.

        The device is the caller's again, who closes it.
        """
        device = self._devices.pop(name)
        sessions = [session for session in self._control if session.device is device]
        transfers = [bulk for bulk in self._bulk if bulk.device is device]
        for session in sessions:
            session.quiesce()
        await self._until_answered(sessions, transfers)
        for session in sessions:
            self._control.discard(session)
            session.close()
        if name in self._scopes:
            self._scopes.pop(name).cancel()
        committer = self._committers.pop(name)
        committer.stop()
        if name in self._ended:
            await self._ended.pop(name).wait()
        return device

    def add_listener(self, listener: socket.socket | Listener) -> None:
        """Take connections at one more listener, from now on; closed at the end."""
        door = self._door(listener)
        self._doors.append(door)
        if self._front is not None and self._engine is not None:
            self._front.start_soon(self._accept, door, self._front, self._engine)

    def stop(self) -> None:
        """Begin the orderly close; serve() returns when it is done."""
        self._stop.set()

    def statistics(self) -> ServerStatistics:
        """The server's figures."""
        return ServerStatistics(
            len(self._control),
            len(self._bulk),
            self._strangers,
            self._refused,
            self._broken,
            {name: committer.group_count for name, committer in self._committers.items()},
            {name: committer.operation_count for name, committer in self._committers.items()},
            {name: committer.pending for name, committer in self._committers.items()},
        )

    async def serve(
        self,
        listeners: Sequence[socket.socket | Listener],
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve connections of the listeners (see sockets.listen; closed at the end) until stop() or cancelled."""
        self._doors += [self._door(listener) for listener in listeners]
        try:
            async with trio.open_nursery() as engine:
                self._engine = engine
                for name in self._committers:
                    engine.start_soon(self._commit, name)
                try:
                    with trio.CancelScope(shield=True):  # a hub that has not quite started would not hear of the end
                        await engine.start(self._run_hub)
                    await self._serve_front(engine, task_status)
                finally:
                    self._engine = self._front = None
                    try:
                        await self._drain()
                    finally:
                        for committer in self._committers.values():
                            committer.stop()
                        self._hub_scope.cancel()
                        engine.cancel_scope.cancel()
        finally:
            for door in self._doors:
                door.close()
            for session in list(self._control):
                session.close()
            self._hub.close()

    def _door(self, listener: socket.socket | Listener) -> Listener:
        return SocketListener(listener, self._ssl_context) if isinstance(listener, socket.socket) else listener

    async def _run_hub(self, task_status: trio.TaskStatus[None]) -> None:
        with self._hub_scope:  # shielded: when serve() is cancelled, the last answers still have to leave
            await self._hub.run(task_status)

    async def _commit(self, name: str) -> None:
        """Run a device's committer to its end."""
        ended = self._ended[name] = trio.Event()
        try:
            await self._committers[name].run()
        finally:
            ended.set()

    async def _look_after(self, name: str) -> None:
        """A device's checkpoints and compaction, until it is removed."""
        if self._housekeeping and name in self._devices:
            with trio.CancelScope() as scope:
                self._scopes[name] = scope
                await keep_house(self._devices[name], self._committers[name])

    async def _serve_front(self, engine: trio.Nursery, task_status: trio.TaskStatus[None]) -> None:
        """Everything that brings new work; ended first."""
        async with trio.open_nursery() as front:
            self._front = front
            for door in self._doors:
                front.start_soon(self._accept, door, front, engine)
            for name in self._devices:
                front.start_soon(self._look_after, name)
            front.start_soon(self._watch)
            task_status.started()
            await self._stop.wait()
            front.cancel_scope.cancel()

    async def _drain(self) -> None:
        """Give what was accepted its time to be committed and answered; then close all connections."""
        for session in self._control:
            session.quiesce()
        await self._until_answered(self._control, self._bulk)
        for session in list(self._control):
            session.close()

    async def _until_answered(self, sessions: Collection[ControlSession], transfers: Collection[BulkSession]) -> None:
        """Until what sessions have accepted is answered and transfers have ended, or drain_s_max is over."""
        with trio.move_on_after(self._settings.drain_s_max) as scope:
            scope.shield = True
            while any(session.unanswered for session in sessions) or any(bulk.busy for bulk in transfers):
                for bulk in transfers:
                    if not bulk.busy:
                        bulk.stop()
                await trio.sleep(0.01)
        for bulk in transfers:
            bulk.stop()

    # ------------------------------------------------------------------------------------------------------- connections

    async def _accept(self, door: Listener, front: trio.Nursery, engine: trio.Nursery) -> None:
        while True:
            await door.wait()
            try:
                while (transport := door.try_accept()) is not None:
                    if self._strangers >= self._settings.strangers_max:
                        self._refused += 1
                        transport.close()
                    else:
                        self._strangers += 1
                        front.start_soon(self._meet, transport, engine)
            except OSError as error:
                # Of one connection that went before it was accepted (ECONNABORTED and its like), or of the process.
                if error.errno in _OUT_OF_RESOURCES:
                    log.warning("accepting connections pauses", error=str(error))
                    await trio.sleep(_ACCEPT_PAUSE_S)

    async def _meet(self, transport: Transport, engine: trio.Nursery) -> None:
        """The handshake with a stranger, and where it leads."""
        opened: Opened | None = None
        try:
            busy = len(self._control) + len(self._bulk) >= self._settings.connections_max
            handshake = ServerHandshake(
                self._key,
                self._uuid_of,
                self._random_bytes(NONCE_BYTES),
                ring_epoch=self._ring_epoch(),
                busy="this server has as many connections as it takes" if busy else "",
                filling=self._is_filling,
            )
            with trio.fail_after(HANDSHAKE_TIMEOUT_S):
                opened = await welcome(transport, handshake)
        except HandshakeError as error:
            self._refused += 1
            log.warning("a client was refused", reason=str(error))
        except (OSError, ProtocolError, trio.TooSlowError) as error:
            self._refused += 1
            log.debug("a handshake failed", reason=repr(error))
        finally:
            self._strangers -= 1
            if opened is None:
                transport.close()
        if opened is not None:
            self._on_peer_epoch(opened.agreed.peer_ring_epoch)
            if self._uuid_of(opened.agreed.device_name) != opened.agreed.device_uuid:  # removed in this moment
                opened.transport.close()
            elif opened.agreed.purpose == Purpose.CONTROL:
                self._start_control(opened, engine)
            else:
                engine.start_soon(self._serve_bulk, opened)

    def _uuid_of(self, name: str) -> bytes | None:
        device = self._devices.get(name)
        return None if device is None else device.uuid

    def _is_filling(self, name: str) -> bool:
        device = self._devices.get(name)
        return device is not None and bool(device.filling)

    def _start_control(self, opened: Opened, engine: trio.Nursery) -> None:
        name = opened.agreed.device_name
        session = ControlSession(
            self._devices[name],
            self._committers[name],
            self._hub,
            opened.transport,
            self._settings,
            engine,
            self._control_lost,
            self._answer_rings,
        )
        self._control.add(session)
        session.start()

    def _answer_rings(self, question: GetRings) -> FoundRings:
        self._on_peer_epoch(question.newest)
        return self._rings(question)

    def _control_lost(self, session: ControlSession, error: Exception) -> None:
        self._control.discard(session)
        self._note_end(error)

    def _note_end(self, error: Exception) -> None:
        if isinstance(error, ProtocolError):
            self._broken += 1
            log.warning("a client broke the protocol", reason=str(error))

    async def _serve_bulk(self, opened: Opened) -> None:
        name = opened.agreed.device_name
        session = BulkSession(
            self._devices[name],
            self._committers[name],
            opened.transport,
            self._settings,
        )
        self._bulk.add(session)
        try:
            with suppress(OSError):
                await session.run()
        except ProtocolError as error:
            self._note_end(error)
        finally:
            self._bulk.discard(session)
            opened.transport.close()

    async def _watch(self) -> None:
        """Close connections whose peer is gone or takes nothing."""
        while True:
            await trio.sleep(_WATCH_S)
            now_s = trio.current_time()
            for session in [session for session in self._control if session.is_dead(now_s)]:
                self._control.discard(session)
                session.close()
