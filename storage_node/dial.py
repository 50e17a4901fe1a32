"""Opening an authenticated connection, from either end: the handshake's bytes carried over a transport."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from typing import NamedTuple

from storage_node.handshake import HANDSHAKE_BYTES_MAX, NONCE_BYTES, Agreed, ClientHandshake, Purpose, ServerHandshake
from storage_node.sockets import connect, parse_address
from storage_node.transport import SocketTransport, TlsTransport, Transport, receive, send_all


class Opened(NamedTuple):
    """A connection on which both ends have proved themselves."""

    transport: Transport
    agreed: Agreed


class Peer(NamedTuple):
    """What a client needs to reach one device."""

    address: str
    device_name: str
    cluster_key: bytes
    device_uuid: bytes
    ssl_context: ssl.SSLContext | None
    """For TCP only: a Unix socket never leaves the machine."""
    ring_epoch: Callable[[], int]
    random_bytes: Callable[[int], bytes]


async def dial(peer: Peer, purpose: Purpose) -> Opened:
    """Connect to a device's server.

    Raises OSError when it cannot be reached, HandshakeError's kinds when the two do not agree, ProtocolError when it is
    something else that listens there. Cancel it to limit its time.
    """
    sock = await connect(peer.address)
    if peer.ssl_context is None or sock.family == socket.AF_UNIX:
        return await prove(SocketTransport(sock), peer, purpose)
    return await prove(TlsTransport(sock, peer.ssl_context, parse_address(peer.address).host), peer, purpose)


async def prove(transport: Transport, peer: Peer, purpose: Purpose) -> Opened:
    """Prove oneself to a server, and have it prove itself. Raises as `dial`; the transport is closed then."""
    try:
        await transport.handshake()
        handshake = ClientHandshake(
            peer.cluster_key,
            peer.device_name,
            purpose,
            peer.random_bytes(NONCE_BYTES),
            ring_epoch=peer.ring_epoch(),
            device_uuid=peer.device_uuid,
        )
        await send_all(transport, handshake.start())
        while handshake.agreed is None:
            data = await receive(transport, HANDSHAKE_BYTES_MAX)
            if not data:
                raise ConnectionResetError("the server closed the connection in the handshake")
            answer = handshake.receive(data)
            if answer:
                await send_all(transport, answer)
        return Opened(transport, handshake.agreed)
    except BaseException:
        transport.close()
        raise


async def welcome(transport: Transport, handshake: ServerHandshake) -> Opened:
    """Let a client prove itself.

    Raises the handshake's `error` after the client was told, OSError, ProtocolError; the transport is closed then. Cancel
    it to limit its time.
    """
    try:
        await transport.handshake()
        while handshake.agreed is None:
            data = await receive(transport, HANDSHAKE_BYTES_MAX)
            if not data:
                raise ConnectionResetError("the client closed the connection in the handshake")
            answer = handshake.receive(data)
            if answer:
                await send_all(transport, answer)
            if handshake.error is not None:
                raise handshake.error
        return Opened(transport, handshake.agreed)
    except BaseException:
        transport.close()
        raise
